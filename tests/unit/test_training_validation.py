"""Validation: errors by noise level against exact denoisers, the same noise for every run, all pairs in turn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from physdiff import GaussianDenoiser, GaussianField, Grid, ReferencePath, SpectralBasis, fit_clock
from physdiff.condition import Condition
from physdiff.denoisers import Denoiser
from physdiff.denoisers.posterior_mean import PosteriorMean
from physdiff.objectives import DenoisingLoss
from physdiff.processes.heat import Heat
from physdiff.training import TrainSettings, read_metrics, train
from physdiff.training.company import Company
from physdiff.training.validation import HeldOut, level_errors, noise_levels, pairs, validate

SETTINGS = TrainSettings(steps=2, batch_size=4, validation_batch=7, validation_levels=5, validation_pairs=1000)


def a_path(cells: int = 12) -> ReferencePath:
    grid = Grid(cells, boundary="neumann")
    basis = SpectralBasis(grid)
    spectrum = (1.0 / (1 + torch.arange(cells, dtype=torch.float64))).unsqueeze(0)
    law = GaussianField(basis, torch.full((1, cells), 0.3, dtype=torch.float64), spectrum)
    return ReferencePath(fit_clock(Heat(basis), law), law)


def drawn(path: ReferencePath, n: int) -> Tensor:
    """Fields of the reference law."""
    law = path.reference
    noise = torch.randn(n, *law.spectrum.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return path.basis.inverse(law.mean + law.spectrum.sqrt() * noise)


class Weight(GaussianDenoiser):
    """The exact denoiser with a parameter, so that it has a device."""

    def __init__(self, path: ReferencePath) -> None:
        super().__init__(path)
        self.weight = nn.Parameter(torch.zeros(1))


class Shifted(PosteriorMean):
    """Off by a given part of the posterior's spread in every mode: an error of 1 + part²."""

    def __init__(self, path: ReferencePath, part: float) -> None:
        super().__init__(path)
        self.weight, self.part = nn.Parameter(torch.zeros(1)), part

    def residual(self, modes: Tensor, t: Tensor, condition: Any = None) -> Tensor:
        return self.part * self.path.at(t).posterior_variance.sqrt().to(modes).expand_as(modes)


def test_the_exact_denoiser_of_gaussian_fields_scores_one_at_every_level() -> None:
    path = a_path()
    errors = level_errors(Weight(path), HeldOut(drawn(path, 400)), replace(SETTINGS, validation_pairs=2000))
    # A level's error is a mean over 400 fields of a weighted χ²: its variance is at most 2/400 of independent modes.
    for t, error in zip(noise_levels(Weight(path), 5), errors, strict=True):
        share = path.at(t).posterior_variance.flatten()
        spread = float((2 * share.square().sum() / share.sum().square() / 400).sqrt())
        print(f"t = {float(t):.3f}: {float(error):.4f}, standard error {spread:.4f}")
        assert abs(float(error) - 1) < 4 * spread


def test_a_known_error_is_found_exactly() -> None:
    """Against the exact denoiser on the same noise the squared offsets add up, but for their cross terms."""
    path = a_path()
    held_out = HeldOut(drawn(path, 400))
    settings = replace(SETTINGS, validation_pairs=2000)
    plus, minus = (level_errors(Shifted(path, sign * 0.5), held_out, settings) for sign in (1, -1))
    exact = level_errors(Weight(path), held_out, settings)
    torch.testing.assert_close(0.5 * (plus + minus), exact + 0.25, rtol=1e-10, atol=0)  # the cross terms cancel


def test_levels_are_even_in_the_logarithm_of_noise() -> None:
    path = a_path()
    times = noise_levels(Weight(path), 5)
    logs = torch.stack([path.at(t).time.log().flatten()[0] for t in times])
    torch.testing.assert_close(logs.diff(), (logs[-1] - logs[0]).expand(4) / 4, rtol=1e-6, atol=0)
    assert float(times[0]) == pytest.approx(path.t_min, rel=1e-6) and float(times[-1]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("n", "levels", "budget"), [(6, 4, 100), (6, 4, 24), (6, 4, 11), (3, 8, 9), (5, 5, 12), (4, 6, 1)]
)
def test_pairs_go_round_fields_and_levels(n: int, levels: int, budget: int) -> None:
    fields, level = pairs(n, levels, budget)
    assert len(fields) == min(n * levels, max(budget, levels))
    assert len(set(zip(fields.tolist(), level.tolist(), strict=True))) == len(fields)
    counts = torch.bincount(level, minlength=levels)
    assert int(counts.max() - counts.min()) <= 1 and int(counts.min()) >= 1
    assert int(fields.max()) < n


def test_the_noise_is_that_of_field_and_level_alone() -> None:
    """Other seeds, parts and budgets of a run see the same errors; other fields do not."""
    path = a_path()
    model, fields = Weight(path), drawn(path, 9) ** 2
    errors = level_errors(model, HeldOut(fields), SETTINGS)
    for change in ({"seed": 4}, {"validation_batch": 2}, {"validation_pairs": 45}):
        torch.testing.assert_close(level_errors(model, HeldOut(fields), replace(SETTINGS, **change)), errors)
    few = level_errors(model, HeldOut(fields[:4]), SETTINGS)
    assert float((few - errors).abs().min()) > 1e-3


class Fake(Company):
    """One of several processes whose sums are added up by hand."""

    def sum_(self, x: Tensor) -> Tensor:
        self.parts.append(x.clone())
        return x

    @property
    def parts(self) -> list[Tensor]:
        return PARTS


PARTS: list[Tensor] = []


def test_processes_share_the_work_without_gaps() -> None:
    path = a_path()
    model, fields = Weight(path), drawn(path, 9) ** 2
    PARTS.clear()
    for rank in range(3):
        level_errors(model, HeldOut(fields), SETTINGS, Fake(rank, 3))
    alone: list[Tensor] = PARTS[:3]
    assert bool((torch.stack([(part > 0).double() for part in alone]).sum(0) == 1).all())


def test_conditions_go_with_their_fields() -> None:
    """A model that is told the truth has no error, whichever pairs are drawn; with rows mixed up it would have."""
    path = a_path()

    class Told(PosteriorMean):
        def __init__(self) -> None:
            super().__init__(path)
            self.weight = nn.Parameter(torch.zeros(1))

        def residual(self, modes: Tensor, t: Tensor, condition: Any = None) -> Tensor:
            clean = self.path.basis.forward(Condition.of(condition).fields.double())
            return clean - self.path.at(t).wiener(modes)

    fields = drawn(path, 9)
    errors = level_errors(Told(), HeldOut(fields, Condition(fields=fields)), replace(SETTINGS, validation_pairs=17))
    assert float(errors.max()) < 1e-20
    mixed = level_errors(Told(), HeldOut(fields, Condition(fields=fields.flip(0))), SETTINGS)
    assert float(mixed.min()) > 0.1


def test_a_run_logs_the_errors_beside_its_own_loss(tmp_path: Path) -> None:
    from physdiff.networks import UNet

    path = a_path()
    fields = drawn(path, 9).float() ** 2
    model = Denoiser(UNet(path.basis.grid, 1, width=4, multipliers=(1,)), path)
    result = train(model, DenoisingLoss(), fields, fields[:6], SETTINGS, tmp_path, progress=False)
    (record,) = [r for r in read_metrics(tmp_path / "metrics.jsonl") if "validation_loss" in r]
    by_level = [record[f"validation_error/{level}"] for level in range(5)]
    assert record["validation_error"] == pytest.approx(sum(by_level) / 5, rel=1e-12) == result.validation_error
    expected = validate(result.ema, DenoisingLoss(), HeldOut(fields[:6]), SETTINGS, Company())
    assert list(expected.errors) == by_level and expected.loss == record["validation_loss"]
