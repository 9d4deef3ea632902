"""Tables of "Which solver?" and of error bars, from the numbers that `experiments/benchmarks` keeps."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from physdiff.solvers import Solver, solvers

BENCHMARKS = Path(__file__).parents[1] / "experiments" / "benchmarks"
MIXTURES = ("flat", "steep", "few")
BUDGETS = (4, 8, 12, 16, 24, 32, 64)
PEERS_SHOWN = 4
AIM = 16
ROUNDING = 1e-9
GRIDS_SHOWN = ("LogSpaced()", "Angle()")
SHORT = 0.3  # of an order


@dataclass(frozen=True)
class Curve:
    """Errors of one sampler with one spacing of its noise levels, by the budget of evaluations.

    Attributes:
        name: The sampler; of ours with the settings that are not the default.
        options: The spacing.
        ours: Whether it is of this package.
        errors: Root mean square.
        medians: Over starts; for mixtures.
    """

    name: str
    options: str
    ours: bool
    errors: dict[int, float]
    medians: dict[int, float]

    def error(self, budget: int) -> float:
        """At a budget; infinite where not one step fits into it, or nothing finite came out."""
        found = self.errors.get(budget, math.inf)
        return found if math.isfinite(found) else math.inf

    def median(self, budget: int) -> float:
        """Median over starts at a budget; infinite likewise."""
        found = self.medians.get(budget, math.inf)
        return found if math.isfinite(found) else math.inf


def which_solver() -> str:
    """What the page includes, Markdown.

    Raises:
        ValueError: a benchmark has not been run.
    """
    few = {name: [_curve(entry) for entry in entries] for name, entries in numbers("few_steps").items()}
    stiff = numbers("stiff")["rows"]
    parts = ["### Where it wins, and where nothing does", *_verdicts(few), _against(few), _reading(few)]
    parts += ["### Rules without noise", _deterministic(few), DETERMINISTIC]
    parts += ["### Rules with noise", _stochastic(few["gaussian"]), STOCHASTIC]
    parts += ["### Stiff physics", STIFF, _stiff(stiff)]
    return "\n\n".join(parts) + "\n"


def coverage() -> str:
    """How often error bars of the trace cover, as "What this likelihood is" includes it, Markdown.

    Raises:
        ValueError: the benchmark has not been run.
    """
    entries = numbers("coverage")["rows"]
    levels = list(entries[0]["rates"])
    rows = [
        (entry.get("model", entry.get("components")), entry["probes"], f"{entry['spread']:.3f}",
         f"{entry['stated']:.3f}", *(f"{100 * entry['rates'][level]:.1f} %" for level in levels))
        for entry in entries
    ]  # fmt: skip
    head = ("model", "probes", "spread, nats", "stated error", *(f"{float(level):.0%} covers" for level in levels))
    return table(head, rows) + "\n"


def numbers(name: str) -> dict[str, Any]:
    """The numbers of the last run of a benchmark.

    Raises:
        ValueError: there are none.
    """
    file = BENCHMARKS / f"{name}.json"
    if not file.is_file():
        raise ValueError(
            f"the pages need experiments/benchmarks/{name}.json, which is not there: run "
            f"`python -m experiments.benchmarks {name}`."
        )
    return json.loads(file.read_text(encoding="utf-8"))


def _curve(entry: dict[str, Any]) -> Curve:
    errors, medians = ({int(b): e for b, e in entry[name].items()} for name in ("errors", "medians"))
    return Curve(_briefly(entry["name"]), entry["options"], entry["ours"], errors, medians)


def brief(rule: Solver) -> str:
    """A rule with its order, and the settings that are not the default."""
    shown = (f for f in fields(rule) if f.name == "order" or getattr(rule, f.name) != f.default)
    return f"{type(rule).__name__}({', '.join(f'{f.name}={getattr(rule, f.name)!r}' for f in shown)})"


def _briefly(name: str) -> str:
    """The same of a rule that is written out; other names as they are."""
    known = {repr(rule): brief(rule) for cls in solvers.classes().values() for rule in cls.examples()}
    return known.get(name, name)


def named(name: str) -> Callable[[Curve], bool]:
    """Curves of one sampler."""
    return lambda curve: curve.name == name


def best(curves: list[Curve], budget: int, keep: Callable[[Curve], bool]) -> Curve | None:
    """Who has the smallest error at a budget, among some; None if nobody has one."""
    found = min((c for c in curves if keep(c)), key=lambda c: c.error(budget), default=None)
    return None if found is None or math.isinf(found.error(budget)) else found


def _ours(curve: Curve) -> bool:
    return curve.ours


def _peers(curve: Curve) -> bool:
    return not curve.ours


def _uncalibrated(curve: Curve) -> bool:
    return curve.ours and not curve.options.startswith("calibrated")


# ---- verdicts


def _verdicts(few: dict[str, list[Curve]]) -> Iterator[str]:
    exact = [c for c in few["gaussian"] if c.ours and max(c.errors.values()) < ROUNDING]
    kinds = sorted({c.name.partition("(")[0] for c in exact})
    theirs = best(few["gaussian"], 256, _peers)
    assert theirs is not None
    yield (
        f"*Gaussian field.* {_listed([f'`{kind}`' for kind in kinds])}, with the settings that are exact there, are "
        f"right to {_number(ROUNDING)} or better in any number of evaluations, one included. The best of the other "
        f"libraries is off by {_number(theirs.errors[256])} in 256 ({theirs.name}, {theirs.options})."
    )
    needed = {name: _as_good(few[name], Curve.error) for name in MIXTURES}
    met = [f"`{name}`" for name, (_, budget) in needed.items() if budget is not None and budget <= AIM]
    missed = [f"`{name}`" for name in MIXTURES if f"`{name}`" not in met]
    yield (
        f"*Mixtures.* The aim was the error that the best of the others has in 64 evaluations, in {AIM} of ours. "
        f"It is {f'met on {_listed(met)}' if met else 'not met on any mixture'}"
        f"{f' and missed on {_listed(missed)}' if met and missed else ''}:"
    )
    rows = []
    for name in MIXTURES:
        goal, ours = needed[name]
        by_median, with_median = _as_good(few[name], Curve.median)
        rows.append((
            f"`{name}`", f"{goal.name}, {goal.options}", _number(goal.error(64)), ours or "more than 256",
            f"{by_median.name}, {by_median.options}", _number(by_median.median(64)), with_median or "more than 256",
        ))  # fmt: skip
    head = ("mixture", "best of the others in 64", "error", "ours needs at most", "best of the others by the median",
            "median", "ours needs at most")  # fmt: skip
    yield table(head, rows)


def _as_good(curves: list[Curve], measure: Callable[[Curve, int], float]) -> tuple[Curve, int | None]:
    """The best of the others in 64 evaluations, and in how many of ours somebody is as good; None if in none."""
    goal = min((c for c in curves if not c.ours), key=lambda c: measure(c, 64))
    mine = [c for c in curves if c.ours]
    budgets = sorted({b for c in mine for b in c.errors})
    return goal, next((b for b in budgets if min(measure(c, b) for c in mine) <= measure(goal, 64)), None)


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _against(few: dict[str, list[Curve]]) -> str:
    """Error of the best of the others over that of the best of ours, by budget."""
    rows = []
    for name in MIXTURES:
        for budget in BUDGETS:
            ours, theirs = (best(few[name], budget, keep) for keep in (_ours, _peers))
            plain = best(few[name], budget, _uncalibrated)
            assert ours is not None and theirs is not None and plain is not None
            rows.append((
                f"`{name}`", budget, f"{ours.name}, {ours.options}", _both(ours, budget), _number(plain.error(budget)),
                f"{theirs.name}, {theirs.options}", _both(theirs, budget),
                f"{theirs.error(budget) / ours.error(budget):.2g}",
            ))  # fmt: skip
    head = ("mixture", "evaluations", "best of ours", "error (median)", "without calibration", "best of the others",
            "error (median)", "theirs over ours")  # fmt: skip
    return table(head, rows)


def _reading(few: dict[str, list[Curve]]) -> str:
    """Where the others are better, or nobody is good, in words."""
    lost, poor = [], []
    for name in MIXTURES:
        for budget in BUDGETS:
            ours, theirs = (best(few[name], budget, keep) for keep in (_ours, _peers))
            assert ours is not None and theirs is not None
            if theirs.error(budget) < ours.error(budget):
                lost.append(f"`{name}` in {budget}")
            if min(ours.error(budget), theirs.error(budget)) > 1e-2:
                poor.append(f"`{name}` in {budget}")
    gains = [
        plain.error(budget) / ours.error(budget) for name in MIXTURES for budget in BUDGETS
        if (ours := best(few[name], budget, _ours)) and (plain := best(few[name], budget, _uncalibrated))
    ]  # fmt: skip
    words = "In no row are the others better." if not lost else f"The others are better on {_listed(lost)} evaluations."
    if poor:
        words += f" Nobody is within 1 % of a standard deviation on {_listed(poor)} evaluations."
    unchanged = sum(gain <= 1 for gain in gains)
    return (
        f"{words} A calibrated grid is worth a factor of up to {max(gains):.2g}, and nothing in {unchanged} of the "
        f"{len(gains)} rows."
    )


# ---- tables


DETERMINISTIC = (
    "*Order* and *evaluations* (per step) are declared, and held to by the laws; *exact*: on Gaussian data in any "
    "number of steps; *simulated*: runs under simulated processes. Errors at so many evaluations, each with the grid "
    "that suits it best there, which is named for the last. `AdaptiveODE` takes steps of its own. The last rows are "
    "the best samplers of other libraries on `flat`. In one evaluation the only step is the last one, which all rules "
    "but those that end with the denoiser itself take along the reference's flow."
)
STOCHASTIC = (
    "Relative error of the spectrum of samples of the Gaussian field. The order is that of the law of samples; a blank "
    "means that a setting of the rule is an error that more steps do not take away. `TorchSDE` takes steps of its own."
)
STIFF = (
    "The heat equation on a rod whose fastest mode decays 10 to 1,000 times as fast as its slowest; data is a mixture "
    "of three Gaussians. Slope of the error between 64 and 128 steps, and the error in 128."
)


def declared_rules(stochastic: bool) -> Iterator[Solver]:
    """Every registered rule with the settings that the laws try."""
    for cls in solvers.classes().values():
        yield from (rule for rule in cls.examples() if rule.stochastic == stochastic)


def _declared(rule: Solver) -> tuple[Any, ...]:
    return (
        f"`{brief(rule)}`", rule.order or "", rule.evaluations, _yes(rule.exact_on_gaussian), _yes(rule.any_process),
    )  # fmt: skip


def _deterministic(few: dict[str, list[Curve]]) -> str:
    rows = []
    for rule in declared_rules(stochastic=False):
        rows.append((*_declared(rule), *_errors(few, named(brief(rule)))))
    rows.sort(key=lambda row: _rank(few["flat"], row[0].strip("`")))
    samplers = {c.name for c in few["flat"] if not c.ours}
    ranked = sorted(samplers, key=lambda name: _rank(few["flat"], name))[:PEERS_SHOWN]
    for name in ranked:
        rows.append((name, "", "", "", "", *_errors(few, named(name))))
    head = ("rule", "order", "evaluations", "exact", "simulated", "Gaussian, 1", "16",
            *(f"`{name}`, {budget}" for name in MIXTURES for budget in (16, 64)), "best on `flat` in 64")  # fmt: skip
    return table(head, rows)


def _rank(curves: list[Curve], name: str) -> float:
    found = best(curves, 64, named(name))
    return math.inf if found is None else found.error(64)


def _errors(few: dict[str, list[Curve]], keep: Callable[[Curve], bool]) -> list[str]:
    cells = [_cell(few["gaussian"], budget, keep) for budget in (1, 16)]
    cells += [_cell(few[name], budget, keep) for name in MIXTURES for budget in (16, 64)]
    last = best(few["flat"], 64, keep)
    return [*cells, "" if last is None else last.options]


def _cell(curves: list[Curve], budget: int, keep: Callable[[Curve], bool]) -> str:
    found = best(curves, budget, keep)
    return "" if found is None else _number(found.error(budget))


def _stochastic(curves: list[Curve]) -> str:
    rows = []
    for rule in declared_rules(stochastic=True):
        cells = [_cell(curves, budget, named(brief(rule))) for budget in (1, 4, 16, 64)]
        rows.append((*_declared(rule), *cells))
    return table(("rule", "order", "evaluations", "exact", "simulated", "1", "4", "16", "64"), rows)


def _stiff(entries: list[dict[str, Any]]) -> str:
    levels = sorted({entry["stiffness"] for entry in entries})
    found = {(entry["solver"], entry["grid"], entry["stiffness"]): entry for entry in entries}
    rows, short = [], []
    for name in dict.fromkeys(entry["solver"] for entry in entries):
        for grid in GRIDS_SHOWN:
            of_rule = [found[name, grid, level] for level in levels]
            cells = [f"{entry['slope']:.2f}, {_number(_finest(entry))}" for entry in of_rule]
            rows.append((f"`{_briefly(name)}`", grid, of_rule[0]["order"], *cells))
            slopes = [entry["slope"] for entry in of_rule]
            if min(slopes) < of_rule[0]["order"] - SHORT:
                short.append(f"`{_briefly(name)}` on `{grid}` ({', '.join(f'{slope:.1f}' for slope in slopes)})")
    words = f"No rule is short of its declared order by more than {SHORT}."
    if short:
        words = f"Short of the declared order by more than {SHORT}: {_listed(short)}; no other rule."
    head = ("rule", "times", "declared", *(f"stiffness {level:,}" for level in levels))
    return table(head, rows) + f"\n\n{words}"


def _finest(entry: dict[str, Any]) -> float:
    return entry["errors"][max(entry["errors"], key=int)]


def table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _yes(claim: bool) -> str:
    return "yes" if claim else ""


def _both(curve: Curve, budget: int) -> str:
    """Error, with the median over starts behind it."""
    median = curve.medians.get(budget)
    return _number(curve.error(budget)) + ("" if median is None else f" ({_number(median)})")


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "not finite"
    return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e+").replace("e+0", "")
