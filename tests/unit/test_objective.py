"""The denoising loss: its minimiser is the exact posterior mean, and a Gaussian field scores 1."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from physdiff.basis import SpectralBasis
from physdiff.clock_fit import fit_clock
from physdiff.config import ObjectiveSettings
from physdiff.denoisers import Denoiser, MixtureDenoiser
from physdiff.denoisers.prediction import PREDICTIONS, Prediction, Residual, prediction_of
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.laws.cases import bimodal, smooth_reference
from physdiff.objectives import DenoisingLoss, weightings
from physdiff.objectives.tabulated_times import LikelihoodImportance, LogNormal
from physdiff.objectives.times import Stratified
from physdiff.objectives.weighting import Elbo, MinSNR, ModeLikelihood, Simple
from physdiff.path import ReferencePath
from physdiff.processes.advection_diffusion import AdvectionDiffusion
from physdiff.processes.critically_damped_langevin import CriticallyDampedLangevin
from physdiff.processes.heat_dissipation import HeatDissipation
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.randomness import RowDraws

BASIS = SpectralBasis(Grid((3, 4)))


def scalar(t: float) -> Tensor:
    return torch.tensor(t, dtype=torch.float64)


class Silent(nn.Module):
    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        return torch.zeros_like(x)


class Exact(nn.Module):
    """What a perfect network would answer at one time, found by undoing what the denoiser does to its input."""

    def __init__(self, mixture: MixtureDenoiser, denoiser_scaling: float, t: float, fault: float = 0.0) -> None:
        super().__init__()
        self.mixture, self.t, self.fault = mixture, t, fault
        self.frame = Denoiser(Silent(), mixture.path, denoiser_scaling)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        point = self.mixture.path.at(self.t)
        modes = point.restore(BASIS.forward(x) * point.variance.mean().sqrt())
        answer = self.mixture.residual(modes, scalar(self.t)) / self.frame.output_scale(point)
        return BASIS.inverse(answer) + self.fault * torch.tanh(x)


@pytest.mark.parametrize("mode_scaling", [0.0, 0.7])
@pytest.mark.parametrize("t", [0.15, 0.6])
def test_the_posterior_mean_minimises_the_loss(t: float, mode_scaling: float) -> None:
    process = fit_clock(AdvectionDiffusion(BASIS, 0.02, 0.4, (0.3, 0.2)), smooth_reference(BASIS))
    mixture, n = bimodal(process, smooth_reference(BASIS)), 20_000
    x = BASIS.inverse(mixture.sample_modes(n, torch.Generator().manual_seed(0)))

    def loss(fault: float) -> Tensor:
        denoiser = Denoiser(Exact(mixture, mode_scaling, t, fault), mixture.path, mode_scaling)
        times = torch.full((n,), t, dtype=torch.float64)
        return DenoisingLoss().at(denoiser, x, times, torch.Generator().manual_seed(1))

    exact, plus, minus = loss(0.0), loss(0.1), loss(-0.1)
    slope, bend = (plus - minus) / 0.2, (plus + minus - 2 * exact) / 0.01
    error = float(slope.std()) / math.sqrt(n)
    print(f"loss {exact.mean():.4f}, slope along a fault {slope.mean():.5f} ± {error:.5f}, bend {bend.mean():.3f}")
    assert abs(float(slope.mean())) < 4 * error
    assert float(bend.mean()) > 20 * error  # the slope would have been seen: a fault of 1 costs this much
    silent = DenoisingLoss().at(
        Denoiser(Silent(), mixture.path, mode_scaling), x, torch.full((n,), t), torch.Generator().manual_seed(1)
    )
    gain = silent - exact
    assert float(gain.mean()) > 4 * float(gain.std()) / math.sqrt(n)


@pytest.mark.parametrize(
    "law",
    [
        pytest.param(smooth_reference(BASIS), id="full"),
        pytest.param(GaussianField.power_law(BASIS, 2.0), id="mean-free"),
    ],
)
@pytest.mark.parametrize("mode_scaling", [0.0, 0.5])
def test_a_gaussian_field_scores_one(law: GaussianField, mode_scaling: float) -> None:
    path = ReferencePath(fit_clock(AdvectionDiffusion(BASIS, 0.02), law), law)
    n = 10_000
    x = law.sample(n, torch.Generator().manual_seed(2))
    loss = DenoisingLoss()(Denoiser(Silent(), path, mode_scaling), x, torch.Generator().manual_seed(3))
    error = float(loss.std()) / math.sqrt(n)
    print(f"loss {loss.mean():.4f} ± {error:.4f}")
    assert abs(float(loss.mean()) - 1) < 4 * error


class Answering(nn.Module):
    """The exact answer to any prediction at any time, plus a known fault."""

    def __init__(self, mixture: MixtureDenoiser, asked: Prediction, fault: float = 0.0) -> None:
        super().__init__()
        self.mixture, self.asked, self.fault = mixture, asked, fault

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        path = self.mixture.path
        point = path.at(t)
        u = path.basis.forward(x) * point.variance.mean((-2, -1), keepdim=True).sqrt()
        y = point.restore(u)
        d = point.wiener(y) + self.mixture.residual(y, t) - path.reference.mean
        noise = (u - point.amplitude * d) / point.noise_variance.sqrt()
        exact = self.asked.rows(point, t).target(d, noise)
        return path.basis.inverse(exact + self.fault * torch.tanh(point.whiten(y)))


PROCESSES = {
    "advection": AdvectionDiffusion(BASIS, 0.02, 0.4, (0.3, 0.2)),
    "vp": VariancePreserving(BASIS),
    "langevin": CriticallyDampedLangevin(BASIS),
    "blurring": HeatDissipation(BASIS),
}
MANY = [(p, w, q) for p in PROCESSES for w in weightings.classes() for q in PREDICTIONS]
FEW = [
    ("advection", "Simple", "epsilon"), ("advection", "MinSNR", "v"), ("vp", "EDM", "x0"),
    ("vp", "Likelihood", "score"),
    ("langevin", "ModeLikelihood", "mean"), ("blurring", "Relative", "residual"), ("blurring", "Elbo", "v"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("process", "weighting", "prediction"),
    [pytest.param(*one, marks=() if one in FEW else pytest.mark.slow, id="-".join(one)) for one in MANY],
)
def test_the_exact_answer_minimises_every_weighting_of_every_prediction(
    process: str, weighting: str, prediction: str
) -> None:
    """The slope of the mean loss along a fault of the answer is 0; a slope of the size of the bend would be seen."""
    n, asked = 6000, prediction_of(prediction, mode_scaling=1.0, steps=50)
    mixture = bimodal(fit_clock(PROCESSES[process], smooth_reference(BASIS)), smooth_reference(BASIS))
    x = BASIS.inverse(mixture.sample_modes(n, torch.Generator().manual_seed(0)))
    objective = DenoisingLoss(weightings.find(weighting)(), times=LikelihoodImportance(0.5))

    def loss(fault: float) -> Tensor:
        denoiser = Denoiser(Answering(mixture, asked, fault), mixture.path, prediction=asked)
        return objective(denoiser, x, torch.Generator().manual_seed(1))

    exact, plus, minus = loss(0.0), loss(0.1), loss(-0.1)
    slope, bend = (plus - minus) / 0.2, float((plus + minus - 2 * exact).mean() / 0.01)
    error = float(slope.std()) / math.sqrt(n)
    print(f"loss {exact.mean():.4f}, slope {slope.mean():.5f} ± {error:.5f}, bend {bend:.4f}")
    assert abs(float(slope.mean())) < 4.5 * error
    assert bend > 5 * error


@pytest.mark.parametrize("mode_scaling", [0.0, 0.5, 1.0])
def test_simple_is_the_error_in_units_of_what_the_wiener_filter_leaves(mode_scaling: float) -> None:
    """Against the denoiser's own answer, as a field: Σ |(D − y_0)/κ|² / Σ (cS/V)/κ²."""
    law = smooth_reference(BASIS)
    path = ReferencePath(fit_clock(AdvectionDiffusion(BASIS, 0.02, 0.4, (0.3, 0.2)), law), law)
    denoiser = Denoiser(Answering(bimodal(path.process, law, path.t_min), Residual(mode_scaling)), path, mode_scaling)
    x, t = law.sample(5, torch.Generator().manual_seed(2)), torch.tensor([path.t_min, 0.1, 0.5, 0.8, 1.0]).double()
    found = DenoisingLoss(Simple()).at(denoiser, x, t, torch.Generator().manual_seed(3))
    point, clean = path.at(t), BASIS.forward(x)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    noisy = point.with_noise(clean, noise)
    missed = BASIS.forward(denoiser(BASIS.inverse(noisy), t)) - clean
    unit = denoiser.output_scale(point)
    wanted = (missed / unit).square().flatten(1).sum(1) / (point.posterior_variance / unit.square()).flatten(1).sum(1)
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=0)


def test_single_precision_loses_no_mode() -> None:
    """A float32 network on a spectrum of eight decades: the loss and its parts of weak modes are those of float64."""
    basis = SpectralBasis(Grid((8, 8)))
    law = GaussianField.power_law(basis, 11.0)
    path = ReferencePath(fit_clock(AdvectionDiffusion(basis, 0.02), law), law)
    assert float(law.spectrum[law.support].max() / law.spectrum[law.support].min()) > 1e7

    class Zero(nn.Module):
        def __init__(self, dtype: torch.dtype) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros((), dtype=dtype))

        def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
            assert x.dtype == self.weight.dtype
            return self.weight * x

    class Given32(RowDraws):
        def normal(self, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
            return super().normal(*shape, dtype=torch.float32).to(dtype)

    x, t = law.sample(16, torch.Generator().manual_seed(0)), torch.linspace(path.t_min, 1, 16, dtype=torch.float64)
    for weighting in (Simple(), ModeLikelihood()):
        for asked in ("residual", "epsilon", "v", "x0"):
            single, double = (
                DenoisingLoss(weighting).at(
                    Denoiser(Zero(dtype), path, 1.0, prediction=asked), x, t,
                    Given32(torch.Generator().manual_seed(1), 16),
                )
                for dtype in (torch.float32, torch.float64)
            )  # fmt: skip
            assert single.dtype == torch.float32
            torch.testing.assert_close(single.double(), double, rtol=2e-5, atol=0)


def test_gradients_reach_the_network_through_every_prediction() -> None:
    law = smooth_reference(BASIS)
    path = ReferencePath(fit_clock(AdvectionDiffusion(BASIS, 0.02), law), law)
    x = law.sample(8, torch.Generator().manual_seed(0))
    for asked in PREDICTIONS:
        network = nn.Linear(4, 4, dtype=torch.float64)

        class Wrapped(nn.Module):
            def __init__(self, inner: nn.Module) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
                return self.inner(x)

        DenoisingLoss()(Denoiser(Wrapped(network), path, prediction=asked), x, torch.Generator()).mean().backward()
        assert network.weight.grad is not None and float(network.weight.grad.abs().min()) > 0


def test_rows_of_a_split_batch_have_the_losses_of_the_whole() -> None:
    law = smooth_reference(BASIS)
    path = ReferencePath(fit_clock(AdvectionDiffusion(BASIS, 0.02), law), law)
    denoiser, x = Denoiser(Silent(), path), law.sample(7, torch.Generator().manual_seed(0))
    for objective in DenoisingLoss.examples():
        whole = objective(denoiser, x, torch.Generator().manual_seed(1))
        parts = [
            objective(denoiser, x[rows], RowDraws(torch.Generator().manual_seed(1), 7, rows))
            for rows in (slice(0, 3), slice(3, 7))
        ]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=0)


def test_times_are_stratified_and_in_range() -> None:
    law = smooth_reference(BASIS)
    path = ReferencePath(fit_clock(AdvectionDiffusion(BASIS), law), law)
    seen: list[Tensor] = []

    class Listening(Silent):
        def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
            seen.append(t)
            return torch.zeros_like(x)

    x = law.sample(64, torch.Generator().manual_seed(4))
    DenoisingLoss(times=Stratified())(Denoiser(Listening(), path), x, torch.Generator().manual_seed(5))
    share = ((seen[0] - path.t_min) / (1 - path.t_min)).sort().values
    bins = torch.arange(64) / 64
    assert bool(((share >= bins) & (share < bins + 1 / 64)).all())


# ---- by name


def test_an_objective_is_built_from_words() -> None:
    assert ObjectiveSettings().build() == DenoisingLoss()
    told = ObjectiveSettings(
        weighting={"name": "min_snr", "gamma": 3}, times="log_normal", drop_condition=0.2,
        settings={"normalised": False},
    )  # fmt: skip
    assert told.build() == DenoisingLoss(MinSNR(3.0), LogNormal(), 0.2, False)
    assert ObjectiveSettings(settings={"weighting": "ELBO"}).build() == DenoisingLoss(Elbo())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "DenoisingLos"}, "unknown objective 'DenoisingLos'. Did you mean 'DenoisingLoss'?"),
        ({"weighting": "min_snrr"}, "unknown weighting 'min_snrr'. Did you mean 'MinSNR'?"),
        ({"times": "lognormall"}, "unknown time sampling 'lognormall'. Did you mean 'LogNormal'?"),
        (
            {"weighting": {"name": "min_snr", "gama": 1}},
            "objective.weighting: MinSNR has no setting 'gama'. Did you mean",
        ),
        ({"weighting": {"name": "min_snr", "gamma": "a"}}, "objective.weighting.gamma must be float; got 'a'."),
        ({"times": {"name": "Levels", "steps": 1.5}}, "objective.times.steps must be int; got 1.5."),
        ({"weighting": {"gamma": 1}}, "objective.weighting must be a name, or have one under 'name'"),
        ({"settings": {"normalisde": True}}, "DenoisingLoss has no setting 'normalisde'. Did you mean 'normalised'?"),
        ({"weighting": "snr", "settings": {"weighting": "edm"}}, "objective.weighting is given twice"),
        (
            {"name": "VariationalLoss", "weighting": "snr"},
            "objective: VariationalLoss has no setting 'weighting'. It has: steps = 1000, time_grid = LogSpaced, "
            "variance = reference, levels = one, times, drop_condition = 0.0.",
        ),
        ({"weighting": {"name": "snr", "gamma": 1}}, "objective.weighting: SNR has no setting 'gamma'. It has: none."),
        ({"name": "TransitionLoss"}, "objective.name: TransitionLoss is for simulated processes, and is chosen for"),
    ],
)
def test_a_wrong_word_is_answered_with_the_nearest(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ObjectiveSettings(**given)
