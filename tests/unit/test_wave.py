"""The clamped wave equation against reflected waves, finite differences and energy, and the data set it makes."""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from datasets.wave import ClampedWave, initial_displacement, make, pulse
from physdiff.data import load_fields
from physdiff.grid import Grid


def line(cells: int, length: float = 1.0) -> Grid:
    return Grid((cells,), extent=length, boundary="dirichlet", units="m")


def square(cells: int) -> Grid:
    return Grid((cells, cells), extent=1.0, boundary="dirichlet", units="m")


def continued(x: np.ndarray, centre: float, width: float, length: float) -> np.ndarray:
    """A Gaussian and its reflections in walls at 0 and `length`: odd about both, so of period 2·length."""
    total = np.zeros_like(x)
    for period in range(-4, 5):
        total += np.exp(-0.5 * ((x - centre - 2 * period * length) / width) ** 2)
        total -= np.exp(-0.5 * ((x + centre - 2 * period * length) / width) ** 2)
    return total


@pytest.mark.parametrize("time", [0.13, 0.9, 2.37])
def test_a_line_follows_d_alembert(time: float) -> None:
    """½(G(x − ct) + G(x + ct)), G continued by images; the pulse has met both walls at the later times."""
    length, speed, centre, width = 1.3, 0.8, 0.4, 0.06
    grid = line(96, length)
    x, wave = grid.coordinate(0), ClampedWave(grid, speed)
    start = torch.from_numpy(pulse(grid, np.array([centre]), width))
    zero = torch.zeros_like(start)

    def images(at: np.ndarray) -> np.ndarray:
        return continued(at, centre, width, length)

    u, v = wave.evolve(wave.basis.forward(start), zero, time)
    ahead, behind = images(x - speed * time), images(x + speed * time)
    # Rounding; 96 sines hold a Gaussian of 4.4 cells: measured 4e-15, times 3.
    np.testing.assert_allclose(wave.basis.inverse(u).numpy(), 0.5 * (ahead + behind), atol=1.2e-14)
    # ∂u/∂t = ½c(G'(x + ct) − G'(x − ct)), by a central difference: measured 2.8e-8, h²/6 of G''', times 3.
    h = 1e-5
    late = images(x - speed * (time + h)) + images(x + speed * (time + h))
    early = images(x - speed * (time - h)) + images(x + speed * (time - h))
    np.testing.assert_allclose(wave.basis.inverse(v).numpy(), 0.5 * (late - early) / (2 * h), atol=8e-8)
    # The same pulse as a blow: what starts as rate G is the integral of the travelling waves.
    u, v = wave.evolve(zero, wave.basis.forward(start), time)
    np.testing.assert_allclose(wave.basis.inverse(v).numpy(), 0.5 * (ahead + behind), atol=1.2e-14)
    y = np.linspace(-speed * time, speed * time, 4001)
    area = np.trapezoid(images(x[:, None] + y), dx=y[1] - y[0], axis=1) / (2 * speed)
    # The trapezoidal rule on up to 38 widths: measured 4.7e-7, times 3.
    np.testing.assert_allclose(wave.basis.inverse(u).numpy(), area, atol=1.4e-6)


def leapfrog(cells: int, speed: float, time: float, centre: np.ndarray, width: float) -> np.ndarray:
    """Second-order finite differences on a square with ghost cells −u behind each wall."""
    grid = square(cells)
    steps = math.ceil(time * speed * cells / 0.5)
    factor = (speed * time / steps * cells) ** 2

    def laplacian(u: np.ndarray) -> np.ndarray:
        padded = np.pad(u, 1)
        padded[0], padded[-1], padded[:, 0], padded[:, -1] = -padded[1], -padded[-2], -padded[:, 1], -padded[:, -2]
        return padded[2:, 1:-1] + padded[:-2, 1:-1] + padded[1:-1, 2:] + padded[1:-1, :-2] - 4 * u

    before = pulse(grid, centre, width)
    now = before + 0.5 * factor * laplacian(before)
    for _ in range(steps - 1):
        before, now = now, 2 * now - before + factor * laplacian(now)
    return now


def test_finite_differences_converge_to_a_square_membrane() -> None:
    """An oblique pulse after its walls' first reflections: the difference falls with the square of the spacing."""
    centre, width, speed, time = np.array([0.3, 0.6]), 0.08, 1.0, 0.7
    errors = []
    for cells in (64, 128, 256):
        wave = ClampedWave(square(cells), speed)
        start = torch.from_numpy(pulse(square(cells), centre, width))
        u, _ = wave.evolve(wave.basis.forward(start), torch.zeros_like(start), time)
        errors.append(np.abs(wave.basis.inverse(u).numpy() - leapfrog(cells, speed, time, centre, width)).max())
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    print("errors", errors, "slopes", slopes)
    assert errors[-1] < 2e-3 and abs(slopes[-1] - 2) < 0.15


def test_energy_is_kept_and_is_that_of_the_fields() -> None:
    wave = ClampedWave(square(64), 1.3)
    start = wave.basis.forward(torch.from_numpy(initial_displacement(np.random.default_rng(1), square(64))))
    energies = [wave.energy(*wave.evolve(start, torch.zeros_like(start), t)).item() for t in (0.0, 0.31, 1.7, 40.0)]
    # Rounding: measured 1.1e-16; with ωt up to 2e4 a few more digits may go.
    np.testing.assert_allclose(energies, energies[0], rtol=1e-14)
    # A pulse at rest far from walls: ½c² ∫ |∇G|² = ½ c² π.
    u = wave.basis.forward(torch.from_numpy(pulse(square(64), np.array([0.5, 0.5]), 0.06)))
    assert wave.energy(u, torch.zeros_like(u)).item() == pytest.approx(0.5 * 1.3**2 * math.pi, rel=1e-12)
    # A flat blow of rate 1 in the middle half: ½ · its area.
    blow = torch.zeros(64, 64, dtype=torch.float64)
    blow[16:48, 16:48] = 1
    assert wave.energy(torch.zeros_like(u), wave.basis.forward(blow)).item() == pytest.approx(0.125, rel=1e-12)


def test_the_rim_does_not_move() -> None:
    """Where sines are not zero by themselves: fields continued to the wall by a polynomial through nine cells."""
    wave = ClampedWave(square(160), 1.0)
    start = wave.basis.forward(torch.from_numpy(initial_displacement(np.random.default_rng(2), square(160))))
    u, v = (wave.basis.inverse(m) for m in wave.evolve(start, torch.zeros_like(start), 0.83))
    j = np.arange(9) + 0.5
    weights = torch.tensor([np.prod([j[m] / (j[m] - j[i]) for m in range(9) if m != i]) for i in range(9)])
    for field in (u, v):
        at_walls = [torch.einsum("i,ij->j", weights, f[:9]) for f in (field, field.flip(0), field.T, field.T.flip(0))]
        largest = max(wall.abs().max().item() for wall in at_walls) / field.abs().max().item()
        print("at the walls, of the largest", largest)
        assert largest < 4.5e-6  # of the polynomial of order 8: measured 1.4e-6, times 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(
        tmp_path_factory.mktemp("wave") / "set", 3, progress=False,
        train_runs=5, valid_runs=2, test_runs=3, cells=48, frames=3, frame_interval=0.2, duration=0.5, speed=0.9,
    )  # fmt: skip


def test_files_hold_the_runs(folder: Path) -> None:
    data = load_fields(folder, split="train")
    assert data.values.shape == (15, 2, 48, 48) and data.values.dtype == np.float32
    assert data.names == ("displacement", "rate") and data.units == ("m", "m/s")
    assert data.grid.boundary == ("dirichlet", "dirichlet") and data.grid.extent == pytest.approx((1.0, 1.0))
    with h5py.File(folder / "data" / "test" / "wave.hdf5") as file:
        np.testing.assert_allclose(file["dimensions/time"][()], [0.5, 0.7, 0.9], rtol=1e-15)
        stored = {name: file[f"t0_fields/{name}"][2, 1] for name in ("displacement", "rate")}
        assert file.attrs["speed"] == 0.9 and file.attrs["seed"] == 3
    # Twice as many cells hold the same pulses.
    fine = ClampedWave(square(96), 0.9)
    start = torch.from_numpy(initial_displacement(np.random.default_rng([3, 2, 2]), square(96)))
    exact = fine.evolve(fine.basis.forward(start), torch.zeros_like(start), 0.7)
    for found, modes in zip(stored.values(), exact, strict=True):
        # The first 48 sines of each axis at the centres of 48 cells, where they are an orthonormal basis again.
        coarse = ClampedWave(square(48), 0.9).basis.inverse(modes[:48, :48] / 2)
        np.testing.assert_allclose(found, coarse.numpy(), atol=3e-6)


def test_settings_out_of_range_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cells must be at least 48, to hold the narrowest pulse; got 32"):
        make(tmp_path / "set", cells=32)
    with pytest.raises(ValueError, match=r"runs, frames and times must be positive; got .*'test': 0"):
        make(tmp_path / "set", test_runs=0)
    with pytest.raises(ValueError, match=r"clamped walls on every side and a speed > 0; got .* and 0"):
        make(tmp_path / "set", speed=0.0)
    with pytest.raises(ValueError, match="clamped walls on every side"):
        ClampedWave(Grid((8,), boundary="neumann"), 1.0)
    with pytest.raises(ValueError, match="exists already"):
        make(folder, progress=False)
