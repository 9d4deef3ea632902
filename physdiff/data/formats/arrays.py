"""Arrays without names for their axes: .npy, .npz and .pt. A layout says what the axes are and how long the box is.

A .npy and the members of an uncompressed .npz are mapped, those of a compressed one read once and kept; of a .pt only
plain tensors are read, never a pickled object.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from physdiff.data.containment import check_size
from physdiff.data.damage import words_of
from physdiff.data.file_map import Identity, MappedArray, identity, steps
from physdiff.data.formats.by_layout import read_by_layout
from physdiff.data.formats.format import Format
from physdiff.data.formats.starred import Stars
from physdiff.data.layout import Layout
from physdiff.data.source import Source
from physdiff.data.stored import Key, StoredArray
from physdiff.registry import nearest

MOST_BYTES = 64 * 2**30  # of an array that has to be read whole; a packed file can claim any size


@dataclass(frozen=True)
class WholeArray:
    """An array that another library reads: once in each process, and kept while it is among the last used.

    Attributes:
        path: The file.
        name: Which of its arrays.
        shape: Its shape.
        dtype: Type of the numbers.
        load: Reads it, given path and name; a function of a module, so that it can be pickled.
        is_packed: Whether it can only be read whole; else `load` gives a map of the file.
    """

    path: str
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    load: Callable[[str, str], np.ndarray]
    is_packed: bool = True

    @property
    def chunks(self) -> tuple[int, ...] | None:
        return self.shape if self.is_packed else None

    @property
    def compression(self) -> str:
        """What the file says of it: that it can only be unpacked whole."""
        return "packed whole" if self.is_packed else ""

    @property
    def label(self) -> str:
        return f"{self.path}: {self.name}"

    def read(self, key: Key) -> np.ndarray:
        return np.array(_kept(self.load, self.path, self.name, identity(self.path))[key], dtype=self.dtype)


@lru_cache(maxsize=8)
def _kept(load: Callable[[str, str], np.ndarray], path: str, name: str, identity: Identity) -> np.ndarray:
    return load(path, name)


@dataclass(frozen=True)
class ArrayStore:
    """Named arrays of a file, as a layout reads them.

    Attributes:
        path: The file.
        schema: Name of the format.
        arrays: What it holds, by name.
        is_reversed: Whether axes are stored in the opposite of the order that users know.
    """

    path: str
    schema: str
    arrays: Mapping[str, StoredArray]
    is_reversed: bool = False
    drops_last: ClassVar[bool] = False

    def names(self) -> Sequence[str]:
        """All arrays of numbers."""
        return [name for name, array in self.arrays.items() if array.dtype.kind in "fiubc"]

    def array(self, name: str) -> StoredArray:
        """One of them."""
        found = self.arrays.get(name, self.arrays.get(name.strip("/")))
        if found is None:
            raise ValueError(f"'{self.path}' has no array '{name}'. {nearest(name, self.arrays)}")
        return found

    def dims(self, name: str) -> None:
        """None: such a file has no names for axes."""
        return None

    def centres(self, name: str) -> Mapping[str, np.ndarray]:
        """None are tied to an array."""
        return {}

    def stars(self, name: str) -> Sequence[Stars]:
        """None: a name stands for one array."""
        return []

    def numbers(self, name: str) -> np.ndarray:
        """An array, read."""
        array = self.array(name)
        return np.asarray(array.read((slice(None),) * len(array.shape)))


def open_npy(path: Path, layout: Layout) -> Source:
    """One array; the field is called `data` if the layout does not name it."""
    with path.open("rb") as file:
        array = _npy(str(path), "data", file, 0)
    return read_by_layout(ArrayStore(str(path), "npy", {"data": array}), layout)


def open_npz(path: Path, layout: Layout) -> Source:
    """The arrays of an archive.

    Raises:
        ValueError: it is damaged, or claims more than `MOST_BYTES`.
    """
    arrays: dict[str, StoredArray] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not info.filename.endswith(".npy"):
                    continue
                name = info.filename.removesuffix(".npy")
                if info.file_size > MOST_BYTES:
                    raise ValueError(
                        f"'{path}': '{name}' claims {info.file_size / 1e9:.3g} GB; an array of a packed archive is "
                        f"read whole, and may have {MOST_BYTES / 1e9:.3g} GB."
                    )
                with archive.open(info) as member:
                    if info.compress_type == zipfile.ZIP_STORED:
                        arrays[name] = _npy(str(path), name, member, _begin(path, info))
                    else:
                        shape, _, dtype = _header(str(path), name, member)
                        _check_claim(path, name, shape, dtype, info)
                        arrays[name] = WholeArray(str(path), name, shape, dtype.newbyteorder("="), _load_npz)
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"'{path}' is truncated, damaged or no .npz archive: {words_of(error)}.") from None
    if not arrays and {"zarr.json", ".zgroup", ".zarray"} & set(archive.namelist()):
        raise ValueError(f"'{path}' is a zarr store in one zip archive; unpack it into a folder.")
    return read_by_layout(ArrayStore(str(path), "npz", arrays), layout)


def _check_claim(path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype, info: zipfile.ZipInfo) -> None:
    check_size(f"'{path}': '{name}'", shape, dtype, info.compress_size)
    claimed = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if claimed > info.file_size:
        raise ValueError(
            f"'{path}': '{name}' of shape {shape} has {claimed} bytes; the archive has {info.file_size} of it."
        )


def _load_npz(path: str, name: str) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return archive[name]
    except (zipfile.BadZipFile, EOFError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise ValueError(f"'{path}': '{name}' is truncated or damaged: {words_of(error)}.") from None


def _begin(path: Path, info: zipfile.ZipInfo) -> int:
    """Byte at which an uncompressed member's own bytes begin: after its local header, name and further entries."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        head = file.read(30)
    return info.header_offset + 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")


def _npy(path: str, name: str, file: Any, begin: int) -> MappedArray:
    """An array in the .npy format that begins at a byte of a file."""
    shape, fortran, dtype = _header(path, name, file)
    return MappedArray(path, name, shape, dtype, steps(shape, dtype.itemsize, fortran=fortran), begin + file.tell())


def _header(path: str, name: str, file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran's order, and type, of an array in the .npy format."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except (ValueError, EOFError, OSError, TypeError, SyntaxError, zipfile.BadZipFile) as error:
        raise ValueError(f"'{path}' is truncated or damaged at '{name}': {words_of(error)}.") from None
    if dtype.hasobject:
        raise ValueError(f"'{path}': '{name}' holds Python objects, which can run code when they are read; not read.")
    if any(n < 0 for n in shape):
        raise ValueError(f"'{path}': '{name}' claims the shape {shape}.")
    return shape, fortran, dtype


def open_torch(path: Path, layout: Layout) -> Source:
    """The tensors of a file by `torch.save`: one (`data`), a list (`0`, `1`, ...) or names with tensors.

    Raises:
        ValueError: it is damaged, or holds anything but tensors.
    """
    tensors = _tensors(str(path), identity(str(path)))
    arrays = {
        name: WholeArray(str(path), name, tuple(t.shape), _as_numpy(t[:0] if t.ndim else t).dtype, _load_tensor, False)
        for name, t in tensors.items()
    }
    return read_by_layout(ArrayStore(str(path), "torch", arrays), layout)


@lru_cache(maxsize=8)
def _tensors(path: str, identity: Identity) -> dict[str, torch.Tensor]:
    is_archive = zipfile.is_zipfile(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except pickle.UnpicklingError as error:
        said = str(error).split(". ")[0].split("\n")[0]
        raise ValueError(
            f"'{path}' is damaged, or holds objects beside plain tensors, which can run code when they are read; not "
            f"read ({said}). Save a tensor, or a dict of tensors."
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"'{path}' is truncated, damaged or no file of tensors: {said}.") from None
    found: dict[str, torch.Tensor] = {}
    _flatten(path, "", content, found)
    return found


def _flatten(path: str, name: str, content: Any, found: dict[str, torch.Tensor]) -> None:
    if isinstance(content, torch.Tensor):
        # What is sparse or quantised is no array as it stands.
        if content.layout != torch.strided or content.is_quantized:
            raise ValueError(f"'{path}': '{name or 'data'}' is a {content.layout} tensor; expected a dense one.")
        found[name or "data"] = content.detach()
    elif isinstance(content, int | float):
        found[name or "data"] = torch.tensor(content, dtype=None if isinstance(content, bool) else torch.float64)
    elif isinstance(content, list | tuple) and content and all(type(one) in (int, float) for one in content):
        found[name or "data"] = torch.tensor(content, dtype=torch.float64)
    elif isinstance(content, dict):
        for key, value in content.items():
            _flatten(path, f"{name}/{key}".strip("/"), value, found)
    elif isinstance(content, list | tuple):
        for i, value in enumerate(content):
            _flatten(path, f"{name}/{i}".strip("/"), value, found)


def _as_numpy(tensor: torch.Tensor) -> np.ndarray:
    # numpy has no bfloat16 and no numbers of 8 bits with a point; float32 holds every one.
    if tensor.dtype.is_floating_point and tensor.dtype not in (torch.float16, torch.float32, torch.float64):
        tensor = tensor.float()
    elif tensor.dtype == torch.complex32:
        tensor = tensor.to(torch.complex64)
    return tensor.resolve_conj().resolve_neg().numpy()


def _load_tensor(path: str, name: str) -> np.ndarray:
    return _as_numpy(_tensors(path, identity(path))[name])


_NEEDS = "dims, extent or coordinates, boundary, time"
NPY = Format(
    "npy", "NumPy array", lambda probe: probe.kind == "npy", open_npy,
    told_by="a file of numpy.save", needs=_NEEDS, takes_fields=True,
)  # fmt: skip
NPZ = Format(
    "npz", "NumPy archive", lambda probe: probe.kind == "npz", open_npz,
    told_by="a file of numpy.savez", needs=_NEEDS, takes_fields=True,
)  # fmt: skip
TORCH = Format(
    "torch", "torch tensors", lambda probe: probe.kind == "torch", open_torch,
    told_by="a file of torch.save, tensors only", needs=_NEEDS, takes_fields=True,
)  # fmt: skip
