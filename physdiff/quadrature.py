r"""The two integrals that solve a linear equation, for any drift A(τ) and noise n(τ).

    log m = ∫_s^τ A du,      S = ∫_s^τ exp(2 Re ∫_u^τ A) n(u) du.

A stiff mode forgets within 1/|A| of the end, and a process may change fast at its beginning, both over as many decades
of time as there are; so the panels shrink geometrically towards either end, and each carries Gauss-Legendre nodes. The
inner integral is accumulated on the same nodes. Relative error 1e-12 for |A|(τ − s) up to 1e12 when A and n vary no
faster than a power of the time from either end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import torch
from torch import Tensor

Symbol = Callable[[Tensor], Tensor]

NODES = 32
PANELS = 44  # on either side; 2⁻⁴⁴: thirteen decades between the first and the last


@cache
def _rule() -> tuple[Tensor, Tensor, Tensor]:
    """Nodes and weights on [0, 1], and the matrix that integrates from 0 to each node."""
    x, w = np.polynomial.legendre.leggauss(NODES)
    x, w = 0.5 * (x + 1), 0.5 * w
    vandermonde = np.polynomial.legendre.legvander(2 * x - 1, NODES - 1)
    primitives = []
    for degree in range(NODES):
        series = np.polynomial.legendre.Legendre.basis(degree, domain=[0, 1])
        primitive = series.integ(lbnd=0)
        primitives.append(primitive(x))
    running = np.stack(primitives, 1) @ np.linalg.inv(vandermonde)
    return torch.from_numpy(x), torch.from_numpy(w), torch.from_numpy(running)


@cache
def _panels() -> tuple[Tensor, Tensor, Tensor]:
    """Nodes of all panels from τ back to s, shape (panels, nodes): shares of τ and of s; and the panels' widths.

    Both shares are computed, since 1 − share has no digits left next to either end.
    """
    nodes, _, _ = _rule()
    near = 2.0 ** torch.arange(-PANELS, 0, dtype=torch.float64)
    edges = torch.cat([torch.zeros(1, dtype=torch.float64), near])
    widths = edges.diff()
    inside = edges[:-1].unsqueeze(1) + widths.unsqueeze(1) * nodes  # share of the way from an end, up to one half
    share_of_since = torch.cat([inside, 1 - inside.flip(0, 1)])
    share_of_time = torch.cat([1 - inside, inside.flip(0, 1)])
    return share_of_time, share_of_since, torch.cat([widths, widths.flip(0)])


def _at(symbol: Symbol, times: Tensor) -> Tensor:
    """A symbol at stacked times, shape (nodes, *time), as (nodes, ...)."""
    if times.ndim == 1:
        return torch.stack(torch.broadcast_tensors(*[symbol(time) for time in times]))
    values = symbol(times.flatten(0, 1))  # nodes and batch side by side: authors know one batch axis
    if values.ndim < times.ndim - 1 or values.shape[0] != times.shape[0] * times.shape[1]:
        return values.expand(times.shape[0], *[1] * (times.ndim - 1 - values.ndim), *values.shape)
    return values.unflatten(0, times.shape[:2])


def _aligned(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two stacks of symbols with axes inserted behind the nodes, so that they broadcast."""
    ndim = max(a.ndim, b.ndim)
    return tuple(x.reshape(x.shape[0], *[1] * (ndim - x.ndim), *x.shape[1:]) for x in (a, b))  # type: ignore[return-value]


def _look_back(time: Tensor, since: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Panel by panel from `time` back to `since`: the times of the nodes, shape (nodes, *time), and the width."""
    span = time - since
    for of_time, of_since, width in zip(*_panels(), strict=True):
        axes = (-1, *[1] * span.ndim)
        yield of_time.reshape(axes) * time + of_since.reshape(axes) * since, width * span


def log_gain(drift: Symbol, time: Tensor, since: Tensor) -> Tensor:
    """∫ A from `since` to `time`; shapes as in `LinearProcess.log_gain`."""
    _, weights, _ = _rule()
    total = torch.zeros((), dtype=torch.float64)
    for times, width in _look_back(time, since):
        rates = _at(drift, times)
        total = total + width * torch.tensordot(weights.to(rates.dtype), rates, dims=1)
    return total


def variance(drift: Symbol, noise: Symbol, time: Tensor, since: Tensor) -> Tensor:
    """The received variance from `since` to `time`; shapes as in `LinearProcess.variance`."""
    _, weights, running = _rule()
    total = torch.zeros((), dtype=torch.float64)
    lost = torch.zeros((), dtype=torch.float64)  # Re ∫ A from the near edge of the panel to `time`
    for times, width in _look_back(time, since):
        rates, received = _aligned(width * _at(drift, times).real, _at(noise, times))
        decay = torch.exp(2 * (lost + torch.tensordot(running, rates, dims=1)))
        total = total + width * torch.tensordot(weights, decay * received, dims=1)
        lost = lost + torch.tensordot(weights, rates, dims=1)
    return total
