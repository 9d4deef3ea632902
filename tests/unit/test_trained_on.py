"""What a model remembers of its data: read again from anywhere, refused where it would be other data unnoticed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from physdiff import FieldModel
from physdiff.commands.model_data import conditions_of, data_of
from physdiff.config import RunSettings
from physdiff.data import fingerprint
from physdiff.data.settings import DataSettings
from physdiff.data.trained_on import frame_steps, located
from physdiff.model import NetworkSettings
from physdiff.processes.heat import Heat
from physdiff.training.job import kept, prepare
from physdiff.training.settings import TrainSettings

SHARES: dict[str, int | float] = {"train": 0.6, "valid": 0.2, "test": 0.2}
LAYOUT = {"fields": {"u": "u"}, "dims": ["trajectory", "time", "x"], "extent": [1], "boundary": "periodic", "time": "t"}


def write(path: Path, seed: int, step: float = 0.1, runs: int = 10, frames: int = 5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    u = np.random.default_rng(seed).standard_normal((runs, frames, 8))
    np.savez(path, u=u, t=step * np.arange(frames))


def trained(**settings: Any) -> tuple[FieldModel, tuple[str, ...]]:
    """A model before its first step, as a run would keep it; and remarks on its data."""
    data = DataSettings(**{"path": "runs/*.npz", "splits": SHARES, "layout": LAYOUT, **settings})
    told = RunSettings(data, TrainSettings(steps=1, batch_size=4), NetworkSettings(width=4, multipliers=(1,)))
    job = prepare(Heat, told)
    return replace(job.model, card={**job.model.card, "settings": kept(told)}), job.remarks


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    for seed in range(2):
        write(folder / f"runs/{seed}.npz", seed)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(folder)
    return folder


def test_the_spectrum_is_that_of_the_values(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames are exchanged where no digest looks: mean and spread stay, the kept spectrum is another's."""
    monkeypatch.setattr(fingerprint, "ALL_UP_TO", 0)
    monkeypatch.setattr(fingerprint, "PROBES", 1)
    monkeypatch.setattr("physdiff.data.data_identity._add_file", lambda *_: None)
    shares = {"train": 0.8, "valid": 0.1, "test": 0.1}
    # Whole numbers of mean 0, whose sums are exact in any order: the units of training stay bit for bit.
    half = np.random.default_rng(0).integers(-9, 10, (10, 5, 4)).astype(float)
    arrays = {"u": np.concatenate([half, -half], axis=2), "t": 0.1 * np.arange(5)}
    np.savez(project / "runs/0.npz", **arrays)
    before = trained(path="runs/0.npz", splits=shares)[0].denoiser.path.reference.spectrum
    arrays["u"][:, 1:] = np.sort(arrays["u"][:, 1:])
    np.savez(project / "runs/0.npz", **arrays)
    after = trained(path="runs/0.npz", splits=shares)[0].denoiser.path.reference.spectrum
    assert not torch.allclose(after, before, rtol=0.1)


def test_a_test_part_of_which_runs_were_trained_on_is_refused(project: Path) -> None:
    model, _ = trained()
    before = data_of(model)[0]
    assert len(before) == 4 * 5
    (project / "runs/1.npz").rename(project / "other.npz")
    write(project / "runs/2.npz", 2)  # as many runs, in other files
    with pytest.raises(ValueError, match=r"added or taken away since the model was trained.*Name data of its own"):
        data_of(model)
    (project / "other.npz").rename(project / "runs/1.npz")
    for part in ("test", "train"):
        with pytest.raises(ValueError, match="added or taken away"):
            data_of(model, split=part)
    assert len(data_of(model, "runs/2.npz")[0]) == 50  # all of it is new
    (project / "runs/2.npz").unlink()
    assert np.array_equal(data_of(model)[0].values, before.values)


def test_data_is_found_from_another_folder(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, _ = trained(path="runs/0.npz")
    test = data_of(model)[0].values
    assert capsys.readouterr().err == ""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert np.array_equal(data_of(model)[0].values, test)
    said = capsys.readouterr().err
    assert said == f"data: there is no 'runs/0.npz' here; read from {project}, where the model was trained\n"
    # Named itself, it is divided as it was, and not all of it a test.
    for name in ("../project/runs/0.npz", str(project / "runs/0.npz")):
        assert np.array_equal(data_of(model, name)[0].values, test)
    write(elsewhere / "runs/0.npz", 7)
    capsys.readouterr()
    assert not np.array_equal(data_of(model)[0].values, test)
    assert "is read from this folder; the model was trained in" in capsys.readouterr().err
    monkeypatch.chdir(project)
    project.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    assert np.array_equal(data_of(model)[0].values, test)
    assert located({"train": ["runs/0.npz"], "test": "runs/1.npz"}, str(tmp_path / "moved")) == (
        {"train": ["runs/0.npz"], "test": "runs/1.npz"}, [],
    )  # fmt: skip


def test_parts_by_name_are_found_from_another_folder(project: Path, tmp_path: Path) -> None:
    path: dict[str, str | list[str]] = {"train": ["a/*.npz", "runs/0.npz"], "test": "runs/1.npz"}
    there = tmp_path / "project2"
    write(there / "a/0.npz", 0)
    write(there / "runs/1.npz", 1)
    found, said = located(path, str(there))
    assert found == {"train": [str(there / "a/*.npz"), "runs/0.npz"], "test": "runs/1.npz"} and len(said) == 2


def test_frames_that_are_unequally_far_apart_are_remarked_on(project: Path) -> None:
    assert not [line for line in trained(past=1)[1] if "apart" in line]
    write(project / "runs/1.npz", 1, step=0.2)
    remarks = [line for line in trained(past=1, time_stride=2)[1] if "apart" in line]
    assert remarks == [
        "the frames of a sample are 0.2 to 0.4 apart in time, and the model takes them for equally far apart: it "
        "learns a mixture of these steps"
    ]
    assert not [line for line in trained()[1] if "apart" in line]  # one frame


def test_data_of_other_steps_is_refused(project: Path) -> None:
    model, _ = trained(past=1)
    write(project / "slow.npz", 5, step=0.2)
    write(project / "same.npz", 5, step=0.1 * (1 + 1e-4))
    write(project / "short.npz", 5, frames=1)
    assert len(data_of(model, "same.npz")[0]) == 40 and len(conditions_of(model, "short.npz")) == 10
    for read in (data_of, conditions_of):
        with pytest.raises(ValueError, match=r"slow\.npz has frames 0\.2 apart in time; those that the .* 0\.1 apart"):
            read(model, "slow.npz")
    assert len(data_of(trained()[0], "slow.npz")[0]) == 50
    assert frame_steps([]) is None


def test_a_model_of_an_older_version_reads_its_data(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = trained(past=1)
    for name in ("home", "division", "frame_step"):
        del model.card[name]
    assert len(data_of(model)[0]) == 4 * 4
    monkeypatch.chdir(project.parent)
    with pytest.raises(FileNotFoundError, match=r"no file or folder 'runs/\*\.npz'"):
        data_of(model)
