"""Options that name a class: `--solver DDIM --solver.stochasticity 0.5`, or a class of one's own by its import path.

The class is imported before the command line is parsed, so that its settings are options with a type, and so that a
wrong name is answered with the nearest that there is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from physdiff.data.layout import Layout
from physdiff.registry import Registry
from physdiff.settings import check_names, settings_of
from physdiff.solvers import ReferenceSplitting, Solver, TimeGrid, solvers, time_grids


@dataclass(frozen=True)
class NamedOption:
    """An option whose value is the name of a class.

    Attributes:
        registry: The names that are known.
        kind: What the class must be.
        default: The class that settings are for when none is named; None if there is no such.
    """

    registry: Registry
    kind: type
    default: type | None = None

    @property
    def help(self) -> str:
        """The names that there are, as the end of a help text."""
        known = ", ".join(self.registry.classes())
        return f"One of {known}; or your own, as module.Class or file.py:Class"

    def find(self, name: str) -> type:
        """The class of a name.

        Raises:
            ValueError: there is none, or it is of another kind.
        """
        cls = self.registry.find(name)
        asked = f"{self.registry.kind} '{name}': {cls.__name__}"
        if not issubclass(cls, self.kind):
            raise ValueError(f"{asked} is not a subclass of physdiff.{self.kind.__name__}.")
        if missing := sorted(getattr(cls, "__abstractmethods__", ())):
            raise ValueError(f"{asked} is abstract; it must define {' and '.join(missing)}.")
        if "__dataclass_fields__" not in vars(cls):
            raise ValueError(f"{asked} is no dataclass; put @dataclass(frozen=True) above it.")
        return cls


OPTIONS = {
    "sample": {
        "solver": NamedOption(solvers, Solver, ReferenceSplitting),
        "time_grid": NamedOption(time_grids, TimeGrid),
    }
}


def resolve(arguments: Sequence[str]) -> list[str]:
    """A command line with every named class by its import path, ahead of its settings.

    Raises:
        ValueError: there is no class of a name, or it has no setting of a name.
    """
    resolved = list(arguments)
    for option, named in OPTIONS.get(resolved[0] if resolved else "", {}).items():
        resolved = _resolved(resolved, option, named)
    return resolved


def _resolved(words: list[str], option: str, named: NamedOption) -> list[str]:
    """The same for one option, and for those of its settings that are classes themselves."""
    chosen, name, settings = named.default, None, []
    rest, first, i = list(words), len(words), 0
    while i < len(rest):
        key, equals, value = rest[i].replace(".init_args.", ".").partition("=")
        if key == f"--{option}" and (equals or i + 1 < len(rest)):
            chosen = named.find(value if equals else rest[i + 1])
            name = f"--{option}={chosen.__module__}.{chosen.__qualname__}"
            first = min(first, i)
            del rest[i : i + (1 if equals else 2)]
            continue
        if key.startswith(f"--{option}.") and key != f"--{option}.help":
            settings.append(key.removeprefix(f"--{option}.").partition(".")[0])
            first = min(first, i)
        i += 1
    if chosen is None:
        if settings:
            kind = named.registry.kind
            raise ValueError(f"--{option}.{settings[0]} is a setting of a {kind}; name the {kind} too, by --{option}.")
        return rest
    check_names(chosen, settings)
    if name is not None:
        rest.insert(first, name)
    for setting, default in settings_of(chosen).items():
        if isinstance(default, named.kind):
            rest = _resolved(rest, f"{option}.{setting}", NamedOption(named.registry, named.kind, type(default)))
    return rest


def as_typed(message: str, arguments: Sequence[str]) -> str:
    """An error about `--order` as one about the option that was typed, `--solver.order`."""
    found = re.match(r"--(\w+): .*Got value: (.*?)(?:\. Did you mean .*)?$", message)
    if found is None:
        return message
    setting, wrong = found.groups()
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        key, equals, value = word.partition("=")
        if key.startswith("--") and key.endswith(f".{setting}") and (value if equals else following) == wrong:
            return key + message.removeprefix(f"--{setting}")
    return message


def with_layout_in_full(arguments: Sequence[str]) -> list[str]:
    """A layout file by its settings where one of them is told beside it: `--data.layout.boundary neumann`.

    The parser would take the one setting in place of the file, and what else stands there would be lost without a word.
    """
    if not any(word.startswith("--data.layout.") for word in arguments):
        return list(arguments)
    file: object = None
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        option, equals, value = word.partition("=")
        value = value if equals else following
        if option == "--data.layout":
            file = value
        elif option == "--config" and Path(value).is_file():
            data = (yaml.safe_load(Path(value).read_text()) or {}).get("data") or {}
            file = data.get("layout")
    if not isinstance(file, str) or not file.endswith((".yaml", ".yml")):
        return list(arguments)
    said = {name: value for name, value in vars(Layout.of(file)).items() if value is not None}
    words: list[str] = []
    left = iter(arguments)
    for word in left:
        if word == "--data.layout":
            next(left, None)
        elif not word.startswith("--data.layout="):
            words.append(word)
    first = next(i for i, word in enumerate(words) if word.startswith("--data.layout."))
    return [*words[:first], f"--data.layout={json.dumps(said)}", *words[first:]]


def with_underscores(arguments: Sequence[str]) -> list[str]:
    """`--time-grid` as `--time_grid`: options are spelled either way."""
    return [_underscored(word) if word.startswith("--") else word for word in arguments]


def _underscored(word: str) -> str:
    name, equals, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value
