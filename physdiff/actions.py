r"""Actions: laws e^{−S}/Z that are known up to their constant Z, as Boltzmann weights and lattice theories are.

An action is any function from physical fields, shape (n, channels, *grid), to S, shape (n,). It is named as a process
is: the one that comes with the toolkit by its word, a user's own function or class by where it stands.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from physdiff.basis import SpectralBasis
from physdiff.grid import Grid
from physdiff.processes.lattice_phi4 import LatticePhi4
from physdiff.registry import nearest, spelled

Action = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Phi4Action:
    r"""S = Σ_x [ −2κ Σ_μ φ_x φ_{x+μ} + (1 − 2λ) φ_x² + λ φ_x⁴ ] on a periodic lattice of any dimension.

    Attributes:
        hopping: κ > 0.
        coupling: λ ≥ 0; with λ = 0, the free field, κ must be below 1/(2d) for Z to be finite.

    Source: Smit (2002), chapter 3.
    """

    hopping: float = 0.21
    coupling: float = 0.022

    def __post_init__(self) -> None:
        _theory(self, (1,))  # refuses what it cannot use
        self.check_finite(1)

    def check_finite(self, dimensions: int) -> None:
        """Raise unless Z is finite on lattices of so many dimensions: a free field needs κ < 1/(2d)."""
        if self.coupling == 0 and self.hopping >= 0.5 / dimensions:
            raise ValueError(
                f"Phi4Action with 'coupling' 0 needs a 'hopping' below {0.5 / dimensions:g} = 1/(2d) in {dimensions} "
                f"dimensions, or Z is infinite; got {self.hopping}."
            )

    def __call__(self, fields: Tensor) -> Tensor:
        """S of fields, shape (n, channels, *grid) to (n,), summed over channels."""
        self.check_finite(fields.ndim - 2)
        return _theory(self, tuple(fields.shape[2:])).action(fields)


@cache
def _theory(action: Phi4Action, sites: tuple[int, ...]) -> LatticePhi4:
    """The same theory as a process, which states the action; its sites are one apart."""
    basis = SpectralBasis(Grid(sites, tuple(float(n) for n in sites), "periodic"))
    return LatticePhi4(basis, hopping=action.hopping, coupling=action.coupling)


NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
BUILT_IN: dict[str, Callable[..., Any]] = {"LatticePhi4": Phi4Action}


def find_action(name: str, settings: Mapping[str, Any] | None = None) -> Action:
    """The action of a built-in word, of `module.function` or of `path/to/file.py:function`.

    Args:
        name: What names it; for a class, its instance is the action.
        settings: Given to the class, or to the function beside the fields.

    Raises:
        ValueError: there is no such word, file, module or function, it cannot be imported, has no such setting,
            or needs one that is not given.
    """
    name = spelled(name, BUILT_IN)
    found = BUILT_IN[name] if name in BUILT_IN else _of_user(name)
    settings = dict(settings or {})
    parameters = list(inspect.signature(found).parameters.values())
    own = parameters if isinstance(found, type) else parameters[1:]
    known = [p.name for p in own]
    for word in settings:
        if word not in known and all(p.kind is not p.VAR_KEYWORD for p in own):
            hint = nearest(word, known) if known else "It has none."
            raise ValueError(f"action '{name}' has no setting '{word}'. {hint}")
    missing = [p.name for p in own if p.default is p.empty and p.kind in NAMED and p.name not in settings]
    if missing:
        raise ValueError(
            f"action '{name}' needs the setting '{missing[0]}', as in --action_settings.{missing[0]} VALUE."
        )
    if not isinstance(found, type):
        return partial(found, **settings)
    try:
        return found(**settings)
    except Exception as error:
        if isinstance(error, ValueError) and name in BUILT_IN:
            raise
        raise ValueError(f"action '{name}' with {settings}: {type(error).__name__}: {error}") from error


def action_of(action: Action, fields: Tensor) -> Tensor:
    """S of physical fields, shape (n, channels, *grid) to (n,), float64.

    Raises:
        ValueError: the action raises, or returns another shape.
    """
    try:
        with torch.no_grad():
            found = action(fields.to(torch.float64))
    except Exception as error:
        if isinstance(error, ValueError) and isinstance(action, Phi4Action):
            raise
        inner = traceback.extract_tb(error.__traceback__)[1:]  # the first line is the one above
        where = f" at {Path(inner[0].filename).name}, line {inner[0].lineno}" if inner else ""
        raise ValueError(
            f"the action failed on fields of shape {tuple(fields.shape)}{where}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(found, Tensor) or tuple(found.shape) != (len(fields),):
        got = f"the shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"an action returns one number a field, shape ({len(fields)},), for fields of shape "
            f"{tuple(fields.shape)}; got {got}."
        )
    return found.to(torch.float64)


def observables(fields: Tensor, action: Action) -> dict[str, Tensor]:
    """What is commonly asked of configurations, shape (n, channels, *grid) to (n,) each.

    `mean_square` is φ² per site, `magnetisation` |M| with M the mean of φ over sites and channels, `action` is S.
    """
    return {
        "mean_square": fields.square().flatten(1).mean(1),
        "magnetisation": fields.flatten(1).mean(1).abs(),
        "action": action_of(action, fields),
    }


def _of_user(name: str) -> Callable[..., Any]:
    path, _, member = name.partition(":") if ":" in name else name.rpartition(".")
    if not path or not member:
        raise ValueError(
            f"unknown action '{name}'. {nearest(name, BUILT_IN)} Your own is named as module.function or "
            "path/to/file.py:function."
        )
    module = _from_file(path, name) if ":" in name else _from_module(path, name)
    found = getattr(module, member, None)
    if not callable(found):
        own = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise ValueError(f"action '{name}': {path} has no function '{member}'. {nearest(member, own)}")
    return found


def _from_file(path: str, name: str) -> Any:
    file = Path(path).resolve()
    # Dataclasses look their module up: it needs a name in sys.modules that no other has.
    unique = f"physdiff_action_{hashlib.blake2b(str(file).encode(), digest_size=8).hexdigest()}"
    spec = importlib.util.spec_from_file_location(unique, file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise ValueError(f"action '{name}': there is no Python file {path}.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[unique]
        raise ValueError(f"action '{name}': {type(error).__name__}: {error}") from error
    return module


def _from_module(path: str, name: str) -> Any:
    sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(path)
    except Exception as error:
        raise ValueError(f"action '{name}': {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(os.getcwd())
