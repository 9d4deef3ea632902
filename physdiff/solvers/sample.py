"""The sampling loop: from the reference at t = 1 to clean fields, by any solver on any time grid."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NoReturn

import torch
from torch import Tensor
from tqdm import tqdm

from physdiff.condition import Given, per_field
from physdiff.denoisers.reverse_model import ReverseModel
from physdiff.path import ReferencePath
from physdiff.randomness import SampleNoise, keyed_generator, require_seed
from physdiff.settings import is_whole
from physdiff.solvers.memory import fitting_chunk
from physdiff.solvers.reference_splitting import ReferenceSplitting
from physdiff.solvers.solver import ReverseDynamics, Solver
from physdiff.solvers.suited_grid import suited_grid
from physdiff.solvers.time_grid import TimeGrid
from physdiff.solvers.trajectory import Trajectory

Callback = Callable[[Tensor, Tensor], None]

STATE_TYPES = (torch.float64, torch.float32)


@torch.no_grad()
def sample(
    denoiser: ReverseModel,
    n: int,
    *,
    steps: int = 16,
    solver: Solver | None = None,
    time_grid: TimeGrid | None = None,
    seed: int = 0,
    condition: Given | None = None,
    dtype: torch.dtype = torch.float64,
    chunk: int | Literal["auto"] = 64,
    memory_limit: int | None = None,
    progress: bool = False,
    callback: Callback | None = None,
) -> Tensor:
    """Fields drawn from a denoiser's law, on the device of its parameters.

    Args:
        denoiser: The model or an exact denoiser.
        n: Number of samples.
        steps: Steps, the last of them from t_min to the clean field.
        solver: Step rule; `ReferenceSplitting()` when not given.
        time_grid: Where the steps stop; `suited_grid(solver, path)` when not given, `Angle()` for the default solver.
        seed: Sample i draws its noise from (seed, i) alone: it is the same in any batch, to rounding, or to the
            tolerance of a solver that measures its errors over the batch.
        condition: Passed on to the denoiser, shape (n, ...), or (1, ...) when it is the same for all.
        dtype: Of the state between steps, float64 or float32, whatever the network runs in; coefficients are float64.
        chunk: Samples that are computed together, at most; "auto" for as many as fit into the memory.
        memory_limit: Bytes that a chunk may take, beside the model and the fields that are done: as many samples as
            fit are computed together, up to `chunk`. When it is not given, "auto" takes most of what is free.
        progress: Whether to show a bar.
        callback: Called as `callback(t, modes)` after each step of each chunk; a `Trajectory` gets the start as well.

    Returns:
        Fields in the model's units, shape (n, channels, *grid), of type `dtype`, on the CPU.

    Raises:
        ValueError: n, steps or chunk is no whole number or below 1; seed is outside [0, 2⁶³); dtype or the condition's
            length is another; the memory limit does not hold one sample; the solver is for linear processes only, and
            this is none.
        MemoryError: the accelerator has no room for one sample.
        FloatingPointError: a sample is not finite.
    """
    _check(denoiser, n, solver, seed, dtype, chunk)
    solver = ReferenceSplitting() if solver is None else solver
    times = (suited_grid(solver, denoiser.path) if time_grid is None else time_grid).times(denoiser.path, steps)
    given = per_field(condition, n, "sample")
    given = None if given is None else given.to(denoiser.device)
    if chunk == "auto" or memory_limit is not None:
        most = n if chunk == "auto" else chunk
        most = fitting_chunk(denoiser, most, memory_limit, given, dtype)
        chunk = -(-n // -(-n // most))  # as many chunks as it takes, of equal size
    done: list[Tensor] = []
    with tqdm(total=n * steps, desc="sample", unit="step", disable=not progress, leave=False) as bar:
        loop = _Loop(denoiser, solver, times, seed, given, dtype, callback, bar)
        first = 0
        while first < n:
            members = range(first, min(first + chunk, n))
            bar.n = first * steps
            fields = loop.run(members)
            if fields is None:
                chunk = _half(len(members), denoiser)
                continue
            done.append(fields)
            first = members.stop
    return torch.cat(done)


@dataclass(frozen=True)
class _Loop:
    """All steps of a chunk of samples."""

    model: ReverseModel
    solver: Solver
    times: Tensor
    seed: int
    condition: Given | None
    dtype: torch.dtype
    callback: Callback | None
    bar: tqdm[NoReturn]

    def run(self, members: range) -> Tensor | None:
        """Fields of the samples of these numbers; None where an accelerator's memory does not hold them."""
        try:
            return self._run(members)
        except torch.OutOfMemoryError:
            return None

    def _run(self, members: range) -> Tensor:
        path, solver = self.model.path, self.solver
        seeds = [keyed_generator(self.seed, "sample", i).initial_seed() for i in members]
        dynamics = ReverseDynamics(
            self.model, None if self.condition is None else self.condition[members.start : members.stop]
        )
        noise = SampleNoise(seeds, "solver")
        white = SampleNoise(seeds, "start")(tuple(path.reference.spectrum.shape))
        y = path.at(1.0).unwhiten(white.to(self.model.device, self.dtype))
        if isinstance(self.callback, Trajectory):
            self.callback(self.times[0], y)
        for t, s in pairwise(self.times):
            y = solver.step(dynamics, y, t, s, noise).to(self.dtype)
            if not bool(y.isfinite().all()):
                raise FloatingPointError(
                    f"samples are not finite at t = {float(s):.3g}, after a step of {type(solver).__name__} from "
                    f"{float(t):.3g}: take more steps; if that does not help, the score is wrong far from the "
                    "data, or the physics cannot be run backwards (a reaction faster than x: saturate it)."
                )
            self.bar.update(len(members))
            if self.callback is not None:
                self.callback(s, y)
        return path.basis.inverse(y).cpu()


def _check(
    denoiser: ReverseModel, n: int, solver: Solver | None, seed: int, dtype: torch.dtype, chunk: int | str
) -> None:
    if isinstance(chunk, str) and chunk != "auto":
        raise ValueError(f"chunk must be a number of samples or 'auto'; got '{chunk}'.")
    if not is_whole(n, 1) or not (chunk == "auto" or is_whole(chunk, 1)):
        raise ValueError(f"n and chunk must be whole numbers, at least 1; got n = {n!r}, chunk = {chunk!r}.")
    if dtype not in STATE_TYPES:
        raise ValueError(f"dtype must be torch.float64 or torch.float32, of the state; got {dtype}.")
    require_seed(seed)
    if not (solver is None or solver.any_process or isinstance(denoiser.path, ReferencePath)):
        raise ValueError(
            f"{type(solver).__name__} works under linear processes only; {type(denoiser.path.process).__name__} is "
            "simulated: take ReferenceSplitting."
        )


def _half(samples: int, model: ReverseModel) -> int:
    """The size of the next chunk, after one of this size did not fit."""
    if samples == 1:
        raise MemoryError(f"one sample of shape {tuple(model.path.reference.spectrum.shape)} does not fit into memory.")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    half = samples // 2
    warnings.warn(f"{samples} samples did not fit into memory together; going on with {half}.", stacklevel=4)
    return half
