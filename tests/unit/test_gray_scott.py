"""The Gray-Scott solver against ordinary differential equations, exact growth rates and the same modes in scipy."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from datasets.gray_scott import GrayScott, initial_state, make
from datasets.periodic_box import PeriodicBox, resample
from physdiff.data import load_fields

FEED, KILL = 0.037, 0.06


def solver(ndim: int = 2, points: int = 32, extent: float = 0.3) -> GrayScott:
    return GrayScott(PeriodicBox(ndim, points, extent, degree=3), FEED, KILL)


def reaction(u: float, v: float) -> np.ndarray:
    return np.array([-u * v * v + FEED * (1 - u), u * v * v - (FEED + KILL) * v])


@pytest.mark.parametrize("start", [(0.4, 0.3), (0.9, 0.02), (1.0, 0.0)])
def test_homogeneous_fields_follow_the_reactions_alone(start: tuple[float, float]) -> None:
    equation = solver(points=8)
    fields = torch.tensor(start, dtype=torch.float64).reshape(2, 1, 1).expand(2, 8, 8)
    end = equation.box.to_field(equation.evolve(equation.box.to_modes(fields), 150.0, 600))
    exact = solve_ivp(lambda _, y: reaction(*y), (0, 150.0), start, "DOP853", rtol=1e-12, atol=1e-14).y[:, -1]
    # Steps of 0.25 s: measured 5.6e-12, times 3.
    for found, expected in zip(end, exact, strict=True):
        assert float(found.max() - found.min()) < 1e-14
        assert float(found.mean()) == pytest.approx(expected, abs=1.7e-11)


def steady(feed: float, kill: float) -> tuple[float, float]:
    """The steady state with more of v: u v = F + K and F(1 − u) = (F + K) v."""
    removal = feed + kill
    u = (1 - math.sqrt(1 - 4 * removal**2 / feed)) / 2
    return u, removal / u


def test_small_waves_grow_by_the_matrix_of_the_linear_equation() -> None:
    """About a steady state, a wave of wavenumber q turns and grows as exp((J − q²D)t) says."""
    feed, kill = 0.06, 0.062
    u, v = steady(feed, kill)
    np.testing.assert_allclose([-u * v * v + feed * (1 - u), u * v * v - (feed + kill) * v], 0, atol=1e-16)
    equation = GrayScott(PeriodicBox(2, 32, 0.3, degree=3), feed, kill)
    centres = 0.3 * (torch.arange(32, dtype=torch.float64) + 0.5) / 32
    jacobian = np.array([[-v * v - feed, -2 * u * v], [v * v, 2 * u * v - feed - kill]])
    growths = []
    for kx, ky in ((0, 1), (2, 1), (3, 4)):
        q = 2 * math.pi / 0.3 * np.array([kx, ky])
        wave = torch.cos(q[0] * centres.unsqueeze(1) + q[1] * centres)
        base = torch.tensor([u, v], dtype=torch.float64).reshape(2, 1, 1)
        small = 1e-7 * torch.tensor([0.3, -1.0], dtype=torch.float64).reshape(2, 1, 1)
        end = equation.box.to_field(equation.evolve(equation.box.to_modes(base + small * wave), 40.0, 800)) - base
        # D from Pearson's paper, not from the solver.
        matrix = expm(40.0 * (jacobian - q @ q * np.diag([2e-5, 1e-5])))
        expected = torch.from_numpy(matrix @ [3e-8, -1e-7]).reshape(2, 1, 1) * wave
        growths.append(float(expected.abs().max()) / 1e-7)
        # Squares of 1e-7 times their growth.
        torch.testing.assert_close(end, expected, rtol=0, atol=2e-12)
    print("growth of the waves", growths)
    assert max(growths) > 10 * min(growths)


def test_the_truncated_equations_are_scipys() -> None:
    """The same modes with u v² as a double sum over waves, by a Runge-Kutta rule of order eight."""
    equation, time, most = solver(1), 100.0, 7
    x = 0.3 * (torch.arange(32, dtype=torch.float64) + 0.5) / 32
    q = 2 * math.pi / 0.3
    patch = 0.5 + 0.3 * torch.cos(q * x) + 0.2 * torch.sin(2 * q * x + 0.3)
    start = equation.box.to_modes(torch.stack([1 - 0.5 * patch, 0.25 * patch]))
    c = start[:, : most + 1].numpy() / 32
    k2 = (q * np.arange(-most, most + 1)) ** 2
    one = (np.arange(-most, most + 1) == 0).astype(float)

    def rate(_: float, y: np.ndarray) -> np.ndarray:
        half = (y[: y.size // 2] + 1j * y[y.size // 2 :]).reshape(2, -1)
        u, v = (np.concatenate([h[:0:-1].conj(), h]) for h in half)
        product = np.convolve(np.convolve(v, v), u)[2 * most : 4 * most + 1]
        du = -2e-5 * k2 * u - product + FEED * (one - u)
        dv = -1e-5 * k2 * v + product - (FEED + KILL) * v
        d = np.stack([du, dv])[:, most:].ravel()
        return np.concatenate([d.real, d.imag])

    flat = np.concatenate([c.real.ravel(), c.imag.ravel()])
    y = solve_ivp(rate, (0, time), flat, "DOP853", rtol=1e-12, atol=1e-14).y[:, -1]
    exact = (y[: y.size // 2] + 1j * y[y.size // 2 :]).reshape(2, -1)
    found = equation.evolve(start, time, 800)[:, : most + 1].numpy() / 32
    error = np.abs(found - exact).max()
    print("largest difference of a mode", error)
    # Measured 7.9e-11, times 3.
    assert error < 2.4e-10 and np.abs(found - c).max() > 0.05


def test_order_four() -> None:
    equation = solver()
    start = equation.box.to_modes(initial_state([np.random.default_rng(i) for i in range(2)], 32))
    start = equation.evolve(start, 40.0, 80)
    exact = equation.evolve(start, 60.0, 1024)
    steps = [32, 64, 128]
    errors = [equation.box.to_field(equation.evolve(start, 60.0, n) - exact).abs().max().item() for n in steps]
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    print(f"order {slope:.3f}, errors {errors}")
    assert slope == pytest.approx(4, abs=0.15) and errors[-1] > 1e-12


def test_made_patterns_lie_between_the_bounds_and_keep_their_names(tmp_path: Path) -> None:
    folder = make(
        tmp_path / "set", 1, progress=False, train_runs=3, valid_runs=1, test_runs=1, cells=24, frames=2,
        duration=100.0, frame_interval=100.0, extent=0.4,
    )  # fmt: skip
    data = load_fields(folder, split="train")
    assert data.names == ("u", "v") and data.grid.boundary == ("periodic", "periodic")
    u, v = data.values[:, 0], data.values[:, 1]
    # The solver on the modes that the cells hold, in a quarter of the steps' length: measured 1.6e-5, times 3.
    fine = GrayScott(PeriodicBox(2, 48, 0.4, degree=3), FEED, KILL)
    state = fine.box.to_modes(initial_state([np.random.default_rng([1, 0, 2])], 48))
    end = resample(fine.box.to_field(fine.evolve(state, 100.0, 400)), 2, 24)[0]
    np.testing.assert_allclose(data.values[4], end, atol=5e-5)
    # Concentrations: u within [0, 1], v not below 0, but for the modes that are left out.
    assert 0 < u.min() and u.max() < 1.02 and -0.02 < v.min() and v.max() < 0.6
    assert u.std() > 0.05 and np.corrcoef(u.ravel(), v.ravel())[0, 1] < -0.5


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    for settings, message in (
        ({"cells": 20, "extent": 0.6}, "at least 16 and at most 0.02 m wide; got 20 on 0.6"),
        ({"feed": -1.0}, "rates and diffusivities must be ≥ 0; got -1.0, 0.06"),
        ({"train_runs": 0}, "runs, frames and times must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            make(tmp_path / "set", **settings)
    assert list(tmp_path.iterdir()) == []
