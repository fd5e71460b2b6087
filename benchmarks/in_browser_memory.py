"""Does the playground's memory stay flat over many runs in one tab?

Train is clicked again and again in Chromium, with another seed each time. The memory of the tab's
process is read after garbage collection. No run is kept, so each run may take the memory of the run
before it.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import psutil

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from lora_lab.web.build import build_file
from playground import chromium
from playground_page import Playground

LINK = "task=new-facts&n=20&steps=2&hide=guess"


def memory_of_tab(page):
    """MB of the tab's private memory, after garbage collection."""
    for place in (page, *page.workers):
        place.evaluate("gc()")
    renderers = [
        process.memory_full_info().uss
        for process in psutil.Process().children(recursive=True)
        if "--type=renderer" in process.cmdline()
    ]
    return max(renderers) / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--every", type=int, default=20, help="runs between two readings")
    options = parser.parse_args()
    names = filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser")))
    with (
        tempfile.TemporaryDirectory() as place,
        chromium(next(names), "--js-flags=--expose-gc") as browser,
    ):
        file = Path(place) / "playground.html"
        build_file(file)
        playground = Playground(browser, file, LINK)
        print(f"opened: {memory_of_tab(playground.page):.0f} MB", flush=True)
        for run in range(1, options.runs + 1):
            playground.set("seed", run)
            playground.train()
            if run % options.every == 0 or run == 1:
                print(f"{run} runs: {memory_of_tab(playground.page):.0f} MB", flush=True)
        assert playground.complaints == []


if __name__ == "__main__":
    main()
