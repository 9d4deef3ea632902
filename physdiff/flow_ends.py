"""The two ends of the probability flow: what fields are as states at t_min, and what latents are at t = 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import torch
from torch import Tensor

from physdiff.condition import Given
from physdiff.denoisers.reverse_model import ReverseModel
from physdiff.path import ReferencePath
from physdiff.randomness import SampleNoise, require_seed
from physdiff.registry import nearest
from physdiff.scored import Scored
from physdiff.simulated_path import SimulatedPath
from physdiff.trace import ExactTrace, TraceEstimator


def estimator_of(trace: TraceEstimator | str) -> TraceEstimator:
    """The estimator that is given, or that a word names."""
    if isinstance(trace, TraceEstimator):
        return trace
    if trace != "exact":
        raise ValueError(
            f"trace must be 'exact' or an estimator, such as Hutchinson(8); got {trace!r}. "
            f"{nearest(str(trace), ['exact', *(cls.__name__ for cls in TraceEstimator.__subclasses__())])}"
        )
    return ExactTrace()


def wants_graph(differentiable: bool | None, x: Tensor) -> bool:
    """Whether results are to be differentiated."""
    if differentiable and not torch.is_grad_enabled():
        raise ValueError("differentiable=True needs gradients, which torch.no_grad() or inference_mode() switches off.")
    return x.requires_grad and torch.is_grad_enabled() if differentiable is None else differentiable


def check_settings(scored: str, chunk: int, seed: int, first: int = 0) -> None:
    """Raise unless settings that all maps between fields and latents share are in their range."""
    if scored not in get_args(Scored):
        raise ValueError(f"scored must be 'field', 'noised' or 'state'; got '{scored}'.")
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1; got {chunk}.")
    if first < 0:
        raise ValueError(f"first must be at least 0; got {first}.")
    require_seed(seed)


def state_of(denoiser: ReverseModel, x: Tensor, scored: Scored, seeds: list[int]) -> tuple[Tensor, float]:
    """Modes at t_min, and the log-determinant that carries their density to what is scored."""
    path = denoiser.path
    reference = path.reference
    if scored == "state":
        y = path.basis.forward(x.to(torch.float64))
        path.law(path.t_min).deviation(x.to(torch.float64))  # refuses energy outside the support
        return y, 0.0
    deviation = reference.deviation(x)
    if scored == "noised":
        noise = SampleNoise(seeds, "t_min")(tuple(reference.spectrum.shape))
        return path.start(reference.mean + deviation, noise), 0.0
    return path.without_noise(reference.mean + deviation)


def field_of(denoiser: ReverseModel, z: Tensor) -> Tensor:
    """Fields x whose states m·x are whitened states at t_min, shape (n, channels, *grid): the way back from "field"."""
    path = denoiser.path
    assert isinstance(path, ReferencePath)
    point = path.at(path.t_min)
    deviation = torch.exp(-point.log_gain.real) * point.variance.sqrt() * z
    return path.basis.inverse(path.reference.mean + torch.where(path.reference.support, deviation, 0.0))


class GaussianEnds:
    """The reference at t_min and at t = 1, and the log-density of latents.

    Args:
        path: Of the model.
        terminal: Log-density of modes at t = 1, shape (n, channels, *grid) to (n,); that of the reference when None.
    """

    def __init__(self, path: ReferencePath | SimulatedPath, terminal: Callable[[Tensor], Tensor] | None = None) -> None:
        self.start, self.end = path.at(path.t_min), path.at(1.0)
        self.law_at_start, self.law_at_end = path.law(path.t_min), path.law(1.0)
        self.support, self.terminal = path.reference.support, terminal
        self.constant = 0.5 * (self.law_at_end.log_det - self.law_at_start.log_det)

    def log_terminal(self, latent: Tensor) -> Tensor:
        """log p of latents as modes at t = 1, shape (n,)."""
        modes = self.end.unwhiten(latent).cpu()
        if self.terminal is not None:
            return self.terminal(modes)
        deviation = torch.where(self.support, modes - self.law_at_end.mean, 0.0)
        return self.law_at_end.log_prob_of_deviation(deviation)


def rows_of(
    rows: Tensor | None, z: Tensor, condition: Given | None, seeds: list[int]
) -> tuple[Tensor, Given | None, list[int]]:
    """States, conditions and seeds of some of the fields; of all, if rows is None."""
    if rows is None:
        return z, condition, seeds
    given = None if condition is None else condition[rows.to(condition.device)]
    return z[rows.to(z.device)], given, [seeds[i] for i in rows]


def per_mode(difference: Tensor, n_support: int) -> Tensor:
    """Root mean square of whitened differences over the modes that vary, shape (n,)."""
    return (difference.detach().square().flatten(1).sum(1) / n_support).sqrt().cpu()
