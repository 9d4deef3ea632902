"""Hybrid Monte Carlo against free fields and quadrature, the recipe's files, and how an action is named."""

from __future__ import annotations

import math
import sys
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from datasets.hybrid_monte_carlo import HybridMonteCarlo, autocorrelation_time, probability
from datasets.lattice_phi4 import make
from physdiff.actions import Phi4Action, action_of, find_action, observables
from physdiff.commands.report import evaluate
from physdiff.data import load_fields


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def run(
    action: Phi4Action, sites: tuple[int, ...], seed: int, trajectories: int = 500, chains: int = 256
) -> tuple[Tensor, Tensor]:
    """Thermalised configurations, shape (trajectories, chains, 1, *sites), and their ΔH."""
    generator = rng(seed)
    start = torch.zeros(chains, 1, *sites, dtype=torch.float64)
    chain, x = HybridMonteCarlo(action).thermalised(start, 150, generator)
    states, changes = [], []
    for _ in range(trajectories):
        x, change = chain.trajectory(x, generator)
        states.append(x)
        changes.append(change)
    return torch.stack(states), torch.stack(changes)


def over_chains(values: Tensor) -> tuple[float, float]:
    """Mean and standard error of an observable, shape (trajectories, chains, ...): chains are independent."""
    means = values.mean(0).flatten(1).mean(1) if values.ndim > 2 else values.mean(0)
    return float(means.mean()), float(means.std()) / math.sqrt(len(means))


# ---- the chain


def test_leapfrog_leads_back_and_its_energy_error_is_of_second_order() -> None:
    x, p = (torch.randn(16, 1, 4, 4, generator=rng(s), dtype=torch.float64) for s in (0, 1))
    action = Phi4Action(0.21, 0.3)
    errors = []
    for steps in (20, 40, 80):
        chain = HybridMonteCarlo(action, step=1.6 / steps)
        end, momentum = chain.leapfrog(x, p, steps)
        errors.append(float((chain.energy(end, momentum) - chain.energy(x, p)).square().mean().sqrt()))
        back, reversed_ = chain.leapfrog(end, -momentum, steps)
        assert float((back - x).abs().max()) < 1e-12 and float((reversed_ + p).abs().max()) < 1e-12
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(2, abs=0.15)
    # It keeps volume: the Jacobian of one trajectory has determinant 1.
    chain = HybridMonteCarlo(action, step=0.3)
    state = torch.cat([x[0].flatten()[:4], p[0].flatten()[:4]])

    def flow(s: Tensor) -> Tensor:
        with torch.enable_grad():
            return torch.cat(
                [part.flatten() for part in chain.leapfrog(s[:4].reshape(1, 1, 4), s[4:].reshape(1, 1, 4), 3)]
            )

    columns = [(flow(state + 1e-5 * e) - flow(state - 1e-5 * e)) / 2e-5 for e in torch.eye(8, dtype=torch.float64)]
    assert float(torch.linalg.det(torch.stack(columns, 1))) == pytest.approx(1, abs=1e-8)


def test_free_field_has_its_exact_spectrum() -> None:
    """λ = 0: variance 1/(2(1 − 2κ Σ_μ cos k_μ)) in each mode, so 128 complex amplitudes at once."""
    hopping, sites = 0.2, (4, 6)
    states, changes = run(Phi4Action(hopping, 0.0), sites, seed=2)
    power = torch.fft.fft2(states, norm="ortho").abs().square()[:, :, 0]
    kx, ky = (2 * math.pi * torch.arange(n, dtype=torch.float64) / n for n in sites)
    exact = 1 / (2 * (1 - 2 * hopping * (torch.cos(kx).unsqueeze(1) + torch.cos(ky))))
    per_chain = power.mean(0)
    error = per_chain.std(0) / math.sqrt(per_chain.shape[0])
    deviation = ((per_chain.mean(0) - exact) / error).abs()
    assert float(deviation.max()) < 4.5, deviation  # 24 modes
    assert float((error / exact).max()) < 0.02
    balance, spread = over_chains(torch.exp(-changes))
    assert abs(balance - 1) < 4 * spread and spread < 0.01
    assert 0.8 < float(probability(changes).mean()) < 0.9  # tuned to 0.85


@pytest.mark.parametrize(("length", "hopping", "coupling"), [(1, 0.21, 0.022), (2, 0.21, 0.022), (2, 0.3, 0.7)])
def test_small_lattices_agree_with_quadrature(length: int, hopping: float, coupling: float) -> None:
    """All length² sites on a product grid; a site of a 2 x 2 lattice meets the same neighbour on both sides."""
    points = torch.linspace(-5, 5, 2001 if length == 1 else 33, dtype=torch.float64)
    sites = torch.cartesian_prod(*[points] * length**2).reshape(-1, length, length)
    bonds = sum((sites * sites.roll(1, axis)).sum((1, 2)) for axis in (1, 2))
    square = sites.square()
    weight = torch.exp(2 * hopping * bonds - ((1 - 2 * coupling) * square + coupling * square**2).sum((1, 2)))
    weight = weight / weight.sum()  # the trapezoidal rule, exact to rounding for what decays smoothly
    exact = {
        "square": float((weight * square.mean((1, 2))).sum()),
        "fourth": float((weight * (square**2).mean((1, 2))).sum()),
        "magnetisation": float((weight * sites.mean((1, 2)).abs()).sum()),
    }
    states, changes = run(Phi4Action(hopping, coupling), (length, length), seed=3 + length, chains=512)
    found = {"square": states.square(), "fourth": states**4, "magnetisation": states.mean((2, 3, 4)).abs()}
    for name, values in found.items():
        mean, error = over_chains(values)
        # The cusp of |M| costs the coarse grid its accuracy there: 1e-3 is allowed for it.
        assert abs(mean - exact[name]) < 4 * error + (1e-3 if name == "magnetisation" and length > 1 else 0), name
        assert error < 0.02 * exact[name]
    balance, spread = over_chains(torch.exp(-changes))
    assert abs(balance - 1) < 4 * spread


def test_autocorrelation_time_of_a_known_chain() -> None:
    """AR(1), x' = ax + noise: τ = ½ (1 + a)/(1 − a); one that alternates counts as independent."""
    for a, seed in ((0.0, 0), (0.5, 1), (0.9, 2), (-0.4, 3)):
        noise = torch.randn(512, 4000, generator=rng(seed), dtype=torch.float64)
        x, series = noise[:, 0] / math.sqrt(1 - a**2), []
        for step in noise.T:
            x = a * x + step
            series.append(x)
        exact = max(0.5 * (1 + a) / (1 - a), 0.5)
        assert autocorrelation_time(torch.stack(series, 1)) == pytest.approx(exact, rel=0.05)


# ---- the recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("phi4") / "set"
    sizes = {"train_chains": 96, "valid_chains": 8, "test_chains": 24, "configurations": 40}
    return make(target, seed=1, progress=False, thermalisation=200, **sizes)


def test_recipe_has_the_published_averages(folder: Path) -> None:
    """⟨φ²⟩ = 0.6228 per site and ⟨|M|⟩ = 0.160 at L = 8, κ = 0.21, λ = 0.022."""
    data = load_fields(folder, split="train")
    assert data.values.shape == (96 * 40, 1, 8, 8) and data.names == ("phi",)
    assert data.grid.boundary == ("periodic", "periodic") and data.grid.spacing == (1.0, 1.0)
    fields = torch.from_numpy(data.values).double()
    found = observables(fields, Phi4Action())
    for name, published in (("mean_square", 0.6228), ("magnetisation", 0.160)):
        per_chain = found[name].reshape(96, 40).mean(1)
        error = float(per_chain.std()) / math.sqrt(96)
        assert abs(float(per_chain.mean()) - published) < 4 * error + 5e-4, name  # its last digit
        assert error < 0.02 * published
    with h5py.File(folder / "data" / "test" / "lattice_phi4.hdf5") as file:
        assert 0.8 < float(file.attrs["acceptance"]) < 0.9
        assert abs(float(file.attrs["exp_minus_delta_h"]) - 1) < 4 * float(file.attrs["exp_minus_delta_h_error"])
        apart = float(file.attrs["trajectories_apart"])
        longest = max(float(v) for k, v in file.attrs.items() if k.startswith("autocorrelation_time"))
        assert 2 * longest <= apart < 2 * longest + 1 and 0.5 < longest < 4
        assert float(file.attrs["hopping"]) == 0.21 and float(file.attrs["coupling"]) == 0.022
    # Configurations that are kept hardly know each other.
    kept = found["magnetisation"].reshape(96, 40)
    neighbours = torch.corrcoef(torch.stack([kept[:, 1:].flatten(), kept[:, :-1].flatten()]))[0, 1]
    assert abs(float(neighbours)) < 0.15


def test_recipe_splits_chains_and_repeats(folder: Path, tmp_path: Path) -> None:
    parts = [load_fields(folder, split=s).values for s in ("train", "valid", "test")]
    assert [len(p) for p in parts] == [96 * 40, 8 * 40, 24 * 40]
    assert len(np.unique(np.concatenate(parts).reshape(-1, 64), axis=0)) > 0.9 * 128 * 40
    small = {"train_chains": 3, "valid_chains": 1, "test_chains": 1, "configurations": 2, "sites": 2}
    made = [make(tmp_path / f"{i}", seed=s, progress=False, thermalisation=4, **small) for i, s in enumerate((5, 5, 6))]
    first, again, other = (load_fields(m, split="train").values for m in made)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_recipe_refuses_what_it_cannot_make(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="chains, configurations and sites must be positive"):
        make(tmp_path / "x", train_chains=0)
    with pytest.raises(ValueError, match="finite 'coupling' ≥ 0; got -1"):
        make(tmp_path / "x", coupling=-1.0)
    with pytest.raises(ValueError, match="exists already"):
        make(folder, progress=False)


# ---- naming an action

OWN = """
from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Own:
    scale: float = 2.0

    def __call__(self, x):
        return self.scale * x.flatten(1).sum(1)


def failing(x):
    return 1 / 0


class Failing:
    def __call__(self, x):
        return 1 / 0
"""


def test_actions_are_found_by_word_file_and_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = torch.randn(5, 1, 4, 4, generator=rng(0), dtype=torch.float64)
    (tmp_path / "my_action.py").write_text(
        "def gaussian(x, stiffness=1.0):\n    return 0.5 * stiffness * x.square().flatten(1).sum(1)\n"
        "class Shifted:\n    def __init__(self, by=0.0):\n        self.by = by\n"
        "    def __call__(self, x):\n        return gaussian(x - self.by)\n"
        "class Strict(Shifted):\n    def __init__(self, by):\n        self.by = float(by)\n"
        "def needy(x, mass):\n    return mass * gaussian(x)\n"
        "def wrong(x):\n    return x.square()\n"
    )
    monkeypatch.chdir(tmp_path)
    exact = 0.5 * fields.square().flatten(1).sum(1)
    for name in ("my_action.py:gaussian", f"{tmp_path}/my_action.py:Shifted", "my_action.gaussian"):
        torch.testing.assert_close(action_of(find_action(name), fields), exact)
    torch.testing.assert_close(action_of(find_action("my_action.gaussian", {"stiffness": 3.0}), fields), 3 * exact)
    shifted = action_of(find_action("my_action.py:Shifted", {"by": 1.0}), fields + 1)
    torch.testing.assert_close(shifted, exact)
    assert find_action("LatticePhi4", {"coupling": 0.5}) == Phi4Action(0.21, 0.5)
    with pytest.raises(ValueError, match="one number a field, shape \\(5,\\)"):
        action_of(find_action("my_action.py:wrong"), fields)
    for name, settings, message in (
        ("LatticePhi5", {}, "unknown action 'LatticePhi5'. Did you mean 'LatticePhi4'"),
        ("LatticePhi4", {"copling": 1}, "has no setting 'copling'. Did you mean 'coupling'"),
        ("my_action.py:gausian", {}, "has no function 'gausian'. Did you mean 'gaussian'"),
        ("no_file.py:f", {}, "there is no Python file no_file.py"),
        ("no_module.f", {}, "No module named 'no_module'"),
        ("LatticePhi4", {"hopping": -1.0}, "finite 'hopping'; got -1"),
        ("LatticePhi4", {"coupling": "abc"}, "finite 'coupling' ≥ 0; got abc"),
        ("LatticePhi4", {"coupling": 0, "hopping": 0.5}, "below 0.5 = 1/\\(2d\\) in 1 dimensions, or Z is infinite"),
        ("my_action.py:gaussian", {"stiffnes": 1}, "Did you mean 'stiffness'"),
        ("my_action.py:needy", {}, "needs the setting 'mass', as in --action_settings.mass VALUE"),
        ("my_action.py:Strict", {"by": "x"}, "my_action.py:Strict' with .*: ValueError: could not convert"),
    ):
        with pytest.raises(ValueError, match=message):
            find_action(name, settings)


def test_an_action_that_fails_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    fields = torch.ones(2, 1, 3, dtype=torch.float64)
    known = set(sys.modules)
    assert action_of(find_action("own.py:Own"), fields).tolist() == [6, 6]
    assert "own" not in sys.modules and len(set(sys.modules) - known) == 1
    for name in ("own.py:failing", "own.py:Failing"):
        with pytest.raises(ValueError, match=r"shape \(2, 1, 3\) at own.py, line \d+: ZeroDivisionError: division by"):
            action_of(find_action(name), fields)


def test_a_free_field_that_has_no_constant_is_refused(tmp_path: Path) -> None:
    """With λ = 0 the mode of no wavenumber has the variance 1/(2(1 − 2dκ)): none at κ = 1/(2d)."""
    assert Phi4Action(0.249, 0.0)(torch.ones(1, 1, 4, 4)) > 0
    for shape, most in (((4,), 0.5), ((4, 4), 0.25), ((2, 2, 2), 1 / 6)):
        with pytest.raises(ValueError, match="or Z is infinite"):
            Phi4Action(most, 0.0)(torch.ones(1, 1, *shape))
        assert float(Phi4Action(0.49, 0.01)(torch.ones(1, 1, *shape))) < 10
    with pytest.raises(ValueError, match=r"below 0.25 = 1/\(2d\) in 2 dimensions, or Z is infinite; got 0.25"):
        make(tmp_path / "set", hopping=0.25, coupling=0.0, progress=False)
    assert not (tmp_path / "set").exists()


def test_phi4_action_is_the_sum_that_it_states() -> None:
    """On sites of one, two and three dimensions, with two channels, by rolling."""
    for shape in ((5,), (3, 4), (2, 3, 4)):
        x = torch.randn(3, 2, *shape, generator=rng(1), dtype=torch.float64)
        bonds = sum((x * x.roll(1, axis)).flatten(1).sum(1) for axis in range(2, x.ndim))
        sites = ((1 - 0.2) * x**2 + 0.1 * x**4).flatten(1).sum(1)
        torch.testing.assert_close(Phi4Action(0.15, 0.1)(x), sites - 2 * 0.15 * bonds, rtol=1e-12, atol=1e-12)


def test_evaluate_refuses_a_wrong_action_before_it_reads_anything() -> None:
    with pytest.raises(ValueError, match="name it with --action"):
        evaluate("runs/none", action_settings={"coupling": 1})
    with pytest.raises(ValueError, match="Did you mean 'LatticePhi4'"):
        evaluate("runs/none", action="LatticPhi4")
