"""A data set from its first sample to its last, in blocks of bounded size that depend on the data set alone.

Whoever reads the samples so adds them up in one order and in the same groups, whatever loader, machine or memory there
is: sums have the same bits everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from physdiff.data.fieldset import FieldSet
from physdiff.data.samples import Samples

BLOCK_BYTES = 4_000_000  # of float64; what is done with a block takes some ten times as much


def rows_at_once(fields: FieldSet) -> int:
    """Samples of a block: as many as fit, at least one."""
    numbers = (len(fields.names) + len(fields.given_names)) * math.prod(fields.grid.shape)
    return max(1, BLOCK_BYTES // (8 * max(numbers, 1)))


def blocks(fields: FieldSet, about: str, progress: bool = False) -> Iterator[tuple[range, Samples]]:
    """All samples in order, as (rows, samples).

    Args:
        fields: What to read.
        about: What the progress bar says.
        progress: Whether to show one.
    """
    step = rows_at_once(fields)
    with tqdm(total=len(fields), desc=about, unit="sample", leave=False, disable=None if progress else True) as bar:
        for start in range(0, len(fields), step):
            rows = range(start, min(start + step, len(fields)))
            yield rows, fields.read(rows)
            bar.update(len(rows))


def by_channel(values: np.ndarray) -> np.ndarray:
    """Values of shape (n, channels, *grid) as (channels, n·cells), in one piece of memory, type unchanged."""
    # In one piece, because numpy adds up in an order that follows the layout in memory.
    return np.ascontiguousarray(values.swapaxes(0, 1)).reshape(values.shape[1], -1)
