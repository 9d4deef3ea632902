"""Where the solvers run. They are in float64 everywhere; what is written comes from the CPU's memory.

Random numbers are drawn on the CPU whatever the device, so that a run starts from the same bits everywhere. Formulas
that numpy and torch write alike serve arrays, on the CPU, and tensors, elsewhere.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

Numbers = TypeVar("Numbers", np.ndarray, Tensor)

_TOGETHER = 2**28  # bytes of stored fields, as float64, that are worked on at once; a solver's own arrays are more


def device_of(name: str) -> str:
    """The device that a recipe was asked for: "auto" is the GPU where there is one.

    Another device rounds differently: the same runs to rounding, and samples of the same law where the flow is chaotic.

    Raises:
        ValueError: there is no such device.
    """
    here = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    if name not in ("auto", *here):
        raise ValueError(f"device must be 'auto' or one of those that are here, {', '.join(here)}; got '{name}'.")
    return here[-1] if name == "auto" else name


def runs_together(values: int, most: int) -> int:
    """How many runs of so many stored values go side by side: at most `most`, at least one, and what memory holds."""
    return max(1, min(most, _TOGETHER // (8 * values)))


def block_on(device: str) -> int:
    """How many runs a solver of small transforms takes at once: one does not fill a GPU; on a CPU one by one."""
    return 64 if device != "cpu" else 1


def library_of(numbers: np.ndarray | Tensor) -> ModuleType:
    """numpy for arrays, torch for tensors."""
    return torch if isinstance(numbers, Tensor) else np


def place_of(name: str) -> str | None:
    """The device that a recipe was asked for, as above, where numpy works in place of torch on the CPU: None is that.

    Raises:
        ValueError: there is no such device.
    """
    device = device_of(name)
    return None if device == "cpu" else device


def placed(values: np.ndarray, place: str | torch.device | None) -> Any:
    """The same numbers as a tensor on a device; as they are where that is None."""
    return values if place is None else torch.from_numpy(values).to(place)


def beside(values: np.ndarray, like: Numbers) -> Numbers:
    """The same numbers where `like` is, an array or a tensor as it is."""
    return placed(values, like.device if isinstance(like, Tensor) else None)


def on_cpu(numbers: np.ndarray | Tensor) -> np.ndarray:
    """The same numbers as an array."""
    return numbers.cpu().numpy() if isinstance(numbers, Tensor) else numbers
