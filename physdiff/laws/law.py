"""What a law is: a statement true of every implementation of an interface, with a number that shows it."""

from __future__ import annotations

import inspect
import math
import sysconfig
import textwrap
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

Level = Literal["ok", "note", "warn", "fail"]
LEVELS = get_args(Level)
WIDTH = 118  # of the lines that explain a verdict


@dataclass(frozen=True)
class Measurement:
    """A number that a law measured, beside the limit it had to keep.

    Attributes:
        what: The quantity, in words.
        value: Its largest value.
        limit: Largest value at which the law holds.
        beyond: Verdict above the limit.
        at_least: Whether the limit is to be exceeded instead: for what is declared false and must be seen to be.
        reading: What the report prints where a number beside its limit does not read well.
    """

    what: str
    value: float
    limit: float
    beyond: Level = "fail"
    at_least: bool = False
    reading: str = ""

    @property
    def level(self) -> Level:
        """The verdict; a value that is not a number is never within a limit."""
        kept = self.value >= self.limit if self.at_least else self.value <= self.limit
        return "ok" if kept else self.beyond

    @property
    def strain(self) -> float:
        """How close to the limit the value came: 1 at the limit, above 1 beyond it."""
        if math.isnan(self.value):
            return math.inf
        small, large = (self.limit, self.value) if not self.at_least else (self.value, self.limit)
        return large / small if small > 0 else (0.0 if large <= small else math.inf)

    def __str__(self) -> str:
        if self.reading:
            return self.reading
        sign = "≥" if self.at_least else "≤"
        return f"{self.what} {self.value:.2g} (must be {sign} {self.limit:.2g})"


@dataclass(frozen=True)
class Finding:
    """What one law said of one case.

    Attributes:
        law: Name of the law.
        case: Name of the case.
        level: "ok", "note" (a fact that not everyone needs), "warn" (allowed, but a user should know) or "fail".
        detail: The measured number and its limit, or the error that was raised.
        strain: How close to its limit the worst number came.
        statement: What the law says.
        advice: What to do where it does not hold.
        follows: Whether it cannot hold where a law before it does not.
    """

    law: str
    case: str
    level: Level
    detail: str
    strain: float
    statement: str = ""
    advice: str = ""
    follows: bool = False

    @property
    def passed(self) -> bool:
        """Whether the law holds."""
        return self.level != "fail"

    @property
    def severity(self) -> tuple[int, float]:
        """By which findings of one law are compared."""
        return LEVELS.index(self.level), self.strain


@dataclass(frozen=True)
class Law:
    """A statement and the check that can refute it.

    Attributes:
        subject: "basis", "equation" (without which the other laws of a process mean nothing), "process", "solver" or
            "solver on process".
        name: A few words.
        statement: One sentence.
        check: From a case to what was measured.
        applies: Whether the statement says anything about a case; where it does not, none is generated.
        advice: What to do where it does not hold.
        heading: Name in a report, from the case; the law's own when not given.
        follows: Whether it cannot hold where a law before it does not: a report then explains only that one.
    """

    subject: str
    name: str
    statement: str
    check: Callable[[Any], Iterable[Measurement]]
    applies: Callable[[Any], bool]
    advice: str = ""
    heading: Callable[[Any], str] | None = None
    follows: bool = False

    def examine(self, case: Any) -> Finding:
        """The finding on one case; an exception of the implementation is a failure with its message."""
        name = self.name if self.heading is None else self.heading(case)
        try:
            measured = list(self.check(case))
        except Exception as error:  # whatever a user's class raises is the finding
            return self._finding(name, case, "fail", described_error(error), math.inf)
        worst = max(measured, key=lambda m: (LEVELS.index(m.level), m.strain))
        return self._finding(name, case, worst.level, str(worst), worst.strain)

    def _finding(self, name: str, case: Any, level: Level, detail: str, strain: float) -> Finding:
        return Finding(name, str(case), level, detail, strain, self.statement, self.advice, self.follows)


def described_error(error: Exception) -> str:
    """An exception in one line, with the last line of a user's file that it passed through."""
    ours = (str(Path(__file__).parents[1]), sysconfig.get_paths()["stdlib"], "site-packages", "<")
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not any(o in f.filename for o in ours)]
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return " ".join(f"{type(error).__name__}: {error}".split()) + place


_laws: dict[str, list[Law]] = defaultdict(list)


def law(
    subject: str,
    applies: Callable[[Any], bool] = lambda case: True,
    heading: Callable[[Any], str] | None = None,
    follows: bool = False,
) -> Callable[[Any], Any]:
    """Decorator: register a generator of measurements as a law.

    The first paragraph of its docstring is the statement, the second what to do where it does not hold.
    """

    def enter(check: Callable[[Any], Iterable[Measurement]]) -> Callable[[Any], Iterable[Measurement]]:
        statement, advice, *_ = [*(inspect.getdoc(check) or "").split("\n\n"), ""]
        name = getattr(check, "__name__", "law").replace("_", " ")
        words = (" ".join(text.split()) for text in (statement, advice))
        statement, advice = words
        _laws[subject].append(Law(subject, name, statement, check, applies, advice, heading, follows))
        return check

    return enter


def laws_of(subject: str) -> list[Law]:
    """All laws of a subject, in the order of definition."""
    return list(_laws[subject])


def pairs(subject: str, cases: Iterable[Any]) -> Iterator[tuple[Law, Any]]:
    """Every law with every case that it speaks of."""
    for case in cases:
        for one in _laws[subject]:
            if one.applies(case):
                yield one, case


@dataclass(frozen=True)
class Report:
    """The findings on one implementation; `print` it.

    Attributes:
        subject: What was examined.
        findings: One for each law and case.
        refused: Where the implementation declined to work, with its own words.
        notes: What else a reader should know.
    """

    subject: str
    findings: tuple[Finding, ...]
    refused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every law holds in every case."""
        return bool(self.findings) and all(finding.passed for finding in self.findings)

    @property
    def by_law(self) -> dict[str, list[Finding]]:
        """The findings of each law."""
        groups: dict[str, list[Finding]] = defaultdict(list)
        for finding in self.findings:
            groups[finding.law].append(finding)
        return dict(groups)

    @property
    def worst(self) -> list[Finding]:
        """For each law the case that strains it most."""
        return [max(group, key=lambda f: f.severity) for group in self.by_law.values()]

    def __str__(self) -> str:
        width = max((len(finding.law) for finding in self.findings), default=0)
        lines, said = [self._headline()], set()
        for name, group in self.by_law.items():
            worst = max(group, key=lambda f: f.severity)
            mark = "FAIL" if worst.level == "fail" else worst.level
            lines.append(f"{mark:4}  {name:{width}}  {worst.detail}  [{_counted(group, worst.level)}]")
            explained = worst.follows and any(level == "fail" for level, _ in said)
            if worst.level != "ok" and not explained and (worst.level, worst.advice) not in said:
                said.add((worst.level, worst.advice))
                lines += [f"      {line}" for line in self._explained(worst)]
        lines += [f"note  refused {text}" for text in self.refused] + [f"note  {text}" for text in self.notes]
        return "\n".join(lines)

    def _headline(self) -> str:
        levels = [finding.level for finding in self.worst]
        broken, warned = levels.count("fail"), levels.count("warn")
        verdict = "every law holds" if self.passed else f"{broken} law{'s' * (broken != 1)} broken"
        warnings = f", {warned} warning{'s' * (warned != 1)}" if warned else ""
        count = len({f.case for f in self.findings})
        return f"{self.subject}: {verdict}{warnings}; {count} case{'s' * (count != 1)}, the worst number of each law:"

    def _explained(self, finding: Finding) -> list[str]:
        """Where a law does not hold, what it says, and what to do."""
        if finding.level == "note":
            return textwrap.wrap(finding.advice, WIDTH)
        case = finding.case.removeprefix(f"{self.subject} on ")
        return textwrap.wrap(f"On {case}. The law: {finding.statement} {finding.advice}", WIDTH)


def _counted(group: list[Finding], level: Level) -> str:
    """`18 cases`, or `3 of 18 cases` where only those are at this level."""
    here = sum(finding.level == level for finding in group)
    of = f"{here} of " if level != "ok" and here < len(group) else ""
    return f"{of}{len(group)} case{'s' * (len(group) != 1)}"
