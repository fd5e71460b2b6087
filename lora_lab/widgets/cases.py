"""Cases to decide: each with its choices and how sure; then what is right, why, and the score."""

import html
from collections.abc import Sequence

import ipywidgets as widgets

from lora_lab.lessons.cases import SURE, Case, lesson_cases
from lora_lab.lessons.predictions import Prediction, keep, read_log
from lora_lab.widgets import markup
from lora_lab.widgets.boxes import LabBox, action, row
from lora_lab.wording import counted


class CaseView(LabBox):
    """A case: choose, then press how sure you are. The first answer is kept in the log and stands.

    `prediction` holds the answer and its score, once it was given.
    """

    def __init__(self, number: int, case: Case) -> None:
        self.case = case
        self.prediction: Prediction | None = None
        self.choice = widgets.RadioButtons(options=case.choices, index=None)
        self.choice.layout.width = "auto"
        self.choice.add_class("lora-lab-choices")
        self.buttons = {sure: action(sure) for sure in SURE}
        for sure, button in self.buttons.items():
            button.on_click(lambda _, sure=sure: self.answer(sure))
        self.verdict = widgets.HTML()
        words = f"<b>{number}.</b> {html.escape(case.text)}"
        sure = row(widgets.HTML("How sure are you?"), *self.buttons.values())
        super().__init__([widgets.HTML(words), self.choice, sure, self.verdict])

    def answer(self, sure: str) -> None:
        """Take the choice as the answer, as a click on a button does; keep it, and judge it.

        Args:
            sure: "a guess", "fairly sure" or "certain".
        """
        if self.choice.value is None:
            self.verdict.value = "There is no choice yet. Choose one, then say how sure you are."
            return
        self.prediction = self.case.answered(self.choice.value, sure)
        before = read_log().find(self.case.question)
        keep(self.prediction)
        self.choice.disabled = True
        for button in self.buttons.values():
            button.disabled = True
        self.verdict.value = self._verdict(before)

    def _verdict(self, before: Prediction | None) -> str:
        """Right or wrong, why, where to read on, and the score."""
        right = self.prediction.right == 1
        said = "Right." if right else markup.in_red("Not right.")
        line = f"<b>{said}</b> {_why(self.case)}"
        if not right:
            line = f"<b>{said}</b> It is: “{html.escape(self.case.right)}”. {_why(self.case)}"
        score = f"score {self.prediction.score:.2f} (0 is best, 2 worst)"
        if before is not None:
            score = (
                f"you answered this before, with a score of {before.score:.2f}: the first counts"
            )
        return f"{line}<br>{markup.faint(score)}"


class CasesView(LabBox):
    """Several cases under a heading. `views` holds a view for each case.

    Without a kernel the page shows the words, with the answers folded.
    """

    def __init__(self, heading: str, cases: Sequence[Case]) -> None:
        self.heading, self.cases = heading, tuple(cases)
        self.views = [CaseView(number, case) for number, case in enumerate(self.cases, start=1)]
        super().__init__([widgets.HTML(markup.title(heading)), *self.views])

    def __repr__(self) -> str:
        lines = [f"{self.heading} ({counted(len(self.cases), 'case')})"]
        for number, case in enumerate(self.cases, start=1):
            lines += [f"{number}. {case.text}", *(f"   - {choice}" for choice in case.choices)]
        return "\n".join(lines)

    def _repr_mimebundle_(self, **options: object) -> dict[str, object]:
        """The widget; and its words for readers without a kernel."""
        return super()._repr_mimebundle_(**options) | {"text/html": self._still()}

    def _still(self) -> str:
        """The cases as HTML, each answer behind a click."""
        items = [
            f"<li>{html.escape(case.text)}{markup.bullets(case.choices)}"
            "<details><summary>Answer</summary>"
            f"“{html.escape(case.right)}”. {_why(case)}</details></li>"
            for case in self.cases
        ]
        return f"<h4>{html.escape(self.heading)}</h4><ol>{''.join(items)}</ol>"


def questions(lesson: str) -> CasesView:
    """Questions on earlier lessons that a lesson builds on, to be answered before it.

    Args:
        lesson: its number as in the file's name: "07".

    Raises:
        ValueError: if the lesson has no cases.
    """
    return CasesView("Two questions first", lesson_cases(lesson).questions)


def decisions(lesson: str) -> CasesView:
    """Decisions from work that a lesson prepares for, to be taken after it.

    Args:
        lesson: its number as in the file's name: "07".

    Raises:
        ValueError: if the lesson has no cases.
    """
    return CasesView("Three decisions from work", lesson_cases(lesson).decisions)


def _why(case: Case) -> str:
    """The reason as HTML, with the lesson or the page to read on."""
    reason = html.escape(case.because)
    if case.lesson:
        reason += f" See lesson {int(case.lesson)}."
    if case.source:
        link = html.escape(case.source)
        reason += f' (<a href="{link}" target="_blank" rel="noopener">where it comes from</a>)'
    return reason
