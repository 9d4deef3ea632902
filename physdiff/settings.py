"""Checks of the settings of a physics or a solver, at its door."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from numbers import Integral
from typing import Any

from physdiff.registry import nearest


def require_positive(owner: Any, *names: str) -> None:
    """Raise unless each named setting is a positive, finite number."""
    for name in names:
        value = getattr(owner, name)
        if not isinstance(value, (int, float)) or not (math.isfinite(value) and value > 0):
            raise ValueError(f"{type(owner).__name__} needs a positive, finite '{name}'; got {value}.")


def is_whole(value: Any, least: int) -> bool:
    """Whether a setting is a whole number, not 2.0 or True, and large enough."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def settings_of(cls: type) -> dict[str, Any]:
    """The settings of a physics and their defaults: its fields but the basis and the clock, which every physics has."""
    assert is_dataclass(cls)
    return {f.name: f.default for f in fields(cls) if f.init and f.name not in ("basis", "clock")}


def listed(settings: dict[str, Any]) -> str:
    """`diffusivity = 1.0, noise_level = None`; `none` where there are none."""
    return ", ".join(f"{name} = {value}" for name, value in settings.items()) or "none"


def check_names(cls: type, given: Iterable[str]) -> None:
    """Raise if a setting is given that the physics does not have, naming the ones it has."""
    known = settings_of(cls)
    for name in given:
        if name not in known:
            close = f"{nearest(name, known)} " if known else ""
            raise ValueError(f"{cls.__name__} has no setting '{name}'. {close}It has: {listed(known)}.")
