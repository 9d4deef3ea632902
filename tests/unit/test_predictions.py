"""Predictions: each is the literature's closed form, says what every other says, and is finite at both ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from physdiff.basis import IdentityBasis, SpectralBasis
from physdiff.chain import Chain
from physdiff.clock import KarrasClock, LinearRateClock
from physdiff.clock_fit import fit_clock
from physdiff.condition import Given
from physdiff.denoisers import Denoiser, MixtureDenoiser
from physdiff.denoisers.conversion import express, recover
from physdiff.denoisers.prediction import (
    PREDICTIONS,
    Epsilon,
    Mean,
    Prediction,
    Residual,
    Rows,
    Velocity,
    described,
    prediction_of,
)
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.laws.cases import ProcessCase, bimodal, process_cases, smooth_reference
from physdiff.path import PathPoint, ReferencePath
from physdiff.process import LinearProcess
from physdiff.processes.advection_diffusion import AdvectionDiffusion
from physdiff.processes.edm import EDM
from physdiff.processes.heat import Heat
from physdiff.processes.heat_dissipation import HeatDissipation
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.registry import processes

QUANTITIES: tuple[str | Prediction, ...] = ("x0", "epsilon", "v", "score", "mean", Mean(8))
ASKED: tuple[Prediction, ...] = tuple(one for cls in PREDICTIONS.values() for one in cls.examples())
CELLS = IdentityBasis(Grid(6))
WHITE = GaussianField.white(CELLS)
PLANE = SpectralBasis(Grid((4, 3), (1.0, 1.5), ("periodic", "neumann")))


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def times(*t: float) -> Tensor:
    return torch.tensor(t, dtype=torch.float64)


def cases(everything: bool) -> Iterator[ProcessCase]:
    """Every linear process: on one line and one plane, or on every basis and with all settings."""
    for cls in processes.classes(LinearProcess).values():
        bases = None if everything else [SpectralBasis(Grid(7, 2.0)), SpectralBasis(Grid((4, 3), 1.0))]
        yield from (case for case in process_cases(cls, bases) if not case.unfit)


@pytest.fixture(scope="module", params=[False, pytest.param(True, marks=pytest.mark.slow)], ids=["few", "all"])
def market(request: pytest.FixtureRequest) -> list[ProcessCase]:
    return list(cases(request.param))


def states(path: ReferencePath, t: Tensor) -> tuple[PathPoint, Tensor, Tensor]:
    """Clean deviations and noise on the support in modes, one row a time."""
    shape = (len(t), *path.reference.spectrum.shape)
    on = path.reference.support
    return path.at(t), path.reference.spectrum.sqrt() * normals(*shape, seed=1), on * normals(*shape, seed=2)


def heard_by(rows: Rows, path: ReferencePath) -> Tensor:
    return path.reference.support if rows.heard is None else rows.heard


def test_every_quantity_says_every_other_under_every_process(market: list[ProcessCase]) -> None:
    """There and back in units of the data's deviation, and of what the way back makes of rounding (out/√c)."""
    worst = {str(q): 0.0 for q in QUANTITIES}
    for case in market:
        path = case.path
        t = times(path.t_min, 0.3, 0.7, 1.0)
        point, d, noise = states(path, t)
        root = torch.where(path.reference.support, path.reference.spectrum, 1.0).sqrt()
        modes = path.reference.mean + d
        y = point.restore(point.amplitude * d + point.noise_variance.sqrt() * noise)
        x, clean = path.basis.inverse(y), path.basis.inverse(modes)
        for quantity in QUANTITIES:
            rows = prediction_of(quantity).rows(point, t)
            value = express(clean, quantity, path, x, t)
            found = path.basis.forward(recover(value, quantity, path, x, t))
            assert bool(value.isfinite().all()) and bool(found.isfinite().all()), f"{case}, {quantity}"
            heard = heard_by(rows, path).expand_as(found)
            error = ((found - modes).abs() / root / (1 + rows.out.abs() / root))[heard]
            worst[str(quantity)] = max(worst[str(quantity)], float(error.max()))
    print(worst)
    assert max(worst.values()) < 1e-10


def test_targets_say_the_clean_field_under_every_process(market: list[ProcessCase]) -> None:
    """W − μ + excess u + out · target = d, with skip and Wiener gain as written in the table, where it is finite."""
    for case in market:
        path, on = case.path, case.path.reference.support
        t = times(path.t_min, 0.2, 0.5, 1.0)
        point, d, noise = states(path, t)
        u = point.amplitude * d + point.noise_variance.sqrt() * noise
        for asked in ASKED:
            rows = asked.rows(point, t)
            target = rows.target(d, noise)
            assert bool(target.isfinite().all()), f"{case}, {asked}"
            found = point.wiener_gain * u + rows.residual(u, target)
            size = path.reference.spectrum.sqrt() + rows.out.abs() * (1 + target.abs())
            heard = (heard_by(rows, path) & on).expand_as(found)
            error = float(((found - d).abs() / torch.where(on, size, 1.0))[heard].max())
            assert error < 1e-11, f"{case}, {asked}: {error}"


def test_epsilon_is_exactly_the_noise(market: list[ProcessCase]) -> None:
    for case in market:
        t = times(case.path.t_min, 0.5, 1.0)
        point, d, noise = states(case.path, t)
        assert torch.equal(Epsilon().rows(point, t).target(d, noise), noise)


def test_score_target_is_minus_the_noise_over_its_deviation() -> None:
    case = next(c for c in process_cases(AdvectionDiffusion, [PLANE]) if not c.unfit)
    t = times(0.2, 0.8)
    point, d, noise = states(case.path, t)
    rows = prediction_of("score").rows(point, t)
    unit = point.noise_variance.mean((-2, -1), keepdim=True).sqrt()
    found = rows.target(d, noise) / unit
    torch.testing.assert_close(found, -noise / point.noise_variance.sqrt(), rtol=1e-13, atol=0)


def test_v_is_salimans_and_ho_and_edm_with_the_other_sign() -> None:
    clock = LinearRateClock()
    path = ReferencePath(VariancePreserving(CELLS, clock=clock), WHITE, 1e-3)
    t = times(0.01, 0.3, 0.9)
    point, d, noise = states(path, t)
    alpha_bar = torch.exp(-(0.1 * t + 0.5 * 19.9 * t * t)).reshape(3, 1, 1)
    wanted = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * d
    found = Velocity().rows(point, t).target(d, noise)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    x = path.basis.inverse(point.restore(point.amplitude * d + point.noise_variance.sqrt() * noise))
    said = express(path.basis.inverse(d), "v", path, x, t)
    torch.testing.assert_close(said, wanted, rtol=0, atol=1e-12)

    sigma_data = 0.5
    law = GaussianField.white(CELLS, standard_deviation=sigma_data)
    path = ReferencePath(EDM(CELLS, clock=KarrasClock()), law, 1e-3)
    network = Fixed(6)
    denoiser = Denoiser(network, path, prediction="v")
    x = normals(3, 1, 6)
    sigma = path.process.physical_time(t)
    whole = sigma**2 + sigma_data**2
    # Karras et al. (2022), table 1
    skip, out, c_in = sigma_data**2 / whole, sigma * sigma_data / whole.sqrt(), 1 / whole.sqrt()
    wanted = skip * x - out * network(c_in * x, t)
    torch.testing.assert_close(denoiser(x, t), wanted, rtol=1e-12, atol=1e-12)


def test_mean_is_the_one_of_ddpm() -> None:
    chain = Chain.ddpm(CELLS, steps=20)
    path = ReferencePath(chain.process, WHITE, 0.5 / 20)
    x0, noise = normals(1, 1, 6, seed=3), normals(1, 1, 6, seed=4)
    for j in (2, 7, 20):
        a, before, beta = chain.alpha_bar(j), chain.alpha_bar(j - 1), chain.beta(j)
        x = a.sqrt() * x0 + (1 - a).sqrt() * noise
        # Ho et al. (2020), eq. 7
        wanted = before.sqrt() * beta / (1 - a) * x0 + (1 - beta).sqrt() * (1 - before) / (1 - a) * x
        t = times(j / 20)
        torch.testing.assert_close(express(x0, Mean(20), path, x, t), wanted, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(recover(wanted, Mean(20), path, x, t), x0, rtol=1e-9, atol=1e-8)
    first = times(1 / 20)
    torch.testing.assert_close(express(x0, Mean(20), path, x0 + noise, first), x0, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "process", [AdvectionDiffusion(PLANE, 0.02, 0.4, (0.3, 0.0)), Heat(PLANE)], ids=lambda p: type(p).__name__
)
def test_score_is_the_gradient_of_the_density(process: LinearProcess) -> None:
    mixture = bimodal(fit_clock(process, smooth_reference(PLANE)), smooth_reference(PLANE))
    for t in (0.3, 0.7, 1.0):
        x = mixture.path.basis.inverse(mixture.path.at(t).unwhiten(normals(4, 1, 4, 3, seed=5))).requires_grad_()
        density = mixture.log_prob(PLANE.forward(x), t).sum()
        (gradient,) = torch.autograd.grad(density, x)
        x = x.detach()
        now = times(*[t] * 4)
        found = express(mixture(x, now), "score", mixture.path, x, now)
        torch.testing.assert_close(found, gradient, rtol=1e-8, atol=1e-8 * float(gradient.abs().max()))
        epsilon = express(mixture(x, now), "epsilon", mixture.path, x, now)
        torch.testing.assert_close(epsilon, mixture.epsilon(x, now), rtol=1e-9, atol=1e-9)


class Fixed(nn.Module):
    """Dense layers over all cells: not zero, and of nothing in particular."""

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.4 * normals(cells, cells, seed=6))

    def forward(self, x: Tensor, t: Tensor, condition: Given | None = None) -> Tensor:
        return torch.tanh(x.flatten(1) @ self.weight + t.unsqueeze(1)).reshape(x.shape)


class Exact(nn.Module):
    """What a perfect network answers to a prediction: the target with D in the place of the clean field."""

    def __init__(self, mixture: MixtureDenoiser, asked: Prediction) -> None:
        super().__init__()
        self.mixture, self.asked = mixture, asked

    def forward(self, x: Tensor, t: Tensor, condition: Given | None = None) -> Tensor:
        path = self.mixture.path
        point = path.at(t)
        u = path.basis.forward(x) * point.variance.mean((-2, -1), keepdim=True).sqrt()
        y = point.restore(u)
        d = point.wiener(y) + self.mixture.residual(y, t) - path.reference.mean
        noise = (u - point.amplitude * d) / torch.where(path.reference.support, point.noise_variance, 1.0).sqrt()
        return path.basis.inverse(self.asked.rows(point, t).target(d, noise))


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_a_perfect_network_is_the_exact_denoiser(asked: Prediction) -> None:
    process = fit_clock(AdvectionDiffusion(PLANE, 0.02, 0.4, (0.3, 0.0)), smooth_reference(PLANE))
    mixture = bimodal(process, smooth_reference(PLANE))
    t = times(0.1, 0.5, 0.9)
    x = PLANE.inverse(mixture.path.at(t).unwhiten(normals(3, 1, 4, 3, seed=7)))
    found = PLANE.forward(Denoiser(Exact(mixture, asked), mixture.path, prediction=asked)(x, t))
    point = mixture.path.at(t)
    wanted, wiener = PLANE.forward(mixture(x, t)), point.wiener(PLANE.forward(x))
    heard = heard_by(asked.rows(point, t), mixture.path).expand_as(found)
    # Rounding of ε, 1e-15, comes back times √S/m, at most 1e4 √c.
    torch.testing.assert_close(found, torch.where(heard, wanted, wiener), rtol=0, atol=1e-9)
    assert bool(heard.any()) and float((wanted - wiener).abs().max()) > 0.01


@pytest.mark.parametrize("asked", ASKED, ids=str)
@pytest.mark.parametrize(
    "law", [smooth_reference(PLANE), GaussianField.power_law(PLANE, 1.5)], ids=["full", "mean-free"]
)
@pytest.mark.parametrize("process", [Heat(PLANE, 5.0), HeatDissipation(PLANE)], ids=lambda p: type(p).__name__)
def test_answers_are_finite_however_much_is_forgotten(
    asked: Prediction, law: GaussianField, process: LinearProcess
) -> None:
    """From the first noise to modes that have decayed by e^−700 and more; forgotten ones are the Wiener filter's."""
    clock = fit_clock(process, law).running_clock
    path = ReferencePath(process.with_clock(type(clock)(**{**vars(clock), "duration": 40 * clock.end})), law)
    denoiser = Denoiser(Fixed(12), path, prediction=asked)
    t = times(path.t_min, 0.5, 0.9, 1.0)
    point = path.at(t)
    y = point.unwhiten(normals(4, 1, 4, 3, seed=8))
    rows = asked.rows(point, t)
    residual = denoiser.residual(y, t).detach()
    assert bool(residual.isfinite().all()) and float(residual[:, ~law.support].abs().sum()) == 0
    for value in vars(rows).values():
        assert value is None or bool(torch.as_tensor(value, dtype=torch.float64).isfinite().all())
    assert bool(rows.log_out.isfinite().all())
    if rows.heard is not None:
        forgotten = law.support & ~rows.heard
        assert bool(forgotten.any()) and float(residual[forgotten].abs().sum()) == 0
        assert bool((point.clean_variance < 1e-8 * point.noise_variance)[forgotten].any())


def test_untrained_models_are_what_their_prediction_says_with_zeros() -> None:
    path = ReferencePath(VariancePreserving(CELLS, clock=LinearRateClock()), WHITE, 1e-3)

    class Silent(nn.Module):
        def forward(self, x: Tensor, t: Tensor, condition: Given | None = None) -> Tensor:
            return torch.zeros_like(x)

    x, t = normals(2, 1, 6), times(0.2, 0.7)
    m = path.at(t).amplitude
    wanted = {
        "residual": m * x, "x0": torch.zeros_like(x), "epsilon": x / m, "v": m * x, "score": x / m,
    }  # fmt: skip
    for name, expected in wanted.items():
        torch.testing.assert_close(Denoiser(Silent(), path, prediction=name)(x, t), expected)


def test_predictions_are_found_by_name_and_back() -> None:
    assert prediction_of("residual", mode_scaling=0.4, steps=3) == Residual(0.4)
    assert prediction_of("mean", mode_scaling=0.4, steps=3) == Mean(3)
    for asked in ASKED:
        assert prediction_of(**described(asked)) == asked
    with pytest.raises(ValueError, match=r"unknown prediction 'epsilonn'. Did you mean 'epsilon'\?"):
        prediction_of("epsilonn")
    with pytest.raises(ValueError, match="needs 'steps', a whole number of at least 1; got 0"):
        Mean(0)
    path = ReferencePath(VariancePreserving(CELLS, clock=LinearRateClock()), WHITE, 1e-3)
    assert Denoiser(Fixed(6), path, 0.3).prediction == Residual(0.3)
