"""The statistics that lie beside a data set in The Well's layout, `stats.yaml`, in one pass over its frames."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml

from physdiff.atomic import replacing_file
from physdiff.data.moments import Moments

_BLOCK_BYTES = 32_000_000


def write_stats(folder: str | Path) -> Path:
    """Write `stats.yaml`: mean, standard deviation and root mean square of each field in the training split.

    A vector has one number per component. The keys ending in `_delta` are those of the change from frame to frame
    within a run; fields of single frames, or that do not vary in time, have none. A block of frames is read at a time.

    Args:
        folder: Data set in The Well's layout.

    Returns:
        The path of the file.

    Raises:
        FileNotFoundError: there is no file in the training split.
    """
    place = Path(folder) / "data" / "train"
    files = sorted(f for f in place.glob("*") if f.suffix in (".h5", ".hdf5"))
    if not files:
        raise FileNotFoundError(f"no .h5 or .hdf5 files in '{place}'.")
    found: dict[str, dict[str, Moments]] = {"": {}, "_delta": {}}
    for path in files:
        with h5py.File(path, "r") as file:
            for dataset, rank in _fields(file):
                name = str(dataset.name).rsplit("/", 1)[-1]
                shape = dataset.shape[dataset.ndim - rank :]
                for moments in found.values():
                    moments.setdefault(name, Moments(shape))
                for values, counted in _blocks(dataset):
                    found[""][name].add(_numbers_last(values[:, counted:], shape))
                    if _varies(dataset, "time_varying"):
                        found["_delta"][name].add(_numbers_last(np.diff(values, axis=1), shape))
    stats = {
        f"{statistic}{suffix}": {
            n: np.asarray(getattr(m, statistic)).tolist() for n, m in moments.items() if m.count.all()
        }
        for suffix, moments in found.items()
        for statistic in ("mean", "std", "rms")
    }
    path = Path(folder) / "stats.yaml"
    with replacing_file(path) as partial:
        partial.write_text(yaml.safe_dump(stats, sort_keys=False))
    return path


def _fields(file: h5py.File) -> Iterator[tuple[h5py.Dataset, int]]:
    """Every field of a file, with its rank."""
    for rank in range(3):
        group: Any = file.get(f"t{rank}_fields", {})
        for dataset in group.values():
            yield dataset, rank


def _blocks(dataset: h5py.Dataset) -> Iterator[tuple[np.ndarray, int]]:
    """Pieces of shape (runs, frames, ...), float64, and how many of the frames an earlier piece has held already.

    Several whole runs where they are small; else some frames of one run, each piece from the last frame of the one
    before, so that no change from frame to frame is left out.
    """
    runs = dataset.shape[0] if _varies(dataset, "sample_varying") else 1
    frames = dataset.shape[int(_varies(dataset, "sample_varying"))] if _varies(dataset, "time_varying") else 1
    frame_bytes = 8 * max(math.prod(dataset.shape) // (runs * frames), 1)
    at_once = max(_BLOCK_BYTES // frame_bytes, 2)
    many = max(at_once // frames, 1)
    for run in range(0, runs, many):
        for start in range(0, max(frames - 1, 1), frames if many > 1 else at_once - 1):
            stop = frames if many > 1 else min(start + at_once, frames)
            key: list[slice] = [slice(run, min(run + many, runs))] if _varies(dataset, "sample_varying") else []
            key += [slice(start, stop)] if _varies(dataset, "time_varying") else []
            piece = np.asarray(dataset[tuple(key)] if key else dataset[()], dtype=np.float64)
            yield piece.reshape(-1, stop - start, *dataset.shape[len(key) :]), int(start > 0)


def _numbers_last(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """All numbers of each entry of `shape`, shape (*shape, numbers)."""
    return np.moveaxis(values.reshape(-1, *shape), 0, -1)


def _varies(dataset: h5py.Dataset, name: str) -> bool:
    return bool(np.ravel(dataset.attrs.get(name, True))[0])
