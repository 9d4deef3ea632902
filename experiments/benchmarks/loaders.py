"""Random windows of two frames: how fast they come from files, ours beside others.

24 runs of 64 frames of one field at 128x128 (float32, 101 MB), stored in three ways, and The Well's own dummy file.
Every contender reads the same windows in the same full random order, in batches of 16, and gives torch tensors; without
a normaliser, in physical units.

- *bare h5py, handle kept*: a data set of six lines in torch's loader, the file opened once in each process.
- *FieldDataset*: ours in torch's loader. Values are checked to be finite, which the others do not do.
- *StreamedRows*: what training reads through. *FieldDataset, by chunks*: in the order that training takes by itself for
  files in which a compressed chunk holds many samples.
- *the_well WellDataset*: one step in, one step out, as it is by default. *neuraloperator H5pyDataset*: the same windows
  as pairs `x`, `y` in a file of the same storage.
- *loop*: no loader, this process alone: `FieldSet.read` beside h5py into an array.

Contenders take turns, and each turn of one is compared with the turn of bare h5py in the same round; medians over the
rounds are given. Workers are started before the clock, and have nothing read ahead when it starts. CPU times are those
of the process and its workers.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import h5py
import psutil
import torch

from experiments.benchmarks import _loader_contenders as c
from experiments.benchmarks._loader_files import FRAMES, REPACKED, TRAJECTORY, packed_as, runs_of_flow, write_files
from experiments.benchmarks._writing import keep, machine, table

WORKERS = (0, 2, 4)
ROUNDS = int(os.environ.get("ROUNDS", "5"))
LOOP, OUR_LOOP = "loop, bare h5py", "loop, FieldSet.read"
NEEDED, NEEDED_OF_WELL = 0.9, 50.0


def measure(quick: bool = False) -> str:
    """The report, in Markdown; `quick` tries the code on few runs and keeps nothing."""
    torch.set_num_threads(1)
    rounds, runs, workers = (1, 4, (0, 2)) if quick else (ROUNDS, 24, WORKERS)
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for storage, paths in write_files(folder, runs_of_flow(runs)).items():
            batches = (3 if quick else 6) if storage == TRAJECTORY else 30 if quick else 60
            for count in workers:
                print(f"{storage}, {count} workers", flush=True)
                turns = contenders(paths, storage, count)
                found += [{"file": storage, "workers": count, **row} for row in rows(turns, batches, rounds, c.BARE)]
            well = paths["well"]
            loops = {
                LOOP: c.bare_loop(own(well, LOOP), "t0_fields/u", FRAMES - 1), OUR_LOOP: c.our_loop(own(well, OUR_LOOP))
            }  # fmt: skip
            found += [{"file": storage, "workers": None, **row} for row in rows(loops, batches, rounds, LOOP)]
        dummy = dummy_of_the_well(folder)
        for count in workers:
            turns = {
                c.WELL: c.the_well(own(dummy, c.WELL), count), c.OURS: c.ours(own(dummy, c.OURS), count),
                c.STREAMED: c.streamed(own(dummy, c.STREAMED), count),
                c.BARE: c.bare(own(dummy, c.BARE), "t1_fields/field", 9, count),
            }  # fmt: skip
            # It has 18 windows: one batch is an epoch.
            batches = 5 if quick else 20
            found += [{"file": "dummy", "workers": count, **row} for row in rows(turns, batches, rounds, c.WELL)]
    if not quick:
        keep("loaders", {"machine": machine(), "rounds": rounds, "rows": found})
    return page(found, rounds)


def contenders(paths: dict[str, Path], storage: str, workers: int) -> dict[str, c.Read]:
    """Who reads a file, each a copy of its own."""
    well = paths["well"]
    found = {
        c.BARE: c.bare(own(well, c.BARE), "t0_fields/u", FRAMES - 1, workers),
        c.OURS: c.ours(own(well, c.OURS), workers),
        c.STREAMED: c.streamed(own(well, c.STREAMED), workers),
        c.NEURALOP: c.neuraloperator(paths["pairs"], well, workers), c.WELL: c.the_well(own(well, c.WELL), workers),
    }  # fmt: skip
    if storage == TRAJECTORY:
        found[c.CHUNKS] = c.ours(own(well, c.CHUNKS), workers, "chunks")
    return found


def own(path: Path, name: str) -> Path:
    """A copy of a file for one contender: HDF5 shares the cache of chunks among all that open one file."""
    copy = path.parent / name.replace(" ", "_") / path.name
    if not copy.exists():
        copy.parent.mkdir()
        shutil.copyfile(path, copy)
    return copy


def rows(turns: dict[str, Callable[[int], None]], batches: int, rounds: int, beside: str) -> list[dict[str, Any]]:
    """What each contender takes a sample, and how often as fast as one of them it is, round by round."""
    # What takes milliseconds a sample is told from noise by few of them.
    count = {name: max(2, batches // 10) if name in (c.WELL, c.NEURALOP) else batches for name in turns}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in turns}
    for read in turns.values():
        read(2)  # opens files, starts workers
    for turn in range(rounds):
        names = list(turns)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            cpu, begin = cpu_seconds(), time.perf_counter()
            turns[name](count[name])
            samples = count[name] * c.BATCH
            taken[name].append(((time.perf_counter() - begin) / samples, (cpu_seconds() - cpu) / samples))
    return [
        {
            "name": name,
            "wall": median(wall for wall, _ in times),
            "cpu": median(cpu for _, cpu in times),
            "ratio": median(b[0] / t[0] for b, t in zip(taken[beside], times, strict=True)),
            "cpu ratio": median(b[1] / t[1] for b, t in zip(taken[beside], times, strict=True)),
        }
        for name, times in taken.items()
    ]


def cpu_seconds() -> float:
    """CPU time of this process and the workers that it has now."""
    total = time.process_time()
    for child in multiprocessing.active_children():
        times = psutil.Process(child.pid).cpu_times()
        total += times.user + times.system
    return total


def dummy_of_the_well(folder: Path) -> Path:
    """The file that The Well's own writer makes for tests."""
    from the_well.utils.dummy_data import write_dummy_data  # pyright: ignore[reportMissingImports]

    path = folder / "dummy" / "dummy.hdf5"
    path.parent.mkdir()
    write_dummy_data(str(path))
    return path


def page(found: list[dict[str, Any]], rounds: int) -> str:
    """The tables, in Markdown."""
    parts = [
        "# Loaders\n", "`python -m experiments.benchmarks loaders` writes this page.\n",
        f"Machine: {machine()}; {os.cpu_count()} cores, {platform.system()}; h5py {h5py.__version__} on HDF5 "
        f"{h5py.version.hdf5_version}. {rounds} rounds.\n", (__doc__ or "").split("\n", 1)[1].strip() + "\n",
    ]  # fmt: skip
    for file in dict.fromkeys(row["file"] for row in found):
        here = [row for row in found if row["file"] == file]
        beside = c.WELL if file == "dummy" else c.BARE
        title = "The Well's own dummy file (32x32, contiguous)" if file == "dummy" else file.capitalize()
        title += f" ({packed_as()})" if file == REPACKED else ""
        parts.append(f"## {title}\n\nMilliseconds a sample by the wall clock (CPU), and times as fast as {beside}.\n")
        counts = [n for n in dict.fromkeys(row["workers"] for row in here) if n is not None]
        head = ["", *(f"{n} workers" if n else "no worker" for n in counts)]
        lines = []
        for name in dict.fromkeys(row["name"] for row in here if row["workers"] is not None):
            by_count = {row["workers"]: row for row in here if row["name"] == name}
            lines.append([name, *(_cell(by_count[n]) for n in counts)])
        parts.append(table(head, lines))
        loops = [row for row in here if row["workers"] is None]
        if loops:
            parts.append("; ".join(f"{row['name']}: {_cell(row)}" for row in loops) + ".\n")
    return "\n".join([*parts, told(found)])


def told(found: list[dict[str, Any]]) -> str:
    """What was to be shown, and whether it was."""
    at = [r for r in found if r["name"] in (c.OURS, c.STREAMED) and r["file"] != "dummy"]
    worst = min(at, key=lambda r: r["ratio"])
    worst_cpu = min(at, key=lambda r: r["cpu ratio"])
    loop = min((r for r in found if r["name"] == OUR_LOOP), key=lambda r: r["ratio"])
    well = [r for r in found if r["name"] in (c.OURS, c.STREAMED) and r["file"] == "dummy" and r["workers"] == 0]
    best = max(well, key=lambda r: r["ratio"])
    chunks = [r for r in found if r["name"] == c.CHUNKS]
    by_chunks = f"In the order of chunks the file of gzip trajectories is read {chunks[0]['ratio']:.0f} times as fast "
    verdict = "met" if worst["ratio"] >= NEEDED and best["ratio"] >= NEEDED_OF_WELL else "not met"
    return (
        f"**Found.** In torch's loader ours is at least {worst['ratio']:.2f} times as fast as bare h5py with a kept "
        f"handle ({worst['name']}, {worst['file']}, {worst['workers']} workers; by CPU time at least "
        f"{worst_cpu['cpu ratio']:.2f}), without one {loop['ratio']:.2f} times ({loop['file']}); goal: {NEEDED}. On "
        f"The Well's dummy file it is {best['ratio']:.0f} times as fast as WellDataset ({best['name']}, no worker); "
        f"goal: {NEEDED_OF_WELL:.0f}. Goals: {verdict}. {by_chunks}as by bare h5py in full random order (no "
        "worker).\n\n"
        "**What it does not show.** Disks: all files are in the system's cache. Network file systems, where each "
        "request costs more. Normalisation, which training adds to every contender alike.\n"
    )


def _cell(row: dict[str, Any]) -> str:
    return f"{1e3 * row['wall']:.3g} ({1e3 * row['cpu']:.3g}), {row['ratio']:.3g}x"
