r"""Linear systems of the missing cells too large to factorise, by preconditioned conjugate gradients.

With A = Q_MM, the precision of the missing cells, and their covariance C_MM before anything is observed as
preconditioner, A⁻¹ = Cov[x_M | x_O] ≤ C_MM. So the preconditioned residual bounds the error e of a solution in the only
norm that matters here, standard deviations of what is missing:

    eᵀ A e = rᵀ A⁻¹ r ≤ rᵀ C_MM r.

A C_MM is the identity but for what crosses the coast, so that iterations grow with the length of a coast and the range
of the spectrum, not with the number of cells.

Source: Saad (2003), algorithm 9.1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from physdiff.basis import Basis
from physdiff.kriging_channel import times

AIM = 1e-8  # standard deviations; a solution that is off by less is done
ACCEPTED = 1e-3  # where rounding ends it above the aim: log-densities are then off by at most 5e-7 nats
_TURNS = 3  # times that the residual is computed anew
_ROUNDING = 1e-13  # of the first residual: no double-precision iteration gets below
_TOGETHER = 1 << 21  # cells of fields that are iterated together


def solve(
    basis: Basis, precision: Tensor, missing: Tensor, right: Tensor, aim: float = AIM, accepted: float = ACCEPTED
) -> Tensor:
    """A⁻¹ of each field, where A is U diag(precision) Uᵀ between missing cells.

    Args:
        basis: Where the precision is diagonal.
        precision: Positive, shape (*grid).
        missing: Which cells, shape (*grid), bool.
        right: Fields that are 0 elsewhere, shape (n, *grid), float64. Each is solved as if it were alone.
        aim: Error at which to stop, in standard deviations.
        accepted: Largest error that is returned.

    Raises:
        ValueError: rounding, or a limit on iterations, leaves more than that.
    """
    parts = right.split(max(1, _TOGETHER // missing.numel()))
    return torch.cat([_solve(basis, precision, missing, part, aim, accepted) for part in parts])


def _solve(basis: Basis, precision: Tensor, missing: Tensor, right: Tensor, aim: float, accepted: float) -> Tensor:
    variance, x, error = 1 / precision, torch.zeros_like(right), torch.zeros(())
    first = _dot(right, _within(missing, times(basis, variance, right)))
    stop = torch.maximum(torch.tensor(aim**2, dtype=torch.float64), _ROUNDING**2 * first)
    spent = 0
    for _ in range(_TURNS):
        residual = right - _within(missing, times(basis, precision, x)) if spent else right
        done = _dot(residual, _within(missing, times(basis, variance, residual)))
        error = done.max().clamp(min=0.0).sqrt()
        if bool((done <= 4 * stop).all()) or (spent and float(error) <= accepted):
            return x
        change, count = _iterate(basis, precision, missing, residual, stop)
        x, spent = x + change, spent + count
    residual = right - _within(missing, times(basis, precision, x))
    error = _dot(residual, _within(missing, times(basis, variance, residual))).max().clamp(min=0.0).sqrt()
    if float(error) <= accepted:
        return x
    raise ValueError(
        f"the {int(missing.sum())} missing cells of a channel are known only to {float(error):.1e} of their standard "
        f"deviation after {spent} iterations, and {accepted:g} is asked: the spectrum spans "
        f"{float(precision.max() / precision.min()):.1e}; give the data a noise level (data.noise_level)."
    )


def _iterate(basis: Basis, precision: Tensor, missing: Tensor, right: Tensor, stop: Tensor) -> tuple[Tensor, int]:
    """One run from zero; rows that are done are left alone, so that none depends on the others."""
    variance, x = 1 / precision, torch.zeros_like(right)
    live = torch.arange(len(right))
    residual, found = right.clone(), torch.zeros_like(right)
    z = _within(missing, times(basis, variance, residual))
    direction, size = z, _dot(residual, z)
    most = 20 * int(missing.sum()) if missing.sum() < 100 else 2000
    for count in range(most):
        going = size > stop[live]
        if not bool(going.all()):
            x[live[~going]] = found[~going]
            live, residual, found, direction, size = (v[going] for v in (live, residual, found, direction, size))
            if not len(live):
                return x, count
        image = _within(missing, times(basis, precision, direction))
        step = _wide(size / _dot(direction, image), right)
        found, residual = found + step * direction, residual - step * image
        z = _within(missing, times(basis, variance, residual))
        before, size = size, _dot(residual, z)
        direction = z + _wide(size / before, right) * direction
    x[live] = found
    return x, most


def _within(missing: Tensor, x: Tensor) -> Tensor:
    return torch.where(missing, x, 0.0)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def _wide(x: Tensor, like: Tensor) -> Tensor:
    return x.reshape(-1, *[1] * (like.ndim - 1))
