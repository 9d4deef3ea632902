"""Settings at the end of what a recipe can do: one sentence that tells, and no folder; never numbers that are wrong."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets import recipes
from datasets.burgers import Burgers
from datasets.darcy import darcy_pressure
from physdiff.data import load_fields

ONE = {"train_runs": 1, "valid_runs": 1, "test_runs": 1}
FEW_CHAINS = {"train_chains": 2, "valid_chains": 1, "test_chains": 1, "configurations": 1, "thermalisation": 10}

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    *[
        (name, {"duration": value}, rf"times must be (positive|finite); got .*{value}")
        for name in ("advection", "burgers", "taylor_green", "turbulence", "wave")
        for value in (math.nan, math.inf)
    ],
    ("burgers", {"frames": 3, "frame_interval": 1.7e308}, "times must be finite"),
    ("advection", {"slowest": 1e12, "fastest": 1e12}, r"turn by 5\.\d*e\+13 radians until the last frame; .* 1e\+08"),
    ("advection", {"slowest": 1e300, "fastest": 1e308, "duration": 1e10}, "turn by inf radians"),
    ("wave", {"duration": 1e300}, r"turn by .*e\+302 radians until the last frame; .* 1e\+08"),
    ("wave", {"speed": 1e300}, r"turn by .*e\+302 radians"),
    ("burgers", {"viscosity": 1e-3}, r"viscosity of 0.001 m²/s is not resolved by 128 cells"),
    ("burgers", {"viscosity": 1e300}, "overflowed"),
    ("darcy", {"low": 1e-5, "high": 1e5}, r"differ by a factor of 1e\+10; .* 1e\+08"),
    ("darcy", {"correlation_length": 1e-300}, r"correlation length from 1e-06 to 1e\+06"),
    ("poisson", {"correlation_length": 1e-300}, r"lengths go from 1e-06 to 1e\+06"),
    ("poisson", {"wavenumber": 1e200}, r"got 1e\+200. It is below 1e\+15 1/m"),
    (
        "gaussian_random_field",
        {"correlation_length": math.inf},
        "standard_deviation must be positive",
    ),
    ("gaussian_random_field", {"correlation_length": 1e-300}, "a correlation length of 1e-300 m on 1.0 m"),
    (
        "gaussian_random_field",
        {"smoothness": math.nan},
        "standard_deviation must be positive",
    ),
    ("gaussian_random_field", {"standard_deviation": 1e-300}, r"deviation of 1e-300, .* from 1e-30 to 1e\+30"),
    ("lattice_phi4", {**FEW_CHAINS, "hopping": 1e3}, r"accepts \S+% of its trajectories"),
    ("turbulence", {"viscosity": math.inf}, "a viscosity ≥ 0; got 48 and inf"),
    ("turbulence", {"viscosity": math.nan}, "a viscosity ≥ 0; got 48 and nan"),
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("name", "settings", "told"), REFUSED, ids=[f"{n}-{i}" for i, (n, *_) in enumerate(REFUSED)])
def test_is_refused_in_one_sentence(name: str, settings: dict[str, Any], told: str, tmp_path: Path) -> None:
    few = {} if name == "lattice_phi4" else ONE
    with pytest.raises(ValueError, match=told):
        recipes()[name].make(tmp_path / "set", progress=False, device="cpu", **{**few, **settings})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("burgers", {"cells": 32, "duration": 1e-9, "viscosity": 0.2}),
        ("burgers", {"cells": 32, "duration": 1e-300, "viscosity": 0.2}),
        ("advection", {"cells": 17, "frames": 1}),
        ("darcy", {"cells": 5, "source": 0.0}),
        ("poisson", {"cells": 5, "boundary": "periodic"}),
        ("wave", {"cells": 49, "frames": 1, "speed": 1e-9}),
    ],
)
def test_is_made(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    folder = recipes()[name].make(tmp_path / "set", progress=False, device="cpu", **{**ONE, **settings})
    assert np.isfinite(load_fields(folder, split="train").values).all()


def test_a_short_run_of_burgers_is_its_start(tmp_path: Path) -> None:
    """At t = 1e-9 s: what a step that is rounded down to none would not give."""
    same = {**ONE, "cells": 32, "viscosity": 0.2}
    values = [
        load_fields(
            recipes()["burgers"].make(tmp_path / str(t), progress=False, duration=t, **same), split="train"
        ).values
        for t in (1e-9, 1e-300)
    ]
    assert np.abs(values[0]).max() > 0.3
    np.testing.assert_allclose(values[0], values[1], atol=2e-7)


def test_steps_are_no_fewer_than_the_fastest_wave_asks_for() -> None:
    for points in (97, 100, 384):
        for duration in (1e-9, 0.01, 0.1, 0.123, 1.0):
            turn = duration * 6.0 * ((points - 1) // 3) / Burgers(points, 0.1).stable_steps(duration)
            assert turn <= 1.0


def test_the_largest_contrast_is_still_right() -> None:
    """1e8, on a line in series, where the exact pressure is known; 1e10 may not even keep its sign."""
    rng = np.random.default_rng(0)
    cells = 24
    a = np.where(rng.random(cells) < 0.5, 1e-4, 1e4)
    source, width = np.zeros(cells), 1 / cells
    source[15] = 1 / width
    resistance = np.cumsum(width / a) - 0.5 * width / a
    total = (width / a).sum()
    peak = resistance[15] * (total - resistance[15]) / total
    exact = peak * np.minimum(resistance / resistance[15], (total - resistance) / (total - resistance[15]))
    error = np.abs(darcy_pressure(a, source, (width,)) / exact - 1).max()
    print("relative error", error)
    assert error < 1e-6
