"""Findings on disk: what comes back is what was put away, and what is damaged says so."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from physdiff.evaluation.findings import ARRAYS, Findings
from physdiff.evaluation.held_out import HeldOutLikelihood
from physdiff.grid import Grid


def held_out(n: int = 6, **changes: object) -> HeldOutLikelihood:
    rng = np.random.default_rng(5)
    reference = rng.normal(100.0, 5.0, n)
    values: dict[str, object] = {
        "log_prob": reference + rng.uniform(1.0, 2.0, n),
        "standard_error": rng.uniform(0.01, 0.02, n),
        "surrogate_log_prob": reference - rng.uniform(1.0, 2.0, n),
        "surrogate_standard_error": rng.uniform(0.01, 0.02, n),
        "reference_log_prob": reference,
        "probes": 8,
        "evaluations": 77,
        "t_min": 1e-3,
        "scored": "field",
        "gaussian_bias": 0.1,
        "terminal_mismatch": 1e-3 / 3,
        "n_support": 71,
    }
    return HeldOutLikelihood(**{**values, **changes})  # pyright: ignore[reportArgumentType]


def complete(grid: Grid | None = None) -> Findings:
    """Findings with every part, of awkward numbers and two dtypes."""
    grid = grid or Grid((8, 9), (1.0, 2.0), ("periodic", "neumann"), units="m")
    rng = np.random.default_rng(4)
    shape = (2, *grid.shape)
    return Findings(
        title="A test <of> everything",
        grid=grid.to_dict(),
        names=("vorticity", "height"),
        units=("1/s", ""),
        process="Heat",
        equation="dx = κ ∇²x dτ + σ dW",
        settings={"train": {"steps": 20, "learning_rate": 0.1 + 0.2, "betas": (0.9, 0.99)}, "resume": None},
        versions={"physdiff": "0.1.0"},
        seeds={"data": 2**53 - 1},
        seconds={"training": 1 / 3, "sampling": 200.0},
        counts={"train": 512, "n_support": 71},
        metrics=[
            {"step": 1, "loss": 1.1, "seconds": 0.1, "learning_rate": 1e-3},
            {"step": 20, "loss": 0.7, "validation_loss": 0.8, "seconds": 2.5, "learning_rate": 1e-9},
        ],
        data=rng.standard_normal((7, *shape)).astype(np.float32),
        samples=rng.standard_normal((5, *shape)),
        reference_samples=rng.standard_normal((6, *shape)),
        mean=rng.standard_normal(shape),
        likelihood=held_out(),
        denoising=[
            {
                "noise_to_signal": s,
                "t": 0.1,
                "model_error": 0.8 * s,
                "wiener_error": s,
                "difference": -0.2 * s,
                "standard_error": 0.01 * s,
            }
            for s in (0.1, 1 / 3, 2.0)
        ],
        checks=[
            {"name": "gain", "statement": "above", "measured": 7.25, "required": "> 5", "passed": True},
            {"name": "ratio", "statement": "below", "measured": 1.5, "required": 1.01, "passed": False},
        ],
    )


def test_findings_come_back_bit_for_bit(tmp_path: Path) -> None:
    before = complete()
    before.save(tmp_path)
    after = Findings.load(tmp_path)
    for f in fields(Findings):
        if f.name not in (*ARRAYS, "likelihood"):
            assert getattr(after, f.name) == getattr(before, f.name), f.name
    for name in ARRAYS:
        same(getattr(before, name), getattr(after, name))
    assert before.likelihood is not None and after.likelihood is not None
    for f in fields(HeldOutLikelihood):
        a, b = getattr(before.likelihood, f.name), getattr(after.likelihood, f.name)
        if isinstance(a, np.ndarray):
            same(a, b)
        else:
            assert a == b and type(a) is type(b), f.name


def same(a: np.ndarray, b: np.ndarray) -> None:
    assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def test_saving_twice_makes_the_same_bytes(tmp_path: Path) -> None:
    complete().save(tmp_path / "a")
    Findings.load(tmp_path / "a").save(tmp_path / "b")
    for name in ("evaluation.json", "evaluation.npz"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["evaluation.json", "evaluation.npz"]


def test_missing_parts_stay_missing(tmp_path: Path) -> None:
    bare = replace(complete(), likelihood=None, samples=None, reference_samples=None, mean=None, denoising=[])
    bare.save(tmp_path)
    after = Findings.load(tmp_path)
    assert after.likelihood is None and after.samples is None and after.mean is None and after.denoising == []
    assert list(after.ensembles) == ["data"]


def test_losses_that_diverged_come_back(tmp_path: Path) -> None:
    replace(complete(), metrics=[{"step": 1, "loss": math.nan}, {"step": 2, "loss": math.inf}]).save(tmp_path)
    losses = [record["loss"] for record in Findings.load(tmp_path).metrics]
    assert math.isnan(losses[0]) and losses[1] == math.inf


def _forget(name: str):
    return lambda folder: (folder / name).unlink()


def _cut(name: str):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-200])


def _edit(**changes: object):
    def edit(folder: Path) -> None:
        path = folder / "evaluation.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


def _swap_arrays(folder: Path) -> None:
    replace(complete(), samples=np.zeros((1, 2, 8, 9))).save(folder / "other")
    (folder / "other" / "evaluation.npz").replace(folder / "evaluation.npz")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_forget("evaluation.json"), r"evaluation\.json is missing or damaged"),
        (_forget("evaluation.npz"), r"evaluation\.npz is missing or damaged"),
        (_cut("evaluation.json"), r"evaluation\.json is missing or damaged"),
        (_cut("evaluation.npz"), r"evaluation\.npz is missing or damaged"),
        (_swap_arrays, r"not the arrays that evaluation\.json was written with"),
        (_edit(version=99), "version 99; this physdiff reads version 1"),
        (_edit(names=["a"]), "each channel needs a name and a unit"),
        (_edit(grid={"cells": 3}), r"evaluation\.json is missing or damaged"),
        (_edit(surprise=1), r"evaluation\.json is missing or damaged"),
        (_edit(arrays=["data", "elsewhere"]), r"evaluation\.npz is missing or damaged"),
        (_edit(likelihood={"probes": 1}), r"evaluation\.json is missing or damaged"),
        (lambda folder: (folder / "evaluation.json").write_text("[]"), r"evaluation\.json is missing or damaged"),
    ],
)
def test_a_damaged_evaluation_is_one_clear_error(tmp_path: Path, damage, message: str) -> None:
    complete().save(tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        Findings.load(tmp_path)
    assert "\n" not in str(caught.value) and "evaluate the run again" in str(caught.value)


def test_a_failed_write_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complete().save(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full_disk(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(OSError, match="no space"):
        replace(complete(), title="another").save(tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": np.zeros((3, 1, 8, 9))}, r"'samples' must hold fields of shape \(2, 8, 9\)"),
        ({"data": np.zeros((0, 2, 8, 9))}, "'data' must hold fields"),
        ({"mean": np.zeros((1, 2, 8, 9))}, "'mean' must hold fields"),
        ({"units": ("m",)}, "each channel needs a name and a unit"),
        ({"settings": {"device": object()}}, "'settings.device' must be a plain number"),
        ({"checks": [{"name": "x", "passed": True}]}, "lacks measured, required, statement"),
        ({"denoising": [{"t": 0.5}]}, "'denoising' lacks"),
        ({"metrics": [{"step": 3}]}, "needs 'step' and 'loss'"),
    ],
)
def test_what_cannot_be_reported_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(complete(), **changes)  # pyright: ignore[reportArgumentType]


def test_numpy_numbers_become_plain() -> None:
    found = replace(complete(), counts={"steps": np.int64(3)}, seconds={"a": np.float64(0.5)})  # pyright: ignore
    assert type(found.counts["steps"]) is int and type(found.seconds["a"]) is float


def test_gains_and_gaps_by_hand() -> None:
    found = held_out(
        2,
        log_prob=[12.0, 16.0],
        standard_error=[0.3, 0.0],
        surrogate_log_prob=[9.5, 17.0],
        surrogate_standard_error=[0.4, 0.0],
        reference_log_prob=[10.0, 10.0],
        n_support=2,
    )
    assert found.gain.tolist() == [1.0, 3.0]
    assert found.surrogate_gain.tolist() == [-0.25, 3.5]
    assert (found.mean_gain, found.wins) == (2.0, 1)
    assert found.mean_gain_error == pytest.approx(1.0)
    assert found.gap_in_errors.tolist() == pytest.approx([5.0, -math.inf])
    assert math.isnan(held_out(1).mean_gain_error)
    assert np.isnan(held_out(3, standard_error=np.full(3, math.nan)).gap_in_errors).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"log_prob": np.zeros(3)}, "one number per field"), ({"n_support": 0}, "at least one degree of freedom")],
)
def test_densities_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        held_out(6, **changes)
