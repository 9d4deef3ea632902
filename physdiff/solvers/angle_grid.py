r"""Equal steps of the reference's angle.

Each mode turns from noise, φ_k = π/2, to clean, φ_k = 0, and the residual moves its whitened state by v_k dφ_k, where
v_k has about the same size in all modes and at all times. So the length of the way in the space of angles,

    ℓ = ∫ √(Σ_k w_k (dφ_k/dlog τ)²) dlog τ,      dφ/dlog τ = ½ τ n |m| √c/(√S V),

is what a step may cost. Half of the weights w counts modes: an error in any of them is one of the spectrum. The other
half is by variance, c_k/Σc: errors of a field are those of its few strong modes, which under a steep spectrum turn when
nearly all others rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from physdiff.gaussian import GaussianField
from physdiff.path import PathPoint, ReferencePath
from physdiff.solvers.equal_shares import along, equal_areas, nodes_over
from physdiff.solvers.time_grid import Path, TimeGrid, time_grids


@time_grids.register
@dataclass(frozen=True)
class Angle(TimeGrid):
    """Equal steps of the root-mean-square angle by which the modes of the reference turn."""

    def between(self, path: Path, intervals: int) -> Tensor:
        require_angles(self, path)
        nodes = nodes_over(path)
        return equal_areas(path, intervals, nodes, along(path, nodes, root_mean_square_turn))


def require_angles(grid: TimeGrid, path: Path) -> None:
    """Raise unless the modes of a path have angles."""
    if not isinstance(path, ReferencePath):
        raise ValueError(
            f"{type(grid).__name__} is of the reference's angles under a linear process; "
            f"{type(path.process).__name__} is simulated: take LogSpaced or Karras, or calibrate the model."
        )


def turn_rate(point: PathPoint) -> Tensor:
    """dφ_k/dlog τ ≥ 0, zero outside the support."""
    return -point.time * point.pull_rate * point.posterior_variance.sqrt()


def root_mean_square_turn(point: PathPoint) -> Tensor:
    """√(Σ_k w_k (dφ_k/dlog τ)²) at many times, shape (times,)."""
    return torch.sqrt((mode_weights(point.path.reference) * turn_rate(point).square()).flatten(1).sum(1))


def mode_weights(reference: GaussianField) -> Tensor:
    """w, of sum 1, zero outside the support: half to all modes alike, half by variance, shape (channels, *grid)."""
    return 0.5 * (reference.support / reference.n_support + reference.spectrum / reference.spectrum.sum())
