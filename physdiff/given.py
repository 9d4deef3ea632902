"""What a model is told when it is asked: from data in physical units, or from tensors as its network takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from physdiff.condition import Given, per_field
from physdiff.data.conditions import Conditions
from physdiff.data.fields import FieldData
from physdiff.data.samples import Samples
from physdiff.grid import Grid


def told(
    conditions: Conditions, given: Given | FieldData | None, n: int, grid: Grid, may_be_left_out: bool
) -> Given | None:
    """The condition of each of n fields, in the units of the network.

    Args:
        conditions: What of the data the model is told; nothing if its conditions are made elsewhere.
        given: Samples that hold it, n or one for all, or a condition in the network's units; None for nothing.
        n: Number of fields.
        grid: Of the model.
        may_be_left_out: Whether the model knows the law of all fields at once.

    Raises:
        ValueError: there are neither n conditions nor one; the data lacks a part; nothing is given and must be.
    """
    if isinstance(given, FieldData):
        if not conditions:
            raise ValueError(f"{given.source} was given as a condition, and the model is told nothing of its data.")
        if conditions.fields and not given.grid.matches(grid):
            raise ValueError(
                f"{given.source} is on the grid {given.grid.describe()}; the model was trained on {grid.describe()}."
            )
        given = conditions.condition(in_order(conditions, given), given.source)
    if given is None and conditions and not may_be_left_out:
        raise ValueError(
            f"the model is told {', '.join(conditions.names)}: give samples of data that hold them, by --given FILE or "
            "condition=; only a model that was trained with objective.drop_condition can do without."
        )
    return per_field(given, n)


def in_order(conditions: Conditions, data: FieldData) -> Samples:
    """Samples with the fields and numbers that a model is told, by name, in the order of its network's inputs.

    Raises:
        ValueError: a part is missing, or has another unit.
    """
    own = {"given": (data.given_names, data.given), "scalars": (data.scalar_names, data.scalars)}
    found: dict[str, np.ndarray | None] = {}
    for part, wanted in (("given", conditions.fields), ("scalars", conditions.numbers)):
        names, values = own[part]
        for t in wanted:
            if t.name not in names:
                raise ValueError(
                    f"{data.source}: the model is told '{t.name}'; the data's condition is "
                    f"{', '.join((*data.given_names, *data.scalar_names)) or 'nothing'}."
                )
            unit = data.given_units[names.index(t.name)] if part == "given" else ""
            if unit not in ("", t.units):
                raise ValueError(
                    f"{data.source}: the condition '{t.name}' has the unit '{unit}'; the model was trained on "
                    f"'{t.units}'."
                )
        found[part] = values[:, [names.index(t.name) for t in wanted]] if wanted and values is not None else None
    if conditions.class_name is not None and data.class_name not in (None, conditions.class_name):
        raise ValueError(f"{data.source}: the class is '{data.class_name}'; the model's is '{conditions.class_name}'.")
    classes = data.classes if conditions.class_name is not None else None
    return Samples(data.values, found["given"], found["scalars"], classes, data.observed)


def as_data(conditions: Conditions, samples: Samples) -> dict[str, Any]:
    """The parts of `FieldData` that hold a condition, by name."""
    return {
        "given": samples.given,
        "given_names": tuple(t.name for t in conditions.fields),
        "given_units": tuple(t.units for t in conditions.fields),
        "scalars": samples.scalars,
        "scalar_names": tuple(t.name for t in conditions.numbers),
        "classes": samples.classes,
        "class_name": conditions.class_name,
    }


def of_samples(
    fields: Tensor, observed: Tensor | None, grid: Grid, names: tuple[str, ...], units: tuple[str, ...], source: str,
    about: Mapping[str, Any],
) -> FieldData:  # fmt: skip
    """Fields that were drawn, as data with what they were told.

    Args:
        fields: In physical units, shape (n, channels, *grid).
        observed: Cells of which the data knows values, shape (channels, *grid); samples have none in others. None: all.
        grid: Of the fields.
        names: Of the channels.
        units: Likewise.
        source: What messages call them.
        about: What they were told; see `as_data`.

    Raises:
        ValueError: a value is not finite.
    """
    values, n = fields.cpu(), len(fields)
    if not bool(values.isfinite().all()):
        sample, channel = (int(i) for i in (~values.isfinite()).nonzero()[0][:2])
        raise ValueError(
            f"sample {sample} of '{names[channel]}' has cells without a finite value: the solver went astray; take "
            "more steps or another solver."
        )
    known = None
    if observed is not None:
        known = observed.expand_as(values).numpy()
        values = torch.where(observed, values, torch.nan)
    elif about.get("given") is not None and np.isnan(about["given"]).any():
        known = np.ones(values.shape, dtype=bool)  # what they were told has cells without values, they have none
    return FieldData(
        values=values.numpy(), grid=grid, names=names, units=units, trajectory=np.arange(n), time=np.zeros(n),
        source=source, observed=known, **about,
    )  # fmt: skip


def knows_all_fields(card: Mapping[str, Any]) -> bool:
    """Whether a model was trained without its condition as well, by what its card says."""
    objective = card.get("settings", {}).get("objective") or {}
    inner = objective.get("settings") or {}
    return bool(objective.get("drop_condition") or inner.get("drop_condition"))
