"""How other people's modules are called: what they take for a field and a time, and what they give back.

A convention turns `(x, time, told)` into a call. x holds the field with everything that is put beside it, time is in
[0, 1], and `told` is a vector that embeds the time and what the field is conditioned on. Those whose modules know no
time, or know it as a number, have the vector, or what of it is no time, put beside the field as constant channels.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from physdiff.grid import Grid
from physdiff.registry import nearest

CONSTANT = 8  # constant channels, of those that have them
TIMESTEPS = 1000  # to which such networks are used to count


class Convention(ABC):
    """One way of calling a module.

    Attributes:
        call: As a reader would write it.
        beside: What stands beside the field as constant channels: "all" of time and conditions, the "conditions", or
            "none" because the module takes the vector.
        passed_on: Arguments that the class takes without naming them.
    """

    call: ClassVar[str]
    beside: ClassVar[Literal["all", "conditions", "none"]]
    passed_on: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def fits(self, cls: type[nn.Module]) -> bool:
        """Whether a class is one of those that are called so."""

    @abstractmethod
    def evaluate(self, module: nn.Module, x: Tensor, time: Tensor, told: Tensor) -> Any:
        """The module's answer: a tensor, something with a `sample`, or a tuple that begins with the tensor.

        Args:
            module: What is called.
            x: Shape (batch, inputs, *grid).
            time: Time in [0, 1], shape (batch,).
            told: Shape (batch, length).
        """

    def arguments(self, grid: Grid, inputs: int, outputs: int) -> dict[str, Any]:
        """Arguments of the class that follow from the field."""
        return {"in_channels": inputs, "out_channels": outputs}

    def stride(self, module: nn.Module) -> int:
        """Every axis must have a multiple of so many cells."""
        return 1

    def length(self, module: nn.Module) -> int:
        """Length of the vector `told`."""
        return CONSTANT


class Plain(Convention):
    """A map of fields, such as neuraloperator's FNO and UNO."""

    call = "module(x)"
    beside = "all"

    def fits(self, cls: type[nn.Module]) -> bool:
        return _of_package(cls, "neuralop") or len(_required(cls)) == 1

    def evaluate(self, module: nn.Module, x: Tensor, time: Tensor, told: Tensor) -> Any:
        return module(x)

    def arguments(self, grid: Grid, inputs: int, outputs: int) -> dict[str, Any]:
        # Where the box has no walls, coordinates would invent one.
        periodic = all(word == "periodic" for word in grid.boundary)
        return {**super().arguments(grid, inputs, outputs), **({"positional_embedding": None} if periodic else {})}


class Timed(Convention):
    """A map of fields and a time in [0, 1]."""

    call = "module(x, t), t in [0, 1]"
    beside = "conditions"

    def fits(self, cls: type[nn.Module]) -> bool:
        return _second(cls) in ("t", "time", "times")

    def evaluate(self, module: nn.Module, x: Tensor, time: Tensor, told: Tensor) -> Any:
        return module(x, time)


class Timesteps(Convention):
    """A map of fields and a time that counts to 1,000, as in the networks of DDPM."""

    call = "module(x, t), t in [0, 1000]"
    beside = "conditions"

    def fits(self, cls: type[nn.Module]) -> bool:
        return _second(cls) in ("timestep", "timesteps")

    def evaluate(self, module: nn.Module, x: Tensor, time: Tensor, told: Tensor) -> Any:
        return module(x, TIMESTEPS * time)


class Diffusers(Convention):
    """diffusers' UNet2DModel."""

    call = "module(x, timestep).sample"
    beside = "conditions"

    def fits(self, cls: type[nn.Module]) -> bool:
        return _of_package(cls, "diffusers") and _required(cls)[:2] == ["sample", "timestep"]

    def evaluate(self, module: nn.Module, x: Tensor, time: Tensor, told: Tensor) -> Any:
        config: Any = module.config
        kind = config.get("time_embedding_type", "positional")
        if kind == "fourier":
            return module(x, time.exp())  # its embedding takes the logarithm, and the output is divided by it
        if kind == "learned":
            return module(x, ((config["num_train_timesteps"] - 1) * time).round().long())
        return module(x, TIMESTEPS * time)

    def arguments(self, grid: Grid, inputs: int, outputs: int) -> dict[str, Any]:
        return {**super().arguments(grid, inputs, outputs), "sample_size": list(grid.shape)}

    def stride(self, module: nn.Module) -> int:
        config: Any = module.config
        return 2 ** (len(config["block_out_channels"]) - 1)


class Azula(Convention):
    """azula's networks, modulated by a vector."""

    call = "module(x, vector)"
    beside = "none"
    passed_on = ("mod_features",)

    def fits(self, cls: type[nn.Module]) -> bool:
        return _of_package(cls, "azula") and "mod" in inspect.signature(cls.forward).parameters

    def evaluate(self, module: nn.Module, x: Tensor, time: Tensor, told: Tensor) -> Any:
        return module(x, told)

    def arguments(self, grid: Grid, inputs: int, outputs: int) -> dict[str, Any]:
        periodic = all(word == "periodic" for word in grid.boundary)
        along = {"spatial": grid.ndim, "periodic": periodic, "mod_features": 64}
        return {**super().arguments(grid, inputs, outputs), **along}

    def length(self, module: nn.Module) -> int:
        for part in module.modules():
            modulated = getattr(part, "ada_zero", None)
            if isinstance(modulated, nn.Sequential) and isinstance(first := modulated[0], nn.Linear):
                return first.in_features
        raise ValueError(
            f"{type(module).__name__} was built without a modulation, mod_features = 0, and could not be told the "
            f"time; give it some, or name the convention 'plain'."
        )


# By name; of several that fit a class, the first.
CONVENTIONS: dict[str, Convention] = {
    "diffusers": Diffusers(),
    "azula": Azula(),
    "plain": Plain(),
    "time": Timed(),
    "timesteps": Timesteps(),
}


def convention_of(cls: type[nn.Module], name: str | None = None) -> Convention:
    """How a class is called: as named, else as its package or the signature of its `forward` tells.

    Raises:
        ValueError: there is no such convention, or none fits.
    """
    if name is not None:
        if name not in CONVENTIONS:
            raise ValueError(f"unknown convention '{name}'. {nearest(name, CONVENTIONS)}")
        return CONVENTIONS[name]
    for convention in CONVENTIONS.values():
        if convention.fits(cls):
            return convention
    listed = "; ".join(f"'{name}' for {c.call}" for name, c in CONVENTIONS.items())
    takes = ", ".join(_required(cls)) or "nothing that is known"
    raise ValueError(f"{cls.__name__} takes {takes}; name the convention by which it is called: {listed}.")


def _of_package(cls: type, package: str) -> bool:
    return any(base.__module__.partition(".")[0] == package for base in cls.__mro__)


def _required(cls: type[nn.Module]) -> list[str]:
    """What `forward` must be given."""
    parameters = list(inspect.signature(cls.forward).parameters.values())[1:]
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in parameters if p.kind in kinds and p.default is p.empty]


def _second(cls: type[nn.Module]) -> str:
    names = _required(cls)
    return names[1] if len(names) == 2 else ""
