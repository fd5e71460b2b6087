"""Small pieces of HTML for widgets, and their style. Text of models and data is escaped here."""

import html
from collections.abc import Sequence

# ipywidgets gives a slider's handle no name, and Python can't add a name. This script takes the
# label or the tooltip as its name. A slider may be added later than this script.
_NAME_SLIDERS = """\
const box = this.closest('.lora-lab');
const name = () => box.querySelectorAll('.widget-slider').forEach(slider => {
  const label = slider.querySelector('.widget-label');
  const words = label.textContent.trim() || label.title;
  slider.querySelectorAll('.noUi-handle')
    .forEach(handle => handle.setAttribute('aria-label', words));
});
name();
new MutationObserver(name).observe(box, {childList: true, subtree: true});"""
_LOOK = """
.lora-lab { max-width: 1040px; font-size: 13px; }
.lora-lab h3 { margin: 0; font-size: 16px; }
.lora-lab .widget-html-content { line-height: 1.45; }
.lora-lab .lora-lab-faint { color: var(--jp-ui-font-color2, #666); }
.lora-lab-about summary { cursor: pointer; }
.lora-lab .lora-lab-wrong { color: var(--jp-error-color1, #d32f2f); }
.lora-lab-picture { border-radius: 4px; border: 1px solid var(--jp-border-color2, #ccc); }
.lora-lab-answers { width: 100%; border-collapse: collapse; font-size: 13px; }
.lora-lab-answers td { padding: 0 10px 1px 0; vertical-align: top; overflow-wrap: anywhere; }
.lora-lab-answers td:first-child { width: 4.6em; color: var(--jp-ui-font-color2, #666); }
.lora-lab-answers .lora-lab-prompt td {
  padding-top: 7px; color: var(--jp-ui-font-color1, inherit); font-weight: 600; }
.lora-lab-answers code { background: none; padding: 0; white-space: pre-wrap; font-size: 12.5px; }
.lora-lab-runs th, .lora-lab-runs td, .lora-lab-best th, .lora-lab-best td {
  padding: 1px 16px 1px 0; text-align: left; }
.lora-lab-runs tr:last-child td { font-weight: 600; }
.lora-lab-kept { border-collapse: collapse; }
.lora-lab-kept th, .lora-lab-kept td { padding: 2px 14px 2px 0; text-align: left;
  vertical-align: top; border-bottom: 1px solid var(--jp-border-color2, #ccc); }
.lora-lab-kept td { font-variant-numeric: tabular-nums; }
.lora-lab h4 { margin: 8px 0 0; font-size: 13px; }
.lora-lab-help summary { cursor: pointer; list-style: none; width: 1.4em; height: 1.4em;
  border-radius: 50%; text-align: center; border: 1px solid var(--jp-border-color1, #999); }
.lora-lab-help { display: flex; gap: 8px; }
.lora-lab-folded > .widget-toggle-button { padding: 0 4px; background: none; box-shadow: none; }
.lora-lab pre.lora-lab-code { margin: 0; padding: 8px; overflow-x: auto; line-height: 1.4;
  background: var(--jp-layout-color2, #eee); color: var(--jp-ui-font-color1, inherit); }
"""
STYLE = f'<style onload="{_NAME_SLIDERS}">{_LOOK}</style>'


def title(heading: str) -> str:
    """A widget's heading, with the style of everything below it."""
    return f"{STYLE}<h3>{html.escape(heading)}</h3>"


def subtitle(heading: str) -> str:
    """The heading of a part."""
    return f"<h4>{html.escape(heading)}</h4>"


def faint(remark: str) -> str:
    """A small remark in grey."""
    return f'<span class="lora-lab-faint">{html.escape(remark)}</span>'


def help_text(sentences: str) -> str:
    """Sentences of help, folded behind a question mark."""
    mark = '<summary aria-label="help">?</summary>'
    return f'<details class="lora-lab-help">{mark}{html.escape(sentences)}</details>'


def about(task: str, warnings: Sequence[str] = ()) -> str:
    """A task's description: the first sentence in sight, the rest folded; then the warnings."""
    first, stop, rest = task.partition(". ")
    description = f"{html.escape(first)}{stop.strip()}"
    if rest:
        description = f"<details><summary>{description}</summary>{html.escape(rest)}</details>"
    description += "".join(f"<div>{html.escape(warning)}</div>" for warning in warnings)
    return f'<div class="lora-lab-faint lora-lab-about">{description}</div>'


def error_text(error: Exception) -> str:
    """An error in words: its notes, which say where it arose, its class and its message."""
    notes = "".join(f"{note}: " for note in getattr(error, "__notes__", ()))
    return html.escape(notes) + in_red(f"{type(error).__name__}: {error}")


def in_red(message: str) -> str:
    """A message about something that is wrong."""
    return f'<span class="lora-lab-wrong">{html.escape(message)}</span>'


def code(source: str) -> str:
    """Lines of code."""
    return f'<pre class="lora-lab-code">{html.escape(source)}</pre>'


def bullets(lines: Sequence[str]) -> str:
    """A list of lines."""
    return f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>"


def table(css_class: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of text under its heads; without heads, only the rows."""
    names = "".join(f"<th>{html.escape(head)}</th>" for head in heads)
    head = f"<thead><tr>{names}</tr></thead>" if heads else ""
    lines = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<table class="{css_class}">{head}<tbody>{body}</tbody></table>'
