"""The page on data: files, settings, commands and Python as they stand there, and what they print."""

from __future__ import annotations

import io
import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import yaml

from physdiff import Grid, cli
from physdiff.data.formats import FORMATS
from physdiff.data.formats.the_well_writer import FieldSpec, WellFile
from physdiff.data.layout import Layout
from physdiff.data.normalise import KINDS
from physdiff.data.settings import DataSettings

ROOT = Path(__file__).parents[2]
PAGE, README = ((ROOT / name).read_text(encoding="utf-8") for name in ("docs/data.md", "README.md"))
BLOCK = re.compile(r"(?:<!-- (\w+)(?: (\S+))? -->\n)?```(\w+)\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)
NUMBER = r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?"
pytestmark = pytest.mark.xdist_group("data page")  # one worker runs the page for all


@dataclass(frozen=True)
class Block:
    """A block of code: its mark, the file that it is, its language, its text and what is shown of its output."""

    mark: str
    name: str
    language: str
    text: str
    shown: str


BLOCKS = [Block(*(part or "" for part in found.groups())) for found in BLOCK.finditer(PAGE)]


def command(words: list[str]) -> tuple[int, str, str]:
    """A command within this process: exit code, output, errors."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    return int(stopped.value.code or 0), out.getvalue(), err.getvalue()


@dataclass(frozen=True)
class Done:
    """What a block did: exit codes of its commands, and all that it printed."""

    block: Block
    codes: list[int]
    said: str


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Done]]:
    """The page from its first block to its last, in a folder of its own; training takes two steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("data page"))
        patch.setattr(cli, "build_parser", cache(cli.build_parser))  # one is enough for all commands
        yield list(_done())


def _done() -> Iterator[Done]:
    names: dict[str, Any] = {}
    for block in BLOCKS:
        said, codes = io.StringIO(), []
        if block.mark == "file":
            Path(block.name).write_text(block.text)
        elif block.mark == "config":
            settings = yaml.safe_load(block.text)
            settings["training"] |= {"steps": 2, "batch_size": 8, "validation_levels": 2}
            settings["network"] = {"width": 4, "multipliers": [1]}
            Path("config.yaml").write_text(yaml.safe_dump(settings))
        elif block.language == "python":
            with redirect_stdout(said):
                exec(compile(block.text, "data.md", "exec"), names)
        elif block.language == "sh":
            for line in block.text.replace("\\\n", " ").splitlines():
                words = shlex.split(line)
                if words[0] == "python":
                    exec(compile(Path(words[1]).read_text(), words[1], "exec"), {})
                    continue
                few = ("--probes", "2") if words[1] == "likelihood" else ()
                code, out, err = command([*words, *few])
                codes.append(code)
                said.write(out + err)
        yield Done(block, codes, said.getvalue())


def plain(text: str) -> list[str]:
    """Lines of a text, without digests, which differ between versions of a packing library."""
    return re.sub(r"digest [0-9a-f]{12}", "digest", text).replace("\r", "\n").splitlines()


def form(line: str) -> str:
    """A line without its numbers."""
    return re.sub(NUMBER, "#", line.strip())


def are_near(said: str, shown: str) -> bool:
    """Whether the numbers of two lines of one form are the same to 2 %."""
    pairs = zip(re.findall(NUMBER, said), re.findall(NUMBER, shown), strict=True)
    return all(float(ours) == pytest.approx(float(theirs), rel=0.02, abs=1e-4) for ours, theirs in pairs)


def test_all_that_the_page_types_works(page: list[Done]) -> None:
    count = 0
    for done in page:
        expected = 2 if done.block.mark == "refused" else 0
        assert all(code == expected for code in done.codes), (done.block.text, done.said)
        assert "Traceback" not in done.said
        count += len(done.codes)
    assert count > 20 and len([b for b in BLOCKS if b.mark == "run"]) == 3


def test_the_page_shows_what_is_printed(page: list[Done]) -> None:
    """Line by line and in order; numbers to 2 %, which is what another version of gzip may change."""
    shown = 0
    for done in page:
        printed = iter(plain(done.said))
        is_trained = " likelihood " in done.block.text  # its numbers are of a network that learns longer than here
        for line in plain(done.block.shown):
            for said in printed:
                if form(said) == form(line) and (is_trained or are_near(said, line)):
                    break
            else:
                raise AssertionError(f"not printed: {line}\nin:\n{done.said}")
            shown += 1
    assert shown > 45


def test_what_the_commands_leave(page: list[Done]) -> None:
    with xr.open_dataset("runs/plate/samples.nc", engine="h5netcdf") as samples:
        assert {"given.heating", "given.temperature@-1", "number.diffusivity", "class.alloy"} <= set(samples.variables)
    with xr.open_dataset("runs/shadow/samples.nc", engine="h5netcdf") as samples:
        missing = samples["temperature"].isnull()
        assert missing[:, :6, 10:].all() and missing.sum() == 4 * 36
    with xr.open_dataset("runs/shadow/likelihood.nc", engine="h5netcdf") as scores:
        assert scores.attrs["cells"] == "observed" and (scores["n_observed"] == 256 - 36).all()
        assert "effective_draws" in scores and scores.attrs["draws"] == 4
    assert Path("look.png").stat().st_size > 1000
    assert not os.path.exists("runs/none")


def table(heading: str) -> list[list[str]]:
    """Rows of the first table below a text, cell by cell."""
    rows = PAGE.partition(heading)[2].partition("|---")[2].partition("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in row.strip().strip("|").split("|")] for row in rows]


def test_the_tables_are_complete() -> None:
    formats = [[f"`{f.name}`", f.title, f.told_by, f.needs] for f in FORMATS.values()]
    assert table("## What is read") == formats
    named = {word for row in table("## What one sample is") for word in re.findall(r"`(\w+)`", row[0])}
    assert named == {f.name for f in fields(DataSettings)}
    kinds = {word for row in table("`data.normalise` says") for word in re.findall(r"`([\w-]+)`", row[0])}
    assert kinds == set(KINDS)
    assert [row[0] for row in table("## Reading fast")] == ["`memory`", "`mmap`", "`stream`", "`auto`"]
    told = yaml.safe_load(next(b.text for b in BLOCKS if b.name == "plate.yaml"))
    assert set(told) <= {f.name for f in fields(Layout)}


def test_the_readme_takes_a_file_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    values, grid = np.random.default_rng(0).normal(size=(10, 3, 8, 8)), Grid((8, 8), 1.0, "periodic")
    with WellFile(tmp_path / "flow.h5", {"u": FieldSpec("m/s")}, grid, 10, np.arange(3)) as out:
        out.write(0, {"u": values})
    (block,) = re.findall(r"## Your own files\n\n```sh\n(.*?)```", README, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        few = ("--training.steps", "2", "--training.batch_size", "4") if words[1] == "train" else ()
        code, out, err = command([*words, *few])
        assert code == 0 and "Traceback" not in err, err
        assert {"data": "field u", "train": "conditioned on u@-1", "sample": "written"}[words[1]] in out
