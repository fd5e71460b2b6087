"""Predict, then run: an answer, how sure, and why; then the measurement beside it."""

import html
from collections.abc import Callable, Sequence

import ipywidgets as widgets

from lora_lab import plots
from lora_lab.lessons.predictions import Prediction, Question, Value, keep, read_log
from lora_lab.lessons.sharing import share_guess
from lora_lab.widgets import markup
from lora_lab.widgets.boxes import PictureView, labelled, row
from lora_lab.widgets.working_box import WorkingBox

CHOICE_SIZE, NUMBER_SIZE = (500, 250), (500, 160)  # pixels


class Predict(WorkingBox):
    """A question to answer before `measure` may run; then both are drawn, scored and kept.

    Once run, the answer can't be changed. A later answer to the same question, here or in another
    session, is given after the measurement was seen, so only the first answer counts. After `run()`
    and `wait()`, or a click on Run it, `prediction` holds the answer, the measurement and the
    score.

    Args:
        question: the question to be answered.
        measure: called once, in a background thread; returns a measurement for each seed.
    """

    def __init__(self, question: Question, measure: Callable[[], Sequence[Value]]) -> None:
        super().__init__()
        self.question, self.measure = question, measure
        self.prediction: Prediction | None = None
        self._unsent = ""  # why the class did not get the guess
        if question.options:
            pairs = [(question.amount(option), option) for option in question.options]
            self.guess = widgets.RadioButtons(options=pairs, index=None, orientation="horizontal")
            self.guess.layout.width = "max-content"
        else:
            self.guess = labelled(widgets.Text(placeholder="a number"), "Your answer", "13em")
        least = question.blind if question.options else 0.0
        self.confidence = widgets.FloatSlider(
            value=question.blind, min=least, max=1, step=0.01, readout_format=".0%"
        )
        self.confidence.tooltip = "How sure?"
        self.reason = labelled(widgets.Text(placeholder="I think …"), "Why?", "29em")
        self.run_button = widgets.Button(description="Run it", button_style="primary")
        self.summary = widgets.HTML()
        self.picture = PictureView(CHOICE_SIZE[0])
        self.picture.layout.display = "none"
        self.children = self._rows()
        self.run_button.on_click(lambda _: self.run())
        before = read_log().find(question)
        if before is not None:
            self._say(f"You answered this before: {before}. The first answer counts.")

    def _rows(self) -> list[widgets.Widget]:
        answer = [self.guess]
        if self.question.unit and not self.question.options:
            answer.append(widgets.HTML(html.escape(self.question.unit)))
        least = "guess" if self.question.options else "not at all"
        confidence = widgets.HTML(f"How sure? {least}"), self.confidence, widgets.HTML("certain")
        return [
            widgets.HTML(markup.title(self.question.text)),
            row(*answer),
            row(*confidence),
            row(self.reason, self.run_button),
            widgets.HTML(markup.faint(self.question.scoring)),
            self.state,
            self.picture,
            self.summary,
        ]

    def run(self) -> None:
        """Measure in the background, as a click on Run it does, if there is an answer.

        If the answer does not fit the question, the line of state says so.
        """
        if self.run_button.disabled:
            return
        try:
            guess = self._guess()
        except ValueError as error:
            self._say(f"{error}.")
            return
        self._freeze(True)
        if read_log().find(self.question) is None:  # a later answer knows the measurement
            self._unsent = share_guess(self.question, guess, self.confidence.value)
        self._say("measuring …")
        self._work.submit("measure", lambda: self._measure(guess))

    def __repr__(self) -> str:
        return f"Predict: {self.question.text}"

    def _guess(self) -> Value:
        """The answer: an option, or a number.

        Raises:
            ValueError: if there is no answer, or it does not fit the question.
        """
        answer = self.guess.value
        if answer is None or answer == "":
            raise ValueError("there is no answer yet; give one, then run it")
        if self.question.options:
            return answer
        try:
            number = float(answer.replace(",", "").replace("_", "").strip(" %"))
        except ValueError:
            raise ValueError(f"{answer!r} is not a number; give one, such as 12.5") from None
        return self.question.check(number)

    def _measure(self, guess: Value) -> None:
        measured = tuple(self.measure())
        self.prediction = Prediction(
            self.question, guess, measured, self.confidence.value, self.reason.value
        )
        size = CHOICE_SIZE if self.question.options else NUMBER_SIZE
        self.picture.show(plots.picture(plots.draw_prediction, self.prediction, size=size))
        self.picture.layout.display = None
        self._say(f"{self.prediction}")
        keep(self.prediction)
        unsent = f"; {self._unsent}" if self._unsent else ""
        self.summary.value = markup.faint(f"{read_log().summary}{unsent}")

    def _show_error(self, error: Exception) -> None:
        super()._show_error(error)
        self._freeze(self.prediction is not None)  # before the answer was seen, it may be changed

    def _freeze(self, frozen: bool) -> None:
        for control in (self.guess, self.confidence, self.reason, self.run_button):
            control.disabled = frozen
