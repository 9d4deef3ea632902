"""Data with a coast, and data with holes: fitted, trained, sampled and scored in the observed cells."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from safetensors.torch import load_file
from scipy.stats import multivariate_normal

from physdiff import FieldModel, GaussianField, Grid, SpectralBasis, cli, load_fields
from physdiff.condition import Condition
from physdiff.config import DataSettings, RunSettings
from physdiff.data.selection import Selection
from physdiff.model import NetworkSettings
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.randomness import keyed_generator
from physdiff.training import TrainSettings
from physdiff.training.job import prepare

GRID = Grid((12, 8), (1.2, 0.8), ("periodic", "neumann"))
N = 160


def whole_fields() -> np.ndarray:
    """Smooth temperatures around 280 K."""
    basis = SpectralBasis(GRID)
    law = GaussianField.matern(basis, 0.3, 1.0)
    law = GaussianField(basis, law.mean, law.spectrum + 0.02)
    return 280 + 3 * law.sample(N, keyed_generator(0, "fields"))[:, 0].numpy()


def land() -> np.ndarray:
    """A quarter of the box, without values."""
    mask = np.zeros(GRID.shape, dtype=bool)
    mask[:6, :4] = True
    return mask


def write(folder: Path, values: np.ndarray) -> None:
    """One file a split, as xarray writes it."""
    parts = {"train": slice(0, 112), "valid": slice(112, 136), "test": slice(136, N)}
    for split, rows in parts.items():
        file = folder / "data" / split / "t.nc"
        file.parent.mkdir(parents=True)
        xr.Dataset(
            {"t": (("trajectory", "x", "y"), values[rows], {"units": "K"})},
            coords={"x": GRID.coordinate(0), "y": GRID.coordinate(1)},
        ).to_netcdf(file, engine="h5netcdf")


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.chdir(folder)
    assert cli.run(list(words)) == 0


def config(folder: Path, **data: Any) -> None:
    settings = {
        "process": "VariancePreserving",
        "data": {"path": "set", "boundary": "neumann", "mask": "nan", "noise_level": 0.05, **data},
        "network": {"width": 4, "multipliers": [1, 2]},
        "training": {"steps": 12, "batch_size": 8, "validate_every": 6, "checkpoint_every": 6, "log_every": 3},
        "run": "run",
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))


@pytest.fixture
def coast(tmp_path: Path) -> Path:
    values = whole_fields()
    values[:, land()] = np.nan
    write(tmp_path / "set", values)
    config(tmp_path)
    return tmp_path


def test_a_coast(coast: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(coast, monkeypatch, "train", "config.yaml")
    model = FieldModel.load("run")
    assert model.observed is not None and np.array_equal(model.observed[0].numpy(), ~land())
    run(coast, monkeypatch, "sample", "run", "--n", "5", "--steps", "3")
    samples = xr.load_dataset("run/samples.nc", engine="h5netcdf")["t"].values
    assert np.isnan(samples[:, land()]).all() and np.isfinite(samples[:, ~land()]).all()
    assert 270 < samples[:, ~land()].mean() < 290
    run(coast, monkeypatch, "likelihood", "run", "--probes", "exact", "--limit", "3")
    scores = xr.load_dataset("run/likelihood.nc", engine="h5netcdf")
    assert scores.attrs["cells"] == "observed" and (scores["n_observed"] == 72).all()
    # After 12 steps the model is still near its reference.
    assert float(np.abs(scores["relative_to_reference"]).max()) < 20
    said = capsys.readouterr().out
    mean = float(scores["log_prob"].mean())
    assert "3 fields, their 72 observed cells alone: mean log-density of these, a lower bound from 4 draws" in said
    assert f"{mean:.2f} nats ({mean / 72:.4f} per observed cell)" in said
    with pytest.raises(ValueError, match=r"bits per dimension \(--quantum\) are defined for whole fields"):
        cli.run(["likelihood", "run", "--quantum", "0.1"])
    few = ("--settings.likelihood_fields", "2", "--settings.samples", "4", "--settings.sample_steps", "2")
    run(coast, monkeypatch, "evaluate", "run", *few)
    caveat = "25 % of the held-out values are missing; they are filled by draws"
    assert caveat in capsys.readouterr().out and caveat in Path("run/report.html").read_text()


def test_an_untrained_model_scores_observed_cells_exactly(coast: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the dense normal law of the observed cells, in kelvin."""
    run(coast, monkeypatch, "train", "config.yaml")
    model = FieldModel.load("run").untrained()
    data = load_fields("set", split="test", boundary="neumann", selection=Selection(mask="nan")).first(4)
    scores = model.log_likelihood(data, probes="exact", scored="field", draws=1)
    path = model.denoiser.path
    u = path.basis.dense()
    point = path.at(path.t_min)
    spectrum = (point.variance * torch.exp(-2 * point.log_gain.real)).expand_as(path.reference.spectrum)[0]
    covariance = u @ torch.diag(spectrum.flatten()) @ u.T
    std, offset = (float(x[0]) for x in (model.normaliser.std, model.normaliser.mean))  # type: ignore[attr-defined]
    mean = offset + std * (u @ path.reference.mean[0].flatten())
    known = torch.from_numpy(~land()).flatten()
    law = multivariate_normal(mean[known].numpy(), (std**2 * covariance)[known][:, known].numpy())
    expected = law.logpdf(data.values[:, 0].reshape(4, -1)[:, known.numpy()])
    np.testing.assert_allclose(scores["log_prob"], expected, rtol=1e-7)
    np.testing.assert_allclose(scores["per_dimension"], expected / 72, rtol=1e-7)
    # The reference was fitted to these fields' law: the density is near the true one, far from a wrong one.
    assert abs(float(scores["per_dimension"].mean()) - float(law.logpdf(law.mean)) / 72 + 0.5) < 0.2


def test_holes_that_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All loaders train to the same bits; samples are whole; the fitted law is that of the whole fields."""
    values = whole_fields()
    values[np.random.default_rng(1).random(values.shape) < 0.2] = np.nan
    write(tmp_path / "set", values)
    config(tmp_path)
    losses = []
    for loader in ("memory", "stream", "mmap"):
        run(tmp_path, monkeypatch, "train", "config.yaml", "--run", loader, "--data.loader", loader)
        lines = [json.loads(line) for line in Path(loader, "metrics.jsonl").read_text().splitlines()]
        losses.append([(line["loss"], line["gradient_norm"]) for line in lines])
    assert losses[0] == losses[1] == losses[2] and len(losses[0]) >= 4
    # Cut off after the first checkpoint, and continued by a loader that fills what it reads anew.
    shutil.rmtree("mmap/model")
    shutil.rmtree("mmap/checkpoints/step-00000012")
    run(tmp_path, monkeypatch, "resume", "mmap", "--data.loader", "stream")
    weights, again = (load_file(f"{name}/model/weights.safetensors") for name in ("memory", "mmap"))
    assert all(weights[name].equal(again[name]) for name in weights)
    model = FieldModel.load("memory")
    assert model.observed is None
    assert np.isfinite(model.sample(2, steps=2)["t"].values).all()
    data = load_fields("set", split="test", boundary="neumann", selection=Selection(mask="nan")).first(2)
    scores = model.log_likelihood(data, probes=2, draws=2, steps=4)
    assert list(scores["n_observed"].values) == [int(np.isfinite(v).sum()) for v in data.values]
    with pytest.raises(ValueError, match="has cells that are not observed; log_likelihood scores the others"):
        model.elbo(data)


def test_whole_fields_among_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk of fields without a hole is scored beside those with holes, and each field as if it were alone."""
    values = whole_fields()
    values[:130:3, 2:5, 1:4] = np.nan
    values[140, 3:9, 2:6] = np.nan
    values[N - 1, :2] = np.nan
    write(tmp_path / "set", values)
    config(tmp_path)
    run(tmp_path, monkeypatch, "train", "config.yaml")
    few = ("--probes", "2", "--method", "rk4", "--steps", "3", "--draws", "3")
    for chunk in (2, 24):
        run(tmp_path, monkeypatch, "likelihood", "run", *few, "--chunk", str(chunk), "--out", f"{chunk}.nc")
    parts, once = (xr.load_dataset(f"{chunk}.nc", engine="h5netcdf") for chunk in (2, 24))
    missing = np.isnan(values[136:]).reshape(24, -1).sum(1)
    for scores in (parts, once):
        assert scores.attrs["cells"] == "observed"
        np.testing.assert_array_equal(scores["n_observed"], 96 - missing)
    for name in ("log_prob", "standard_error", "log_prob_reference", "per_dimension"):
        np.testing.assert_allclose(parts[name], once[name], rtol=1e-6, atol=1e-6, err_msg=name)  # float32 network
    model = FieldModel.load("run")
    data = load_fields("set", split="test", boundary="neumann", selection=Selection(mask="nan"))
    alone = [
        model.log_likelihood(data.rows(slice(i, i + 1)), first=i, probes=2, method="rk4", steps=3, draws=3)
        for i in (1, 4)
    ]
    np.testing.assert_allclose([float(s["log_prob"][0]) for s in alone], once["log_prob"][[1, 4]], rtol=1e-6)


def test_a_nan_that_nobody_announced(coast: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config(coast, mask=None)
    monkeypatch.chdir(coast)
    with pytest.raises(ValueError, match=r"t\.nc.*'t'.* nan .*mask"):
        cli.run(["train", "config.yaml"])
    for word in ("flip", "shift"):
        config(coast, symmetries=[word])
        with pytest.raises(ValueError, match=f"symmetries {word} are not for data with missing cells"):
            cli.run(["train", "config.yaml"])
    config(coast, homogeneous=True, boundary="periodic")
    job = prepare(VariancePreserving, settings())
    assert job.augment is None and any("fields are not shifted at random" in remark for remark in job.remarks)


def test_conditions_have_a_coast_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Past frames and maps without values on land: the model is told their mean there, whatever else is missing."""
    values = whole_fields().reshape(40, 4, *GRID.shape)
    values[..., land()] = np.nan
    values[3, 2, 9, 6] = np.nan
    depth = whole_fields()[0]
    depth[land()] = np.nan
    coords = {"x": GRID.coordinate(0), "y": GRID.coordinate(1), "time": np.arange(4.0)}
    xr.Dataset(
        {"t": (("trajectory", "time", "x", "y"), values, {"units": "K"}), "depth": (("x", "y"), depth)}, coords=coords
    ).to_netcdf(tmp_path / "t.nc", engine="h5netcdf")
    config(
        tmp_path, path="t.nc", splits={"train": 0.6, "valid": 0.2, "test": 0.2}, fields=["t"], past=1,
        condition=["depth"],
    )  # fmt: skip
    run(tmp_path, monkeypatch, "train", "config.yaml")
    assert "'depth' has cells without a value, where the model is told its mean" in capsys.readouterr().err
    model = FieldModel.load("run")
    told = prepare(VariancePreserving, settings()).train.batch(torch.arange(72))[1]
    assert isinstance(told, Condition) and told.fields is not None and told.fields.shape == (72, 2, *GRID.shape)
    past, map_ = told.fields[:, 0].numpy(), told.fields[:, 1].numpy()
    assert (past[:, land()] == 0).all() and (map_[:, land()] == 0).all()
    sea, rest = depth[~land()], map_[:, ~land()]
    np.testing.assert_allclose(rest, np.broadcast_to((sea - sea.mean()) / sea.std(), rest.shape), atol=1e-5)
    run(tmp_path, monkeypatch, "sample", "run", "--n", "2", "--steps", "2", "--given", "t.nc")
    with xr.open_dataset("run/samples.nc", engine="h5netcdf") as found:
        np.testing.assert_array_equal(found["given.depth"][1], depth)
        assert np.isfinite(found["t"].values[:, ~land()]).all() and np.isnan(found["t"].values[:, land()]).all()
    # The mask of run 3 is another: with it among them, the mask is not that of all samples.
    assert (model.observed is None) == (3 in model_runs())
    run(tmp_path, monkeypatch, "likelihood", "run", "--data", "run/samples.nc", "--probes", "2", "--steps", "2")


def settings() -> RunSettings:
    """Those of `config.yaml`."""
    said = yaml.safe_load(Path("config.yaml").read_text())
    return RunSettings(
        DataSettings(**said["data"]), TrainSettings(**said["training"]), NetworkSettings(**said["network"])
    )


def model_runs() -> np.ndarray:
    """Numbers of the runs that are trained on."""
    fields = settings().data.open("train")
    return fields.trajectories(np.arange(len(fields)))


def test_a_mask_that_differs_where_nobody_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference is fitted to some samples; that another has more cells is known from the statistics."""
    monkeypatch.setattr("physdiff.data.masked_reference.MOST", 16)
    monkeypatch.chdir(tmp_path)
    values = whole_fields()
    values[:, land()] = np.nan
    values[1, 2, 2] = 280.0  # sample 1 is none of 16 that are spread over 112
    write(tmp_path / "set", values)
    config(tmp_path)
    job = prepare(VariancePreserving, settings())
    assert job.model.observed is None
    assert any("the Gaussian reference is that of 16 of 112 samples" in remark for remark in job.remarks)
    values[1, 2, 2] = np.nan
    write(tmp_path / "same", values)
    config(tmp_path, path="same")
    assert prepare(VariancePreserving, settings()).model.observed is not None


def test_a_sample_without_any_value_is_named(coast: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = whole_fields()
    values[:, land()] = np.nan
    values[5] = np.nan
    write(coast / "bad", values)
    config(coast, path="bad")
    monkeypatch.chdir(coast)
    with pytest.raises(
        ValueError, match=r"train/t\.nc: no cell of 't' has a value in trajectory 5, frame 0, cells x 0"
    ):
        cli.run(["train", "config.yaml"])
    values[5], values[N - 2] = values[6], np.nan
    write(coast / "worse", values)
    config(coast, path="worse")
    run(coast, monkeypatch, "train", "config.yaml")
    with pytest.raises(ValueError, match=r"worse: no cell of 't' has a value in sample 22 \(trajectory 22, time 0\)"):
        cli.run(["likelihood", "run"])


def test_statistics_of_observed_cells_are_those_of_training(
    coast: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(coast, monkeypatch, "data", "stats", "set", "--boundary", "neumann", "--mask", "nan")
    assert f"{112 * 24} missing" in capsys.readouterr().out
    monkeypatch.delattr("physdiff.data.statistics_file.measure")  # what was kept is found
    assert prepare(VariancePreserving, settings()).model.observed is not None


def test_a_simulated_process_says_what_it_cannot(coast: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It trains and draws with a coast; the density of the observed cells alone is not known."""
    run(coast, monkeypatch, "train", "config.yaml", "--process", "AllenCahn")
    run(coast, monkeypatch, "sample", "run", "--n", "2", "--steps", "4")
    with pytest.raises(ValueError, match="their likelihood is that of linear processes, not of one that is simulated"):
        cli.run(["likelihood", "run"])
