"""Fields and latents: there and back, the same density from both sides, draws that have the law's density."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from physdiff.basis import SpectralBasis
from physdiff.clock_fit import fit_clock
from physdiff.decoding import decode, draw, encode
from physdiff.denoisers import GaussianDenoiser, GaussianScore, MixtureDenoiser
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.laws.cases import smooth_reference
from physdiff.likelihood import log_likelihood
from physdiff.path import ReferencePath
from physdiff.process import LinearProcess
from physdiff.processes.advection_diffusion import AdvectionDiffusion
from physdiff.processes.allen_cahn import AllenCahn
from physdiff.processes.heat import Heat
from physdiff.processes.heat_dissipation import HeatDissipation
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.simulated_path import SimulatedPath
from physdiff.trace import Hutchinson

torch.set_num_threads(1)


def mixture(process: LinearProcess, t_min: float = 0.05) -> MixtureDenoiser:
    law = smooth_reference(process.basis)
    weights = torch.tensor([0.6, 0.4], dtype=torch.float64)
    signs = torch.randn(2, *law.spectrum.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).sign()
    means, spectra = law.mean + 0.8 * law.spectrum.sqrt() * signs, 0.5 * law.spectrum.expand(2, *law.spectrum.shape)
    reference = MixtureDenoiser.reference(process.basis, weights, means, spectra)
    return MixtureDenoiser(ReferencePath(fit_clock(process, reference), reference, t_min), weights, means, spectra)


def plane() -> SpectralBasis:
    return SpectralBasis(Grid((3, 4)))


PROCESSES = [
    VariancePreserving(plane()), Heat(SpectralBasis(Grid((3, 4), 1.0, ("periodic", "neumann")))),
    AdvectionDiffusion(plane(), 0.02, 0.4, (0.3, 0.2)),
]  # fmt: skip


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_there_and_back(process: LinearProcess) -> None:
    law = mixture(process)
    x = law.path.basis.inverse(law.sample_modes(5, torch.Generator().manual_seed(2)))
    latent = encode(law, x, rtol=1e-8, atol=1e-8)
    found = decode(law, latent, trace="exact", rtol=1e-8, atol=1e-8, roundtrip=True)
    scored = log_likelihood(law, x, rtol=1e-8, atol=1e-8)
    error = float((found.fields - x).abs().max())
    assert found.log_prob is not None and found.roundtrip_error is not None
    difference = float((found.log_prob - scored.log_prob).abs().max())
    print(f"{type(process).__name__}: fields {error:.1e}, densities {difference:.1e}, {found.evaluations} evaluations")
    assert found.scored == "field"
    # Three times what was measured with AdvectionDiffusion, at a tolerance of 1e-8 a step.
    assert error < 1.2e-7 and difference < 5e-7 and float(found.roundtrip_error.max()) < 3e-7
    torch.testing.assert_close(latent, scored.latent, rtol=0, atol=4e-7)
    assert not torch.allclose(latent, law.path.at(law.path.t_min).whiten(law.path.basis.forward(x)), atol=0.05)


def test_a_draw_has_the_density_of_the_law() -> None:
    """With t_min early and an end that remembers little, draws of a mixture have the mixture's own density."""
    law = mixture(VariancePreserving(plane()), t_min=0.01)
    found = draw(law, 40, seed=3)
    assert found.log_prob is not None
    modes = law.path.basis.forward(found.fields)
    y, volume = law.path.without_noise(modes)
    exact = law.log_prob(y, law.path.t_min) + volume
    error = (found.log_prob - exact).abs()
    print(f"largest difference {float(error.max()):.1e} nats; mismatch of the end {law.path.terminal_mismatch:.1e}")
    assert float(error.mean()) < 0.1
    # The latents are N(0, I), so their densities have a known spread.
    assert abs(float(found.latent.square().mean()) - 1) < 4 * math.sqrt(2 / found.latent.numel())


def test_a_draw_depends_on_seed_and_number_alone() -> None:
    law = mixture(Heat(plane()))
    settings = {"rtol": 1e-4, "atol": 1e-4, "trace": Hutchinson(3)}
    whole = draw(law, 5, seed=4, **settings)
    parts = draw(law, 5, seed=4, chunk=2, **settings)
    last = draw(law, 2, seed=4, first=3, **settings)
    other = draw(law, 5, seed=5, **settings)
    for a, b in ((parts, whole), (last, whole)):
        n = len(a.fields)
        torch.testing.assert_close(a.fields, b.fields[-n:], rtol=0, atol=1e-11)
        assert b.log_prob is not None and b.standard_error is not None
        torch.testing.assert_close(a.log_prob, b.log_prob[-n:], rtol=0, atol=1e-10)
        torch.testing.assert_close(a.standard_error, b.standard_error[-n:], rtol=0, atol=1e-10)
    assert float((other.fields - whole.fields).abs().min()) > 0
    assert decode(law, whole.latent, rtol=1e-4, atol=1e-4).log_prob is None


def test_probes_estimate_the_exact_density() -> None:
    law = mixture(VariancePreserving(plane()))
    exact = draw(law, 64, seed=6)
    estimate = draw(law, 64, seed=6, trace=Hutchinson(16))
    assert exact.log_prob is not None and estimate.log_prob is not None and estimate.standard_error is not None
    score = (estimate.log_prob - exact.log_prob) / estimate.standard_error
    print(f"mean {float(score.mean()):+.2f}, root mean square {float(score.square().mean().sqrt()):.2f}")
    assert float(estimate.standard_error.min()) > 1e-3 and float(exact.standard_error.abs().max()) == 0  # type: ignore[union-attr]
    # Student's t of 15 degrees of freedom: variance 15/13, kurtosis of heavy tails allowed for.
    assert abs(float(score.mean())) < 4 * math.sqrt(15 / 13 / 64) and 0.6 < float(score.square().mean()) < 2.0
    low, high = estimate.interval(0.95)
    assert bool((low < estimate.log_prob).all()) and torch.equal(exact.interval()[1], exact.log_prob)
    assert high.shape == (64,)


def test_the_untrained_model_decodes_to_its_reference_field() -> None:
    """A Gaussian's latent stands still: x = μ + √(V/m²) z, with the density of the closed form."""
    law = smooth_reference(plane())
    path = ReferencePath(fit_clock(Heat(law.basis), law), law, 0.1)
    found = draw(GaussianDenoiser(path), 3, seed=7)
    y, volume = path.without_noise(law.basis.forward(found.fields))
    carried = law.at(path.process, 0.1)
    exact = carried.log_prob_of_deviation(y - carried.mean) + volume
    torch.testing.assert_close(found.log_prob, exact, rtol=0, atol=1e-10)
    torch.testing.assert_close(path.at(0.1).whiten(y), found.latent, rtol=0, atol=1e-10)


def test_states_where_there_is_no_clean_field() -> None:
    """Blurring that starts with noise, and a simulated process: what is returned is the state at t_min."""
    law = smooth_reference(plane())
    path = ReferencePath(fit_clock(HeatDissipation(law.basis), law), law, 0.1)
    found = draw(GaussianDenoiser(path), 2, seed=8)
    assert found.scored == "state"
    torch.testing.assert_close(found.log_prob, path.law(0.1).log_prob(found.fields), rtol=0, atol=1e-10)
    reference = GaussianField.matern(SpectralBasis(Grid(4)), 0.3)
    process = fit_clock(AllenCahn(reference.basis), reference)
    generator = torch.Generator().manual_seed(9)
    simulated = SimulatedPath.measure(process, reference, reference.sample(64, generator), 0.1, generator)
    model = GaussianScore(simulated)
    found = draw(model, 2, seed=8, rtol=1e-5, atol=1e-5)
    again = log_likelihood(model, found.fields, scored="state", rtol=1e-5, atol=1e-5)
    assert found.scored == "state"
    torch.testing.assert_close(again.latent, found.latent, rtol=0, atol=1e-3)
    torch.testing.assert_close(again.log_prob, found.log_prob, rtol=0, atol=1e-3)  # 3e-4 at these tolerances
    with pytest.raises(ValueError, match="no linear map takes states to fields"):
        decode(model, found.latent, scored="field")


def test_what_is_refused() -> None:
    law = GaussianField.power_law(SpectralBasis(Grid((3, 4))), 2.0)
    model = GaussianDenoiser(ReferencePath(fit_clock(Heat(law.basis), law), law))
    latent = torch.ones(2, 1, 3, 4, dtype=torch.float64)

    def refuse(words: str, z: Tensor = latent, **settings: object) -> None:
        with pytest.raises(ValueError, match=words):
            decode(model, z, **settings)  # type: ignore[arg-type]

    refuse("latent 0 is not zero outside the support")
    refuse(r"must have the shape \(n, 1, 3, 4\)", latent[:, :, :2])
    refuse("scored must be 'field' or 'state'", scored="noised")
    refuse("unknown method 'rk44'", method="rk44")
    refuse("at least 1 latent", latent[:0])
    inside = latent * law.support
    refuse("trace must be 'exact' or an estimator", inside, trace="exat")
    refuse(r"one entry a field, or one for all: .* got \(3,\)", inside, condition=torch.zeros(3))
    with pytest.raises(ValueError, match=r"one entry a field, or one for all: .* got \(3,\)"):
        encode(model, inside, condition=torch.zeros(3))
    with torch.no_grad():
        refuse("differentiable=True needs gradients", inside, differentiable=True)
    with pytest.raises(ValueError, match="n must be at least 1; got 0"):
        draw(model, 0)
    with pytest.raises(ValueError, match="no density was computed"):
        decode(model, latent * law.support).interval()
