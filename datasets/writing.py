"""How every recipe writes: the runs of each split, some at a time, with progress, statistics and its card.

A recipe states its fields and a function that simulates runs first to last of a split; the rest is the same for all.
Each run draws from a generator of its own (`run_generators`), so it depends on the seed, the split and its number, not
on how many runs there are or which are simulated together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from physdiff.atomic import replacing_folder
from physdiff.data.formats.the_well_writer import FieldSpec, WellFile, write_stats
from physdiff.grid import Grid

CARDS = Path(__file__).parent / "cards"

_AHEAD = 32  # chunks in hand; few enough that finished ones do not fill the memory while they wait for the disk

Simulate = Callable[[int, int, int], Mapping[str, np.ndarray]]
"""`simulate(split, first, last)`: fields of runs first to last − 1 of a split, each of shape (last − first, frames,
*grid[, components]), and each number per run, shape (last − first,)."""


def run_generators(seed: int, split: int, first: int, last: int) -> list[np.random.Generator]:
    """One source of random numbers per run, from the seed, the split's place in the order and the run's number."""
    return [np.random.default_rng([seed, split, run]) for run in range(first, last)]


def in_blocks(simulate: Simulate, size: int) -> Simulate:
    """The same, always called for `size` runs from a multiple of it, of which those that were asked for are kept.

    Transforms of many fields at once may round differently from those of few, so the last bits of a run would depend on
    its company. In blocks its company is always the same.
    """

    def aligned(split: int, first: int, last: int) -> dict[str, np.ndarray]:
        parts = []
        for start in range(first - first % size, last, size):
            values = simulate(split, start, start + size)
            asked = slice(max(first - start, 0), last - start)
            parts.append({name: array[asked] for name, array in values.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return aligned


@contextmanager
def one_thread_per_call() -> Iterator[ThreadPoolExecutor]:
    """As many workers as torch has threads, each calling it with one.

    Threads inside one small transform wait for each other; on a shared machine that took four times as long
    as one thread.
    """
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as workers:
        try:
            torch.set_num_threads(1)
            yield workers
        finally:
            workers.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)


def write_runs(
    folder: str | Path,
    name: str,
    grid: Grid,
    fields: Mapping[str, FieldSpec],
    runs: Mapping[str, int],
    time: np.ndarray,
    simulate: Simulate,
    *,
    at_once: int,
    seed: int,
    parameters: Mapping[str, float] | None = None,
    per_run: tuple[str, ...] = (),
    attrs: Mapping[str, str | int | float] | None = None,
    progress: bool = True,
    overwrite: bool = False,
    workers: ThreadPoolExecutor | None = None,
    told: str = "",
) -> Path:
    """Simulate all runs and write the data set: one file a split, `stats.yaml` and `card.md`, whole or not at all.

    Args:
        folder: Data set folder to make.
        name: Of the recipe; files are `<folder>/data/<split>/<name>.hdf5`.
        grid: Where the fields live.
        fields: What each field is.
        runs: Number of runs of each split, in order; see `runs_by_split`.
        time: Time of each frame, shape (frames,).
        simulate: Makes some runs of a split.
        at_once: Runs that one call makes; only their fields are in memory.
        seed: Stored with the data.
        parameters: What all runs were made with.
        per_run: Names in what `simulate` returns that are one number a run; they become parameters of the file.
        attrs: Further attributes of each file.
        progress: Whether a progress bar is shown.
        overwrite: Whether a data set in `folder` is replaced.
        workers: Where calls of `simulate` run side by side; in this thread when not given.
        told: What is added to the recipe's card.

    Returns:
        The folder.

    Raises:
        ValueError: `folder` holds something, or what was simulated is not finite or of another shape.
    """
    with (
        replacing_folder(folder, overwrite) as partial,
        tqdm(total=sum(runs.values()), desc=name, unit="run", disable=not progress) as bar,
    ):
        for index, (split, n) in enumerate(runs.items()):
            # Filled in as runs arrive, and written with the rest of the file at its end.
            numbers = {key: np.zeros(n) for key in per_run}
            with WellFile(
                partial / "data" / split / f"{name}.hdf5", fields, grid, n, time,
                parameters={**(parameters or {}), **numbers},
                attrs={"dataset_name": name, "seed": seed, **(attrs or {})},
            ) as file:  # fmt: skip
                for first, values in _in_order(simulate, index, n, at_once, workers):
                    last = min(first + at_once, n)
                    values = dict(values)
                    file.write_parameters(first, {key: values.pop(key) for key in per_run})
                    file.write(first, values)
                    bar.update(last - first)
        write_stats(partial)
        card = (CARDS / f"{name}.md").read_text(encoding="utf-8")
        (partial / "card.md").write_text(card + told, encoding="utf-8")
    return Path(folder)


def _in_order(
    simulate: Simulate, split: int, n: int, at_once: int, workers: ThreadPoolExecutor | None
) -> Iterator[tuple[int, Mapping[str, np.ndarray]]]:
    """First run and fields of each chunk, in the order of the runs, however they are worked on."""
    chunks = [(first, min(first + at_once, n)) for first in range(0, n, at_once)]
    if workers is None:
        for first, last in chunks:
            yield first, simulate(split, first, last)
        return
    ahead: deque[tuple[int, Future[Mapping[str, np.ndarray]]]] = deque()
    for first, last in chunks:
        ahead.append((first, workers.submit(simulate, split, first, last)))
        if len(ahead) == _AHEAD:
            begun, job = ahead.popleft()
            yield begun, job.result()
    for begun, job in ahead:
        yield begun, job.result()
