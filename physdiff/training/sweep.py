"""Sweeps: the same run with other settings.

A sweep is a product of axes. An axis is a list of overrides: `training.learning_rate=1e-3,2e-3` on the command line,
a name with a list of values in a YAML file, or a YAML list of overrides that belong together:

    - {denoiser.prediction: v, training.learning_rate: 1e-3}
    - {denoiser.prediction: residual, training.learning_rate: 2e-3}

Every point has a folder of its own, named by its overrides.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import yaml

Overrides = dict[str, Any]

LONGEST = 120  # letters in a folder's name
# A sweep has these itself.
NOT_SETTINGS = ("run", "config", "sweep", "help")


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes:
        name: Of its folder.
        overrides: Settings by their dotted names.
    """

    name: str
    overrides: Overrides

    @property
    def words(self) -> list[str]:
        """The overrides as they are typed."""
        return [f"--{name}={typed(value)}" for name, value in self.overrides.items()]


def points(axes: Sequence[str]) -> list[Point]:
    """All combinations of the axes, the last changing fastest.

    Args:
        axes: Each `NAME=VALUE,VALUE`, or a YAML file.

    Raises:
        ValueError: an axis cannot be understood, or names a setting twice; the file is missing.
    """
    combined: list[Overrides] = []
    for parts in itertools.product(*(entry for axis in axes for entry in _axes(axis))):
        names = Counter(name for part in parts for name in part)
        if twice := [name for name, count in names.items() if count > 1]:
            raise ValueError(f"the sweep sets '{twice[0]}' twice; give all its values at once.")
        combined.append({name: value for part in parts for name, value in part.items()})
    keys = [json.dumps(overrides, sort_keys=True) for overrides in combined]
    if repeated := [key for key, count in Counter(keys).items() if count > 1]:
        raise ValueError(f"the sweep has the point {repeated[0]} twice.")
    return [Point(name, overrides) for name, overrides in zip(_names(combined), combined, strict=True)]


def typed(value: Any) -> str:
    """A value as it is typed on the command line."""
    return value if isinstance(value, str) else json.dumps(value)


def _axes(axis: str) -> list[list[Overrides]]:
    """An axis of the command line, or those of a file."""
    name, equals, values = axis.partition("=")
    if equals:
        return [_axis(name.lstrip("-").replace("-", "_"), _parsed(f"[{values}]", f"--sweep {axis}"), f"--sweep {axis}")]
    file = Path(axis)
    if not file.is_file():
        raise ValueError(f"--sweep takes NAME=VALUE,VALUE or a YAML file; there is no file '{axis}'.")
    content = _parsed(file.read_text(), str(file))
    if isinstance(content, Mapping) and content:
        return [_axis(str(name), values, str(file)) for name, values in content.items()]
    if isinstance(content, list) and content and all(isinstance(entry, Mapping) and entry for entry in content):
        return [[{str(name): _plain(str(name), value) for name, value in entry.items()} for entry in content]]
    raise ValueError(f"{file} must hold values by name, each a list, or a list of overrides by name.")


def _axis(name: str, values: Any, source: str) -> list[Overrides]:
    if not re.fullmatch(r"[A-Za-z_][\w.]*", name):
        raise ValueError(f"{source}: '{name}' is no name of a setting, such as training.learning_rate.")
    if name in NOT_SETTINGS:
        raise ValueError(f"{source}: a sweep has '{name}' itself; it cannot go over it.")
    if not isinstance(values, list) or not values:
        raise ValueError(f"{source}: '{name}' needs a list of values; got {values!r}.")
    return [{name: _plain(name, value)} for value in values]


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        inner = next(iter(value), "...")
        raise ValueError(f"a sweep names settings by dots; say {name}.{inner} in place of {name}: {dict(value)!r}.")
    return value


def _parsed(text: str, source: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{source} cannot be understood: {' '.join(str(error).split())}.") from None


def _names(combined: Sequence[Overrides]) -> list[str]:
    """Folders: overrides by the last word of their names where that is enough to tell them apart."""
    full = list(dict.fromkeys(name for overrides in combined for name in overrides))
    ends = Counter(name.rpartition(".")[2] for name in full)
    short = {name: end if ends[end := name.rpartition(".")[2]] == 1 else name for name in full}
    found = [",".join(f"{short[n]}={_word(value)}" for n, value in overrides.items()) for overrides in combined]
    clash = Counter(found)
    return [
        name if clash[name] == 1 and len(name) <= LONGEST else f"{name[:LONGEST]}-{_digest(overrides)}"
        for name, overrides in zip(found, combined, strict=True)
    ]


def _word(value: Any) -> str:
    """A value as part of a folder's name."""
    return re.sub(r"[^\w.+-]+", "-", typed(value)).strip("-.") or "none"


def _digest(overrides: Overrides) -> str:
    return blake2b(json.dumps(overrides, sort_keys=True).encode(), digest_size=4).hexdigest()
