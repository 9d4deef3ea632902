"""The files of a model's folder: plain text and tensors, and one clear sentence about a file that is not what it was.

Tables that are measured on a trained model lie together in one file, `calibration.safetensors`, each tensor under the
name of its table; what is there is told by an entry of `model.json`, so that a model without any is as it always was.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

Tables = dict[str, dict[str, Tensor]]

TABLES = "calibration.safetensors"
TABLES_FORMAT = 1


def write_tensors(file: Path, tensors: dict[str, Tensor]) -> None:
    """Tensors of any device and layout, by name; weights that are tied are written under each of their names."""
    owned: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, x in tensors.items():
        x = x.detach().cpu().contiguous()
        owned[name] = x.clone() if x.numel() and x.untyped_storage().data_ptr() in places else x
        places.add(owned[name].untyped_storage().data_ptr())
    save_file(owned, file)


def write_tables(folder: Path, tables: Tables) -> dict[str, Any]:
    """Write what was measured into a folder; returns what `model.json` is to say about it."""
    write_tensors(folder / TABLES, {f"{table}/{name}": x for table, part in tables.items() for name, x in part.items()})
    return {"format": TABLES_FORMAT, "tables": sorted(tables)}


def read_tables(folder: Path, about: dict[str, Any], known: set[str]) -> Tables:
    """What `write_tables` wrote.

    Args:
        folder: The model's.
        about: What `model.json` says about it.
        known: Names of the tables that this version reads.

    Raises:
        ValueError: the file is missing, damaged, or of another version.
    """
    with intact(folder / "model.json", KeyError, TypeError):
        version, tables = about["format"], set(about["tables"])
    if version != TABLES_FORMAT or not tables <= known:
        raise ValueError(
            f"{folder / TABLES} is of another version: its format is {version!r} with the tables {sorted(tables)}; "
            f"expected {TABLES_FORMAT} with some of {sorted(known)}. Calibrate the model again."
        )
    stored = read_tensors(folder / TABLES)
    parts = {table: _below(stored, f"{table}/") for table in sorted(tables)}
    if empty := [table for table, part in parts.items() if not part]:
        raise ValueError(f"{folder / TABLES} is damaged: it has nothing of {', '.join(empty)}.")
    return parts


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}


@contextmanager
def intact(path: Path, *failures: type[Exception]) -> Iterator[None]:
    """Within the block, what fails is due to the content of a file."""
    try:
        yield
    except failures as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise ValueError(f"{path} is damaged or of another version: {reason}.") from error


def read_json(path: Path) -> dict[str, Any]:
    """What `model.json` says.

    Raises:
        ValueError: it is damaged, or of another version.
    """
    try:
        meta = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}.") from None
    found = meta.get("format") if isinstance(meta, dict) else None
    if found != 1:
        raise ValueError(f"{path} is damaged or of another version: its format is {found!r}; expected 1.")
    return meta


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name.

    Raises:
        ValueError: the file is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is missing or damaged: {error}.") from None
