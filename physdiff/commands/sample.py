"""`physdiff sample`: fields drawn from a trained model."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr

from physdiff.atomic import replacing_file
from physdiff.commands.model_data import conditions_of, numbers_of
from physdiff.condition import Given
from physdiff.data.fields import FieldData
from physdiff.data.normalise import in_physical_units
from physdiff.model import FieldModel
from physdiff.solvers import ReferenceSplitting, Solver, TimeGrid, Trajectory
from physdiff.solvers import sample as draw
from physdiff.solvers.memory import in_bytes

GROUP = "diffusion"  # of the netCDF file, that holds the states on the way


def sample(
    run: str,
    n: int = 16,
    steps: int = 16,
    solver: Solver = ReferenceSplitting(),  # noqa: B008  frozen
    time_grid: TimeGrid | None = None,
    seed: int = 0,
    dtype: Literal["float64", "float32"] = "float64",
    chunk: int | Literal["auto"] = 64,
    memory_limit: str | None = None,
    trajectory: int | None = None,
    given: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    numbers: dict[str, float] | None = None,
    layout: str | None = None,
    guidance: float = 1.0,
    out: str | None = None,
) -> None:
    """Draw fields from a trained model into a netCDF file.

    Args:
        run: Run folder, or model folder.
        n: Number of fields.
        steps: Solver steps.
        solver: Step rule; its settings follow it, such as `--solver DDIM --solver.stochasticity 0.5`.
        time_grid: Where the steps stop; not given, what suits the solver, or the grid that `physdiff calibrate` made.
        seed: Seed; field i depends on (seed, i) alone.
        dtype: Of the state between steps, and of the file where it holds what varies in physical units.
        chunk: Fields that are computed together, at most; "auto" for as many as fit into the memory.
        memory_limit: Memory that a chunk may take beside the model, such as 2GB or 500MiB.
        trajectory: Keep the start, the state after every so many steps, and the end; written to the group
            "diffusion" of the file.
        given: File or folder of data that holds what the model is told (past frames, other fields, numbers, a class):
            field i is drawn under the condition of its sample i, and from the first again when there are no more.
        split: Split of that data: train, valid or test, which is the default of a folder.
        limit: Take only the first so many conditions; with 1 all fields are drawn under one.
        numbers: What a model is told that is told numbers and a class alone: --numbers '{viscosity: 0.01}'.
        layout: YAML file with what the file of `given` does not tell; that of training when not given.
        guidance: How far to go towards what the condition changes: 1 is the conditional law, 0 that of all fields.
            Other than 1 it is for a model that was trained with objective.drop_condition.
        out: File to write; RUN/samples.nc when not given.
    """
    most = None if memory_limit is None else in_bytes(memory_limit)
    model = FieldModel.load(run)
    data, rows, told = _told(model, n, given, split, limit, numbers, layout)
    grid = model.grid_for(solver) if time_grid is None else time_grid
    recorder = None if trajectory is None else Trajectory(model.denoiser.path.basis, trajectory)
    drawn = draw(
        model.guided(guidance, told), n, steps=steps, solver=solver, time_grid=grid, seed=seed,
        dtype=getattr(torch, dtype), chunk=chunk, memory_limit=most, progress=True, callback=recorder, condition=told,
    )  # fmt: skip
    physical = in_physical_units(model.normaliser, drawn)
    dataset = model.to_dataset(physical, "samples of a physdiff model", model.told_samples(told, data))
    if data is not None:
        about = {"long_name": f"sample of {data.source} that says the condition"}
        dataset = dataset.assign_coords(given_sample=(("sample",), rows, about))
    if guidance != 1:
        dataset.attrs["guidance"] = guidance
    dataset.attrs.update(steps=steps, seed=seed, dtype=dtype, **_described("solver", solver))
    dataset.attrs.update(_described("time_grid", grid))
    path = Path(out) if out else Path(run) / "samples.nc"
    with replacing_file(path) as partial:
        dataset.to_netcdf(partial, engine="h5netcdf")
        if recorder is not None:
            _on_the_way(model, recorder, dataset).to_netcdf(partial, engine="h5netcdf", mode="a", group=GROUP)
    print(f"written: {path}" + ("" if recorder is None else f", states on the way in its group '{GROUP}'"))


def _told(
    model: FieldModel, n: int, given: str | None, split: str | None, limit: int | None,
    numbers: dict[str, float] | None, layout: str | None,
) -> tuple[FieldData | None, np.ndarray, Given | None]:  # fmt: skip
    """The samples that say the condition of each field that is drawn, their numbers, and the condition."""
    nothing = np.zeros(0, np.int64)
    for option, value in (("split", split), ("limit", limit), ("layout", layout)):
        if value is not None and given is None:
            raise ValueError(f"--{option} is about the data of --given; got --{option} {value} alone.")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 condition; got {limit}.")
    if numbers is not None:
        if given is not None:
            raise ValueError("--numbers and --given both say what the model is told; give one.")
        return None, nothing, model.told(numbers_of(model, numbers), n)
    if given is None:
        return None, nothing, model.told(None, n)
    found = conditions_of(model, given, split, layout)
    rows = np.arange(n) % min(len(found), limit or len(found))
    chosen = found.rows(rows)
    return chosen, rows, model.told(chosen, n)


def _described(option: str, chosen: Solver | TimeGrid) -> dict[str, str]:
    """A choice and its settings, as attributes of a file."""
    settings = {field.name: getattr(chosen, field.name) for field in fields(chosen)}
    return {option: type(chosen).__name__, f"{option}_settings": json.dumps(settings, default=_plain)}


def _plain(value: Any) -> Any:
    """A setting that is no plain value, such as a solver within a solver, as JSON can hold it."""
    return value.tolist() if isinstance(value, torch.Tensor) else str(value)


def _on_the_way(model: FieldModel, trajectory: Trajectory, samples: xr.Dataset) -> xr.Dataset:
    """States between noise and the samples, in physical units, on dims ("diffusion_time", "sample", *grid.dims)."""
    states = in_physical_units(model.normaliser, trajectory.fields, channel_axis=2)
    dims = ("diffusion_time", "sample", *model.grid.dims)
    variables: dict[str, Any] = {
        name: (dims, states[:, :, c].numpy(), samples[name].attrs) for c, name in enumerate(model.names)
    }
    meaning = {"long_name": "time of the diffusion", "comment": "1 is noise, 0 the clean field"}
    times = {"diffusion_time": (("diffusion_time",), trajectory.times.numpy(), meaning)}
    return xr.Dataset(
        variables, coords={**times, **{dim: samples[dim] for dim in model.grid.dims}}, attrs=samples.attrs
    )
