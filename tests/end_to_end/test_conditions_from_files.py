"""Conditions from files, all the way: what the network is told is what stands in the files, on the model's own scale.

Runs of u = k + regime − 1 + viscosity + noise on a line of 16 cells; k is a static field, viscosity a number and regime
a class of the run, and the frame before is given too. So the law of u given all that is known.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from safetensors.torch import load_file

from physdiff import FieldModel, Grid, cli, load_fields
from physdiff.commands.model_data import conditions_of
from physdiff.condition import Condition
from physdiff.config import DataSettings, RunSettings
from physdiff.data.conditions import Told
from physdiff.data.formats.the_well_writer import FieldSpec, WellFile
from physdiff.model import NetworkSettings
from physdiff.networks.conditioning import Conditioning
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.scoring import score_in_parts
from physdiff.training import TrainSettings
from physdiff.training.job import prepare

pytestmark = pytest.mark.xdist_group("conditions from files")
CELLS, FRAMES, NOISE = 16, 4, 0.3
CONFIG: dict[str, Any] = {
    "process": "VariancePreserving",
    "data": {
        "path": "data", "fields": ["u"], "condition": ["k", "viscosity"], "classes": "regime", "past": 1,
        "noise_level": 0.02,
    },
    "network": {"width": 8, "multipliers": [1]},
    "training": {
        "steps": 150, "batch_size": 16, "learning_rate": 5e-3, "ema_decay": 0.9, "checkpoint_every": 50,
        "validate_every": 150, "log_every": 50,
    },
    "run": "run",
}  # fmt: skip


def smooth(n: int, rng: np.random.Generator) -> np.ndarray:
    """Periodic random fields of variance about 1 with a few waves, shape (n, CELLS)."""
    x = 2 * np.pi * (np.arange(CELLS) + 0.5) / CELLS
    waves = np.concatenate([np.stack([np.cos(m * x), np.sin(m * x)]) for m in range(1, 4)])
    return rng.normal(size=(n, len(waves))) @ waves / np.sqrt(3)


def write(file: Path, runs: int, seed: int, with_u: bool = True) -> None:
    rng = np.random.default_rng(seed)
    k, viscosity, regime = smooth(runs, rng), rng.uniform(0.5, 1.5, runs), np.arange(runs) % 3
    noise = NOISE * rng.normal(size=(runs, FRAMES, CELLS))
    u = k[:, None] + (regime - 1.0)[:, None, None] + viscosity[:, None, None] + noise
    fields = {"k": FieldSpec("m^2", time_varying=False), **({"u": FieldSpec("m/s")} if with_u else {})}
    numbers = {"viscosity": viscosity, "regime": regime}
    with WellFile(
        file, fields, Grid((CELLS,), 1.0, "periodic"), runs, np.arange(FRAMES) / 2, parameters=numbers
    ) as out:
        out.write(0, {"k": k, "u": u} if with_u else {"k": k})


def run(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """The command within this process: exit code, output, errors."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["physdiff", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    return int(stopped.value.code or 0), out.getvalue(), err.getvalue()


def done(folder: Path, *arguments: str) -> str:
    code, out, err = run(folder, *arguments)
    assert code == 0, err
    return out


def refused(folder: Path, arguments: tuple[str, ...], *words: str) -> None:
    code, _, err = run(folder, *arguments)
    line = err.strip().splitlines()[-1]
    assert code == 2 and line.startswith("physdiff: error: ") and "Traceback" not in err, err
    for word in words:
        assert word in line, f"'{word}' is not in: {line}"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conditions")
    for split, runs, seed in (("train", 60, 0), ("valid", 9, 1), ("test", 9, 2)):
        write(folder / "data" / "data" / split / "line.hdf5", runs, seed)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    out = done(folder, "train", "config.yaml")
    assert "conditioned on u@-1, k, viscosity, regime (3 classes)" in out
    return folder


@pytest.fixture(scope="module")
def stored(work: Path) -> dict[str, dict[str, np.ndarray]]:
    """What the files hold, read without physdiff, one entry a sample: frame t ≥ 1 of a run, with the frame before."""
    found = {}
    for split in ("train", "test"):
        with h5py.File(work / "data" / "data" / split / "line.hdf5") as file:
            u, k = np.asarray(file["t0_fields/u"], np.float64), np.asarray(file["t0_fields/k"], np.float64)
            numbers = {name: np.asarray(file[f"scalars/{name}"], np.float64) for name in ("viscosity", "regime")}
        each = FRAMES - 1
        found[split] = {
            "u": u[:, 1:].reshape(-1, CELLS), "u@-1": u[:, :-1].reshape(-1, CELLS), "k": k.repeat(each, 0),
            **{name: x.repeat(each) for name, x in numbers.items()},
        }  # fmt: skip
    return found


@pytest.fixture(scope="module")
def expected(stored: dict[str, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The test split on the scale of the training split, by numpy."""
    train, test = stored["train"], stored["test"]
    return {name: (test[name] - train[name].mean()) / train[name].std() for name in ("u", "u@-1", "k", "viscosity")}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Condition | None]]:
    """Every condition that reaches a network."""
    seen: list[Condition | None] = []
    forward = Conditioning.forward

    def spy(self: Conditioning, x: torch.Tensor, condition: Any) -> Any:
        seen.append(condition)
        return forward(self, x, condition)

    monkeypatch.setattr(Conditioning, "forward", spy)
    yield seen


def check_told(found: Condition | None, expected: dict[str, np.ndarray], regime: np.ndarray, rows: slice) -> None:
    assert found is not None and found.fields is not None and found.scalars is not None and found.classes is not None
    fields = np.stack([expected["u@-1"], expected["k"]], 1)[rows]
    np.testing.assert_allclose(found.fields.cpu(), fields, atol=2e-6)  # float32 of numbers of about 1
    np.testing.assert_allclose(found.scalars.cpu()[:, 0], expected["viscosity"][rows], atol=2e-6)
    np.testing.assert_array_equal(found.classes.cpu(), regime[rows])


def test_samples_are_drawn_under_the_conditions_of_the_file(
    work: Path, stored: Any, expected: Any, told: list[Condition | None]
) -> None:
    done(work, "sample", "run", "--n", "27", "--steps", "8", "--given", "data", "--split", "test")
    regime = stored["test"]["regime"]
    for condition in told:
        check_told(condition, expected, regime, slice(0, 27))
    assert told
    with xr.open_dataset(work / "run" / "samples.nc", engine="h5netcdf") as found:
        np.testing.assert_array_equal(found["given.k"], stored["test"]["k"].astype(np.float32))
        np.testing.assert_array_equal(found["given.u@-1"], stored["test"]["u@-1"].astype(np.float32))
        np.testing.assert_array_equal(found["number.viscosity"], stored["test"]["viscosity"])
        np.testing.assert_array_equal(found["class.regime"], regime)
        np.testing.assert_array_equal(found["given_sample"], np.arange(27))
        assert found["given.k"].attrs["units"] == "m^2"
        # u − E[u | told] is noise of 0.3, where u itself varies by about 1.3.
        mean = stored["test"]["k"] + (regime - 1 + stored["test"]["viscosity"])[:, None]
        error = np.sqrt(np.mean((found["u"].values - mean) ** 2))
        assert error < 0.7 * np.std(mean), (error, np.std(mean))


def test_conditions_go_round_when_there_are_fewer(work: Path, expected: Any, told: list[Condition | None]) -> None:
    done(work, "sample", "run", "--n", "5", "--steps", "1", "--given", "data", "--limit", "2", "--out", "two.nc")
    first = told[0]
    assert first is not None and first.scalars is not None
    np.testing.assert_allclose(first.scalars[:, 0], expected["viscosity"][[0, 1, 0, 1, 0]], atol=2e-6)
    with xr.open_dataset(work / "two.nc", engine="h5netcdf") as found:
        np.testing.assert_array_equal(found["given_sample"], [0, 1, 0, 1, 0])


def test_samples_of_the_command_are_those_of_python(work: Path) -> None:
    model = FieldModel.load(work / "run")
    data = load_fields(work / "data", split="test", selection=model.selection)
    drawn = model.sample(3, steps=2, seed=4, condition=data.first(3))
    done(work, "sample", "run", "--n", "3", "--steps", "2", "--seed", "4", "--given", "data", "--out", "three.nc")
    with xr.open_dataset(work / "three.nc", engine="h5netcdf") as found:
        np.testing.assert_array_equal(found["u"], drawn["u"])
        again = model.sample(3, steps=2, seed=4, condition=found.load())
    np.testing.assert_array_equal(again["u"], drawn["u"])


def test_training_sees_the_files_on_the_scale_of_the_training_split(work: Path, stored: Any) -> None:
    """Tensors, by numpy; and bit by bit the same in any batch."""
    data = replace(DataSettings(**CONFIG["data"]), path=str(work / "data"))
    settings = RunSettings(data, TrainSettings(steps=1), NetworkSettings(width=4, multipliers=(1,)))
    job = prepare(VariancePreserving, settings)
    x, condition = job.train.batch(torch.arange(len(job.train)))
    train = stored["train"]
    scaled = {name: (v - v.mean()) / v.std() for name, v in train.items() if name != "regime"}
    np.testing.assert_allclose(x[:, 0], scaled["u"], atol=2e-6)
    assert isinstance(condition, Condition)
    check_told(condition, scaled, train["regime"], slice(None))
    for rows in (torch.tensor([7]), torch.tensor([100, 3, 7])):
        some, given = job.train.batch(rows)
        assert torch.equal(some, x[rows]) and isinstance(given, Condition)
        assert given.fields is not None and condition.fields is not None
        assert torch.equal(given.fields, condition.fields[rows])
    assert job.model.network.condition_channels == 2 and job.model.network.scalars == 1
    assert job.model.network.classes == 3


def test_likelihood_is_that_of_fields_under_their_own_conditions(
    work: Path, stored: Any, expected: Any, told: list[Condition | None]
) -> None:
    quick = ("--probes", "2", "--method", "midpoint", "--steps", "8", "--chunk", "64")
    out = done(work, "likelihood", "run", *quick)
    assert "27 fields" in out
    for condition in told:
        assert condition is not None
        rows = len(condition) // 27  # probes share their field's condition
        check_told(condition[torch.arange(0, len(condition), rows)], expected, stored["test"]["regime"], slice(None))
    model = FieldModel.load(work / "run")
    data = load_fields(work / "data", split="test", selection=model.selection)
    settings: dict[str, Any] = {"probes": 2, "method": "midpoint", "steps": 8}
    own = model.log_likelihood(data, **settings)["log_prob"].values
    with xr.open_dataset(work / "run" / "likelihood.nc", engine="h5netcdf") as found:
        np.testing.assert_allclose(own, found["log_prob"], rtol=1e-9)
    others = replace(data, given=np.roll(data.given, 3, axis=0))  # type: ignore[arg-type]  the runs before
    assert (own - model.log_likelihood(others, **settings)["log_prob"].values).mean() > 5


def test_parts_of_scores_are_of_the_same_conditions(work: Path, tmp_path: Path) -> None:
    """What an interrupted command has left is not used for the same fields under other conditions."""
    shutil.copytree(work / "run" / "model", tmp_path / "model")
    model = FieldModel.load(tmp_path)
    data = load_fields(work / "data", split="test", selection=model.selection).first(4)
    assert data.given is not None and data.scalars is not None and data.classes is not None
    settings: dict[str, Any] = {"probes": 2, "method": "midpoint", "steps": 2, "chunk": 4, "seed": 0}
    others = (
        replace(data, given=data.given + 0.5), replace(data, scalars=data.scalars + 0.5),
        replace(data, classes=(data.classes + 1) % 3),
    )  # fmt: skip
    for some in (data, *others):
        scored = score_in_parts(model, some, settings, tmp_path)
        assert scored is not None
        own = model.log_likelihood(some, **{name: settings[name] for name in ("probes", "method", "steps")})
        np.testing.assert_allclose(scored[0]["log_prob"], own["log_prob"], rtol=1e-9)


def test_samples_file_is_scored_with_the_conditions_in_it(work: Path) -> None:
    done(work, "sample", "run", "--n", "4", "--steps", "4", "--given", "data", "--out", "four.nc")
    out = done(work, "likelihood", "run", "--data", "four.nc", "--probes", "2", "--method", "midpoint", "--steps", "4",
               "--out", "scores.nc")  # fmt: skip
    assert "4 fields" in out


def test_evaluate_and_calibrate_tell_the_model_its_conditions(work: Path, told: list[Condition | None]) -> None:
    quick = {"samples": 4, "sample_steps": 2, "likelihood_fields": 3, "likelihood_steps": 2, "probes": 2}
    done(work, "evaluate", "run", *(word for k, v in quick.items() for word in (f"--settings.{k}", str(v))))
    assert told and None not in told
    findings = json.loads((work / "run" / "evaluation.json").read_text())
    assert findings["counts"]["test"] == 27
    done(work, "calibrate", "run", "--pilots", "2", "--steps", "16", "--levels", "4", "--limit", "5")
    assert None not in told
    assert FieldModel.load(work / "run").conditions.names == ("u@-1", "k", "viscosity", "regime")


def test_a_model_without_its_condition_says_what_it_needs(work: Path) -> None:
    refused(work, ("sample", "run"), "told u@-1, k, viscosity, regime", "--given FILE", "drop_condition")
    refused(work, ("sample", "run", "--split", "test"), "--split", "--given")
    refused(work, ("sample", "run", "--numbers", "{viscosity: 1.0}"), "the fields u@-1, k")
    model = FieldModel.load(work / "run")
    bare = load_fields(work / "data", ["u"], split="test").first(2)
    with pytest.raises(ValueError, match="the model is told u@-1, k, viscosity, regime: give samples"):
        model.log_likelihood(bare)
    data = load_fields(work / "data", split="test", selection=model.selection).first(2)
    with pytest.raises(ValueError, match="'regime' is 7; the model knows the classes 0 to 2"):
        model.sample(2, condition=replace(data, classes=np.array([1, 7])))
    with pytest.raises(ValueError, match="told 'viscosity'; the data's condition is u@-1, k"):
        model.sample(2, condition=replace(data, scalars=None, scalar_names=()))
    with pytest.raises(ValueError, match=r"'k' has the unit 'km\^2'; the model was trained on 'm\^2'"):
        model.sample(2, condition=replace(data, given_units=("m/s", "km^2")))
    with pytest.raises(ValueError, match=r"on the grid .*neumann.*; the model was trained on .*periodic"):
        model.sample(2, condition=replace(data, grid=Grid((CELLS,), 1.0, "neumann")))


def test_what_is_told_is_found_by_name(work: Path) -> None:
    """Fields of the condition in another order, with one more, are the same condition."""
    model = FieldModel.load(work / "run")
    data = load_fields(work / "data", split="test", selection=model.selection).first(2)
    assert data.given is not None
    other = replace(
        data, given=np.concatenate([data.given[:, 1:], 0 * data.given[:, :1], data.given[:, :1]], 1),
        given_names=("k", "zero", "u@-1"), given_units=("m^2", "", "m/s"),
    )  # fmt: skip
    drawn = [model.sample(2, steps=2, condition=given) for given in (data, other)]
    for name in ("u", "given.k", "given.u@-1", "number.viscosity"):
        np.testing.assert_array_equal(drawn[0][name], drawn[1][name])


def test_a_killed_run_ends_in_the_same_bits(work: Path) -> None:
    """Cut off after its second checkpoint, and continued with rows that are read as they are needed."""
    shutil.copytree(work / "run", work / "cut")
    config = yaml.safe_load((work / "run" / "config.yaml").read_text())
    (work / "cut" / "config.yaml").write_text(yaml.safe_dump({**config, "run": "cut"}))
    shutil.rmtree(work / "cut" / "model")
    shutil.rmtree(work / "cut" / "checkpoints" / "step-00000150")
    out = done(work, "resume", "cut", "--data.loader", "stream")
    assert "continued from step 100" in out
    weights, again = (load_file(work / name / "model" / "weights.safetensors") for name in ("run", "cut"))
    assert all(weights[name].equal(again[name]) for name in weights)


SHORT = ("--training.steps", "4", "--training.warmup_steps", "1")


def test_guidance_and_the_law_of_all_fields(work: Path, told: list[Condition | None]) -> None:
    done(work, "train", "config.yaml", *SHORT, "--objective.drop_condition", "0.5", "--run", "dropped")
    told.clear()
    done(work, "sample", "dropped", "--n", "2", "--steps", "1", "--out", "all.nc")
    assert told and all(condition is None for condition in told)
    told.clear()
    done(work, "sample", "dropped", "--n", "2", "--steps", "1", "--given", "data", "--guidance", "2", "--out", "led.nc")
    present = told[0].present if told[0] is not None else None
    assert present is not None and present.tolist() == [True, True, False, False]
    with xr.open_dataset(work / "led.nc", engine="h5netcdf") as found:
        assert found.attrs["guidance"] == 2
    refused(work, ("sample", "dropped", "--guidance", "2"), "guidance goes towards what a condition changes")


def test_numbers_on_the_command_line(work: Path, stored: Any, told: list[Condition | None]) -> None:
    only = ("--data.condition", "[viscosity]", "--data.past", "0", "--run", "numbers")
    done(work, "train", "config.yaml", *SHORT, *only)
    told.clear()
    done(work, "sample", "numbers", "--n", "2", "--steps", "1", "--numbers", "{viscosity: 0.75, regime: 2}")
    v = stored["train"]["viscosity"]
    assert told[0] is not None and told[0].scalars is not None and told[0].classes is not None
    np.testing.assert_allclose(told[0].scalars, np.full((2, 1), (0.75 - v.mean()) / v.std()), atol=2e-6)
    assert told[0].classes.tolist() == [2, 2]
    refused(work, ("sample", "numbers", "--numbers", "{viscosty: 1}"), "no number 'viscosty'", "viscosity")
    refused(work, ("sample", "numbers", "--numbers", "{viscosity: 1}"), "regime is missing")


def test_a_file_of_conditions_alone_is_enough(work: Path, told: list[Condition | None]) -> None:
    """Without past frames the model's own field need not be in the file: it is what is asked for."""
    done(work, "train", "config.yaml", *SHORT, "--data.past", "0", "--run", "maps")
    write(work / "only_k.hdf5", 3, seed=2, with_u=False)
    told.clear()
    done(work, "sample", "maps", "--n", "3", "--steps", "1", "--given", "only_k.hdf5", "--out", "maps.nc")
    with h5py.File(work / "only_k.hdf5") as file:
        k = np.asarray(file["t0_fields/k"], np.float32)
    with xr.open_dataset(work / "maps.nc", engine="h5netcdf") as found:
        np.testing.assert_array_equal(found["given.k"][0], k[0])


def test_the_past_alone_is_enough_to_forecast(work: Path, told: list[Condition | None]) -> None:
    """A file that ends where the forecast begins: its last frame is the past, as if the next had been in the file."""
    with h5py.File(work / "data/data/test/line.hdf5") as file:
        u, k = (np.asarray(file[f"t0_fields/{name}"], np.float32) for name in "uk")
        numbers = {name: np.asarray(file[f"scalars/{name}"]) for name in ("viscosity", "regime")}
    for name, frames in (("one.hdf5", u[:, 1:2]), ("two.hdf5", u[:, :2])):
        fields = {"k": FieldSpec("m^2", time_varying=False), "u": FieldSpec("m/s")}
        times = np.arange(frames.shape[1]) / 2
        with WellFile(work / name, fields, Grid((CELLS,), 1.0, "periodic"), 9, times, parameters=numbers) as out:
            out.write(0, {"k": k, "u": frames})
    done(work, "sample", "run", "--n", "9", "--steps", "2", "--given", "one.hdf5", "--out", "one.nc")
    # With u@-1 = frame 1 the test split's own samples are 1, 4, 7, ...
    with xr.open_dataset(work / "one.nc", engine="h5netcdf") as found:
        np.testing.assert_array_equal(found["given.u@-1"], u[:, 1])
        np.testing.assert_array_equal(found["given.k"], k)
        np.testing.assert_array_equal(found["number.viscosity"], numbers["viscosity"])
    two = FieldModel.load(work / "run")
    two.selection = replace(two.selection, frames=2)
    found = conditions_of(two, str(work / "two.hdf5"))
    np.testing.assert_array_equal(found.given[:, 0], u[:, 1])  # type: ignore[index]
    timed = replace(two.conditions, numbers=(*two.conditions.numbers, Told("time")))
    two.conditions, two.selection = timed, replace(two.selection, condition=(*two.selection.condition, "time"))
    with pytest.raises(ValueError, match=r"two.hdf5 has 1 past frames and no later one, and the model is told time at"):
        conditions_of(two, str(work / "two.hdf5"))


def test_a_sweep_over_what_is_told(work: Path) -> None:
    done(work, "train", "config.yaml", *SHORT, "--sweep", "data.past=0,2", "--run", "sweep")
    models = [FieldModel.load(folder) for folder in sorted((work / "sweep").iterdir()) if folder.is_dir()]
    assert [model.network.condition_channels for model in models] == [1, 3]


def test_windows_of_frames_crops_and_coarse_cells(work: Path, stored: Any) -> None:
    """Two frames, half as many cells: u@0 is the mean of neighbouring cells of its frame."""
    options = (
        "--data.frames",
        "2",
        "--data.coarsen",
        "2",
        "--data.window_stride",
        "2",
        "--data.symmetries",
        "[shift, flip]",
    )
    done(work, "train", "config.yaml", *SHORT, *options, "--run", "windows")
    model = FieldModel.load(work / "windows")
    assert model.names == ("u@0", "u@1") and model.grid.shape == (8,)
    assert model.selection.window_stride == 2
    done(work, "likelihood", "windows", "--probes", "2", "--method", "midpoint", "--steps", "2")
    data = load_fields(work / "data", split="test", selection=model.selection)
    means = stored["test"]["u"].reshape(9, 3, 8, 2).mean(-1)
    np.testing.assert_allclose(data.values, means[:, :2], atol=1e-6)  # frames 1 and 2 of each run


def test_files_without_splits_of_their_own(work: Path) -> None:
    """One file that is divided by run, and files by split; a model knows which part it was not trained on."""
    file = "data/data/train/line.hdf5"
    shares = ("--data.splits", "{train: 0.5, valid: 0.25, test: 0.25, seed: 3}")
    done(work, "train", "config.yaml", *SHORT, "--data.path", file, *shares, "--run", "shares")
    quick = ("--probes", "2", "--method", "midpoint", "--steps", "2")
    assert "45 fields" in done(work, "likelihood", "shares", *quick)  # a quarter of 60 runs of three samples
    # Named again it is the same data, divided in the same way: training runs are not scored as if they were new.
    assert "45 fields" in done(work, "likelihood", "shares", "--data", str(work / file), *quick)
    assert "90 fields" in done(work, "likelihood", "shares", "--data", file, "--split", "train", *quick)
    assert "180 fields" in done(work, "likelihood", "shares", "--data", "data", "--split", "train", *quick)
    paths = "{train: data/data/train/*.hdf5, valid: data/data/valid/line.hdf5, test: [data/data/test/line.hdf5]}"
    done(work, "train", "config.yaml", *SHORT, "--data.path", paths, "--run", "paths")
    assert "27 fields" in done(work, "likelihood", "paths", *quick)
    with xr.open_dataset(work / "paths" / "likelihood.nc", engine="h5netcdf") as found:
        folder = FieldModel.load(work / "paths")
        data = load_fields(work / "data", split="test", selection=folder.selection)
        own = folder.log_likelihood(data, probes=2, method="midpoint", steps=2)
        np.testing.assert_allclose(found["log_prob"], own["log_prob"], rtol=1e-9)


def test_a_file_of_ones_own_layout(work: Path, tmp_path: Path) -> None:
    """What the YAML file says goes with the model, so that it may be lost."""
    u = np.random.default_rng(0).normal(size=(8, FRAMES, CELLS))
    with h5py.File(tmp_path / "mine.h5", "w") as file:
        file["state/u"], file["nu"] = u, np.linspace(1, 2, 8)
    layout = {
        "fields": {"u": ["/state/u", "m/s"]}, "dims": ["trajectory", "time", "x"], "extent": 1.0,
        "boundary": "periodic", "scalars": {"nu": "/nu"}, "time": 0.5,
    }  # fmt: skip
    (tmp_path / "layout.yaml").write_text(yaml.safe_dump(layout))
    told = {
        "path": "mine.h5",
        "layout": "layout.yaml",
        "condition": ["nu"],
        "splits": {"train": 0.5, "valid": 0.25, "test": 0.25},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "data": told}))
    done(tmp_path, "train", "config.yaml", *SHORT)
    (tmp_path / "layout.yaml").unlink()
    quick = ("--probes", "2", "--method", "midpoint", "--steps", "2")
    assert "8 fields" in done(tmp_path, "likelihood", "run", *quick)
    done(tmp_path, "sample", "run", "--n", "2", "--steps", "1", "--given", "mine.h5")


def test_misspelt_settings_name_the_nearest(work: Path) -> None:
    for option, value, words in (
        ("--data.conditon", "[k]", ("'data.conditon'", "data.condition")),
        ("--data.condition", "[viscosty]", ("viscosty", "viscosity")),
        ("--data.classes", "regim", ("regim",)),
        ("--data.symmetries", "[flipp]", ("no symmetry 'flipp'", "flip")),
        ("--data.splits", "{tran: 0.5}", ("tran", "train")),
        ("--data.loader", "memry", ("memory",)),
        ("--data.layout", "{dimz: [x]}", ("dimz", "dims")),
        ("--network.scalars", "3", ("network.scalars is 3, and the data tells 1",)),
    ):
        refused(work, ("train", "config.yaml", option, value, "--run", "none"), *words)
    assert not (work / "none").exists()


def test_a_condition_that_is_always_the_same_is_remarked(work: Path, tmp_path: Path) -> None:
    for split in ("train", "valid"):
        rng = np.random.default_rng(3)
        with WellFile(
            tmp_path / "data" / "data" / split / "a.hdf5", {"u": FieldSpec()}, Grid((CELLS,), 1.0, "periodic"), 4,
            np.arange(3.0), parameters={"viscosity": np.full(4, 0.3)},
        ) as out:  # fmt: skip
            out.write(0, {"u": rng.normal(size=(4, 3, CELLS))})
    told = {"path": "data", "condition": ["viscosity", "time"]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "data": told}))
    code, _, err = run(tmp_path, "train", "config.yaml", *SHORT)
    assert code == 0 and "'viscosity' is the same in all training samples" in err, err
    numbers = FieldModel.load(tmp_path / "run").conditions.numbers
    assert (numbers[0].mean, numbers[0].std) == (0.3, 1.0)
    np.testing.assert_allclose((numbers[1].mean, numbers[1].std), (1.0, np.sqrt(2 / 3)), rtol=1e-12)
