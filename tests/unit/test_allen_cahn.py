"""The Allen-Cahn solver against an exact front, its dissipation, and the same modes in scipy."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from datasets.allen_cahn import AllenCahn, make
from datasets.periodic_box import PeriodicBox, resample
from datasets.random_start import smooth_noise
from physdiff.data import load_fields


def solver(ndim: int = 2, points: int = 32, diffusivity: float = 4e-3, rate: float = 1.5) -> AllenCahn:
    return AllenCahn(PeriodicBox(ndim, points, 1.0, degree=3), diffusivity, rate)


def noise(equation: AllenCahn, runs: int = 2, scale: float = 3.0) -> torch.Tensor:
    generators = [np.random.default_rng([0, run]) for run in range(runs)]
    return equation.box.to_modes(0.6 * smooth_noise(generators, equation.box.ndim, equation.box.points, scale))


def test_fronts_travel_as_the_exact_one() -> None:
    """A region of u = 1 in u = 0 whose two fronts run apart; each is ½(1 + tanh), of the width 2ℓ."""
    rate, diffusivity, points, extent = 2.0, 0.5, 1024, 120.0
    equation = AllenCahn(PeriodicBox(1, points, extent, degree=3), diffusivity, rate)
    x = extent * (torch.arange(points, dtype=torch.float64) + 0.5) / points
    width, speed = math.sqrt(2 * diffusivity / rate), 3 * math.sqrt(diffusivity * rate / 2)

    def fronts(time: float) -> torch.Tensor:
        left, right = 40.0 - speed * time, 80.0 + speed * time
        return 0.5 * (torch.tanh((x - left) / (2 * width)) - torch.tanh((x - right) / (2 * width)))

    time = 4.0
    end = equation.box.to_field(equation.evolve(equation.box.to_modes(fronts(0.0)), time, 400))
    error = (end - fronts(time)).abs().max().item()
    print("largest difference", error, "distance", speed * time)
    # The fronts are 40 widths apart; what is left is the time step's: measured 3.9e-9, times 3.
    assert error < 1.2e-8 and speed * time > 8
    # A resting wall between −1 and +1 stays where it is; so does the tanh of its width.
    wall = torch.tanh((x - 30.0) / width) - torch.tanh((x - 90.0) / width) - 1
    still = equation.box.to_field(equation.evolve(equation.box.to_modes(wall), time, 400))
    # Half as wide, it has e^{−πkℓ/2} = 7e-7 of its amplitude where modes end: measured 3.7e-7, times 3.
    torch.testing.assert_close(still, wall, atol=1.1e-6, rtol=0)


def test_the_truncated_equation_is_scipys() -> None:
    """The same modes with the cube as a double sum over waves, by a Runge-Kutta rule of order eight."""
    equation, time, most = solver(1), 1.5, 7  # the largest wavenumber below 32/4
    start = noise(equation, 1)[0] + 0
    start[0] = 32 * 0.1
    c = start[: most + 1].numpy() / 32
    q2 = (2 * math.pi * np.arange(-most, most + 1)) ** 2

    def rate(_: float, y: np.ndarray) -> np.ndarray:
        half = y[: most + 1] + 1j * y[most + 1 :]
        u = np.concatenate([half[:0:-1].conj(), half])
        cube = np.convolve(np.convolve(u, u), u)[2 * most : 4 * most + 1]
        du = (1.5 - 4e-3 * q2) * u - 1.5 * cube
        return np.concatenate([du[most:].real, du[most:].imag])

    exact = solve_ivp(rate, (0, time), np.concatenate([c.real, c.imag]), "DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
    found = equation.evolve(start, time, 800)[: most + 1].numpy() / 32
    error = np.abs(found - (exact[: most + 1] + 1j * exact[most + 1 :])).max()
    print("largest difference of a mode", error)
    # Measured 4.2e-13, times 3.
    assert error < 1.3e-12 and np.abs(found - c).max() > 0.1


def test_order_four() -> None:
    equation = solver()
    start = noise(equation)
    exact = equation.evolve(start, 1.0, 1024)
    steps = [64, 128, 256]
    errors = [equation.box.to_field(equation.evolve(start, 1.0, n) - exact).abs().max().item() for n in steps]
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    print(f"order {slope:.3f}, errors {errors}")
    assert slope == pytest.approx(4, abs=0.15) and errors[-1] > 1e-12


def test_energy_falls_by_the_square_of_the_motion() -> None:
    """dF/dt = −⟨(∂u/∂t)²⟩, exactly so for the truncated equation."""
    equation, h = solver(), 2e-3
    middle = equation.evolve(noise(equation), 0.4, 100)
    after, before = equation.evolve(middle, h, 4), equation.evolve(middle, -h, 4)
    motion = equation.box.to_field(equation.rates * middle + equation.reaction(middle)).square().mean((-2, -1))
    slope = (equation.energy(after) - equation.energy(before)) / (2 * h)
    print("dF/dt", slope.tolist(), "motion", motion.tolist())
    # Centred difference: h²/6 times the third derivative; measured 3e-6 of it.
    torch.testing.assert_close(slope, -motion, rtol=3e-5, atol=0)
    energies = [equation.energy(equation.evolve(noise(equation), t, 80)) for t in (0.5, 1.0, 2.0, 4.0)]
    assert all((b < a).all() for a, b in pairwise(energies))


def test_made_fields_are_two_phases(tmp_path: Path) -> None:
    folder = make(
        tmp_path / "set", 1, progress=False, train_runs=4, valid_runs=1, test_runs=1, cells=32, frames=2,
        duration=6.0, frame_interval=4.0, diffusivity=2e-3,
    )  # fmt: skip
    data = load_fields(folder, split="train")
    assert data.names == ("phase",) and data.grid.units == ("m", "m")
    values = data.values.reshape(4, 2, 32, 32)
    assert 0.98 < np.abs(values).max() < 1.02
    # The solver on the modes that the cells hold, in a quarter of the steps' length: measured 2e-6, times 3.
    fine = AllenCahn(PeriodicBox(2, 64, 1.0, degree=3), 2e-3, 1.0)
    start = 0.1 * smooth_noise([np.random.default_rng([1, 0, 3])], 2, 64, 8.0)
    end = fine.box.to_field(fine.evolve(fine.box.to_modes(start), 6.0, 480))
    np.testing.assert_allclose(values[3, 0], resample(end, 2, 32)[0], atol=6e-6)
    # Most cells are in one of the phases, and more of them later: interfaces shrink.
    pure = (np.abs(values) > 0.8).mean((0, 2, 3))
    assert pure[0] > 0.3 and pure[1] > pure[0]


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    for settings, message in (
        ({"cells": 15}, "cells must be even and at least 16; got 15"),
        ({"diffusivity": 1e-5}, r"interface of 0.00447 m, √\(2·diffusivity/rate\), needs cells of half"),
        ({"rate": 0.0}, "a rate > 0; got 0.001 and 0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            make(tmp_path / "set", **settings)
    assert list(tmp_path.iterdir()) == []
