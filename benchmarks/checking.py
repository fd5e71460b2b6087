"""How many seconds and how much memory does `check_data` take for a large file?

Each file is written, then checked in a process of its own, which counts its CPU seconds (another
program's load hardly changes them) and its peak memory. It also checks that no torch is loaded. Run
`python benchmarks/checking.py --help`.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

CODE = """
import resource, sys
from lora_lab.review.data import check_data
review = check_data(sys.argv[1])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024, 2**20)[sys.platform == "darwin"]
print(f"{peak:.0f} MB at the peak; {review.verdict}", "torch is loaded" * ("torch" in sys.modules))
"""
WORDS = (
    "where when order invoice device start after update please tell me how many days the new shop "
    "battery password change address parcel late broken screen return refund size colour gift card"
).split()
GOALS = {"seconds": 5, "MB": 300}  # of 100,000 rows


NAMES = "Anna Bert Clara David Emma Felix Grace Hugo Ida Jonas Karl Lena".split()


def sentence(generator, words, odd):
    text = " ".join(generator.choices(WORDS, k=generator.randint(words // 2, words * 3 // 2)))
    return f"{text.capitalize()}{generator.choice(odd)} {generator.randint(1, 10**6)}."


def mail(generator, words, odd):
    """A sentence full of what is searched for: long numbers, dates, names, addresses, phones."""
    text = generator.choices(WORDS, k=generator.randint(words // 2, words * 3 // 2))
    name, day = generator.choice(NAMES), generator.randint(1, 28)
    text[2:2] = [name, f"order {generator.randint(10**9, 10**10)} of 2024-05-{day:02} 10:{day}:00"]
    if generator.random() < 0.2:
        text.append(f"{name.lower()}@mail{day}.com or +49 170 {generator.randint(10**6, 10**7)}")
    return " ".join(text)


def write(path, rows, kind, odd, sentence=sentence):
    generator = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        if kind == "csv":
            file.write("question,answer\n")
        for _ in range(rows):
            asked, given = sentence(generator, 20, odd), sentence(generator, 14, odd)
            if kind == "csv":
                file.write(f'"{asked}","{given}"\n')
            else:
                turns = [("user", asked), ("assistant", given)]
                record = [{"role": role, "content": text} for role, text in turns]
                file.write(json.dumps({"messages": record}, ensure_ascii=False) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    options = parser.parse_args()
    cases = {
        "csv, ASCII": ("csv", [""]),
        "csv, with emoji": ("csv", ["", " é", " 🙂"]),
        "chat, jsonl": ("jsonl", [""]),
        "csv, mails": ("csv", [""], mail),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, (kind, *how) in cases.items():
            path = Path(folder) / f"rows.{kind}"
            write(path, options.rows, kind, *how)
            process = subprocess.Popen(
                [sys.executable, "-c", CODE, path], stdout=subprocess.PIPE, text=True
            )
            said = process.stdout.read().strip()
            _, _, used = os.wait4(process.pid, 0)
            size = path.stat().st_size / 1e6
            print(f"{name:<17}{size:3.0f} MB{used.ru_utime + used.ru_stime:6.1f} s CPU; {said}")
    print(f"For 100,000 rows: at most {GOALS['seconds']} s and {GOALS['MB']} MB.")


if __name__ == "__main__":
    main()
