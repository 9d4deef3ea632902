"""TensorBoard's own messages, read from the files that a run has left, hold what metrics.jsonl holds."""

from __future__ import annotations

import importlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from physdiff.training import TrainSettings, read_metrics, train
from physdiff.training.trackers import flat, open_trackers

pytestmark = pytest.mark.peers


def events(file: Path, kind: Any) -> Iterator[Any]:
    """Events of a file of TensorFlow records: a length, its check sum, the event, its check sum."""
    content, position = file.read_bytes(), 0
    while position < len(content):
        (length,) = struct.unpack_from("<Q", content, position)
        yield kind.FromString(content[position + 12 : position + 12 + length])
        position += 12 + length + 4


def test_tensorboard_holds_every_number_of_the_log(tmp_path: Path) -> None:
    messages = importlib.import_module("tensorboardX.proto.event_pb2")
    data = torch.randn(4, 1, 8, generator=torch.Generator().manual_seed(0))
    train(
        nn.Conv1d(1, 1, 3, padding=1), lambda module, x, draws: (module(x) - x).square().mean((1, 2)), data, data,
        TrainSettings(steps=6, batch_size=2, log_every=2, validate_every=3), tmp_path, progress=False,
        trackers=open_trackers(["tensorboard"], tmp_path, {"training": {"steps": 6, "ema_widths": [0.1]}}),
    )  # fmt: skip
    (file,) = (tmp_path / "tensorboard").glob("events.out.*")
    found = {
        (event.step, value.tag): value.simple_value
        for event in events(file, messages.Event)
        for value in event.summary.value
    }
    records = read_metrics(tmp_path / "metrics.jsonl")
    expected = {(r["step"], k): x for r in records for k, x in flat(r).items() if k != "step"}
    assert {(step, "loss") for step in (2, 3, 4, 6)} <= set(expected)
    assert set(expected) <= set(found)
    for key, value in expected.items():
        if key[1] != "seconds":  # float32 in the file
            assert found[key] == pytest.approx(value, rel=1e-7)
