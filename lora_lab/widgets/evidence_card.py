"""`lab.evidence`: a verdict and its picture in sight; its numbers and conventions folded."""

import html

from IPython.display import display

from lora_lab import plots
from lora_lab.findings.evidence import Evidence
from lora_lab.maths.measures import LOWER_IS_BETTER
from lora_lab.recipe import nearest
from lora_lab.training.store import Run


class EvidenceCard(Evidence):
    """Evidence as a notebook shows it: a verdict and its picture; the numbers a click away."""

    def picture(self, *settings: str) -> plots.Picture:
        """Each setting's scores, with the shares of old facts and strangers if they were asked.

        A setting with a diverged seed is not drawn: the other seeds alone would flatter it.

        Args:
            settings: names of the settings to draw; none: all.

        Raises:
            ValueError: if nothing is measured yet, or the metric is not a share; for a name that is
                not a setting.
        """
        if lack := self._lack_of_picture():
            raise ValueError(f"{self.plan.id} has no picture: {lack}; see table()")
        for name in settings:
            if name not in self.plan.settings:
                known = tuple(self.plan.settings)
                raise ValueError(
                    f"{name!r} isn't a setting of {self.plan.id}; {nearest(name, known)}there are: "
                    f"{', '.join(known)}"
                )
        runs = self._drawn()
        runs = {name: runs[name] for name in settings or runs}
        scores = {
            kind: {name: _asked(own, kind) for name, own in runs.items()} for kind in plots.KINDS
        }
        asked = {kind: shares for kind, shares in scores.items() if any(shares.values())}
        size = plots.evidence_size(len(runs), len(asked))
        title = self.question.partition(",")[0].removesuffix("?") + "?"
        return plots.picture(plots.draw_evidence, title, self._metric, asked, size=size)

    def _drawn(self) -> dict[str, tuple[Run, ...]]:
        return {name: own * all(run.scores for run in own) for name, own in self.runs.items()}

    def _lack_of_picture(self) -> str:
        """Why there is nothing to draw; empty if there is something."""
        if not any(self._drawn().values()):
            measured = any(self.runs.values())
            return "every setting diverged" if measured else "nothing is measured yet"
        return f"{self._metric} isn't a share of 100 %" * (self._metric in LOWER_IS_BETTER)

    def _ipython_display_(self) -> None:
        verdict = f"<b>{html.escape(self.question)}</b><br>{html.escape(self.verdict)}"
        _show(f"<p>{verdict}</p>", f"{self.question}\n{self.verdict}")
        if not any(self.runs.values()):
            return
        table = self.table()
        if not self._lack_of_picture():
            display(self.picture())
        words = f"{self.conventions} {self.source}, {self.date}."
        _show(
            "<details><summary>All numbers, and how they were made</summary>"
            f"{table.to_html(index=False)}<p>{html.escape(words)}</p></details>",
            f"{table.to_string(index=False)}\n{words}",
        )


def evidence(id: str) -> EvidenceCard:
    """The evidence with an id. `.verdict`, `.table()` and `.picture()` show its results.

    `.question`, `.source` and `.date` say what was asked, and where and when it was measured.

    Raises:
        ValueError: for an unknown id, with the nearest; for a file that is damaged.
    """
    return EvidenceCard.read(id)


def _asked(runs: list[Run], kind: str) -> list[float]:
    """A score of each run; empty if the task does not ask for it."""
    found = [getattr(run.scores, kind) for run in runs]
    return [share for share in found if share is not None]


def _show(page: str, words: str) -> None:
    display({"text/html": page, "text/plain": words}, raw=True)
