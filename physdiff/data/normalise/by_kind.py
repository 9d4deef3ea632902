"""Normalisers by the words of settings and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from physdiff.data.normalise.affine import Robust, Standardise
from physdiff.data.normalise.curved import Curved, Log, Power
from physdiff.data.normalise.per_variable import SINGLE, PerVariable, Single
from physdiff.data.summary import Summary
from physdiff.registry import nearest, spelled

KINDS = ("standard", "robust", "log", "power", "box-cox", "yeo-johnson", "asinh")
Kind = str | Mapping[str, Any]  # a word, or {"kind": "log", "shift": 0.1}


def normaliser_from_dict(values: Mapping[str, Any]) -> Single | PerVariable:
    """The normaliser that its `to_dict` described; without a kind, as models of before have it, `Standardise`.

    Raises:
        ValueError: there is no such kind.
    """
    kinds: dict[str, type[Single] | type[PerVariable]] = {**SINGLE, "per-variable": PerVariable}
    kind = values.get("kind", "standard")
    if kind not in kinds:
        raise ValueError(f"there is no normaliser '{kind}'. {nearest(str(kind), kinds)}")
    return kinds[kind].from_dict(values)


def kinds_of(asked: Kind | Mapping[str, Kind], names: Sequence[str], source: str = "data") -> list[dict[str, Any]]:
    """The kind of each channel and its settings.

    Args:
        asked: One kind for all, or kinds by the names of channels, fields (`u` for `u@0`, `u@1`) or vectors
            (`velocity` for `velocity_x`); "standard" for those that are not named.
        names: Names of the channels.
        source: What messages call the data.

    Raises:
        ValueError: there is no such kind, setting or channel.
    """
    if isinstance(asked, str) or "kind" in asked:
        asked = dict.fromkeys(names, asked)
    chosen: dict[str, dict[str, Any]] = {}
    for word, kind in asked.items():
        settings = _checked(kind, source)
        meant = [n for n in names if n == word] or [n for n in names if n.split("@")[0] == word]
        meant = meant or [n for n in names if n.split("@")[0].rpartition("_")[0] == word]
        if not meant:
            raise ValueError(f"{source} has no channel '{word}' to normalise. {nearest(word, names)}")
        chosen.update(dict.fromkeys(meant, settings))
    return [chosen.get(name, {"kind": "standard"}) for name in names]


def draft(kinds: Sequence[Mapping[str, Any]], summaries: Sequence[Summary]) -> Single | PerVariable:
    """A normaliser of the channels by their kinds; curves are not standardised yet."""
    if all(kind == kinds[0] for kind in kinds):
        return _draft(kinds[0], summaries)
    return PerVariable(tuple(_draft(kind, [s]) for kind, s in zip(kinds, summaries, strict=True)))


def standardised(normaliser: Single | PerVariable, mean: Sequence[float], std: Sequence[float]) -> Single | PerVariable:
    """A draft whose images have these means and standard deviations, its curves brought to 0 and 1."""
    if isinstance(normaliser, PerVariable):
        parts = [
            part.standardised([m], [s]) if isinstance(part, Curved) else part
            for part, m, s in zip(normaliser.parts, mean, std, strict=True)
        ]
        return PerVariable(tuple(parts))
    return normaliser.standardised(mean, std) if isinstance(normaliser, Curved) else normaliser


def _draft(kind: Mapping[str, Any], summaries: Sequence[Summary]) -> Single:
    match kind["kind"]:
        case "standard":
            return Standardise.of(summaries)
        case "robust":
            return Robust.of(summaries)
        case "log":
            return Log.draft(summaries, float(kind.get("shift", 0.0)))
        case "power":
            return Power.draft(summaries)
        case method:
            return Power.draft(summaries, method)


def _checked(kind: Kind, source: str) -> dict[str, Any]:
    settings = {"kind": kind} if isinstance(kind, str) else dict(kind)
    settings["kind"] = spelled(str(settings.get("kind")), KINDS)
    if settings["kind"] not in KINDS:
        raise ValueError(f"{source}: there is no normaliser '{settings['kind']}'. {nearest(settings['kind'], KINDS)}")
    known = ("kind", "shift") if settings["kind"] == "log" else ("kind",)
    for name in settings:
        if name not in known:
            raise ValueError(
                f"{source}: the normaliser '{settings['kind']}' has no setting '{name}'. {nearest(name, known)}"
            )
    if isinstance(settings.get("shift", 0.0), bool) or not isinstance(settings.get("shift", 0.0), (int, float)):
        raise ValueError(f"{source}: the shift of 'log' is a number; got {settings['shift']!r}.")
    return settings
