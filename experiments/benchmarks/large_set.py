"""A data set of 20 GB in little memory: opened, measured and streamed, and what that takes.

Frames of 128x128 in float32, 1000 to a run, 305 runs: once as one dataset of one sparse file, once as a virtual dataset
over 20 files. Nearly all of it are holes, which the system reads as zeros at the speed of memory; one frame of each run
is written. A process of its own does each part and tells the most memory that it had in use at any time (`VmHWM`),
of which the interpreter with torch takes a part before any data: the first line.

- *open*: headers, and what identifies the set.
- *inspect*: as `physdiff data inspect` does, ranges of a part of the frames.
- *batches*: random batches of 16 windows of two frames, normalised, as training reads them.
- *statistics*: one pass over a share of the runs, or over all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from experiments.benchmarks._writing import keep, machine, table

FRAMES, SIDE, RUNS, FILES = 1000, 128, 305, 20
LIMIT = 500e6  # bytes
BATCHES, SHARE = 2000, float(os.environ.get("SHARE", "0.5"))
PARTS = ("import", "open", "inspect", "batches", "statistics")


def measure(quick: bool = False) -> str:
    """The report, in Markdown; `quick` reads little and keeps nothing."""
    runs, batches, share = (RUNS, 100, 0.01) if quick else (RUNS, BATCHES, SHARE)
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        for kind, write in (("one sparse file", one_file), ("virtual, 20 files", virtual)):
            path = write(Path(name) / kind.split(",")[0].replace(" ", "_"), runs)
            for part in PARTS:
                print(f"{kind}: {part}", flush=True)
                found.append({"set": kind, "part": part, **child(path, part, batches, share)})
    if not quick:
        keep("large_set", {"machine": machine(), "batches": batches, "share": share, "rows": found})
    return page(found, batches, share)


def one_file(folder: Path, runs: int) -> Path:
    """A file with one dataset, of which one frame of each run takes room on the disk."""
    folder.mkdir(parents=True)
    path = folder / "large.h5"
    sparse(path, runs, 0)
    return path


def virtual(folder: Path, runs: int) -> Path:
    """A file whose dataset is put together of those of other files in its folder."""
    folder.mkdir(parents=True)
    layout, first = h5py.VirtualLayout((runs, FRAMES, SIDE, SIDE), np.float32), 0
    for i in range(FILES):
        count = runs * (i + 1) // FILES - runs * i // FILES
        sparse(folder / f"part{i}.h5", count, first)
        layout[first : first + count] = h5py.VirtualSource(f"part{i}.h5", "u", (count, FRAMES, SIDE, SIDE))
        first += count
    path = folder / "large.h5"
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("u", layout)
    return path


def sparse(path: Path, runs: int, first: int) -> None:
    """A dataset for which the room is set aside and nothing is filled in, but one frame of each run."""
    with h5py.File(path, "w") as file:
        how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        how.set_layout(h5py.h5d.CONTIGUOUS)
        how.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        how.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space = h5py.h5s.create_simple((runs, FRAMES, SIDE, SIDE))
        dataset = h5py.Dataset(h5py.h5d.create(file.id, b"u", h5py.h5t.IEEE_F32LE, space, how))
        for run in range(runs):
            draws = np.random.default_rng([0, first + run])
            dataset[run, draws.integers(FRAMES)] = draws.standard_normal((SIDE, SIDE))


def child(path: Path, part: str, batches: int, share: float) -> dict[str, Any]:
    """One part in a process of its own: seconds, bytes read, most memory."""
    arguments = [str(path), part, str(batches), str(share * RUNS)]
    command = [sys.executable, "-m", "experiments.benchmarks._large_set_work", *arguments]
    root = Path(__file__).parents[2]
    told = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root)
    return json.loads(told.stdout.splitlines()[-1])


def page(found: list[dict[str, Any]], batches: int, share: float) -> str:
    """The table, in Markdown."""
    what = {
        "import": "nothing but imports", "open": "open", "inspect": "inspect", "batches": f"{batches} batches",
        "statistics": f"statistics of {100 * share:.0f} % of the runs",
    }  # fmt: skip
    lines = [
        [r["set"], what[r["part"]], f"{r['seconds']:.2f}", f"{r['read'] / 1e9:.2f}" if r["read"] else "",
         f"{r['peak'] / 1e6:.0f}"] for r in found
    ]  # fmt: skip
    worst = max(r["peak"] for r in found)
    verdict = "met" if worst < LIMIT else "not met"
    return "\n".join([
        "# A large set\n", "`python -m experiments.benchmarks large_set` writes this page; `SHARE=1` for all runs.\n",
        f"Machine: {machine()}.\n", (__doc__ or "").split("\n", 1)[1].strip() + "\n",
        table(["20 GB as", "part", "s", "GB read", "most memory, MB"], lines),
        f"**Found.** No part takes more than {worst / 1e6:.0f} MB (goal: below {LIMIT / 1e6:.0f} MB; {verdict}).\n\n"
        "**What it does not show.** The speed of a disk: holes are not read from one.\n",
    ])  # fmt: skip
