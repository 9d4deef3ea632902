"""What a path with "*" stacks: runs, frames of a run, or the frames of several runs.

The names of the axes tell which. A name more than one dataset has axes is that of the stack: `[time, x, y]` for
`/frames/*` of images. Without one the stack is of runs, and so it is where `trajectory` stands among the names.
"""

from __future__ import annotations

from physdiff.data.formats.axis_names import COMPONENT
from physdiff.data.source import TIME, TRAJECTORY
from physdiff.data.stored import StackedArray, StoredArray


def axes_of_stack(
    label: str, array: StoredArray, dims: tuple[str, ...], *, may_lack_component: bool
) -> tuple[StoredArray, tuple[str, ...]]:
    """The array that a path with "*" stands for, and the names of its axes.

    Args:
        label: What messages call the field and the path.
        array: All that match, stacked in natural order.
        dims: Names of axes, as a layout gives them or as the file tells of one dataset, in stored order.
        may_lack_component: Whether the axis `component` may be left out of the names, because they are not the field's
            own.

    Raises:
        ValueError: the names could be those of all axes, or of one dataset's.
    """
    own = tuple(dim for dim in dims if dim != TRAJECTORY)
    axes, rows = len(array.shape), array.rows if isinstance(array, StackedArray) else 1
    names_stack = len(own) == axes and (rows > 1 or TRAJECTORY not in dims)
    if names_stack and COMPONENT in own and may_lack_component:
        raise ValueError(
            f"{label} stacks datasets to the shape {array.shape}, and {', '.join(dims)} could name all its axes, or "
            "those of one dataset without 'component'; give this field its own: {path: ..., dims: [...]}, the first of "
            "them that of the stack."
        )
    if not names_stack:
        return array, (TRAJECTORY, *own)
    if rows > 1 and isinstance(array, StackedArray) and own[0] == TIME:
        return array.in_rows(), (TRAJECTORY, *own)
    return array, own
