"""The decision aid: your own numbers in, a recommendation out. The rule is in deciding.py."""

import html

import ipywidgets as widgets

from lora_lab.lessons.deciding import GOALS, Advice, Situation, advise
from lora_lab.widgets import markup
from lora_lab.widgets.boxes import LabBox, labelled

QUESTIONS = {  # by the field of Situation that holds the answer
    "goal": "What is it for?",
    "needed": "Share of answers that must be right (0.9 is 90 %)",
    "prompt_right": "Right answers of your best prompt, with examples …",
    "prompt_asked": "… of how many test questions (0: not tried)",
    "retrieval_right": "Right answers with notes or examples searched for …",
    "retrieval_asked": "… of how many test questions (0: not tried)",
    "lora_right": "Right answers of an adapter, if you have trained one …",
    "lora_asked": "… of how many test questions (0: not tried)",
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
    """A field for each question, and the rule's recommendation, which follows each change.

    `situation` holds the answers and `advice` the recommendation; both are None while an answer is
    not possible.

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
                goals = [(label, goal) for goal, label in GOALS.items()]
                control = labelled(widgets.Dropdown(options=goals, value=value), question, "53em")
            else:
                control = labelled(widgets.Text(f"{value:g}"), question, "37em")
            control.style.description_width = "30em"
            control.observe(lambda _: self._show(), names="value")
            self.fields[field] = control
            rows.append(control)
        self.said = widgets.HTML(layout={"flex": "1 1 400px", "min_width": "320px"})
        self.said.add_class("lora-lab-said")
        questions = widgets.VBox(rows, layout={"flex": "1 1 500px", "min_width": "320px"})
        both = widgets.HBox(
            [questions, self.said],
            layout={"flex_flow": "row wrap", "align_items": "flex-start", "grid_gap": "16px"},
        )
        super().__init__([widgets.HTML(markup.title("Should I fine-tune?")), both])
        self._show()

    def _read_answers(self) -> Situation:
        """The answers as they stand.

        Raises:
            ValueError: for an answer that is not a number, or not possible.
        """
        facts: dict[str, object] = {"goal": self.fields["goal"].value}
        for field, control in self.fields.items():
            if field != "goal":
                facts[field] = _read_number(QUESTIONS[field], control.value)
        return Situation(**facts)

    def _show(self) -> None:
        try:
            self.situation = self._read_answers()
        except ValueError as error:
            self.situation = self.advice = None
            self.said.value = markup.in_red(str(error))
            return
        self.advice = advise(self.situation)
        self.said.value = _advice_text(self.advice)

    def __repr__(self) -> str:
        return f"DecisionAid: {len(QUESTIONS)} questions"


def _read_number(question: str, text: str) -> float:
    """The number in a field; an int if it is whole. Commas between digits are left out."""
    try:
        number = float(text.replace(",", "").strip())
    except ValueError:
        raise ValueError(f"“{question}”: {text!r} is not a number; give one, such as 250") from None
    return int(number) if number.is_integer() else number


def _advice_text(advice: Advice) -> str:
    """The recommendation, the nine reasons, the evidence, and what would change it."""
    rows = [
        ("for" if reason.speaks_for else "against", reason.reason, APPLIES[reason.applies])
        for reason in advice.reasons
    ]
    lists = {"Evidence": advice.evidence, "It would change at": [*map(str, advice.changes)]}
    folded = "".join(f"<b>{title}</b>{markup.bullets(lines)}" for title, lines in lists.items())
    return (
        f"<b>{html.escape(advice.recommendation)}</b>: {html.escape(advice.why)}"
        f"{markup.table('lora-lab-answers', (), rows)}{folded}"
    )
