r"""Times at equal shares of a coordinate that only grows, or only falls, with physical time.

    g(τ_j) = g(τ(1)) + (j/n) [g(τ(t_min)) − g(τ(1))],    j = 0 ... n

A coordinate is a function of log τ. It is given in closed form, or as a density of steps at nodes: what is in equal
shares is then the integral of the density over log τ.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from scipy.optimize.elementwise import find_root
from torch import Tensor

from physdiff.path import PathPoint, ReferencePath
from physdiff.solvers.time_grid import Path

NODES = 257  # of a table over log τ: over the ten decades of a power law, twenty to a factor of ten
AT_ONCE = 2**15  # coefficients of modes that are worked on at the same time: as many as a cache holds


def equal_shares(path: Path, intervals: int, coordinate: Callable[[Tensor], Tensor]) -> Tensor:
    """Decreasing times from 1 to t_min with equal increments of a coordinate, shape (intervals + 1,), float64.

    Args:
        path: Where the clock and t_min come from.
        intervals: Number of steps.
        coordinate: Monotone function of log τ, shape (n,) to the same.
    """
    latest, earliest = log_range(path)
    ends = coordinate(torch.tensor([latest, earliest], dtype=torch.float64))
    share = torch.linspace(0, 1, intervals + 1, dtype=torch.float64)[1:-1]
    wanted = (ends[0] + share * (ends[1] - ends[0])).numpy()

    def missed(log_time: NDArray[np.float64], value: NDArray[np.float64]) -> NDArray[np.float64]:
        return coordinate(torch.from_numpy(np.asarray(log_time, dtype=np.float64))).numpy() - value

    found = find_root(missed, (np.full(wanted.shape, earliest), np.full(wanted.shape, latest)), args=(wanted,))
    times = path.clock.inverse(torch.from_numpy(np.asarray(found.x, dtype=np.float64)).exp())
    first, last = (torch.tensor([t], dtype=torch.float64) for t in (1.0, path.t_min))
    return torch.cat([first, times, last])


def equal_areas(path: Path, intervals: int, log_times: Tensor, density: Tensor) -> Tensor:
    """Decreasing times from 1 to t_min with equal areas under a density of steps, shape (intervals + 1,), float64.

    Args:
        path: Where the clock and t_min come from.
        intervals: Number of steps.
        log_times: Increasing log τ at which the density is known, shape (nodes,).
        density: Steps per unit of log τ, above zero and to any factor, shape (nodes,); between nodes a cubic that
            stays above zero, beyond them as at the nearest.
    """
    latest, earliest = log_range(path)
    table = PchipInterpolator(log_times.numpy(), density.numpy())
    inner = log_times[(log_times > earliest) & (log_times < latest)]
    knots = np.concatenate([[earliest], inner.numpy(), [latest]])
    values = table(np.clip(knots, float(log_times[0]), float(log_times[-1])))
    area = PchipInterpolator(knots, values / values.mean()).antiderivative()
    return equal_shares(path, intervals, lambda x: torch.from_numpy(area(x.numpy())))


def log_range(path: Path) -> tuple[float, float]:
    """log τ at t = 1 and at t_min."""
    latest, earliest = (path.clock.time(torch.tensor(t, dtype=torch.float64)).log() for t in (1.0, path.t_min))
    return float(latest), float(earliest)


def nodes_over(path: Path, count: int = NODES) -> Tensor:
    """Evenly spaced log τ from that of t_min to that of t = 1, shape (count,)."""
    latest, earliest = log_range(path)
    return torch.linspace(earliest, latest, count, dtype=torch.float64)


def along(path: Path, log_times: Tensor, quantity: Callable[[PathPoint], Tensor]) -> Tensor:
    """A quantity of the reference at many times, shape (n,).

    Args:
        path: A simulated one is stood in for by its linear part.
        log_times: log τ, shape (n,).
        quantity: Of the point at some of the times, whose coefficients have them in front; shape (some,).
    """
    world = path if isinstance(path, ReferencePath) else ReferencePath(path.process.linear, path.reference, path.t_min)
    spectrum = world.reference.spectrum
    some = max(1, AT_ONCE // spectrum.numel())
    column = [-1] + [1] * spectrum.ndim
    return torch.cat([quantity(world.at_time(part.exp().reshape(column))) for part in log_times.split(some)])
