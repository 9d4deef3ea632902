"""A file of any kind that is no HDF5, written in The Well's layout, run by run, and read back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tqdm import tqdm

from physdiff.data.formats import open_source
from physdiff.data.formats.the_well_writer import FieldSpec, WellFile
from physdiff.data.layout import Layout
from physdiff.data.source import TIME, TRAJECTORY, Source, Variable


def write_as_the_well(
    source: Source, partial: Path, name: str, how: Mapping[str, Any], layout: Layout, bar: tqdm[Any]
) -> None:
    """Write what a file holds; NaN stays NaN, and a mask becomes a field of its name.

    Args:
        source: What it holds.
        partial: The new file.
        name: Its name as a data set.
        how: Compression, as h5py is told it.
        layout: As which the file was read: it names the mask.
        bar: Is moved on by the bytes of fields that were written.

    Raises:
        ValueError: it holds something that the layout has no place for, or does not read back as it was.
    """
    if source.labels is not None:
        raise ValueError(
            f"{source.path} lists snapshots one by one, each with the run that it belongs to; The Well's layout has no "
            "place for that, and a division by trajectory would put one run into several parts. Save runs as arrays."
        )
    variables = source.variables
    if source.observed is not None:
        variables = (*variables, Variable(layout.mask or "mask", source.observed))
    whole: dict[str, list[Variable]] = {}
    for variable in variables:
        whole.setdefault(variable.parent or variable.name, []).append(variable)
    runs = {
        key: value if value.ndim else float(value)
        for key, value in source.scalars.items()
        if tuple(source.scalar_dims.get(key, ())) in ((), (TRAJECTORY,))
    }
    attrs = {key: value for key, value in source.attrs.items() if isinstance(value, str | int | float)}
    with WellFile(
        partial, {key: _spec(members) for key, members in whole.items()}, source.grid, source.trajectories,
        source.times, parameters=runs, attrs={**attrs, "dataset_name": name}, compression=how, missing=True,
    ) as file:  # fmt: skip
        for run in range(source.trajectories):
            values = {key: _of_run(source, members, run) for key, members in whole.items()}
            file.write(run, values)
            bar.update(sum(v.nbytes for v in values.values()))
    _add_numbers_of_frames(source, partial)
    _compare(source, variables, partial)


def _spec(members: list[Variable]) -> FieldSpec:
    first = members[0]
    dtype = np.result_type(np.float32, first.view.array.dtype)
    return FieldSpec(
        first.units, len(first.component), first.varies_between_runs, first.varies_in_time, np.dtype(dtype).str,
        all(member.pseudo for member in members),
    )  # fmt: skip


def _add_numbers_of_frames(source: Source, partial: Path) -> None:
    """Numbers that differ between frames, which the writer has no word for."""
    with h5py.File(partial, "r+") as file:
        group: Any = file["scalars"]
        for key, value in source.scalars.items():
            dims = tuple(source.scalar_dims.get(key, ()))
            if TIME in dims:
                dataset = group.create_dataset(key, data=value)
                dataset.attrs["sample_varying"], dataset.attrs["time_varying"] = TRAJECTORY in dims, True
        group.attrs["field_names"] = np.array([str(key) for key in group], dtype=h5py.string_dtype())


def _compare(source: Source, variables: tuple[Variable, ...], partial: Path) -> None:
    back = open_source(partial, Layout(schema="the_well"))
    for old in variables:
        new = next(v for v in back.variables if _key(v) == _key(old))
        for run in range(source.trajectories):
            if not np.array_equal(_values(source, old, run), _values(back, new, run), equal_nan=True):
                raise ValueError(f"{source.path}: '{old.name}' does not read back as it was; nothing was replaced.")
    for key, value in source.scalars.items():
        if not np.array_equal(value, back.scalars[key], equal_nan=True):
            raise ValueError(f"{source.path}: number '{key}' does not read back as it was; nothing was replaced.")


def _key(variable: Variable) -> tuple[str, tuple[int, ...]]:
    """What a variable is called, where components get names of their own."""
    return variable.parent or variable.name, variable.component


def _of_run(source: Source, members: list[Variable], run: int) -> np.ndarray:
    """One run of a field as The Well stores it, components last."""
    rank, d = len(members[0].component), source.grid.ndim
    parts = [_values(source, member, run) for member in members]
    if rank == 0:
        return parts[0]
    if len(parts) != d**rank:
        raise ValueError(f"{source.path}: '{members[0].parent}' has {len(parts)} of {d**rank} components.")
    order = sorted(range(len(parts)), key=lambda i: members[i].component)
    return np.stack([parts[i] for i in order], -1).reshape(*parts[0].shape, *[d] * rank)


def _values(source: Source, variable: Variable, run: int) -> np.ndarray:
    """One run of a variable, shape ([1,] [frames,] *grid): axes that it lacks on the grid repeated, others left out."""
    sizes = variable.view.sizes
    values = variable.view.read((TRAJECTORY, TIME, *source.grid.dims), {TRAJECTORY: slice(run, run + 1)})
    lead = [sizes[dim] if dim == TIME else 1 for dim in (TRAJECTORY, TIME) if dim in sizes]
    own = [n if dim in sizes else 1 for dim, n in zip(source.grid.dims, source.grid.shape, strict=True)]
    return np.broadcast_to(values.reshape(*lead, *own), (*lead, *source.grid.shape))
