"""How much faster are answers if all prompts begin alike, as with the same worked examples?

smollm2 is asked the same questions with the common beginning read once, and read for each prompt,
in turn. It counts CPU seconds, the least of the rounds. The answers must be equal. Run
`python benchmarks/shared_beginning.py --help`.
"""

import argparse
import time

import torch

from lora_lab.decision.asking import ask_in, ways_to_ask
from lora_lab.models import greedy
from lora_lab.models.bases import load_base
from lora_lab.tasks.loading import load_task

NEVER = 2.0  # with this share, no beginning is read once for all


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    base = load_base("smollm2", dtype="float32")
    task = load_task("home-commands", base)
    questions = task.validation[: options.questions]
    always = greedy.WORTH_SHARING
    print("| way | read for each, s | read once, s | times as fast | answers equal |")
    print("| --- | --- | --- | --- | --- |")
    for way in ways_to_ask(base, task):
        seconds, answers = {NEVER: [], always: []}, {}
        for _ in range(options.rounds):
            for worth in seconds:
                greedy.WORTH_SHARING = worth
                start = time.process_time()
                asked = ask_in(way, base, task, questions, batch=len(questions))
                seconds[worth].append(time.process_time() - start)
                answers[worth] = [answer.given for answer in asked.answers]
        slow, fast = (min(seconds[worth]) for worth in (NEVER, always))
        same = "yes" if answers[NEVER] == answers[always] else "no"
        name = f"{way.name}, {way.choice}" if "examples" in way.choice else way.name
        print(f"| {name} | {slow:.1f} | {fast:.1f} | {slow / fast:.2f} | {same} |", flush=True)


if __name__ == "__main__":
    main()
