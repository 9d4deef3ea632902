"""Checks of the settings of a physics, at its door."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any

from physdiff.registry import nearest


def require_positive(owner: Any, *names: str) -> None:
    """Raise unless each named setting is a positive, finite number."""
    for name in names:
        value = getattr(owner, name)
        if not isinstance(value, (int, float)) or not (math.isfinite(value) and value > 0):
            raise ValueError(f"{type(owner).__name__} needs a positive, finite '{name}'; got {value}.")


def check_names(cls: type, given: Iterable[str], leave_out: tuple[str, ...] = ()) -> None:
    """Raise if a setting is given that the dataclass does not have, naming the ones it has."""
    assert is_dataclass(cls)
    known = {f.name: f.default for f in fields(cls) if f.init and f.name not in leave_out}
    for name in given:
        if name not in known:
            has = ", ".join(f"{k} = {v}" for k, v in known.items()) or "none"
            raise ValueError(f"{cls.__name__} has no setting '{name}'. {nearest(name, known)} It has: {has}.")
