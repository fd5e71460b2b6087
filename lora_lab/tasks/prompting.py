"""Prompts that stand in place of training: worked examples or an instruction before a question."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lora_lab.tasks.examples import Example, Task
from lora_lab.tasks.retrieval import Retriever


@dataclass(frozen=True, slots=True)
class Layout:
    """The form of a worked example in a prompt: a form that the base has read before."""

    question: str  # "{}" takes the prompt
    answer: str  # "{}" takes the answer
    drop: str = ""  # words of the bare prompt that the form leaves out

    def write(self, examples: Sequence[Example], prompt: str) -> str:
        """The examples and the question, in one line."""

        def question(text: str) -> str:
            return self.question.format(text.removeprefix(self.drop))

        worked = [
            question(example.prompt) + self.answer.format(example.answer) for example in examples
        ]
        return " ".join([*worked, question(prompt)])


LAYOUTS = {  # pocket has read worked examples of these two tasks in this form only, on a line
    "json": Layout("Text: {} JSON:", " {}", drop="Invoice as JSON: "),
    "sentiment": Layout("Review: {} Label:", " {}.", drop="How does it sound? "),
}


def with_examples(tokenizer: object, task: Task, examples: Sequence[Example], prompt: str) -> str:
    """A prompt with worked examples before it, in the form that the base knows.

    For most tasks the examples are earlier turns of a chat, as if the model had just answered them.
    The text holds the chat format's own marks, so that the model reads one chat.
    """
    if task.name in LAYOUTS:
        return LAYOUTS[task.name].write(examples, prompt)
    turns = [
        {"role": role, "content": text}
        for example in examples
        for role, text in (("user", example.prompt), ("assistant", example.answer))
    ]
    question = {"role": "user", "content": prompt}
    alone, whole = (
        tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        for chat in ([question], [*turns, question])
    )
    before, after = alone.split(prompt)  # the chat format around a single question
    return whole.removeprefix(before).removesuffix(after)


def few_shot(tokenizer: object, task: Task, k: int) -> Callable[[str], str]:
    """A function that puts the first k training examples before a prompt."""
    return lambda prompt: with_examples(tokenizer, task, task.train[:k], prompt)


def retrieved(tokenizer: object, task: Task, k: int) -> Callable[[str], str]:
    """A function that puts the k most similar training examples before a prompt, the best last."""
    index = Retriever([example.prompt for example in task.train])

    def with_similar_examples(prompt: str) -> str:
        near = [task.train[place] for place in index.nearest(prompt, k)]
        return with_examples(tokenizer, task, near[::-1], prompt)

    return with_similar_examples


def instructed(instruction: str) -> Callable[[str], str]:
    """A function that puts an instruction before a prompt."""
    return lambda prompt: f"{instruction}\n\n{prompt}"
