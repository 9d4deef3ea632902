"""What every bound asks of its caller, and the noise of each field."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from physdiff.bounds.terms import FRACTIONS, MODEL_SPREADS, Variance
from physdiff.condition import Given
from physdiff.denoisers.posterior_mean import PosteriorMean
from physdiff.path import ReferencePath
from physdiff.randomness import keyed_generator, require_seed
from physdiff.registry import nearest
from physdiff.simulated_path import SimulatedPath


def require_counts(**counts: int) -> None:
    """Raise unless all are whole numbers, at least 1."""
    for name, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ValueError(f"{name} must be a whole number, at least 1; got {count!r}.")


def require_linear(denoiser: object, function: str) -> None:
    """Raise unless a denoiser is one under a linear process that noises every mode of the support."""
    if not isinstance(denoiser, PosteriorMean):
        raise ValueError(
            f"{function} needs a denoiser under a linear process (a PosteriorMean); got {type(denoiser).__name__}. "
            "For the score of a simulated process use simulated_elbo."
        )
    path = denoiser.path
    noise = path.at(path.t_min).noise_variance.expand_as(path.reference.spectrum)[path.reference.support]
    if not bool((noise > 0).all()):
        raise ValueError(
            f"{type(path.process).__name__} gives no noise to {int((noise <= 0).sum())} modes of the data: a bound "
            "needs noise in every mode that varies."
        )


def require_variance(variance: Variance, uncertainty: float) -> None:
    """Raise unless the reverse variance is one of the rules, or lies between β̃ and Σ."""
    if isinstance(variance, str):
        known = (*MODEL_SPREADS, *FRACTIONS)
        if variance not in known:
            raise ValueError(f"unknown variance '{variance}'. {nearest(variance, known)}")
    elif not bool(((torch.as_tensor(variance) >= 0) & (torch.as_tensor(variance) <= 1)).all()):
        raise ValueError(f"a variance between 'posterior' (0) and 'upper' (1) must lie in [0, 1]; got {variance}.")
    if not 0 < uncertainty < math.inf:
        raise ValueError(
            f"uncertainty must be positive and finite, since a decoder that claims to know all has no density; got "
            f"{uncertainty}. DDPM's transitions are variance='posterior'."
        )


def checked_deviation(path: ReferencePath | SimulatedPath, x: Tensor, condition: Given | None) -> Tensor:
    """Modes of x − μ, for fields that have a density."""
    if x.ndim == 0 or len(x) < 1:
        raise ValueError(f"a bound needs at least 1 field; got x of shape {tuple(x.shape)}.")
    deviation = path.reference.deviation(x).cpu()
    if condition is not None and len(condition) != len(x):
        raise ValueError(f"a condition must be given for each of {len(x)} fields; got {len(condition)}.")
    return deviation


class Draws:
    """Fields in groups that are computed together, each field with its own noise and all its draws.

    Args:
        deviation: Modes of the fields, shape (n, channels, *grid).
        condition: Of the fields, shape (n, ...), if any.
        draws: Draws of each field.
        seed: Field i draws from (seed, first + i).
        chunk: Most states in a group, of at least one field.
        first: Number of the first field.
    """

    def __init__(
        self, deviation: Tensor, condition: Given | None, draws: int, seed: int, chunk: int, first: int = 0
    ) -> None:
        require_seed(seed)
        if first < 0:
            raise ValueError(f"first must be at least 0; got {first}.")
        self.deviation, self.condition, self.draws = deviation, condition, draws
        self.generators = [keyed_generator(seed, "elbo", first + i) for i in range(len(deviation))]
        self.size = max(1, chunk // draws)

    def groups(self) -> Iterator[tuple[slice, Tensor, Given | None]]:
        """Rows, and the deviation and condition of each draw of them, shape (rows · draws, ...)."""
        for first in range(0, len(self.deviation), self.size):
            rows = slice(first, min(first + self.size, len(self.deviation)))
            given = None if self.condition is None else self.condition[rows].repeat_interleave(self.draws, 0)
            yield rows, self.deviation[rows].repeat_interleave(self.draws, 0), given

    def noise(self, rows: slice) -> Tensor:
        """Unit normal, shape (rows · draws, channels, *grid); each call continues the streams."""
        shape = (self.draws, *self.deviation.shape[1:])
        drawn = [torch.randn(shape, generator=g, dtype=torch.float64) for g in self.generators[rows]]
        return torch.cat(drawn)

    def uniform(self, rows: slice) -> Tensor:
        """In [0, 1), shape (rows · draws,)."""
        return torch.cat([torch.rand(self.draws, generator=g, dtype=torch.float64) for g in self.generators[rows]])
