"""The recipes' solvers against those of other libraries, from the same start: exponax (spectral) and py-pde (stencils).

exponax steps the same truncated equations by its own rules and transforms, so fields agree to the error of the time
step and to float32, in which a recipe stores. py-pde is of second order in the cells, so its error against the recipe's
solver must fall by four when cells double: to the solution of the same equation.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datasets import recipes
from datasets.advection import Waves
from datasets.allen_cahn import AllenCahn
from datasets.burgers import Burgers, initial_velocity
from datasets.gray_scott import GrayScott, initial_state
from datasets.kuramoto_sivashinsky import KuramotoSivashinsky
from datasets.navier_stokes import NavierStokes
from datasets.periodic_box import PeriodicBox
from datasets.random_start import smooth_noise
from datasets.turbulence import initial_vorticity
from datasets.writing import run_generators
from physdiff.data import load_fields

pytestmark = pytest.mark.peers

SEED = 11


def carry(values: np.ndarray, ndim: int, to: np.ndarray, below: int, origin: float = 0.5) -> np.ndarray:
    """A trigonometric polynomial at other places, with modes up to `below` alone, by sums over all points.

    Args:
        values: At n points along each of the last `ndim` axes.
        ndim: Dimension.
        to: Places along each axis, in box lengths.
        below: Largest integer wavenumber that is kept.
        origin: Of the points that `values` are at, in cells.
    """
    n = values.shape[-1]
    angle = 2 * math.pi * (to[:, None] - (np.arange(n) + origin) / n)
    matrix = (1 + 2 * sum(np.cos(k * angle) for k in range(1, below + 1))) / n
    for axis in range(-ndim, 0):
        values = np.moveaxis(np.moveaxis(values, axis, -1) @ matrix.T, -1, axis)
    return values


def centres(n: int) -> np.ndarray:
    return (np.arange(n) + 0.5) / n


# ---- exponax


@dataclass(frozen=True)
class Case:
    """One recipe as it makes a data set, and the same in exponax.

    Attributes:
        ndim: Dimension of the box.
        points: Of the recipe's solver; even and a multiple of degree + 1, so that both keep the same modes.
        degree: Of the equation's products; modes below points/(degree + 1) are kept.
        start: The first run's state at cell centres, shape (channels, *points).
        settings: Of `make`; frames are at `span` and twice that.
        span: Time of the first frame and between the two.
        extent: Length of a side.
        stepper: In `exponax.stepper`.
        equation: Its settings.
        longest: Its step, at most.
        shortened: Name in the recipe's module of its step; None where the flow chooses it; "" where there is none.
        step_error: Of the recipe's own step: largest difference of what is stored, measured, times 3.
        swaps_axes: Whether exponax has the recipe's y as its x.
        order: Of its rule; a linear equation needs none.
    """

    ndim: int
    points: int
    degree: int
    start: Callable[[list[np.random.Generator], int], Any]
    settings: dict[str, Any]
    span: float
    extent: float
    stepper: str
    equation: dict[str, float]
    longest: float
    shortened: str | None
    step_error: float
    swaps_axes: bool = False
    order: dict[str, int] = field(default_factory=lambda: {"order": 4})


def _wave(generators: list[np.random.Generator], points: int) -> np.ndarray:
    return Waves(generators[0], 2, (0.7, 0.7), 1.0).at(0.0, centres(points))


CASES = {
    "advection": Case(
        1, 48, 2, _wave, {"cells": 48, "slowest": 0.7, "fastest": 0.7}, 0.375, 1.0,
        "Advection", {"velocity": 0.7}, 0.375, "", 1.6e-7, order={},
    ),
    "burgers": Case(
        1, 192, 2, lambda g, n: initial_velocity(g[0], n), {"cells": 64, "viscosity": 0.1}, 0.6, 2 * math.pi,
        "Burgers", {"diffusivity": 0.1}, 0.002, "", 1.4e-7,
    ),
    "kuramoto_sivashinsky": Case(
        1, 72, 2, lambda g, n: smooth_noise(g, 1, n, scale=4.0)[0].numpy(), {"cells": 48, "extent": 32.0}, 8.0, 32.0,
        "KuramotoSivashinskyConservative", {}, 0.01, "_LONGEST_STEP", 3.3e-6,
    ),
    "allen_cahn": Case(
        2, 64, 3, lambda g, n: 0.1 * smooth_noise(g, 2, n, scale=8.0)[0].numpy(), {"cells": 32, "diffusivity": 4e-3},
        3.0, 1.0, "reaction.AllenCahn", {"diffusivity": 4e-3}, 0.01, "_STEP", 2.4e-5,
    ),
    "gray_scott": Case(
        2, 64, 3, lambda g, n: initial_state(g, n)[0].numpy(), {"cells": 32, "extent": 0.48}, 60.0, 0.48,
        "reaction.GrayScott", {"feed_rate": 0.037, "kill_rate": 0.06}, 0.25, "_STEP", 4.5e-5,
    ),
    # The velocity that exponax gives a field has the curl −ω, so its advection runs backwards for ω.
    "turbulence": Case(
        2, 48, 2, lambda g, n: initial_vorticity(g, n)[0].numpy(), {"viscosity": 5e-3}, 3.0, 2 * math.pi,
        "NavierStokesVorticity", {"diffusivity": 5e-3, "vorticity_convection_scale": -1.0}, 0.005, None, 8e-4,
    ),
    # Its force varies along y with the sign of a cosine reversed; swapping the axes turns the sense of the flow.
    "forced_turbulence": Case(
        2, 48, 2, lambda g, n: initial_vorticity(g, n)[0].numpy(), {}, 3.0, 2 * math.pi,
        "KolmogorovFlowVorticity",
        {"diffusivity": 1e-2, "drag": -0.05, "injection_mode": 3, "injection_scale": -1.0}, 0.002, None, 2.7e-4,
        swaps_axes=True,
    ),
}  # fmt: skip


def _by_exponax(name: str, start: np.ndarray) -> list[np.ndarray]:
    """Two frames at the points that exponax has, which start at the edge of the box; called in a process of its own."""
    case = CASES[name]
    os.environ.update(JAX_PLATFORMS="cpu", JAX_ENABLE_X64="1")
    exponax, jax = importlib.import_module("exponax"), importlib.import_module("jax")
    stepper = exponax.stepper
    for name in case.stepper.split("."):
        stepper = getattr(stepper, name)
    steps = math.ceil(case.span / case.longest)
    step = stepper(case.ndim, case.extent, case.points, case.span / steps, **case.order, **case.equation)
    advance = jax.jit(exponax.repeat(step, steps))
    first = advance(start)
    return [np.asarray(first), np.asarray(advance(first))]


@pytest.fixture(scope="module")
def exponax() -> Iterator[ProcessPoolExecutor]:
    """A process that may import JAX: its threads and 64-bit switch are then not those of the other tests."""
    if importlib.util.find_spec("exponax") is None:
        pytest.fail("this test compares with 'exponax'; `make test-all` installs it from tests/peers/requirements.txt.")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        yield process


@pytest.mark.parametrize("name", CASES)
def test_stored_frames_are_those_of_exponax(
    name: str, exponax: ProcessPoolExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the error of the recipe's step, and with an eighth of it to float32."""
    case = CASES[name]
    start = np.asarray(case.start(run_generators(SEED, 0, 0, 1), case.points))
    start = start.reshape(-1, *[case.points] * case.ndim)
    kept = math.ceil(case.points / (case.degree + 1)) - 1
    edges = _swapped(carry(start, case.ndim, np.arange(case.points) / case.points, kept), case)
    frames = exponax.submit(_by_exponax, name, edges).result()
    stored = _stored(name, tmp_path / "made")
    cells, below = stored.shape[-1], (stored.shape[-1] - 1) // 2
    expected = [carry(_swapped(x, case), case.ndim, centres(cells), below, origin=0.0) for x in frames]
    moved = np.abs(stored - carry(start, case.ndim, centres(cells), below)).max((*range(1, stored.ndim),)).min()
    errors = [float(np.abs(stored - expected).max())]
    if case.shortened != "":
        _shorten(name, case.shortened, monkeypatch)
        errors.append(float(np.abs(_stored(name, tmp_path / "short") - expected).max()))
    print(f"{name}: largest differences {errors} of fields up to {np.abs(stored).max():.2g} that moved by {moved:.2g}")
    assert errors[0] < case.step_error and moved > 1000 * case.step_error
    # float32 of numbers up to 9: half a unit in the last place is 6e-8 of each, and 8⁴ times less of the step's error.
    assert errors[-1] < 1e-7 * np.abs(stored).max() + case.step_error / 1000


def _swapped(values: np.ndarray, case: Case) -> np.ndarray:
    return np.swapaxes(values, -1, -2) if case.swaps_axes else values


def _stored(name: str, folder: Path) -> np.ndarray:
    """Two frames of a run as the recipe stores them."""
    case = CASES[name]
    runs = {"train_runs": 1, "valid_runs": 1, "test_runs": 1, "frames": 2}
    times = {"duration": case.span, "frame_interval": case.span}
    recipes()[name].make(folder, SEED, progress=False, **times, **runs, **case.settings)
    return load_fields(folder, split="train").values.astype(np.float64)


def _shorten(name: str, step: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if step is None:
        stable = NavierStokes.stable_steps
        monkeypatch.setattr(NavierStokes, "stable_steps", lambda *args: 8 * stable(*args))
    else:
        module = importlib.import_module(f"datasets.{name}")
        monkeypatch.setattr(module, step, getattr(module, step) / 8)


# ---- py-pde


@dataclass(frozen=True)
class Stencil:
    """One equation in words that py-pde reads, and how the recipe's solver advances the same start.

    Attributes:
        equations: Right-hand side of each field.
        ndim: Dimension.
        extent: Length of a side.
        points: Of the recipe's solver.
        start: State at its cell centres, shape (fields, *points).
        evolve: The recipe's solver, from such a state to one.
        time: How long.
        cells: The coarser of py-pde's two grids.
        method: Of scipy's rules, by which py-pde steps in time.
    """

    equations: dict[str, str]
    ndim: int
    extent: float
    points: int
    start: Callable[[int], np.ndarray]
    evolve: Callable[[np.ndarray, float], np.ndarray]
    time: float
    cells: int
    method: str = "RK45"


def _few_waves(ndim: int, points: int) -> np.ndarray:
    return smooth_noise(run_generators(SEED, 0, 0, 1), ndim, points, scale=1.2).numpy()


def _allen_cahn(state: np.ndarray, time: float) -> np.ndarray:
    solver = AllenCahn(PeriodicBox(2, state.shape[-1], 1.0, degree=3), 1e-2, 1.5)
    return solver.box.to_field(solver.evolve(solver.box.to_modes(torch.from_numpy(state)), time, 200)).numpy()


def _gray_scott(state: np.ndarray, time: float) -> np.ndarray:
    solver = GrayScott(PeriodicBox(2, state.shape[-1], 0.3, degree=3), 0.037, 0.06)
    modes = solver.box.to_modes(torch.from_numpy(state).unsqueeze(0))
    return solver.box.to_field(solver.evolve(modes, time, 100))[0].numpy()


def _kuramoto_sivashinsky(state: np.ndarray, time: float) -> np.ndarray:
    solver = KuramotoSivashinsky(PeriodicBox(1, state.shape[-1], 22.0))
    return solver.box.to_field(solver.evolve(solver.box.to_modes(torch.from_numpy(state)), time, 400)).numpy()


def _burgers(state: np.ndarray, time: float) -> np.ndarray:
    solver = Burgers(state.shape[-1], 0.2)
    return solver.to_field(solver.evolve(solver.to_modes(state), time, 400))


STENCILS = {
    "allen_cahn": Stencil(
        {"u": "0.01 * laplace(u) + 1.5 * (u - u**3)"}, 2, 1.0, 64, lambda n: 0.5 * _few_waves(2, n),
        _allen_cahn, 1.0, 32,
    ),
    "gray_scott": Stencil(
        {"u": "2e-5 * laplace(u) - u * v**2 + 0.037 * (1 - u)", "v": "1e-5 * laplace(v) + u * v**2 - 0.097 * v"},
        2, 0.3, 64, lambda n: np.concatenate([0.6 - 0.1 * _few_waves(2, n), 0.25 + 0.06 * _few_waves(2, n)]),
        _gray_scott, 60.0, 32,
    ),
    "kuramoto_sivashinsky": Stencil(
        {"u": "-u * d_dx(u) - laplace(u) - laplace(laplace(u))"}, 1, 22.0, 96, lambda n: _few_waves(1, n),
        _kuramoto_sivashinsky, 4.0, 64, method="LSODA",
    ),
    "burgers": Stencil(
        {"u": "-u * d_dx(u) + 0.2 * laplace(u)"}, 1, 2 * math.pi, 192, lambda n: _few_waves(1, n), _burgers, 1.0, 64
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STENCILS)
def test_stencils_of_py_pde_converge_to_the_solver(name: str, pde: Any) -> None:
    case = STENCILS[name]
    start = case.start(case.points)
    end = case.evolve(start, case.time)
    below = (min(case.points, case.cells) - 1) // 2
    errors = []
    for cells in (case.cells, 2 * case.cells):
        grid = pde.CartesianGrid([[0, case.extent]] * case.ndim, [cells] * case.ndim, periodic=True)
        first = carry(start, case.ndim, centres(cells), below)
        state = pde.FieldCollection([pde.ScalarField(grid, x) for x in first], labels=list(case.equations))
        found = pde.PDE(case.equations).solve(
            state, case.time, tracker=None, backend="numpy", solver="scipy", method=case.method, rtol=1e-6, atol=1e-8
        )
        expected = carry(end, case.ndim, centres(cells), below)
        errors.append(math.sqrt(np.mean((found.data - expected) ** 2) / np.mean((expected - first) ** 2)))
    order = math.log2(errors[0] / errors[1])
    print(f"{name}: relative errors {errors[0]:.1e} and {errors[1]:.1e}, order {order:.3f}")
    assert errors[1] < 0.02
    assert order == pytest.approx(2, abs=0.15)
