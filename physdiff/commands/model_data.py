"""The data that a command holds against a trained model: read as that of its training was, sample by sample."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from physdiff.condition import Condition
from physdiff.data.fields import FieldData, load, open_fields
from physdiff.data.fieldset import FieldSet
from physdiff.data.layout import Layout
from physdiff.data.samples import Samples
from physdiff.data.selection import Selection
from physdiff.data.source import TIME
from physdiff.data.splits import stored_parts
from physdiff.data.trained_on import DataPath, is_same, located, require_same_division, require_same_step
from physdiff.model import FieldModel
from physdiff.registry import nearest


def data_of(
    model: FieldModel,
    path: str | None = None,
    split: str | None = None,
    layout: str | None = None,
    default_split: str = "test",
) -> tuple[FieldData, str]:
    """Samples in physical units with what they are conditioned on, and what the data is called.

    Args:
        model: The model, which says what a sample is.
        path: File or folder; the data that the model was trained on when not given.
        split: Its part; `default_split` where there are parts.
        layout: What a file does not tell, as YAML file; that of training when not given.
        default_split: The part that is read when none is named.

    Raises:
        FileNotFoundError: there is no data.
        ValueError: it is unfit, or the model does not say what it was trained on.
    """
    where, splits = _where(model, path)
    if isinstance(where, str) and split is None and _is_samples_file(model, where):
        return _samples_file(model, where), where
    known = _layout(model, layout)
    part = split or (default_split if splits is not None or _has_parts(where, known) else None)
    fields = _opened(model, where, part, _selection(model), known, splits)
    return load(fields), where if isinstance(where, str) else json.dumps(where)


def conditions_of(model: FieldModel, path: str, split: str | None = None, layout: str | None = None) -> FieldData:
    """Samples that hold what a model is told; what it models itself may be missing.

    Runs of which no whole sample can be made, but all past frames, are taken as the past of what comes next: their last
    frames.

    Raises:
        FileNotFoundError: there is no data.
        ValueError: it does not hold what the model is told.
    """
    try:
        return data_of(model, path, split, layout)[0]
    except ValueError:
        told, s = model.conditions, _selection(model)
        if s.past:
            found = _past_alone(model, path, split, layout)
            if found is None:
                raise
            return found
        if not told.fields:
            raise
        # The fields of the condition are read as those of the samples, and moved to their place.
        names = tuple(t.name for t in told.fields)
        alone = replace(s, fields=names, frames=1, condition=tuple(t.name for t in told.numbers))
        known = _layout(model, layout)
        part = split or ("test" if _has_parts(path, known) else None)
        try:
            found = load(_opened(model, path, part, alone, known))
        except ValueError:
            found = None
        if found is None:
            raise
        return replace(found, given=found.values, given_names=found.names, given_units=found.units)


def _past_alone(model: FieldModel, path: str, split: str | None, layout: str | None) -> FieldData | None:
    """The last frames of runs that end before a sample does, as past frames; None if they are no such runs.

    Raises:
        ValueError: what else the model is told changes in time, and is that of a frame to come.
    """
    s, known = _selection(model), _layout(model, layout)
    part = split or ("test" if _has_parts(path, known) else None)
    before = replace(s, frames=s.past, past=0, window_stride=1)
    try:
        fields = _opened(model, path, part, before, known)
    except ValueError:
        return None
    if max(source.frames for source in fields.sources) >= s.span:
        return None  # it is something else that is wrong with it
    later = [v.name for v in fields.given_variables if v.varies_in_time]
    later += [n for n in fields.scalar_names if n == TIME or TIME in fields.sources[0].scalar_dims.get(n, ())]
    if later:
        raise ValueError(
            f"{fields.source} has {s.past} past frames and no later one, and the model is told {', '.join(later)} at "
            "the first frame that it models: give runs that hold that frame."
        )
    found = load(fields)
    last = np.flatnonzero(np.diff(found.trajectory, append=-1))
    if fields.grid.size and len(last) > fields.runs:  # patches: windows of a run are not in one piece
        return None
    found = found.rows(last)
    names = tuple(f"{v.name}@{j - s.past}" for v in fields.variables for j in range(s.past))
    given = found.values if found.given is None else np.concatenate([found.values, found.given], axis=1)
    return replace(
        found, given=given, given_names=names + found.given_names, given_units=found.units + found.given_units
    )


def numbers_of(model: FieldModel, numbers: Mapping[str, float]) -> Condition:
    """The condition of a model that is told numbers and a class alone, from these by name; one row.

    Raises:
        ValueError: the model is told fields, another number, or one that is missing.
    """
    told = model.conditions
    names = [t.name for t in told.numbers] + ([] if told.class_name is None else [told.class_name])
    if told.fields:
        raise ValueError(
            f"the model is told the fields {', '.join(t.name for t in told.fields)} too: give data that holds them, by "
            "--given."
        )
    for name in numbers:
        if name not in names:
            raise ValueError(f"numbers: the model is told no number '{name}'. {nearest(name, names)}")
    if missing := [name for name in names if name not in numbers]:
        raise ValueError(f"numbers: the model is told {', '.join(names)}; {', '.join(missing)} is missing.")
    scalars = np.array([[float(numbers[t.name]) for t in told.numbers]]) if told.numbers else None
    classes = None
    if told.class_name is not None:
        value = float(numbers[told.class_name])
        if not value.is_integer():
            raise ValueError(f"numbers: the class '{told.class_name}' is a whole number; got {value}.")
        classes = np.array([int(value)])
    condition = told.condition(Samples(np.empty((1, 0), np.float32), None, scalars, classes), "numbers")
    if condition is None:
        raise ValueError("the model is told nothing beside its field; leave --numbers out.")
    return condition


def _opened(
    model: FieldModel, where: DataPath, part: str | None, selection: Selection, layout: Layout,
    splits: dict[str, float] | None = None,
) -> FieldSet:  # fmt: skip
    """Samples of data that is divided as for training, and whose frames are as far apart."""

    def part_of(name: str | None) -> FieldSet:
        return open_fields(
            where, None, name, model.boundary_override, selection=selection, layout=layout, splits=splits
        )

    if splits is not None:
        require_same_division(model.card, part_of("train"))
    fields = part_of(part)
    require_same_step(model.card, fields)
    return fields


def _where(model: FieldModel, path: str | None) -> tuple[DataPath, dict[str, float] | None]:
    """Where the data lies, and the shares into which it was split."""
    settings, home = _settings(model), model.card.get("home")
    found = settings.get("path", model.card.get("data"))
    if path is not None:
        # The data of training by its own name is still divided as it was then.
        is_known = found is not None and is_same(path, found, home)
        return path, settings.get("splits") if is_known else None
    if found is None:
        raise ValueError("the model does not say which data it was trained on: name it.")
    place, sentences = located(found, home)
    for sentence in sentences:
        print(f"data: {sentence}", file=sys.stderr)
    return place, settings.get("splits")


def _has_parts(where: DataPath, layout: Layout) -> bool:
    """Whether data is divided into training, validation and test."""
    return stored_parts(where, layout) is not None


def _settings(model: FieldModel) -> dict[str, Any]:
    return model.card.get("settings", {}).get("data", {})


def _selection(model: FieldModel) -> Selection:
    if model.selection.fields is not None:
        return model.selection
    return replace(model.selection, fields=model.names)  # a model of an older version says no more


def _layout(model: FieldModel, layout: str | None) -> Layout:
    return Layout.of(layout if layout is not None else _settings(model).get("layout"))


def _is_samples_file(model: FieldModel, where: str) -> bool:
    """Whether a file holds samples one by one under the names of the model's channels, as physdiff writes them."""
    if Path(where).suffix != ".nc" or not Path(where).is_file():
        return False
    try:
        with xr.open_dataset(where, engine="h5netcdf") as ds:
            return "sample" in ds.dims and set(model.names) <= set(map(str, ds.data_vars))
    except (OSError, ValueError):
        return False  # the reader of its format will say what is wrong


def _samples_file(model: FieldModel, where: str) -> FieldData:
    with xr.open_dataset(where, engine="h5netcdf") as ds:
        return FieldData.from_xarray(ds, names=model.names, boundary=model.boundary_override, source=where)
