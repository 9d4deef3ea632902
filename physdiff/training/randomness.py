"""Randomness as a function of names: every draw of a run is keyed by its seed and its step, none by its past.

A generator that is carried along makes step 1000 depend on every draw before it, and a resumed run must then
restore a hidden state. Here the generator of a step is made from (seed, purpose, step) alone, so a run can be
taken up anywhere and repeats itself bit by bit; so can its data order, a function of (seed, step).

Limit (C): torch's CPU engine keeps 32 bits of a seed, so two different keys share their noise with a
probability of 2⁻³²: about one pair in a run of 100 000 steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from physdiff.data.order import FullOrder, rows_at
from physdiff.randomness import keyed_generator

__all__ = ["batch_indices", "keyed_generator", "keyed_global_state"]


@contextmanager
def keyed_global_state(device: torch.device, seed: int, *keys: int | str) -> Iterator[None]:
    """Let code that draws from torch's global generators (dropout) draw keyed noise, and leave no trace.

    Args:
        device: Where that code runs; its generator and the CPU's are set inside and restored after.
        seed: The run's seed.
        keys: As for `keyed_generator`.
    """
    accelerated = device.type == "cuda"
    number = keyed_generator(seed, *keys).initial_seed()
    with torch.random.fork_rng(devices=[device] if accelerated else []):
        # Not torch.manual_seed: that would seed, and not restore, every other device.
        torch.default_generator.manual_seed(number)
        if accelerated:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(number)
        yield


def batch_indices(n: int, batch_size: int, step: int, seed: int) -> Tensor:
    """Rows of the data set that a step trains on; the epochs' permutations are read one after the other.

    Args:
        n: Rows in the data set.
        batch_size: Rows of a batch; may exceed n, and then spans epochs.
        step: Number of the step, from 0.
        seed: The run's seed.

    Returns:
        Row numbers, int64, shape (batch_size,).

    Raises:
        ValueError: n or batch_size is below 1, or step below 0.
    """
    if n < 1 or batch_size < 1 or step < 0:
        raise ValueError(
            "a batch needs n >= 1, batch_size >= 1 and step >= 0; "
            f"got n = {n}, batch_size = {batch_size}, step = {step}."
        )
    return rows_at(FullOrder(n), step * batch_size, batch_size, seed)
