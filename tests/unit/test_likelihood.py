"""Likelihoods: the closed form of Gaussian fields to rounding; a mixture in 64 dimensions; honest error bars."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from physdiff.basis import SpectralBasis
from physdiff.clock_fit import fit_clock
from physdiff.denoisers import Denoiser, GaussianDenoiser, MixtureDenoiser
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.laws.cases import smooth_reference
from physdiff.likelihood import Scored, log_likelihood
from physdiff.path import ReferencePath
from physdiff.process import LinearProcess
from physdiff.processes.advection_diffusion import AdvectionDiffusion
from physdiff.processes.heat import Heat
from physdiff.processes.matern import Matern
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.trace import Hutchinson

torch.set_num_threads(1)

GRIDS = [
    Grid(9), Grid(8, 1.0, "neumann"), Grid(7, 1.0, "dirichlet"), Grid((4, 5), 1.0, ("periodic", "neumann")),
    Grid((3, 4), 1.0, ("dirichlet", "periodic")), Grid((4, 4)),
]  # fmt: skip
THREE = [VariancePreserving, Heat, Matern]


class Untrained(nn.Module):
    """A network as it is made: parameters, and an output of zero."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.last * x


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- 1: untrained = closed form


def laws_on(grid: Grid) -> dict[str, GaussianField]:
    """All modes alive; mean-free; band-limited."""
    full = smooth_reference(SpectralBasis(grid))
    k = full.basis.laplacian
    band = torch.where(k <= 0.5 * k.max(), full.spectrum, 0.0)
    mean_free = torch.where(k > 0, full.spectrum, 0.0)
    laws = {"all modes": full, "band-limited": GaussianField(full.basis, torch.where(band > 0, full.mean, 0.0), band)}
    if float(k.min()) == 0:
        laws["mean-free"] = GaussianField(full.basis, torch.where(mean_free > 0, full.mean, 0.0), mean_free)
    return laws


@pytest.mark.parametrize("scored", ["field", "noised", "state"])
@pytest.mark.parametrize("cls", THREE, ids=lambda c: c.__name__)
def test_untrained_likelihood_is_the_closed_form(cls: type, scored: Scored) -> None:
    worst = 0.0
    for grid in GRIDS:
        for law in laws_on(grid).values():
            path = ReferencePath(fit_clock(cls(law.basis), law), law, t_min=0.2)
            point, live = path.at(0.2), law.support.flatten()
            x = law.sample(3, torch.Generator().manual_seed(0))
            if scored == "state":
                x = law.basis.inverse(point.unwhiten(normals(3, 1, *grid.shape) * law.support))
            result = log_likelihood(Denoiser(Untrained(), path), x, scored=scored)
            # The dense normal on the support, of the state at t_min; x is scored through the linear map m.
            gain = point.amplitude.expand(law.spectrum.shape).flatten()[live]
            variance = gain**2 * law.spectrum.flatten()[live] + point.noise_variance.flatten()[live]
            dense = MultivariateNormal(gain * law.mean.flatten()[live], torch.diag(variance))
            modes = (law.basis.dense().T @ x.flatten(1).T).T[:, live]
            if scored == "field":
                expected = dense.log_prob(gain * modes) + torch.linalg.slogdet(torch.diag(gain)).logabsdet
            elif scored == "state":
                expected = dense.log_prob(modes)
            else:  # the state is the model's draw: read it back from the latent, which stands still
                expected = dense.log_prob(point.unwhiten(result.latent).flatten(1)[:, live])
                noise = (
                    point.unwhiten(result.latent).flatten(1)[:, live] - gain * modes
                ) / point.noise_variance.flatten()[live].sqrt()
                assert 0 < float(noise.square().mean()) < 3
            worst = max(worst, float((result.log_prob - expected).abs().max()) / law.n_support)
            assert result.n_support == int(live.sum())
            torch.testing.assert_close(result.per_dimension * result.n_support, result.log_prob)
            assert float(result.relative_to_reference.abs().max()) / law.n_support < 1e-8
            assert result.gaussian_bias == (path.bias_at_t_min if scored == "field" else 0.0)
    print(f"{cls.__name__}, {scored}: largest error {worst:.1e} nats per dimension")
    assert worst < 1e-8


def test_noised_fields_have_the_noise_of_t_min() -> None:
    """The state that `scored="noised"` scores is m x + √S ε: variance of ε is 1, to 4 standard errors."""
    basis = SpectralBasis(Grid(8))
    reference = GaussianField.matern(basis, 0.3)
    path = ReferencePath(fit_clock(VariancePreserving(basis), reference), reference, 0.4)
    n = 400
    x = reference.sample(n, torch.Generator().manual_seed(3))
    settings: dict[str, Any] = {"method": "midpoint", "steps": 1, "chunk": n}
    result = log_likelihood(GaussianDenoiser(path), x, scored="noised", **settings)
    point = path.at(0.4)
    noise = point.unwhiten(result.latent) - point.amplitude * basis.forward(x)  # the latent stands still
    mean_square = float((noise.square() / point.noise_variance).mean())
    print(f"mean square of the noise {mean_square:.4f}")
    assert abs(mean_square - 1) < 4 * math.sqrt(2 / noise.numel())


def test_default_t_min_scores_fields_almost_at_their_own_density() -> None:
    law = smooth_reference(SpectralBasis(Grid((4, 5))))
    path = ReferencePath(fit_clock(Matern(law.basis), law), law)
    x = law.sample(400, torch.Generator().manual_seed(1))
    fall = law.log_prob(x) - log_likelihood(GaussianDenoiser(path), x, chunk=400).log_prob
    error = float(fall.std()) / 20
    print(f"bias stated {path.bias_at_t_min:.2e} nats, seen {fall.mean():.2e} ± {error:.1e}")
    assert abs(float(fall.mean()) - path.bias_at_t_min) < 4 * error and path.bias_at_t_min < 1e-4


def test_wrong_reference_costs_nothing_with_the_true_terminal_law() -> None:
    basis = SpectralBasis(Grid((3, 4)))
    law = smooth_reference(basis)
    true = GaussianField(
        basis, 0.3 - law.mean, basis.symmetrise(law.spectrum * torch.linspace(0.4, 2.5, 12).reshape(1, 3, 4))
    )
    path = ReferencePath(fit_clock(AdvectionDiffusion(basis, 0.02, 0.4, (0.3, 0.2)), law), law, t_min=0.1)
    start, end = true.at(path.process, 0.1), true.at(path.process, 1.0)
    x = start.sample(4, torch.Generator().manual_seed(2))
    result = log_likelihood(
        GaussianDenoiser(path, true), x, scored="state", rtol=1e-7, atol=1e-7,
        terminal=lambda y: end.log_prob_of_deviation(y - end.mean),
    )  # fmt: skip
    error = float((result.log_prob - start.log_prob(x)).abs().max()) / 12
    print(f"error {error:.1e} nats per dimension, {result.evaluations} evaluations")
    assert error < 1e-6


# ---- 2: a mixture in 64 dimensions


def market() -> list[LinearProcess]:
    plane, line = SpectralBasis(Grid((8, 8))), SpectralBasis(Grid(64, 1.0, "neumann"))
    return [
        VariancePreserving(plane), Heat(plane), Heat(line), Matern(line), Matern(plane),
        AdvectionDiffusion(plane, 0.02, 0.3, (0.3, -0.2)),
    ]  # fmt: skip


def mixture_around_itself(process: LinearProcess, t_min: float | None = None) -> MixtureDenoiser:
    """Three components, as far apart as they are wide, in every mode at once."""
    law = smooth_reference(process.basis)
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    signs = torch.sign(normals(3, *law.spectrum.shape, seed=8))
    shrink = torch.tensor([0.5, 0.4, 0.7], dtype=torch.float64).reshape(3, *[1] * law.spectrum.ndim)
    means = law.mean + 0.9 * law.spectrum.sqrt() * signs
    spectra = law.spectrum * shrink
    reference = MixtureDenoiser.reference(process.basis, weights, means, spectra)
    process = fit_clock(process, reference)
    return MixtureDenoiser(ReferencePath(process, reference, t_min), weights, means, spectra)


def identify(process: LinearProcess) -> str:
    return f"{type(process).__name__}-{'x'.join(map(str, process.basis.grid.shape))}"


def test_the_mixture_is_far_from_gaussian() -> None:
    mixture = mixture_around_itself(market()[0])
    y = mixture.sample_modes(20_000, torch.Generator().manual_seed(9)).flatten(1)
    z = (y - y.mean(0)) / y.std(0)
    correlation = (z.T @ z / len(z)).abs()
    off = float(correlation[~torch.eye(64, dtype=torch.bool)].mean())
    kurtosis = z.pow(4).mean(0)
    error = float(z.pow(4).std(0).max()) / math.sqrt(len(z))
    print(f"mean |correlation| {off:.3f}; kurtosis {kurtosis.min():.2f} to {kurtosis.max():.2f}, ± {error:.2f}")
    assert off >= 0.1
    assert float((kurtosis - 3).abs().mean()) > 4 * error


@pytest.mark.parametrize("process", market(), ids=identify)
@pytest.mark.parametrize("scored", ["state", "field"])
def test_mixture_likelihood_is_the_truth(process: LinearProcess, scored: Scored) -> None:
    mixture = mixture_around_itself(process, t_min=0.05)
    path, generator, n = mixture.path, torch.Generator().manual_seed(10), 4
    point = path.at(path.t_min)
    clean = mixture.sample_modes(n, generator)
    if scored == "state":
        y = point.noised(clean, generator)
        x, expected = path.basis.inverse(y), mixture.log_prob(y, path.t_min)
    else:
        x = path.basis.inverse(clean)
        y = path.basis.apply(path.process.kernel(torch.tensor(path.t_min)).gain, clean)
        volume = float(point.log_gain.real.expand(1, *path.basis.grid.shape).sum())
        expected = mixture.log_prob(y, path.t_min) + volume
    exact = log_likelihood(mixture, x, scored=scored, terminal=lambda y: mixture.log_prob(y, 1.0), roundtrip=True)
    error = float((exact.log_prob - expected).abs().max()) / 64
    assert exact.roundtrip_error is not None
    back = float(exact.roundtrip_error.max())
    print(
        f"{identify(process)}, {scored}: {error:.1e} nats per dimension, {exact.evaluations} evaluations, "
        f"round trip {back:.1e}"
    )
    assert error < 1e-4
    assert back < 1e-3
    assert float((exact.log_prob - exact.log_prob_reference).abs().min()) > 1.0  # the residual mattered
    # With the reference's terminal law the difference is the log-ratio of the two at the state that was reached.
    matched = log_likelihood(mixture, x, scored=scored)
    reached = path.at(1.0).unwhiten(exact.latent)
    end = path.reference.at(path.process, 1.0)
    ratio = mixture.log_prob(reached, 1.0) - end.log_prob_of_deviation(reached - end.mean)
    torch.testing.assert_close(exact.log_prob - matched.log_prob, ratio, rtol=0, atol=1e-8)
    torch.testing.assert_close(matched.latent, exact.latent, rtol=0, atol=1e-12)
    # Nothing is missed at an end whose law was given.
    assert (exact.terminal_mismatch, matched.terminal_mismatch) == (0.0, path.terminal_mismatch)


@pytest.mark.parametrize("process", market(), ids=identify)
def test_matched_terminal_law_errs_below_the_bound(process: LinearProcess) -> None:
    """The mean over the data of the extra error is KL(p₁ ‖ reference at 1); 4,000 terminal states."""
    mixture, n = mixture_around_itself(process), 4000
    path, generator = mixture.path, torch.Generator().manual_seed(11)
    y = path.at(1.0).noised(mixture.sample_modes(n, generator), generator)
    end = path.reference.at(path.process, 1.0)
    extra = mixture.log_prob(y, 1.0) - end.log_prob_of_deviation(y - end.mean)
    error = float(extra.std()) / math.sqrt(n)
    bound = path.terminal_mismatch
    print(f"{identify(process)}: {extra.mean() / 64:.1e} ± {error / 64:.0e} nats per dimension, bound {bound / 64:.1e}")
    assert float(extra.mean()) + 3 * error < bound
    assert float(extra.mean()) > -3 * error


# ---- error bars


def crowd(t_min: float) -> MixtureDenoiser:
    """Sixteen components at random places: a residual whose Jacobian has rank 15, as a network's has many."""
    law = smooth_reference(SpectralBasis(Grid((6, 6))))
    means = law.mean + 0.8 * law.spectrum.sqrt() * normals(16, *law.spectrum.shape, seed=16)
    process = VariancePreserving(law.basis)
    weights, spectra = torch.ones(16, dtype=torch.float64), (0.4 * law.spectrum).expand(means.shape)
    reference = MixtureDenoiser.reference(law.basis, weights, means, spectra)
    return MixtureDenoiser(ReferencePath(fit_clock(process, reference), reference, t_min), weights, means, spectra)


@pytest.mark.parametrize("probes", [8, 16])
def test_hutchinson_intervals_cover_at_their_rate(probes: int) -> None:
    """R = 200 repeats of K probes on one field; the number covered lies in the binomial's 99.9 % interval at 95 %.

    Where the Jacobian has rank one or two (a mixture of three), εᵀJε is as skewed as a chi-square of one degree of
    freedom, and 8 probes cover 86 %.
    """
    repeats, level = 200, 0.95
    mixture = crowd(t_min=0.1)
    x = mixture.path.basis.inverse(mixture.sample_modes(1, torch.Generator().manual_seed(12)))
    options = {"method": "rk4", "steps": 8}
    exact = log_likelihood(mixture, x, **options)
    many = log_likelihood(
        mixture, x.expand(repeats, *x.shape[1:]), trace=Hutchinson(probes), seed=1, chunk=repeats, **options
    )
    low, high = many.interval(level)
    covered = int(((low <= exact.log_prob) & (exact.log_prob <= high)).sum())
    least, most = stats.binom.interval(0.999, repeats, level)
    bias = (many.log_prob - exact.log_prob).mean() / (many.log_prob.std() / math.sqrt(repeats))
    scale = float(many.log_prob.std() / many.standard_error.square().mean().sqrt())
    print(f"K = {probes}, R = {repeats}: {covered} covered, binomial {least:.0f} to {most:.0f}; "
          f"bias {bias:+.2f} standard "
          f"errors; spread of repeats / stated error {scale:.3f}")  # fmt: skip
    assert least <= covered <= most
    assert abs(float(bias)) < 4
    assert float(many.standard_error.min()) > 0.01  # nats: the trace has something to estimate
    # Relative standard error of a standard deviation of R draws: 1/√(2R) = 5 %.
    assert abs(scale - 1) < 4 / math.sqrt(2 * repeats) * 1.5


def test_one_probe_has_no_error_bar_and_the_exact_trace_none_to_show() -> None:
    mixture = mixture_around_itself(Matern(SpectralBasis(Grid(6))), t_min=0.1)
    x = mixture.path.basis.inverse(mixture.sample_modes(2, torch.Generator().manual_seed(13)))
    one = log_likelihood(mixture, x, trace=Hutchinson(1), method="rk4", steps=4)
    assert bool(one.standard_error.isnan().all()) and one.probes == 1
    with pytest.raises(ValueError, match=r"use Hutchinson\(2\) or more"):
        one.interval()
    exact = log_likelihood(mixture, x, method="rk4", steps=4)
    assert float(exact.standard_error.abs().max()) == 0 and torch.equal(exact.interval()[0], exact.log_prob)
    with pytest.raises(ValueError, match="at least 1 probe; got 0"):
        Hutchinson(0)


@pytest.mark.parametrize("method", ["rk4", "midpoint", "heun3", "euler"])
def test_fixed_steps_do_not_know_their_batch_mates(method: str) -> None:
    mixture = mixture_around_itself(Heat(SpectralBasis(Grid((3, 4)))), t_min=0.1)
    x = mixture.path.basis.inverse(mixture.sample_modes(5, torch.Generator().manual_seed(14)))
    for trace in ("exact", Hutchinson(3)):
        whole = log_likelihood(mixture, x, trace=trace, method=method, steps=6)
        parts = log_likelihood(mixture, x, trace=trace, method=method, steps=6, chunk=2)
        first = log_likelihood(mixture, x[:1], trace=trace, method=method, steps=6)
        torch.testing.assert_close(parts.log_prob, whole.log_prob, rtol=0, atol=1e-12)
        torch.testing.assert_close(first.log_prob, whole.log_prob[:1], rtol=0, atol=1e-12)
        torch.testing.assert_close(parts.standard_error, whole.standard_error, rtol=0, atol=1e-12)


def test_steps_converge_to_the_truth_at_the_methods_order() -> None:
    mixture = mixture_around_itself(AdvectionDiffusion(SpectralBasis(Grid(6)), 0.02, 0.4, 0.3), t_min=0.1)
    generator = torch.Generator().manual_seed(15)
    y = mixture.path.at(0.1).noised(mixture.sample_modes(3, generator), generator)
    truth, x = mixture.log_prob(y, 0.1), mixture.path.basis.inverse(y)
    for method, order, steps in (("euler", 1, 128), ("midpoint", 2, 128), ("heun3", 3, 128), ("rk4", 4, 128)):
        errors = []
        for n in (steps, 2 * steps):
            result = log_likelihood(
                mixture, x, scored="state", method=method, steps=n, terminal=lambda y: mixture.log_prob(y, 1.0)
            )
            errors.append(float((result.log_prob - truth).square().mean().sqrt()))
        slope = math.log2(errors[0] / errors[1])
        print(f"{method}: slope {slope:.2f}, error {errors[1]:.1e}")
        assert abs(slope - order) < 0.15


# ---- doors


def test_what_is_refused() -> None:
    law = GaussianField.power_law(SpectralBasis(Grid((4, 5))), 2.0)
    denoiser = GaussianDenoiser(ReferencePath(fit_clock(Heat(law.basis), law), law))
    x = law.sample(3, torch.Generator().manual_seed(0))
    broken = x.clone()
    broken[2, 0, 1, 3] = math.nan
    for fields, arguments, words in (
        (
            x[:, :, :3],
            {},
            "must have the shape (n, 1, 4, 5) on the grid 4 (x, periodic, 1) x 5 (y, periodic, 1); got (3, 1, 3, 5)",
        ),
        (broken, {}, "1 values that are not finite, the first at index (2, 0, 1, 3)"),
        (x + 1.0, {}, "outside the support"),
        (x + 1.0, {"scored": "state"}, "outside the support"),
        (x, {"method": "rk5"}, "unknown method 'rk5'. Did you mean 'rk45'?"),
        (
            x,
            {"trace": "exat"},
            "trace must be 'exact' or an estimator, such as Hutchinson(8); got 'exat'. Did you mean 'ex",
        ),
        (x, {"trace": "hutchinson"}, "Did you mean 'Hutchinson'?"),
        (
            x,
            {"condition": torch.zeros(2, 5)},
            "one entry a field, or one for all: shape (3, ...) or (1, ...); got (2, 5)",
        ),
        (x, {"scored": "clean"}, "scored must be 'field', 'noised' or 'state'; got 'clean'"),
    ):
        with pytest.raises(ValueError) as error:
            log_likelihood(denoiser, fields, **arguments)
        assert words in str(error.value)
    with torch.no_grad(), pytest.raises(ValueError, match=r"differentiable=True needs gradients, which torch.no_grad"):
        log_likelihood(denoiser, x, differentiable=True)
