"""Samples in physical units as they come from files: fields, and what they are conditioned on."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
        empty: The first sample of which a channel holds no value at all, in words; None where there is none.
    """

    values: np.ndarray
    given: np.ndarray | None = None
    scalars: np.ndarray | None = None
    classes: np.ndarray | None = None
    observed: np.ndarray | None = None
    empty: str | None = None

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.values)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The parts that there are, by name."""
        return {name: x for name, x in vars(self).items() if isinstance(x, np.ndarray)}

    def __getitem__(self, rows: slice | np.ndarray) -> Samples:
        """Some of them."""
        return replace(self, empty=None, **{name: x[rows] for name, x in self.arrays.items()})
