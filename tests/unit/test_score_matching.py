"""Score matching beyond denoising: implicit, sliced, over noise levels, and with the score of the clean law."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physdiff.actions import Phi4Action
from physdiff.basis import IdentityBasis, SpectralBasis
from physdiff.chain import Chain
from physdiff.clock_fit import fit_clock
from physdiff.config import ObjectiveSettings
from physdiff.data.normalise import Standardise
from physdiff.denoisers import Denoiser, GaussianDenoiser, MixtureDenoiser
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.laws.cases import bimodal, smooth_reference
from physdiff.networks.unet import UNet
from physdiff.objectives import (
    ChainLevels,
    DenoisingLoss,
    ImplicitScoreLoss,
    NoiseLevelsLoss,
    SlicedScoreLoss,
    TargetScoreLoss,
)
from physdiff.objectives.noise_units import NoiseUnits
from physdiff.objectives.times import Levels
from physdiff.objectives.weighting import SNR
from physdiff.path import PathPoint, ReferencePath
from physdiff.processes.advection_diffusion import AdvectionDiffusion
from physdiff.processes.heat import Heat
from physdiff.processes.variance_exploding import VarianceExploding
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.randomness import RowDraws

torch.set_num_threads(1)
PLANE = SpectralBasis(Grid((3, 4)))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mixture() -> MixtureDenoiser:
    """Modes that are coupled, decay at rates of their own and rotate."""
    return bimodal(
        fit_clock(AdvectionDiffusion(PLANE, 0.02, 0.4, (0.3, 0.2)), smooth_reference(PLANE)), smooth_reference(PLANE)
    )


MIXTURE = mixture()


def fields(n: int, seed: int = 0) -> Tensor:
    return PLANE.inverse(MIXTURE.sample_modes(n, generator(seed)))


def constant(n: int, t: float) -> Tensor:
    return torch.full((n,), t, dtype=torch.float64)


def within(difference: Tensor, errors: float = 4.5) -> None:
    """That a mean is zero to so many of its standard errors."""
    difference = difference.detach()
    mean, error = float(difference.mean()), float(difference.std()) / math.sqrt(len(difference))
    print(f"{mean:.5f} ± {error:.5f}")
    assert abs(mean) < errors * error


# ---- implicit score matching


def hyvarinen(model: MixtureDenoiser | GaussianDenoiser, x: Tensor, t: float, noise: Tensor) -> tuple[Tensor, Tensor]:
    """½|s|² + ∇·s in units of the noise, by the model's score and its dense Jacobian; and the fields it is taken at."""
    path, n = model.path, x[0].numel()
    point = path.at(t)
    noisy = path.basis.inverse(point.with_noise(path.basis.forward(x), noise))
    root, time = point.noise_variance.sqrt(), torch.tensor(t, dtype=torch.float64)
    found = []
    for one in noisy:

        def score(w: Tensor) -> Tensor:
            """In w = R̄y/√S."""
            y = point.rotate(root * w.reshape(1, *x.shape[1:]))
            said = path.basis.forward(model.score(path.basis.inverse(y), time))
            return (root * point.unrotate(said)).flatten()

        w = (point.unrotate(path.basis.forward(one.unsqueeze(0))) / root).flatten()
        jacobian = torch.autograd.functional.jacobian(score, w)
        assert isinstance(jacobian, Tensor) and jacobian.shape == (n, n)
        found.append(0.5 * score(w).square().sum() + jacobian.trace())
    return torch.stack(found), noisy


@pytest.mark.parametrize("t", [0.2, 0.6, 0.95])
def test_implicit_loss_is_hyvarinens_with_the_references_part_in_the_mean(t: float) -> None:
    rows, size = 5, PLANE.grid.size
    x, time = fields(rows), constant(rows, t)
    noise = torch.randn(x.shape, generator=generator(1), dtype=torch.float64)
    plain, noisy = hyvarinen(MIXTURE, x, t, noise)
    point = MIXTURE.path.at(t)
    share = point.noise_variance / point.variance
    own = 0.5 * (share * point.whiten(PLANE.forward(noisy)).square()).flatten(1).sum(1) - share.sum()
    expected = 1 + 2 / size * (plain - own)
    found = ImplicitScoreLoss("exact").at(MIXTURE, x, time, generator(1))
    print((found - expected).abs().max())
    assert torch.allclose(found, expected, rtol=0, atol=1e-11)


def test_what_the_reference_contributes_is_without_noise() -> None:
    rows = 100
    x, time = fields(rows), constant(rows, 0.5)
    noise = torch.randn(x.shape, generator=generator(1), dtype=torch.float64)
    untrained = GaussianDenoiser(MIXTURE.path)
    for objective in (ImplicitScoreLoss("exact"), ImplicitScoreLoss(), SlicedScoreLoss(2, False, "normal")):
        assert objective.at(untrained, x, time, generator(1)).equal(torch.ones(rows, dtype=torch.float64))
    # What is left is the remainder's own: all of it where modes are known, nearly nothing where they are forgotten.
    for t, factor in ((0.2, 1.1), (0.5, 1.3), (0.7, 10.0), (0.9, 1000.0)):
        plain, _ = hyvarinen(MIXTURE, x, t, noise)
        ours = ImplicitScoreLoss("exact").at(MIXTURE, x, constant(rows, t), generator(1)) * PLANE.grid.size / 2
        print(f"t = {t}: variance {float(plain.var()):.4f} without, {float(ours.detach().var()):.4f} with it exact")
        assert float(plain.var()) > factor * float(ours.detach().var())


def noise_loss(x: Tensor, t: Tensor, seed: int) -> Tensor:
    """The error of the predicted noise, on the numbers that the objectives draw."""
    noise = torch.randn(x.shape, generator=generator(seed), dtype=torch.float64)
    point = MIXTURE.path.at(t)
    noisy = point.with_noise(PLANE.forward(x), noise)
    said = PLANE.forward(MIXTURE.epsilon(PLANE.inverse(noisy), t))
    share = (point.noise_variance / point.variance).flatten(1).mean(1)
    return (point.unrotate(said) - noise).square().flatten(1).mean(1) + share


@pytest.mark.parametrize(
    "objective",
    [
        ImplicitScoreLoss("exact"), ImplicitScoreLoss(probes=2), SlicedScoreLoss(), SlicedScoreLoss(3, False),
        SlicedScoreLoss(1, True, "normal"), SlicedScoreLoss(1, False, "normal"),
    ],
    ids=repr,
)  # fmt: skip
def test_all_forms_agree_with_denoising_in_the_mean(objective: ImplicitScoreLoss | SlicedScoreLoss) -> None:
    rows = 4000
    x = fields(rows)
    t = 0.05 + 0.95 * torch.rand(rows, generator=generator(2), dtype=torch.float64)
    with torch.no_grad():
        found = objective.at(MIXTURE, x, t, generator(1))
    assert not found.requires_grad
    within(found - noise_loss(x, t, 1))
    exact = ImplicitScoreLoss("exact").at(MIXTURE, x, t, generator(1))
    if objective != ImplicitScoreLoss("exact"):
        within(found - exact)


def test_slices_with_signs_are_hutchinsons_probes() -> None:
    x, t = fields(6), constant(6, 0.4)
    sliced = SlicedScoreLoss(3).at(MIXTURE, x, t, generator(1))
    assert sliced.equal(ImplicitScoreLoss(probes=3).at(MIXTURE, x, t, generator(1)))
    assert not sliced.equal(SlicedScoreLoss(3, False).at(MIXTURE, x, t, generator(1)))


def test_reduced_variance_is_reduced() -> None:
    x, t = fields(3000), constant(3000, 0.5)
    spread = {
        (reduced, kind): float(SlicedScoreLoss(1, reduced, kind).at(MIXTURE, x, t, generator(1)).var())
        for reduced in (True, False)
        for kind in ("signs", "normal")
    }
    print(spread)
    assert spread[True, "signs"] < spread[True, "normal"] < 0.5 * spread[False, "signs"]


# ---- through networks


class Fused(nn.Module):
    """Attention by torch's fused kernel, which has one derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.randn(1, 4, generator=generator(4)))

    def forward(self, x: Tensor, time: Tensor, condition: Any = None) -> Tensor:
        tokens = torch.tanh(x.flatten(2).transpose(1, 2) * self.mix * (1 + time.reshape(-1, 1, 1)))
        return F.scaled_dot_product_attention(tokens, tokens, tokens).mean(2).reshape(x.shape)


def unet(**settings: Any) -> UNet:
    """With weights in its last layer, so that it says something."""
    network = UNet(PLANE.grid, 1, width=4, multipliers=(1, 1), **settings)
    with torch.no_grad():
        network.last.convolution.weight.normal_(0, 0.3, generator=generator(5))
    return network


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "fused attention": Fused,
    "convolutions": unet,
    "with attention": lambda: unet(attention=(1,), heads=1),
    "checkpointed": lambda: unet(attention=(1,), heads=1, checkpointing=True),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("objective", [ImplicitScoreLoss(), SlicedScoreLoss(1, False)], ids=["implicit", "sliced"])
def test_the_gradient_is_that_of_the_loss(objective: ImplicitScoreLoss | SlicedScoreLoss, name: str) -> None:
    model = Denoiser(NETWORKS[name]().double(), MIXTURE.path, 1.0)
    x, t = fields(3), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    parameters = list(model.network.parameters())

    def loss() -> Tensor:
        return objective.at(model, x, t, generator(1)).sum()

    gradient = torch.autograd.grad(loss(), parameters, allow_unused=True, materialize_grads=True)
    numbers = generator(6)
    direction = [torch.randn(p.shape, generator=numbers, dtype=torch.float64) for p in parameters]
    along = sum(float((g * d).sum()) for g, d in zip(gradient, direction, strict=True))
    step, ends = 1e-6, []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(sign * step * d)
        ends.append(float(loss().detach()))
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.sub_(sign * step * d)
    slope = (ends[0] - ends[1]) / (2 * step)
    print(f"{along:.8f} by autograd, {slope:.8f} by differences")
    assert along == pytest.approx(slope, rel=1e-6) and abs(along) > 1e-3


# ---- over noise levels


def test_noise_levels_are_song_and_ermons() -> None:
    basis = IdentityBasis(Grid(4))
    law = GaussianField.white(basis, standard_deviation=1.3)
    chain = Chain.ncsn(basis, 0.1, 3.0, 6)
    path = chain.path(law)
    network = Denoiser(unet_on(basis), path)
    x, rows = law.sample(200, generator(0)), 200
    objective = NoiseLevelsLoss()
    times = ChainLevels().draw(path, RowDraws(generator(1), rows)).t
    level = (times * 6).round().long()
    assert times.dtype == torch.float64
    assert level.bincount(minlength=7).tolist()[1:] == pytest.approx([rows / 6] * 6, abs=1.01)
    sigma = (0.1 * 30.0 ** ((level - 1).double() / 5)).reshape(-1, 1, 1)
    noise = torch.randn(x.shape, generator=generator(2), dtype=torch.float64)
    noisy = x + sigma * noise
    score = network.score(noisy, times)
    expected = (sigma.square() * (score + (noisy - x) / sigma.square()).square()).flatten(1).mean(1)
    assert torch.allclose(objective.at(network, x, times, generator(2)), expected, rtol=1e-9)


def unet_on(basis: IdentityBasis) -> UNet:
    network = UNet(basis.grid, 1, width=4, multipliers=(1,))
    with torch.no_grad():
        network.last.convolution.weight.normal_(0, 0.3, generator=generator(5))
    return network.double()


@pytest.mark.parametrize("process", [VarianceExploding(PLANE), Heat(PLANE), AdvectionDiffusion(PLANE)])
def test_noise_levels_are_denoising_weighted_by_the_ratio_of_signal_to_noise(process: Any) -> None:
    law = GaussianField.power_law(PLANE, 2.0)  # without a mean: one mode is outside the support
    path = ReferencePath(fit_clock(process, law), law)
    model = Denoiser(unet().double(), path, prediction="score")
    x = law.sample(32, generator(0))
    times = Levels(10)
    ours = NoiseLevelsLoss(times)(model, x, RowDraws(generator(1), 32))
    theirs = DenoisingLoss(SNR(), times, normalised=False)(model, x, RowDraws(generator(1), 32))
    assert torch.allclose(ours * law.n_support, theirs, rtol=1e-9)


def test_a_process_without_levels_is_told() -> None:
    with pytest.raises(ValueError, match=r"has no levels: make a chain of it .* or say how many with times = Levels"):
        NoiseLevelsLoss()(MIXTURE, fields(2), generator(0))
    assert ObjectiveSettings("NoiseLevelsLoss", times={"name": "Levels", "steps": 5}).build() == NoiseLevelsLoss(
        Levels(5)
    )


# ---- with the score of the clean law


def action_of_mixture(x: Tensor) -> Tensor:
    return -MIXTURE.log_prob(PLANE.forward(x), 0.0)


def targets(objective: TargetScoreLoss, path: ReferencePath, x: Tensor, t: float, seed: int = 1) -> tuple[Tensor, ...]:
    """Targets of the residual, the states they are for, and the point of the path."""
    point, clean = path.at(constant(len(x), t)), path.basis.forward(x)
    noisy = point.with_noise(clean, torch.randn(x.shape, generator=generator(seed), dtype=torch.float64))
    score = path.basis.forward(objective.clean_score(x))
    return objective.target(clean, score, noisy, point), noisy, point.posterior_variance


MIXTURES = ("denoising", "matched", "fitted", "target", 0.3)


@pytest.mark.parametrize("mixed", MIXTURES)
@pytest.mark.parametrize("t", [0.1, 0.5, 1.0])
def test_every_mixture_is_unbiased(mixed: str | float, t: float) -> None:
    rows = 20_000
    x = fields(rows)
    objective = TargetScoreLoss(action_of_mixture, mixture=mixed).prepared(MIXTURE.path, x, lambda z: z)
    target, noisy, unknown = targets(objective, MIXTURE.path, x, t)
    time = constant(rows, t)
    error = (target - MIXTURE.residual(noisy, time)) / unknown.sqrt()
    z = MIXTURE.path.at(time).whiten(noisy)
    # Against functions of the state: E[(target − r) f(y)] = 0 for each of them.
    worst = 0.0
    for test in (
        torch.ones_like(z),
        torch.tanh(z),
        torch.cos(2 * z.roll(1, -1)),
        z.flatten(1).sum(1).sin().reshape(-1, 1, 1, 1),
    ):
        product = error * test
        worst = max(worst, float((product.mean(0) / product.std(0)).abs().max()) * math.sqrt(rows))
    print(f"worst of {4 * 12} means: {worst:.2f} errors")
    assert worst < 4.5


@pytest.mark.parametrize("process", [AdvectionDiffusion(PLANE, 0.02), VariancePreserving(PLANE), Heat(PLANE)])
@pytest.mark.parametrize("name", ["full", "mean-free"])
def test_the_matched_target_of_a_gaussian_has_no_noise(process: Any, name: str) -> None:
    law = smooth_reference(PLANE) if name == "full" else GaussianField.power_law(PLANE, 2.0)
    path = ReferencePath(fit_clock(process, law), law)
    x = law.sample(50, generator(0))

    def action(fields: Tensor) -> Tensor:
        """Of the Gaussian law, on its support."""
        modes = torch.where(law.support, PLANE.forward(fields) - law.mean, 0.0)
        return 0.5 * (modes.square() / torch.where(law.support, law.spectrum, 1.0)).flatten(1).sum(1)

    for t in (path.t_min, 0.5, 1.0):
        target, _, unknown = targets(TargetScoreLoss(action, mixture="matched"), path, x, t)
        assert float((target.abs() / unknown.sqrt().clamp(min=1e-12)).max()) < 1e-10
        plain, _, unknown = targets(TargetScoreLoss(action, mixture="denoising"), path, x, t)
        assert float(plain.square().sum() / unknown.sum()) == pytest.approx(1, abs=0.3)


def test_everything_is_finite_at_both_ends() -> None:
    """With m down to e^{−10⁵} and S to 10^{−200}."""
    line = SpectralBasis(Grid(8))
    law = smooth_reference(line)
    path = ReferencePath(fit_clock(Heat(line, diffusivity=20.0), law), law)
    x = law.sample(4, generator(0))
    zero = torch.zeros((), dtype=torch.float64)
    gains = path.process.log_gain(torch.tensor(1e2, dtype=torch.float64), zero)
    assert float(gains.min()) < -1e5
    for mixed in MIXTURES:
        objective = TargetScoreLoss(lambda f: -law.log_prob(f), mixture=mixed).prepared(path, x, lambda z: z)
        for time in (1e-200, 1e2):
            point = PathPoint(path, torch.tensor(time, dtype=torch.float64))
            clean = line.forward(x)
            noisy = point.with_noise(clean, torch.randn(x.shape, generator=generator(1), dtype=torch.float64))
            target = objective.target(clean, line.forward(objective.clean_score(x)), noisy, point)
            assert bool(target.isfinite().all()), (mixed, time)
            size = float((target.square() / law.spectrum).mean())
            assert size < (1e-20 if time < 1 else 5), (mixed, time, size)


def test_fitted_is_the_least_of_the_mixtures_and_as_said() -> None:
    rows = 20_000
    x = fields(rows)
    fitted = TargetScoreLoss(action_of_mixture).prepared(MIXTURE.path, x, lambda z: z)
    assert fitted.information is not None and float(fitted.information.max()) > 2
    for t in (0.1, 0.5, 0.8, 1.0):
        point = MIXTURE.path.at(t)
        said = (1 - fitted.share(point)) * point.posterior_variance
        found = {}
        for mixed in MIXTURES:
            target, _, _ = targets(replace(fitted, mixture=mixed), MIXTURE.path, x, t)
            found[mixed] = target.square().mean(0)
        print(t, {name: round(float(v.mean() / point.posterior_variance.mean()), 4) for name, v in found.items()})
        # Fisher's information is shared by k and −k; the rest is chance of 20,000 draws.
        print(float((PLANE.symmetrise(found["fitted"]) / said - 1).abs().max()))
        assert torch.allclose(PLANE.symmetrise(found["fitted"]), said, rtol=0.1)
        assert all(float(found["fitted"].sum()) <= 1.001 * float(other.sum()) for other in found.values())


def phi4(rows: int) -> tuple[Tensor, Phi4Action]:
    """Configurations of the strong theory on 6 sites, by Metropolis steps of single sites: no data set is needed."""
    action, sites, numbers = Phi4Action(0.4, 0.5), 6, generator(7)
    x = torch.randn(rows, 1, sites, generator=numbers, dtype=torch.float64)
    for sweep in range(60):
        site = sweep % sites
        moved = x.clone()
        moved[..., site] += torch.randn(rows, 1, generator=numbers, dtype=torch.float64)
        accept = torch.rand(rows, generator=numbers, dtype=torch.float64).log() < action(x) - action(moved)
        x = torch.where(accept.reshape(-1, 1, 1), moved, x)
    return x, action


def test_the_action_quietens_the_target_on_a_lattice() -> None:
    rows = 8000
    physical, action = phi4(rows)
    normaliser = Standardise.fit(3.0 * physical + 1.0)
    x = normaliser.forward(3.0 * physical + 1.0)
    basis = SpectralBasis(Grid(6, 6.0))
    law = GaussianField.fit(x, basis)
    path = ReferencePath(fit_clock(VariancePreserving(basis), law), law)

    def units(fields: Tensor) -> Tensor:
        """Of the action: data was stored as 3φ + 1."""
        return (normaliser.inverse(fields) - 1.0) / 3.0

    objective = TargetScoreLoss(action).prepared(path, x, units)
    score = basis.forward(objective.clean_score(x))
    within((score * (basis.forward(x) - law.mean)).flatten(1).mean(1) + 1)  # Stein: only for the right law and units
    assert objective.information is not None
    print("cI", objective.information.flatten().tolist())
    noise = {}
    for mixed in ("denoising", "matched", "fitted"):
        for t in (0.2, 0.5, 0.9):
            target, _, unknown = targets(replace(objective, mixture=mixed), path, x, t)
            noise[mixed, t] = float((target.square() / unknown).mean())
    print(noise)
    for t, factor in ((0.2, 50.0), (0.5, 3.0), (0.9, 1.2)):
        assert noise["denoising", t] == pytest.approx(1, abs=0.1)
        assert noise["fitted", t] * factor < noise["denoising", t]
        assert noise["fitted", t] < 1.02 * noise["matched", t]


def test_target_settings_are_words(tmp_path: Path) -> None:
    built = ObjectiveSettings(
        "TargetScoreLoss", "min_snr",
        settings={"action": "LatticePhi4", "action_settings": {"hopping": 0.26, "coupling": 0.5}, "mixture": "matched"},
    ).build()  # fmt: skip
    assert isinstance(built, TargetScoreLoss) and built.mixture == "matched"
    x = torch.randn(3, 1, 4, 4, generator=generator(0), dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(Phi4Action(0.26, 0.5)(leaf).sum(), leaf)
    assert torch.allclose(built.clean_score(x), -slope)
    file = tmp_path / "mine.py"
    file.write_text("def action(x, power):\n    return x.abs().pow(power).flatten(1).sum(1)\n")
    own = TargetScoreLoss(f"{file}:action", {"power": 4.0})
    assert torch.allclose(own.clean_score(x), -4 * x**3)
    assert torch.allclose(
        TargetScoreLoss(lambda f, scale: scale * f.sum((1, 2, 3)), {"scale": 2.0}).clean_score(x),
        -2 * torch.ones_like(x),
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TargetScoreLoss(mixture="matchd"), r"unknown mixture 'matchd'. Did you mean 'matched'\?"),
        (lambda: TargetScoreLoss(mixture=1.5), r"share of denoising lies in \[0, 1\]; got mixture = 1.5"),
        (lambda: TargetScoreLoss("LatticePhi5"), r"unknown action 'LatticePhi5'. Did you mean 'LatticePhi4'\?"),
        (lambda: TargetScoreLoss(drop_condition=1.0), r"'drop_condition' must lie in \[0, 1\)"),
        (lambda: TargetScoreLoss(lambda f: torch.ones(len(f))).clean_score(fields(2)), "the action has no derivative"),
        (lambda: TargetScoreLoss()(MIXTURE, fields(2), generator(0)), "'fitted' needs the training fields"),
        (lambda: ImplicitScoreLoss("exakt"), r"unknown trace 'exakt'. Did you mean 'exact'\?"),  # pyright: ignore
        (lambda: ImplicitScoreLoss(probes=0), "needs 'probes' of at least 1; got 0"),
        (lambda: SlicedScoreLoss(0), "needs 'slices' of at least 1; got 0"),
        (lambda: SlicedScoreLoss(projections="sign"), r"unknown projections 'sign'. Did you mean 'signs'\?"),  # pyright: ignore
    ],
)  # fmt: skip
def test_unfit_settings_are_told(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_units_of_the_noise_and_back() -> None:
    point = MIXTURE.path.at(torch.tensor([0.3, 0.8], dtype=torch.float64))
    units, y = NoiseUnits(point), PLANE.forward(fields(2))
    assert torch.allclose(units.modes(units.of(y)), y, rtol=1e-12)
    whitened = point.whiten(y)
    assert torch.allclose(units.noise_share * units.of(y), units.noise_share.sqrt() * whitened, rtol=1e-12)
