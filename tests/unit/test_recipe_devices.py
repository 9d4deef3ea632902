"""Recipes' solvers on another device than the CPU: on "meta" tensors have no numbers, but refuse the CPU's company."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from datasets import recipes
from datasets.allen_cahn import AllenCahn
from datasets.devices import device_of
from datasets.etdrk4 import ETDRK4
from datasets.forced_turbulence import KolmogorovFlow
from datasets.gray_scott import GrayScott
from datasets.kuramoto_sivashinsky import KuramotoSivashinsky
from datasets.navier_stokes import NavierStokes, coarsen
from datasets.periodic_box import PeriodicBox, resample
from datasets.shallow_water import ShallowWater
from datasets.shallow_water import initial_state as deep_start
from datasets.taylor_green import Incompressible
from datasets.taylor_green import initial_velocity as vortices


def _step(rates: Tensor, nonlinear: Callable[[Tensor], Tensor], modes: Tensor) -> Tensor:
    """One step of the rule, whose coefficients numpy makes from numbers of the rates' shape."""
    return ETDRK4(np.ones(rates.shape), 0.1, "meta").step(modes, nonlinear)


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64, device="meta")


def _allen_cahn() -> Tensor:
    solver = AllenCahn(PeriodicBox(2, 8, 1.0, "meta", degree=3), 1e-3, 1.0)
    return resample(
        solver.box.to_field(_step(solver.rates, solver.reaction, solver.box.to_modes(_zeros(2, 8, 8)))), 2, 4
    )


def _gray_scott() -> Tensor:
    solver = GrayScott(PeriodicBox(2, 8, 0.1, "meta", degree=3), 0.03, 0.06)
    modes = _step(solver.rates, solver.reaction, solver.box.to_modes(_zeros(2, 2, 8, 8)))
    return resample(solver.box.to_field(modes), 2, 4)


def _kuramoto_sivashinsky() -> Tensor:
    solver = KuramotoSivashinsky(PeriodicBox(1, 12, 8.0, "meta"))
    return resample(
        solver.box.to_field(_step(solver.rates, solver.advection, solver.box.to_modes(_zeros(2, 12)))), 1, 8
    )


def _forced_turbulence() -> Tensor:
    solver = KolmogorovFlow(12, 1e-2, 0.1, wavenumber=3, device="meta")
    modes = solver.flow.to_modes(_zeros(2, 12, 12)) + solver.laminar()
    solver.energy_budget(modes)
    return coarsen(solver.flow.to_field(_step(solver.rates, solver.tendency, modes)), 8)


def _turbulence() -> Tensor:
    solver = NavierStokes(12, 1e-2, "meta")
    return coarsen(solver.to_field(solver.advection(solver.to_modes(_zeros(2, 12, 12)))), 8)


def _shallow_water() -> Tensor:
    solver = ShallowWater(PeriodicBox(2, 36, 1e6, "meta"), 9.81, 1e-4, 1e4)
    start = deep_start([np.random.default_rng(0)], solver, 100.0, 3.0, 0.05)
    solver.energy(start)
    return resample(solver.box.to_field(start + solver.tendency(start)), 2, 24)


def _taylor_green() -> Tensor:
    solver = Incompressible(PeriodicBox(3, 36, device="meta"), 1e-2)
    start = vortices([np.random.default_rng(0)], solver, 1.0, 0.1)
    solver.enstrophy(start)
    return resample(solver.box.to_field(start + solver.advection(start)), 3, 24)


STEPS = {
    f.__name__[1:]: f
    for f in (
        _allen_cahn,
        _forced_turbulence,
        _gray_scott,
        _kuramoto_sivashinsky,
        _shallow_water,
        _taylor_green,
        _turbulence,
    )
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_stays_on_its_device(name: str) -> None:
    field = STEPS[name]()
    assert field.device.type == "meta" and field.dtype == torch.float64


@pytest.mark.parametrize("name", STEPS)
def test_a_device_that_is_not_here_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"device must be 'auto' or one of those that are here, cpu.*; got 'gpu'"):
        recipes()[name].make(tmp_path / "set", progress=False, device="gpu")
    assert list(tmp_path.iterdir()) == []


def test_auto_is_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for present, found in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda present=present: present)
        assert device_of("auto") == found and device_of("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="got 'cuda'"):
        device_of("cuda")
