"""What a data file may refer to, and how much it may claim to hold: a file from elsewhere is not trusted.

An HDF5 file can name other files: by external links, external storage and virtual datasets. Such a file is read only if
it lies in the same folder or below, so that opening somebody's data never opens what is not theirs. And a few bytes can
claim an array of any size, which a program then tries to allocate.
"""

from __future__ import annotations

import math
import os
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import numpy as np
from h5py import h5l, h5o  # pyright: ignore[reportAttributeAccessIssue]

# No packing of HDF5 makes more of a byte than about a thousand; what claims far more was never written.
_MOST_PER_BYTE = 10**5
_SMALL = 2**30
_MOST_LINKS = 8


def dataset_within(file: h5py.File, name: str) -> h5py.Dataset:
    """A dataset of an open file, whose values lie in the folder of that file.

    Raises:
        KeyError: there is no such member.
        ValueError: it is a group, it or its values are in another folder, or it claims an absurd size.
    """
    _follow(file, name, 0)
    found = file[name]
    path = str(file.filename)
    if not isinstance(found, h5py.Dataset):
        raise ValueError(f"'{path}': '{name}' is a group; expected a dataset.")
    _check_storage(found, name, 0)
    check_size(f"'{path}': '{name}'", found.shape or (), found.dtype, _stored_bytes(found))
    return found


def is_group(group: h5py.Group, name: str) -> bool:
    """Whether a member is a group of the same file; a link to another file is not opened to find out."""
    return _kind_within(group, name) == h5o.TYPE_GROUP


def is_dataset(group: h5py.Group, name: str) -> bool:
    """Whether a member is a dataset of the same file."""
    return _kind_within(group, name) == h5o.TYPE_DATASET


def _kind_within(group: h5py.Group, name: str) -> int | None:
    try:
        if group.id.links.get_info(name.encode()).type == h5l.TYPE_EXTERNAL:
            return None
        return h5o.get_info(group.id, name.encode()).type
    except (KeyError, RuntimeError, OSError):  # a link to nothing, to itself, or by way of another file
        return None


def has_member(file: h5py.File, name: str, kind: type[h5py.Dataset] | type[h5py.Group] | None = None) -> bool:
    """Whether a file has a member, of a kind; links to other files of its folder are followed.

    Raises:
        ValueError: a link leads to another folder.
    """
    try:
        _follow(file, name, 0)
    except KeyError:
        return False
    return name in file and (kind is None or isinstance(file[name], kind))


def check_size(label: str, shape: tuple[int, ...], dtype: np.dtype, stored: int) -> None:
    """Raise ValueError if an array claims far more than `stored` bytes can hold."""
    claimed = math.prod(shape) * dtype.itemsize
    if claimed > _SMALL and claimed > _MOST_PER_BYTE * max(stored, 1):
        raise ValueError(
            f"{label} claims {claimed / 1e9:.3g} GB, shape {shape}, in a file of {stored / 1e6:.3g} MB: it was never "
            "written, or is not what it seems."
        )


def check_numbers(label: str, dtype: np.dtype, shape: tuple[int, ...], *, may_be_complex: bool = False) -> None:
    """Raise ValueError unless an array holds numbers that fields can be made of."""
    if dtype.kind == "c" and not may_be_complex:
        raise ValueError(f"{label} holds complex numbers ({dtype}); expected real ones.")
    if dtype.kind not in "fiubc" or dtype.itemsize > (16 if dtype.kind == "c" else 8):
        words = {"O": "objects or text", "S": "text", "U": "text", "V": "records", "M": "dates", "m": "time spans"}
        held = words.get(dtype.kind, "numbers of a size that torch has not")
        raise ValueError(f"{label} holds {held} ({dtype}); expected an array of real numbers.")
    if 0 in shape:
        raise ValueError(f"{label} is empty: its shape is {shape}.")


def _follow(file: h5py.File, name: str, depth: int) -> None:
    """Walk to a member link by link; raise before a link is followed that leads to another folder."""
    if depth > _MOST_LINKS:
        raise ValueError(f"'{file.filename}': '{name}' is reached by more than {_MOST_LINKS} links.")
    parts, links = [p for p in PurePosixPath(name).parts if p != "/"], file.id.links
    for i in range(len(parts)):
        here, rest = "/".join(["", *parts[: i + 1]]), "/".join(parts[i + 1 :])
        # All links before this one were followed, so that only its own kind is in question.
        kind = _kind(links, here)
        if kind == h5l.TYPE_SOFT:
            target = links.get_val(here.encode()).decode()
            start = "" if target.startswith("/") else "/".join(["", *parts[:i], ""])
            return _follow(file, f"{start}{target}/{rest}", depth + 1)
        if kind == h5l.TYPE_EXTERNAL:
            filename, inner = (value.decode() for value in links.get_val(here.encode()))
            target = _beside(file, name, filename, "a link to")
            with h5py.File(target, "r", locking="best-effort") as other:
                return _follow(other, f"{inner}/{rest}", depth + 1)
    return None


def _kind(links: Any, path: str) -> int:
    try:
        return links.get_info(path.encode()).type
    except (KeyError, RuntimeError) as error:
        raise KeyError(f"no member '{path}'") from error


def _check_storage(dataset: h5py.Dataset, name: str, depth: int) -> None:
    if depth > _MOST_LINKS:
        raise ValueError(f"'{dataset.file.filename}': '{name}' is made of virtual data {_MOST_LINKS} times over.")
    for other, _, _ in dataset.external or ():
        beside = _beside(dataset.file, name, other, "values stored in")
        # Unlike links, these names are followed from where the program runs, or from where the environment says.
        if Path(other).resolve() != beside or "HDF5_EXTFILE_PREFIX" in os.environ:
            raise ValueError(
                f"'{dataset.file.filename}': '{name}' is values stored in '{other}', which HDF5 looks for from where "
                f"the program runs ('{Path.cwd()}'), not beside the file; run it in '{beside.parent}'."
            )
    if not dataset.is_virtual:
        return
    checked = set()
    for piece in dataset.virtual_sources():
        key = (piece.file_name, piece.dset_name)
        if key in checked:
            continue
        checked.add(key)
        if piece.file_name == ".":
            _follow(dataset.file, piece.dset_name, depth + 1)
            _check_storage(_dataset(dataset.file, piece.dset_name), piece.dset_name, depth + 1)
            continue
        target = _beside(dataset.file, name, piece.file_name, "virtual data of")
        with h5py.File(target, "r", locking="best-effort") as file:
            # What is missing would be read as zeros.
            _follow(file, piece.dset_name, depth + 1)
            _check_storage(_dataset(file, piece.dset_name), piece.dset_name, depth + 1)


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise ValueError(f"'{file.filename}': '{name}', which virtual data are made of, is no dataset.")
    return found


def _beside(file: h5py.File, name: str, target: str, words: str) -> Path:
    """The file that one in the same folder refers to."""
    folder = Path(str(file.filename)).resolve().parent
    found = (folder / target).resolve()
    if not found.is_relative_to(folder):
        raise ValueError(
            f"'{file.filename}': '{name}' is {words} '{target}', outside the folder of the file; not read. Copy that "
            "file beside it, or open it by itself."
        )
    if not found.is_file():
        raise ValueError(f"'{file.filename}': '{name}' is {words} '{target}', which is no file.")
    return found


def _stored_bytes(dataset: h5py.Dataset) -> int:
    """Bytes of the files that can hold a dataset's values."""
    path = Path(str(dataset.file.filename))
    if not dataset.is_virtual and not dataset.external:
        return path.stat().st_size
    others = {other for other, _, _ in dataset.external or ()}
    others |= {p.file_name for p in dataset.virtual_sources()} if dataset.is_virtual else set()
    return sum((path if name == "." else path.resolve().parent / name).stat().st_size for name in others)
