"""What a network costs, counted and not timed: parameters, and multiply-adds of one evaluation.

A training step costs about three evaluations: one forward, and two as much on the way back. Only convolutions, linear
maps and attention are counted; norms, activations and copies add no multiply-adds to speak of, but time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from physdiff.grid import Grid


@dataclass(frozen=True)
class Cost:
    """Of one network on one grid.

    Attributes:
        parameters: Numbers that are learned.
        multiply_adds: Of one evaluation of one field.
        cells: Cells of the field.
    """

    parameters: int
    multiply_adds: int
    cells: int

    @property
    def per_cell(self) -> float:
        """Multiply-adds of one evaluation per cell of the field."""
        return self.multiply_adds / self.cells


def cost(build: Callable[[], nn.Module], grid: Grid, channels: int) -> Cost:
    """Count what a network costs, without memory or arithmetic for it.

    Args:
        build: Makes the network; it is called where tensors have shapes and no values (torch's meta device).
        grid: Where the fields live.
        channels: Channels that go in.
    """
    with torch.device("meta"), torch.no_grad():
        network = build().eval()
        counter = FlopCounterMode(display=False)
        with counter:
            network(torch.empty(1, channels, *grid.shape), torch.empty(1))
    # Two operations make one multiply-add.
    return Cost(sum(p.numel() for p in network.parameters()), counter.get_total_flops() // 2, grid.size)
