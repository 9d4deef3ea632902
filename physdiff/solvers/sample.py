"""The sampling loop: from the reference at t = 1 to clean fields, by any solver on any time grid."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor
from tqdm import tqdm

from physdiff.denoisers.reverse_model import ReverseModel
from physdiff.path import ReferencePath
from physdiff.randomness import SampleNoise, keyed_generator, require_seed
from physdiff.solvers.reference_splitting import ReferenceSplitting
from physdiff.solvers.solver import ReverseDynamics, Solver
from physdiff.solvers.time_grid import LogSpaced, TimeGrid


@torch.no_grad()
def sample(
    denoiser: ReverseModel,
    n: int,
    *,
    steps: int = 16,
    solver: Solver | None = None,
    time_grid: TimeGrid | None = None,
    seed: int = 0,
    condition: Tensor | None = None,
    chunk: int = 64,
    progress: bool = False,
    callback: Callable[[Tensor, Tensor], None] | None = None,
) -> Tensor:
    """Fields drawn from a denoiser's law.

    Args:
        denoiser: The model or an exact denoiser.
        n: Number of samples.
        steps: Steps, the last of them from t_min to the clean field.
        solver: Step rule; `ReferenceSplitting()` when not given.
        time_grid: Where the steps stop; `LogSpaced()` when not given.
        seed: Sample i draws its noise from (seed, i) alone: it is the same in any batch, to rounding.
        condition: Passed on to the denoiser, shape (n, ...).
        chunk: Samples that are computed together.
        progress: Whether to show a bar.
        callback: Called as `callback(t, modes)` after each step of each chunk.

    Returns:
        Fields in the model's units, shape (n, channels, *grid), float64.

    Raises:
        ValueError: n, steps or chunk is below 1; seed is outside [0, 2⁶³); the solver is for linear processes only,
            and this is none.
        FloatingPointError: a sample is not finite.
    """
    if min(n, chunk) < 1:
        raise ValueError(f"n and chunk must be at least 1; got n = {n}, chunk = {chunk}.")
    require_seed(seed)
    solver = ReferenceSplitting() if solver is None else solver
    path = denoiser.path
    if not (solver.any_process or isinstance(path, ReferencePath)):
        raise ValueError(
            f"{type(solver).__name__} works under linear processes only; {type(path.process).__name__} is simulated: "
            "take ReferenceSplitting."
        )
    times = (LogSpaced() if time_grid is None else time_grid).times(path, steps)
    device = next((p.device for p in denoiser.parameters()), torch.device("cpu"))
    shape = tuple(path.reference.spectrum.shape)
    done: list[Tensor] = []
    with tqdm(total=-(-n // chunk) * steps, desc="sample", unit="step", disable=not progress, leave=False) as bar:
        for first in range(0, n, chunk):
            members = range(first, min(first + chunk, n))
            seeds = [keyed_generator(seed, "sample", i).initial_seed() for i in members]
            part = None if condition is None else condition[members.start : members.stop]
            dynamics = ReverseDynamics(denoiser, part)
            noise = SampleNoise(seeds, "solver")
            y = path.at(1.0).unwhiten(SampleNoise(seeds, "start")(shape).to(device))
            for t, s in pairwise(times):
                y = solver.step(dynamics, y, t, s, noise)
                if not bool(y.isfinite().all()):
                    raise FloatingPointError(
                        f"samples are not finite at t = {float(s):.3g}, after a step of {type(solver).__name__} from "
                        f"{float(t):.3g}: take more steps; if that does not help, the score is wrong far from the "
                        "data, or the physics cannot be run backwards (a reaction faster than x: saturate it)."
                    )
                bar.update()
                if callback is not None:
                    callback(s, y)
            done.append(path.basis.inverse(y))
    return torch.cat(done)
