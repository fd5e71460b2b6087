"""How long a page takes to answer inputs: in wall time, and in CPU time of its main thread."""

import json
from pathlib import Path

from playwright.sync_api import Page

# An input's time, by the browser's Event Timing: from the click or key to the next frame.
PROBE = """() => {
    globalThis.waits = [];
    const note = list => waits.push(...list.getEntries()
        .filter(entry => entry.interactionId).map(entry => entry.duration));
    new PerformanceObserver(note).observe({ type: "event", durationThreshold: 16 });
}"""
TASK = "ThreadControllerImpl::RunTask"


def give_inputs(page: Page, until: str) -> int:
    """Click, type and point in turn, until the page's state says `until`; returns the count."""
    given = 0
    state = page.locator("#state")
    while not state.inner_text().startswith(until):
        page.click("#log")
        page.focus("#setting-lora_alpha")
        page.keyboard.press("End")
        page.keyboard.type("1")
        page.keyboard.press("Backspace")
        page.focus("#own-prompt")
        page.keyboard.type("who?")
        page.hover("#film canvas")
        given += 7
        page.wait_for_timeout(100)
    return given


def cpu_of_tasks(trace: Path) -> list[float]:
    """Milliseconds of CPU of each task of the page's main thread, from a trace of Chromium.

    Unlike the clock, they hardly depend on what else runs on the machine.
    """
    events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    main = {
        (event["pid"], event["tid"])
        for event in events
        if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
    }
    return [
        event["tdur"] / 1000
        for event in events
        if event["name"] == TASK and (event["pid"], event["tid"]) in main and "tdur" in event
    ]
