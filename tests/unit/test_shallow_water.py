"""The shallow-water solver against exact waves, jets and conserved quantities, and the data set it makes."""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from datasets.periodic_box import PeriodicBox, resample
from datasets.shallow_water import ShallowWater, initial_state, make
from physdiff.data import load_fields


def water(points: int, coriolis: float = 0.0, viscosity: float = 0.0, gravity: float = 2.0) -> ShallowWater:
    return ShallowWater(PeriodicBox(2, points), gravity, coriolis, viscosity)


def places(points: int) -> tuple[Tensor, Tensor]:
    x = (torch.arange(points, dtype=torch.float64) + 0.5) * (2 * math.pi / points)
    return torch.meshgrid(x, x, indexing="ij")  # pyright: ignore[reportReturnType]


def state_of(solver: ShallowWater, h: Tensor, u: Tensor, v: Tensor) -> Tensor:
    return solver.box.to_modes(torch.stack([h, u, v]))


def rough(solver: ShallowWater, runs: int = 1) -> Tensor:
    """Water of depth 1 with bumps of a tenth, and a flow of a fifth of a wave's speed."""
    return initial_state([np.random.default_rng([1, i]) for i in range(runs)], solver, 1.0, 0.3, 0.1)


@pytest.mark.parametrize("coriolis", [0.0, 1.5, -0.7])
def test_small_waves_follow_the_poincare_dispersion(coriolis: float) -> None:
    """ω² = f² + gH|k|²: a travelling wave (2, 1) of one part in 10⁷, after 3 s, and the vortex that stands still."""
    solver, (x, y), depth, small, time = water(24, coriolis), places(24), 0.8, 1e-7, 3.0
    k, m = 2.0, 1.0
    k2 = k**2 + m**2
    omega = math.sqrt(coriolis**2 + 2.0 * depth * k2)

    def wave(t: float) -> Tensor:
        phase = k * x + m * y - omega * t
        # From h_t = −H∇·u and u_t − fv = −g h_x: u = (ωk cos − ..., with the quarter turn of f) g/(ω² − f²).
        factor = 2.0 * small / (omega**2 - coriolis**2)
        u = factor * (omega * k * torch.cos(phase) - coriolis * m * torch.sin(phase))
        v = factor * (omega * m * torch.cos(phase) + coriolis * k * torch.sin(phase))
        return torch.stack([depth + small * torch.cos(phase), u, v])

    found = solver.box.to_field(solver.evolve(solver.box.to_modes(wave(0.0)), time, 400))
    error = (found - wave(time)).abs().max().item() / small
    print("relative error", error)
    # Products of the wave with itself, 1e-7, and the time step, 1e-8: measured 1.4e-6, times 3.
    assert error < 4.2e-6


def test_a_balanced_jet_stands_still() -> None:
    """f u = −g ∂h/∂y along one axis is an exact steady state of the nonlinear equations, whatever its strength."""
    for axis in (0, 1):
        solver, across = water(24, 1.2), places(24)[1 - axis]
        h = 1.5 + 0.4 * torch.cos(across) + 0.1 * torch.sin(3 * across)
        slope = -0.4 * torch.sin(across) + 0.3 * torch.cos(3 * across)
        speed = slope * 2.0 / 1.2 * (-1 if axis == 0 else 1)
        zero = torch.zeros_like(h)
        start = state_of(solver, h, *((speed, zero) if axis == 0 else (zero, speed)))
        tendency = solver.box.to_field(solver.tendency(start))
        # Of terms of order 1: measured 3.9e-15, times 3.
        print("tendency", tendency.abs().max())
        assert tendency.abs().max() < 1.2e-14
        end = solver.box.to_field(solver.evolve(start, 1.0, 50))
        torch.testing.assert_close(end, solver.box.to_field(start), atol=1e-13, rtol=0)


def test_a_steepening_wave_keeps_its_invariant() -> None:
    """Riemann: with u = 2√(gh) − 2√(gH) each value of h moves at u + √(gh). To the last third before it breaks."""
    gravity, depth, time = 2.0, 1.0, 1.0
    rest = math.sqrt(gravity * depth)

    def start(x: np.ndarray) -> np.ndarray:
        return depth * (1 + 0.15 * np.sin(x) + 0.03 * np.cos(2 * x))

    def speed(h: np.ndarray) -> np.ndarray:
        return 3 * np.sqrt(gravity * h) - 2 * rest

    for axis in (0, 1):
        solver = water(120, gravity=gravity)
        x = (np.arange(120) + 0.5) * (2 * math.pi / 120)
        origin = x.copy()
        for _ in range(200):  # x = origin + c(origin) t, by Newton's rule with a difference for the slope
            value = origin + speed(start(origin)) * time - x
            slope = 1 + (speed(start(origin + 1e-6)) - speed(start(origin - 1e-6))) / 2e-6 * time
            origin = origin - value / slope
        assert np.abs(origin + speed(start(origin)) * time - x).max() < 1e-12 and slope.min() < 0.7
        h = torch.from_numpy(np.broadcast_to(start(x)[:, None], (120, 120)).copy())
        u = 2 * torch.sqrt(gravity * h) - 2 * rest
        if axis == 1:
            h, u = h.T, u.T
        begin = state_of(solver, h, *((u, torch.zeros_like(u)) if axis == 0 else (torch.zeros_like(u), u)))
        end = solver.box.to_field(solver.evolve(begin, time, 120))
        found = (end[0] if axis == 0 else end[0].T)[:, 0].numpy()
        error = np.abs(found - start(origin)).max()
        print("error", error, "steepening", 1 / slope.min())
        assert error < 1.3e-8  # of 120 steps: measured 4.1e-9, times 3


def test_mass_is_kept_to_rounding_and_energy_to_the_order_of_the_time_step() -> None:
    solver = water(36, 1.3)
    start = rough(solver, 2)
    energy, errors = solver.energy(start), []
    for steps in (160, 320, 640):
        end = solver.evolve(start, 4.0, steps)
        errors.append((solver.energy(end) / energy - 1).abs().max().item())
        mass = (end[:, 0, 0, 0] / start[:, 0, 0, 0] - 1).abs().max().item()
        assert mass < 1e-15
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    print("energy defects", errors, "slopes", slopes)
    # RK4 loses a wave's energy as (ω dt)⁶/72 a step: order five. A flaw in space would not fall at all.
    # Measured 2.2e-8 at last, times 3.
    assert (solver.box.to_field(end - start)).abs().max() > 0.1
    assert errors[-1] < 6.6e-8 and np.abs(slopes - 5).max() < 0.15


def test_energy_is_kept_where_the_field_is_not_resolved() -> None:
    """White noise up to the last mode: the rate of the discrete energy is still zero to rounding."""
    solver, rng = water(18, 0.9), np.random.default_rng(3)
    noise = torch.from_numpy(rng.standard_normal((3, 18, 18)))
    state = solver.box.to_modes(0.15 * noise + torch.tensor([1.5, 0.0, 0.0], dtype=torch.float64).reshape(3, 1, 1))
    h, u, v = solver.box.to_field(state)
    ht, ut, vt = solver.box.to_field(solver.tendency(state))
    terms = torch.stack([(0.5 * (u**2 + v**2) + 2.0 * h) * ht, h * u * ut, h * v * vt])
    rate, size = terms.sum().abs().item(), terms.abs().sum().item()
    print("rate", rate, "of", size)
    assert h.min() > 0.5 and size > 100 and rate < 1e-14 * size


def test_viscosity_damps_a_shear_flow_at_its_rate() -> None:
    """sin 3y along x, and sin 3x along y, over a level surface; so weak that its own head does not lift the water."""
    solver, small = water(24, viscosity=0.02), 1e-7
    for axis in (0, 1):
        shear = small * torch.sin(3 * places(24)[1 - axis])
        level, zero = torch.ones_like(shear), torch.zeros_like(shear)
        start = state_of(solver, level, *((shear, zero) if axis == 0 else (zero, shear)))
        end = solver.box.to_field(solver.evolve(start, 2.0, 100))[1 + axis]
        torch.testing.assert_close(end, shear * math.exp(-0.02 * 9 * 2.0), atol=3e-7 * small, rtol=0)


@pytest.mark.parametrize(("coriolis", "viscosity"), [(0.0, 0.0), (1.3, 0.0), (1.3, 0.01)])
def test_time_stepping_is_of_order_four(coriolis: float, viscosity: float) -> None:
    solver = water(24, coriolis, viscosity)
    start = rough(solver)
    ends = [solver.box.to_field(solver.evolve(start, 1.0, steps)) for steps in (48, 96, 192, 576)]
    errors = [(end - ends[-1]).abs().max().item() for end in ends[:-1]]
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    print("errors", errors, "slopes", slopes)
    assert errors[0] > 1e-7 and np.abs(slopes - 4).max() < 0.15


def test_the_start_is_a_balanced_flow_under_a_rough_surface() -> None:
    runs = 400
    generators = [[np.random.default_rng([2, i]) for i in range(runs)] for _ in range(2)]
    solver = water(36, 0.6)
    flow = initial_state(generators[0], solver, 50.0, 0.3, 0.0)
    h, u, v = solver.box.to_field(flow).unbind(1)
    torch.testing.assert_close(h.mean((1, 2)), torch.full((runs,), 50.0, dtype=torch.float64), rtol=1e-14, atol=0)
    # Geostrophic balance: f u = −g ∂h/∂y, f v = g ∂h/∂x.
    slope_x, slope_y = (solver.box.to_field(solver.box.derivative(flow[:, 0], axis)) for axis in (0, 1))
    # Rounding of a depth of 50 m, differentiated: measured 1.9e-13, times 3.
    torch.testing.assert_close(0.6 * u, -2.0 * slope_y, atol=5.7e-13, rtol=0)
    torch.testing.assert_close(0.6 * v, 2.0 * slope_x, atol=5.7e-13, rtol=0)
    bumps = solver.box.to_field(initial_state(generators[1], solver, 50.0, 0.0, 0.1))
    assert bumps[:, 1:].abs().max() == 0
    for name, field, expected in (("u", u, 0.09), ("v", v, 0.09), ("bumps", bumps[:, 0] / 50 - 1, 0.01)):
        variance = field.square().mean((1, 2)).numpy()
        error = variance.std() / math.sqrt(runs)
        print(f"variance of {name} {variance.mean():.5f} ± {error:.5f}")
        assert abs(variance.mean() - expected) < 4 * error
    # Power of (2, 0) and (1, 4), by hand exp(−k²/18): ratio e^{13/18}, each of two squares a run. Of u² + v² the same.
    for fields in (bumps[:, :1] - 50, torch.stack([u, v], 1)):
        power = (torch.fft.fft2(fields).abs() ** 2).sum(1)
        ratio = ((power[:, 2, 0] + power[:, 0, 2]).sum() / (power[:, 1, 4] + power[:, 4, 1]).sum()).item()
        print("ratio", ratio, "expected", math.exp(13 / 18))
        assert ratio == pytest.approx(math.exp(13 / 18), rel=4 * math.sqrt(2 / (2 * runs)))
    other = water(60, 0.6)
    same = initial_state([np.random.default_rng([2, 0])], other, 50.0, 0.3, 0.0)
    torch.testing.assert_close(resample(other.box.to_field(same), 2, 36)[0, 0], h[0], atol=1e-12, rtol=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(
        tmp_path_factory.mktemp("shallow_water") / "set", 3, progress=False,
        train_runs=2, valid_runs=1, test_runs=3, cells=24, frames=2, frame_interval=3600.0, duration=1800.0,
    )  # fmt: skip


def test_files_hold_the_runs(folder: Path) -> None:
    data = load_fields(folder, split="train")
    assert data.values.shape == (4, 3, 24, 24) and data.values.dtype == np.float32
    assert data.names == ("depth", "velocity_x", "velocity_y") and data.units == ("m", "m/s", "m/s")
    assert data.grid.boundary == ("periodic", "periodic") and data.grid.extent == pytest.approx((2e6, 2e6))
    with h5py.File(folder / "data" / "test" / "shallow_water.hdf5") as file:
        np.testing.assert_array_equal(file["dimensions/time"][()], [1800.0, 5400.0])
        assert file["t1_fields/velocity"].shape == (3, 2, 24, 24, 2)
        stored = np.stack([file["t0_fields/depth"][2, 1], *np.moveaxis(file["t1_fields/velocity"][2, 1], -1, 0)])
        assert file.attrs["coriolis"] == 1e-4 and file.attrs["gravity"] == 9.81 and file.attrs["seed"] == 3
    # The same run by steps of a quarter.
    solver = ShallowWater(PeriodicBox(2, 36, 2e6), 9.81, 1e-4, 2e4)
    start = initial_state([np.random.default_rng([3, 2, 2])], solver, 100.0, 4.0, 0.02)
    state = solver.evolve(start, 5400.0, 80)
    exact = resample(solver.box.to_field(state)[0], 2, 24).numpy()
    begun = resample(solver.box.to_field(start)[0], 2, 24).numpy()
    error = np.abs(stored - exact).max((1, 2))
    print("errors", error)
    # The time step: measured 1.4e-3 m and 3.6e-4 m/s, times 3.
    assert error[0] < 4.3e-3 and error[1:].max() < 1.1e-3
    assert stored[0].std() > 3 and stored[1].std() > 1 and np.abs(exact - begun).max() > 3


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    for cells in (25, 22):
        with pytest.raises(ValueError, match=f"even and at least 24, to hold the initial field; got {cells}"):
            make(tmp_path / "set", cells=cells)
    with pytest.raises(ValueError, match=r"a roughness from 0 to 1, not both 0; got 100.0, 0.0, 0.0"):
        make(tmp_path / "set", speed=0.0, roughness=0.0)
    with pytest.raises(ValueError, match=r"ground starts dry at speed 30.0 m/s and roughness 0.02 over 100.0 m"):
        make(tmp_path / "set", progress=False, speed=30.0)
    with pytest.raises(ValueError, match=r"gravity > 0, viscosity ≥ 0 and a finite Coriolis parameter; got 2, 9.8"):
        make(tmp_path / "set", gravity=9.8, viscosity=-1.0)
    with pytest.raises(ValueError, match=r"runs, frames and times must be positive; got .*'test': 0"):
        make(tmp_path / "set", test_runs=0)
    solver = water(24)
    with pytest.raises(ValueError, match="overflowed with 3 steps of 10 s; take a lower `speed` or `roughness`"):
        solver.evolve(rough(solver), 30.0, 3)
