"""Trackers: every record once, and none of them can stop a run."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from physdiff.training import TrainSettings, read_metrics, train
from physdiff.training.metrics import Record
from physdiff.training.trackers import Careful, check_trackers, flat, open_trackers

SETTINGS = TrainSettings(steps=6, batch_size=2, log_every=2, validate_every=3, seed=1)
DATA = torch.randn(4, 1, 8, generator=torch.Generator().manual_seed(0))

FAKE = """
class Fake:
    made = []

    def __init__(self, folder, settings):
        self.folder, self.settings, self.seen, self.closed = folder, settings, [], 0
        Fake.made.append(self)

    def log(self, step, record):
        self.seen.append((step, dict(record)))
        if step == self.settings.get("fails_at"):
            raise ConnectionError("the service is down")

    def close(self):
        self.closed += 1
        if self.settings.get("fails_at") == "close":
            raise OSError("cannot close")


class Broken:
    def __init__(self, folder, settings):
        raise RuntimeError("no account")

    def log(self, step, record): ...
    def close(self): ...


class Deaf:
    def close(self): ...
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file of trackers in the current folder; how it is named."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_trackers.py").write_text(FAKE)
    monkeypatch.delitem(sys.modules, "my_trackers", raising=False)
    return "my_trackers"


def made() -> list[Any]:
    return sys.modules["my_trackers"].Fake.made


def loss(module: nn.Module, x: Tensor, draws: Any) -> Tensor:
    return (module(x) - x).square().mean((1, 2))


def launch(folder: Path, names: tuple[str, ...], settings: Mapping[str, Any]) -> list[Record]:
    torch.manual_seed(0)
    trackers = open_trackers(names, folder, settings)
    train(nn.Conv1d(1, 1, 3, padding=1), loss, DATA, DATA, SETTINGS, folder, trackers=trackers, progress=False)
    return [{**record, "seconds": 0} for record in read_metrics(folder / "metrics.jsonl")]


def test_a_tracker_is_told_every_record_once_with_its_step_and_closed(tmp_path: Path, own: str) -> None:
    records = launch(tmp_path / "run", (f"{own}.Fake", f"{own}.Fake"), {"training": {"steps": 6}})
    (fake,) = made()  # named twice, made once
    assert fake.folder == tmp_path / "run" and fake.settings == {"training": {"steps": 6}} and fake.closed == 1
    assert [step for step, _ in fake.seen] == [2, 3, 4, 6]
    assert [{**record, "seconds": 0} for _, record in fake.seen] == records
    assert all(record["step"] == step for step, record in fake.seen)


@pytest.mark.parametrize(("fails_at", "seen"), [(3, [2, 3]), ("close", [2, 3, 4, 6])])
def test_a_failing_tracker_is_told_of_once_and_the_run_goes_on(
    tmp_path: Path, own: str, fails_at: int | str, seen: list[int]
) -> None:
    alone = launch(tmp_path / "alone", (), {})
    with pytest.warns(UserWarning, match=r"'my_trackers\.Fake' failed and is left alone \(\w+: ") as told:
        assert launch(tmp_path / "run", (f"{own}.Fake",), {"fails_at": fails_at}) == alone
    assert len(told) == 1
    (fake,) = made()
    assert [step for step, _ in fake.seen] == seen


def test_a_tracker_that_cannot_be_made_is_told_of_once(tmp_path: Path, own: str) -> None:
    alone = launch(tmp_path / "alone", (), {})
    with pytest.warns(UserWarning, match=r"'my_trackers\.Broken' failed .*RuntimeError: no account") as told:
        assert launch(tmp_path / "run", (f"{own}.Broken",), {}) == alone
    assert len(told) == 1


def test_an_interruption_is_no_failure_of_a_tracker() -> None:
    class Interrupted:
        def log(self, step: int, record: Record) -> None:
            raise KeyboardInterrupt

        def close(self) -> None:
            raise AssertionError

    with pytest.raises(KeyboardInterrupt), warnings.catch_warnings():
        warnings.simplefilter("error")
        Careful("interrupted", Interrupted).log(1, {"step": 1})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensorbord", r"unknown tracker 'tensorbord'\. Did you mean 'tensorboard'\?"),
        ("jsonl", r"metrics\.jsonl is always written"),
        ("nothing.at_all", r"tracker 'nothing\.at_all': there is no module 'nothing'"),
        ("my_trackers.Deaf", r"Deaf has no log; it needs log\(step, record\) and close\(\)"),
    ],
)
def test_unknown_trackers_are_refused_before_anything_runs(own: str, tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_trackers([name], tmp_path)
    with pytest.raises(ValueError, match=message):
        check_trackers(["my_trackers.Fake", name])


@pytest.mark.parametrize(
    ("name", "package"), [("wandb", "wandb"), ("comet_ml", "comet-ml"), ("tensorboard", "tensorboard")]
)
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str) -> None:
    monkeypatch.setattr("physdiff.training.trackers.get_available_trackers", list)
    with pytest.raises(ValueError, match=rf"^tracker '{name}' needs a package: pip install {package}\.$"):
        open_trackers([name], tmp_path)


def test_nested_values_get_one_name_each() -> None:
    values = {"a": {"b": 1, "c": {"d": "x"}}, "levels": [0.5, 0.25], "none": None}
    assert flat(values) == {"a/b": 1, "a/c/d": "x", "levels/0": 0.5, "levels/1": 0.25, "none": None}
