"""Samples on their way: the states between noise and the clean field, as fields.

    trajectory = Trajectory(denoiser.path.basis, every=4)
    x = sample(denoiser, 8, steps=16, callback=trajectory)
    trajectory.times       # 1.0, then every fourth time, and 0.0
    trajectory.fields[-1]  # x itself

Fields are in the model's units, as those of `sample`. A second `sample` on the same times adds its samples to these.
"""

from __future__ import annotations

import torch
from torch import Tensor

from physdiff.basis import Basis


class Trajectory:
    """Records what `physdiff.sample` passes through, as its `callback`.

    Args:
        basis: The basis of the model's path.
        every: Which states are kept: the start, every so many steps, and the end.

    Raises:
        ValueError: `every` is below 1.
    """

    def __init__(self, basis: Basis, every: int = 1) -> None:
        if every < 1:
            raise ValueError(f"a trajectory keeps every k-th state, k at least 1; got {every}.")
        self._basis = basis
        self._every = every
        self._chunks: list[list[tuple[float, Tensor]]] = []
        self._times: list[float] = []  # of all steps of the first chunk
        self._step = 0

    def __call__(self, t: Tensor, modes: Tensor) -> None:
        """Keep a state, or pass over it.

        Args:
            t: Its time, shape (); one that is not earlier than the last begins the next chunk of samples.
            modes: The state, shape (batch, channels, *grid).

        Raises:
            ValueError: the first chunk of samples was not at this time after so many steps.
        """
        if not self._chunks or float(t) >= self._chunks[-1][-1][0]:
            if self._chunks and self._chunks[-1][-1][0] > 0:  # memory ran out, and a smaller chunk is tried
                self._chunks.pop()
            self._chunks.append([])
            self._step = 0
        chunk = self._chunks[-1]
        if len(self._chunks) == 1:
            self._times[self._step :] = [float(t)]
        elif self._times[self._step : self._step + 1] != [float(t)]:
            self._chunks.pop()
            raise ValueError(
                f"this trajectory is of a run on other times, of {len(self._times) - 1} steps: take a new Trajectory "
                f"for each run; got t = {float(t):.6g} after {self._step} steps."
            )
        if chunk and (self._step - 1) % self._every != 0:  # it was the end so far
            chunk.pop()
        chunk.append((float(t), self._basis.inverse(modes).cpu()))
        self._step += 1

    @property
    def times(self) -> Tensor:
        """Times of the kept states, decreasing, shape (kept,), float64."""
        return torch.tensor([t for t, _ in self._first()], dtype=torch.float64)

    @property
    def fields(self) -> Tensor:
        """The kept states in the model's units, shape (kept, n, channels, *grid), on the CPU."""
        kept = range(len(self._first()))
        return torch.stack([torch.cat([chunk[i][1] for chunk in self._chunks]) for i in kept])

    def _first(self) -> list[tuple[float, Tensor]]:
        if not self._chunks:
            raise ValueError("nothing is recorded yet: pass the trajectory to `sample` as its callback.")
        return self._chunks[0]
