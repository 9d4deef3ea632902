"""Heaps of strings in which HDF5 would walk on the spot are refused before HDF5 looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from physdiff.data.formats import open_source
from physdiff.data.global_heaps import ENDS, require_sound_heaps
from physdiff.data.layout import Layout

from .small_files import py_pde


def heap(content: bytes) -> tuple[int, int]:
    """Where the heap of a file with one string is, and where its free space begins."""
    at = content.index(b"GCOL")
    return at, at + 32 + -(-int.from_bytes(content[at + 24 : at + 32], "little") // 8) * 8


@pytest.mark.parametrize("size", [0, 1, 15])
@pytest.mark.parametrize("ahead", [0, 3 * ENDS])
def test_a_part_of_no_length_is_refused(tmp_path: Path, reader: Any, size: int, ahead: int) -> None:
    path = tmp_path / "a.h5"
    if ahead:  # the heap is then near the end
        with h5py.File(path, "w") as file:
            file["before"] = np.zeros(ahead, "u1")
        with h5py.File(path, "r+") as file:
            file.attrs["text"] = "x" * 40
    else:
        py_pde(path)
    content = bytearray(path.read_bytes())
    at, free = heap(bytes(content))
    content[free + 8 : free + 16] = size.to_bytes(8, "little")
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a.h5' is damaged: a heap of strings at byte {at} .*{free - at} bytes on"):
        open_source(path, Layout())
    assert reader(path, {})["outcome"] == "refused"


def test_an_object_whose_size_wraps_around_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    py_pde(path)
    content = bytearray(path.read_bytes())
    at, _ = heap(bytes(content))
    content[at + 24 : at + 32] = (2**64 - 16).to_bytes(8, "little")
    path.write_bytes(content)
    with pytest.raises(ValueError, match="a heap of strings"):
        require_sound_heaps(path)


@pytest.mark.parametrize("count", [1, 300, 60_000])
def test_sound_heaps_pass(tmp_path: Path, count: int) -> None:
    """Some full, some with free space, and the letters of a heap among the values."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["names"] = [f"name {'x' * (i % 37)}" for i in range(count)]
        file["letters"] = np.frombuffer(b"GCOL\x01\x00\x00\x00" + bytes(24), "u1")
        file.attrs["empty"] = ""
    require_sound_heaps(path)
