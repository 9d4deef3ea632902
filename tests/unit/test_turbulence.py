"""The Navier-Stokes solver against exact flows and conserved quantities, and the data set it makes."""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from datasets.navier_stokes import NavierStokes, coarsen
from datasets.turbulence import initial_vorticity, make
from physdiff.data import load_fields


def square(points: int) -> tuple[Tensor, Tensor]:
    """Cell centres of [0, 2π)², shapes (n, 1) and (1, n)."""
    x = (torch.arange(points, dtype=torch.float64) + 0.5) * (2 * math.pi / points)
    return x.unsqueeze(1), x.unsqueeze(0)


def band(runs: int, points: int, seed: int = 0) -> Tensor:
    return initial_vorticity([np.random.default_rng([seed, run]) for run in range(runs)], points)


def test_taylor_green_vortices_decay_at_their_exact_rate() -> None:
    solver, (x, y), t = NavierStokes(24, viscosity=0.05), square(24), 1.7
    # Every mode with the same |k|² is one multiple of its stream function, so it does not advect itself.
    vortices = {
        2: 2 * torch.cos(x) * torch.cos(y),
        25: torch.cos(3 * x + 4 * y) - 2 * torch.sin(4 * x - 3 * y) + torch.cos(5 * y) - torch.sin(5 * x),
    }
    for k2, vorticity in vortices.items():
        end = solver.to_field(solver.evolve(solver.to_modes(vorticity), t, steps=20))
        # Rounding of 20 steps of numbers of order 1; measured 5.6e-15, times 3.
        torch.testing.assert_close(end, vorticity * math.exp(-0.05 * k2 * t), atol=1.7e-14, rtol=0)


def test_advection_of_two_waves_is_the_hand_calculation() -> None:
    solver, (x, y) = NavierStokes(12, viscosity=0.0), square(12)
    # ψ = cos x + ¼cos 2y: u = −½sin 2y, v = sin x, so −u·∇ω = 3/2 sin x sin 2y.
    modes = solver.to_modes(torch.cos(x) + torch.cos(2 * y))
    u, v = solver.velocity(modes)
    ones = torch.ones(12, 12, dtype=torch.float64)
    torch.testing.assert_close(u, -torch.sin(2 * y) / 2 * ones, atol=1e-15, rtol=0)
    torch.testing.assert_close(v, torch.sin(x) * ones, atol=1e-15, rtol=0)
    expected = 1.5 * torch.sin(x) * torch.sin(2 * y)
    torch.testing.assert_close(solver.to_field(solver.advection(modes)), expected, atol=1e-14, rtol=0)
    # Mean of u² is 1/8, of v² 1/2, of ω² 1.
    assert float(solver.energy(modes)) == pytest.approx(5 / 16, rel=1e-14)
    assert float(solver.enstrophy(modes)) == pytest.approx(1 / 2, rel=1e-14)


def test_advection_is_free_of_aliasing() -> None:
    """The gradient form on a grid twice as fine, which holds every product, gives the same kept modes."""
    n, fine = 16, 32
    solver = NavierStokes(n, viscosity=0.0)
    modes = solver.to_modes(band(1, n)[0])
    k = np.fft.fftfreq(n, 1 / n).astype(int)
    large = np.zeros((fine, fine), dtype=complex)
    large[np.ix_(k, k)] = np.fft.fft2(solver.to_field(modes).numpy())
    kx, ky = np.meshgrid(*[np.fft.fftfreq(fine, 1 / fine)] * 2, indexing="ij")
    k2 = kx**2 + ky**2
    stream = np.divide(large, k2, out=np.zeros_like(large), where=k2 > 0)
    u, v, wx, wy = (np.fft.ifft2(1j * m).real for m in (ky * stream, -kx * stream, kx * large, ky * large))
    # Two inverse transforms on 4 times the points, one forward: 4 in all.
    product = -4 * np.fft.fft2(u * wx + v * wy)[np.ix_(k, k)]
    expected = torch.from_numpy(product[:, : n // 2 + 1].copy()) * solver.kept
    scale = expected.abs().max().item()
    torch.testing.assert_close(solver.advection(modes), expected, atol=1e-14 * scale, rtol=0)


def test_without_viscosity_energy_and_enstrophy_are_kept() -> None:
    solver = NavierStokes(48, viscosity=0.0)
    start = solver.to_modes(band(3, 48))
    end = solver.evolve(start, duration=2.0, steps=80)
    assert (solver.to_field(end) - solver.to_field(start)).abs().max() > 0.5
    # Defects of RK4 alone: measured 6.3e-10 and 1.4e-9, times 3.
    for quantity, tolerance in ((solver.energy, 2e-9), (solver.enstrophy, 4.5e-9)):
        defect = (quantity(end) / quantity(start) - 1).abs().max().item()
        print(f"{quantity.__name__}: relative defect {defect:.1e}")
        assert defect < tolerance


@pytest.mark.parametrize("viscosity", [0.0, 0.01])
def test_time_stepping_is_of_order_four(viscosity: float) -> None:
    solver = NavierStokes(24, viscosity)
    start = solver.to_modes(band(2, 24))
    exact = solver.evolve(start, 1.0, 256)
    steps = [8, 16, 32]
    errors = [(solver.evolve(start, 1.0, n) - exact).abs().square().sum().sqrt().item() for n in steps]
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    print(f"order {slope:.3f}, errors {errors}")
    assert slope == pytest.approx(4, abs=0.15)


def test_too_few_steps_are_an_error_and_the_stable_number_is_enough() -> None:
    solver = NavierStokes(48, viscosity=1e-3)
    start = solver.to_modes(band(2, 48))
    with pytest.raises(ValueError, match=r"overflowed with 12 steps of 2; take more steps"):
        solver.evolve(start, 24.0, 12)
    steps = solver.stable_steps(start, 3.0)
    assert solver.stable_steps(4 * start, 3.0) >= 4 * (steps - 1)
    end = solver.evolve(start, 3.0, steps)
    assert (solver.enstrophy(end) < solver.enstrophy(start)).all()
    with pytest.raises(ValueError, match="at least 4 points and a viscosity ≥ 0; got 16 and -1"):
        NavierStokes(16, -1)


def test_coarsening_evaluates_the_same_polynomial_at_the_coarse_centres() -> None:
    def polynomial(points: int) -> Tensor:
        x, y = square(points)
        return torch.cos(3 * x - 5 * y) + 0.3 * torch.sin(7 * x + y) - torch.sin(2 * y) + 0.25

    (x, y), coarse = square(24), polynomial(16)
    # Wavenumber 8 is the coarse grid's Nyquist, 9 beyond it: both must go.
    beyond = torch.sin(8 * x) + torch.cos(9 * y + x)
    torch.testing.assert_close(coarsen(polynomial(24) + beyond, 16), coarse, atol=1e-14, rtol=0)


def test_initial_vorticity_is_gaussian_of_variance_one_in_its_band() -> None:
    x = band(200, 32)
    power = (x**2).mean((-2, -1))
    error = power.std().item() / math.sqrt(len(power))
    print(f"variance {power.mean():.4f} ± {error:.4f}")
    assert power.mean().item() == pytest.approx(1, abs=4 * error)
    kurtosis = (x**4).mean((-2, -1)) / power.mean() ** 2
    error = kurtosis.std().item() / math.sqrt(len(kurtosis))
    assert kurtosis.mean().item() == pytest.approx(3, abs=4 * error)
    modes = torch.fft.fft2(x).abs().square().mean(0)
    rings = [modes[k, 0] + modes[0, k] for k in (1, 4, 7, 10)]
    assert rings[1] > 10 * rings[0] and rings[1] > 10 * rings[2] > 1e3 * rings[3]
    assert modes[0, 0] < 1e-20 * modes.max()
    # A ring's power is spread over its length, so modes at equal distance from the peak differ by 5/3.
    three = torch.stack([modes[3, 0], modes[0, 3]]).mean()
    five = torch.stack([modes[5, 0], modes[0, 5], modes[3, 4], modes[3, -4], modes[4, 3], modes[4, -3]]).mean()
    # A complex mode's power is exponential: its relative error is 1/√(modes · runs).
    error = math.sqrt(1 / (2 * 200) + 1 / (6 * 200))
    print(f"power at 3 over power at 5: {three / five:.3f} ± {5 / 3 * error:.3f}")
    assert (three / five).item() == pytest.approx(5 / 3, rel=4 * error)


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 runs of the default flow, the rest few."""
    folder = tmp_path_factory.mktemp("turbulence") / "set"
    return make(folder, seed=5, progress=False, train_runs=32, valid_runs=2, test_runs=2)


def test_vortices_make_the_field_far_from_gaussian(small_set: Path) -> None:
    data = load_fields(small_set, split="train")
    x = data.values[:, 0].astype(np.float64)
    kurtosis = (x**4).mean((1, 2)) / (x**2).mean((1, 2)) ** 2
    error = kurtosis.std(ddof=1) / math.sqrt(len(x))
    print(f"kurtosis {kurtosis.mean():.2f} ± {error:.2f}")
    assert kurtosis.mean() - 3 * error > 3.3


def test_every_mode_below_nyquist_is_populated_and_no_other(small_set: Path) -> None:
    x = load_fields(small_set, split="train").values[:, 0].astype(np.float64)
    power = (np.abs(np.fft.fft2(x)) ** 2).mean(0)
    k = np.abs(np.fft.fftfreq(32, 1 / 32))
    inside = (k[:, None] < 16) & (k[None, :] < 16)
    inside[0, 0] = False
    # Measured with 32 runs: 1.7e3 below Nyquist; above it float32 rounding, 3e-17; each times 3.
    assert power.max() / power[inside].min() < 5e3
    assert power[~inside].max() < 1e-16 * power.max()


def test_data_set_has_grid_units_card_and_independent_splits(small_set: Path) -> None:
    parts = {split: load_fields(small_set, split=split) for split in ("train", "valid", "test")}
    assert [len(part) for part in parts.values()] == [32, 2, 2]
    grid = parts["test"].grid
    assert grid.shape == (32, 32) and grid.boundary == ("periodic", "periodic")
    assert grid.extent == (2 * math.pi, 2 * math.pi) and grid.units == ("m", "m")
    assert parts["test"].names == ("vorticity",) and parts["test"].units == ("1/s",)
    assert parts["test"].values.dtype == np.float32 and set(parts["test"].time) == {24.0}
    rows = np.concatenate([part.values for part in parts.values()]).reshape(36, -1)
    correlation = np.corrcoef(rows) - np.eye(36)
    # Two runs with one seed would give 1; measured 0.33, by the few large vortices that a field holds.
    assert np.abs(correlation).max() < 0.6
    assert (small_set / "stats.yaml").is_file() and "Kurtosis" in (small_set / "card.md").read_text()
    with h5py.File(small_set / "data" / "test" / "turbulence.hdf5") as file:
        assert file.attrs["viscosity"] == 1e-3 and file.attrs["seed"] == 5


def test_same_seed_same_bytes_for_any_number_of_threads(tmp_path: Path) -> None:
    settings = {"train_runs": 33, "valid_runs": 1, "test_runs": 1, "cells": 16, "duration": 1.0, "frames": 2}
    threads = torch.get_num_threads()
    state = torch.get_rng_state()
    try:
        for name, count, seed in (("a", 1, 0), ("b", 2, 0), ("c", 1, 1)):
            torch.set_num_threads(count)
            make(tmp_path / name, seed=seed, progress=False, frame_interval=0.5, **settings)
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    a, b, c = (load_fields(tmp_path / name, split="train") for name in "abc")
    assert a.values.tobytes() == b.values.tobytes() and a.values.tobytes() != c.values.tobytes()
    assert a.trajectory.tolist() == sorted([*range(33)] * 2) and a.time[:2].tolist() == [1.0, 1.5]
    assert torch.equal(state, torch.get_rng_state())


def test_settings_out_of_range_and_occupied_folders_are_refused(tmp_path: Path) -> None:
    for setting in ({"cells": 17}, {"cells": 14}):
        with pytest.raises(ValueError, match=rf"even and at least 16, .* got {setting['cells']}"):
            make(tmp_path / "set", **setting)
    with pytest.raises(ValueError, match=r"must be positive; got .*'test': 0"):
        make(tmp_path / "set", test_runs=0)
    (tmp_path / "set" / "data").mkdir(parents=True)
    with pytest.raises(ValueError, match="exists already; choose another folder or pass overwrite=True"):
        make(tmp_path / "set", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
