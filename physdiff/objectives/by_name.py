"""An objective from words: its name and plain settings, as they stand in a YAML file or on the command line.

A part of an objective (its weighting, its times, another objective) is named in the same way, by a word, or by a
mapping with `name` and the part's own settings. Words are class names in any spelling: `min_snr` is `MinSNR`.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from physdiff.objectives.objective import objectives
from physdiff.objectives.times import time_samplings
from physdiff.objectives.weighting import weightings
from physdiff.registry import Registry, nearest

# Settings that are parts, by the name of the setting.
PARTS: dict[str, Registry] = {"weighting": weightings, "times": time_samplings, "objective": objectives}


def find(registry: Registry, word: str) -> type:
    """The class of a word.

    Raises:
        ValueError: there is none.
    """
    known = registry.classes()
    spelled = {_plain(name): name for name in known}
    if (plain := _plain(word)) in spelled:
        return known[spelled[plain]]
    if "." in word or ":" in word:
        return registry.find(word)
    near = nearest(plain, spelled)
    for name, own in spelled.items():
        near = near.replace(f"'{name}'", f"'{own}'")
    if near.startswith("Known"):
        near = f"Known: {', '.join(sorted(known))}."
    raise ValueError(f"unknown {registry.kind} '{word}'. {near}")


def build(registry: Registry, given: str | Mapping[str, Any] | Any, option: str) -> Any:
    """An instance from a word, or from a mapping with `name` and settings; one that is an instance already as it is.

    Args:
        registry: The names that are known.
        given: What was asked for.
        option: What the user calls it, for messages, such as "objective.weighting".

    Raises:
        ValueError: there is no such name or setting, or a setting is of the wrong type.
    """
    if isinstance(given, str):
        return with_settings(find(registry, given), {}, option)
    if isinstance(given, Mapping):
        settings = dict(given)
        name = settings.pop("name", None)
        if not isinstance(name, str):
            raise ValueError(f"{option} must be a name, or have one under 'name'; got {dict(given)!r}.")
        return with_settings(find(registry, name), settings, option)
    if isinstance(given, tuple(registry.classes().values())):
        return given
    raise ValueError(f"{option} must be the name of a {registry.kind}, or a mapping with 'name'; got {given!r}.")


def with_settings(cls: type, settings: Mapping[str, Any], option: str) -> Any:
    """An instance of a class of settings, parts built and types checked; arguments as for `build`."""
    known = {f.name: f for f in fields(cls) if f.init}
    hints, values = get_type_hints(cls), {}
    for name, value in settings.items():
        if name not in known:
            listed = ", ".join(n if f.default is MISSING else f"{n} = {f.default}" for n, f in known.items())
            close = nearest(name, known) if known else ""
            close = f"{close} " if close.startswith("Did") else ""
            raise ValueError(f"{option}: {cls.__name__} has no setting '{name}'. {close}It has: {listed or 'none'}.")
        if name in PARTS:
            values[name] = build(PARTS[name], value, f"{option}.{name}")
        else:
            values[name] = _typed(value, hints[name], f"{option}.{name}")
    return cls(**values)


def _typed(value: Any, hint: Any, option: str) -> Any:
    """A plain value as what a setting takes: whole numbers serve as numbers, lists as tuples."""
    allowed = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for one in allowed:
        if get_origin(one) is Literal:
            return value  # the class says itself which words it knows
        if one is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        if one is int and isinstance(value, int) and not isinstance(value, bool):
            return value
        if one in (bool, str) and isinstance(value, one):
            return value
        if one is type(None) and value is None:
            return None
        if get_origin(one) is tuple and isinstance(value, (list, tuple)):
            return tuple(value)
        if isinstance(one, type) and isinstance(value, one) and one is not int:
            return value
    names = " or ".join("none" if a is type(None) else getattr(a, "__name__", str(a)) for a in allowed)
    raise ValueError(f"{option} must be {names}; got {value!r}.")


def _plain(word: str) -> str:
    return word.replace("_", "").replace("-", "").lower()
