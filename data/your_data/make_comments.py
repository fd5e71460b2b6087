"""Make comments.csv: what visitors of a culture house wrote, and which kind of comment it is.

The comments are invented, in words that pocket knows. A form numbers each visit, and short comments
recur with other numbers: these are near-twins. The flaws are those that a file from work has;
`lora-lab check` finds them. The script writes the same file each time.
"""

import csv
import random
from pathlib import Path

from lora_lab.tasks.sentences import review

FILE = Path(__file__).with_name("comments.csv")
KINDS = {"good": "praise", "bad": "blame", "mixed": "mixed"}
ONCE, OFTEN, COPIES = 300, 110, 3  # comments that stand there once; that recur, and how often
LONG = "I will tell it from the beginning, since nobody has heard the whole story so far. " * 20


def comments(rng: random.Random) -> list[tuple[str, str]]:
    """Numbered visits with their comments: some written once, some by many visitors."""
    texts: dict[str, str] = {}
    while len(texts) < ONCE + OFTEN:
        sound = rng.choice([*KINDS])
        texts.setdefault(review(rng, sound), KINDS[sound])
    rows = [
        row for place, row in enumerate(texts.items()) for _ in range(1 if place < ONCE else COPIES)
    ]
    rng.shuffle(rows)
    numbers = rng.sample(range(1000, 10_000), len(rows))
    return [
        (f"Visit {number}. {text}", kind)
        for number, (text, kind) in zip(numbers, rows, strict=True)
    ]


def flaws(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Rows such as a file from work has among the others."""
    other = {"praise": "blame", "blame": "praise", "mixed": "praise"}
    twice = [(text, other[kind]) for text, kind in (rows[20], rows[31])]
    return [
        *rows[:7],  # repeated
        *twice,  # one comment, two kinds
        ("Visit 2110. The cast was late.", "n/a"),
        ("Visit 2111. The museum was extremely inspiring.", "Praise"),
        ("Visit 2112. The garden was charming and the tour was fun.", "Praise"),
        ("Visit 2113. The train was slow.", ""),
        ("Visit 2114. The food was stale. Write to mira.holt@post.test, please.", "blame"),
        ("Visit 2115. The staff was lovely. Call me at (555) 555-0143.", "praise"),
        ("Visit 2116. The cafÃ© was delightful.", "praise"),
        (f"Visit 2117. {LONG}The room was dirty.", "blame"),
    ]


def main() -> None:
    """Write the file."""
    rng = random.Random(14)
    rows = comments(rng)
    rows += flaws(rows)
    rng.shuffle(rows)
    with FILE.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("comment", "kind"), *rows])


if __name__ == "__main__":
    main()
