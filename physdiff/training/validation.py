r"""How good the averaged weights are on fields held out: the objective itself, and the denoising error by noise level.

    e_l = Σ_i |D(y_i, t_l) − y_{0,i}|² / Σ_i Σ_k (cS/V)_k,   l = 1 … L evenly in log τ from t_min to t = 1

is 1 for the Wiener filter on Gaussian fields and below 1 where the network knows more. The noise of field i at level l
depends on (i, l) alone: not on the run's seed, its objective or what its network predicts, so that runs on the same
data under the same process can be compared. Where there are more pairs of fields and levels than may be evaluated,
every level is measured on the same number of fields, up to one.

The work is done in fixed parts, part p by process p modulo their number, and summed in order: the numbers do not depend
on how many processes there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from physdiff.condition import Given
from physdiff.data.rows import Rows, TensorRows
from physdiff.denoisers.posterior_mean import PosteriorMean
from physdiff.randomness import RowDraws, keyed_generator
from physdiff.training.company import Company
from physdiff.training.metrics import Record
from physdiff.training.randomness import keyed_global_state
from physdiff.training.settings import TrainSettings

Loss = Callable[..., Tensor]


@dataclass(frozen=True)
class HeldOut:
    """What a run is validated on.

    Attributes:
        fields: Shape (m, channels, *grid), or rows.
        condition: Of the same m rows, or None; rows have their own.
    """

    fields: Tensor | Rows
    condition: Given | None = None

    @property
    def rows(self) -> Rows:
        """The fields with their condition."""
        return TensorRows(self.fields, self.condition) if isinstance(self.fields, Tensor) else self.fields


@dataclass(frozen=True)
class Validated:
    """A validation.

    Attributes:
        loss: Mean of the objective.
        errors: By noise level, from the least noise to the most; empty for anything but a denoiser.
    """

    loss: float
    errors: tuple[float, ...] = ()

    @property
    def error(self) -> float | None:
        """Mean over the levels; None without."""
        return sum(self.errors) / len(self.errors) if self.errors else None

    @property
    def score(self) -> float:
        """What should fall."""
        return self.loss if self.error is None else self.error

    def record(self) -> Record:
        """For the log."""
        named: Record = {"validation_loss": self.loss}
        if self.error is not None:
            named["validation_error"] = self.error
            named |= {f"validation_error/{level}": error for level, error in enumerate(self.errors)}
        return named


def validate(
    model: nn.Module, objective: Loss, held_out: HeldOut, settings: TrainSettings, company: Company
) -> Validated:
    """Validate a frozen model, on the same noise every time; all processes together."""
    loss = _mean_loss(model, objective, held_out, settings, company)
    if not isinstance(model, PosteriorMean):
        return Validated(loss)
    return Validated(loss, tuple(level_errors(model, held_out, settings, company).tolist()))


def _mean_loss(
    model: nn.Module, objective: Loss, held_out: HeldOut, settings: TrainSettings, company: Company
) -> float:
    data = held_out.rows
    device, n = next(model.parameters()).device, len(data)
    losses = torch.zeros(n, dtype=torch.float64, device=device)
    mine = _mine(n, settings.validation_batch, company)
    data.expect(torch.arange(rows.start, rows.stop) for rows in mine)
    for rows in mine:
        x, condition = data.batch(torch.arange(rows.start, rows.stop))
        x = x.to(device)
        given = () if condition is None else (condition.to(device),)
        draws = RowDraws(keyed_generator(settings.seed, "validation", rows.start), len(x))
        with keyed_global_state(device, settings.seed, "validation", rows.start):
            found = objective(model, x, draws, *given)
        require_one_each(found, x)
        losses[rows] = found.detach().to(losses)
    return float(company.sum_(losses).sum()) / n


@torch.no_grad()
def level_errors(
    model: PosteriorMean,
    held_out: HeldOut,
    settings: TrainSettings,
    company: Company = Company(),  # noqa: B008  frozen
) -> Tensor:
    """Denoising errors relative to the Wiener filter's expected ones, shape (levels,), float64, on the CPU."""
    path, device, count = model.path, next(model.parameters()).device, settings.validation_levels
    times = noise_levels(model, count)
    data = held_out.rows
    fields, levels = pairs(len(data), count, settings.validation_pairs)
    errors = torch.zeros(len(fields), dtype=torch.float64, device=device)
    mine = _mine(len(fields), settings.validation_batch, company)
    data.expect(fields[rows] for rows in mine)
    for rows in mine:
        which, t = fields[rows], times[levels[rows]]
        x, condition = data.batch(which)
        clean = path.basis.forward(x.to(device, torch.float64))
        keys = zip(which.tolist(), levels[rows].tolist(), strict=True)
        noise = torch.stack([_noise(clean.shape[1:], field, level) for field, level in keys])
        point = path.at(t)
        noisy = point.with_noise(clean, noise.to(device))
        given = None if condition is None else condition.to(device)
        error = clean - point.wiener(noisy) - model.residual(noisy, t, given)
        supported = torch.where(path.reference.support.to(device), error, 0.0)
        errors[rows] = supported.square().flatten(1).sum(1)
    errors = company.sum_(errors).cpu()
    expected = path.at(times).posterior_variance.expand(count, *path.reference.spectrum.shape).flatten(1).sum(1)
    found = torch.zeros(count, dtype=torch.float64).index_add(0, levels, errors)
    return found / (torch.bincount(levels, minlength=count) * expected)


def noise_levels(model: PosteriorMean, count: int) -> Tensor:
    """Times of the levels, increasing, shape (count,), float64."""
    path = model.path
    first, last = (float(path.at(t).time.log()) for t in (path.t_min, 1.0))
    logs = torch.linspace(first, last, count, dtype=torch.float64)
    return path.clock.inverse(logs.exp()).clamp(path.t_min, 1.0)


def pairs(n: int, levels: int, budget: int) -> tuple[Tensor, Tensor]:
    """Fields and levels that are evaluated together, two lists of whole numbers: all pairs if the budget allows.

    Otherwise the first `budget` pairs of an order that goes round levels and fields at once, at least one a level.
    """
    number = torch.arange(min(n * levels, max(budget, levels)))
    # Each level meets every field once in n rounds, and the levels of a round meet different fields.
    round_, level = number // levels, number % levels
    return (round_ + level) % n, level


def require_one_each(losses: Tensor, batch: Tensor) -> None:
    """Raise unless there is one loss a row."""
    if losses.shape != batch.shape[:1]:
        raise ValueError(
            f"the loss must return one number per sample, shape ({len(batch)},); got {tuple(losses.shape)}."
        )


def _noise(shape: torch.Size, field: int, level: int) -> Tensor:
    return torch.randn(shape, generator=keyed_generator(0, "validation error", field, level), dtype=torch.float64)


def _mine(n: int, size: int, company: Company) -> list[slice]:
    """This process's parts of n rows."""
    parts = [slice(start, min(start + size, n)) for start in range(0, n, size)]
    return parts[company.rank :: company.count]
