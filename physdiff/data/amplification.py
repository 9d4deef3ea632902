"""How much must be read, and unpacked, to have one frame of a field: what decides how fast training reads a file."""

from __future__ import annotations

import math
from dataclasses import dataclass

from physdiff.data.source import TIME, TRAJECTORY
from physdiff.data.view import View

# Reading twice a frame is no reason to write a file anew; sixteen frames for one is.
WORTH_REPACKING = 4.0


@dataclass(frozen=True)
class Amplification:
    """What one frame costs.

    Attributes:
        frame: Bytes of one frame, all components of a vector together.
        read: Bytes of the pieces on disk that hold a part of it, unpacked.
    """

    frame: int
    read: int

    @property
    def factor(self) -> float:
        """Bytes read for each byte that is wanted; 1 where frames lie by themselves."""
        return self.read / self.frame


def amplification(view: View) -> Amplification:
    """What one frame of a stored array costs; 1 for an array without chunks, of which any part can be read."""
    array, item = view.array, view.array.dtype.itemsize
    alone = (TRAJECTORY, TIME)
    frame = math.prod(n for dim, n in view.stored_sizes.items() if dim not in alone) * item
    if array.chunks is None:
        return Amplification(frame, frame)
    pieces, piece = 1, math.prod(array.chunks) * item
    for dim, n, chunk in zip(view.dims, array.shape, array.chunks, strict=True):
        pieces *= 1 if dim in alone else -(-n // chunk)
    return Amplification(frame, pieces * piece)


def frame_chunks(view: View, most: int = 2**26) -> tuple[int, ...]:
    """Chunks of one frame each; of a part of it where a frame has more than `most` bytes."""
    shape = [1 if dim in (TRAJECTORY, TIME) else n for dim, n in view.stored_sizes.items()]
    while math.prod(shape) * view.array.dtype.itemsize > most:
        axis = max(range(len(shape)), key=lambda a: shape[a])
        shape[axis] = -(-shape[axis] // 2)
    return tuple(shape)
