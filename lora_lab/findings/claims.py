"""Rules of thumb, each with the test that weighs it: the verdict is computed, never asserted."""

import dataclasses
import functools
import json
import math
import operator
import statistics
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from tqdm.auto import tqdm

from lora_lab.cost.estimates import estimate
from lora_lab.findings.claim_runs import Setting, Trial, try_settings
from lora_lab.findings.papers import paper
from lora_lab.findings.recordings import here_and_now
from lora_lab.models.bases import load_base
from lora_lab.places import data_folder, write_atomically
from lora_lab.recipe import Recipe, nearest
from lora_lab.tasks.loading import load_task
from lora_lab.training.store import DEFAULT, Default

UNITS = {  # a case's unit: how much of what is measured makes one
    "": 1,
    "times": 1,
    "nats": 1,
    "tokens": 1,
    "thousand": 1e3,
    "million": 1e6,
    "GB": 1e9,
    "GiB": 2**30,
    "%": 0.01,
    "points": 0.01,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A number, and the range that the statement promises for it.

    The number is what a setting's budget or scores tell: alone, less another setting's, or over it.
    """

    when: str  # in words: "holds here only when ..."
    what: str  # of a budget, "usual_memory.total"; or of a run, "old_knowledge" (see trials.py)
    of: str  # a setting
    minus: str | None = None  # another one
    over: str | None = None
    unit: str = ""
    at_least: float | None = None  # in that unit; None: no such end
    at_most: float | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What a case came to: one number for each seed, or a single one by arithmetic."""

    case: Case
    numbers: tuple[float, ...]  # in the case's unit; NaN where a run has no such score

    @property
    def holds(self) -> bool | None:
        """Whether every number is in the promised range; None: the seeds do not agree.

        "No" takes all of them, too: on one side of the range. That n seeds agree by luck, where in
        truth either is as likely, has a chance of 1 in 2^(n - 1).
        """
        if any(map(math.isnan, self.numbers)):
            return None
        low, high = min(self.numbers), max(self.numbers)
        at_least = -math.inf if self.case.at_least is None else self.case.at_least
        at_most = math.inf if self.case.at_most is None else self.case.at_most
        if at_least <= low and high <= at_most:
            return True
        return False if low > at_most or high < at_least else None

    def __str__(self) -> str:
        """`yes  when the rate stays: value of "high" less "low": 31 (24 to 37) points; ...`."""
        case = self.case
        than = f' less "{case.minus}"' if case.minus else f' over "{case.over}"'
        what = case.what.removeprefix("usual_")  # the convention says in which loop
        name = " ".join(reversed(what.replace("_", " ").split(".")))  # "total memory"
        whole = f'{name} of "{case.of}"{than if case.minus or case.over else ""}'
        found = _rounded(statistics.mean(self.numbers))
        if len(self.numbers) > 1:
            found += f" ({_rounded(min(self.numbers))} to {_rounded(max(self.numbers))})"
        word = {True: "yes", False: "no", None: "?"}[self.holds]
        return f"{word:4} when {case.when}: {whole}: {found} {case.unit}; promised {_range(case)}"


@dataclass(frozen=True, kw_only=True, repr=False)
class Claim:
    """A statement, how it is tested here, and what the test found.

    Settings, ranges and seeds were committed before there were results.
    """

    id: str
    statement: str
    source: str  # "lesson", or the id of a published number
    convention: str  # how alpha moves with r, how the learning rate was chosen, what counts
    settings: Mapping[str, Setting]
    cases: tuple[Case, ...]
    seeds: tuple[int, ...] = ()
    papers: tuple[str, ...] = ()  # published numbers to compare with
    trials: tuple[Trial, ...] = ()  # what was measured
    about: str = ""  # where and when, if it was recorded

    @property
    def to_run(self) -> int:
        """How many runs `measure` takes; 0: arithmetic alone tells."""
        return len(self.seeds) * sum(one.task is not None for one in self.settings.values())

    @functools.cached_property
    def findings(self) -> tuple[Finding, ...]:
        """What each case came to. Nothing is run for it; none before `measure`."""
        if self.to_run and not self.trials:
            return ()
        return tuple(Finding(case, self._numbers(case)) for case in self.cases)

    @property
    def verdict(self) -> str:
        """Holds, holds here only when …, does not hold here, cannot tell; or not measured yet."""
        if not self.findings:
            return f"not measured yet: lab.claim({self.id!r}).measure() takes {self.to_run} runs"
        held = [one.holds for one in self.findings]
        if None in held:
            return "cannot tell"
        if all(held):
            return "holds"
        if not any(held):
            return "does not hold here"
        return "holds here only when " + "; when ".join(
            one.case.when for one in self.findings if one.holds
        )

    def measure(
        self, *, store: str | Path | Default | None = DEFAULT, progress: bool = False
    ) -> "Claim":
        """The claim with what its runs score, by the committed settings.

        Args:
            store: as in `sweep`: runs that are there are replayed.
            progress: show a bar.

        Raises:
            ValueError: if there is nothing to run.
        """
        if not self.to_run:
            raise ValueError(
                f"claim {self.id!r} has nothing to run: arithmetic alone tells; read its .verdict"
            )
        groups: dict[tuple, dict[str, Setting]] = {}  # what is tried together
        for name, one in self.settings.items():
            if one.task is not None:
                groups.setdefault((one.base, one.task, one.n), {})[name] = one
        trials = []
        with tqdm(total=self.to_run, desc=self.id, unit="run", disable=not progress) as bar:
            for (base_name, task_name, n), settings in groups.items():
                base = load_base(base_name)
                for seed in self.seeds:
                    task = load_task(task_name, base, n=n, seed=seed)
                    trials += try_settings(base, task, settings, seed, store=store)
                    bar.update(len(settings))
        return dataclasses.replace(self, trials=tuple(trials), about="")

    def _numbers(self, case: Case) -> tuple[float, ...]:
        """One for each seed, each seed's runs with each other; or one, by arithmetic."""
        seeds = self.seeds if self.settings[case.of].task else (None,)
        other = case.minus or case.over
        combine = operator.sub if case.minus else _ratio
        numbers = [self._told(case.what, case.of, seed) for seed in seeds]
        if other:
            others = [self._told(case.what, other, seed) for seed in seeds]
            numbers = [combine(*pair) for pair in zip(numbers, others, strict=True)]
        return tuple(number / UNITS[case.unit] for number in numbers)

    def _told(self, what: str, name: str, seed: int | None) -> float:
        """What a setting's budget tells, or what its run with this seed scored."""
        setting = self.settings[name]
        if setting.task is None:
            return operator.attrgetter(what)(estimate(setting.base, setting.recipe))
        (trial,) = (one for one in self.trials if (one.setting, one.seed) == (name, seed))
        score = trial.scores[what]
        return math.nan if score is None else score

    def __repr__(self) -> str:
        """The statement, the verdict, and the numbers behind it, rounded."""
        lines = [f"{self.statement} ({self.source})", f"Verdict: {self.verdict}"]
        lines += [f"  {finding}" for finding in self.findings]
        lines += [f"Convention: {self.convention}"]
        lines += [f"Published: {paper(id).what}: {paper(id)}" for id in self.papers]
        lines += [f"Recorded: {self.about}"] * bool(self.about)
        return "\n".join(lines)


# --- the ledger -----------------------------------------------------------------------------


@functools.cache
def claims() -> Mapping[str, Claim]:
    """Every claim of data/claims.toml by its id, with what was recorded of it."""
    with (data_folder() / "claims.toml").open("rb") as file:
        made = {id: _read(id, facts) for id, facts in tomllib.load(file).items()}
    recorded = data_folder() / "recorded" / "claims"
    return MappingProxyType(
        {id: with_record(one, recorded / f"{id}.json") for id, one in made.items()}
    )


def claim(id: str) -> Claim:
    """A rule of thumb and its computed verdict; show it as a cell's last line.

    Raises:
        ValueError: for an unknown id, with the nearest.
    """
    known = tuple(claims())
    if id not in known:
        raise ValueError(f"{id!r} is no claim; {nearest(id, known)}There are: {', '.join(known)}")
    return claims()[id]


def _read(id: str, facts: dict) -> Claim:
    common = facts.pop("common", {})
    settings = {
        name: _setting(common | changes) for name, changes in facts.pop("settings", {}).items()
    }
    cases = tuple(Case(**case) for case in facts.pop("cases", ()))
    lists = {name: tuple(facts.pop(name, ())) for name in ("seeds", "papers")}
    return Claim(id=id, settings=MappingProxyType(settings), cases=cases, **lists, **facts)


def _setting(facts: dict) -> Setting:
    """A setting's own fields; the rest are a recipe's."""
    names = {one.name for one in dataclasses.fields(Setting)} - {"recipe"}
    own = {name: facts.pop(name) for name in names & set(facts)}
    return Setting(**own, recipe=Recipe(**facts))


# --- recorded measurements ------------------------------------------------------------------


def record(
    claim: Claim, folder: str | Path, *, store: str | Path | None = None, progress: bool = False
) -> Path:
    """Measure a claim and keep what came out as `<id>.json`: with what was committed, where, when.

    Args:
        claim: one that has runs.
        folder: `data/recorded/claims` for the course's own.
        store: a folder that several claims, recorded one after the other, share their runs in.
        progress: show a bar.
    """
    trials = claim.measure(store=store, progress=progress).trials
    bases = {one.base for one in claim.settings.values() if one.task is not None}
    device = "; ".join(load_base(base).about for base in sorted(bases))
    words = {
        "committed": committed(claim),
        "trials": [dataclasses.asdict(trial) for trial in trials],
    } | here_and_now(device)
    path = Path(folder) / f"{claim.id}.json"
    with write_atomically(path) as file:
        file.write_text(json.dumps(words, indent=1) + "\n", encoding="utf-8")
    return path


def with_record(claim: Claim, path: Path) -> Claim:
    """The claim with its recorded trials. A record of other settings or ranges does not count."""
    if not path.exists():
        return claim
    words = json.loads(path.read_text(encoding="utf-8"))
    if words["committed"] != committed(claim):
        return claim
    return dataclasses.replace(
        claim,
        trials=tuple(Trial(**trial) for trial in words["trials"]),
        about=f"{words['date']}, {words['device']}, torch {words['versions']['torch']}",
    )


def committed(claim: Claim) -> dict:
    """What stood before the results, as JSON has it: a later change makes a record void.

    All but the words: those may be mended.
    """
    settings = {name: dataclasses.asdict(one) for name, one in claim.settings.items()}
    for one in settings.values():
        if one["way"] == "fit":  # the usual way goes without saying
            del one["way"], one["changed"]
    cases = [dataclasses.asdict(case) for case in claim.cases]
    for case in cases:
        del case["when"]
    return json.loads(json.dumps({"settings": settings, "cases": cases, "seeds": claim.seeds}))


def _ratio(number: float, other: float) -> float:
    return number / other if other else math.nan  # over nothing: it can't be told


# --- numbers in words -----------------------------------------------------------------------


def _rounded(number: float) -> str:
    """Three digits, or the whole part, and at most four decimals: `4.19`, `1,520`, `0.0622`."""
    number = round(number, 4)
    if number == 0 or math.isnan(number):
        return f"{abs(number):g}"  # no "-0"
    decimals = 2 - math.floor(math.log10(abs(number)))
    return f"{number:,.{min(max(0, decimals), 4)}f}"


def _range(case: Case) -> str:
    if case.at_most is None:
        return f"at least {case.at_least:g}"
    if case.at_least is None:
        return f"at most {case.at_most:g}"
    return f"{case.at_least:g} to {case.at_most:g}"
