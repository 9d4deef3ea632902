"""The statistics that a data set in The Well's layout brings along, held against those of its samples."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from physdiff.data.fieldset import FieldSet
from physdiff.data.statistics import Statistics

TOLERANCE = 1e-3  # relative to the standard deviation; published numbers are float32 sums


def disagreements(statistics: Statistics, fields: FieldSet, path: str | Path) -> list[str]:
    """One sentence for each number of a `stats.yaml` that is not that of the samples.

    Fields that it does not list, and keys other than mean and std, are not compared.

    Args:
        statistics: Of the samples.
        fields: The samples.
        path: The file.

    Raises:
        ValueError: the file is not YAML of this kind.
    """
    path = Path(path)
    try:
        stored = yaml.safe_load(path.read_text())
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(stored, dict):
        raise ValueError(f"{path} must hold statistics by name (mean, std, ...).")
    said = []
    for summary, variable in zip(statistics.channels, fields.channels, strict=True):
        for key in ("mean", "std"):
            theirs = _entry(stored.get(key), variable.parent or variable.name, variable.component)
            ours = getattr(summary, key)
            if theirs is not None and not abs(theirs - ours) <= TOLERANCE * summary.std:
                said.append(
                    f"{path}: the {key} of '{summary.name}' is {theirs:.6g}; that of the {statistics.samples} samples "
                    f"is {ours:.6g}."
                )
    return said


def _entry(table: Any, name: str, component: tuple[int, ...]) -> float | None:
    """A number of one component of one field; None where there is none."""
    if not isinstance(table, dict) or name not in table:
        return None
    try:
        found = np.asarray(table[name], dtype=np.float64)
    except (TypeError, ValueError):
        return math.nan
    return float(found[component]) if found.ndim == len(component) and _inside(component, found.shape) else math.nan


def _inside(index: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    return all(i < n for i, n in zip(index, shape, strict=True))
