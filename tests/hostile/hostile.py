"""Makes broken content from sound content, and checks that a call ends in our own words."""

import traceback
from pathlib import Path

from hypothesis import strategies as st

import lora_lab

OURS = (ValueError, TypeError, FileNotFoundError, PermissionError, NotADirectoryError)
PACKAGE = str(Path(lora_lab.__file__).parent)
PIECES = [  # pieces that are put into a file, or over a part of it
    *(b"", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1b[2J\x1b]0;x\x07", b"\r", b"\n\n\n", b"\t"),
    *(
        b'"',
        b'""',
        b"'",
        b",",
        b";",
        b"|",
        b"{",
        b"}}",
        b"[",
        b"]]",
        b":",
        b"-",
        b"#",
        b"&a",
        b"*a",
    ),
    *(b"<script>alert(1)</script>", b"&lt;", b"../../etc/passwd", b"C:\\CON", b"%s%n{0}", b"$(id)"),
    *(b"null", b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"true", b"0x1F", b"2020-99-99"),
    *(b"\\ud800", b"\\u0000", "\u202eabc\u2066".encode(), "😀é".encode(), "é".encode("cp1252")),
    *(b"!!python/object/apply:os.system ['true']", b"<<: *x", b"{% for %}", b"[" * 3000, b"\x80"),
]
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["put in", "put over", "cut off", "cut out", "twice"]),
        st.integers(0, 2**20),
        st.sampled_from(PIECES),
    ),
    min_size=1,
    max_size=5,
)


def damaged(content: bytes, edits: list[tuple[str, int, bytes]]) -> bytes:
    """The content after each edit: its kind, its place, and the piece that it puts there."""
    for kind, number, piece in edits:
        place = number % (len(content) + 1)
        end = place + number % 97
        if kind == "put in":
            content = content[:place] + piece + content[place:]
        elif kind == "put over":
            content = content[:place] + piece + content[place + len(piece) :]
        elif kind == "cut off":
            content = content[:place]
        elif kind == "cut out":
            content = content[:place] + content[end:]
        else:
            content = content[:end] + content[place:]
    return content


def refusal_of(call, *given) -> str | None:
    """The words in which a call refuses its arguments; None: it takes them.

    An error of ours has a usual type, not a subclass such as UnicodeDecodeError. It is raised in
    our own package, and says after a semicolon what would fit.
    """
    error = None
    try:
        call(*given)
    except Exception as raised:  # noqa: BLE001 - whatever is raised is looked at
        error = raised
    if error is None:
        return None
    words = str(error)
    where = traceback.extract_tb(error.__traceback__)[-1].filename
    assert type(error) in OURS, f"{type(error).__name__}: {words[:300]}"
    assert where.startswith(PACKAGE), f"raised in {where}: {words[:300]}"
    assert ";" in words or "give" in words, words[:300]
    return words
