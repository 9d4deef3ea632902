"""What a law is: a statement true of every implementation of an interface, with a number that shows it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Measurement:
    """A number that a law measured, beside the limit it had to keep.

    Attributes:
        what: The quantity, in words.
        value: Its largest value.
        limit: Largest value at which the law holds.
        beyond: Verdict above the limit.
        at_least: Whether the limit is to be exceeded instead: for what is declared false and must be seen to be.
    """

    what: str
    value: float
    limit: float
    beyond: Level = "fail"
    at_least: bool = False

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
        sign = "≥" if self.at_least else "≤"
        return f"{self.what} {self.value:.2g} (must be {sign} {self.limit:.2g})"


@dataclass(frozen=True)
class Finding:
    """What one law said of one case.

    Attributes:
        law: Name of the law.
        case: Name of the case.
        level: "ok", "warn" (allowed, but a user should know) or "fail".
        detail: The measured number and its limit, or the error that was raised.
        strain: How close to its limit the worst number came.
    """

    law: str
    case: str
    level: Level
    detail: str
    strain: float

    @property
    def passed(self) -> bool:
        """Whether the law holds."""
        return self.level != "fail"


@dataclass(frozen=True)
class Law:
    """A statement and the check that can refute it.

    Attributes:
        subject: "basis", "process" or "solver".
        name: A few words.
        statement: One sentence.
        check: From a case to what was measured.
        applies: Whether the statement says anything about a case; where it does not, none is generated.
    """

    subject: str
    name: str
    statement: str
    check: Callable[[Any], Iterable[Measurement]]
    applies: Callable[[Any], bool]

    def examine(self, case: Any) -> Finding:
        """The finding on one case; an exception of the implementation is a failure with its message."""
        try:
            measured = list(self.check(case))
        except Exception as error:  # whatever a user's class raises is the finding
            return Finding(self.name, str(case), "fail", f"{type(error).__name__}: {error}", math.inf)
        worst = max(measured, key=lambda m: (("ok", "warn", "fail").index(m.level), m.strain))
        return Finding(self.name, str(case), worst.level, str(worst), worst.strain)


_laws: dict[str, list[Law]] = defaultdict(list)


def law(subject: str, applies: Callable[[Any], bool] = lambda case: True) -> Callable[[Any], Any]:
    """Decorator: register a generator of measurements as a law; its docstring's first line is the statement."""

    def enter(check: Callable[[Any], Iterable[Measurement]]) -> Callable[[Any], Iterable[Measurement]]:
        statement = (check.__doc__ or "").strip().splitlines()[0]
        name = getattr(check, "__name__", "law").replace("_", " ")
        _laws[subject].append(Law(subject, name, statement, check, applies))
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
    """

    subject: str
    findings: tuple[Finding, ...]
    refused: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every law holds in every case."""
        return bool(self.findings) and all(finding.passed for finding in self.findings)

    @property
    def worst(self) -> list[Finding]:
        """For each law the case that strains it most."""
        by_law: dict[str, list[Finding]] = defaultdict(list)
        for finding in self.findings:
            by_law[finding.law].append(finding)
        rank = ("ok", "warn", "fail")
        return [max(group, key=lambda f: (rank.index(f.level), f.strain)) for group in by_law.values()]

    def __str__(self) -> str:
        width = max((len(finding.law) for finding in self.findings), default=0)
        lines = [f"{f.level:4}  {f.law:{width}}  {f.detail}  [{f.case}]" for f in self.worst]
        notes = [f"note  refused {text}" for text in self.refused]
        count = len({f.case for f in self.findings})
        broken = sum(f.level == "fail" for f in self.worst)
        verdict = "every law holds" if self.passed else f"{broken} laws broken" if broken != 1 else "1 law broken"
        return "\n".join([f"{self.subject}: {verdict}; {count} cases, the worst of each law:", *lines, *notes])
