"""SIGKILL at any moment: a run goes on, ends in the same bits, and no half of a file is taken for a whole one.

The kills themselves, and what is compared, are in `experiments/benchmarks/kills.py`, which `make bench` runs with 50 of
them. They are made in a process of their own: it forks, and must not have trained before.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import physdiff.grid
from physdiff.disk import DiskFull
from physdiff.model import FieldModel
from physdiff.training import complete_checkpoints
from physdiff.training.lock import only_process

ROOT = Path(__file__).parents[2]
SERIES = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from experiments.benchmarks.kills import series
folder, kills, processes, seed, pictures = sys.argv[1:]
print(json.dumps(vars(series(Path(folder), int(kills), int(processes), int(seed), pictures == "True"))))
"""


def series(folder: Path, kills: int, processes: int, seed: int, pictures: bool) -> dict[str, Any]:
    # The package that is tested may be a copy with a planted error: it comes first.
    path = os.pathsep.join([str(Path(physdiff.grid.__file__).parents[1]), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", SERIES, str(folder), str(kills), str(processes), str(seed), str(pictures)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_run_that_is_killed_ends_in_the_same_bits(tmp_path: Path) -> None:
    found = series(tmp_path, kills=4, processes=1, seed=4, pictures=False)
    assert found["wrong"] == []
    assert sum(found["kills"].values()) == 4 and {"operation", "write"} <= set(found["kills"])
    assert found["found"].get("half a checkpoint", 0) >= 1  # kills did come inside the writing of one
    assert found["runs"] >= 1


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "seed"), [(1, 11), (2, 12)])
def test_fifty_kills(tmp_path: Path, processes: int, seed: int) -> None:
    found = series(tmp_path, kills=40, processes=processes, seed=seed, pictures=True)
    assert found["wrong"] == []
    assert sum(found["kills"].values()) == 50 and len(found["kills"]) == 3
    assert found["found"]["half a checkpoint"] >= 5


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Within the block, no file can grow beyond a size: a disk that is full, for who needs more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_line_and_the_same_command_continues(tiny: Path, command: Any) -> None:
    words = [
        "train",
        "config.yaml",
        "--run",
        "full",
        "--training.schedule",
        "constant",
        "--training.checkpoint_every",
        "1",
    ]
    assert command(*words)[0] == 0
    sizes = [file.stat().st_size for file in Path("full/checkpoints/step-00000002").iterdir()]
    with largest_file(max(sizes) - 1):
        code, _, said = command(*words, "--training.steps", "4")
    last = said.strip().splitlines()[-1]
    assert code == 2 and "Traceback" not in said
    assert last.startswith("physdiff: error: there is no room for full/checkpoints/step-00000003 (")
    assert "the last checkpoint, full/checkpoints/step-00000002, is intact. Free some space; the same command" in last
    assert [p.name for p in complete_checkpoints(Path("full"))] == ["step-00000001", "step-00000002"]
    assert list(Path("full/checkpoints").glob(".*")) == []
    code, out, _ = command(*words, "--training.steps", "4")
    assert code == 0 and "4 steps in" in out and "continued from step 2" in out


def test_a_model_for_which_there_is_no_room_leaves_the_old_one(tiny: Path) -> None:
    before = {file.name: file.read_bytes() for file in Path("run/model").iterdir()}
    with largest_file(1000), pytest.raises(DiskFull, match=r"no room for run/model: file too large, with .* free on"):
        FieldModel.load("run").save("run/model")
    assert {file.name: file.read_bytes() for file in Path("run/model").iterdir()} == before
    assert list(Path("run").glob(".model*")) == []
    assert FieldModel.load("run").card["steps"] == 2


def test_a_second_launch_on_the_same_folder_is_one_line(tiny: Path, command: Any) -> None:
    with only_process(Path("run")):
        code, _, said = command("resume", "run")
    assert code == 2 and "physdiff: error: 'run' is in use by another process (process " in said
    assert command("resume", "run")[0] == 0
