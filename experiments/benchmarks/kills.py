"""What do kills cost? A run that is killed again and again, beside one that is left alone.

A tiny run (a line of sixteen cells, a step of milliseconds, a checkpoint every other step, samples and a model in the
end) is killed with SIGKILL: at moments uniform in time; just before an operation on a file of the run that is drawn
from all of them (a folder made, a file opened, forced to disk, renamed, deleted); or in the middle of a write, half of
which is then on disk. After each kill everything that the folder holds under a name of its own is compared with the
run that was left alone, and the run is launched again, until it is done.

All launches are forks of one process that has imported everything and has run nothing, so that a kill costs a fork and
not a start of Python. Two processes share their batches through gloo, as under a launcher. One of them is killed (the
first, which writes; at a moment in time, one that is drawn), and then the other, as a launcher does.
"""

from __future__ import annotations

import io
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch._dynamo  # the optimiser imports it; each fork would do so again
import xarray as xr
from safetensors.torch import load_file

from experiments.benchmarks._writing import keep, machine, table
from physdiff import FieldModel, GaussianField, Grid, ReferencePath, SpectralBasis, fit_clock
from physdiff.config import DataSettings, RunSettings
from physdiff.data.normalise import Standardise
from physdiff.data.rows import TensorRows
from physdiff.model import NetworkSettings, around, build_network
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.training import TrainSettings, complete_checkpoints, read_checkpoint, read_metrics
from physdiff.training.checkpoint import FILES
from physdiff.training.job import Job, run_job, some_of
from physdiff.training.sample_grids import SampleGrids

Kind = Literal["time", "operation", "write", "never"]

KILLS = 50
STEPS = 12
# In turn. Time is drawn from the whole launch; operations and writes are where a kill could do harm.
KINDS: tuple[Kind, ...] = ("operation", "write", "operation", "time")
PATIENCE = 60.0  # seconds that a launch may take


@dataclass(frozen=True)
class Moment:
    """When a launch is killed.

    Attributes:
        kind: "time", before a numbered "operation" on a file, in the middle of a numbered "write", or "never".
        number: Of the operation or write, from 1.
        delay: Seconds after the start.
        rank: Which process counts.
    """

    kind: Kind = "never"
    number: int = 0
    delay: float = 0.0
    rank: int = 0


@dataclass
class Counts:
    """What happened in a series of kills.

    Attributes:
        kills: By kind.
        found: What was seen in the folder after a kill: half a checkpoint, half a record, ...
        wrong: Everything that was not as in the run that was left alone; empty if all is well.
        runs: Runs that were finished.
        launches: Of all runs.
        seconds: The whole series took.
    """

    kills: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    runs: int = 0
    launches: int = 0
    seconds: float = 0.0


def measure() -> str:
    """The report, in Markdown."""
    torch.set_num_threads(1)
    rows, numbers = [], {}
    seen: Counter[str] = Counter()
    for processes in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            counts = series(Path(folder), KILLS, processes, seed=processes)
        rows.append([
            str(processes), *(str(counts.kills[kind]) for kind in ("time", "operation", "write")), str(counts.runs),
            str(counts.launches), str(len(counts.wrong)), f"{counts.seconds:.0f}",
        ])  # fmt: skip
        seen += counts.found
        numbers[str(processes)] = {"kills": dict(counts.kills), "found": dict(counts.found), "wrong": counts.wrong,
                                   "runs": counts.runs, "launches": counts.launches}  # fmt: skip
    keep("kills", numbers)
    head = ["processes", "kills at any time", "before an operation on a file", "in the middle of a write",
            "runs finished", "launches", "differences", "seconds"]  # fmt: skip
    return "\n".join([
        "# Kill tests\n", "`python -m experiments.benchmarks kills` writes this page.\n",
        (__doc__ or "").split("\n", 1)[1].strip() + "\n", f"{machine()}\n", table(head, rows),
        "A difference is a checkpoint, a record, a sample or a model that is not, to the bit, that of the run that was "
        "left alone at the same step (clock times apart), or a launch that fails.\n",
        "What kills left behind:\n",
        table(["left in the folder", "times"], [[what, str(n)] for what, n in seen.most_common()]),
    ])  # fmt: skip


def series(root: Path, kills: int, processes: int, seed: int, pictures: bool = True) -> Counts:
    """Kill runs until there were so many kills, then let the last one finish.

    Args:
        root: An empty folder.
        kills: How many.
        processes: That train together.
        seed: Of the moments.
        pictures: Whether the runs draw samples, which takes most of their time.
    """
    start = time.perf_counter()
    draws, job, counts = random.Random(seed), tiny_job(8 if pictures else 0), Counts()
    if pictures:
        _pictures(job)(job.model.denoiser.eval(), 0, root / "first")  # what drawing loads, before the forks
    # The run that is left alone keeps every checkpoint: the truth at every step.
    patient = replace(
        job, settings=replace(job.settings, training=replace(job.settings.training, keep_checkpoints=STEPS))
    )
    alone = root / "alone"
    began = time.perf_counter()
    code, said = launch(patient, alone, processes, Moment())
    if code != 0:
        raise RuntimeError(f"the run that was left alone failed: {said}")
    lasting = time.perf_counter() - began
    operations, writes = (int(word) for word in (alone.with_suffix(".counts")).read_text().split())
    truth = state_of(alone)
    folder = root / "run0"
    while counts.kills.total() < kills or folder.exists():
        kind: Kind = KINDS[counts.kills.total() % len(KINDS)] if counts.kills.total() < kills else "never"
        moment = Moment(
            kind,
            draws.randint(1, operations if kind == "operation" else writes),
            draws.uniform(0, lasting),
            draws.randrange(processes) if kind == "time" else 0,  # only the first process writes
        )
        code, said = launch(job, folder, processes, moment)
        counts.launches += 1
        if code == -signal.SIGKILL:
            counts.kills[kind] += 1
            counts.found.update(left_in(folder))
        elif code != 0:
            counts.wrong.append(f"after {moment}: exit code {code}: {said}")
            break
        found = state_of(folder)
        counts.wrong += [f"{name} after {moment}" for name in found if found[name] != truth.get(name)]
        if code == 0:
            newest = [name for name in truth if not name.startswith("step-") or name.startswith(f"step-{STEPS:08d}")]
            counts.wrong += [f"{name} is missing in the end" for name in newest if name not in found]
            counts.wrong += [f"{name} was left over" for name in left_in(folder)]
            counts.runs += 1
            folder = root / f"run{counts.runs}"
    counts.seconds = time.perf_counter() - start
    return counts


def tiny_job(sample_every: int) -> Job:
    """A denoiser on a line of sixteen cells, and what it is trained on: fields with fronts."""
    basis = SpectralBasis(Grid(16))
    phase = torch.rand(12, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fields = torch.tanh(8 * torch.sin(2 * torch.pi * (phase + torch.arange(16) / 16))) * (1 + phase)
    reference = GaussianField.fit(fields, basis, 0.05)
    path = ReferencePath(fit_clock(VariancePreserving(basis), reference, 0.05), reference, 0.01)
    layout = NetworkSettings(width=4, multipliers=(1,), dropout=0.1)
    denoiser = around(build_network(basis.grid, 1, layout, True), path, 1.0, True)
    model = FieldModel(denoiser, Standardise(torch.zeros(1), torch.ones(1)), ("u",), ("m/s",), layout, 0.05)
    told = TrainSettings(
        steps=STEPS, batch_size=4, log_every=1, checkpoint_every=2, keep_checkpoints=2, validate_every=4,
        ema_widths=(0.05, 0.1), ema_every=4, sample_every=sample_every, device="cpu",
    )  # fmt: skip
    settings = RunSettings(DataSettings("nowhere"), told)
    return Job(model, TensorRows(fields.float()), TensorRows(fields[:3].float()), settings)


def _pictures(job: Job) -> SampleGrids:
    return SampleGrids(job.model, some_of(job.valid), n=3, steps=2)


def launch(job: Job, folder: Path, processes: int, moment: Moment) -> tuple[int, str]:
    """Fork processes that train; the exit code (less than zero: of a kill), and what the first that failed said."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    said = folder.with_suffix(".said")
    said.write_text("")
    children = [_fork(lambda rank=rank: _train(job, folder, processes, moment, rank, port), said)
                for rank in range(processes)]  # fmt: skip
    if moment.kind == "time":
        time.sleep(moment.delay)
        with suppress(ProcessLookupError):
            os.kill(children[moment.rank], signal.SIGKILL)
    end, waiting, codes = time.monotonic() + PATIENCE, set(children), []
    while waiting:
        for child in list(waiting):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                waiting.remove(child)
                codes.append(os.waitstatus_to_exitcode(status))
        if any(codes) or time.monotonic() > end:  # a launcher ends the others when one has failed
            for child in waiting:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            return next((c for c in codes if c), 124), said.read_text()[-2000:]
        time.sleep(0.002)
    return 0, ""


def state_of(folder: Path) -> dict[str, Any]:
    """All that a run's folder holds under a name of its own, by name; clock times apart.

    Raises:
        ValueError: something in it cannot be read.
    """
    state: dict[str, Any] = {}
    for path in complete_checkpoints(folder):
        found = read_checkpoint(path)
        values = {**found.state, "tally": {**found.state["tally"], "seconds": 0}, "digests": 0}
        values["settings"] = {**values["settings"], "keep_checkpoints": 0}
        state[f"{path.name}/state"] = values
        for part in FILES:
            for name, x in getattr(found, part).items():
                state[f"{path.name}/{part}/{name}"] = (str(x.dtype), tuple(x.shape), x.numpy().tobytes())
    for record in read_metrics(folder / "metrics.jsonl"):
        state[f"record {record['step']}"] = {**record, "seconds": 0}
    for file in sorted(folder.glob("samples/step-*.nc")):
        state[f"samples/{file.name}"] = xr.load_dataset(file, engine="h5netcdf")["u"].values.tobytes()
        state[f"samples/{file.stem}.png"] = file.with_suffix(".png").read_bytes()
    for file in sorted(folder.glob("profiles/step-*")):
        for name, x in load_file(file).items():
            state[f"profiles/{file.name}/{name}"] = x.numpy().tobytes()
    if (folder / "model").exists():
        weights = FieldModel.load(folder / "model").denoiser.state_dict()
        state["model"] = {name: x.numpy().tobytes() for name, x in weights.items()}
        card = json.loads((folder / "model" / "model.json").read_text())["card"]
        state["card"] = {name: x for name, x in card.items() if name not in ("seconds", "settings")}
    return state


def left_in(folder: Path) -> list[str]:
    """What a kill has left that is no part of a run."""
    found = []
    for path in folder.glob("checkpoints/.partial-*"):
        old = path.name.startswith(".partial-old-")
        found.append("half a deleted checkpoint" if old else "half a checkpoint")
    for path in folder.glob(".*.partial"):
        what = path.name.split(".")[1]
        found.append("half a log that was written anew" if what == "metrics" else f"half a {what}")
    found += ["half a picture or its samples" for _ in folder.glob("samples/.*.partial")]
    found += ["half a stored profile" for _ in folder.glob("profiles/.*")]
    log = folder / "metrics.jsonl"
    if log.exists() and (content := log.read_bytes()) and not content.endswith(b"\n"):
        found.append("half a record")
    return found


def _fork(act: Callable[[], None], said: Path) -> int:
    """Run something in a fork of this process, which then ends without cleaning up; returns its number."""
    sys.stdout.flush()
    sys.stderr.flush()
    if child := os.fork():
        return child
    code = 1
    try:
        descriptor = os.open(said, os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        act()
        code = 0
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(code)


def _train(job: Job, folder: Path, processes: int, moment: Moment, rank: int, port: int) -> None:
    if processes > 1:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
    with _watched(folder, moment if rank == moment.rank else Moment()) as counts:
        run_job(job, folder, progress=False, draw=_pictures(job))
    if rank == 0:
        folder.with_suffix(".counts").write_text(f"{counts['operation']} {counts['write']}")


@contextmanager
def _watched(folder: Path, moment: Moment) -> Iterator[Counter[str]]:
    """Count operations on files below a folder, and writes; kill this process at its moment."""
    counts: Counter[str] = Counter()
    inside, active = str(folder), [True]

    def reached(kind: str) -> bool:
        counts[kind] += 1
        return moment.kind == kind and moment.number == counts[kind]

    def before(event: str, arguments: tuple[Any, ...]) -> None:
        if not active[0] or event not in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        if inside in os.fsdecode(arguments[0] if isinstance(arguments[0], (str, bytes)) else b"") and reached(
            "operation"
        ):
            os.kill(os.getpid(), signal.SIGKILL)

    forced, opened = os.fsync, io.open

    def fsync(descriptor: int) -> None:
        if reached("operation"):
            os.kill(os.getpid(), signal.SIGKILL)
        forced(descriptor)

    def opening(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        result = opened(file, mode, *args, **kwargs)
        ours = isinstance(file, (str, os.PathLike)) and inside in os.fspath(file) and set(mode) & set("wxa")
        return _Halving(result, lambda: reached("write")) if ours else result

    sys.addaudithook(before)
    os.fsync, io.open = fsync, opening
    try:
        yield counts
    finally:
        os.fsync, io.open, active[0] = forced, opened, False


class _Halving:
    """A file whose process is killed in the middle of a write."""

    def __init__(self, file: Any, now: Callable[[], bool]) -> None:
        self.file, self.now = file, now

    def __enter__(self) -> _Halving:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, content: Any) -> int:
        """Write all of it, or half."""
        if self.now():
            self.file.write(content[: len(content) // 2])
            self.file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.file.write(content)
