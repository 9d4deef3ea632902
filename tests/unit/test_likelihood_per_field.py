"""Densities of a field by itself: the same in any company and any chunk; derivatives in fields and parameters."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from physdiff.basis import SpectralBasis
from physdiff.clock_fit import fit_clock
from physdiff.decoding import decode
from physdiff.denoisers import Denoiser, GaussianScore, MixtureDenoiser
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.laws.cases import smooth_reference
from physdiff.likelihood import log_likelihood
from physdiff.path import ReferencePath
from physdiff.process import LinearProcess
from physdiff.processes.advection_diffusion import AdvectionDiffusion
from physdiff.processes.allen_cahn import AllenCahn
from physdiff.processes.blurring import Blurring
from physdiff.processes.heat import Heat
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.simulated_path import SimulatedPath
from physdiff.trace import ExactTrace, Hutchinson, HutchPlusPlus, TraceEstimator

torch.set_num_threads(1)


def plane() -> SpectralBasis:
    return SpectralBasis(Grid((3, 4)))


def mixture(process: LinearProcess, t_min: float = 0.1) -> MixtureDenoiser:
    law = smooth_reference(process.basis)
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    signs = torch.randn(3, *law.spectrum.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).sign()
    means, spectra = law.mean + 0.9 * law.spectrum.sqrt() * signs, 0.3 * law.spectrum.expand(3, *law.spectrum.shape)
    reference = MixtureDenoiser.reference(process.basis, weights, means, spectra)
    return MixtureDenoiser(ReferencePath(fit_clock(process, reference), reference, t_min), weights, means, spectra)


def states(law: MixtureDenoiser, n: int, seed: int = 2) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return law.path.basis.inverse(law.path.at(law.path.t_min).noised(law.sample_modes(n, g), g))


PROCESSES = [
    VariancePreserving(plane()), Heat(plane()), AdvectionDiffusion(plane(), 0.02, 0.4, (0.3, 0.2)), Blurring(plane()),
]  # fmt: skip


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize(
    ("method", "trace"),
    [("adams", ExactTrace()), ("adams", Hutchinson(2)), ("rk45", Hutchinson(2)), ("dop853", ExactTrace()),
     ("adams", HutchPlusPlus(6))],
    ids=str,
)  # fmt: skip
def test_a_field_does_not_know_its_batch_mates(process: LinearProcess, method: str, trace: TraceEstimator) -> None:
    """Alone, beside easy fields (their component's mean) and beside hard ones (far out, between components)."""
    law = mixture(process)
    x = states(law, 1)
    easy = law.path.basis.inverse(law.means[:2])
    hard = law.path.basis.inverse(law.means.mean(0) + 1.5 * (law.means - law.means.mean(0)))
    settings: dict[str, Any] = {"scored": "state", "method": method, "trace": trace, "rtol": 1e-4, "atol": 1e-4}
    alone = log_likelihood(law, x, **settings)
    for mates, chunk in ((easy, 64), (hard, 64), (torch.cat([hard, easy]), 2)):
        found = log_likelihood(law, torch.cat([x, mates]), chunk=chunk, **settings)
        torch.testing.assert_close(found.log_prob[:1], alone.log_prob, rtol=0, atol=1e-10)
        torch.testing.assert_close(found.latent[:1], alone.latent, rtol=0, atol=1e-10)
        torch.testing.assert_close(found.standard_error[:1], alone.standard_error, rtol=0, atol=1e-10)
        assert int(found.evaluations_per_field[0]) == alone.evaluations
    assert found.evaluations == int(found.evaluations_per_field.max())


def test_what_the_joint_error_norm_does() -> None:
    """The reason: torchdiffeq's step for all gives a field another number beside others, by more than rounding."""
    law = mixture(VariancePreserving(plane()))
    x = states(law, 6)
    found = {}
    for method in ("adams", "dopri5"):
        settings: dict[str, Any] = {"scored": "state", "method": method, "rtol": 1e-4, "atol": 1e-4}
        whole, alone = log_likelihood(law, x, **settings), log_likelihood(law, x[:1], **settings)
        found[method] = float((whole.log_prob[0] - alone.log_prob[0]).abs())
    print(found)
    assert found["adams"] < 1e-10 and found["dopri5"] > 1e-6


def test_a_simulated_process_is_scored_per_field_too() -> None:
    """Its reaction is asked at one time after the other."""
    reference = GaussianField.matern(SpectralBasis(Grid(4)), 0.3)
    process = fit_clock(AllenCahn(reference.basis), reference)
    generator = torch.Generator().manual_seed(3)
    path = SimulatedPath.measure(process, reference, reference.sample(64, generator), 0.1, generator)
    model, x = GaussianScore(path), path.law(0.1).sample(3, generator)
    settings: dict[str, Any] = {"scored": "state", "rtol": 1e-5, "atol": 1e-5}
    whole, alone = log_likelihood(model, x, **settings), log_likelihood(model, x[2:], **settings)
    torch.testing.assert_close(whole.log_prob[2:], alone.log_prob, rtol=0, atol=1e-10)
    fine = log_likelihood(model, x, scored="state", method="rk4", steps=128)
    error = float((whole.log_prob - fine.log_prob).abs().max())
    print(f"error {error:.1e} nats, {whole.evaluations} evaluations")
    assert error < 3e-3


@pytest.mark.parametrize("method", ["rk45", "dop853", "dopri8", "bosh3", "explicit_adams", "implicit_adams"])
def test_other_methods_agree(method: str) -> None:
    law = mixture(VariancePreserving(plane()))
    x = states(law, 2)
    settings: dict[str, Any] = {"scored": "state", "terminal": lambda y: law.log_prob(y, 1.0)}
    truth = law.log_prob(law.path.basis.forward(x), law.path.t_min)
    found = log_likelihood(law, x, method=method, steps=128, **settings).log_prob
    error = float((found - truth).abs().max())
    print(f"{method}: error {error:.1e} nats")
    assert error < 1e-3  # measured up to 3e-4


# ---- evaluations


def test_a_third_of_the_evaluations_of_score_sde() -> None:
    """To 10⁻³ nats on 64 modes, where score_sde's recipe takes 188 (experiments/benchmarks has them side by side)."""
    basis = SpectralBasis(Grid((8, 8)))
    g = torch.Generator().manual_seed(1)
    means = 0.9 * torch.randn(8, 1, 8, 8, generator=g, dtype=torch.float64)
    spectra = torch.full((8, 1, 8, 8), 0.1, dtype=torch.float64)
    weights = torch.ones(8, dtype=torch.float64)
    reference = MixtureDenoiser.reference(basis, weights, means, spectra)
    path = ReferencePath(fit_clock(VariancePreserving(basis), reference), reference, 0.02)
    law = MixtureDenoiser(path, weights, means, spectra)
    x = states(law, 6)
    truth = law.log_prob(basis.forward(x), path.t_min)
    found = log_likelihood(law, x, scored="state", terminal=lambda y: law.log_prob(y, 1.0))
    error = float((found.log_prob - truth).square().mean().sqrt())
    evaluations = float(found.evaluations_per_field.double().mean())
    print(f"{error:.1e} nats at {evaluations:.0f} evaluations")
    assert error < 1.5e-3 and evaluations < 60


# ---- derivatives


@pytest.mark.parametrize("process", PROCESSES[:3], ids=lambda p: type(p).__name__)
def test_the_gradient_in_the_field_is_the_score(process: LinearProcess) -> None:
    """∇ log p of a mixture at t_min is known, and is no product of automatic differentiation through the flow."""
    law = mixture(process)
    x = states(law, 2).requires_grad_()
    found = log_likelihood(
        law, x, scored="state", rtol=1e-7, atol=1e-7, terminal=lambda y: law.log_prob(y, 1.0)
    )  # fmt: skip
    (gradient,) = torch.autograd.grad(found.log_prob.sum(), x)
    exact = law.score(x.detach(), torch.tensor(law.path.t_min, dtype=torch.float64))
    error = float((gradient - exact).abs().max() / exact.abs().max())
    print(f"{type(process).__name__}: {error:.1e} of the largest component")
    assert error < 3e-5
    assert not log_likelihood(law, x, differentiable=False, rtol=1e-3, atol=1e-3).log_prob.requires_grad
    assert not log_likelihood(law, x.detach(), rtol=1e-3, atol=1e-3).log_prob.requires_grad


class Bent(nn.Module):
    """A nonlinear network with two parameters, whose Jacobian is dense."""

    def __init__(self) -> None:
        super().__init__()
        self.size = nn.Parameter(torch.tensor(0.4, dtype=torch.float64))
        self.slope = nn.Parameter(torch.tensor(1.3, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        rolled = x + 0.5 * x.roll(1, -1) + 0.3 * x.roll(1, -2)
        shift = t.reshape(-1, 1, 1, 1) if condition is None else condition
        return self.size * torch.tanh(self.slope * rolled + shift)


def test_one_condition_is_that_of_all_fields() -> None:
    law = smooth_reference(plane())
    model = Denoiser(Bent(), ReferencePath(fit_clock(Heat(law.basis), law), law, 0.2))
    x, one = law.sample(3, torch.Generator().manual_seed(9)), torch.full((1, 1, 3, 4), 0.7, dtype=torch.float64)
    settings: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-3, "chunk": 2}
    shared = log_likelihood(model, x, condition=one, **settings)
    each = log_likelihood(model, x, condition=one.expand(3, 1, 3, 4), **settings)
    torch.testing.assert_close(shared.log_prob, each.log_prob, rtol=0, atol=1e-11)
    back = decode(model, shared.latent, condition=one, **settings).fields
    torch.testing.assert_close(
        back, decode(model, shared.latent, condition=one.expand(3, 1, 3, 4), **settings).fields, rtol=0, atol=1e-11
    )


@pytest.mark.parametrize("trace", [ExactTrace(), Hutchinson(4, target=0.3, most=16)], ids=lambda t: type(t).__name__)
def test_every_field_keeps_its_own_condition(trace: TraceEstimator) -> None:
    """Where fields arrive one after the other, and where some need more probes than others; there and back."""
    law = smooth_reference(plane())
    model = Denoiser(Bent(), ReferencePath(fit_clock(Heat(law.basis), law), law, 0.2))
    x = law.sample(5, torch.Generator().manual_seed(9)) * torch.tensor([0.1, 3, 1, 5, 1]).reshape(5, 1, 1, 1)
    condition = torch.tensor([-3.0, 0.0, 1.0, 0.3, -1.0], dtype=torch.float64).reshape(5, 1, 1, 1).expand(5, 1, 3, 4)
    settings: dict[str, Any] = {"trace": trace, "rtol": 1e-5, "atol": 1e-5}
    whole = log_likelihood(model, x, condition=condition, **settings)
    decoded = decode(model, whole.latent, condition=condition, **settings)
    assert whole.evaluations_per_field.unique().numel() > 1
    for i in range(5):
        here = slice(i, i + 1)
        alone = log_likelihood(model, x[here], condition=condition[here], first=i, **settings)
        torch.testing.assert_close(whole.log_prob[here], alone.log_prob, rtol=0, atol=1e-10)
        torch.testing.assert_close(whole.latent[here], alone.latent, rtol=0, atol=1e-10)
        torch.testing.assert_close(whole.probes_per_field[here], alone.probes_per_field)
    torch.testing.assert_close(decoded.fields, x, rtol=0, atol=1e-3)
    torch.testing.assert_close(decoded.log_prob, whole.log_prob, rtol=0, atol=3e-3)
    if isinstance(trace, Hutchinson):
        assert whole.probes_per_field.unique().numel() > 1


@pytest.mark.parametrize("trace", [ExactTrace(), Hutchinson(2)], ids=lambda t: type(t).__name__)
def test_gradients_are_those_of_finite_differences(trace: TraceEstimator) -> None:
    """In the parameters and along one direction of the field, with the probes held: central differences, h = 10⁻⁴."""
    law = smooth_reference(plane())
    path = ReferencePath(fit_clock(Heat(law.basis), law), law, 0.2)
    network = Bent()
    model = Denoiser(network, path)
    x = law.sample(2, torch.Generator().manual_seed(4))
    direction = law.sample(2, torch.Generator().manual_seed(5))
    settings: dict[str, Any] = {"trace": trace, "rtol": 1e-9, "atol": 1e-9, "seed": 6}

    def value(shift: float = 0.0, **changes: float) -> float:
        with torch.no_grad():
            for name, change in changes.items():
                getattr(network, name).add_(change)
            found = log_likelihood(model, x + shift * direction, **settings).log_prob.sum()
            for name, change in changes.items():
                getattr(network, name).sub_(change)
        return float(found)

    y = x.clone().requires_grad_()
    found = log_likelihood(model, y, differentiable=True, **settings).log_prob.sum()
    gradients = torch.autograd.grad(found, [y, network.size, network.slope])
    h = 1e-4
    for name, ours, theirs in (
        ("x", float((gradients[0] * direction).sum()), (value(h) - value(-h)) / (2 * h)),
        ("size", float(gradients[1]), (value(size=h) - value(size=-h)) / (2 * h)),
        ("slope", float(gradients[2]), (value(slope=h) - value(slope=-h)) / (2 * h)),
    ):
        print(f"{name}: {ours:.8f}, finite differences {theirs:.8f}")
        assert abs(theirs) > 1e-2
        assert abs(ours - theirs) < 1e-5 * (1 + abs(theirs))  # h², and the tolerance over h
    for_parameters = log_likelihood(model, x, differentiable=True, **settings).log_prob.sum()
    (again,) = torch.autograd.grad(for_parameters, [network.size])
    assert math.isclose(float(again), float(gradients[1]), rel_tol=1e-9)


def test_numbers_of_fields_go_on_from_first() -> None:
    law = mixture(Heat(plane()))
    x = law.path.basis.inverse(law.sample_modes(4, torch.Generator().manual_seed(7)))
    settings: dict[str, Any] = {"scored": "noised", "trace": Hutchinson(2), "rtol": 1e-4, "atol": 1e-4, "seed": 8}
    whole, part = log_likelihood(law, x, **settings), log_likelihood(law, x[2:], first=2, **settings)
    torch.testing.assert_close(part.log_prob, whole.log_prob[2:], rtol=0, atol=1e-11)
    assert float((log_likelihood(law, x[2:], **settings).log_prob - part.log_prob).abs().min()) > 1e-6
    with pytest.raises(ValueError, match="first must be at least 0; got -1"):
        log_likelihood(law, x, first=-1)
