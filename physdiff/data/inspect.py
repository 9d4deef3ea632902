"""What a data file holds, as text: also of files that `load_fields` refuses, whose fault it states."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from physdiff.data.axes import text
from physdiff.data.fields import SPLITS, load_fields
from physdiff.data.formats.the_well import open_hdf5


def inspect(path: str | Path) -> str:
    """Schema, grid, fields, storage, statistics and attributes of a file or folder, on several lines.

    Every value of every field is read, one piece at a time.

    Args:
        path: HDF5 or netCDF file, or a folder in The Well's layout.

    Raises:
        FileNotFoundError: nothing, or no data file, is at `path`.
        ValueError: a file is truncated or no HDF5 file.
    """
    path = Path(path)
    if not path.is_dir():
        return "\n".join(_describe_file(path))
    splits = {split: sorted((path / "data" / split).glob("*.h*5")) for split in SPLITS}
    if not any(splits.values()):
        raise FileNotFoundError(f"no .h5 or .hdf5 files in '{path}/data/{{{','.join(SPLITS)}}}'.")
    lines = [f"{path}: folder in The Well's layout"]
    for split, files in splits.items():
        lines.append(f"  {split}: {len(files)} file{'s' * (len(files) != 1)}")
        lines += [f"    {line}" for file in files for line in _describe_file(file)]
    return "\n".join(lines)


def _describe_file(path: Path) -> list[str]:
    with open_hdf5(path) as file:
        lines = [f"{path}: {_schema(file)}, {path.stat().st_size / 1e6:.3g} MB", *_describe_load(path)]
        for dataset in _fields(file):
            lines += _describe_field(dataset)
        lines += [f"  attribute {key} = {_shown(value)}" for key, value in sorted(file.attrs.items())]
    return lines


def _schema(file: h5py.File) -> str:
    if "dimensions" in file and "t0_fields" in file:
        return "HDF5, The Well's layout"
    return "netCDF" if "_NCProperties" in file.attrs else "HDF5, unknown layout"


def _describe_load(path: Path) -> list[str]:
    """What `load_fields` makes of the file, or why it refuses it."""
    try:
        data = load_fields(path)
    except ValueError as error:
        return [f"  not loadable: {error}"]
    runs, counts = np.unique(data.trajectory, return_counts=True)
    frames = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    return [
        f"  grid: {data.grid.describe()}",
        f"  trajectories: {len(runs)}, frames: {frames}, time: {data.time.min():.6g} to {data.time.max():.6g}",
    ]


def _fields(file: h5py.File) -> Iterator[h5py.Dataset]:
    """Datasets of numbers on a grid: not coordinates, scalars or masks."""
    found: list[h5py.Dataset] = []

    def visit(name: str, item: Any) -> None:
        aside = name.startswith(("dimensions/", "scalars/", "boundary_conditions/"))
        if isinstance(item, h5py.Dataset) and item.ndim > 1 and item.dtype.kind in "fiu" and not aside:
            found.append(item)

    file.visititems(visit)
    return iter(found)


def _describe_field(dataset: h5py.Dataset) -> list[str]:
    total, squares, count, bad, low, high = 0.0, 0.0, 0, 0, np.inf, -np.inf
    shift = None
    for index in range(dataset.shape[0]):
        x = np.asarray(dataset[index], dtype=np.float64).ravel()
        finite = x[np.isfinite(x)]
        bad += x.size - finite.size
        if finite.size:
            # Sums of differences from the first value: sums of squares cancel where the mean is large.
            shift = finite[0] if shift is None else shift
            total, squares = total + (finite - shift).sum(), squares + ((finite - shift) ** 2).sum()
            count, low, high = count + finite.size, min(low, finite.min()), max(high, finite.max())
    units = text(dataset.attrs.get("units", "")) or "no units"
    chunks = f"chunks {dataset.chunks}" if dataset.chunks else "one piece"
    lines = [
        f"  field {text(dataset.name).lstrip('/')}: {dataset.shape} {dataset.dtype}, {units}, {chunks}, "
        f"{dataset.compression or 'not compressed'}"
    ]
    if shift is not None:
        # The difference is ≥ 0 but for rounding, which a constant field would show.
        mean, std = total / count, np.sqrt(max(squares / count - (total / count) ** 2, 0.0))
        lines.append(f"    range {low:.6g} to {high:.6g}, mean {shift + mean:.6g}, std {std:.6g}, ")
    else:
        lines.append("    no finite value, ")
    lines[-1] += f"{bad} NaN or infinite"
    return lines


def _shown(value: Any) -> str:
    shown = text(value) if isinstance(value, bytes | str) else str(np.asarray(value).tolist())
    return shown if len(shown) <= 100 else shown[:97] + "..."
