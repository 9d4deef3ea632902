"""Settings that go by name: a value for each variable of an equation, and constants that runs share or draw."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from physdiff.registry import nearest


def constants_of(constants: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Constants that all runs share, and the ends between which the others are drawn for each.

    Raises:
        ValueError: one is neither a number nor a range.
    """
    fixed, drawn = {}, {}
    for name, value in constants.items():
        ends = value if isinstance(value, list | tuple) else (value,)
        real = all(map(_is_real, ends))
        if not real or len(ends) not in (1, 2) or ends[0] > ends[-1]:
            raise ValueError(f"constant '{name}' is a number or a range [lowest, highest]; got {value!r}.")
        if isinstance(value, list | tuple) and len(ends) == 2:
            drawn[name] = (float(ends[0]), float(ends[1]))
        else:
            fixed[name] = float(ends[0])
    return fixed, drawn


def by_name(setting: str, given: Any, variables: Mapping[str, str], otherwise: float) -> dict[str, Any]:
    """A setting of each variable: what all share, or what was given by name.

    Args:
        setting: Its name, for messages.
        given: One value, or values by the names of variables.
        variables: Right hand sides by name.
        otherwise: Of variables that are not named.

    Raises:
        ValueError: a name is that of no variable.
    """
    if not isinstance(given, Mapping):
        return dict.fromkeys(variables, given)
    for name in given:
        if name not in variables:
            raise ValueError(f"{setting} is given for '{name}', which has no equation. {nearest(str(name), variables)}")
    return {name: given.get(name, otherwise) for name in variables}


def positive(setting: str, values: Mapping[str, Any], may_be_zero: bool = False) -> dict[str, float]:
    """The values of a setting as numbers above 0, or of at least 0.

    Raises:
        ValueError: one is none.
    """
    for name, value in values.items():
        if not _is_real(value) or value < 0 or (value == 0 and not may_be_zero):
            least = "at least 0" if may_be_zero else "above 0"
            raise ValueError(f"{setting} of '{name}' is a number {least}; got {value!r}.")
    return {name: float(value) for name, value in values.items()}


def _is_real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
