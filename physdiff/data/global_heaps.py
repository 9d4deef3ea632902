"""A look at the heaps in which HDF5 keeps strings, before HDF5 looks: damage there makes it walk on the spot for ever.

    "GCOL", version 1, 3 bytes 0, size of the heap (8)
    objects: index (2), references (2), 0 (4), size (8), bytes up to a multiple of 8; index 0 is free space, whose size
    counts its own header

HDF5 2.0 steps from object to object by these sizes, and takes a free space of size 0, as of a page that was never
written, for a step. Attributes lie near the beginning of a file or near its end; heaps elsewhere are not looked at.

Source: HDF5 File Format Specification 3.0, section III.E.
"""

from __future__ import annotations

import os
from pathlib import Path

_SIGNATURE = b"GCOL\x01\x00\x00\x00"
_HEADER = 16  # bytes, of a heap and of an object
ENDS = 2**19  # bytes looked at from the beginning and before the end
_LARGEST = 2**26  # bytes of a heap that is walked; one that is said to be larger is left to HDF5


def require_sound_heaps(path: str | Path) -> None:
    """Raise where a heap near an end of an HDF5 file has no end.

    Raises:
        ValueError: it names the file and the place.
    """
    with open(path, "rb") as file:
        length = os.fstat(file.fileno()).st_size
        begins = [0] if length <= 2 * ENDS else [0, length - ENDS]
        for begin in begins:
            file.seek(begin)
            part = file.read(2 * ENDS if len(begins) == 1 else ENDS)
            at = part.find(_SIGNATURE)
            while at >= 0:
                size = int.from_bytes(part[at + 8 : at + 16], "little")
                if _HEADER <= size <= min(_LARGEST, length - begin - at):
                    file.seek(begin + at)
                    stuck = _stuck(file.read(size))
                    if stuck is not None:
                        raise ValueError(
                            f"'{path}' is damaged: a heap of strings at byte {begin + at} has a part of no length "
                            f"{stuck} bytes on, where HDF5 would read for ever."
                        )
                at = part.find(_SIGNATURE, at + 1)


def _stuck(heap: bytes) -> int | None:
    """Where a walk from object to object does not go on; None if it reaches the end."""
    at = _HEADER
    while at + _HEADER <= len(heap):
        index = int.from_bytes(heap[at : at + 2], "little")
        size = int.from_bytes(heap[at + 8 : at + 16], "little")
        step = size if index == 0 else _HEADER + (size + 7) // 8 * 8
        if step % 2**64 < _HEADER:  # also what wraps around in 64 bits
            return at
        at += step
    return None
