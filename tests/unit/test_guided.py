"""Guidance against densities in closed form: at every noise level, in samples and in likelihoods."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from physdiff.basis import IdentityBasis, SpectralBasis
from physdiff.bounds import elbo, simulated_elbo
from physdiff.clock import LinearClock
from physdiff.clock_fit import fit_clock
from physdiff.condition import Condition, Given
from physdiff.denoisers import (
    Denoiser,
    GaussianDenoiser,
    Guided,
    GuidedScore,
    MixtureDenoiser,
    PosteriorMean,
    ScoreModel,
    guided,
)
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.laws.cases import bimodal, smooth_reference
from physdiff.likelihood import log_likelihood
from physdiff.networks import UNet
from physdiff.path import ReferencePath
from physdiff.processes.advection_diffusion import AdvectionDiffusion
from physdiff.processes.variance_exploding import VarianceExploding
from physdiff.semilinear import with_drift
from physdiff.simulated_path import Moments, SimulatedPath
from physdiff.solvers.sample import sample

torch.set_num_threads(1)

PLANE = SpectralBasis(Grid((4, 3), (1.0, 1.5), ("periodic", "neumann")))
REFERENCE = smooth_reference(PLANE)
PROCESS = fit_clock(AdvectionDiffusion(PLANE, 0.02, 0.4, (0.3, 0.0)), REFERENCE)
SCALES = [-0.5, 0.0, 0.4, 1.0, 2.5]


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class ByClass(PosteriorMean):
    """Exact: a denoiser for each class, and one for rows that are told none."""

    def __init__(self, absent: PosteriorMean, classes: list[PosteriorMean]) -> None:
        super().__init__(absent.path)
        self.absent, self.classes = absent, classes
        self.rows: list[int] = []

    def _each(self, name: str, modes: Tensor, t: Tensor, condition: Given | None) -> Tensor:
        found = getattr(self.absent, name)(modes, t)
        if condition is None:
            return found
        given = Condition.of(condition)
        assert given.classes is not None
        for i, denoiser in enumerate(self.classes):
            here = given.classes == i
            here = here if given.present is None else here & given.present
            rows = here.reshape(-1, *[1] * (modes.ndim - 1))
            found = torch.where(rows, getattr(denoiser, name)(modes, t), found)
        return found

    def residual(self, modes: Tensor, t: Tensor, condition: Given | None = None) -> Tensor:
        self.rows.append(len(modes))
        return self._each("residual", modes, t, condition)

    def posterior_variance(self, modes: Tensor, t: Tensor, condition: Given | None = None) -> Tensor:
        return self._each("posterior_variance", modes, t, condition)


def of_components() -> tuple[MixtureDenoiser, list[MixtureDenoiser]]:
    """A mixture of three, and each component by itself, which is what the mixture is given its class."""
    mixture = bimodal(PROCESS, REFERENCE)
    one = torch.ones(1, dtype=torch.float64)
    parts = zip(mixture.means.split(1), mixture.spectra.split(1), strict=True)
    return mixture, [MixtureDenoiser(mixture.path, one, mean, spectrum) for mean, spectrum in parts]


def classes(*which: int) -> Condition:
    return Condition(classes=torch.tensor(which))


@pytest.mark.parametrize("t", [0.05, 0.4, 1.0])
@pytest.mark.parametrize("scale", SCALES)
def test_score_is_that_of_the_tilted_density(scale: float, t: float) -> None:
    mixture, components = of_components()
    guided = Guided(ByClass(mixture, list(components)), scale)
    x = (2 * normals(3, 1, 4, 3)).requires_grad_()
    y = PLANE.forward(x)
    told = torch.stack([components[j].log_prob(y[i : i + 1], t)[0] for i, j in enumerate((2, 0, 1))])
    log_density = scale * told + (1 - scale) * mixture.log_prob(y, t)
    (wanted,) = torch.autograd.grad(log_density.sum(), x)
    found = guided.score(x.detach(), torch.tensor(t, dtype=torch.float64), classes(2, 0, 1))
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("scale", SCALES)
def test_gaussians_tilt_to_a_gaussian(scale: float) -> None:
    """p(x | c)^w p(x)^(1−w) of two Gaussians: precisions add with their weights, and so do precisions times means."""
    path = ReferencePath(PROCESS, REFERENCE)
    law = GaussianField(PLANE, REFERENCE.mean + 0.7, 0.6 * REFERENCE.spectrum)
    guided = Guided(ByClass(GaussianDenoiser(path), [GaussianDenoiser(path, law)]), scale)
    x, t = normals(4, 1, 4, 3), torch.tensor(0.5, dtype=torch.float64)
    scores = []
    for gaussian in (REFERENCE, law):
        u, kernel = PLANE.dense(), PROCESS.kernel(t)
        eye = torch.eye(12, dtype=torch.float64).reshape(12, 4, 3)
        gain = u @ PLANE.apply(kernel.gain, eye).flatten(1).T @ u.T
        clean = u @ torch.diag(gaussian.spectrum.flatten()) @ u.T
        total = gain @ clean @ gain.T + u @ torch.diag(kernel.variance.expand(4, 3).flatten()) @ u.T
        precision = torch.linalg.inv(total)
        scores.append((precision, precision @ gain @ u @ gaussian.mean.flatten()))
    precision = (1 - scale) * scores[0][0] + scale * scores[1][0]
    mean = torch.linalg.solve(precision, (1 - scale) * scores[0][1] + scale * scores[1][1])
    wanted = -(x.flatten(1) - mean) @ precision
    found = guided.score(x, t, classes(0, 0, 0, 0)).flatten(1)
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)


def apart() -> tuple[ByClass, GaussianField]:
    """A Gaussian, and one of the same spectrum whose mean lies elsewhere, as its class 0."""
    path = ReferencePath(PROCESS, REFERENCE)
    law = GaussianField(PLANE, REFERENCE.mean + 0.4 * normals(1, 4, 3, seed=3), REFERENCE.spectrum)
    return ByClass(GaussianDenoiser(path), [GaussianDenoiser(path, law)]), law


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_samples_and_likelihoods_of_guided_gaussians(scale: float) -> None:
    """Of equal spectra, the tilted densities are the noised versions of one law: its mean is moved w times as far."""
    denoiser, law = apart()
    guided = Guided(denoiser, scale)
    moved = GaussianField(PLANE, REFERENCE.mean + scale * (law.mean - REFERENCE.mean), REFERENCE.spectrum)
    exact = GaussianDenoiser(denoiser.path, moved)
    told = classes(0)
    found = sample(guided, 5, steps=6, seed=2, condition=told, chunk=2)
    torch.testing.assert_close(found, sample(exact, 5, steps=6, seed=2), rtol=0, atol=1e-10)
    x = moved.sample(2, torch.Generator().manual_seed(1))
    at_start, at_end = (moved.at(PROCESS, t) for t in (denoiser.path.t_min, 1.0))
    score = log_likelihood(
        guided, x, scored="state", condition=told, rtol=1e-6, atol=1e-6,
        terminal=lambda y: at_end.log_prob(PLANE.inverse(y)),
    )  # fmt: skip
    error = (score.log_prob - at_start.log_prob(x)).abs().max()
    print(f"off by {error:.1e} nats")
    # Measured 1.3e-5: the integrator's tolerance.
    assert error < 4e-5
    bound = elbo(guided, x, steps=6, draws=2, condition=told.expand(2))
    torch.testing.assert_close(bound.bound, elbo(exact, x, steps=6, draws=2).bound, rtol=0, atol=1e-9)


class Wells(ScoreModel):
    """∇ log p of independent cells that stand in a Gaussian well: of a place by class, or about zero where not told."""

    PLACES = torch.tensor([1.5, -0.5], dtype=torch.float64)

    def log_prob(self, x: Tensor, place: Tensor | float) -> Tensor:
        return (-((x - place) ** 2) / 8 - 0.5 * (x - place).cosh().log()).sum()

    def correction(self, modes: Tensor, t: Tensor, condition: Given | None = None) -> Tensor:
        place = torch.zeros(len(modes), dtype=torch.float64)
        if condition is not None:
            given = Condition.of(condition)
            assert given.classes is not None
            place = self.PLACES[given.classes]
            place = place if given.present is None else torch.where(given.present, place, 0.0)
        off = modes - place.reshape(-1, 1, 1)
        point = self.path.at(t)
        return point.variance.sqrt() * (-off / 4 - 0.5 * off.tanh()) + point.whiten(modes)


def test_scores_of_simulated_processes_are_guided_alike() -> None:
    basis = IdentityBasis(Grid(2))
    process = with_drift(VarianceExploding(basis, clock=LinearClock(2.0)), lambda x, time: torch.tanh(x))
    shape, times = torch.zeros((2, 1, 2), dtype=torch.float64), torch.tensor([0.0, 0.2, 2.0], dtype=torch.float64)
    path = SimulatedPath(process, GaussianField.white(basis), Moments(times, times[1:], shape, shape + 4.0), 0.1)
    model, t = Wells(path), torch.tensor(0.4, dtype=torch.float64)
    found = guided(model, 2.5)
    assert isinstance(found, GuidedScore)
    x, told = normals(2, 1, 2).requires_grad_(), classes(1, 0)
    log_density = sum(2.5 * model.log_prob(x[i], model.PLACES[j]) - 1.5 * model.log_prob(x[i], 0.0)
                      for i, j in enumerate((1, 0)))  # fmt: skip
    assert isinstance(log_density, Tensor)
    (wanted,) = torch.autograd.grad(log_density, x)
    x = x.detach()
    torch.testing.assert_close(found.score(x, t, told), wanted, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.score(x, t), model.score(x, t), rtol=0, atol=0)
    given, absent = model.velocity(x, t, told), model.velocity(x, t)
    torch.testing.assert_close(found.velocity(x, t, told), absent + 2.5 * (given - absent), rtol=1e-10, atol=1e-12)
    # Through solver, likelihood and bound: of scale 1, the conditional model itself.
    plain = guided(model, 1.0)
    for act in (
        lambda m: sample(m, 2, steps=3, condition=told),
        lambda m: log_likelihood(m, x, scored="state", method="rk4", steps=3, condition=told).log_prob,
        lambda m: simulated_elbo(m, x, draws=2, condition=told).bound,
    ):
        torch.testing.assert_close(act(plain), act(model), rtol=1e-10, atol=1e-10)
        assert (act(found) - act(model)).abs().min() > 1e-3


def test_guidance_is_of_denoisers_and_scores() -> None:
    with pytest.raises(ValueError, match="needs a denoiser or a score; got Linear"):
        guided(torch.nn.Linear(1, 1), 2.0)  # pyright: ignore[reportArgumentType]


def networked() -> Denoiser:
    net = UNet(PLANE.grid, 1, width=4, multipliers=(1, 2), classes=3, scalars=1).double()
    with torch.no_grad():
        for seed, parameter in enumerate(net.parameters()):
            parameter.add_(0.2 * normals(*parameter.shape, seed=seed))
    return Denoiser(net.eval(), ReferencePath(PROCESS, REFERENCE))


def test_one_is_told_and_zero_is_not_in_one_doubled_evaluation() -> None:
    denoiser = networked()
    y, t = normals(3, 1, 4, 3), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    told = Condition(scalars=normals(3, 1), classes=torch.tensor([0, 2, 1]))
    with torch.no_grad():
        conditional, absent = denoiser.residual(y, t, told), denoiser.residual(y, t)
        assert (conditional - absent).flatten(1).norm(dim=1).min() > 1e-3 * absent.norm()
        batches: list[int] = []
        handle = denoiser.network.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
        for scale, wanted in ((1.0, conditional), (0.0, absent), (2.0, 2 * conditional - absent)):
            found = Guided(denoiser, scale).residual(y, t, told)
            torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
        assert batches == [6, 6, 6]
        handle.remove()
        guided = Guided(denoiser, 2.0)
        torch.testing.assert_close(guided.residual(y, t), absent, rtol=0, atol=0)
        # One time, one condition for all, and a row that is told nothing.
        some = told.told(torch.tensor([True, False, True]))
        partly = guided.residual(y, t, some)
        torch.testing.assert_close(partly[1], absent[1], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(partly[2], 2 * conditional[2] - absent[2], rtol=1e-10, atol=1e-12)
        one = guided.residual(y, t[1], told[:1])
        torch.testing.assert_close(one[:1], guided.residual(y[:1], t[1], told[:1]), rtol=1e-10, atol=1e-12)


def test_variance_is_that_of_the_denoiser_where_it_is_told() -> None:
    mixture, components = of_components()
    denoiser = ByClass(mixture, list(components))
    y, t = normals(3, 1, 4, 3), torch.tensor(0.4, dtype=torch.float64)
    posterior = Guided(denoiser, 3.0).posterior(y, t, classes(0, 1, 2))
    wanted = torch.cat([components[i].posterior_variance(y[i : i + 1], t) for i in range(3)])
    torch.testing.assert_close(posterior.unknown, wanted, rtol=1e-12, atol=0)
    torch.testing.assert_close(posterior.residual, Guided(denoiser, 3.0).residual(y, t, classes(0, 1, 2)))
    assert Guided(denoiser, 3.0).posterior(y, t).residual.equal(mixture.residual(y, t))


def test_guided_network_samples_what_it_is_told_and_scores_it() -> None:
    denoiser = networked()
    told = Condition(scalars=normals(4, 1), classes=torch.tensor([0, 1, 2, 0]))
    # The network is no denoiser of anything; a solver and a likelihood must still agree with themselves.
    guided = Guided(denoiser, 1.5)
    whole = sample(guided, 4, steps=3, condition=told)
    parts = sample(guided, 4, steps=3, condition=told, chunk=3)
    torch.testing.assert_close(whole, parts, rtol=1e-9, atol=1e-10)
    assert (whole - sample(denoiser, 4, steps=3, condition=told)).norm() > 1e-2
    score = log_likelihood(guided, whole[:2], condition=told[:2], method="rk4", steps=3)
    alone = log_likelihood(guided, whole[:1], condition=told[:1], method="rk4", steps=3)
    torch.testing.assert_close(score.log_prob[:1], alone.log_prob, rtol=0, atol=1e-8)


def test_a_scale_must_be_finite() -> None:
    with pytest.raises(ValueError, match="scale of a guidance is a finite number; got nan"):
        Guided(GaussianDenoiser(ReferencePath(PROCESS, REFERENCE)), float("nan"))
