"""The Burgers solver against the exact solution of Cole and Hopf, and the data set it makes."""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import numpy as np
import pytest

from datasets.burgers import Burgers, coarsen, initial_velocity, make
from physdiff.data import load_fields

VISCOSITY = 0.05


def centres(points: int) -> np.ndarray:
    return 2 * math.pi * (np.arange(points) + 0.5) / points


def starts(runs: int, points: int) -> np.ndarray:
    return np.stack([initial_velocity(np.random.default_rng([0, 0, run]), points) for run in range(runs)])


def cole_hopf(start: np.ndarray, viscosity: float, time: float, x: np.ndarray) -> np.ndarray:
    """u(x, t) = Σ (x − y)/t · w / Σ w, w = exp(−(x − y)²/4νt − Φ(y)/2ν), Φ' the start: a mean over origins y.

    `start` at cell centres, finely; the sum over y is the trapezoidal rule on three periods, exact to rounding here.
    """
    points = len(start)
    modes, k = np.fft.rfft(start), np.arange(points // 2 + 1)
    potential = np.fft.irfft(np.divide(modes, 1j * k, out=np.zeros_like(modes), where=k > 0), n=points)
    y = np.concatenate([centres(points) + 2 * math.pi * period for period in (-1, 0, 1)])
    distance = x[:, None] - y
    exponent = -(distance**2) / (4 * viscosity * time) - np.tile(potential, 3) / (2 * viscosity)
    weight = np.exp(exponent - exponent.max(1, keepdims=True))
    return (distance / time * weight).sum(1) / weight.sum(1)


def test_the_exact_solution_is_one() -> None:
    """The oracle itself: it tends to the start, and to the decay of a small wave, which hardly advects itself."""
    start = starts(1, 2048)[0]
    # At νt = 1e-5 m² the field has moved by u u_x t: of order 1e-3.
    early = cole_hopf(start, 0.05, 2e-4, centres(2048)[::64])
    np.testing.assert_allclose(early, start[::64], atol=5e-3)
    x = centres(64)
    wave = cole_hopf(1e-6 * np.sin(3 * centres(1024)), 0.1, 0.5, x)
    # The next term of the series is 1e-6 of the first.
    np.testing.assert_allclose(wave, 1e-6 * math.exp(-0.1 * 9 * 0.5) * np.sin(3 * x), atol=3e-12)


def test_stored_fields_are_the_exact_solution() -> None:
    """As `make` runs it, shocks of jumps above 2 m/s and of a width of 4ν/jump ~ 0.1 m: to 1.1e-7 m/s."""
    solver = Burgers(384, VISCOSITY)
    modes = solver.evolve(solver.to_modes(starts(6, 384)), 1.0, solver.stable_steps(1.0))
    found = coarsen(solver.to_field(modes), 128)
    fine = np.stack([cole_hopf(start, VISCOSITY, 1.0, centres(1024)) for start in starts(6, 4096)])
    exact = coarsen(fine, 128)
    print("largest error", np.abs(found - exact).max(), "largest fall in a cell", np.diff(exact, axis=1).min())
    assert np.diff(exact, axis=1).min() < -0.5
    # Modes above a third of the points are missing: measured 3.5e-8 over 64 runs, times 3.
    np.testing.assert_allclose(found, exact, atol=1.1e-7)


def test_the_rule_is_of_fourth_order() -> None:
    solver = Burgers(96, 0.1)
    start = solver.to_modes(starts(3, 96))
    ends = [solver.evolve(start, 0.4, n) for n in (40, 80, 160, 1280)]
    errors = [np.abs(solver.to_field(end - ends[-1])).max() for end in ends[:-1]]
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    print("errors", errors, "slopes", slopes)
    assert errors[0] > 1e-9 and np.abs(slopes - 4).max() < 0.15


def test_advection_is_free_of_aliasing() -> None:
    """On a grid twice as fine, which holds every product, the kept modes of −u u_x are the same."""
    solver, fine = Burgers(48, VISCOSITY), 96
    modes = solver.to_modes(starts(1, 48)[0] + 0.3 * np.cos(15 * centres(48)))
    k = np.arange(fine // 2 + 1)
    large = np.zeros(len(k), dtype=complex)
    large[:25] = 2 * modes
    u, slope = np.fft.irfft(large), np.fft.irfft(1j * k * large)
    expected = np.fft.rfft(-u * slope)[:25] / 2 * solver.kept
    np.testing.assert_allclose(solver.advection(modes), expected, atol=1e-12)


def test_coarsening_keeps_the_polynomial() -> None:
    def wave(points: int, extra: float) -> np.ndarray:
        x = centres(points)
        return 2 * np.cos(x) - np.sin(7 * x) + 0.3 + extra * np.cos(16 * x - 0.4)

    np.testing.assert_allclose(coarsen(wave(96, 0.0), 32), wave(32, 0.0), atol=1e-14)
    np.testing.assert_allclose(coarsen(wave(96, 5.0), 32), wave(32, 0.0), atol=1e-14)  # 16 is its Nyquist
    np.testing.assert_allclose(coarsen(wave(96, 5.0), 34), wave(34, 5.0), atol=1e-14)


def test_the_start_is_a_gaussian_field_of_unit_variance() -> None:
    fields = starts(4000, 48)
    # Averages of 4000 independent runs; their own spread gives the standard errors.
    energy = (fields**2).mean(1)
    error = energy.std() / math.sqrt(4000)
    print("variance", energy.mean(), "+-", error)
    assert abs(energy.mean() - 1) < 4 * error
    assert np.abs(fields.mean(1)).max() < 1e-14
    # The same function on any grid.
    np.testing.assert_allclose(coarsen(fields[:5], 34), starts(5, 34), atol=1e-13)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(
        tmp_path_factory.mktemp("burgers") / "set", 3, progress=False,
        train_runs=5, valid_runs=2, test_runs=3, cells=64, frames=2, viscosity=0.1,
    )  # fmt: skip


def test_files_hold_the_runs(folder: Path) -> None:
    data = load_fields(folder, split="train")
    assert data.values.shape == (10, 1, 64) and data.values.dtype == np.float32
    assert data.names == ("velocity",) and data.units == ("m/s",)
    assert data.grid.boundary == ("periodic",) and data.grid.extent == pytest.approx((2 * math.pi,))
    with h5py.File(folder / "data" / "test" / "burgers.hdf5") as file:
        np.testing.assert_array_equal(file["dimensions/time"][()], [1.0, 1.5])
        assert file["t0_fields/velocity"].shape == (3, 2, 64)
        stored = file["t0_fields/velocity"][2, 1]
        assert file.attrs["seed"] == 3
    start = initial_velocity(np.random.default_rng([3, 2, 2]), 2048)
    exact = coarsen(cole_hopf(start, 0.1, 1.5, centres(512)), 64)
    # Stored in single precision.
    np.testing.assert_allclose(stored, exact, atol=2e-6)


def test_a_run_does_not_depend_on_the_others(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither on how many there are, nor on which are simulated together."""
    monkeypatch.setattr("datasets.burgers._RUNS_AT_ONCE", 2)
    make(
        tmp_path / "set", 3, progress=False,
        train_runs=3, valid_runs=1, test_runs=1, cells=64, viscosity=0.1,
    )  # fmt: skip
    with (
        h5py.File(folder / "data/train/burgers.hdf5") as first,
        h5py.File(tmp_path / "set/data/train/burgers.hdf5") as second,
    ):
        np.testing.assert_array_equal(first["t0_fields/velocity"][:3, :1], second["t0_fields/velocity"][()])


def test_settings_out_of_range_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cells must be even and at least 32, to hold the initial field; got 33"):
        make(tmp_path / "set", cells=33)
    with pytest.raises(ValueError, match=r"runs, frames and times must be positive; got .*'test': 0"):
        make(tmp_path / "set", test_runs=0)
    with pytest.raises(ValueError, match="at least 8 points and a viscosity > 0; got 64 and 0"):
        Burgers(64, 0.0)
    with pytest.raises(ValueError, match="overflowed with 20 steps of 1; take more steps"):
        Burgers(64, 1e-3).evolve(100 * Burgers(64, 1e-3).to_modes(starts(1, 64)), 20.0, 20)
    with pytest.raises(ValueError, match="exists already"):
        make(folder, progress=False)
