"""Samples in physical units as they come from files: fields, and what they are conditioned on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Samples:
    """Some samples of a data set, in physical units.

    Attributes:
        values: Shape (n, channels, *grid), float32 or float64; NaN where not observed.
        given: Fields of the condition, shape (n, fields, *grid), or None. Under a mask, past frames are NaN where not
            observed; other fields keep what is stored, and are NaN where that is.
        scalars: Numbers of the condition, shape (n, numbers), float64, or None.
        classes: Classes, shape (n,), int64, or None.
        observed: Which cells hold values, shape as values, bool, or None where all do.
    """

    values: np.ndarray
    given: np.ndarray | None = None
    scalars: np.ndarray | None = None
    classes: np.ndarray | None = None
    observed: np.ndarray | None = None

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.values)

    def __getitem__(self, rows: slice | np.ndarray) -> Samples:
        """Some of them."""
        rest = (self.given, self.scalars, self.classes, self.observed)
        return Samples(self.values[rows], *(None if x is None else x[rows] for x in rest))
