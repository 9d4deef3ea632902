"""Which files hold one run, and in what order they follow each other: their names tell, and `layout.join`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from physdiff.data.formats import find_format
from physdiff.data.formats.mapped import natural
from physdiff.data.layout import Layout
from physdiff.registry import nearest

Join = Literal["number", "folder", "never"]

# With its decimals, as codes that name files by the time write it: state_phys_t0012.500.
_LAST_NUMBER = re.compile(r"\d+(?:\.\d+)?(?=\D*$)")


def runs_of(files: Sequence[Path], layout: Layout) -> list[list[Path]]:
    """Files by the run that they hold; of one run in the order of their names, numbers by size.

    Raises:
        ValueError: `layout.join` is none of the words.
    """
    how, set_name = layout.join, ""
    if how is None and files:
        try:  # a data set has files of one format
            its_format = find_format(files[0], layout)
            how, set_name = its_format.join, its_format.set_name
        except ValueError:  # the message belongs to whoever opens it
            how = None
    if how is not None and how not in get_args(Join):
        raise ValueError(f"join= (--data.layout.join) is '{how}'. {nearest(how, get_args(Join))}")
    if how in (None, "never"):
        return [[file] for file in files]
    found: dict[tuple[str, str], list[Path]] = {}
    for file in files:
        name = "" if how == "folder" else _LAST_NUMBER.sub("*", file.stem) + file.suffix
        name = name if re.search(set_name, file.stem) else file.name
        found.setdefault((str(file.parent), name), []).append(file)
    folders = {str(file.parent) for file in files}
    if layout.join == "number" and len(found) == len(files) > len(folders):
        raise ValueError(
            f"no two of {len(files)} files, {files[0]} and others, differ in their last number alone, so that join= "
            "number (--data.layout.join) makes no run of them; join= folder takes all of a folder for one."
        )
    return [in_order(run, how, layout) for run in found.values()]


def in_order(run: Sequence[Path], how: str, layout: Layout) -> list[Path]:
    """Files of one run as they follow each other, by the numbers in their names.

    Where `layout.time` is a number nothing else tells the order, nor that a file is missing.

    Raises:
        ValueError: names leave the order open, or a file is missing.
    """
    by_name = sorted(run, key=lambda file: natural(file.name))
    tells_no_time = isinstance(layout.time, int | float)
    if how == "folder":
        decimal = sorted(by_name, key=lambda file: _with_decimals(file.name))
        other = next(((a, b) for a, b in zip(by_name, decimal, strict=True) if a != b), None)
        if tells_no_time and other is not None:
            raise ValueError(
                f"it is open whether {other[0]} or {other[1]} is first: write numbers with as many decimals in each "
                "name, or let time= (--data.layout.time) say where the times are."
            )
        return by_name
    # All names have a number, or there is one file alone.
    numbers = [float(found[0]) if (found := _LAST_NUMBER.findall(file.stem)) else 0.0 for file in by_name]
    order = np.argsort(numbers, kind="stable")
    files, steps = [by_name[i] for i in order], np.diff(np.sort(numbers))
    for i in np.flatnonzero(steps == 0) if tells_no_time else ():
        raise ValueError(f"{files[i]} and {files[i + 1]} have the same number, and are to follow each other in time.")
    if tells_no_time and len(steps) and not np.allclose(steps, steps.min(), rtol=1e-6):
        i = int(np.argmax(steps))
        raise ValueError(
            f"{files[i + 1]} follows {files[i]}, and others are {steps.min():g} apart: one may be missing, and time= "
            f"(--data.layout.time) says that all frames are {layout.time:g} apart. Let it say where the times are; or "
            "join= folder (--data.layout.join) takes all files of a folder as they are."
        )
    return files


def _with_decimals(name: str) -> list[tuple[int, float, str]]:
    """A key that sorts names as `natural` does, with decimals as such: 0.25 before 0.5."""
    parts = re.split(r"(\d+(?:\.\d+)?)", name)
    return [(0, float(part), "") if part[0].isdigit() else (1, 0.0, part) for part in parts if part]
