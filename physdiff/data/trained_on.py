"""What a model remembers of the data it was trained on: where it lay, how it was divided, how far apart frames were.

A path is kept as it was typed, and beside it the folder in which it was. Shares divide what files there are, so that
other files mean other parts, and a test part may then hold runs that were trained on. And a model of several frames
knows the time between them, not that of other data.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from physdiff.data.fieldset import FieldSet
from physdiff.data.splits import Paths, matching

ALIKE = 0.01  # relative difference of two times between frames that counts as rounding

DataPath = str | dict[str, str | list[str]]


def remembered(train: FieldSet, parts: Iterable[FieldSet], is_divided: bool) -> dict[str, Any]:
    """Plain values that go with a model.

    Args:
        train: The training part.
        parts: All that the run reads.
        is_divided: Whether shares made the parts.
    """
    found: dict[str, Any] = {"home": str(Path.cwd())}
    if is_divided:
        found["division"] = division_of(train)
    if (steps := frame_steps(parts)) is not None:
        found["frame_step"] = list(steps)
    return found


def division_of(train: FieldSet) -> str:
    """Hash of which runs of which files are in a part: names from their common folder on, and numbers of runs."""
    paths = [Path(source.path).absolute() for source in train.sources]
    common = os.path.commonpath([path.parent for path in paths])
    names = [os.path.relpath(path, common) for path in paths] if len(paths) > 1 else []
    taken = [
        list(range(source.trajectories)) if runs is None else np.asarray(runs).tolist()
        for source, runs in zip(train.sources, train.taken, strict=True)
    ]
    plain = json.dumps([names, [source.trajectories for source in train.sources], taken])
    return blake2b(plain.encode(), digest_size=16).hexdigest()


def require_same_division(card: Mapping[str, Any], train: FieldSet) -> None:
    """Raise unless shares still make the parts that they made when a model was trained."""
    was = card.get("division")
    if was is not None and division_of(train) != was:
        raise ValueError(
            f"{train.source}: files or runs were added or taken away since the model was trained, and data.splits "
            "divides these otherwise: any part may hold runs that it was trained on. Name data of its own with --data."
        )


def frame_steps(parts: Iterable[FieldSet]) -> tuple[float, float] | None:
    """The least and the greatest time from one frame of a sample to the next; None where samples have one frame."""
    found: list[float] = []
    for fields in parts:
        s = fields.selection
        if s.frames + s.past < 2:
            continue
        for source, taken in zip(fields.sources, fields.taken, strict=True):
            times = source.times if taken is None else source.times[taken]
            steps = times[:, s.time_stride :] - times[:, : -s.time_stride]
            if steps.size:
                found += [float(steps.min()), float(steps.max())]
    return (min(found), max(found)) if found else None


def is_one_step(steps: tuple[float, float]) -> bool:
    """Whether frames are equally far apart, up to rounding."""
    return steps[1] - steps[0] <= ALIKE * max(map(abs, steps))


def require_same_step(card: Mapping[str, Any], fields: FieldSet) -> None:
    """Raise unless frames of data are as far apart as those a model was trained on."""
    was, now = card.get("frame_step"), frame_steps([fields])
    if was is None or now is None:
        return
    room = ALIKE * max(map(abs, was))
    if now[0] < was[0] - room or now[1] > was[1] + room:
        raise ValueError(
            f"{fields.source} has frames {in_words(now)} apart in time; those that the model was trained on were "
            f"{in_words((was[0], was[1]))} apart."
        )


def in_words(steps: tuple[float, float]) -> str:
    """A time between frames, or the range of several."""
    return f"{steps[0]:.6g}" if is_one_step(steps) else f"{steps[0]:.6g} to {steps[1]:.6g}"


def located(path: DataPath, home: str | None) -> tuple[DataPath, list[str]]:
    """Data by the path under which a model was trained on it, here or in the folder of that time.

    Args:
        path: As it was typed.
        home: The folder in which it was; None if nobody knows.

    Returns:
        The path, and what the user should know, one sentence each.
    """
    if isinstance(path, dict):
        sentences: list[str] = []
        found: dict[str, str | list[str]] = {}
        for part, files in path.items():
            some = [located(file, home) for file in ([files] if isinstance(files, str) else files)]
            sentences += [sentence for _, own in some for sentence in own]
            names = [str(file) for file, _ in some]
            found[part] = names[0] if isinstance(files, str) else names
        return found, list(dict.fromkeys(sentences))
    if home is None or os.path.isabs(path) or Path(home) == Path.cwd():
        return path, []
    there = os.path.join(home, path)
    if not _is_there(there):
        return path, []
    if not _is_there(path):
        return there, [f"there is no '{path}' here; read from {home}, where the model was trained"]
    if Path(path).resolve() != Path(there).resolve():
        return path, [f"'{path}' is read from this folder; the model was trained in {home}, which has another"]
    return path, []


def is_same(path: Paths, other: DataPath, home: str | None) -> bool:
    """Whether a path that is typed now is that of training, seen from here or from the folder of that time."""
    if not isinstance(other, str) or not isinstance(path, str | Path):
        return path == other
    known = [Path(other), *([] if home is None else [Path(home) / other])]
    return str(path) == other or Path(path).resolve() in [one.resolve() for one in known]


def _is_there(path: str) -> bool:
    return bool(matching(path))
