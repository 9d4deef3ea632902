"""Averaged weights that are carried along: the one that is validated and sampled, and power profiles beside it.

Every average is a list of tensors in the order of the trained parameters. Parameters that are shared out over processes
are averaged where they lie, each process its own part.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from physdiff.training.power_profile import exponent_of, kept
from physdiff.training.settings import TrainSettings


class Averages:
    """The averages of a module's trained parameters.

    Args:
        parameters: The trained parameters, by name.
        ema: Those of the averaged module, by name: they hold the average itself where nothing is shared out.
        settings: Decay and widths.
    """

    def __init__(
        self, parameters: dict[str, nn.Parameter], ema: dict[str, nn.Parameter], settings: TrainSettings
    ) -> None:
        self.names = list(parameters)
        self.settings = settings
        self.exponents = [exponent_of(width) for width in settings.ema_widths]
        self._current = [local(p) for p in parameters.values()]
        shared_out = any(hasattr(p, "device_mesh") for p in parameters.values())
        self.ema = [x.clone() for x in self._current] if shared_out else [ema[name].detach() for name in self.names]
        self.profiles = [[x.clone() for x in self._current] for _ in self.exponents]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after a step, counted from 0; the first replaces what was there."""
        decay = self.settings.ema_decay_at(step) if step else 0.0
        _lerp(self.ema, self._current, 1 - decay)
        for exponent, profile in zip(self.exponents, self.profiles, strict=True):
            _lerp(profile, self._current, 1 - kept(exponent, step + 1))


def _lerp(average: list[Tensor], current: list[Tensor], weight: float) -> None:
    if weight == 1:  # whatever was there, an infinity included
        torch._foreach_copy_(average, current)  # pyright: ignore[reportPrivateImportUsage]
    else:
        torch._foreach_lerp_(average, current, weight)  # pyright: ignore[reportPrivateImportUsage]


def local(parameter: Tensor) -> Tensor:
    """What this process holds of a tensor, sharing its memory."""
    parameter = parameter.detach()
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter  # pyright: ignore
