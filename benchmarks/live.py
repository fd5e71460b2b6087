"""How soon does the live lab show a loss after a click, how often, and at what cost?

Plain training and the lab train the same run, in turn. The cost is counted in CPU seconds, which
another program's load hardly changes; the rate is in wall time. There is no browser here, so the
time to send and to paint is not included. Run `python benchmarks/live.py --help`.
"""

import argparse
import statistics
import time

import lora_lab as lab
from lora_lab.widgets.live_lab import LiveLab


def plain(base, task, recipe):
    """CPU seconds of the training alone."""
    begun = time.process_time()
    list(lab.train(base, task, recipe))
    return time.process_time() - begun


class Watched(LiveLab):
    """Notes the times of new pictures and state lines, and the CPU seconds of training."""

    def _follow(self, training):
        self.pictures, self.lines = [], []
        note = {self.loss_picture: self.pictures, self.state: self.lines}
        for shown, moments in note.items():
            shown.observe(lambda _, to=moments: to.append(time.perf_counter()), names="value")
        begun = time.process_time()
        self.after_click = None  # seconds from the click to the first picture with a loss in it
        self.loss_picture.observe(lambda _: self._note_first(training), names="value")
        super()._follow(training)
        self.cpu = time.process_time() - begun
        for shown in note:
            shown.unobserve_all("value")

    def _note_first(self, training):
        if self.after_click is None and training.records:
            self.after_click = time.perf_counter() - self.clicked


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="pocket")
    parser.add_argument("--task", default="new-facts")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3, help="how often each trains, in turn")
    options = parser.parse_args()
    base = lab.load_base(options.base, device="cpu", dtype="float32")
    live = Watched(base, options.task, steps=options.steps, questions=1)
    recipe = live.recipe
    ratios = []
    for number in range(1, options.rounds + 1):
        alone = plain(base, live._part, recipe)
        live.clicked = time.perf_counter()
        live.train_button.click()
        live.wait()
        ratios.append(live.cpu / alone)
        gaps = [
            after - before for before, after in zip(live.pictures, live.pictures[1:], strict=False)
        ]
        print(
            f"round {number}: the first loss point {live.after_click:.2f} s after the click; "
            f"{len(live.pictures) / live.panel.seconds:.1f} pictures and "
            f"{len(live.lines) / live.panel.seconds:.1f} lines a second; between two pictures "
            f"{statistics.median(gaps):.2f} s, at most {max(gaps):.2f} s "
            f"(a step: {live.panel.seconds / options.steps:.2f} s); "
            f"CPU time {ratios[-1]:.2f} times that of training alone"
        )
    print(
        f"{base.name}, {live.task.name}: {statistics.median(ratios):.2f} times the CPU time "
        f"({min(ratios):.2f} to {max(ratios):.2f} over {options.rounds} rounds)"
    )


if __name__ == "__main__":
    main()
