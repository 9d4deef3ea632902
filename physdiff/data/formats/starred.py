"""What a path with "*" stacks: runs, frames of a run, or the frames of several runs.

The names of the axes tell which. A name more than one dataset has axes is that of the stack: `[time, x, y]` for
`/frames/*` of images. Without one the stack is of runs, and so it is where `trajectory` stands among the names.

With several "*" the last counts frames and those before it runs. All fields, times and numbers that are stacked must be
there for the same ones: a dataset that one frame lacks would move all that follow to the frame before.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import translate
from pathlib import PurePosixPath

from physdiff.data.formats.axis_names import COMPONENT, role
from physdiff.data.source import TIME, TRAJECTORY
from physdiff.data.stored import StackedArray, StoredArray

Stars = tuple[str, ...]  # what stands for each "*" of a path, in one match


def stands_for(pattern: str, match: str) -> Stars:
    """What stands for each "*" of a path in one of its matches."""
    found: list[str] = []
    for own, name in zip(_parts(pattern), _parts(match), strict=True):
        pieces = own.split("*")
        # As `fnmatch` reads what is between, and of the shortest text that will do.
        inner = "(.*?)".join(translate(piece).removeprefix("(?s:").rpartition(")")[0] for piece in pieces)
        fits = re.fullmatch(inner, name, re.DOTALL) if len(pieces) > 1 else None
        found += fits.groups() if fits else [name] * (len(pieces) - 1)
    return tuple(found)


def rows_of(pattern: str, stars: Sequence[Stars]) -> int:
    """Rows of equal length that matches of a path fall into, by all but the last "*"; 0 if they are not equally many.

    `/run*/step_*/u` has a row for each run. 1 where there is one "*", and where each of two within one name tells the
    other, as a number and a time do.
    """
    sizes = Counter(one[:-1] for one in stars)
    is_one_name = sum("*" in part for part in _parts(pattern)) == 1
    if is_one_name and set(sizes.values()) == {1}:
        return 1
    return len(sizes) if len(set(sizes.values())) == 1 else 0


def check_same_stars(source: str, found: Mapping[str, Sequence[Stars]]) -> None:
    """Check that all that is stacked is there for the same runs and frames.

    Args:
        source: What messages call the file.
        found: By path, what stands for its "*" in each match, in order.

    Raises:
        ValueError: one has a match that another lacks.
    """
    longest = max(found.items(), key=lambda item: len(item[1][0]) if item[1] else 0, default=("", ()))
    for path, stars in found.items():
        count = len(stars[0]) if stars else 0
        whole = list(dict.fromkeys(one[:count] for one in longest[1]))
        # A stack may be named in another way than the others: `/u/u_*` beside `/times/t*`, or not by numbers.
        if not count or [_numbers(one) for one in stars] == [_numbers(one) for one in whole]:
            continue
        if not any(_numbers(one) for one in (*stars, *whole)) and len(stars) == len(whole):
            continue
        numbers = [_numbers(one) for one in stars]
        lacking = [one for one in whole if _numbers(one) not in numbers]
        there = [_numbers(one) for one in whole]
        more = [one for one in stars if _numbers(one) not in there]
        which, has, lacks = (lacking[0], longest[0], path) if lacking else ((more or stars)[0], path, longest[0])
        raise ValueError(
            f"{source}: '{has}' has a match where * is '{'/'.join(which)}' and '{lacks}' has none; what is stacked by "
            "paths with * (--data.layout) is of the same runs and frames. Take those away that lack something, or "
            "name them in another way."
        )


def axes_of_stack(
    label: str, array: StoredArray, dims: tuple[str, ...], *, may_lack_component: bool, path: str = ""
) -> tuple[StoredArray, tuple[str, ...]]:
    """The array that a path with "*" stands for, and the names of its axes.

    Args:
        label: What messages call the field and the path.
        array: All that match, stacked in natural order.
        dims: Names of axes, as a layout gives them or as the file tells of one dataset, in stored order.
        may_lack_component: Whether the axis `component` may be left out of the names, because they are not the field's
            own.
        path: The path.

    Raises:
        ValueError: the names could be those of all axes, or of one dataset's; or frames are those of runs that have not
            equally many, or of the first "*".
    """
    own = tuple(dim for dim in dims if dim != TRAJECTORY)
    axes, rows = len(array.shape), array.rows if isinstance(array, StackedArray) else 1
    names_stack = len(own) == axes and (rows != 1 or TRAJECTORY not in dims)
    if names_stack and COMPONENT in own and may_lack_component:
        raise ValueError(
            f"{label} stacks datasets to the shape {array.shape}, and {', '.join(dims)} could name all its axes, or "
            "those of one dataset without 'component'; give this field its own: {path: ..., dims: [...]}, the first of "
            "them that of the stack."
        )
    if not names_stack:
        return array, (TRAJECTORY, *own)
    if rows == 0 and own[0] == TIME:
        raise ValueError(
            f"{label} stacks {array.shape[0]} datasets in rows of different length; frames of several runs are read "
            "where every run has equally many. Read each run by itself, with group= (--data.layout.group) or a path "
            "that names it."
        )
    words = [role(part.replace("*", "").strip("_-.0")) for part in _parts(path) if "*" in part]
    if own[0] == TIME and len(words) > 1 and (words[-1] == TRAJECTORY or TIME in words[:-1]):
        raise ValueError(
            f"{label} has the frames of a run at the last *, and the first * counts runs; here the names say the "
            "opposite. Give each run a path of its own, such as one with its number in place of *."
        )
    if rows > 1 and isinstance(array, StackedArray) and own[0] == TIME:
        return array.in_rows(), (TRAJECTORY, *own)
    return array, own


def _parts(path: str) -> list[str]:
    return [part for part in PurePosixPath(path).parts if part != "/"]


def _numbers(stars: Stars) -> list[int]:
    return [int(number) for one in stars for number in re.findall(r"\d+", one)]
