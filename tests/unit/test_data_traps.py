"""Data that could be taken for other data: vectors on turned axes, folders like patterns, layouts told twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from physdiff import cli
from physdiff.data.formats import open_source
from physdiff.data.layout import Layout
from physdiff.data.selection import Selection
from physdiff.data.splits import files_of

FLOW = {
    "fields": {"u": "/u", "v": "/v"}, "dims": ["time", "y", "x"], "extent": 1.0, "boundary": "periodic", "time": 1.0,
}  # fmt: skip


def write_flow(path: Path, names: tuple[str, str] = ("u", "v")) -> Path:
    with h5py.File(path, "w") as file:
        for name in names:
            file[name] = np.zeros((2, 4, 4))
    return path


def components(path: Path, **layout: object) -> dict[str, tuple[int, ...]]:
    source = open_source(path, Layout.of({**FLOW, **layout}))
    return {v.name: v.component for v in source.variables if v.parent == "wind"}


def test_a_vector_is_told_by_axes(tmp_path: Path) -> None:
    path = write_flow(tmp_path / "a.h5")
    assert components(path, vectors={"wind": {"x": "u", "y": "v"}}) == {"u": (1,), "v": (0,)}
    assert components(path, vectors={"wind": ["v", "u"]}) == {"u": (1,), "v": (0,)}


@pytest.mark.parametrize(("y", "x"), [("v", "u"), ("v10", "u10"), ("v_y", "v_x"), ("vy", "vx"), ("y_flow", "x_flow")])
def test_components_in_another_order_than_the_axes_that_they_name_are_refused(tmp_path: Path, y: str, x: str) -> None:
    # On axes (y, x) the list [u, v] would make u the component along y: flips would turn the wrong signs.
    path = write_flow(tmp_path / "a.h5", (x, y))
    fields = {x: f"/{x}", y: f"/{y}"}
    assert components(path, fields=fields, vectors={"wind": [y, x]}) == {y: (0,), x: (1,)}
    with pytest.raises(ValueError, match=rf"'wind' has the components {x}, {y} along y, x.*say \{{y: {y}, x: {x}\}}"):
        components(path, fields=fields, vectors={"wind": [x, y]})
    # Said by axis it is what was said, whatever it is called.
    assert components(path, fields=fields, vectors={"wind": {"y": x, "x": y}}) == {x: (0,), y: (1,)}


def test_names_that_say_no_axis_are_in_the_order_of_the_axes(tmp_path: Path) -> None:
    path = write_flow(tmp_path / "a.h5", ("flux", "max"))  # both end like an axis, and not each like another
    fields = {"flux": "/flux", "max": "/max"}
    assert components(path, fields=fields, vectors={"wind": ["flux", "max"]}) == {"flux": (0,), "max": (1,)}
    with pytest.raises(ValueError, match="'wind' has the components x: u; expected one for each of the axes y, x"):
        components(write_flow(tmp_path / "b.h5"), vectors={"wind": {"x": "u"}})
    with pytest.raises(ValueError, match="the vector 'wind' is 'uv'; expected its components, by axis"):
        components(tmp_path / "b.h5", vectors={"wind": "uv"})


def test_a_folder_that_is_there_is_no_pattern(tmp_path: Path) -> None:
    for name in ("run[1]", "run1", "a*b", "aXb"):
        (tmp_path / name).mkdir()
        write_flow(tmp_path / name / "data.h5")
    for name in ("run[1]", "a*b"):
        assert files_of(tmp_path / name / "*.h5") == [tmp_path / name / "data.h5"]
        assert files_of(str(tmp_path / name)) == [tmp_path / name / "data.h5"]
    assert files_of(tmp_path / "run?" / "*.h5") == [tmp_path / "run1" / "data.h5"]
    assert len(files_of(tmp_path / "run*" / "*.h5")) == 2
    assert len(files_of(tmp_path / "**" / "*.h5")) == 4


def test_nan_is_meant_however_it_is_spelled() -> None:
    assert {Selection(mask=word).mask for word in ("nan", "NaN", "NAN")} == {"nan"}
    assert Selection(mask="Land").mask == "Land"


def test_a_setting_beside_a_layout_file_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("flow.yaml").write_text(json.dumps({**FLOW, "pseudo": ["u"]}))
    Path("config.yaml").write_text(
        "process: Heat\ndata: {path: a.h5, layout: flow.yaml}\ntraining: {steps: 1}\nrun: r\n"
    )
    told = ["--data.layout.boundary", "neumann"]
    of_config = cli._settings_of(["train", "--config", "config.yaml", *told])["data"]["layout"]
    assert of_config == {**FLOW, "pseudo": ["u"], "boundary": "neumann"}
    both = ["train", "--process", "Heat", "--data.path", "a.h5", "--run", "r", "--training.steps", "1"]
    for words in (["--data.layout", "flow.yaml", *told], [*told, "--data.layout=flow.yaml"]):
        assert cli._settings_of([*both, *words])["data"]["layout"] == of_config
    alone = cli._settings_of(["train", "--config", "config.yaml"])["data"]["layout"]
    assert alone == "flow.yaml"


def test_messages_name_the_options_of_the_command() -> None:
    said = "nan is read with data.mask nan, not by --data.splits (--data.layout.mask, --data.layout, data.crop)."
    told = "nan is read with --mask nan, not by --splits (--data.layout.mask, --layout, data.crop)."
    assert cli.as_options(said, ["data", "stats"]) == told
    assert cli.as_options(said, ["train"]) == said


def test_a_reader_that_has_enough_ends_the_command_quietly() -> None:
    gone, writes = os.pipe()
    os.close(gone)
    command = [sys.executable, "-c", "from physdiff.cli import main; main()", "data", "formats"]
    ended = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writes)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_a_home_that_no_shell_has_read_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="run folder '~/r': only the shell knows '~'"):
        cli.run(["train", "--process", "Heat", "--data.path", "a.h5", "--training.steps", "1", "--run=~/r"])
    with pytest.raises(ValueError, match="folder '~/d': only the shell knows '~'"):
        cli.run(["data", "make", "advection", "--folder=~/d"])
    assert not list(tmp_path.iterdir())
