"""A tiny trained model, and the command line within this process."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from datasets.turbulence import make
from physdiff import cli

CONFIG = {
    "process": "Heat",
    "data": {"path": "data", "homogeneous": True},
    "network": {"width": 4, "multipliers": [1, 2]},
    "training": {"steps": 2, "batch_size": 4},
    "run": "run",
}

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data (16², four test fields) and a run of two steps."""
    folder = tmp_path_factory.mktemp("tiny")
    make(folder / "data", train_runs=4, valid_runs=2, test_runs=4, cells=16, duration=2.0, progress=False)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.run(["train", "config.yaml"]) == 0
    return folder


@pytest.fixture
def tiny(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, a copy of it that a test may spoil."""
    folder = Path(shutil.copytree(tiny_run, tmp_path / "tiny"))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs `physdiff` with arguments; returns the exit code and what it wrote to both streams."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["physdiff", *arguments])
        monkeypatch.setattr(sys, "path", list(sys.path))
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        said = capsys.readouterr()
        return int(stopped.value.code or 0), said.out, said.err

    return run
