"""A training process that is killed at any moment, and launched again, ends where an undisturbed one ends.

The child process counts its calls of the loss, and its calls of `fsync`, with which every part of a
checkpoint is forced to disk. It stops at the call that it was told of, and is killed there with SIGKILL;
the calls are drawn from a fixed seed. One kill more comes at no particular moment.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import physdiff.grid
from physdiff.training import complete_checkpoints, read_metrics

STEPS = 24
CHECKPOINT_EVERY = 6
# Forced to disk at each checkpoint: the log, four tensor files, the state, and two folders.
SYNCS = 8
# Forced to disk before the first: the empty log, and its folder.
BEGIN = 2

CHILD = f"""
import os, sys, time
import torch
from physdiff.grid import Grid
from physdiff.networks import UNet
from physdiff.training import TrainSettings, train

torch.set_num_threads(1)
folder, kind, moment = sys.argv[1], sys.argv[2], int(sys.argv[3])
seen = dict(loss=0, fsync=0)

def reached(event):
    seen[event] += 1
    if event == kind and seen[event] == moment:
        print("here", flush=True)
        time.sleep(60)

fsync = os.fsync
def watched_fsync(descriptor):
    reached("fsync")
    fsync(descriptor)
os.fsync = watched_fsync

def loss(module, x, draws):
    generator = draws.generator
    reached("loss")
    if kind == "slow":
        time.sleep(0.01)
    t = torch.rand(len(x), generator=generator)
    noise = torch.randn(x.shape, generator=generator)
    return (module(x + t.reshape(-1, 1, 1) * noise, t) - x).square().mean((1, 2))

data = torch.randn(10, 1, 9, generator=torch.Generator().manual_seed(0)).cumsum(-1)
module = UNet(Grid(9, boundary="neumann"), 1, width=4, multipliers=(1, 2), dropout=0.1)
settings = TrainSettings(
    steps={STEPS}, batch_size=4, log_every=4, checkpoint_every={CHECKPOINT_EVERY}, validate_every=15, seed=1
)
if kind == "slow":
    print("here", flush=True)
train(module, loss, data, data[:3], settings, folder, progress=False)
"""


def start(script: Path, folder: Path, kind: str = "never", moment: int = 0) -> subprocess.Popen[str]:
    root = str(Path(physdiff.grid.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, str(script), str(folder), kind, str(moment)],
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


def start_and_kill(script: Path, folder: Path, kind: str, moment: int, delay: float) -> None:
    with start(script, folder, kind, moment) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "here\n"
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL


def finish(script: Path, folder: Path) -> None:
    with start(script, folder) as child:
        assert child.wait(120) == 0


def final_state(folder: Path) -> dict[str, object]:
    """Every byte of every checkpoint, and the log; all but the clock."""
    state: dict[str, object] = {}
    for path in complete_checkpoints(folder):
        for file in sorted(path.iterdir()):
            content = file.read_bytes()
            if file.name == "state.json":
                values = json.loads(content)
                del values["tally"]["seconds"], values["digests"]["state"]
                state[f"{path.name}/{file.name}"] = values
            else:
                state[f"{path.name}/{file.name}"] = content
    state["log"] = [{**record, "seconds": 0} for record in read_metrics(folder / "metrics.jsonl")]
    return state


def test_killed_and_restarted_run_ends_in_the_same_bits(tmp_path: Path) -> None:
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    finish(script, whole)

    draws = np.random.default_rng(20)
    plan = [
        # Half a first checkpoint; in the middle of a later one, after some whole ones.
        ("fsync", BEGIN + int(draws.integers(2, SYNCS)), 0.0),
        ("fsync", BEGIN + SYNCS + int(draws.integers(2, SYNCS)), 0.0),
        # No chosen moment at all: 10 ms of every step are spent asleep, the rest anywhere.
        ("slow", 0, float(draws.uniform(0.03, 0.15))),
    ]
    litter = 0
    for kind, moment, delay in plan:
        start_and_kill(script, parts, kind, moment, delay)
        litter += len(list((parts / "checkpoints").glob(".partial-*")))
        for path in complete_checkpoints(parts):
            assert {file.name for file in path.iterdir()} == {
                "weights.safetensors", "ema.safetensors", "optimiser.safetensors", "extra.safetensors", "state.json",
            }  # fmt: skip
    # Kills did interrupt checkpoints, and not the first or last step only.
    assert litter >= 2
    assert 0 < len(complete_checkpoints(parts)) and "00000024" not in complete_checkpoints(parts)[-1].name
    finish(script, parts)

    expected, got = final_state(whole), final_state(parts)
    assert list(got) == list(expected)
    assert [name for name in expected if got[name] != expected[name]] == []
    assert len(expected) == 2 * 5 + 1
    assert list((parts / "checkpoints").glob(".*")) == []
