"""Checkpoints: what is written comes back to the bit, is whole or absent, survives a full disk, and runs nothing."""

from __future__ import annotations

import builtins
import errno
import json
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import physdiff.grid
from physdiff.disk import DiskFull, readable
from physdiff.model import FieldModel
from physdiff.training import complete_checkpoints, load_ema, read_checkpoint
from physdiff.training.checkpoint import FILES, Checkpoint, remove_litter, write_checkpoint
from physdiff.training.lock import only_process
from physdiff.training.metrics import MetricsLog, read_metrics

ROOT = str(Path(physdiff.grid.__file__).parents[1])


def checkpoint(step: int) -> Checkpoint:
    """Every type that a run keeps, tied weights, empty tensors, and numbers that JSON could round."""
    g = torch.Generator().manual_seed(step)
    tied = torch.randn(5, 3, generator=g)
    return Checkpoint(
        step=step,
        weights={"a": tied, "b": tied, "c": torch.randn(4, generator=g).to(torch.bfloat16), "none": torch.empty(0)},
        ema={"a": torch.randn(5, 3, generator=g, dtype=torch.float64), "count": torch.tensor(step)},
        optimiser={"exp_avg/a": torch.randn(5, 3, generator=g).T, "step/a": torch.tensor(float(step))},
        state={"tally": {"seconds": 0.1 + 0.2, "loss": 1 / 3, "nothing": None}, "by_level": {1: 2.0}, "widths": (1, 2)},
        extra={"objective/weights": torch.rand(3, generator=g, dtype=torch.float64)},
    )


def bits(found: Checkpoint) -> dict[str, Any]:
    """All tensors of a checkpoint as type, shape and bytes."""
    return {
        f"{part}/{name}": (x.dtype, tuple(x.shape), x.contiguous().view(torch.uint8).tolist() if x.numel() else [])
        for part in FILES
        for name, x in ((n, x.reshape(-1) if x.ndim == 0 else x) for n, x in getattr(found, part).items())
    }


def files(run: Path) -> dict[str, bytes]:
    """Everything in a run's folder."""
    return {
        str(p.relative_to(run)): p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file() and p.name != ".lock"
    }


def test_a_checkpoint_comes_back_to_the_bit(tmp_path: Path) -> None:
    written = checkpoint(7)
    path = write_checkpoint(tmp_path, written, keep=2)
    assert path.name == "step-00000007"
    assert {file.name for file in path.iterdir()} == {"state.json", *(f"{name}.safetensors" for name in FILES)}
    found = read_checkpoint(path)
    assert bits(found) == bits(written)
    assert found.step == 7
    assert found.state["tally"] == written.state["tally"] and found.state["widths"] == [1, 2]
    assert torch.equal(load_ema(tmp_path)["a"], written.ema["a"])


def test_a_step_that_is_there_is_not_written_again_and_old_ones_go_last(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write_checkpoint(tmp_path, checkpoint(step), keep=2)
    before = files(tmp_path)
    assert [p.name for p in complete_checkpoints(tmp_path)] == ["step-00000002", "step-00000003"]
    write_checkpoint(tmp_path, checkpoint(3), keep=2)
    assert files(tmp_path) == before


def test_every_changed_byte_of_the_state_is_noticed(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, checkpoint(3), keep=1)
    file = path / "state.json"
    content = file.read_bytes()
    same = 0
    for i in range(len(content)):
        changed = content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :]
        file.write_bytes(changed)
        try:
            assert read_checkpoint(path).state == json.loads(content)  # a blank, or a digit beyond a double's
            same += 1
        except ValueError as error:
            assert re.search(r"state\.json is (missing or )?damaged", str(error))
    assert same < 10


def test_a_checkpoint_under_another_name_or_of_another_version_is_refused(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, checkpoint(3), keep=1)
    state = json.loads((path / "state.json").read_text())
    moved = path.rename(path.with_name("step-00000009"))
    with pytest.raises(ValueError, match=r"state\.json is missing or damaged .its values differ"):
        read_checkpoint(moved)
    (moved / "state.json").write_text(json.dumps({**state, "format": 1}))
    with pytest.raises(ValueError, match=r"another version \(format 1; expected 2\)"):
        read_checkpoint(moved)


# ---- full disks


@contextmanager
def full_at(patch: pytest.MonkeyPatch, call: int, number: int = errno.ENOSPC) -> Iterator[list[str]]:
    """The given call that could find no room (making a folder or a file, writing, forcing to disk) finds none."""
    seen: list[str] = []

    def watched(name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def acting(*args: Any, **kwargs: Any) -> Any:
            if name == "open" and not set(str(args[1] if len(args) > 1 else kwargs.get("mode", "r"))) & set("wxa+"):
                return act(*args, **kwargs)
            seen.append(name)
            if len(seen) == call:
                raise OSError(number, os.strerror(number))
            return act(*args, **kwargs)

        return acting

    with patch.context() as inside:
        for owner, name in ((os, "fsync"), (os, "mkdir"), (os, "rename")):
            inside.setattr(owner, name, watched(name, getattr(owner, name)))
        inside.setattr("io.open", watched("open", builtins.open))  # what pathlib opens by
        yield seen


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_disk_full_at_any_call_leaves_the_last_checkpoint_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    run = tmp_path / "run"
    for step in (1, 2):
        write_checkpoint(run, checkpoint(step), keep=2)
    before = files(run)
    with full_at(monkeypatch, 0) as calls:
        write_checkpoint(tmp_path / "other", checkpoint(3), keep=2)
    # Folder; four tensor files and the state, opened and forced to disk each; the folder forced, renamed, its parent.
    assert len([c for c in calls if c != "mkdir"]) == 2 * 5 + 3
    refused = 0
    for call in range(1, len(calls) + 1):
        with full_at(monkeypatch, call, number) as seen:
            try:
                write_checkpoint(run, checkpoint(3), keep=2)
            except DiskFull as error:
                refused += 1
                assert error.errno == number
                expected = r"there is no room for .*step-00000003 \(\d+ B\): .*, with .* free on its disk; the last "
                assert re.match(expected, str(error)), str(error)
                assert "step-00000002, is intact. Free some space; the same command then continues." in str(error)
        if len(seen) < call:
            continue  # a call fewer than in an empty folder: the parent was there
        found = [p.name for p in complete_checkpoints(run)]
        assert list((run / "checkpoints").glob(".*")) == []
        if "step-00000003" in found:  # complete: only the last forcing failed, after it was in its place
            assert seen[-1] == "fsync"
            assert bits(read_checkpoint(complete_checkpoints(run)[-1])) == bits(checkpoint(3))
            break
        assert files(run) == before
    assert refused >= 2 * 5 + 2


def write_until_full(run: Path) -> tuple[int, str]:
    """Checkpoints that grow by 3 · 4 kB a step until there is no room; the step that failed, and what was said."""
    log = MetricsLog(run / "metrics.jsonl", 0)
    for step in range(1, 100):
        log.append({"step": step})
        weights = {"w": torch.full((1000 * step,), float(step))}
        try:
            write_checkpoint(run, Checkpoint(step, weights, weights, weights, {}), keep=1)
        except DiskFull as error:
            return step, str(error)
    raise AssertionError("the disk was never full")


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Within the block, no file can grow beyond a size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN  # else the signal, and not the error, would come
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_larger_than_the_system_allows_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    with largest_file(50_000):  # 12 · 4 kB fit, and their header; 13 · 4 kB do not
        step, said = write_until_full(tmp_path)
    assert step == 13
    assert "step-00000013 (156 kB): file too large" in said and "step-00000012, is intact" in said
    assert torch.equal(load_ema(tmp_path)["w"], torch.full((12_000,), 12.0))
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000012"]
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == list(range(1, 14))


def can_mount() -> bool:
    """Whether this system lets its users mount a small disk in a namespace of their own."""
    try:
        return subprocess.run(["unshare", "-rm", "true"], capture_output=True, timeout=20).returncode == 0
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="needs user namespaces, to mount a disk of 300 kB")
def test_a_real_disk_that_is_full_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    disk, out = tmp_path / "disk", tmp_path / "out"
    disk.mkdir()
    act = "import pathlib, sys, test_checkpoints as t; print(*t.write_until_full(pathlib.Path(sys.argv[1])))"
    script = f'mount -t tmpfs -o size=300k none {disk} && "$@" {disk} && cp -r {disk} {out}'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", sys.executable, "-c", act],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([ROOT, str(Path(__file__).parent)])},
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    number, _, said = done.stdout.partition(" ")
    step = int(number)
    # Old and new lie side by side: 3 · 4 kB · (2·step − 1) ≤ 300 kB, less what the file system takes.
    assert 10 <= step <= 13
    assert f"step-{step:08d} ({readable(12_000 * step)}): no space left on device, with" in said
    assert torch.equal(load_ema(out)["w"], torch.full((1000 * (step - 1),), float(step - 1)))
    assert [p.name for p in (out / "checkpoints").iterdir()] == [f"step-{step - 1:08d}"]


def test_the_log_ends_with_a_whole_record_when_there_is_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", 0)
    log.append({"step": 1, "loss": 0.1})
    before = (tmp_path / "metrics.jsonl").read_bytes()
    room = largest_file(len(before) + 10)  # ten bytes of the next record fit
    with room, pytest.raises(DiskFull, match=r"no room for .*metrics\.jsonl \(32 B\): file too large"):
        log.append({"step": 2, "loss": 0.30000001})
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    log.append({"step": 2, "loss": 0.3})
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 0.1}, {"step": 2, "loss": 0.3}]


SIZES = {0: "0 B", 999: "999 B", 1000: "1 kB", 12_345: "12 kB", 999_600: "1 MB", 3_400_000_000: "3.4 GB"}


@pytest.mark.parametrize(("size", "text"), SIZES.items())
def test_sizes_read_as_people_write_them(size: int, text: str) -> None:
    assert readable(size) == text


# ---- one process at a time


def test_a_second_process_is_refused_by_name_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    # What another process of physdiff does, without waiting for its imports.
    holding = (
        "import fcntl, sys, time; file = open(sys.argv[1] + '/.lock', 'a'); fcntl.flock(file, fcntl.LOCK_EX); "
        "file.write('process 1 on another-machine'); file.flush(); print('here', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", holding, str(tmp_path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "here\n"
        with pytest.raises(
            ValueError, match=r"in use by another process \(process 1 on another-machine\); wait for it"
        ):
            with only_process(tmp_path):
                raise AssertionError("two processes hold one folder")
        child.kill()
        child.wait()
    with only_process(tmp_path):
        assert f"process {os.getpid()} on" in (tmp_path / ".lock").read_text()
    with only_process(tmp_path), pytest.raises(ValueError, match="is in use"), only_process(tmp_path):
        raise AssertionError("one process holds a folder twice")


# ---- litter


def test_a_model_that_a_kill_has_hidden_comes_back(tmp_path: Path) -> None:
    def stage(name: str, *parts: str) -> Path:
        for part in parts:
            (tmp_path / name / part).mkdir(parents=True)
            (tmp_path / name / part / "model.json").write_text(f"{name} {part}")
        return tmp_path / name

    stage(".model.a.partial", "old", "new")  # killed between the two renames
    (tmp_path / ".config.yaml.x.partial").write_text("half")
    (tmp_path / ".metrics.jsonl.x.partial").write_text("half")
    (tmp_path / ".samples.nc.x.partial").write_text("another command is writing this")
    remove_litter(tmp_path)
    assert (tmp_path / "model" / "model.json").read_text() == ".model.a.partial old"
    stage(".model.b.partial", "old", "new")  # killed after them
    stage(".model.c.partial", "new")  # killed before them
    remove_litter(tmp_path)
    assert (tmp_path / "model" / "model.json").read_text() == ".model.a.partial old"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".samples.nc.x.partial", "model"]


# ---- nothing in a file is executed

RAN = "ran"


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.mark),))


def poisons(mark: Path) -> dict[str, bytes]:
    """A pickle, torch's own kind of file, and safetensors with a pickle inside: each makes a folder when executed."""
    raw = pickle.dumps(Trap(mark))
    file = mark.with_name("made.pt")
    torch.save({"w": Trap(mark)}, file)
    header = json.dumps({"__metadata__": {"py": "!!python/object/apply:os.mkdir"}}).encode()
    return {"pickle": raw, "torch": file.read_bytes(), "after": len(header).to_bytes(8, "little") + header + raw}


def test_the_poison_works(tmp_path: Path) -> None:
    pickle.loads(poisons(tmp_path / RAN)["pickle"])
    assert (tmp_path / RAN).is_dir()


@pytest.mark.parametrize("kind", ["pickle", "torch", "after"])
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("signed", [False, True])
def test_a_pickle_in_a_checkpoint_is_refused_and_not_executed(
    tmp_path: Path, kind: str, name: str, signed: bool
) -> None:
    from physdiff.training.checkpoint import _digest, _digest_of_state

    path = write_checkpoint(tmp_path, checkpoint(3), keep=1)
    content = poisons(tmp_path / RAN)[kind]
    (path / f"{name}.safetensors").write_bytes(content)
    if signed:  # whoever writes the file can write its digest
        state = json.loads((path / "state.json").read_text())
        state["digests"][name] = _digest(content)
        state["digests"]["state"] = _digest_of_state(state)
        (path / "state.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match=rf"{name}\.safetensors is missing or damaged"):
        read_checkpoint(path)
    assert not (tmp_path / RAN).exists()


STATES = {
    "not an object": "[1, 2]",
    "yaml": "!!python/object/apply:os.mkdir ['{mark}']",
    "code": "__import__('os').mkdir('{mark}')",
    "deep": "[" * 100_000,
    "no digests": '{{"step": 3, "format": 2}}',
    "wrong types": '{{"step": {{}}, "format": 2, "digests": 5}}',
    "infinite": '{{"step": 1e999, "format": 2, "digests": {{"state": ""}}}}',
    "binary": "\udc80",
}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_a_malicious_state_is_refused_and_not_executed(tmp_path: Path, state: str) -> None:
    path = write_checkpoint(tmp_path, checkpoint(3), keep=1)
    text = state.format(mark=tmp_path / RAN) if "{" in state else state
    (path / "state.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"state\.json is (missing or )?damaged"):
        read_checkpoint(path)
    assert not (tmp_path / RAN).exists()


@pytest.mark.parametrize("name", ["weights", "reference"])
@pytest.mark.parametrize("kind", ["pickle", "torch", "after"])
def test_a_pickle_in_a_model_is_refused_and_not_executed(
    tmp_path: Path, model: FieldModel, name: str, kind: str
) -> None:
    model.save(tmp_path / "model")
    (tmp_path / "model" / f"{name}.safetensors").write_bytes(poisons(tmp_path / RAN)[kind])
    with pytest.raises(ValueError, match=rf"{name}\.safetensors"):
        FieldModel.load(tmp_path / "model")
    assert not (tmp_path / RAN).exists()


EVIL = """
import os
from physdiff.processes.variance_preserving import VariancePreserving

os.mkdir({mark!r})


class Evil(VariancePreserving):
    pass
"""


@pytest.mark.parametrize("part", ["process", "network"])
@pytest.mark.parametrize("what", ["a program", "a file of the model's own", "a module of the model's own"])
def test_a_model_cannot_bring_code_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: FieldModel, part: str, what: str
) -> None:
    model.save(tmp_path / "downloaded" / "model")
    file = tmp_path / "downloaded" / "model" / "model.json"
    (file.parent / "evil.py").write_text(EVIL.format(mark=str(tmp_path / RAN)))
    monkeypatch.chdir(file.parent if what.startswith("a module") else tmp_path)
    meta, arguments = json.loads(file.read_text()), {}
    name = "evil.Evil" if what.startswith("a module") else "downloaded/model/evil.py:Evil"
    if what == "a program":
        name = "subprocess.Popen"
        monkeypatch.chdir(tmp_path)  # a program that needs no path, which would be reason enough to refuse
        arguments = {"args": ["mkdir", RAN]}
    if part == "process":
        meta["process"] = {**meta["process"], "class": name, "settings": arguments}
    else:
        meta["network"] = {"kind": name, "arguments": arguments}
    file.write_text(json.dumps(meta))
    with pytest.raises(ValueError, match=name.rpartition(".")[0]):
        FieldModel.load(file.parent)
    assert not (tmp_path / RAN).exists()


@pytest.fixture(scope="module")
def model() -> FieldModel:
    """Untrained, on a line of eight cells."""
    from physdiff import GaussianField, Grid, ReferencePath, SpectralBasis, fit_clock
    from physdiff.data.normalise import Standardise
    from physdiff.model import NetworkSettings, around, build_network
    from physdiff.processes.variance_preserving import VariancePreserving

    basis = SpectralBasis(Grid(8))
    reference = GaussianField.matern(basis, 0.3)
    path = ReferencePath(fit_clock(VariancePreserving(basis), reference, 0.05), reference, 0.01)
    layout = NetworkSettings(width=4, multipliers=(1,))
    network = build_network(basis.grid, 1, layout, False)
    one = Standardise(torch.zeros(1), torch.ones(1))
    return FieldModel(around(network, path, 1.0, False), one, ("u",), ("m/s",), layout)
