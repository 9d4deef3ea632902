"""`physdiff data stats`."""

from __future__ import annotations

import math
from pathlib import Path

from physdiff.data.duplicates import ROUNDING, describe, duplicates
from physdiff.data.fields import open_fields
from physdiff.data.fieldset import FieldSet
from physdiff.data.layout import Layout
from physdiff.data.selection import Selection
from physdiff.data.splits import open_splits, stored_parts
from physdiff.data.statistics import Statistics, Summary, measure
from physdiff.data.statistics_file import TRAINING, write_beside
from physdiff.data.well_stats_check import disagreements

COLUMNS = ("mean", "std", "min", "1%", "median", "99%", "max", "change")


def stats(
    path: str,
    split: str | None = None,
    fields: list[str] | None = None,
    boundary: str | None = None,
    layout: str | None = None,
    mask: str | None = None,
    splits: dict[str, int | float] | None = None,
) -> None:
    """Measure mean, spread, range and quantiles of each field, and keep those of the training split for training.

    Args:
        path: Data set folder, or a file.
        split: train, valid or test; train when not given. A file has none.
        fields: Fields to read; all that vary when not given.
        boundary: Boundary of every axis, in place of the one in the file.
        layout: YAML file that tells what the data does not.
        mask: What says which cells hold values: "nan", "file", or the name of a field that is not 0 there.
        splits: Shares by which data without splits is divided, as in the settings of a run: {train: 0.8, valid: 0.1,
            test: 0.1}.
    """
    told = Layout.of(layout, boundary=boundary)
    # A folder of files without parts is one set, as a file is.
    if split is None and (splits or (Path(path).is_dir() and stored_parts(path, told) is not None)):
        split = "train"
    samples = open_fields(path, fields, split, boundary, selection=Selection(mask=mask), layout=told, splits=splits)
    found = measure(samples, split, progress=True)
    print(table(found))
    if split not in TRAINING:
        print(f"not kept: a model sees statistics of the split 'train' only, these are of '{split}'.")
        return
    place = write_beside(found, samples)
    print(f"kept in {place}" if place else "not kept: neither the data's folder nor the user's cache may be written.")
    for sentence in _stored(path, found, samples):
        print(f"warning: {sentence}")


def find_duplicates(
    path: str,
    splits: dict[str, int | float] | None = None,
    fields: list[str] | None = None,
    boundary: str | None = None,
    layout: str | None = None,
    mask: str | None = None,
    every: int = 1,
    rounding: float = ROUNDING,
) -> None:
    """List frames that a data set holds twice, between its splits and within them.

    Args:
        path: Data set folder, or a file.
        splits: Shares by which files without splits are divided, as for training: {train: 0.8, valid: 0.1, test: 0.1}.
        fields: Fields that are compared; all that vary when not given.
        boundary: Boundary of every axis, in place of the one in the file.
        layout: YAML file that tells what the data does not.
        mask: What says which cells hold values: "nan", "file", or the name of a field that is not 0 there.
        every: Only each such frame of a run is read: of a huge set, where whole runs may be copies.
        rounding: Largest difference that counts as rounding, in standard deviations of a frame's field; 0 for exact
            copies alone.
    """
    if every < 1 or not rounding >= 0:
        raise ValueError(f"every must be at least 1 and rounding at least 0; got {every} and {rounding}.")
    selection, known = Selection(mask=mask), Layout.of(layout)
    if splits is None and stored_parts(path, known) is None:
        parts = {"data": open_fields(path, fields, None, boundary, selection=selection, layout=known)}
    else:
        parts = open_splits(path, fields, boundary, selection=selection, layout=known, split=splits)
    found = duplicates(parts, every, rounding)
    for sentence in describe(found):
        print(sentence)
    crossing = sum(pair.crosses for pair in found)
    between = f", {crossing} of them in another split" if len(parts) > 1 else ""
    frames = sum(fields.runs * max(source.frames for source in fields.sources) for fields in parts.values())
    read = "" if every == 1 else f" (each {every}. was read)"
    print(f"{len(found)} frames are copies of others{between}; {' '.join(parts)}: {frames} frames{read}")


def table(statistics: Statistics) -> str:
    """Statistics as text, one variable a line."""
    of = "" if statistics.split is None else f" of the split '{statistics.split}'"
    lines = [f"{statistics.source}: {statistics.samples} samples{of}, digest {statistics.identity[:12]}"]
    summaries = [*statistics.channels, *statistics.given, *statistics.scalars]
    width = max(len(_title(s)) for s in summaries)
    lines.append(" " * width + "".join(f"{name:>12}" for name in COLUMNS))
    for s in summaries:
        numbers = (s.mean, s.std, s.low, s.quantile(0.01), s.quantile(0.5), s.quantile(0.99), s.high, s.change_std)
        row = "".join(f"{'-' if math.isnan(x) else f'{x:.5g}':>12}" for x in numbers)
        missing = f"  {s.missing + s.not_finite} missing" if s.missing + s.not_finite else ""
        lines.append(f"{_title(s):{width}}{row}{missing}")
    worst = max(s.rank_error(0.5) for s in summaries)
    if worst:
        lines.append(f"quantiles are of drawn values; the share below the median is 50 ± {100 * worst:.2g} %")
    if statistics.class_counts:
        counts = ", ".join(f"{k}: {n}" for k, n in statistics.class_counts.items())
        lines.append(f"samples of each class: {counts}")
    return "\n".join(lines)


def _title(summary: Summary) -> str:
    return f"{summary.name} [{summary.units}]" if summary.units else summary.name


def _stored(path: str, found: Statistics, samples: FieldSet) -> list[str]:
    """Where the statistics that the data brings along differ."""
    file = Path(path) / "stats.yaml"
    return disagreements(found, samples, file) if file.is_file() else []
