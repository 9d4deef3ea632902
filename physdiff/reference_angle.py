r"""Time measured by how far the modes of the reference have turned from clean to noise.

Each mode's angle φ = atan2(√S, |m|√c) goes from 0 to π/2, and the whitened state moves by v dφ, with v of about the
same size at all times. In

    s(τ) = ∫ [ρ + ε ρ̄] dlog τ,       ρ = √(mean_k (dφ_k/dlog τ)²),  ρ̄ its mean over log τ

the state therefore moves evenly: an adaptive rule takes about two thirds of the steps that it takes in log τ, where it
creeps through times at which nothing happens. The share ε keeps s growing where no mode turns any more.

Any increasing function would do, as the equation is transformed with the same one: s is a spline of degree 5 on a
table, and log τ(s) and its derivative are one spline too.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.interpolate import BSpline, make_interp_spline
from torch import Tensor

from physdiff.path import ReferencePath
from physdiff.simulated_path import SimulatedPath
from physdiff.solvers.angle_grid import root_mean_square_turn
from physdiff.solvers.equal_shares import along, nodes_over

EVEN = 0.05  # ε: of the way, the share that is even in log τ


class ReferenceAngle:
    """log τ as a function of s.

    Args:
        path: A simulated one is stood in for by its linear part.
    """

    def __init__(self, path: ReferencePath | SimulatedPath) -> None:
        log_times = nodes_over(path)
        turn = along(path, log_times, root_mean_square_turn)
        mean = float(turn.mean())
        density = turn + EVEN * mean if mean > 0 else torch.ones_like(turn)
        x = log_times.numpy()
        way = make_interp_spline(x, density.numpy(), k=5).antiderivative()(x)
        self.start, self.end = float(way[0]), float(way[-1])
        self._log_time: BSpline = make_interp_spline(way, x, k=5)
        self._rate: BSpline = self._log_time.derivative()
        self.earliest, self.latest = float(x[0]), float(x[-1])
        assert bool(np.all(self._rate(np.linspace(self.start, self.end, 8 * len(x))) > 0))

    def at(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """log τ, between those of t_min and t = 1, and dlog τ/ds, shapes as s."""
        given = s.numpy()
        log_time = torch.from_numpy(self._log_time(given)).clamp(self.earliest, self.latest)  # its rounding aside
        return log_time, torch.from_numpy(self._rate(given))
