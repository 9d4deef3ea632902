"""Names of processes, networks, formats and the like are found in any case, where one is meant; files are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from physdiff import cli
from physdiff.actions import find_action
from physdiff.data.formats import find_format
from physdiff.data.layout import Layout
from physdiff.data.normalise import kinds_of
from physdiff.data.recipes import recipe
from physdiff.data.settings import DataSettings
from physdiff.denoisers.prediction import prediction_of
from physdiff.evaluation.evaluate import EvaluationSettings
from physdiff.model import NetworkSettings
from physdiff.processes.heat import Heat
from physdiff.registry import Registry, processes, spelled
from physdiff.solvers import solvers, time_grids


def test_one_name_is_meant_or_none() -> None:
    known = ("Heat", "DDIM", "ddim")
    assert [spelled(name, known) for name in ("heat", "DDIM", "ddim", "Ddim", "Haet")] == [
        "Heat", "DDIM", "ddim", "Ddim", "Haet",
    ]  # fmt: skip


def test_classes_of_registries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes.find("HEAT") is Heat
    for registry in (processes, solvers, time_grids):
        for name, cls in registry.classes().items():
            assert registry.find(name.swapcase()) is cls
    monkeypatch.chdir(tmp_path)
    Path("heat.py").write_text("class Heat:\n    pass\n")
    with pytest.raises(ValueError, match=r"unknown process 'heat'. There is a file heat\.py here"):
        processes.find("heat")  # either could be meant
    own = Registry("thing")
    for name in ("Ab", "aB"):
        own.register(type(name, (), {}))
    with pytest.raises(ValueError, match=r"unknown thing 'ab'\. Did you mean"):
        own.find("ab")


def test_words_of_settings(tmp_path: Path) -> None:
    assert NetworkSettings(kind="UNet", preset="Tiny") == NetworkSettings(kind="unet", preset="tiny")
    assert kinds_of({"u": "Log", "v": {"kind": "BOX-COX"}}, ["u", "v", "w"]) == [
        {"kind": "log"}, {"kind": "box-cox"}, {"kind": "standard"},
    ]  # fmt: skip
    told = DataSettings("data", symmetries=["Shift", "FLIP:X"])
    assert told.symmetries == ["shift", "flip:X"] and told.is_homogeneous and told.turns == ["flip:X"]
    assert prediction_of("V") == prediction_of("v")
    assert EvaluationSettings(method="RK4").method == "rk4"
    assert recipe("Advection").name == "advection"
    assert find_action("latticephi4", {"hopping": 0.2, "coupling": 0.1}) is not None
    np.save(tmp_path / "a.npy", np.zeros(3))
    assert find_format(tmp_path / "a.npy", Layout(schema="NPY")).name == "npy"


@pytest.mark.parametrize(
    "process", ["process: heat", "process: {class_path: HEAT, init_args: {}}", "process:\n  class_path: 'heat'"]
)
def test_the_process_of_a_config(process: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found: the first thing that is missed is the data."""
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(f"# process: none\n{process}\ndata: {{path: nothing}}\nrun: run\n")
    for words in (["config.yaml"], ["config.yaml", "--process", "hEaT"]):
        with pytest.raises(FileNotFoundError, match="nothing"):
            cli.run(["train", *words, "--training.steps", "1", "--training.batch_size", "2"])
    with pytest.raises(cli.UsageError, match="physics is named by an option, --process heat"):
        cli.run(["train", "heat"])
