"""The Kolmogorov flow against its laminar solution, the decaying solver and the energy balance."""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from datasets.forced_turbulence import KolmogorovFlow, make
from datasets.navier_stokes import NavierStokes
from datasets.turbulence import initial_vorticity
from physdiff.data import load_fields

VISCOSITY, DRAG, WAVENUMBER = 0.02, 0.1, 3


def flow(points: int = 24, **settings: float) -> KolmogorovFlow:
    return KolmogorovFlow(points, **{"viscosity": VISCOSITY, "drag": DRAG, "wavenumber": WAVENUMBER, **settings})


def starts(points: int, runs: int = 2) -> Tensor:
    return NavierStokes(points, 0.0).to_modes(
        initial_vorticity([np.random.default_rng([0, run]) for run in range(runs)], points)
    )


def test_laminar_flow_is_reached_from_rest_as_exactly_solved() -> None:
    """One wave does not advect itself: ω = A n cos(n x)/(μ + νn²) · (1 − e^{−(μ + νn²)t}), for steps of any length."""
    solver, time = flow(amplitude=0.4), 7.0
    x = 2 * math.pi * (torch.arange(24, dtype=torch.float64) + 0.5) / 24
    damping = 0.1 + 0.02 * 9
    exact = (0.4 * 3 / damping * torch.cos(3 * x)).unsqueeze(1).expand(24, 24)
    torch.testing.assert_close(solver.flow.to_field(solver.laminar()), exact, atol=3e-14, rtol=0)
    rest = torch.zeros(24, 13, dtype=torch.complex128)
    for steps in (1, 7, 40):
        end = solver.flow.to_field(solver.evolve(rest, time, steps))
        # Rounding of numbers of order 5; measured 5e-15.
        torch.testing.assert_close(end, exact * (1 - math.exp(-damping * time)), atol=3e-14, rtol=0)
        still = solver.evolve(solver.laminar(), time, steps)
        torch.testing.assert_close(solver.flow.to_field(still), exact, atol=3e-14, rtol=0)


def test_laminar_budget_is_the_hand_calculation() -> None:
    """v = A sin(n x)/(μ + νn²): the force puts in A²/2(μ + νn²), drag and viscosity take μ and νn² parts of it."""
    solver = flow(amplitude=0.4)
    damping = 0.28
    put_in, drag, viscous = (float(x) for x in solver.energy_budget(solver.laminar()))
    assert put_in == pytest.approx(0.16 / (2 * damping), rel=1e-13)
    assert drag == pytest.approx(put_in * 0.1 / damping, rel=1e-13)
    assert viscous == pytest.approx(put_in * 0.18 / damping, rel=1e-13)


def test_without_force_and_drag_it_is_the_decaying_solver() -> None:
    solver, decaying = flow(drag=0.0, amplitude=0.0), NavierStokes(24, VISCOSITY)
    start = starts(24)
    difference = (solver.evolve(start, 2.0, 200) - decaying.evolve(start, 2.0, 200)).abs().max().item() / 24**2
    # Two rules of fourth order: measured 8.5e-12 of fields of order 1, times 3.
    assert difference < 2.6e-11
    assert (solver.evolve(start, 2.0, 200) - start).abs().max().item() / 24**2 > 0.05
    # Drag alone multiplies a single wave, and any flow that does not advect itself.
    x = 2 * math.pi * (torch.arange(24, dtype=torch.float64) + 0.5) / 24
    green = solver.flow.to_modes(torch.cos(2 * x).unsqueeze(1) * torch.cos(2 * x))
    end = flow(amplitude=0.0).evolve(green, 3.0, 30)
    torch.testing.assert_close(end, green * math.exp(-(0.1 + 0.02 * 8) * 3.0), atol=1e-11, rtol=0)


def test_order_four() -> None:
    solver = flow()
    start = solver.evolve(starts(24), 5.0, 500)
    exact = solver.evolve(start, 1.0, 1024)
    steps = [32, 64, 128]
    errors = [solver.flow.to_field(solver.evolve(start, 1.0, n) - exact).abs().max().item() for n in steps]
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    print(f"order {slope:.3f}, errors {errors}")
    assert slope == pytest.approx(4, abs=0.15) and errors[-1] > 1e-12


def test_energy_balance_of_a_turbulent_flow() -> None:
    """Change of ½⟨|u|²⟩ is the integral of what is put in less what is taken out, by Simpson's rule."""
    solver, pieces, span = flow(), 100, 0.04
    modes = solver.evolve(starts(24), 10.0, 1000)
    before, rates = solver.flow.energy(modes), []
    for i in range(pieces + 1):
        put_in, drag, viscous = solver.energy_budget(modes)
        rates.append(put_in - drag - viscous)
        if i < pieces:
            modes = solver.evolve(modes, span, 4)
    weights = torch.ones(pieces + 1, dtype=torch.float64)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    integral = (weights.unsqueeze(1) * torch.stack(rates)).sum(0) * span / 3
    change = solver.flow.energy(modes) - before
    print("change", change.tolist(), "balance", integral.tolist())
    # Errors of the two rules: measured 6e-9, times 3.
    torch.testing.assert_close(change, integral, rtol=0, atol=1.8e-8)
    assert float(change.abs().max()) > 0.01


def test_laminar_flow_is_unstable_at_small_damping() -> None:
    """A disturbance grows, in waves longer than the force's (Meshalkin and Sinai, 1961), or dies in thick fluid."""
    disturbance = 1e-6 * starts(24, 1)[0]
    for viscosity, drag, grows in ((0.01, 0.02, True), (1.0, 1.0, False)):
        solver = flow(viscosity=viscosity, drag=drag)
        end = solver.evolve(solver.laminar() + disturbance, 4.0, 1200) - solver.laminar()
        ratio = (end.abs().max() / disturbance.abs().max()).item()
        assert ratio > 10 if grows else ratio < 0.1, ratio


def test_made_runs_are_in_a_steady_state(tmp_path: Path) -> None:
    """Energy of the first and the last frames of independent runs agrees within its error."""
    folder = make(
        tmp_path / "set", 1, progress=False, train_runs=6, valid_runs=1, test_runs=1, cells=16, frames=2,
        duration=15.0, frame_interval=10.0, viscosity=0.03, drag=0.2,
    )  # fmt: skip
    values = load_fields(folder, split="train").values.reshape(6, 2, 16, 16).astype(np.float64)
    enstrophy = (values**2).mean((2, 3)) / 2
    change = enstrophy[:, 1] - enstrophy[:, 0]
    error = change.std(ddof=1) / math.sqrt(6)
    print(f"enstrophy {enstrophy.mean(0)}, change {change.mean():.3f} ± {error:.3f}")
    assert abs(change.mean()) < 4 * error
    laminar = 0.25 * (3 / (0.2 + 0.03 * 9)) ** 2
    assert 0.05 * laminar < enstrophy.mean() < 0.9 * laminar
    assert np.abs(values.mean((2, 3))).max() < 1e-6
    with h5py.File(folder / "data/test/forced_turbulence.hdf5") as file:
        assert file.attrs["drag"] == 0.2 and file.attrs["wavenumber"] == 3


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    for settings, message in (
        ({"cells": 14}, "cells must be even and at least 16"),
        ({"wavenumber": 20}, "from 1 to below a third of 48 points; got 0.05 and 20"),
        ({"drag": -0.1}, "a drag ≥ 0 .* got -0.1 and 3"),
        ({"viscosity": -1.0}, "viscosity ≥ 0; got 48 and -1"),
    ):
        with pytest.raises(ValueError, match=message):
            make(tmp_path / "set", **settings)
    assert list(tmp_path.iterdir()) == []
