"""A batch as strips: the controls choose what is drawn."""

import pytest

from lora_lab.lessons.way_in import encoded_whole
from lora_lab.widgets.token_strips import TokenStrips
from tiny import letters_task, tiny_base


@pytest.fixture(scope="module")
def rows():
    return encoded_whole(tiny_base(), letters_task())[:4]


def test_the_button_and_the_slider_choose_what_is_drawn(rows):
    strips = TokenStrips(rows, max_length=7)
    assert strips.picture.title.startswith("Padded to the longest: 4 rows")
    strips.way.value = "cut"
    assert strips.picture.title.startswith("Cut at 7: 4 rows, 28 places")
    assert "4 without an end token" in strips.picture.title
    assert "4 without an end token" in strips.still("packed", 7).title
    strips.max_length.value = 2 * max(len(row.input_ids) for row in rows)
    strips.way.value = "packed"
    packed = strips.picture
    assert packed.title.startswith(f"Packed into rows of {strips.max_length.value}: ")
    assert strips.still("packed", strips.max_length.value).alt == packed.alt
    assert repr(strips) == f"TokenStrips: {packed.alt}"


def test_no_examples_are_refused():
    with pytest.raises(ValueError, match="no example to draw; give one or more"):
        TokenStrips([], 10)
