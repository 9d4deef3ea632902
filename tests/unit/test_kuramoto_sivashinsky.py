"""The Kuramoto-Sivashinsky solver against scipy, exact growth, a symmetry and the energy balance."""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from datasets.kuramoto_sivashinsky import KuramotoSivashinsky, make
from datasets.periodic_box import PeriodicBox
from datasets.random_start import smooth_noise
from physdiff.data import load_fields

EXTENT = 22.0


def solver(points: int = 32, extent: float = EXTENT) -> KuramotoSivashinsky:
    return KuramotoSivashinsky(PeriodicBox(1, points, extent))


def starts(ks: KuramotoSivashinsky, runs: int, scale: float = 3.0) -> Tensor:
    generators = [np.random.default_rng([0, run]) for run in range(runs)]
    return ks.box.to_modes(smooth_noise(generators, 1, ks.box.points, scale))


def test_the_truncated_equation_is_scipys() -> None:
    """The same modes, products as a sum over pairs of waves, in scipy's Runge-Kutta rule of order eight."""
    ks, time = solver(), 10.0
    start = starts(ks, 1)[0]
    end = ks.evolve(start, time, 1600)
    most = 10  # the largest kept wavenumber, below 32/3
    c = start[1 : most + 1].numpy() / 32
    q = 2 * math.pi / EXTENT * np.arange(-most, most + 1)

    def rate(_: float, y: np.ndarray) -> np.ndarray:
        half = y[:most] + 1j * y[most:]
        u = np.concatenate([half[::-1].conj(), [0], half])
        product = np.convolve(u, u)[most : 3 * most + 1]
        du = (q**2 - q**4) * u - 0.5j * q * product
        return np.concatenate([du[most + 1 :].real, du[most + 1 :].imag])

    exact = solve_ivp(rate, (0, time), np.concatenate([c.real, c.imag]), "DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
    found = end[1 : most + 1].numpy() / 32
    # ETDRK4 in 1600 steps; measured 1.2e-9, times 3; amplitudes are of order 1.
    error = np.abs(found - (exact[:most] + 1j * exact[most:])).max()
    print("largest difference of a mode", error, "largest mode", np.abs(found).max())
    assert error < 4e-9 and np.abs(found).max() > 0.3
    assert np.abs(found - c).max() > 0.3


def test_small_waves_grow_and_decay_at_their_exact_rates() -> None:
    ks, time = solver(48), 2.0
    x = EXTENT * (torch.arange(48, dtype=torch.float64) + 0.5) / 48
    for k in (1, 2, 3, 4, 6):
        q = 2 * math.pi * k / EXTENT
        wave = torch.cos(q * x)
        end = ks.box.to_field(ks.evolve(ks.box.to_modes(1e-9 * wave), time, 40))
        growth = math.exp((q**2 - q**4) * time)
        assert (growth > 1) == (k <= 3)
        # The second harmonic is 1e-9 of the first: measured 6.4e-19, times 3.
        torch.testing.assert_close(end, 1e-9 * growth * wave, rtol=0, atol=2e-18)


def test_a_moving_observer_sees_the_same_flow() -> None:
    """u(x − ct) + c solves the equation as u does; only advection that is exactly −u u_x allows it."""
    ks, c, time = solver(48), 0.7, 3.0
    start = starts(ks, 2)
    end = ks.evolve(start, time, 1200)
    moving = start.clone()
    moving[:, 0] += 48 * c
    k = ks.box.wavenumbers[0]
    expected = end * torch.exp(-1j * k * c * time)
    expected[:, 0] += 48 * c
    difference = ks.box.to_field(ks.evolve(moving, time, 1200) - expected).abs().max().item()
    # Errors of the time step: measured 1.2e-10, times 3.
    assert difference < 4e-10
    assert ks.box.to_field(end - start).abs().max().item() > 1


def test_order_four() -> None:
    ks = solver()
    start = ks.evolve(starts(ks, 3), 20.0, 800)
    exact = ks.evolve(start, 2.0, 4096)
    steps = [64, 128, 256]
    errors = [ks.box.to_field(ks.evolve(start, 2.0, n) - exact).abs().max().item() for n in steps]
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    print(f"order {slope:.3f}, errors {errors}")
    assert slope == pytest.approx(4, abs=0.15) and errors[-1] > 1e-12


def test_energy_balance() -> None:
    """Change of ⟨u²⟩/2 over a time is the integral of production less dissipation, by Simpson's rule."""
    ks, pieces, span = solver(48), 200, 0.02
    modes = ks.evolve(starts(ks, 4), 30.0, 1500)
    before, rates = ks.energy(modes), []
    for _ in range(pieces):
        rates.append(ks.energy_rate(modes))
        modes = ks.evolve(modes, span, 4)
    rates.append(ks.energy_rate(modes))
    weights = torch.ones(pieces + 1, dtype=torch.float64)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    integral = (weights.unsqueeze(1) * torch.stack(rates)).sum(0) * span / 3
    change = ks.energy(modes) - before
    print("change", change.tolist(), "balance", integral.tolist())
    # Simpson's and the rule's errors: measured 2.1e-10, times 3; of changes up to 0.18.
    torch.testing.assert_close(change, integral, rtol=0, atol=6.3e-10)
    assert float(change.abs().max()) > 0.01


def test_the_law_is_stationary() -> None:
    """Of 96 runs at t = 100 and 160: the same energy within its error, far from what the waves alone would have."""
    ks = solver(64, 40.0)
    early = ks.evolve(starts(ks, 96), 100.0, 1000)
    energies = torch.stack([ks.energy(early), ks.energy(ks.evolve(early, 60.0, 600))])
    change = energies[1] - energies[0]
    error = float(change.std()) / math.sqrt(96)
    print(f"energy {energies.mean(1).tolist()}, change {change.mean():.4f} ± {error:.4f}")
    assert abs(float(change.mean())) < 4 * error and error < 0.05
    assert 0.6 < float(energies.mean()) < 1.1


def test_made_runs_have_no_mean_and_know_their_times(tmp_path: Path) -> None:
    folder = make(
        tmp_path / "set", 1, progress=False, train_runs=3, valid_runs=1, test_runs=1, cells=32, frames=2,
        duration=2.0, frame_interval=1.0, extent=22.0,
    )  # fmt: skip
    data = load_fields(folder, split="train")
    assert data.values.shape == (6, 1, 32) and data.names == ("u",) and data.grid.extent == (22.0,)
    assert np.abs(data.values.astype(np.float64).mean(2)).max() < 1e-6
    with h5py.File(folder / "data/train/kuramoto_sivashinsky.hdf5") as file:
        assert file.attrs["extent"] == 22 and file["dimensions/time"][()].tolist() == [2, 3]
    # What is stored is the solver's field at the stored cells: every third centre of 96 is a centre of 32.
    ks = solver(96)
    start = smooth_noise([np.random.default_rng([1, 0, 2])], 1, 96, 4.0)
    end = ks.box.to_field(ks.evolve(ks.box.to_modes(start), 2.0, 400))[0, 1::3]
    # Modes above a third of 48 points are missing in the one and above a third of 96 in the other.
    np.testing.assert_allclose(data.values[4, 0], end, atol=2e-4)


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 32 and at least one per unit of length; got 64 on a length of 1"):
        make(tmp_path / "set", cells=64, extent=100.0)
    with pytest.raises(ValueError, match="needs one dimension; got 2"):
        KuramotoSivashinsky(PeriodicBox(2, 16))
