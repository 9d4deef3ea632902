"""Options that name a class: `--solver DDIM --solver.stochasticity 0.5`, or a class of one's own by its import path.

The class is imported before the command line is parsed, so that its settings are options with a type, and so that a
wrong name is answered with the nearest that there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from physdiff.registry import Registry
from physdiff.settings import check_names
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
    """A command line with every named class by its import path.

    Raises:
        ValueError: there is no class of a name, or it has no setting of a name.
    """
    resolved = list(arguments)
    for option, named in OPTIONS.get(resolved[0] if resolved else "", {}).items():
        chosen, settings = named.default, []
        for i, word in enumerate(resolved):
            key, equals, value = word.partition("=")
            if key == f"--{option}" and (equals or i + 1 < len(resolved)):
                chosen = named.find(value if equals else resolved[i + 1])
                path = f"{chosen.__module__}.{chosen.__qualname__}"
                if equals:
                    resolved[i] = f"--{option}={path}"
                else:
                    resolved[i + 1] = path
            elif key.startswith(f"--{option}.") and key != f"--{option}.help":
                settings.append(key.removeprefix(f"--{option}.").removeprefix("init_args.").partition(".")[0])
        if chosen is not None:
            check_names(chosen, settings)
        elif settings:
            kind = named.registry.kind
            raise ValueError(f"--{option}.{settings[0]} is a setting of a {kind}; name the {kind} too, by --{option}.")
    return resolved


def with_underscores(arguments: Sequence[str]) -> list[str]:
    """`--time-grid` as `--time_grid`: options are spelled either way."""
    return [_underscored(word) if word.startswith("--") else word for word in arguments]


def _underscored(word: str) -> str:
    name, equals, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value
