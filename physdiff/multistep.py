r"""An Adams method of variable order in which every row of a batch has a time, a step and an order of its own.

One evaluation a step: with f known at s_n, s_{n−1}, ..., and P_k the polynomial through the last k of them,

    predict   y* = y + ∫ P_k ds            evaluate  f* = f(s_{n+1}, y*)
    correct   y' = y + ∫ P*_{k+1} ds,      error     e_k = ∫ (P*_{k+1} − P*_k) ds

over the step, where P* is taken through f* as well. In Newton's form the integrals are sums over divided differences,

    ∫ P*_{k+1} ds = Σ_{j≤k} c_j I_j,    c_j = f[s_{n+1}, s_n, ..., s_{n−j+1}],    I_j = ∫ (s − s_{n+1})(s − s_n)... ds,

so that e_j = c_j I_j is at hand for every order. The next order is the one that allows the longest step; orders rise
from 1 as values become known. A refused step costs one evaluation, where a Runge-Kutta rule loses all of its stages.

Source: Shampine and Gordon (1975), chapters 4 to 7, in the form PEC and with plain divided differences; Hairer,
Nørsett and Wanner (1993), section III.7.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from physdiff.integrate import Rate, Size

HIGHEST = 6  # order of the error's formula
SAFETY, SHORTEST, LONGEST = 0.7, 0.25, 2.0  # longer jumps make variable steps unstable
FIRST = 1 / 64  # of the way: the first step, of order 1
NODES, WEIGHTS = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(HIGHEST // 2 + 1))


def integrate_multistep(rate: Rate, start: float, end: float, state: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """The states at `end` of dy/ds = f(s, y) from `start`; arguments and results as of `physdiff.integrate.integrate`.

    Raises:
        FloatingPointError: a step shrank to nothing.
    """
    least, most = min(start, end), max(start, end)
    shortest = 16 * torch.finfo(torch.float64).eps * max(abs(start), abs(end), most - least)
    rows = torch.arange(len(state), device=state.device)
    step = torch.full((len(state),), (end - start) * FIRST, dtype=torch.float64)
    order = torch.ones_like(rows).cpu()
    known = torch.ones_like(order)  # values of f that are known
    evaluations = torch.zeros_like(order)
    count = 1  # of the rows that are still on their way
    past = torch.full((len(state), HIGHEST + 1), start, dtype=torch.float64)  # s_n, s_{n−1}, ...
    # Divided differences f[s_n], f[s_n, s_{n−1}], ...; zero where values are not known yet.
    first = rate(past[:, 0], state, rows)
    differences = [first, *(torch.zeros_like(first) for _ in range(HIGHEST))]
    arrived: list[tuple[Tensor, Tensor]] = []
    while len(rows):
        remaining = end - past[:, 0]
        last = step.abs() >= remaining.abs() * (1 - 1e-12)
        step = torch.where(last, remaining, step)
        after = torch.where(last, torch.full_like(step, end), past[:, 0] + step).clamp(least, most)
        used = torch.arange(HIGHEST) < order.unsqueeze(1)
        predicted = _summed(state, differences, _integrals(past[:, 0], step, past) * _padded(used))
        newest = rate(after, predicted, rows)
        count += 1
        nodes = torch.cat([after.unsqueeze(1), past[:, :-1]], 1)
        corrected = [newest]
        for j in range(1, HIGHEST + 1):
            gap = (after - past[:, j - 1]).to(state).unsqueeze(1)
            there = (known >= j).to(state.device).unsqueeze(1)  # a node that is not known may have no distance
            slope = (corrected[-1] - differences[j - 1]) / torch.where(there, gap, 1.0)
            corrected.append(torch.where(there, slope, 0.0))
        weights = _integrals(past[:, 0], step, nodes)
        moved = _summed(state, corrected, weights * torch.cat([torch.ones_like(used[:, :1]), used], 1))
        with torch.no_grad():
            errors = [
                size(weights[:, j, None].to(state) * corrected[j].detach(), state.detach(), moved.detach()).cpu()
                for j in range(1, HIGHEST + 1)
            ]
            error = torch.stack(errors, 1)
            taken = error.gather(1, (order - 1).unsqueeze(1)).squeeze(1) <= 1  # false where it is not a number
            known = torch.where(taken, (known + 1).clamp(max=HIGHEST + 1), known)
            candidates = torch.arange(1, HIGHEST + 1)
            factors = SAFETY * error.clamp(min=1e-12) ** (-1 / (candidates + 1.0))
            factors = torch.where(error.isfinite(), factors, SHORTEST)
            # An order is available once its formula has been through so many known values, this one included.
            available = candidates <= torch.where(taken, known - 1, order).clamp(max=HIGHEST).unsqueeze(1)
            factor, best = torch.where(available, factors, 0.0).max(1)
            order = best + 1
            factor = torch.where(taken, factor.clamp(SHORTEST, LONGEST), factor.clamp(SHORTEST, 0.8))
        step = step * factor
        if bool(((step.abs() < shortest) & ~taken).any()):
            raise FloatingPointError(f"adams: a step shrank to nothing at {float(past[~taken][0, 0]):.6g}.")
        kept = taken.to(state.device).unsqueeze(1)
        state = torch.where(kept, moved, state)
        differences = [torch.where(kept, new, old) for new, old in zip(corrected, differences, strict=True)]
        past = torch.where(taken.unsqueeze(1), nodes, past)
        done = taken & last
        if bool(done.any()):
            there, on = done.to(state.device), ~done
            arrived.append((rows[there], state[there]))
            evaluations[rows[there].cpu()] = count
            rows, state, differences = rows[~there], state[~there], [d[~there] for d in differences]
            step, order, known, past = step[on], order[on], known[on], past[on]
    numbers = torch.cat([r for r, _ in arrived]).argsort()
    return torch.cat([states for _, states in arrived])[numbers], evaluations


def _integrals(since: Tensor, step: Tensor, nodes: Tensor) -> Tensor:
    """∫ Π_{i<j} (s − s_i) ds over the step for j = 0 ... HIGHEST, shape (rows, HIGHEST + 1); exact by Gauss's rule."""
    at = since.unsqueeze(1) + step.unsqueeze(1) * (0.5 * NODES + 0.5)
    product = torch.ones_like(at)
    found = []
    for j in range(HIGHEST + 1):
        found.append(step * (product * (0.5 * WEIGHTS)).sum(1))
        product = product * (at - nodes[:, j : j + 1])
    return torch.stack(found, 1)


def _summed(state: Tensor, differences: list[Tensor], weights: Tensor) -> Tensor:
    """y + Σ_j w_j d_j."""
    weights = weights.to(state)
    for j, difference in enumerate(differences):
        state = state + weights[:, j, None] * difference
    return state


def _padded(used: Tensor) -> Tensor:
    """A mask over the first HIGHEST differences, ready for all of them."""
    return torch.cat([used, torch.zeros_like(used[:, :1])], 1)
