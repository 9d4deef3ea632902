"""Recipes on another device than the CPU, without one.

Tensors on "meta" have no numbers, but refuse the CPU's company, so a recipe that runs to its end on them has left
nothing behind. And "cpu:0" is the CPU by a name that is not "cpu": what a recipe does for other devices, it does there.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from small_recipes import SMALL as SMALL_RECIPES
from torch import Tensor

from datasets import recipes
from datasets.devices import device_of, runs_together

FEW = {"train_runs": 3, "valid_runs": 1, "test_runs": 2}

# Every recipe but the measured terrain and py-pde's equations; those of chains say themselves how few.
SMALL = {
    name: settings | {key: few for key, few in FEW.items() if key in settings}
    for name, settings in SMALL_RECIPES.items()
    if name not in ("terrain", "equation")
}


def make_on(device: str, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Path:
    """Make a data set as if `device` were the one that was found."""
    for module in (importlib.import_module(f"datasets.{name}"), importlib.import_module("datasets.devices")):
        if hasattr(module, "device_of"):
            monkeypatch.setattr(module, "device_of", lambda _: device)
    return recipes()[name].make(folder, 3, progress=False, **{**SMALL[name], **settings})


def stored(folder: Path) -> dict[str, np.ndarray]:
    """Every array of the files, by its place."""
    found: dict[str, np.ndarray] = {}
    for path in sorted(folder.rglob("*.hdf5")):
        with h5py.File(path) as file:
            for name in ("t0_fields", "t1_fields", "scalars", "dimensions"):
                group = file[name]
                assert isinstance(group, h5py.Group)
                found |= {f"{path.parent.name}/{name}/{key}": np.asarray(group[key]) for key in group}
    return found


@pytest.fixture(scope="module")
def of_cpu(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Arrays of each recipe's files as the CPU makes them, made once."""

    @functools.cache
    def of(name: str) -> dict[str, np.ndarray]:
        folder = tmp_path_factory.mktemp(name) / "set"
        return stored(recipes()[name].make(folder, 3, progress=False, device="cpu", **SMALL[name]))

    return of


@pytest.fixture(autouse=True)
def few_trajectories(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the lattice's chains; so few tell no autocorrelation time, and none is asked for here."""
    monkeypatch.setattr("datasets.lattice_phi4._MEASURED", 8)


@pytest.fixture(autouse=True)
def numbers_that_are_none_are_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.burgers._LONGEST_TAIL", 2.0)


def test_every_recipe_that_computes_takes_a_device() -> None:
    takes = {name: "device" in inspect.signature(recipe.make).parameters for name, recipe in recipes().items()}
    # Terrain is measured, and py-pde works on the CPU.
    assert {name for name, claims in takes.items() if not claims} <= {"terrain", "equation"}
    assert {name for name, claims in takes.items() if claims} == set(SMALL)


@pytest.fixture
def numbers_where_none_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked of a tensor on "meta" that has no numbers: something to write or to count with, and all is well."""
    own = {name: getattr(Tensor, name) for name in ("cpu", "item", "__float__", "any", "all")}

    def cpu(x: Tensor) -> Tensor:
        return torch.rand(x.shape).to(x.dtype) if x.is_meta else own["cpu"](x)

    def number(name: str, found: float) -> Any:
        return lambda x: found if x.is_meta else own[name](x)

    def settled(name: str, found: bool) -> Any:
        return lambda x, *args: torch.tensor(found) if x.is_meta and not args else own[name](x, *args)

    monkeypatch.setattr(Tensor, "cpu", cpu)
    monkeypatch.setattr(Tensor, "item", number("item", 1e-12))  # a speed or a rate, so small that few steps do
    monkeypatch.setattr(Tensor, "__float__", number("__float__", 1.0))
    monkeypatch.setattr(Tensor, "any", settled("any", False))
    monkeypatch.setattr(Tensor, "all", settled("all", True))


@pytest.mark.usefixtures("numbers_where_none_are")
@pytest.mark.parametrize("name", SMALL)
def test_a_whole_recipe_stays_on_its_device(
    name: str, of_cpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it is there at all: where a recipe computes nothing on "meta", what is written would be the CPU's."""
    known = of_cpu(name)
    elsewhere = stored(make_on("meta", name, tmp_path / "meta", monkeypatch))
    assert {k: v.shape for k, v in elsewhere.items()} == {k: v.shape for k, v in known.items()}
    # The numbers that a tensor without any gives are in [0, 1): the solution is not where it would be.
    field = {"darcy": "pressure"}.get(name, "")
    fields = [k for k in known if "_fields/" in k and field in k]
    assert fields and not any(np.array_equal(elsewhere[k], known[k]) for k in fields)
    assert all(0 <= elsewhere[k].min() and elsewhere[k].max() <= 1 for k in fields)


@pytest.mark.parametrize("name", SMALL)
def test_another_device_has_the_same_runs_to_rounding(
    name: str, of_cpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is drawn comes from the CPU's generators, in the same order; only how many run together may differ."""
    known, elsewhere = of_cpu(name), stored(make_on("cpu:0", name, tmp_path / "other", monkeypatch))
    assert sorted(elsewhere) == sorted(known)
    for key, expected in known.items():
        # float32 rounds to 6e-8 of a value; log-densities, which are sums of 64, are those of rounded fields.
        # Forced turbulence takes the steps that the fastest of the runs beside each other needs: 3e-6 of the largest.
        scale = 1e-5 if "log_prob" in key else 5e-6 if name == "forced_turbulence" else 2e-7
        np.testing.assert_allclose(
            elsewhere[key], expected, rtol=scale, atol=scale * np.abs(expected).max(), err_msg=key
        )


@pytest.mark.parametrize("name", SMALL)
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


def test_runs_go_together_as_memory_allows() -> None:
    assert runs_together(128, 256) == 256
    assert runs_together(2**20, 256) == 32  # 8 MB each in 256 MB
    assert runs_together(2**40, 256) == 1
