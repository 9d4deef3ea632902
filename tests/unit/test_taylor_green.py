"""The three-dimensional flow solver against exact flows and balances, and the data set it makes."""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from datasets.navier_stokes import NavierStokes
from datasets.periodic_box import PeriodicBox, resample
from datasets.taylor_green import Incompressible, initial_velocity, make
from physdiff.data import load_fields


def cube(points: int) -> tuple[Tensor, ...]:
    x = (torch.arange(points, dtype=torch.float64) + 0.5) * (2 * math.pi / points)
    return torch.meshgrid(x, x, x, indexing="ij")


def flow(points: int, viscosity: float) -> Incompressible:
    return Incompressible(PeriodicBox(3, points), viscosity)


def disturbed(solver: Incompressible, runs: int = 1) -> Tensor:
    return initial_velocity([np.random.default_rng([1, i]) for i in range(runs)], solver, 1.0, 0.2)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_flat_vortices_of_taylor_and_green_decay_exactly(axis: int) -> None:
    """(sin x cos y, −cos x sin y, 0) e^{−2νt} in each plane of the cube."""
    solver, t = flow(16, 0.05), 1.7
    places = cube(16)
    x, y = places[(axis + 1) % 3], places[(axis + 2) % 3]
    velocity = torch.zeros(3, 16, 16, 16, dtype=torch.float64)
    velocity[(axis + 1) % 3], velocity[(axis + 2) % 3] = torch.sin(x) * torch.cos(y), -torch.cos(x) * torch.sin(y)
    end = solver.box.to_field(solver.evolve(solver.box.to_modes(velocity), t, 20))
    # Rounding of 20 steps of numbers of order 1: measured 2.1e-15, times 3.
    print("error", (end - velocity * math.exp(-2 * 0.05 * t)).abs().max())
    torch.testing.assert_close(end, velocity * math.exp(-2 * 0.05 * t), atol=6.4e-15, rtol=0)


def test_an_abc_flow_decays_exactly_and_is_carried_by_a_wind() -> None:
    """Beltrami: ∇ × u = 2u, so that the flow does not push itself; with a mean wind it moves with it."""
    solver, t, (x, y, z) = flow(18, 0.04), 1.3, cube(18)
    wind = torch.tensor([0.7, -0.4, 0.2], dtype=torch.float64)

    def abc(time: float) -> Tensor:
        a, b, c = 2 * (x - wind[0] * time), 2 * (y - wind[1] * time), 2 * (z - wind[2] * time)
        waves = torch.stack(
            [
                1.0 * torch.sin(c) + 0.5 * torch.cos(b),
                0.8 * torch.sin(a) + 1.0 * torch.cos(c),
                0.5 * torch.sin(b) + 0.8 * torch.cos(a),
            ]
        )
        return wind.reshape(3, 1, 1, 1) + waves * math.exp(-0.04 * 4 * time)

    start = solver.box.to_modes(abc(0.0))
    ends = [solver.box.to_field(solver.evolve(start, t, steps)) for steps in (20, 40, 80)]
    errors = [(end - abc(t)).abs().max().item() for end in ends]
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    print("errors", errors, "slopes", slopes)
    assert errors[-1] < 8.2e-9 and np.abs(slopes - 4).max() < 0.15


def test_a_flow_that_does_not_depend_on_height_is_the_flat_solver_s() -> None:
    """Velocity (∂ψ/∂y, −∂ψ/∂x, w(x, y)): the plane part is that of `navier_stokes`, w a passive tracer of it."""
    points, flat, solver = 24, NavierStokes(24, 0.02), flow(24, 0.02)
    rng = np.random.default_rng(5)
    vorticity = torch.zeros(24, 24, dtype=torch.float64)
    x, y, _ = (c[:, :, 0] for c in cube(points))
    for kx, ky in ((1, 0), (1, 2), (-2, 1), (3, 1), (0, 2)):
        vorticity += rng.normal() * torch.cos(kx * x + ky * y + rng.uniform(0, 6))
    modes = flat.to_modes(vorticity)
    velocity = torch.cat([flat.velocity(modes), vorticity.unsqueeze(0)])  # w = ω obeys the same equation
    start = solver.box.to_modes(velocity.unsqueeze(-1).expand(3, 24, 24, 24))
    end = solver.box.to_field(solver.evolve(start, 0.8, 60))
    modes = flat.evolve(modes, 0.8, 60)
    expected = torch.cat([flat.velocity(modes), flat.to_field(modes).unsqueeze(0)])
    assert (expected - velocity).abs().max() > 0.5
    # Two formulae of one truncated equation, with the same steps: rounding, measured 6.9e-15, times 3.
    print("difference", (end - expected.unsqueeze(-1)).abs().max())
    torch.testing.assert_close(end, expected.unsqueeze(-1).expand(3, 24, 24, 24), atol=2.1e-14, rtol=0)


def test_advection_is_free_of_aliasing() -> None:
    """−(u·∇)u on a grid twice as fine, which holds every product, made free of divergence by the inverse of −Δ."""
    n, fine = 12, 24
    solver = flow(n, 0.0)
    rng = np.random.default_rng(0)
    state = solver.project(solver.box.to_modes(torch.from_numpy(rng.standard_normal((3, n, n, n)))))
    k = np.fft.fftfreq(n, 1 / n).astype(int)
    large = np.zeros((3, fine, fine, fine), dtype=complex)
    large[np.ix_(range(3), k, k, k)] = 8 * np.fft.fftn(solver.box.to_field(state).numpy(), axes=(1, 2, 3))
    waves = np.meshgrid(*[np.fft.fftfreq(fine, 1 / fine)] * 3, indexing="ij")

    def back(modes: np.ndarray) -> np.ndarray:
        return np.fft.ifftn(modes, axes=(-3, -2, -1)).real

    u = back(large)
    force = np.fft.fftn(-np.sum([u[i] * back(1j * waves[i] * large) for i in range(3)], axis=0), axes=(1, 2, 3))
    k2 = np.maximum(np.sum(np.square(waves), axis=0), 1.0)
    force = force - np.stack(waves) * (np.sum(np.stack(waves) * force, axis=0) / k2)
    expected = force[np.ix_(range(3), k, k, k)][..., : n // 2 + 1] / 8
    found = solver.advection(state)
    inside = torch.from_numpy(expected.copy()) * solver.box.kept
    scale = inside.abs().max().item()
    print("difference", (found - inside).abs().max() / scale)
    # Rounding: measured 8.7e-16, times 3.
    torch.testing.assert_close(found, inside, atol=2.6e-15 * scale, rtol=0)


def test_the_flow_stays_free_of_divergence() -> None:
    solver = flow(24, 0.01)
    start = disturbed(solver)
    end = solver.evolve(start, 2.0, 60)
    for state in (start, end):
        divergence = solver.box.to_field(torch.stack([solver.box.derivative(state[:, i], i) for i in range(3)]).sum(0))
        largest = divergence.abs().max().item() / solver.box.to_field(solver.curl(state)).abs().max().item()
        print("divergence, of the vorticity", largest)
        assert largest < 1e-14


def test_energy_is_lost_at_twice_viscosity_times_enstrophy() -> None:
    """E(0) − E(t) = 2ν∫Ω dt by Simpson's rule, through the growth of the vorticity."""
    solver, intervals = flow(30, 0.02), 24
    state = disturbed(solver)
    energies, enstrophies = [solver.energy(state).item()], [solver.enstrophy(state).item()]
    for _ in range(intervals):
        state = solver.evolve(state, 3.0 / intervals, 4)
        energies.append(solver.energy(state).item())
        enstrophies.append(solver.enstrophy(state).item())
    weights = np.array([1, *[4, 2] * (intervals // 2 - 1), 4, 1]) * 3.0 / intervals / 3
    lost, dissipated = energies[0] - energies[-1], 2 * 0.02 * float(weights @ enstrophies)
    # Simpson's rule at an eighth of a second: measured 4.3e-6, times 3.
    print("lost", lost, "defect", dissipated / lost - 1)
    assert lost > 0.3 * energies[0] and abs(dissipated / lost - 1) < 1.3e-5


def test_without_viscosity_energy_and_helicity_are_kept() -> None:
    solver = flow(24, 0.0)
    start = disturbed(solver, 2)

    def helicity(state: Tensor) -> Tensor:
        return (solver.box.to_field(state) * solver.box.to_field(solver.curl(state))).sum(1).mean((1, 2, 3))

    end = solver.evolve(start, 1.5, 100)
    assert (solver.box.to_field(end) - solver.box.to_field(start)).abs().max() > 0.5
    energy = (solver.energy(end) / solver.energy(start) - 1).abs().max().item()
    spiral = ((helicity(end) - helicity(start)) / helicity(start)).abs().max().item()
    print("defects", energy, spiral)
    # Of RK4 alone: measured 1.4e-9 and 3.1e-9, times 3.
    assert energy < 4.2e-9 and spiral < 1e-8


@pytest.mark.parametrize("viscosity", [0.0, 0.02])
def test_time_stepping_is_of_order_four(viscosity: float) -> None:
    solver = flow(18, viscosity)
    start = disturbed(solver)
    ends = [solver.box.to_field(solver.evolve(start, 1.0, steps)) for steps in (16, 32, 64, 256)]
    errors = [(end - ends[-1]).abs().max().item() for end in ends[:-1]]
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    print("errors", errors, "slopes", slopes)
    assert errors[0] > 1e-6 and np.abs(slopes - 4).max() < 0.15


def test_the_start_is_vortices_at_a_random_place_and_a_gaussian_flow() -> None:
    solver = flow(18, 0.0)
    vortices = solver.box.to_field(initial_velocity([np.random.default_rng(3)], solver, 2.0, 0.0))[0]
    shift = np.random.default_rng(3).uniform(0, 2 * math.pi, 3)
    x, y, z = (c - s for c, s in zip(cube(18), shift, strict=True))
    exact = [torch.sin(x) * torch.cos(y) * torch.cos(z), -torch.cos(x) * torch.sin(y) * torch.cos(z), 0 * x]
    torch.testing.assert_close(vortices, 2 * torch.stack(exact), atol=1e-14, rtol=0)
    modes = initial_velocity([np.random.default_rng([4, i]) for i in range(300)], solver, 0.0, 0.3)
    variance = solver.box.to_field(modes).square().mean((2, 3, 4)).numpy()
    error = variance.std(0) / math.sqrt(300)
    print("variances", variance.mean(0), "±", error)
    assert (np.abs(variance.mean(0) - 0.09) < 4 * error).all()
    # Power of (0, 0, 1) and (0, 2, 2), by hand |k|² e^{−k²/8}: of two transverse components of 300 complex numbers.
    power = (modes.abs() ** 2).sum(1).mean(0)
    ratio, expected = (power[0, 0, 1] / power[0, 2, 2]).item(), 1 / 8 * math.exp(7 / 8)
    print("ratio", ratio, "expected", expected)
    assert ratio == pytest.approx(expected, rel=4 * math.sqrt(2 / 600))
    other = flow(24, 0.0)
    same = other.box.to_field(initial_velocity([np.random.default_rng([4, 0])], other, 0.0, 0.3))
    torch.testing.assert_close(resample(same, 3, 18), solver.box.to_field(modes[:1]), atol=1e-14, rtol=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(
        tmp_path_factory.mktemp("taylor_green") / "set", 3, progress=False,
        train_runs=2, valid_runs=1, test_runs=2, cells=16, frames=2, frame_interval=0.5, duration=0.5, viscosity=0.05,
    )  # fmt: skip


def test_files_hold_the_runs(folder: Path) -> None:
    data = load_fields(folder, split="train")
    assert data.values.shape == (4, 3, 16, 16, 16) and data.values.dtype == np.float32
    assert data.names == ("velocity_x", "velocity_y", "velocity_z") and set(data.units) == {"m/s"}
    assert data.grid.boundary == ("periodic",) * 3 and data.grid.extent == pytest.approx((2 * math.pi,) * 3)
    with h5py.File(folder / "data" / "test" / "taylor_green.hdf5") as file:
        np.testing.assert_array_equal(file["dimensions/time"][()], [0.5, 1.0])
        assert file["t1_fields/velocity"].shape == (2, 2, 16, 16, 16, 3)
        stored = np.moveaxis(file["t1_fields/velocity"][1, 1], -1, 0)
        assert file.attrs["viscosity"] == 0.05 and file.attrs["seed"] == 3
    # The same run on the same modes, by far shorter steps.
    solver = flow(24, 0.05)
    state = solver.evolve(initial_velocity([np.random.default_rng([3, 2, 1])], solver, 1.0, 0.2), 1.0, 64)
    exact = resample(solver.box.to_field(state)[0], 3, 16).numpy()
    error = np.abs(stored - exact).max()
    print("error", error)
    # The time step: measured 3.5e-5 m/s, times 3.
    assert error < 1.1e-4 and stored[2].std() > 0.1


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    for cells in (17, 14):
        with pytest.raises(ValueError, match=f"even and at least 16, to hold the initial flow; got {cells}"):
            make(tmp_path / "set", cells=cells)
    with pytest.raises(ValueError, match="three dimensions and a viscosity ≥ 0; got 3 and -1"):
        make(tmp_path / "set", viscosity=-1.0)
    with pytest.raises(ValueError, match=r"amplitude and perturbation must be ≥ 0, one of them > 0; got 0.0, 0.0"):
        make(tmp_path / "set", amplitude=0.0, perturbation=0.0)
    with pytest.raises(ValueError, match=r"runs, frames and times must be positive; got .*'test': 0"):
        make(tmp_path / "set", test_runs=0)
    solver = flow(12, 0.0)
    with pytest.raises(ValueError, match="overflowed with 60 steps of 10 s; take more steps"):
        solver.evolve(100 * disturbed(solver), 600.0, 60)
