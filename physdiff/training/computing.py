"""How the network computes: in bfloat16, compiled, with channels last. All around it stays as it is.

Only the network runs under autocast. Its weights stay in float32, its output comes back as float32, so that averages,
optimiser, losses and the physics' coefficients never see a short number.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from physdiff.training.settings import TrainSettings

LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


def network_of(module: nn.Module) -> nn.Module:
    """What is fast or slow in a module: its `network` if it has one, else all of it."""
    network = getattr(module, "network", None)
    return network if isinstance(network, nn.Module) else module


def lay_out(module: nn.Module, settings: TrainSettings) -> None:
    """Put weights of convolutions in two and three dimensions in the asked order, in place."""
    if settings.channels_last:
        for parameter in network_of(module).parameters():
            if parameter.ndim in LAYOUTS:
                parameter.data = parameter.data.to(memory_format=LAYOUTS[parameter.ndim])


@contextmanager
def computing_as(module: nn.Module, settings: TrainSettings) -> Iterator[None]:
    """Within the block the module's network computes as the settings say; after it, as before."""
    network = network_of(module)
    plain = settings.precision == "float32" and not settings.channels_last
    before, compiled = vars(network).get("forward"), network._compiled_call_impl
    if not plain:
        # Bound to the network, so that a copy of it computes with the copy's weights.
        network.forward = MethodType(_wrapped(before or type(network).forward, before is None, settings), network)
    if settings.compile:
        network.compile()
    try:
        yield
    finally:
        network._compiled_call_impl = compiled
        if not plain:
            del network.forward
            if before is not None:
                network.forward = before


def _wrapped(forward: Any, is_method: bool, settings: TrainSettings) -> Any:
    short = settings.precision == "bfloat16"

    def wrapped(network: nn.Module, x: Tensor, *others: Any, **named: Any) -> Tensor:
        own = (network,) if is_method else ()
        if settings.channels_last and x.ndim in LAYOUTS:
            x = x.contiguous(memory_format=LAYOUTS[x.ndim])
        with torch.autocast(x.device.type, torch.bfloat16, enabled=short):
            return forward(*own, x, *others, **named).to(x.dtype)

    return wrapped
