"""A base's chat template tried once, within limits: it may loop for ever, or fill the memory."""

import sys
from types import FrameType

from lora_lab.machine.resources import at_most_more

MOST_LINES = 1_000_000  # lines that a template may run for a question and its answer; 100 is usual
MOST_MEMORY = 2**30  # bytes for the same; a usual template takes less than a millionth
WHERE = "<template>"  # the file that Jinja names for code that was made of a template


class Endless(Exception):
    """A template ran more than `MOST_LINES` lines."""


def check_template(tokenizer: object, name: str) -> None:
    """Refuse a chat template that does not write a question and its answer.

    transformers runs a template without a time limit, and a thread that runs it can't be stopped.
    So the hook that debuggers use counts its lines here.

    Args:
        tokenizer: with a chat template.
        name: of the base, for the error.

    Raises:
        ValueError: if it stops with an error, doesn't end, or takes too much memory.
    """
    from jinja2 import TemplateError

    advice = "give a tokenizer with the template of the model's publisher"
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    count = 0

    def on_line(frame: FrameType, event: str, argument: object) -> object:
        nonlocal count
        count += 1
        if count > MOST_LINES:
            raise Endless
        return on_line

    def on_call(frame: FrameType, event: str, argument: object) -> object:
        return on_line if frame.f_code.co_filename == WHERE else None

    before = sys.gettrace()
    sys.settrace(on_call)
    try:
        with at_most_more(MOST_MEMORY):
            tokenizer.apply_chat_template(chat[:1], add_generation_prompt=True, tokenize=False)
            tokenizer.apply_chat_template(chat, tokenize=False)
    except Endless:
        raise ValueError(
            f"the chat template of {name} does not end: it ran {MOST_LINES:,} lines for one short "
            f"question; {advice}"
        ) from None
    except MemoryError:
        raise ValueError(
            f"the chat template of {name} fills the memory: it took more than "
            f"{MOST_MEMORY / 2**30:g} GiB for one short question; {advice}"
        ) from None
    except (TemplateError, TypeError, LookupError, ArithmeticError, RecursionError) as error:
        raise ValueError(
            f"the chat template of {name} can't write a question and its answer ({error}); {advice}"
        ) from error
    finally:
        sys.settrace(before)
