"""A class's board: everybody's guesses before the reveal, and the ranking of "five minutes"."""

import html
from collections.abc import Sequence
from pathlib import Path

import ipywidgets as widgets

from lora_lab import plots
from lora_lab.lessons.predictions import read_log
from lora_lab.lessons.sharing import ClassAttempt, SharedClass, read_class
from lora_lab.widgets import markup
from lora_lab.widgets.boxes import LabBox, PictureView, action, labelled, row
from lora_lab.wording import counted, fine_percent

SIZE = (560, 260)  # pixels
RANKED = 10  # learners of a game


class Board(LabBox):
    """The guesses of a class at a question, and its best attempts at each game.

    Learners take part with `lab.share(folder, name)`. *Look again* reads what has come since.
    *Reveal* draws what this machine measured: answer the question here first.

    Args:
        folder: the shared folder.

    Raises:
        NotADirectoryError: if there is no such folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.shared: SharedClass = read_class(folder)
        self.question = labelled(widgets.Dropdown(options=[]), "Question", "30em")
        self.look_button = action("Look again")
        self.reveal = widgets.ToggleButton(description="Reveal")
        self.state, self.ranking = widgets.HTML(), widgets.HTML()
        self.picture = PictureView(SIZE[0])
        super().__init__(
            [
                widgets.HTML(markup.title("What does the class think?")),
                row(self.question, self.reveal, self.look_button),
                self.state,
                self.picture,
                self.ranking,
            ]
        )
        self.look_button.on_click(lambda _: self.look())
        self.question.observe(lambda _: self._hide(), names="value")
        self.reveal.observe(lambda _: self._show(), names="value")
        self.look()

    def look(self) -> None:
        """Read the folder again, and show what is there."""
        try:
            self.shared = read_class(self.folder)
        except OSError as error:
            self.state.value = markup.error_text(error)
            return
        chosen = self.question.value
        known = {question.text: id for id, question in self.shared.questions().items()}
        self.question.options = [*known.items()]
        if known:  # the question that was shown, else the latest
            self.question.value = chosen if chosen in known.values() else [*known.values()][-1]
        self._show()

    def _hide(self) -> None:
        self.reveal.value = False
        self._show()

    def _show(self) -> None:
        guesses = self.shared.guesses_at(self.question.value or "")
        self.ranking.value = _rankings(self.shared.attempts)
        self.picture.layout.display = None if guesses else "none"
        names = {entry.name for entry in (*self.shared.guesses, *self.shared.attempts)}
        words = f"{counted(len(names), 'learner')} so far"
        if self.shared.unreadable:
            words += f"; {counted(self.shared.unreadable, 'line')} can't be read"
        if guesses:
            question = guesses[0].question
            own = read_log().find(question)
            measured = own.measured if self.reveal.value and own is not None else ()
            if self.reveal.value and own is None:
                words += "; not measured on this machine yet: answer the question in its lesson"
            values = [guess.guess for guess in guesses]
            drawn = plots.picture(plots.draw_guesses, question, values, measured, size=SIZE)
            self.picture.show(drawn)
            words += f", {counted(len(guesses), 'answer')} to this question"
        self.state.value = html.escape(f"{words}.")

    def __repr__(self) -> str:
        return f"Board: {self.folder.name}"


def _rankings(attempts: Sequence[ClassAttempt]) -> str:
    """For each game a table: the learners' best attempts, the best first."""
    games = dict.fromkeys(entry.attempt.game for entry in attempts)
    return "".join(_ranking(game, attempts) for game in games)


def _ranking(game: str, attempts: Sequence[ClassAttempt]) -> str:
    of_game = [entry for entry in attempts if entry.attempt.game == game][:RANKED]
    rows = [
        (
            str(place),
            entry.name,
            *map(fine_percent, (entry.attempt.score, entry.attempt.new, entry.attempt.old)),
            f"{entry.attempt.seconds:.0f}",
        )
        for place, entry in enumerate(of_game, start=1)
    ]
    table = markup.table("lora-lab-best", ("", "learner", "score", "new", "old", "seconds"), rows)
    return f"<b>{html.escape(game)}</b>{table}"


def board(folder: str | Path) -> Board:
    """The board of a class, for the instructor's screen: guesses, then the reveal; rankings.

    Args:
        folder: the folder into which learners share (`lab.share(folder, name)`).

    Raises:
        NotADirectoryError: if there is no such folder.
    """
    return Board(folder)
