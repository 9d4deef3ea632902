"""Learned variances: the published interpolation, the ratio to the reference, and what training finds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from physdiff.basis import IdentityBasis, SpectralBasis
from physdiff.bounds import elbo
from physdiff.chain import Chain
from physdiff.clock_fit import fit_clock
from physdiff.condition import Given
from physdiff.denoisers import Denoiser, MixtureDenoiser, PosteriorMean, calibrate
from physdiff.denoisers.learned_variance import LearnedVariance, places
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.laws.cases import smooth_reference
from physdiff.laws.stepping import carried
from physdiff.networks.unet import UNet
from physdiff.objectives.chain_states import ChainStates
from physdiff.objectives.denoising import DenoisingLoss
from physdiff.objectives.hybrid import HybridLoss
from physdiff.objectives.variational import VariationalLoss
from physdiff.objectives.weighting import Simple
from physdiff.path import ReferencePath
from physdiff.processes.advection_diffusion import AdvectionDiffusion
from physdiff.processes.heat import Heat
from physdiff.processes.matern import Matern
from physdiff.randomness import keyed_generator
from physdiff.solvers import Ancestral, LogSpaced, ReverseDynamics

torch.set_num_threads(1)
LINE = SpectralBasis(Grid(6))


def normals(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Says(nn.Module):
    """A network whose outputs are a function of its input; counts its calls."""

    def __init__(self, answer: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.answer, self.calls = answer, 0

    def forward(self, x: Tensor, t: Tensor, condition: Given | None = None) -> Tensor:
        self.calls += 1
        return self.answer(x, t)


def constant(mean: Tensor, *variance: Tensor) -> Says:
    """A network that says the same of any input: fields of shape (channels, *grid)."""
    said = torch.cat([mean, *variance])
    return Says(lambda x, t: said.expand(len(x), *said.shape))


def step_of(denoiser: PosteriorMean, t: float, s: float, y: Tensor, variance: Any = "learned") -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per mode of an ancestral step."""
    times = torch.tensor([t, s], dtype=torch.float64)

    def step(size: float) -> Tensor:
        def draw(shape: tuple[int, ...]) -> Tensor:
            return torch.full((len(y), *shape), size, dtype=torch.float64)

        return Ancestral(variance=variance).step(ReverseDynamics(denoiser), y, times[0], times[1], draw)

    mean = step(0.0)
    return mean, step(1.0) - mean


# ---- as published


@pytest.mark.parametrize("steps", [20, 4], ids=["every level", "respaced"])
def test_interpolation_is_the_published_one(steps: int) -> None:
    """Step and cost between β and β̃ of the very step, from a table of β alone, in cells (Nichol and Dhariwal, 2021)."""
    basis, betas = IdentityBasis(Grid(3)), torch.linspace(0.01, 0.4, 20, dtype=torch.float64)
    chain = Chain.from_betas(basis, betas)
    said = torch.tensor([[-1.0, 1.0, 0.3]], dtype=torch.float64)
    head = LearnedVariance(1, "interpolated", per_cell=True)
    path = chain.path(GaussianField.white(basis))
    denoiser = Denoiser(constant(normals(1, 3, seed=1), said), path, learned_variance=head)
    alpha_bar = (1 - betas).cumprod(0)
    levels = [*chain.levels(steps).tolist(), 0]
    y, clean = normals(2, 1, 3, seed=2), normals(2, 1, 3, seed=3)
    times = torch.tensor(levels, dtype=torch.float64) / 20
    for i, (later, earlier) in enumerate(pairwise(levels[:-1])):
        now, before = alpha_bar[later - 1], alpha_bar[earlier - 1]
        beta = 1 - now / before
        beta_tilde = beta * (1 - before) / (1 - now)
        share = (1 + said) / 2
        expected = torch.exp(share * torch.log(beta) + (1 - share) * torch.log(beta_tilde))
        t = float(times[i])
        _, spread = step_of(denoiser, t, float(times[i + 1]), y)
        torch.testing.assert_close(spread, expected.sqrt().expand(2, 1, 3), rtol=1e-10, atol=1e-12)
        noise = normals(2, 1, 3, seed=4)
        states = ChainStates.at(path, times, torch.full((2,), i), clean, noise, "learned")
        x_0 = path.at(t).wiener(states.modes) + denoiser.residual(states.modes, times[i])
        weights = before.sqrt() * beta / (1 - now), (1 - beta).sqrt() * (1 - before) / (1 - now)
        true, ours = (weights[0] * x + weights[1] * states.modes for x in (clean, x_0))
        cost = kl_divergence(Normal(true, beta_tilde.sqrt()), Normal(ours, expected.sqrt())).flatten(1).sum(1)
        of_reference = kl_divergence(
            Normal(true, beta_tilde.sqrt()),
            Normal(
                weights[0] * path.at(t).wiener(states.modes) + weights[1] * states.modes,
                (beta_tilde + weights[0].square() * path.at(t).posterior_variance).sqrt(),
            ),
        )
        found = states.extra_cost(denoiser.posterior(states.modes, states.t))
        torch.testing.assert_close(found, cost - of_reference.flatten(1).sum(1), rtol=1e-9, atol=1e-10)


def test_the_ends_of_the_interpolation_are_ddpms_two() -> None:
    path = Chain.ddpm(LINE, 30).path(smooth_reference(LINE))
    y, mean = path.at(0.8).noised(normals(2, 1, 6, seed=5), torch.Generator()), torch.zeros(1, 6, dtype=torch.float64)
    for value, name in ((-1.0, "posterior"), (1.0, "upper")):
        head = LearnedVariance(1, "interpolated")
        denoiser = Denoiser(constant(mean, torch.full_like(mean, value)), path, learned_variance=head)
        found, wanted = (step_of(denoiser, 0.8, 0.5, y, kind) for kind in ("learned", name))
        torch.testing.assert_close(found[0], wanted[0])
        torch.testing.assert_close(found[1], wanted[1], rtol=1e-10, atol=1e-12)


# ---- the ratio to the reference


CASES = [
    pytest.param(AdvectionDiffusion(LINE, 0.02, 0.4, 0.3), LearnedVariance(4), id="turning"),
    pytest.param(Matern(SpectralBasis(Grid(5, 1.0, "dirichlet"))), LearnedVariance(5), id="walls"),
    pytest.param(Heat(SpectralBasis(Grid((3, 4)))), LearnedVariance(12), id="plane"),
    pytest.param(None, LearnedVariance(1, per_cell=True), id="cells"),
]


@pytest.mark.parametrize("process, head", CASES)
@pytest.mark.parametrize("steps", [1, 3])
def test_ratio_is_exact_on_gaussian_data_of_another_law(process: Any, head: LearnedVariance, steps: int) -> None:
    """A network that knows mean and variance of N(μ', c') samples its covariance exactly in any number of steps."""
    if process is None:
        process = Chain.ddpm(IdentityBasis(Grid(4)), 40).process
    reference = smooth_reference(process.basis)
    path = ReferencePath(fit_clock(process, reference) if process.clock is None else process, reference, 0.05)
    law = GaussianField(
        basis := reference.basis, reference.mean, reference.spectrum * torch.exp(torch.cos(5 * places(reference)))
    )
    own = ReferencePath(path.process, law, 0.05)
    waves = None if head.per_cell else torch.cos(
        math.pi * torch.arange(head.waves, dtype=torch.float64).reshape(-1, *[1] * basis.grid.ndim) * places(reference)
    )  # fmt: skip

    def answer(x: Tensor, t: Tensor) -> Tensor:
        here, there = path.at(t[:1]), own.at(t[:1])
        deviation = basis.forward(x) * here.variance.mean(basis.axes, keepdim=True).sqrt()
        scale = here.posterior_variance.mean(basis.axes, keepdim=True).sqrt()
        mean = basis.inverse((there.wiener_gain - here.wiener_gain) * deviation / scale)
        f = torch.log(there.posterior_variance / here.posterior_variance)
        if waves is None:
            return torch.cat([mean, f.expand_as(x)], 1)
        a = torch.linalg.lstsq(waves.flatten(1).T, f.flatten(), driver="gelsd").solution
        return torch.cat([mean, a.reshape(1, -1, *[1] * basis.grid.ndim).expand(len(x), -1, *basis.grid.shape)], 1)

    denoiser = Denoiser(Says(answer), path, learned_variance=head)
    end = own.at(1.0)
    start = end.mean.flatten(), torch.diag(end.variance.flatten())
    mean, covariance = carried(Ancestral(variance="learned"), denoiser, LogSpaced().times(path, steps), *start)
    wrong = carried(Ancestral(), denoiser, LogSpaced().times(path, steps), *start)[1]
    torch.testing.assert_close(covariance, torch.diag(law.spectrum.flatten()), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(mean, law.mean.flatten(), rtol=1e-8, atol=1e-10)
    assert float((wrong.diagonal() / law.spectrum.flatten() - 1).abs().max()) > 0.02


@pytest.mark.parametrize("form", ["ratio", "interpolated"])
def test_costs_are_kls_and_a_log_density(form: Any) -> None:
    """Of every step of a chain that turns its modes, against torch.distributions; the decoder too."""
    process = fit_clock(AdvectionDiffusion(LINE, 0.02, 0.4, 0.3), smooth_reference(LINE))
    path = ReferencePath(process, smooth_reference(LINE), 0.02)
    head, outputs = LearnedVariance(3, form), normals(4, 6, seed=7)
    denoiser = Denoiser(constant(outputs[:1], outputs[1:]), path, learned_variance=head)
    times = LogSpaced().times(path, 4)
    deviation, noise = normals(4, 1, 6, seed=8), normals(4, 1, 6, seed=9)
    states = ChainStates.at(path, times, torch.arange(4), deviation, noise, "learned")
    said = denoiser.posterior(states.modes, states.t)
    found = states.extra_cost(said)
    waves = torch.cos(math.pi * torch.arange(3, dtype=torch.float64)[:, None] * places(path.reference))
    f = (outputs[1:].mean(1, keepdim=True) * waves).sum(0)
    for i in range(4):
        here, there = path.at(times[i]), path.at(times[i + 1])
        known = here.posterior_variance * torch.exp(f)
        missed = states.missed_by_reference[i]
        if i == 3:
            costs = [
                -Normal(torch.zeros_like(e), u.sqrt()).log_prob(e)
                for e, u in ((missed - said.residual[i], known), (missed, here.posterior_variance))
            ]
        else:
            kernel = process.kernel(times[i], times[i + 1])
            gain = kernel.gain.abs()
            tilde = there.noise_variance * kernel.variance / here.noise_variance
            weight = there.amplitude * kernel.variance / here.noise_variance
            torch.testing.assert_close(here.noise_variance, gain**2 * there.noise_variance + kernel.variance)
            share = (1 + f) / 2
            ours = tilde + weight**2 * known
            if form == "interpolated":
                ours = torch.exp(share * torch.log(kernel.variance) + (1 - share) * torch.log(tilde))
            costs = [
                kl_divergence(Normal(torch.zeros_like(e), tilde.sqrt()), Normal(weight * e, v.sqrt()))
                for e, v in (
                    (missed - said.residual[i], ours),
                    (missed, tilde + weight**2 * here.posterior_variance),
                )
            ]
        torch.testing.assert_close(found[i], (costs[0] - costs[1]).sum(), rtol=1e-9, atol=1e-10)


def test_untrained_it_is_the_reference_and_shifts_leave_it_alone() -> None:
    path = ReferencePath(fit_clock(Heat(LINE), smooth_reference(LINE, 2)), smooth_reference(LINE, 2))
    zero = Says(lambda x, t: torch.zeros(len(x), 2 + 2 * 4, 6, dtype=x.dtype))
    untrained = Denoiser(zero, path, learned_variance=LearnedVariance(4))
    x = path.reference.sample(3, torch.Generator().manual_seed(10))
    for steps in (1, 6):
        found = elbo(untrained, x, steps=steps, variance="learned")
        torch.testing.assert_close(found.bound, path.reference.log_prob(x), rtol=0, atol=1e-10)
    conv = nn.Conv1d(2, 10, 3, padding=1, padding_mode="circular", dtype=torch.float64)
    with torch.no_grad():
        for i, p in enumerate(conv.parameters()):
            p.copy_(normals(*p.shape, seed=11 + i))
    trained = Denoiser(Says(lambda x, t: torch.tanh(conv(x))), path, learned_variance=LearnedVariance(4))
    t, y = torch.tensor(0.5, dtype=torch.float64), LINE.forward(x - LINE.inverse(path.reference.mean))
    shifted = LINE.forward(LINE.inverse(y).roll(2, -1))
    mean = path.at(t).mean
    u, moved = (trained.posterior_variance(mean + each, t) for each in (y, shifted))
    torch.testing.assert_close(moved, u, rtol=1e-12, atol=0)
    torch.testing.assert_close(LINE.reflect(u), u, rtol=1e-12, atol=0)
    ratio = (u / path.at(t).posterior_variance).detach()
    assert float(ratio.std(0).min()) > 1e-3  # of the state
    assert float(ratio.std(2).min()) > 1e-3  # of the mode
    assert float((ratio[:, 0] - ratio[:, 1]).abs().min()) > 1e-3  # of the channel


def test_places_are_ranks() -> None:
    basis = SpectralBasis(Grid(5))
    spectrum = torch.tensor([[2.0, 5.0, 1.0, 1.0, 5.0], [3.0, 0.0, 1.0, 1.0, 0.0]], dtype=torch.float64)
    found = places(GaussianField(basis, torch.zeros(2, 5), spectrum))
    expected = [[0.5, 0.125, 0.875, 0.875, 0.125], [0.0, 1.0, 0.75, 0.75, 1.0]]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    assert places(GaussianField.white(basis)).unique().tolist() == [0.5]


def test_one_evaluation_a_step() -> None:
    path = ReferencePath(fit_clock(Heat(LINE), smooth_reference(LINE)), smooth_reference(LINE))
    network = Says(lambda x, t: torch.zeros(len(x), 5, 6, dtype=x.dtype))
    denoiser = Denoiser(network, path, learned_variance=LearnedVariance(4))
    x = path.reference.sample(2, torch.Generator().manual_seed(12))
    asked: tuple[tuple[int, Callable[[], object]], ...] = (
        (2, lambda: step_of(denoiser, 0.6, 0.4, LINE.forward(x))),  # of two steps
        (3, lambda: elbo(denoiser, x, steps=3, variance="learned", draws=2)),
        (1, lambda: VariationalLoss(9, variance="learned")(denoiser, x, torch.Generator())),
        (1, lambda: HybridLoss(steps=9)(denoiser, x, torch.Generator())),
        (1, lambda: HybridLoss()(denoiser, x, torch.Generator())),
    )
    for cost, ask in asked:
        network.calls = 0
        ask()
        assert network.calls == cost


# ---- what training finds


def two_humps() -> MixtureDenoiser:
    """Most of the variance of every mode lies between two components: what is unknown of it depends on the state."""
    law = smooth_reference(LINE)
    sides = 0.9 * law.spectrum.sqrt() * torch.sign(normals(1, 6, seed=16))
    means, spectra = torch.stack([law.mean + sides, law.mean - sides]), 0.19 * law.spectrum.expand(2, 1, 6)
    weights = torch.tensor([0.6, 0.4], dtype=torch.float64)
    return MixtureDenoiser.around_itself(fit_clock(Heat(LINE), law), weights, means, spectra, 0.02)


class Table(nn.Module):
    """A network that knows the mean, but for a fault, and has one free number for each wave of each level."""

    def __init__(self, exact: MixtureDenoiser, times: Tensor, waves: int, fault: float) -> None:
        super().__init__()
        self.exact, self.times, self.fault = exact, times[:-1], fault
        self.table = nn.Parameter(torch.zeros(len(times) - 1, waves, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor, condition: Given | None = None) -> Tensor:
        point = self.exact.path.at(t)
        modes = point.restore(LINE.forward(x) * point.variance.mean(-1, keepdim=True).sqrt())
        mean = LINE.inverse(self.exact.residual(modes, t)) / point.posterior_variance.mean(-1, keepdim=True).sqrt()
        level = (t[:, None] - self.times).abs().argmin(1)
        return torch.cat([mean + self.fault * torch.tanh(x), self.table[level][:, :, None].expand(-1, -1, 6)], 1)


STEPS, FIELDS = 4, 2000


@dataclass(frozen=True)
class Trained:
    """A table trained by steps straight to the clean field; and e² of its own states, shape (levels, fields, 1, 6)."""

    denoiser: Denoiser
    times: Tensor
    x: Tensor
    missed: Tensor

    @property
    def network(self) -> Table:
        network = self.denoiser.network
        assert isinstance(network, Table)
        return network

    def gradient(self, loss: Any, table: Tensor, form: Any = "ratio") -> Tensor:
        """Of a loss at every level, on the states of training."""
        network = Table(self.network.exact, self.times, 4, self.network.fault)
        with torch.no_grad():
            network.table.copy_(table)
        return torch.autograd.grad(
            self.total(loss, Denoiser(network, self.denoiser.path, learned_variance=LearnedVariance(4, form))),
            network.table,
        )[0]

    def total(self, loss: Any, denoiser: Denoiser) -> Tensor:
        path, total = self.denoiser.path, torch.zeros((), dtype=torch.float64)
        for i in range(STEPS):
            label = path.t_min + (1 - path.t_min) * (STEPS - i - 0.5) / STEPS
            t = self.times[i] if getattr(loss, "steps", None) is None else torch.tensor(label, dtype=torch.float64)
            total = total + loss.at(denoiser, self.x, t.expand(FIELDS), torch.Generator().manual_seed(18 + i)).mean()
        return total


@cache
def trained(fault: float) -> Trained:
    mixture = two_humps()
    path, times = mixture.path, LogSpaced().times(mixture.path, STEPS)
    network = Table(mixture, times, 4, fault)
    denoiser = Denoiser(network, path, learned_variance=LearnedVariance(4))
    x = LINE.inverse(mixture.sample_modes(FIELDS, torch.Generator().manual_seed(17)))
    missed = []
    for i in range(STEPS):
        noise = torch.randn(FIELDS, 1, 6, generator=torch.Generator().manual_seed(18 + i), dtype=torch.float64)
        deviation = LINE.forward(x) - path.reference.mean
        states = ChainStates.at(path, times, torch.full((FIELDS,), i), deviation, noise, "learned")
        residual = denoiser.residual(states.modes, states.t).detach()
        missed.append((states.missed_by_reference - residual).square())
    made = Trained(denoiser, times, x, torch.stack(missed))
    settings: dict[str, Any] = {"line_search_fn": "strong_wolfe", "tolerance_grad": 1e-9, "tolerance_change": 0.0}
    optimiser = torch.optim.LBFGS([network.table], max_iter=60, history_size=20, **settings)

    def closure() -> Tensor:
        optimiser.zero_grad()
        total = made.total(HybridLoss(1.0), denoiser)
        total.backward()
        return total.detach()

    optimiser.step(closure)  # pyright: ignore[reportArgumentType]
    return made


@pytest.mark.parametrize("fault", [0.0, 0.5])
def test_training_finds_the_posterior_variance(fault: float) -> None:
    """Per mode and level, U = E Var[y_0 | y_t] + E|error of the mean|²: the first by the mixture's own formula."""
    made = trained(fault)
    denoiser, mixture, path = made.denoiser, made.network.exact, made.denoiser.path
    clean, worst, ratios = mixture.sample_modes(20_000, torch.Generator().manual_seed(30)), 0.0, []
    for i, t in enumerate(made.times[:-1]):
        y = path.at(t).noised(clean, torch.Generator().manual_seed(31 + i))
        with torch.no_grad():
            wrong = (denoiser.residual(y, t) - mixture.residual(y, t)).square()
            found = denoiser.posterior_variance(y[:1], t)[0]
        exact = LINE.symmetrise((mixture.posterior_variance(y, t) + wrong).mean(0))
        own = made.missed[i]
        torch.testing.assert_close(found, LINE.symmetrise(own.mean(0)), rtol=1e-5, atol=0)
        error = (own + LINE.reflect(own)).div(2).std(0) / math.sqrt(FIELDS)
        worst = max(worst, float(((found - exact) / error).abs().max()))
        ratios.append(exact / path.at(t).posterior_variance)
    all_ratios = torch.stack(ratios)
    print(f"fault {fault}: largest |z| {worst:.2f}; Var/(cS/V) from {all_ratios.min():.3f} to {all_ratios.max():.3f}")
    assert worst < 4.5
    assert float(all_ratios.min()) < 0.5  # far from where training began


@pytest.mark.parametrize("form", ["ratio", "interpolated"])
def test_the_chains_bound_has_the_same_minimum(form: Any) -> None:
    """As published, with the variance of each step wherever it is read from: no gradient is left there."""
    made = trained(0.5)
    path, waves = made.denoiser.path, torch.arange(4, dtype=torch.float64)[:, None]
    waves = torch.cos(math.pi * waves * places(made.denoiser.path.reference))
    best = []
    for i in range(STEPS):
        here, there, unknown = path.at(made.times[i]), path.at(made.times[i + 1]), made.missed[i].mean(0)
        unknown = LINE.symmetrise(unknown)
        f = torch.log(unknown / here.posterior_variance)
        if form == "interpolated" and i < STEPS - 1:
            gained = there.amplitude**2 / there.noise_variance - here.amplitude**2 / here.noise_variance
            f = 2 * torch.log1p(gained * unknown) / torch.log(here.noise_variance / there.noise_variance) - 1
        best.append(torch.linalg.lstsq(waves.T, f[0, :, None], driver="gelsd").solution[:, 0])
    for loss in (HybridLoss(1.0, STEPS), VariationalLoss(STEPS, variance="learned")):
        there, start = (made.gradient(loss, table, form) for table in (torch.stack(best), torch.zeros(STEPS, 4)))
        assert float(start.abs().amax(1).min()) > 1e-5
        torch.testing.assert_close(there, torch.zeros_like(there), rtol=0, atol=1e-10)


def test_learned_variance_has_the_better_bound() -> None:
    """Of four steps with the same means: against DDPM's two variances, and the reference's."""
    made = trained(0.0)
    fresh = LINE.inverse(made.network.exact.sample_modes(400, torch.Generator().manual_seed(40)))
    kinds = ("learned", "reference", "posterior", "upper")
    bounds = {kind: elbo(made.denoiser, fresh, steps=STEPS, variance=kind).bound for kind in kinds}
    for kind in kinds[1:]:
        gained = bounds["learned"] - bounds[kind]
        error = float(gained.std()) / math.sqrt(400)
        print(f"learned over {kind}: {float(gained.mean()):.3f} ± {error:.3f} nats of 6 degrees of freedom")
        assert float(gained.mean()) > 5 * error
    left = elbo(made.network.exact, fresh, steps=STEPS, variance="learned").bound - bounds["learned"]
    print(f"a variance of each state would gain another {float(left.mean()):.3f} ± {float(left.std()) / 20:.3f}")


@pytest.mark.parametrize("form", ["ratio", "interpolated"])
def test_the_loss_is_the_bound_with_its_own_variance(form: Any) -> None:
    made = trained(0.0)
    denoiser = Denoiser(made.network, made.denoiser.path, learned_variance=LearnedVariance(4, form))
    for x in made.x[:2].split(1):
        bound = elbo(denoiser, x, steps=STEPS, variance="learned", draws=1)
        loss = VariationalLoss(STEPS, variance="learned", levels="all")
        found = loss(denoiser, x, keyed_generator(0, "elbo", 0)).detach()
        torch.testing.assert_close(found, -bound.per_dimension, rtol=1e-10, atol=1e-10)


def test_the_bound_does_not_move_the_mean() -> None:
    """Gradients of the hybrid loss: of the mean's parameter the denoising loss's alone, of the variance's λ times."""
    path = two_humps().path
    scales = [nn.Parameter(torch.tensor(0.3, dtype=torch.float64)) for _ in range(2)]

    def answer(x: Tensor, t: Tensor) -> Tensor:
        return torch.cat([scales[0] * torch.tanh(x), scales[1] * torch.cos(x).expand(-1, 4, -1)], 1)

    denoiser = Denoiser(Says(answer), path, learned_variance=LearnedVariance(4))
    x = path.reference.sample(8, torch.Generator().manual_seed(50))

    def gradients(loss: Any) -> list[float]:
        total = loss(denoiser, x, torch.Generator().manual_seed(51)).mean()
        return [0.0 if g is None else float(g) for g in torch.autograd.grad(total, scales, allow_unused=True)]

    weak, strong = gradients(HybridLoss(1e-3, 20)), gradients(HybridLoss(10.0, 20))
    bound = gradients(VariationalLoss(20, variance="learned"))
    assert strong[0] == pytest.approx(weak[0], rel=1e-12)
    assert strong[1] == pytest.approx(10 * bound[1], rel=1e-9)
    assert weak[1] == pytest.approx(1e-3 * bound[1], rel=1e-9)
    one, ten = gradients(HybridLoss(0.1)), gradients(HybridLoss(1.0))
    assert one[0] == pytest.approx(ten[0], rel=1e-12)
    assert 10 * one[1] == pytest.approx(ten[1], rel=1e-9)
    assert abs(ten[1]) > 1e-3
    assert abs(bound[0]) > 1e-3 and abs(bound[1]) > 1e-3
    t = LogSpaced().times(path, 20)[5].expand(8)
    label = path.t_min + (1 - path.t_min) * torch.full((8,), (14 + 0.5) / 20, dtype=torch.float64)
    tiny = HybridLoss(1e-12, 20).at(denoiser, x, label, torch.Generator().manual_seed(52))
    alone = DenoisingLoss(Simple()).at(denoiser, x, t, torch.Generator().manual_seed(52))
    torch.testing.assert_close(tiny, alone, rtol=1e-8, atol=1e-10)


@pytest.mark.slow
def test_a_network_learns_more_than_a_table() -> None:
    """Fields of two sizes, whose unknown part depends on the state: a U-Net's head against one number a mode and level.

    The mean is the same network's; the losses differ in the bound that trains the variance.
    """
    basis = SpectralBasis(Grid(16))
    generator, shape = torch.Generator().manual_seed(0), GaussianField.matern(basis, 0.2, 1.5)

    def draw(n: int) -> Tensor:
        large = torch.rand(n, 1, 1, generator=generator, dtype=torch.float64) > 0.6
        return torch.sinh(1.5 * shape.sample(n, generator)) * (0.12 + 0.8 * large)

    data, held_out, fresh = draw(4000), draw(1000), draw(1200)
    reference = GaussianField.fit(data, basis)
    path = ReferencePath(fit_clock(Matern(basis), reference), reference)
    found: dict[str, Tensor] = {}
    for name, loss in (("as published", HybridLoss(0.001, 1000)), ("clean", HybridLoss())):
        network = UNet(basis.grid, 1, width=8, multipliers=(1, 2), extra_channels=4, seed=1)
        denoiser = Denoiser(network, path, learned_variance=LearnedVariance(4))
        optimiser = torch.optim.AdamW(network.parameters(), 3e-3)
        for step in range(1200):
            optimiser.param_groups[0]["lr"] = 3e-3 * (1 - step / 1200)
            x = data[torch.randint(len(data), (32,), generator=generator)].float()
            optimiser.zero_grad()
            loss(denoiser, x, generator).mean().backward()
            optimiser.step()
        denoiser.eval()
        found[name] = elbo(denoiser, fresh, steps=16, variance="learned", chunk=2000).per_dimension
        found["reference"] = elbo(denoiser, fresh, steps=16, chunk=2000).per_dimension
        table = Denoiser(Says(lambda x, t, network=network: network(x, t)[:, :1]), path)
        # A network without parameters is asked in double precision.
        network.double()
        table.calibration = calibrate(table, held_out)
        found["calibrated"] = elbo(table, fresh, steps=16, variance="learned", chunk=2000).per_dimension
    print({name: round(float(each.mean()), 4) for name, each in found.items()})
    for other in ("reference", "calibrated", "as published"):
        gained = found["clean"] - found[other]
        error = float(gained.std()) / math.sqrt(len(gained))
        print(f"over {other}: {float(gained.mean()):.4f} ± {error:.4f} nats per degree of freedom")
        assert float(gained.mean()) > 4 * error


# ---- settings

REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: LearnedVariance(0), "'waves', a whole number of at least 1; got 0"),
    (lambda: LearnedVariance(form="between"), "is one of ratio, interpolated; got 'between'"),  # type: ignore[arg-type]
    (lambda: LearnedVariance(2, per_cell=True), "waves = 1; got 2"),
    (lambda: Denoiser(nn.Identity(), two_humps().path, learned_variance=LearnedVariance(1, per_cell=True)),
     "one of the identity basis"),
    (lambda: HybridLoss(0.0), "HybridLoss needs a positive, finite 'vlb_weight'; got 0.0"),
    (lambda: HybridLoss()(Denoiser(nn.Identity(), two_humps().path), torch.zeros(1, 1, 6), torch.Generator()),
     "HybridLoss trains a variance, of which this model's network has no outputs"),
    (lambda: HybridLoss()(Denoiser(nn.Identity(), two_humps().path,
                                   learned_variance=LearnedVariance(4, "interpolated")),
                          torch.zeros(1, 1, 6), torch.Generator()), "give HybridLoss steps, such as 1000"),
    (lambda: Denoiser(Says(lambda x, t: torch.zeros(len(x), 3, 6)), two_humps().path,
                      learned_variance=LearnedVariance(4)).posterior(torch.zeros(2, 1, 6), torch.tensor(0.5)),
     "needs a network with 4 outputs beyond the 1 of the field; got 2"),
]  # fmt: skip


@pytest.mark.parametrize("ask, words", REFUSED, ids=[words[:30] for _, words in REFUSED])
def test_what_is_refused(ask: Callable[[], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ask()
