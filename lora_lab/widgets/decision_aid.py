"""The decision aid: one's own numbers in, a recommendation out. The rule is in deciding.py."""

import html

import ipywidgets as widgets

from lora_lab.lessons.deciding import GOALS, Advice, Situation, advise
from lora_lab.widgets import words
from lora_lab.widgets.lab_face import LabBox, labelled

QUESTIONS = {  # a field of Situation: what is asked
    "goal": "What is it for?",
    "needed": "Share of answers that must be right (0.9 is 90 %)",
    "prompt_right": "Right answers of your best prompt, with examples …",
    "prompt_asked": "… of how many test questions (0: not tried)",
    "retrieval_right": "Right answers with notes or examples searched for …",
    "retrieval_asked": "… of how many test questions (0: not tried)",
    "examples": "Good examples that you could train on",
    "changes_per_year": "How often a year does a right answer change?",
    "days_to_renew": "Days to make new examples, train and test again",
    "answers_per_day": "Answers a day",
    "tokens_saved": "Tokens of a prompt that an adapter would spare",
    "price": "Price of a million such tokens",
    "setup_cost": "Cost of one fine-tune, with examples and tests",
}
APPLIES = {True: "yes", False: "no", None: "not measured"}


class DecisionAid(LabBox):
    """A field for each question, and what the rule says to the answers, anew at each change.

    `situation` holds the answers and `advice` what it says; both are None while an answer cannot
    be.

    Args:
        situation: the answers to begin with.
    """

    def __init__(self, situation: Situation) -> None:
        self.situation: Situation | None = situation
        self.advice: Advice | None = None
        self.fields: dict[str, widgets.Widget] = {}
        rows = []
        for field, question in QUESTIONS.items():
            value = getattr(situation, field)
            if field == "goal":
                goals = [(said, goal) for goal, said in GOALS.items()]
                control = labelled(widgets.Dropdown(options=goals, value=value), question, "53em")
            else:
                control = labelled(widgets.Text(f"{value:g}"), question, "37em")
            control.style.description_width = "30em"
            control.observe(lambda _: self._show(), names="value")
            self.fields[field] = control
            rows.append(control)
        self.said = widgets.HTML(layout={"flex": "1 1 400px", "min_width": "320px"})
        self.said.add_class("lora-lab-said")
        asked = widgets.VBox(rows, layout={"flex": "1 1 500px", "min_width": "320px"})
        both = widgets.HBox(
            [asked, self.said],
            layout={"flex_flow": "row wrap", "align_items": "flex-start", "grid_gap": "16px"},
        )
        super().__init__([widgets.HTML(words.title("Should I fine-tune?")), both])
        self._show()

    def _read(self) -> Situation:
        """The answers as they stand.

        Raises:
            ValueError: for one that is no number, or that cannot be.
        """
        facts: dict[str, object] = {"goal": self.fields["goal"].value}
        for field, control in self.fields.items():
            if field != "goal":
                facts[field] = _number(QUESTIONS[field], control.value)
        return Situation(**facts)

    def _show(self) -> None:
        try:
            self.situation = self._read()
        except ValueError as error:
            self.situation = self.advice = None
            self.said.value = f'<span class="lora-lab-wrong">{html.escape(str(error))}</span>'
            return
        self.advice = advise(self.situation)
        self.said.value = _in_html(self.advice)

    def __repr__(self) -> str:
        return f"DecisionAid: {len(QUESTIONS)} questions"


def _number(question: str, given: str) -> float:
    """What stands in a field: a number, whole if it is one. Commas between digits are left out."""
    text = given.replace(",", "").strip()
    try:
        number = float(text)
    except ValueError:
        raise ValueError(
            f"“{question}”: {given!r} is not a number; give one, such as 250"
        ) from None
    return int(number) if number.is_integer() else number


def _in_html(advice: Advice) -> str:
    """The recommendation, the nine reasons, the evidence, and what would change it."""
    rows = "".join(
        f"<tr><td>{'for' if one.speaks_for else 'against'}</td><td>{html.escape(one.reason)}</td>"
        f"<td>{APPLIES[one.applies]}</td></tr>"
        for one in advice.reasons
    )
    lists = {"Evidence": advice.evidence, "It would change at": map(str, advice.changes)}
    folded = "".join(
        f"<b>{title}</b><ul>{''.join(f'<li>{html.escape(one)}</li>' for one in lines)}</ul>"
        for title, lines in lists.items()
    )
    return (
        f"<b>{html.escape(advice.recommendation)}</b>: {html.escape(advice.why)}"
        f'<table class="lora-lab-answers"><tbody>{rows}</tbody></table>{folded}'
    )
