"""Runs of the recipe `equation`, by py-pde, against exact solutions of its stencils and a spectral solver."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from datasets import recipes
from datasets.etdrk4 import evolve
from datasets.expressions import FUNCTIONS
from datasets.periodic_box import PeriodicBox
from datasets.py_pde_solver import Equation
from physdiff.basis import SpectralBasis
from physdiff.data import FieldData, load_fields
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid

pytestmark = pytest.mark.peers

EXTENT, CELLS = 3.0, 16
H = EXTENT / CELLS
RUNS = {"train_runs": 2, "valid_runs": 1, "test_runs": 1, "frames": 3, "duration": 0.0}
SIDES = ["periodic", "neumann", "dirichlet"]  # one after the other, as py-pde takes the last two for the same
# Of each kind of side a wave that it lets be, with its wavenumber.
WAVES = {
    "periodic": ("cos(4*pi*{x}/3)", 4 * math.pi / 3), "neumann": ("cos(pi*{x})", math.pi),
    "dirichlet": ("sin(pi*{x})", math.pi),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _installed(pde: Any) -> None:
    """py-pde, or a message that says where it comes from."""


def make(folder: Path, **settings: Any) -> tuple[FieldData, dict[str, np.ndarray]]:
    """Training runs, and the numbers that are stored with them."""
    shared = {**RUNS, "cells": (CELLS,), "extent": EXTENT, "amplitude": 0.0, "tolerance": 1e-9}
    made = recipes()["equation"].make(folder, 3, progress=False, **{**shared, **settings})
    with h5py.File(made / "data" / "train" / "equation.hdf5") as file:
        numbers = {name: np.asarray(value) for name, value in file["scalars"].items()}  # pyright: ignore
    return load_fields(made, split="train"), numbers


def decay(q: float, h: float = H) -> float:
    """Eigenvalue of the three-point Laplacian of a wave."""
    return -((2 / h * math.sin(q * h / 2)) ** 2)


@pytest.mark.parametrize("side", SIDES)
def test_heat_decays_as_the_stencil_says(tmp_path: Path, side: str) -> None:
    """Each run by its own diffusivity; largest error seen 6e-8, the rounding of what is stored."""
    wave, q = WAVES[side]
    data, numbers = make(
        tmp_path / "set", rhs={"c": "k*laplace(c)"}, constants={"k": [0.1, 0.3]}, boundary=side,
        mean=wave.format(x="x"), frame_interval=0.4,
    )  # fmt: skip
    assert data.grid.boundary == (side,) and np.all((numbers["k"] >= 0.1) & (numbers["k"] <= 0.3))
    assert numbers["k"][0] != numbers["k"][1] and data.time.tolist() == pytest.approx([0, 0.4, 0.8] * 2)
    start = {"sin": np.sin, "cos": np.cos}[wave[:3]](q * data.grid.coordinate(0))
    expected = start * np.exp(np.repeat(numbers["k"], 3) * decay(q) * data.time)[:, None]
    np.testing.assert_allclose(data.values[:, 0], expected, atol=3e-7)


@pytest.mark.parametrize("side", SIDES)
def test_a_flux_meets_the_same_sides(tmp_path: Path, side: str) -> None:
    """divergence(gradient) is a stencil of two cells: a wave decays by (sin qh/h)², between walls too."""
    wave, q = WAVES[side]
    data, _ = make(
        tmp_path / "set", rhs={"c": "divergence(0.2*gradient(c))"}, boundary=side, mean=wave.format(x="x"),
        frame_interval=0.4,
    )  # fmt: skip
    expected = data.values[:1, 0] * np.exp(-0.2 * (math.sin(q * H) / H) ** 2 * data.time)[:, None]
    np.testing.assert_allclose(data.values[:, 0], expected, atol=3e-7)


def test_each_axis_has_its_own_side_length_and_cells(tmp_path: Path) -> None:
    data, _ = make(
        tmp_path / "set", rhs={"c": "laplace(c)/10"}, cells=(CELLS, 8), extent=(EXTENT, 2.0),
        boundary=("dirichlet", "periodic"), mean="sin(pi*x)*cos(pi*y)", frame_interval=0.5,
    )  # fmt: skip
    assert (data.grid.boundary, data.grid.extent) == (("dirichlet", "periodic"), (EXTENT, 2.0))
    x, y = (data.grid.coordinate(axis) for axis in range(2))
    rate = (decay(math.pi) + decay(math.pi, 2.0 / 8)) / 10
    expected = np.exp(rate * data.time)[:, None, None] * np.sin(math.pi * x)[:, None] * np.cos(math.pi * y)
    np.testing.assert_allclose(data.values[:, 0], expected, atol=3e-7)


def test_a_wave_is_carried_along(tmp_path: Path) -> None:
    data, _ = make(
        tmp_path / "set", rhs={"c": "-a*d_dx(c)"}, constants={"a": 0.7}, mean="cos(4*pi*x/3)", frame_interval=0.4
    )
    q = 4 * math.pi / 3
    phase = q * data.grid.coordinate(0) - 0.7 * math.sin(q * H) / H * data.time[:, None]
    np.testing.assert_allclose(data.values[:, 0], np.cos(phase), atol=3e-7)


def test_variables_coordinates_and_time(tmp_path: Path) -> None:
    """A rotation of two variables, a force in space and time, and a variable that stays as it is."""
    data, _ = make(
        tmp_path / "set", rhs={"u": "w*v", "v": "-w*u", "p": "x*cos(t)", "s": 0}, constants={"w": 2},
        mean={"u": "x", "s": "w"}, frame_interval=0.5,
    )  # fmt: skip
    x, t = data.grid.coordinate(0), data.time[:, None]
    assert data.names == ("p", "s", "u", "v")
    expected = np.stack([x * np.sin(t), 2 + 0 * x * t, x * np.cos(2 * t), -x * np.sin(2 * t)], 1)
    np.testing.assert_allclose(data.values, expected, atol=1e-6)


@pytest.mark.parametrize("time_step", [0.0, 0.01, 0.03])  # the last goes into no frame
def test_steps_may_be_equal(tmp_path: Path, time_step: float) -> None:
    """Runge and Kutta's rule of order four: an error of 1e-10 at this step, adaptive steps 1e-9."""
    data, _ = make(tmp_path / "set", rhs={"c": "-c"}, mean=1, time_step=time_step, frame_interval=0.5)
    np.testing.assert_allclose(data.values[:, 0, 0], np.exp(-data.time), rtol=2e-7)


def test_every_function_that_is_let_through_is_evaluated(pde: Any) -> None:
    grid, fields = Grid((8,), 8.0), np.full((1, 8), 0.7)
    two = ("atan2", "Heaviside", "heaviside")
    for name in FUNCTIONS:
        argument = {"acosh": "1 + c"}.get(name, "c, 1/2" if name in two else "c/3")
        Equation(grid, {"c": f"{name}({argument})"}, {}, 1e-5, 0.0).check(fields, {})


def test_noise_has_its_variance(tmp_path: Path) -> None:
    """Euler's steps of ∂c/∂t = −c + noise: after n of them h·Var = noise·dt·(1 − r^{2n})/(1 − r²), r = 1 − dt."""
    settings = {"rhs": {"c": "-c"}, "noise": {"c": 0.5}, "time_step": 0.02, "frame_interval": 0.4, "cells": (256,)}
    data, _ = make(tmp_path / "a", train_runs=16, **settings)
    r = 0.98
    expected = np.sqrt(0.5 / (EXTENT / 256) * 0.02 * (1 - r ** (2 * 20 * np.arange(3))) / (1 - r**2))
    found = data.values.reshape(16, 3, -1).std((0, 2))
    assert found[0] == 0
    # 4096 independent cells: the standard error of a deviation is 1/√8192 of it.
    np.testing.assert_allclose(found[1:], expected[1:], rtol=4 / math.sqrt(2 * 16 * 256))
    again, _ = make(tmp_path / "b", train_runs=16, **settings)
    assert again.values.tobytes() == data.values.tobytes()


def test_runs_start_from_a_matern_field(tmp_path: Path) -> None:
    """Its variance at a point, and its correlation with the next cell, within four standard errors of the law's."""
    data, _ = make(
        tmp_path / "set", rhs={"c": 0}, amplitude=0.3, length={"c": 0.4}, mean=2, frames=1, frame_interval=1.0,
        train_runs=400,
    )  # fmt: skip
    law = GaussianField.matern(SpectralBasis(Grid((CELLS,), EXTENT)), 0.4, 2.5, 0.3)
    covariance = torch.fft.ifft(law.spectrum[0].double()).real.numpy()
    x = data.values[:, 0].astype(np.float64) - 2
    for lag in (0, 1):
        products = (x * np.roll(x, lag, 1)).mean(1)
        assert abs(products.mean() - covariance[lag]) < 4 * products.std() / math.sqrt(len(x))


def test_cahn_hilliard_against_a_spectral_solver(tmp_path: Path) -> None:
    """The error of the stencils falls with order two; the amount stays, and the energy falls."""
    length, amplitudes = 12.0, {"mean": "0.1 + 0.5*cos(2*pi*x/12) + 0.3*sin(4*pi*x/12)"}
    box = PeriodicBox(1, 256, length, degree=3)
    rates = box.squared - box.squared**2

    def cube(modes: torch.Tensor) -> torch.Tensor:
        return -box.squared * box.to_modes(box.to_field(modes) ** 3)

    errors = []
    for cells in (20, 40):
        data, _ = make(
            tmp_path / str(cells), cells=(cells,), extent=length, frame_interval=0.5, tolerance=1e-6, **amplitudes
        )
        x = torch.from_numpy((np.arange(256) + 0.5) * length / 256)
        start = 0.1 + 0.5 * torch.cos(2 * math.pi * x / 12) + 0.3 * torch.sin(4 * math.pi * x / 12)
        modes = evolve(box.to_modes(start[None]), rates, cube, 1.0, 400)
        # The polynomial at the centres of fewer cells.
        k = torch.fft.rfftfreq(256, 1 / 256, dtype=torch.float64)
        centres = (torch.arange(cells, dtype=torch.float64)[:, None] + 0.5) / cells - 0.5 / 256
        weights = torch.where(k == 0, 1.0, 2.0) / 256
        exact = (weights * modes[0] * torch.exp(2j * math.pi * centres * k)).real.sum(1).numpy()
        values, h = data.values[:3, 0].astype(np.float64), length / cells
        errors.append(np.sqrt(np.mean((values[2] - exact) ** 2)))
        np.testing.assert_allclose(values.mean(1), 0.1, atol=3e-8)
        slopes = (np.roll(values, -1, 1) - values) / h
        energy = ((1 - values**2) ** 2 / 4 + slopes**2 / 2).mean(1)
        assert np.all(np.diff(energy) < -1e-3)
    print(f"errors {errors}")
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.15), errors
    assert errors[1] < 5e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"rhs": {"c": "a*c**2"}, "constants": {"a": [1, 2]}, "mean": 1},
            r"^run 0 of train \(a = 1\.\d+\): fields grow without bound between t = 0\.5 and 1 .*; look at the signs",
        ),
        ({"rhs": {"c": "c**3"}, "mean": 9, "time_step": 0.25}, "run 0 of train: fields grow without bound between t"),
        ({"rhs": {"c": "atan2(c)"}}, r"^rhs cannot be evaluated, .*; each must be a scalar field; got c: atan2\(c\)"),
        ({"rhs": {"c": "c*sqrt(-1)"}}, "rhs cannot be evaluated, it is complex; each must be a scalar field"),
        ({"rhs": {"c": "log(x - 1)"}}, r"^rhs of 'c' is nan at time 0 in cell \(0,\) of the first run\.$"),
        ({"rhs": {"c": "c"}, "mean": "1/(x - x)"}, "the start of 'c' is .* at time 0 in cell"),
    ],
)  # fmt: skip
def test_what_fails_is_one_line_and_leaves_nothing(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make(tmp_path / "set", **{"frame_interval": 0.5, **settings})
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_the_card_states_the_equation_and_the_settings(tmp_path: Path) -> None:
    rhs = {"c": "k*x - |∇c|²"}
    recipes()["equation"].make(
        tmp_path / "set", progress=False, **RUNS, rhs=rhs, constants={"k": [0.5, 1]}, cells=(8,), extent=2.0,
        boundary="neumann", amplitude=0.0, frame_interval=0.1,
    )  # fmt: skip
    card = (tmp_path / "set" / "card.md").read_text()
    assert "    ∂c/∂t = k*x - gradient_squared(c)\n" in card and "- constants: k from 0.5 to 1, stored with " in card
    assert "- on 8 (x, neumann, 2)\n- start: c: 0.0\n- frames at t = 0, 0.1, 0.2\n- solver: py-pde " in card
    assert "| rhs | {'c': 'k*x - \\|∇c\\|²'} | {'c': 'laplace" in card
