"""Importance weights between Gaussians, where the effective samples, the constant and the acceptance are known."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats
from torch import Tensor

from physdiff.basis import SpectralBasis
from physdiff.clock_fit import fit_clock
from physdiff.data.fields import FieldData
from physdiff.data.normalise import Standardise
from physdiff.decoding import draw
from physdiff.denoisers import Denoiser
from physdiff.evaluation.reweighting import ImportanceSettings, reweigh
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.importance import (
    ImportanceWeights,
    bennett_free_energy,
    importance_weights,
    reverse_free_energy,
)
from physdiff.jackknife import Estimate, jackknife, mean_of
from physdiff.model import FieldModel, NetworkSettings, build_network
from physdiff.pareto_tail import tail_shape
from physdiff.path import ReferencePath
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.trace import Hutchinson


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(n: int, seed: int, deviation: float = 1.0, mean: float = 0.0) -> Tensor:
    return mean + deviation * torch.randn(n, generator=rng(seed), dtype=torch.float64)


def log_normal(x: Tensor, deviation: float = 1.0) -> Tensor:
    return -0.5 * (x / deviation) ** 2 - math.log(deviation) - 0.5 * math.log(2 * math.pi)


# The model is N(0, DEVIATION²), the law e^{−S} with S = ½(x − SHIFT)² + CONSTANT: −log Z = CONSTANT − ½ log 2π.
SHIFT, CONSTANT, DEVIATION = 0.6, 3.0, 1.1  # at 1.3 the error bars of E[1/w] would be its tail's
FREE_ENERGY = CONSTANT - 0.5 * math.log(2 * math.pi)


def action(x: Tensor) -> Tensor:
    return 0.5 * (x - SHIFT) ** 2 + CONSTANT


def weights(n: int, seed: int, noise: float = 0.0) -> tuple[Tensor, ImportanceWeights]:
    x = normal(n, seed, DEVIATION)
    log_q = log_normal(x, DEVIATION) + noise * normal(n, seed + 10**6)
    return x, importance_weights(log_q, action(x), torch.full((n,), noise, dtype=torch.float64) if noise else None)


def second_moment() -> float:
    """E_q[w²]/E_q[w]² by quadrature."""
    x = torch.linspace(-15, 15, 20001, dtype=torch.float64)
    p = torch.exp(log_normal(x - SHIFT))
    return float(torch.trapezoid(p**2 / torch.exp(log_normal(x, DEVIATION)), x))


def test_one_law_is_its_own_best_model() -> None:
    x = normal(50, 0)
    same = importance_weights(log_normal(x), -log_normal(x) + 2.5)
    assert same.effective_samples == pytest.approx(50, rel=1e-12)
    assert same.free_energy.value == pytest.approx(2.5, abs=1e-12) and same.free_energy.standard_error < 1e-12
    assert same.acceptance.value == pytest.approx(1, abs=1e-12) and same.acceptance.standard_error < 1e-12
    assert same.mean(x).value == pytest.approx(float(x.mean()), abs=1e-12)
    assert same.mean(x).standard_error == pytest.approx(float(x.std()) / math.sqrt(50), rel=1e-9)
    assert same.largest_share == pytest.approx(0.02) and same.tail_shape == -math.inf and same.warnings == []


def test_numbers_of_many_samples_are_the_closed_forms() -> None:
    """A shift alone: effective part e^{−δ²}, acceptance 2Φ(−δ/√2). A shift and a width: by quadrature."""
    n, shift = 200_000, 0.7
    x = normal(n, 1)
    shifted = importance_weights(log_normal(x), 0.5 * (x - shift) ** 2)
    assert shifted.effective_samples / n == pytest.approx(math.exp(-(shift**2)), rel=0.02)
    exact = 2 * stats.norm.cdf(-shift / math.sqrt(2))
    assert abs(shifted.acceptance.value - exact) < 4 * shifted.acceptance.standard_error < 0.005
    assert abs(shifted.free_energy.value + 0.5 * math.log(2 * math.pi)) < 4 * shifted.free_energy.standard_error < 0.01
    _, wide = weights(n, 2)
    assert wide.effective_samples / n == pytest.approx(1 / second_moment(), rel=0.01)
    assert abs(wide.free_energy.value - FREE_ENERGY) < 4 * wide.free_energy.standard_error < 0.01


def test_acceptance_is_that_of_a_metropolis_chain() -> None:
    """A chain that is run, with its states proposed by q."""
    _, found = weights(4000, 3)
    logs = weights(100_000, 4)[1].log_weights.numpy()
    uniform = np.log(np.random.default_rng(5).random(len(logs)))
    current, accepted = logs[0], 0
    for proposed, u in zip(logs[1:], uniform[1:], strict=True):
        if u < proposed - current:
            current, accepted = proposed, accepted + 1
    assert abs(found.acceptance.value - accepted / (len(logs) - 1)) < 4 * found.acceptance.standard_error + 0.01
    few = ImportanceWeights(torch.tensor([0.3, -0.2, 1.1, 0.0], dtype=torch.float64))
    w = few.shares
    pairs = [float(torch.minimum(w[i], w[j])) for i in range(4) for j in range(4) if i != j]
    assert few.acceptance.value == pytest.approx(sum(pairs) / 3, rel=1e-12)


def covered(estimates: list[Estimate], exact: float) -> float:
    """Root mean square of the error in standard errors: 1 if they are right."""
    return math.sqrt(sum(((e.value - exact) / e.standard_error) ** 2 for e in estimates) / len(estimates))


def test_error_bars_are_those_of_repetition() -> None:
    """400 repetitions: the root mean square of error over error bar is 1 ± 0.035; 4 of these are allowed."""
    repetitions, n = 400, 400
    free, means, accepted, back, both, correlated = [], [], [], [], [], []
    true_acceptance = weights(200_000, 1)[1].acceptance.value
    for i in range(repetitions):
        x, w = weights(n, 100 + i)
        free.append(w.free_energy)
        means.append(w.mean(x**2 + 10))  # far from 0: what is common to both sums cancels
        accepted.append(w.acceptance)
        # The law's samples come in pairs of equal ones: without blocks the bars were too small by √2.
        y = normal(n // 2, 5000 + i, mean=SHIFT).repeat(2)
        blocks = torch.arange(n // 2).repeat(2)
        log_q = log_normal(y, DEVIATION)
        back.append(reverse_free_energy(log_q, action(y), blocks=blocks))
        both.append(bennett_free_energy(w, log_q, action(y), blocks=blocks))
        correlated.append(mean_of(y, blocks))
    for name, estimates, exact in (
        ("free energy", free, FREE_ENERGY), ("mean", means, 11 + SHIFT**2), ("acceptance", accepted, true_acceptance),
        ("reverse", back, FREE_ENERGY), ("bennett", both, FREE_ENERGY), ("correlated", correlated, SHIFT),
    ):  # fmt: skip
        assert covered(estimates, exact) == pytest.approx(1, abs=0.15), name
    spread = {name: np.std([e.value for e in found]) for name, found in (("f", free), ("r", back), ("b", both))}
    assert spread["b"] < min(spread["f"], spread["r"])  # Bennett's is the best of them
    # 1/w does not have all moments when the model is narrow, but its mean is 1/Z without bias where it exists.
    assert np.mean([e.value for e in back]) == pytest.approx(FREE_ENERGY, abs=0.01)


def test_bennett_weighs_unequal_numbers() -> None:
    for many, few, seed in ((20_000, 500, 0), (500, 20_000, 1)):
        _, w = weights(many, seed)
        y = normal(few, 77 + seed, mean=SHIFT)
        found = bennett_free_energy(w, log_normal(y, DEVIATION), action(y))
        assert abs(found.value - FREE_ENERGY) < 4 * found.standard_error < 0.1
        assert found.standard_error < 1.05 * w.free_energy.standard_error


def test_noise_of_the_log_density_is_taken_out_of_the_mean() -> None:
    """σ = 0.8: uncorrected, −log Z would be lower by 0.32, and reversed higher."""
    n, noise = 100_000, 0.8
    x, noisy = weights(n, 9, noise)
    assert noisy.trace_noise == pytest.approx(noise)
    assert abs(noisy.free_energy.value - FREE_ENERGY) < 4 * noisy.free_energy.standard_error < 0.05
    mean = noisy.mean(x)
    assert abs(mean.value - SHIFT) < 4 * mean.standard_error
    assert noisy.effective_samples / n == pytest.approx(math.exp(-(noise**2)) / second_moment(), rel=0.05)
    y = normal(n, 10, mean=SHIFT)
    log_q = log_normal(y, DEVIATION) + noise * normal(n, 11)
    back = reverse_free_energy(log_q, action(y), torch.full((n,), noise, dtype=torch.float64))
    assert abs(back.value - FREE_ENERGY) < 4 * back.standard_error < 0.05
    # Errors that differ from sample to sample, and depend on where it is, must be taken out one by one.
    sigma = x.abs().clamp(max=1.2)
    uneven = importance_weights(log_normal(x, DEVIATION) + sigma * normal(n, 12), action(x), sigma)
    assert abs(uneven.free_energy.value - FREE_ENERGY) < 4 * uneven.free_energy.standard_error
    assert abs(uneven.mean(x).value - SHIFT) < 4 * uneven.mean(x).standard_error


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    x = normal(30, 6)
    assert mean_of(x).standard_error == pytest.approx(float(x.std()) / math.sqrt(30), rel=1e-12)
    blocks = torch.arange(30) // 3
    of_blocks = x.reshape(10, 3).mean(1)
    assert mean_of(x, blocks).standard_error == pytest.approx(float(of_blocks.std()) / math.sqrt(10), rel=1e-12)
    assert mean_of(x, blocks.flip(0)).value == pytest.approx(float(x.mean()))
    square = jackknife(torch.stack([x, torch.ones(30)], 1), lambda s: (s[..., 0] / s[..., 1]) ** 2)
    assert square.standard_error == pytest.approx(2 * abs(float(x.mean())) * mean_of(x).standard_error, rel=0.3)


@pytest.mark.parametrize("shape", [-0.3, 0.2, 0.5, 0.9])
def test_tail_shape_is_that_of_pareto_weights(shape: float) -> None:
    """Of draws with a known tail; scipy's maximum likelihood on the same exceedances is the second opinion."""
    n = 20_000
    draws = stats.genpareto.rvs(shape, size=n, random_state=np.random.default_rng(7))
    found = tail_shape(torch.from_numpy(draws))
    tail = math.ceil(min(n / 5, 3 * math.sqrt(n)))
    ordered = np.sort(draws)
    fitted = stats.genpareto.fit(ordered[-tail:] - ordered[-tail - 1], floc=0)[0]
    assert found == pytest.approx(fitted, abs=0.05)
    assert abs(found - shape) < 4 * (1 + shape) / math.sqrt(tail)  # the asymptotic deviation of the fit


def test_what_cannot_be_relied_upon_is_said() -> None:
    """A model far too narrow has weights e^{x²·…}: shape 1 − (width ratio)², here 0.84."""
    narrow = 0.4
    x = normal(4000, 8, narrow)
    heavy = importance_weights(log_normal(x, narrow), 0.5 * x**2)
    assert heavy.tail_shape > 0.6
    dominated = importance_weights(torch.zeros(100), torch.cat([torch.full((99,), 50.0), torch.zeros(1)]))
    assert dominated.effective_samples == pytest.approx(1)
    assert "one of 100 samples carries 100 % of the weight" in dominated.warnings[0]
    assert dominated.mean(torch.arange(100.0)).value == pytest.approx(99)
    loud = importance_weights(torch.zeros(10), torch.zeros(10), torch.full((10,), 2.0))
    assert any("uncertain by 2.0 nats" in w for w in loud.warnings)
    alone = importance_weights(torch.zeros(3), torch.tensor([0.0, math.inf, math.inf]))
    assert alone.free_energy.standard_error == math.inf and alone.acceptance.value == 0


def test_bad_input_is_refused() -> None:
    one = torch.zeros(1)
    for log_q, s, error, message in (
        (torch.zeros(3), torch.zeros(2), None, r"action must have one number a sample, shape \(3,\)"),
        (one, one, None, "at least 2 samples; got 1"),
        (torch.tensor([0.0, math.nan]), torch.zeros(2), None, "log_prob must be finite; got nan for sample 1"),
        (torch.zeros(2), torch.tensor([0.0, -math.inf]), None, "action must be finite; got -inf"),
        (torch.zeros(2), torch.zeros(2), torch.tensor([math.nan, 0.0]), "standard_error must be finite"),
        (torch.zeros(2), torch.full((2,), math.inf), None, "never meets the law"),
    ):
        with pytest.raises(ValueError, match=message):
            importance_weights(log_q, s, error)
    with pytest.raises(ValueError, match="infinite for a sample of the law"):
        reverse_free_energy(torch.zeros(2), torch.tensor([0.0, math.inf]))
    with pytest.raises(ValueError, match="at least 2 samples or blocks; got 1"):
        mean_of(torch.zeros(4), torch.zeros(4))
    with pytest.raises(ValueError, match="values must have one number a sample"):
        importance_weights(torch.zeros(4), torch.zeros(4)).mean(torch.zeros(3))


# ---- a model against an action


@pytest.fixture(scope="module")
def gaussian() -> FieldModel:
    """An untrained model on 3 x 4 cells, in units with a mean and a scale: a Gaussian field whose law is known."""
    basis = SpectralBasis(Grid((3, 4), (3.0, 4.0), "periodic"))
    law = GaussianField.matern(basis, 0.7)
    path = ReferencePath(fit_clock(VariancePreserving(basis), law, None), law)
    settings = NetworkSettings(width=4, multipliers=(1,))
    network = build_network(basis.grid, 1, settings, whitened_input=False)
    return FieldModel(Denoiser(network, path), Standardise([0.7], [2.5]), ("phi",), ("",), settings)


class Stiffer:
    """S of the model's own Gaussian law with every variance divided by `factor`, plus 5: −log Z is known."""

    def __init__(self, model: FieldModel, factor: float) -> None:
        reference = model.denoiser.path.reference
        self.model, self.factor = model, factor
        self.law = GaussianField(reference.basis, reference.mean, reference.spectrum / factor)

    def __call__(self, fields: Tensor) -> Tensor:
        normalised = self.model.normaliser.forward(fields)
        return -self.law.log_prob(normalised) - self.model.log_det + 5


def data_of(model: FieldModel, law: GaussianField, n: int, seed: int) -> FieldData:
    fields = model.normaliser.inverse(law.sample(n, rng(seed))).numpy()
    index = np.arange(n)
    return FieldData(fields, model.grid, ("phi",), ("",), index // 2, 1.0 * (index % 2), "test")


def test_a_gaussian_model_is_weighed_as_the_closed_forms_say(gaussian: FieldModel) -> None:
    """Variances apart by a: the effective part is (√(2a − 1)/a)^modes, and S + 5 has −log Z = 5 in the data's units."""
    factor = 1.3
    action = Stiffer(gaussian, factor)
    settings = ImportanceSettings(samples=400, reference_samples=20000, held_out_fields=400, tolerance=1e-2)
    found = reweigh(gaussian, action, data_of(gaussian, action.law, 1000, 3), settings)
    exact = (math.sqrt(2 * factor - 1) / factor) ** 12
    assert found.trace == "exact trace"
    for side, tolerance in ((found.model, 0.1), (found.reference, 0.02)):
        assert side.weights.effective_samples / len(side.weights) == pytest.approx(exact, rel=tolerance)
        for estimate in (side.weights.free_energy, side.reverse_free_energy, side.bennett_free_energy):
            assert abs(estimate.value - 5) < 4 * estimate.standard_error < 0.2
        # φ² per site of the law: its variance, and the mean of the units.
        square = float(action.law.spectrum.mean()) * 2.5**2 + 0.7**2
        for estimate in (side.reweighted["mean_square"], found.held_out["mean_square"]):
            assert abs(estimate.value - square) < 4 * estimate.standard_error < 0.2 * square
        raw = side.raw["mean_square"]
        assert raw.value - square > 4 * raw.standard_error  # the model's own is another
        # S of a Gaussian law is 5 + its entropy in the data's units.
        entropy = 6 * (1 + math.log(2 * math.pi)) + 0.5 * action.law.log_det - gaussian.log_det
        assert abs(side.reweighted["action"].value - 5 - entropy) < 4 * side.reweighted["action"].standard_error


def test_hutchinson_takes_over_above_the_limit_and_results_are_plain(gaussian: FieldModel, tmp_path: Path) -> None:
    action = Stiffer(gaussian, 1.0)
    few = {"samples": 16, "reference_samples": 64, "held_out_fields": 16, "tolerance": 1e-3}
    held_out = data_of(gaussian, action.law, 20, 4)
    found = reweigh(gaussian, action, held_out, ImportanceSettings(**few, exact_modes=11, probes=3), "mine")
    assert found.trace == "Hutchinson's trace with 3 probes"
    # The law itself: every weight is e^{−5}, whatever the probes.
    assert found.model.weights.effective_samples == pytest.approx(16, rel=1e-4)
    stored = json.loads(found.save(tmp_path).read_text())
    assert stored["model"]["free_energy"][0] == pytest.approx(5, abs=1e-3) and stored["action"] == "mine"
    assert stored["held_out"].keys() == {"mean_square", "magnetisation", "action"}
    assert "16.0 of 16 samples are effective" in found.table() and "mean_square" in found.table()
    with pytest.raises(ValueError, match="samples must be at least 2; got 1"):
        ImportanceSettings(samples=1)
    reference = gaussian.denoiser.path.reference
    hole = reference.spectrum.clone()
    hole[0, 0, 0] = 0
    partial = GaussianField(reference.basis, reference.mean, hole)
    path = ReferencePath(gaussian.denoiser.path.process, partial, gaussian.denoiser.path.t_min)
    smaller = dataclasses.replace(gaussian, denoiser=Denoiser(gaussian.denoiser.network, path))
    with pytest.raises(ValueError, match="over all 12 modes of a field; this model's law lies on 11"):
        reweigh(smaller, action, held_out, ImportanceSettings(**few))


def test_data_of_another_law_are_noticed(gaussian: FieldModel) -> None:
    """Held out are fields of the model's own law; the action is that of one with 1.3 times less variance."""
    law = gaussian.denoiser.path.reference
    settings = ImportanceSettings(samples=400, reference_samples=64, held_out_fields=400, tolerance=1e-2)
    for factor, warned in ((1.3, ["mean_square", "action"]), (1.0, [])):
        found = reweigh(gaussian, Stiffer(gaussian, factor), data_of(gaussian, law, 1000, 3), settings)
        assert [sentence.split(":")[0] for sentence in found.warnings] == warned
        assert found.to_dict()["warnings"] == found.warnings
        assert ("the data may follow another law: check the action's settings" in found.table()) == bool(warned)


def test_what_cannot_be_compared_is_refused_before_anything_is_drawn(
    gaussian: FieldModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = data_of(gaussian, gaussian.denoiser.path.reference, 20, 4)
    monkeypatch.setattr("physdiff.evaluation.reweighting.draw", None)
    few, same = ImportanceSettings(held_out_fields=2), np.zeros(20, dtype=int)
    with pytest.raises(ValueError, match="at least 2 trajectories; the 2 that were chosen of test are of 1"):
        reweigh(gaussian, Stiffer(gaussian, 1.0), dataclasses.replace(held_out, trajectory=same), few)
    with pytest.raises(ValueError, match="must be finite on samples of its law; got inf for field 0 of test"):
        reweigh(gaussian, lambda x: torch.full((len(x),), math.inf), held_out, few)


def test_bounds_in_physical_units_lie_below_the_density(gaussian: FieldModel) -> None:
    """The untrained model's bound is its log-density, in the units of the data."""
    data = data_of(gaussian, gaussian.denoiser.path.reference, 4, 5)
    found = gaussian.elbo(data, steps=4, draws=2, seed=7)
    exact = gaussian.denoiser.path.reference.log_prob(gaussian.normalised(data)) + gaussian.log_det
    assert abs(gaussian.log_det) > 1
    np.testing.assert_allclose(found["bound"], exact, atol=1e-9)
    np.testing.assert_allclose(found["bound"], -(found["prior"] + found["transitions"] + found["decoder"]), atol=1e-9)
    np.testing.assert_allclose(found["relative_to_reference"], 0, atol=1e-9)
    assert found.attrs["seed"] == 7 and found["bound"].attrs["units"] == "nat"


def test_scores_say_how_they_were_computed(gaussian: FieldModel, tmp_path: Path) -> None:
    data = data_of(gaussian, gaussian.denoiser.path.reference, 3, 5)
    found = gaussian.log_likelihood(data, trace=Hutchinson(2, target=1.0), seed=4, rtol=1e-2, roundtrip=True)
    found.to_netcdf(tmp_path / "scores.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "scores.nc", engine="h5netcdf") as stored:
        for name, value in (("degrees_of_freedom", 1), ("probes_per_field", 2), ("target_reached", True)):
            assert stored[name].values.tolist() == [value] * 3
            assert stored[name].attrs["units"] == "1"
        assert int(stored["evaluations_per_field"].max()) == stored.attrs["evaluations"]
        assert stored["roundtrip_error"].attrs["units"] == "1" and stored["log_prob"].attrs["units"] == "nat"
        told = {name: stored.attrs[name] for name in ("method", "rtol", "atol", "seed")}
        assert told == {"method": "adams", "rtol": 1e-2, "atol": 1e-5, "seed": 4}
        assert stored.attrs["trace"].startswith("Hutchinson(count=2")
    exact = gaussian.log_likelihood(data, probes="exact")
    assert "target_reached" not in exact and exact.attrs["trace"].startswith("ExactTrace")


def test_samples_of_a_model_have_the_density_that_scores_say(gaussian: FieldModel) -> None:
    """A network that is not zero: what is drawn with a density is scored with the same one."""
    trained = gaussian.untrained()
    with torch.no_grad():
        for parameter in trained.denoiser.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=rng(11)))
    trained.denoiser.eval()
    drawn = draw(trained.denoiser, 2, seed=1, trace="exact", rtol=1e-4, atol=1e-4)
    scored = trained.score(drawn.fields, probes="exact", scored="field", rtol=1e-4, atol=1e-4)
    assert float((scored.relative_to_reference).abs().max()) > 0.05  # it is not the reference any more
    torch.testing.assert_close(drawn.log_prob, scored.log_prob, rtol=0, atol=6e-3)  # three times what was measured
