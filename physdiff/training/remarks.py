"""What a user should know of the data before training on it: one line each, none of which stops a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from physdiff.data.axis_ends import doubtful_ends
from physdiff.data.duplicates import describe, duplicates
from physdiff.data.fieldset import FieldSet
from physdiff.data.flow_sense import doubtful_components
from physdiff.data.globe import doubts_of_maps
from physdiff.data.masked_reference import MaskedReference
from physdiff.data.order import excess
from physdiff.data.preparation import constant
from physdiff.data.settings import DataSettings
from physdiff.data.statistics import Statistics
from physdiff.data.symmetry import Turn
from physdiff.data.trained_on import frame_steps, in_words, is_one_step
from physdiff.data.turned_names import doubtful_signs

COMPARED = 1 << 28  # bytes of frames that are read to find copies, at most
UNPACKED = 16  # times as many that may be decompressed for them
SHOWN = 3  # stretches of copied frames that are named


def of_conditions(statistics: Statistics) -> list[str]:
    """Fields and numbers of the condition that tell nothing, or not everywhere."""
    found = [
        f"'{name}' is the same in all training samples: it tells the model nothing" for name in constant(statistics)
    ]
    found += [
        f"'{s.name}' has cells without a value, where the model is told its mean; a field that says where these are, "
        "such as a land mask, can be named in data.condition as well"
        for s in statistics.given
        if s.missing
    ]
    return found


def of_times(*parts: FieldSet) -> list[str]:
    """Whether the frames of samples are unequally far apart in time, which no model of several frames is told."""
    steps = frame_steps(parts)
    if steps is None or is_one_step(steps):
        return []
    return [
        f"the frames of a sample are {in_words(steps)} apart in time, and the model takes them for equally far apart: "
        "it learns a mixture of these steps"
    ]


def of_axes(fields: FieldSet) -> list[str]:
    """Axes that hold points on both ends of the box, or degrees; a few frames of one file are read."""
    source = fields.sources[0]
    found = doubtful_ends(source, (*fields.variables, *fields.given_variables))
    lengths = zip(source.grid.dims, source.grid.extent, fields.grid.extent, strict=True)
    cut = {dim for dim, whole, part in lengths if part < (1 - 1e-9) * whole}
    return [*(line for dim, line in found.items() if dim not in cut), *doubts_of_maps(fields.grid)]


def of_turns(fields: FieldSet, turns: Sequence[Turn]) -> list[str]:
    """Fields that training may turn wrongly, by their names and by the divergence of flows; two frames are read."""
    if len(turns) < 2:
        return []
    source, turned = fields.sources[0], (*fields.variables, *fields.given_variables)
    return [*doubtful_signs(source, turned, turns), *doubtful_components(source, turned)]


def of_reference(fitted: MaskedReference, samples: int, homogeneous: bool = False) -> list[str]:
    """How far the reference of masked data is from the maximum of the likelihood over all samples, and what it is for.

    Args:
        fitted: The reference.
        samples: How many samples there are.
        homogeneous: Whether statistics were said to be the same everywhere.
    """
    found = []
    if homogeneous:
        found.append(
            "data.homogeneous makes the reference's mean constant; fields are not shifted at random, for filled cells "
            "would come to lie where there are observed ones"
        )
    if not fitted.converged:
        found.append(
            "the Gaussian reference was still improving when its rounds of expectation-maximisation ended: it is a law "
            "of the data all the same, but not the best one"
        )
    if fitted.samples < samples:
        found.append(f"the Gaussian reference is that of {fitted.samples} of {samples} samples, drawn evenly")
    return found


def of_duplicates(data: DataSettings, splits: Mapping[str, FieldSet]) -> list[str]:
    """Frames of one split that are in another: all are compared if they are few, else frames spread over the runs.

    Args:
        data: What the run is told of its data.
        splits: Those that are open; the test split is looked at too where there is one.
    """
    try:
        splits = {**splits, "test": data.open("test")}
    except (ValueError, FileNotFoundError):
        pass  # training needs no test split
    every = _every(splits)
    if every is None:
        return []
    try:
        found = [pair for pair in duplicates(splits, every) if pair.crosses]
    except ValueError:
        return []  # a frame that no sample holds may be unfit, and that is no matter of training
    lines = [f"the same frames are in two splits: {line.rstrip('.')}" for line in describe(found)]
    if len(lines) > SHOWN:
        lines = [*lines[:SHOWN], f"{len(found)} frames are in two splits; `physdiff data duplicates` lists them"]
    return lines


def _every(splits: Mapping[str, FieldSet]) -> int | None:
    """Compare each such frame of a run; None if one of each run is too much."""
    frames = runs = size = 0
    for fields in splits.values():
        for source, taken in zip(fields.sources, fields.taken, strict=True):
            count = source.trajectories if taken is None else len(taken)
            runs, frames = runs + count, frames + count * source.frames
            cells = math.prod(source.grid.shape) * len(fields.variables)
            size = max(size, cells * fields.dtype.itemsize)
    most = COMPARED // size
    if frames <= most:
        return 1
    # Of a chunk of many frames all are decompressed for the one that is looked at.
    most = int(most * min(1.0, UNPACKED / max(excess(fields) for fields in splits.values())))
    return -(-frames // (most - runs)) if runs < most else None
