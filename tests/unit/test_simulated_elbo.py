"""The bound of simulated processes: path by path on linear ones, and on Beneš's equation, whose law is known."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from test_semilinear import CELLS, Benes, BenesScore, benes_path
from torch import Tensor

from physdiff.basis import SpectralBasis
from physdiff.bounds import elbo, simulated_elbo
from physdiff.clock import LinearClock
from physdiff.denoisers import GaussianDenoiser, GaussianScore, ScoreModel
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.laws.cases import smooth_reference
from physdiff.path import ReferencePath
from physdiff.process import AutonomousProcess
from physdiff.processes.advection_diffusion import AdvectionDiffusion
from physdiff.processes.matern import Matern
from physdiff.processes.variance_exploding import VarianceExploding
from physdiff.semilinear import with_drift
from physdiff.simulated_path import Moments, SimulatedPath

torch.set_num_threads(1)
LINE = SpectralBasis(Grid(6))


def linear_path(physics: AutonomousProcess, end: float) -> SimulatedPath:
    """A process without a reaction, its exact moments at the ends of a few windows."""
    law = smooth_reference(physics.basis)
    process = with_drift(physics.with_clock(LinearClock(end)), lambda x, time: torch.zeros_like(x))
    windows = torch.tensor([0.0, 0.1, 0.2, 0.5, 1.0], dtype=torch.float64) * end
    laws = [law.at(process.linear, float(time) / end) for time in windows[1:]]
    moments = Moments(
        windows, windows[1:], torch.stack([each.mean for each in laws]), torch.stack([each.spectrum for each in laws])
    )
    return SimulatedPath(process, law, moments, 0.1)


@pytest.mark.parametrize(
    ("physics", "end"),
    [(VarianceExploding(LINE), 4.0), (AdvectionDiffusion(LINE, 0.02, 0.4, 0.3), 5.0), (Matern(LINE), 2.0)],
    ids=lambda p: type(p).__name__,
)
def test_gaussian_fields_lose_nothing_on_any_path(physics: AutonomousProcess, end: float) -> None:
    """The density of the path is that of the field: in every draw, with its own noise, to rounding."""
    path = linear_path(physics, end)
    x = path.reference.sample(3, torch.Generator().manual_seed(0))
    found = simulated_elbo(GaussianScore(path), x, draws=3)
    torch.testing.assert_close(found.bound, path.reference.log_prob(x), rtol=0, atol=1e-10)
    assert float(found.standard_error.max()) < 1e-10
    assert float(found.term_errors.min()) > 1e-3  # though every term alone depends on the noise
    assert float(found.relative_to_reference.abs().max()) < 1e-10


def test_modes_that_are_forgotten_within_a_window_cost_nothing() -> None:
    """Strong decay: |m|² below 1e-15 in a window, where V − S is rounding. A correction of no use stays small."""
    path = linear_path(Matern(LINE), 200.0)
    x = path.reference.sample(2, torch.Generator().manual_seed(1))
    found = simulated_elbo(GaussianScore(path), x, draws=2)
    torch.testing.assert_close(found.bound, path.reference.log_prob(x), rtol=0, atol=1e-9)

    class Wrong(GaussianScore):
        def correction(self, modes: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
            return torch.full_like(modes, 0.05)

    lost = path.reference.log_prob(x) - simulated_elbo(Wrong(path), x, draws=2).bound
    assert float(lost.abs().max()) < 1.0


@pytest.fixture(scope="module")
def path() -> SimulatedPath:
    return benes_path(0.1)


def divergence_of_the_end(path: SimulatedPath) -> float:
    """KL(p_1 ‖ the Gaussian law at t = 1), by quadrature."""
    x = torch.linspace(-14, 14, 8001, dtype=torch.float64)
    log_density, end = Benes.log_density(x, 1.0), path.law(1.0)
    total = 0.0
    for mean, variance in zip(end.mean[0], end.spectrum[0], strict=True):
        normal = torch.distributions.Normal(mean, variance.sqrt())
        total += float(torch.trapezoid(log_density.exp() * (log_density - normal.log_prob(x)), x))
    return total


def test_bound_rises_to_the_log_density_less_the_terminal_divergence(path: SimulatedPath) -> None:
    """With the exact score, in the mean over 400 fields, in standard errors."""
    data = Benes.sample(400, torch.Generator().manual_seed(2))
    exact, lost = Benes.log_density(data, 0.0).flatten(1).sum(1), divergence_of_the_end(path)
    lacking = {
        n: exact - simulated_elbo(BenesScore(path), data, substeps=n, draws=4, chunk=4000).bound for n in (1, 4, 16)
    }
    means = {n: float(each.mean()) - lost for n, each in lacking.items()}
    error = float(lacking[16].std()) / 20
    print(f"lacks {lost:.3f} and {means}, ± {error:.3f}")
    assert means[1] > 4 * error
    assert float((lacking[1] - lacking[4]).mean()) > 4 * float((lacking[1] - lacking[4]).std()) / 20
    assert abs(means[16]) < 4 * error
    gaussian = exact - simulated_elbo(GaussianScore(path), data, draws=4, chunk=4000).bound
    assert float(gaussian.mean()) > float(lacking[1].mean()) + 1.0


def test_result_counts_windows_and_evaluations(path: SimulatedPath) -> None:
    """The first window is never divided, the first time is 1, and what was asked of the model is counted."""
    data = Benes.sample(3, torch.Generator().manual_seed(3))
    found = simulated_elbo(BenesScore(path), data, substeps=2, draws=3)
    windows = len(path.moments.windows) - 1
    assert found.terms.shape == (3, 2 + 2 * (windows - 1))
    assert found.evaluations == 3 * (2 * windows - 1)
    times = path.clock.time(found.times)
    torch.testing.assert_close(times[::2][: windows - 1], path.moments.windows.flip(0)[: windows - 1])
    torch.testing.assert_close(times[-2:], path.moments.windows[:2].flip(0))
    assert found.n_support == CELLS


def test_error_bars_are_the_spread_of_repeats(path: SimulatedPath) -> None:
    x = Benes.sample(1, torch.Generator().manual_seed(4)).expand(300, 1, CELLS)
    found = simulated_elbo(BenesScore(path), x, draws=8, chunk=2400)
    ratio = float(found.bound.std() / found.standard_error.square().mean().sqrt())
    print(f"spread / stated {ratio:.3f}")
    assert abs(ratio - 1) < 4 / math.sqrt(600) * 1.5


def test_a_field_does_not_know_its_batch_mates(path: SimulatedPath) -> None:
    data, state = Benes.sample(5, torch.Generator().manual_seed(5)), torch.get_rng_state()
    bound_of = partial(simulated_elbo, BenesScore(path), draws=3, seed=7)
    whole, parts, first = bound_of(data), bound_of(data, chunk=1), bound_of(data[:2])
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(parts.terms, whole.terms, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(first.bound, whole.bound[:2], rtol=1e-10, atol=1e-10)


def test_condition_reaches_its_own_field() -> None:
    class Shifted(ScoreModel):
        def correction(self, modes: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
            assert condition is not None
            return condition.reshape(-1, 1, 1).expand_as(modes)

    path = linear_path(VarianceExploding(LINE), 4.0)
    x = path.reference.sample(3, torch.Generator().manual_seed(6))
    found = simulated_elbo(Shifted(path), x, condition=torch.tensor([0.0, 1.0, 0.0]), chunk=5).relative_to_reference
    assert float(found[[0, 2]].abs().max()) < 1e-10
    assert float(found[1]) < -0.1


def test_what_is_refused(path: SimulatedPath) -> None:
    model, x = BenesScore(path), Benes.sample(2, torch.Generator().manual_seed(7))
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"substeps": 0}, "substeps must be a whole number, at least 1; got 0"),
        ({"draws": 0}, "draws must be a whole number"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"condition": torch.zeros(3)}, "a condition must be given for each of 2 fields; got 3"),
    )
    for arguments, words in refused:
        with pytest.raises(ValueError, match=words):
            simulated_elbo(model, x, **arguments)
    law = smooth_reference(LINE)
    linear = GaussianDenoiser(ReferencePath(VarianceExploding(LINE, clock=LinearClock(1.0)), law))
    with pytest.raises(ValueError, match="use elbo"):
        simulated_elbo(linear, x)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="use simulated_elbo"):
        elbo(model, x)  # pyright: ignore[reportArgumentType]
    quiet = path_without_noise()
    with pytest.raises(ValueError, match="gives no noise to 1 modes of the data"):
        simulated_elbo(GaussianScore(quiet), quiet.reference.sample(1, torch.Generator().manual_seed(8)))


def path_without_noise() -> SimulatedPath:
    """One mode of the support is never noised."""

    class Quiet(VarianceExploding):
        def noise_spectrum(self, time: Tensor) -> Tensor:
            return (torch.arange(6) > 0).to(torch.float64)

    law = GaussianField.white(LINE)
    process = with_drift(Quiet(LINE, clock=LinearClock(1.0)), lambda x, time: torch.zeros_like(x))
    times = torch.tensor([0.0, 0.2, 1.0], dtype=torch.float64)
    return SimulatedPath(process, law, Moments(times, times[1:], torch.zeros(2, 1, 6), torch.ones(2, 1, 6)), 0.2)
