"""Checkpoints that are complete or not there at all.

    RUN/checkpoints/step-00000100/
        weights.safetensors     the module
        ema.safetensors         its averaged weights
        optimiser.safetensors   moments and counts of AdamW, by parameter name
        state.json              everything else, and a digest of each file above

A checkpoint is written into a hidden sibling folder, forced to disk, and renamed; it is deleted by renaming
it away first. So a folder called step-* is complete whenever a kill comes, and hidden folders are litter.
Nothing is pickled: a checkpoint from a stranger can be wrong but cannot run code.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

Tensors = dict[str, Tensor]
LITTER = ".partial-"


@dataclass(frozen=True)
class Checkpoint:
    """A run after a number of steps.

    Attributes:
        step: Steps done.
        weights: State of the module, by name.
        ema: State of the averaged module, by name.
        optimiser: State of the optimiser, by `quantity/parameter`.
        state: Plain values, written as JSON.
    """

    step: int
    weights: Tensors
    ema: Tensors
    optimiser: Tensors
    state: dict[str, Any]


def write_checkpoint(run: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Add a checkpoint to a run's folder, then delete all but the newest `keep`; returns its folder."""
    root = _root(run)
    root.mkdir(parents=True, exist_ok=True)
    final = root / f"step-{checkpoint.step:08d}"
    partial = root / (LITTER + final.name)
    partial.mkdir()
    digests: dict[str, str] = {}
    for name in ("weights", "ema", "optimiser"):
        tensors: Tensors = getattr(checkpoint, name)
        # Cloned, because safetensors refuses tensors that share memory (tied weights).
        content = safetensors.torch.save({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()})
        _write(partial / f"{name}.safetensors", content)
        digests[name] = _digest(content)
    state = {"step": checkpoint.step, **checkpoint.state, "torch": torch.__version__, "digests": digests}
    _write(partial / "state.json", json.dumps(state, indent=1).encode())
    _sync_folder(partial)
    partial.rename(final)
    _sync_folder(root)
    for old in complete_checkpoints(run)[:-keep]:
        _delete(old)
    return final


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint's folder.

    Raises:
        ValueError: a file is missing or damaged; it is named.
    """
    try:
        state = json.loads((path / "state.json").read_text())
        step, digests = int(state["step"]), dict(state["digests"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path / 'state.json'} is missing or damaged ({error}). {_advice(path)}") from None
    files = {name: _read_tensors(path, name, digests.get(name)) for name in ("weights", "ema", "optimiser")}
    return Checkpoint(step=step, state=state, **files)


def complete_checkpoints(run: Path) -> list[Path]:
    """Folders of a run's checkpoints, oldest first."""
    root = _root(run)
    found = [p for p in root.iterdir() if re.fullmatch(r"step-\d{8,}", p.name)] if root.exists() else []
    return sorted(found, key=lambda p: int(p.name.removeprefix("step-")))


def remove_litter(run: Path) -> None:
    """Delete what killed writes and deletions have left in a run's folder."""
    for path in _root(run).glob(LITTER + "*"):
        shutil.rmtree(path)


def load_ema(run: Path) -> Tensors:
    """Averaged weights of a run's newest checkpoint, by name, for `module.load_state_dict`.

    Raises:
        ValueError: the run has no checkpoint, or a damaged one.
    """
    found = complete_checkpoints(run)
    if not found:
        raise ValueError(f"there is no checkpoint in {_root(run)}; train first, or name another run.")
    return read_checkpoint(found[-1]).ema


def _root(run: Path) -> Path:
    return Path(run) / "checkpoints"


def _read_tensors(folder: Path, name: str, digest: str | None) -> Tensors:
    path = folder / f"{name}.safetensors"
    try:
        content = path.read_bytes()
        if _digest(content) != digest:
            raise ValueError(f"{len(content)} bytes that differ from those written")
        # Cloned, because vectorised kernels may round differently on memory that is not aligned.
        return {key: tensor.clone() for key, tensor in safetensors.torch.load(content).items()}
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path} is missing or damaged ({error}). {_advice(folder)}") from None


def _advice(folder: Path) -> str:
    return f"Delete {folder} to go on from the checkpoint before it."


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _delete(path: Path) -> None:
    doomed = path.with_name(LITTER + "old-" + path.name)
    path.rename(doomed)
    shutil.rmtree(doomed)
