"""Where the solvers in torch run. They are in float64 everywhere; what is written comes from the CPU's memory."""

from __future__ import annotations

import torch


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
