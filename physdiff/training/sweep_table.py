"""How the runs of a sweep ended, and one table of it.

    SWEEP/POINT/point.json    how that run ended: what a sweep that was interrupted skips
    SWEEP/sweep.md            all of them, by rising validation error; also as sweep.csv and sweep.json

Each file is whole or absent.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from physdiff.atomic import replacing_file
from physdiff.training.sweep import Overrides, typed

Status = Literal["done", "failed", "unfinished"]

ENDED = "point.json"
# What is told of a run, from its model's card; of the measures compared, the first that all have orders them.
COMPARED = ("validation_error", "validation_loss")
COLUMNS = ("steps", "seconds", "parameters", *COMPARED)


@dataclass(frozen=True)
class Outcome:
    """How one run ended.

    Attributes:
        name: Of its folder.
        overrides: Settings by their dotted names.
        status: "done", "failed" (with its error), or "unfinished" (to be continued).
        settings: Digest of all settings of the run.
        error: Why it failed.
        found: Steps, seconds, parameters, validation loss and error, as far as they are known.
    """

    name: str
    overrides: Overrides
    status: Status
    settings: str
    error: str = ""
    found: dict[str, float] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write it into the run's folder."""
        _write(folder / ENDED, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def of(cls, folder: Path) -> Outcome | None:
        """What a run's folder says; None if it says nothing that can be read."""
        try:
            return cls(**json.loads((folder / ENDED).read_text()))
        except (OSError, ValueError, TypeError):
            return None


def found_in(folder: Path) -> dict[str, float]:
    """What a run's model says about its training; nothing if there is no model."""
    file = folder / "model" / "model.json"
    card = json.loads(file.read_text())["card"] if file.is_file() else {}
    return {name: card[name] for name in COLUMNS if card.get(name) is not None}


def ranked(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Finished runs by rising validation error, then the others in their order."""
    by = compared_by(outcomes)

    def error(outcome: Outcome) -> float:
        value = outcome.found.get(by, math.inf) if outcome.status == "done" else math.inf
        return math.inf if math.isnan(value) else value

    return sorted(outcomes, key=lambda o: (o.status != "done", error(o)))


def compared_by(outcomes: Sequence[Outcome]) -> str:
    """The first measure that every finished run has."""
    done = [o for o in outcomes if o.status == "done"]
    return next((name for name in COMPARED if all(name in o.found for o in done)), COMPARED[-1])


def best_of(outcomes: Sequence[Outcome]) -> Outcome | None:
    """The finished run with the lowest validation error; None if none has one."""
    first = next(iter(ranked(outcomes)), None)
    if first is None or first.status != "done":
        return None
    return first if math.isfinite(first.found.get(compared_by(outcomes), math.nan)) else None


def write_tables(folder: Path, outcomes: Sequence[Outcome]) -> None:
    """Write `sweep.md`, `sweep.csv` and `sweep.json`, each whole or not at all."""
    order, best = ranked(outcomes), best_of(outcomes)
    by = compared_by(outcomes)
    told = {"compared_by": by, "best": None if best is None else best.name, "runs": [asdict(o) for o in order]}
    _write(folder / "sweep.json", json.dumps(told, indent=1) + "\n")
    names = list(dict.fromkeys(name for o in outcomes for name in o.overrides))
    columns = [name for name in COLUMNS if any(name in o.found for o in outcomes)]
    rows = [[*(typed(o.overrides.get(n, "")) for n in names), o.status, *_cells(o, columns)] for o in order]
    head = [*names, "status", *columns]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([[*head, "run", "error"], *(
        [*row, o.name, o.error] for row, o in zip(rows, order, strict=True)
    )])  # fmt: skip
    _write(folder / "sweep.csv", text.getvalue())
    _write(folder / "sweep.md", _page(head, rows, order, best, by))


def _page(head: list[str], rows: list[list[str]], order: list[Outcome], best: Outcome | None, by: str) -> str:
    lines = [head, ["---"] * len(head), *rows]
    table = ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in lines]
    done = sum(o.status == "done" for o in order)
    parts = ["# Sweep\n", f"{done} of {len(order)} runs are done; sorted by {by.replace('_', ' ')}, lowest first.\n"]
    if best is not None:
        parts.append(f"Best: `{best.name}`, {by.replace('_', ' ')} {best.found[by]:.4g}.\n")
    parts.append("\n".join(table) + "\n")
    parts += [f"- `{o.name}` {o.status}{': ' + o.error if o.error else ''}" for o in order if o.status != "done"]
    return "\n".join(parts).rstrip() + "\n"


def _cells(outcome: Outcome, columns: Sequence[str]) -> list[str]:
    found = (outcome.found.get(name, "") for name in columns)
    return [f"{x:.4g}" if isinstance(x, float) else str(x) for x in found]


def _write(path: Path, text: str) -> None:
    with replacing_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
