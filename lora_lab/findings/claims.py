"""Rules of thumb, each with a test that was fixed first and a verdict computed from its runs."""

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
from lora_lab.findings.evidence import Evidence
from lora_lab.findings.papers import PaperTable, paper, paper_in_words
from lora_lab.findings.recordings import read_record, write_record
from lora_lab.maths.comparison import SEEDS
from lora_lab.maths.looks import holm_levels
from lora_lab.maths.statistics import (
    LEVEL,
    mean_interval,
    mean_p_value,
    numbers_needed,
)
from lora_lab.models.bases import load_base
from lora_lab.places import data_folder
from lora_lab.recipe import Recipe, nearest
from lora_lab.tasks.loading import load_task
from lora_lab.training.store import DEFAULT, Default
from lora_lab.wording import counted, three_digits

UNITS = {  # the size of a case's unit, in the unit of what is measured
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

    The number comes from a setting's budget or scores: alone, minus another setting's number, or
    divided by it.
    """

    when: str  # in words: "holds here only when ..."
    what: str  # a budget's "usual_memory.total", or a run's "old_knowledge" (see claim_runs.py)
    of: str  # a setting
    minus: str | None = None  # another setting
    over: str | None = None  # another setting
    unit: str = ""
    at_least: float | None = None  # in that unit; None: no lower end
    at_most: float | None = None

    @property
    def ends(self) -> tuple[float, float]:
        """The ends of the promised range, infinite where it is open."""
        return (
            -math.inf if self.at_least is None else self.at_least,
            math.inf if self.at_most is None else self.at_most,
        )


@dataclass(frozen=True, slots=True)
class Finding:
    """The numbers of a case: one for each seed, or a single one by arithmetic."""

    case: Case
    numbers: tuple[float, ...]  # in the case's unit; NaN where a run has no such score
    level: float = LEVEL  # how often the interval misses the true mean

    @property
    def interval(self) -> tuple[float, float]:
        """The interval of the true mean over seeds; for a single number, that number twice."""
        single = len(self.numbers) == 1
        return (*self.numbers, *self.numbers) if single else mean_interval(self.numbers, self.level)

    @property
    def holds(self) -> bool | None:
        """Whether the true mean is in the promised range; None: not settled.

        It is settled if the whole interval lies inside the range or outside of it. With fewer than
        five seeds, or with a seed that has no score, it is not settled.
        """
        if any(map(math.isnan, self.numbers)) or 1 < len(self.numbers) < SEEDS:
            return None
        low, high = self.interval
        at_least, at_most = self.case.ends
        if at_least <= low and high <= at_most:
            return True
        return False if low > at_most or high < at_least else None

    @property
    def p_value(self) -> float | None:
        """How often chance alone moves a mean this far, or further, from the range's nearer end.

        None: there is no interval, only a single number, too few seeds or a seed without a score.
        """
        if any(map(math.isnan, self.numbers)) or len(self.numbers) < SEEDS:
            return None
        return max(
            mean_p_value([number - end for number in self.numbers])
            for end in self.case.ends
            if math.isfinite(end)
        )

    @property
    def seeds_to_settle(self) -> int | None:
        """How many more seeds would settle it, if mean and spread stay; None: that is not known."""
        if self.holds is not None or any(map(math.isnan, self.numbers)):
            return None
        mean = statistics.mean(self.numbers)
        distance = min(abs(mean - end) for end in self.case.ends)
        if not distance:
            return None
        needed = numbers_needed(statistics.stdev(self.numbers), 2 * distance, self.level)
        return max(needed, SEEDS) - len(self.numbers)

    def __str__(self) -> str:
        """`yes  when the rate stays: value of "high" less "low": 31 (24 to 37) points; ...`.

        In brackets stands the interval of the mean over the seeds.
        """
        word = {True: "yes", False: "no", None: "?"}[self.holds]
        more = self.seeds_to_settle
        return (
            f"{word:4} when {self.case.when}: {self.subject}: {self.effect}; "
            f"promised {self.promised}"
        ) + (f"; about {counted(more, 'more seed')} would settle it" if more else "")

    @property
    def subject(self) -> str:
        """What was measured: `value of "high" less "low"`."""
        case = self.case
        other = f' less "{case.minus}"' if case.minus else f' over "{case.over}"'
        what = case.what.removeprefix("usual_")  # the convention says in which loop
        name = " ".join(reversed(what.replace("_", " ").split(".")))  # "total memory"
        return f'{name} of "{case.of}"{other if case.minus or case.over else ""}'

    @property
    def effect(self) -> str:
        """The mean, with its interval over several seeds: `31.0 (24.0 to 37.0) points`."""
        numbers = three_digits(statistics.mean(self.numbers))
        if len(self.numbers) > 1:
            numbers += f" ({' to '.join(map(three_digits, self.interval))})"
        return f"{numbers} {self.case.unit}".rstrip()

    @property
    def promised(self) -> str:
        """The range that the statement promises: `at least 5`."""
        case = self.case
        if case.at_most is None:
            return f"at least {case.at_least:g}"
        if case.at_least is None:
            return f"at most {case.at_most:g}"
        return f"{case.at_least:g} to {case.at_most:g}"


@dataclass(frozen=True, kw_only=True, repr=False)
class Claim:
    """A statement, its test here, and the results of the test; or why it is not tested here.

    Settings, ranges and seeds were committed before there were results.
    """

    id: str
    statement: str
    source: str  # "lesson", or the id of a published number
    convention: str = ""  # how alpha moves with r, how the learning rate was chosen, what counts
    untested: str = ""  # "because ..."; then there are no settings and no cases
    settings: Mapping[str, Setting]
    cases: tuple[Case, ...]
    seeds: tuple[int, ...] = ()
    papers: tuple[str, ...] = ()  # published numbers to compare with
    evidence: tuple[str, ...] = ()  # ids of data/evidence/ that say more, with tuned rates
    trials: tuple[Trial, ...] = ()  # the results; none: not measured yet
    about: str = ""  # date, machine and version of a recording

    @property
    def to_run(self) -> int:
        """The number of runs that `measure` takes; 0: arithmetic alone gives the verdict."""
        settings = self.settings.values()
        return len(self.seeds) * sum(setting.task is not None for setting in settings)

    @functools.cached_property
    def findings(self) -> tuple[Finding, ...]:
        """Each case with its numbers, none before `measure`; several have Holm's correction."""
        if self.to_run and not self.trials:
            return ()
        findings = [Finding(case, self._numbers_of(case)) for case in self.cases]
        tested = [place for place, finding in enumerate(findings) if finding.p_value is not None]
        levels = holm_levels([findings[place].p_value for place in tested])
        for place, level in zip(tested, levels, strict=True):
            findings[place] = dataclasses.replace(findings[place], level=level)
        return tuple(findings)

    @property
    def verdict(self) -> str:
        """Holds, holds here only when …, does not hold here, not settled; or not measured yet.

        Or "not tested here, because …".
        """
        if self.untested:
            return f"not tested here, {self.untested}"
        if not self.findings:
            return f"not measured yet: lab.claim({self.id!r}).measure() takes {self.to_run} runs"
        holds = [finding.holds for finding in self.findings]
        if None in holds:
            return "not settled"
        if all(holds):
            return "holds"
        if not any(holds):
            return "does not hold here"
        return "holds here only when " + "; when ".join(
            finding.case.when for finding in self.findings if finding.holds
        )

    def measure(
        self, *, store: str | Path | Default | None = DEFAULT, progress: bool = False
    ) -> "Claim":
        """The claim with the scores of its runs, made with the committed settings.

        Args:
            store: as in `sweep`: stored runs are replayed.
            progress: show a bar.

        Raises:
            ValueError: if there is nothing to run.
        """
        if not self.to_run:
            why = self.verdict if self.untested else "arithmetic decides it; read its .verdict"
            raise ValueError(f"claim {self.id!r} has nothing to run: {why}")
        groups: dict[tuple, dict[str, Setting]] = {}  # settings that are tried together
        for name, setting in self.settings.items():
            if setting.task is not None:
                key = setting.base, setting.task, setting.n
                groups.setdefault(key, {})[name] = setting
        trials = []
        with tqdm(total=self.to_run, desc=self.id, unit="run", disable=not progress) as bar:
            for (base_name, task_name, n), settings in groups.items():
                base = load_base(base_name)
                for seed in self.seeds:
                    task = load_task(task_name, base, n=n, seed=seed)
                    trials += try_settings(base, task, settings, seed, store=store)
                    bar.update(len(settings))
        return dataclasses.replace(self, trials=tuple(trials), about="")

    def _numbers_of(self, case: Case) -> tuple[float, ...]:
        """One number for each seed, from that seed's runs; or a single one, by arithmetic."""
        seeds = self.seeds if self.settings[case.of].task else (None,)
        other = case.minus or case.over
        combine = operator.sub if case.minus else _ratio
        numbers = [self._measured(case.what, case.of, seed) for seed in seeds]
        if other:
            others = [self._measured(case.what, other, seed) for seed in seeds]
            numbers = [combine(*pair) for pair in zip(numbers, others, strict=True)]
        return tuple(number / UNITS[case.unit] for number in numbers)

    def _measured(self, what: str, name: str, seed: int | None) -> float:
        """A number of a setting's budget, or a score of its run with this seed."""
        setting = self.settings[name]
        if setting.task is None:
            return operator.attrgetter(what)(estimate(setting.base, setting.recipe))
        (trial,) = (trial for trial in self.trials if (trial.setting, trial.seed) == (name, seed))
        score = trial.scores[what]
        return math.nan if score is None else score

    def __repr__(self) -> str:
        """The statement, the verdict, and the numbers behind it, rounded."""
        lines = [f"{self.statement} ({self.source})", f"Verdict: {self.verdict}"]
        lines += [f"  {finding}" for finding in self.findings]
        lines += [f"Convention: {self.convention}"] * bool(self.convention)
        lines += [f"Evidence: {id}: {Evidence.read(id).verdict}" for id in self.evidence]
        lines += [_published(id) for id in self.papers]
        lines += [f"Recorded: {self.about}"] * bool(self.about)
        return "\n".join(lines)


# --- the ledger -----------------------------------------------------------------------------


@functools.cache
def claims() -> Mapping[str, Claim]:
    """Every claim of data/claims.toml by its id, with its recorded trials."""
    with (data_folder() / "claims.toml").open("rb") as file:
        ledger = {id: _claim(id, facts) for id, facts in tomllib.load(file).items()}
    folder = data_folder() / "recorded" / "claims"
    return MappingProxyType(
        {id: with_record(claim, folder / f"{id}.json") for id, claim in ledger.items()}
    )


def claim(id: str) -> Claim:
    """A rule of thumb and its computed verdict; show it as a cell's last line.

    Raises:
        ValueError: for an unknown id, with the nearest.
    """
    known = tuple(claims())
    if id not in known:
        raise ValueError(f"there is no claim {id!r}; {nearest(id, known)}Known: {', '.join(known)}")
    return claims()[id]


def _claim(id: str, facts: dict) -> Claim:
    common = facts.pop("common", {})
    settings = {
        name: _setting(common | changes) for name, changes in facts.pop("settings", {}).items()
    }
    cases = tuple(Case(**case) for case in facts.pop("cases", ()))
    lists = {name: tuple(facts.pop(name, ())) for name in ("seeds", "papers", "evidence")}
    return Claim(id=id, settings=MappingProxyType(settings), cases=cases, **lists, **facts)


def _setting(facts: dict) -> Setting:
    """A Setting from its fields in the file; fields that it does not have are a recipe's."""
    names = {field.name for field in dataclasses.fields(Setting)} - {"recipe"}
    own = {name: facts.pop(name) for name in names & set(facts)}
    return Setting(**own, recipe=Recipe(**facts))


# --- recorded measurements ------------------------------------------------------------------


def record(
    claim: Claim, folder: str | Path, *, store: str | Path | None = None, progress: bool = False
) -> Path:
    """Measure a claim and keep its trials as `<id>.json`, with settings, place and date.

    Args:
        claim: it must have runs.
        folder: `data/recorded/claims` for the course's own.
        store: a folder that several claims, recorded one after the other, share their runs in.
        progress: show a bar.
    """
    trials = claim.measure(store=store, progress=progress).trials
    bases = {setting.base for setting in claim.settings.values() if setting.task is not None}
    device = "; ".join(load_base(base).about for base in sorted(bases))
    path = Path(folder) / f"{claim.id}.json"
    kept = [dataclasses.asdict(trial) for trial in trials]
    write_record(path, {"committed": committed(claim), "trials": kept}, device)
    return path


def with_record(claim: Claim, path: Path) -> Claim:
    """The claim with its recorded trials. A record of other settings or ranges does not count."""
    if not path.exists():
        return claim
    record = read_record(path)
    if record["committed"] != committed(claim):
        return claim
    return dataclasses.replace(
        claim,
        trials=tuple(Trial(**trial) for trial in record["trials"]),
        about=f"{record['date']}, {record['device']}, torch {record['versions']['torch']}",
    )


def committed(claim: Claim) -> dict:
    """The settings, ranges and seeds of a claim as JSON has them.

    They were committed before the results; a later change makes a record void. Words may change.
    """
    settings = {
        name: dataclasses.asdict(setting) | {"recipe": setting.recipe.facts}
        for name, setting in claim.settings.items()
    }
    for facts in settings.values():
        if facts["way"] == "fit":  # the usual way is not written down
            del facts["way"], facts["changed"]
    cases = [dataclasses.asdict(case) for case in claim.cases]
    for case in cases:
        del case["when"]
    return json.loads(json.dumps({"settings": settings, "cases": cases, "seeds": claim.seeds}))


def _ratio(number: float, other: float) -> float:
    return number / other if other else math.nan  # a division by 0 has no result


# --- numbers in words -----------------------------------------------------------------------


def _published(id: str) -> str:
    rows = f"; its rows: lab.paper({id!r}).rows" if isinstance(paper(id), PaperTable) else ""
    return f"Published: {paper_in_words(id)}{rows}"
