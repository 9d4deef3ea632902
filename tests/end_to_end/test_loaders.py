"""One training run, whatever keeps its data: the same bits in memory, mapped and streamed, killed and taken up."""

from __future__ import annotations

import json
import os
import signal
import threading
from functools import cache, partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from physdiff.condition import Condition
from physdiff.data.fields import open_fields
from physdiff.data.fieldset import FieldSet
from physdiff.data.formats.the_well_writer import write_the_well
from physdiff.data.order import ChunkOrder
from physdiff.data.preparation import Preparation
from physdiff.data.rows import Rows, rows_of
from physdiff.data.selection import Selection
from physdiff.data.statistics_file import statistics_of
from physdiff.grid import Grid
from physdiff.networks import UNet
from physdiff.randomness import RowDraws
from physdiff.training import TrainSettings, complete_checkpoints, read_metrics, train
from physdiff.training.augment import shift_at_random

GRID = Grid(9)
SETTINGS = TrainSettings(
    steps=18, batch_size=6, accumulate=2, warmup_steps=2, log_every=3, checkpoint_every=4, validate_every=9,
    validation_batch=5, seed=3,
)  # fmt: skip
# Two frames after one, and the run's number: 100 training samples, so that 18 steps are an epoch and a bit.
SELECTION = Selection(fields=("u",), frames=2, past=1, condition=("nu",))
AHEAD = ("memory pinned", "mmap pinned ahead", "stream ahead", "stream pinned ahead")
LOADERS = ("memory", "mmap", "stream", "stream with 2 workers", *AHEAD)


def write(folder: Path) -> None:
    """Runs of an advected wave, each in one compressed chunk; read in the order of chunks unless told otherwise."""
    for split, runs in (("train", 10), ("valid", 2)):
        draws = np.random.default_rng([7, runs])
        phase, frame, x = draws.random((runs, 1, 1)) * 6, np.arange(12)[:, None], np.arange(9)
        u = np.sin(phase + 0.3 * frame + 2 * np.pi * x / 9) + 0.1 * draws.standard_normal((runs, 12, 9))
        u = u.astype(np.float32)
        path = folder / "data" / split / "waves.hdf5"
        write_the_well(path, {"u": u}, GRID, parameters={"nu": draws.random(runs)})
        with h5py.File(path, "r+") as file:
            group = file["t0_fields"]
            assert isinstance(group, h5py.Group)
            attrs = dict(group["u"].attrs)
            del group["u"]
            group.create_dataset("u", data=u, chunks=(1, 12, 9), compression="gzip").attrs.update(attrs)


def loss(module: torch.nn.Module, x: Tensor, draws: RowDraws, condition: Condition) -> Tensor:
    """A denoiser's, on the fields of the condition too."""
    assert condition.fields is not None and condition.scalars is not None
    noise = draws.normal(*x.shape[1:], dtype=torch.float32)
    t = draws.uniform().float()
    guess = module(torch.cat([x + t.reshape(-1, 1, 1) * noise, condition.fields], 1), t)[:, :2]
    return (guess - x).square().mean((1, 2)) * (1 + condition.scalars[:, 0].abs())


@cache
def preparation(path: str) -> Preparation:
    fields = open_fields(path, split="train", selection=SELECTION)
    return Preparation.fit(fields, statistics_of(fields, store=False))


def rows(data: Path, split: str, loader: str, order: str) -> Rows:
    fields: FieldSet = open_fields(data, split=split, selection=SELECTION)
    kind, workers = loader.split()[0], 2 if "workers" in loader else 0
    return rows_of(
        fields, preparation(str(data)), kind, workers, cache=data / "cache", order=order,  # pyright: ignore
        is_pinned="pinned" in loader, reads_ahead="ahead" in loader,
    )  # fmt: skip


def launch(data: Path, folder: Path, loader: str, order: str = "auto", killed_at: int | None = None) -> Any:
    """A launch of the run; in a process of its own that is killed in a step, if told."""
    calls = 0

    def killing(*arguments: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss(*arguments)

    def run() -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = UNet(GRID, 3, width=4, multipliers=(1, 2), dropout=0.1)
        learnt, held_out = (rows(data, split, loader, order) for split in ("train", "valid"))
        return train(
            module, killing, learnt, held_out, SETTINGS, folder, augment=partial(shift_at_random, GRID), progress=False,
        )  # fmt: skip

    if killed_at is None:
        return run()
    child = os.fork()
    if child == 0:
        try:
            run()
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    return None


def end_state(folder: Path) -> dict[str, Any]:
    """All numbers that a run leaves on disk, bit by bit, but for the clock."""
    newest = complete_checkpoints(folder)[-1]
    state = json.loads((newest / "state.json").read_text())
    del state["tally"]["seconds"], state["digests"]["state"]
    weights = {path.name: path.read_bytes() for path in sorted(newest.glob("*.safetensors"))}
    curve = [{**record, "seconds": 0} for record in read_metrics(folder / "metrics.jsonl")]
    assert len(weights) >= 3 and len(curve) == 6
    return {"name": newest.name, "state": state, "curve": curve, **weights}


@pytest.fixture(autouse=True)
def stand_in_for_pinning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pinning itself needs a GPU; batches are copied as often and at the same place."""
    monkeypatch.setattr("physdiff.data.ahead.pin", Tensor.clone)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("waves")
    write(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the run in memory ends in, by order."""
    found = {}
    for order in ("chunks", "full"):
        folder = tmp_path_factory.mktemp(order)
        launch(data, folder, "memory", order)
        found[order] = end_state(folder)
    return found


def test_compressed_runs_are_read_by_chunks(data: Path, undisturbed: dict[str, dict[str, Any]]) -> None:
    found = rows(data, "train", "stream", "auto")
    assert isinstance(found.order, ChunkOrder) and len(found) == 100
    assert undisturbed["chunks"]["curve"] != undisturbed["full"]["curve"]


@pytest.mark.parametrize("order", ["chunks", "full"])
@pytest.mark.parametrize("loader", LOADERS[1:])
def test_the_curve_is_that_of_data_in_memory(
    data: Path, tmp_path: Path, undisturbed: dict[str, dict[str, Any]], loader: str, order: str
) -> None:
    launch(data, tmp_path, loader, order)
    assert end_state(tmp_path) == undisturbed[order]
    assert "reads ahead" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize(
    "loaders",
    [
        ("stream with 2 workers", "mmap", "memory"),
        ("memory", "stream", "stream with 2 workers"),
        ("stream ahead", "mmap pinned ahead", "stream pinned ahead"),
    ],
    ids=["from the disk up", "from memory down", "by a thread"],
)
def test_a_run_that_was_killed_goes_on_with_another_loader(
    data: Path, tmp_path: Path, undisturbed: dict[str, dict[str, Any]], loaders: tuple[str, ...]
) -> None:
    first, second, third = loaders
    # Calls of the loss: two a step, one to begin, two in validation: killed in step 6, then in step 12 (from 4 on).
    launch(data, tmp_path, first, killed_at=14)
    assert complete_checkpoints(tmp_path)[-1].name.endswith("4")
    launch(data, tmp_path, second, killed_at=21)
    result = launch(data, tmp_path, third)
    assert result.resumed_from in (8, 12) and result.steps == SETTINGS.steps
    assert end_state(tmp_path) == undisturbed["chunks"]


def test_another_order_is_another_run(data: Path, tmp_path: Path) -> None:
    launch(data, tmp_path, "memory", killed_at=14)
    with pytest.raises(ValueError, match=r"cannot continue .*: data was .*, visited by 8 chunks of 10, digest .* now"):
        launch(data, tmp_path, "memory", "full")


def test_rows_have_a_condition_of_their_own(data: Path, tmp_path: Path) -> None:
    found = rows(data, "train", "memory", "full")
    with pytest.raises(ValueError, match="the training rows have their own condition; leave it out"):
        train(torch.nn.Linear(1, 1), loss, found, None, SETTINGS, tmp_path, condition=torch.zeros(100, 1, 9))
