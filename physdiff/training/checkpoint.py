"""Checkpoints that are complete or not there at all.

    RUN/checkpoints/step-00000100/
        weights.safetensors     the module
        ema.safetensors         its averaged weights
        optimiser.safetensors   moments and counts of AdamW, by parameter name
        extra.safetensors       what else carries over: the objective's own state, further averages
        state.json              everything else, and a digest of each file, its own included

A checkpoint is written into a hidden sibling folder, forced to disk, and renamed; it is deleted by renaming
it away first. So a folder called step-* is complete whenever a kill comes, and hidden folders are litter.
Older checkpoints go only when a newer one is complete; when there is no room for it, they stay.
Nothing is pickled: a checkpoint from a stranger can be wrong but cannot run code.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from physdiff.disk import room_for

Tensors = dict[str, Tensor]
LITTER = ".partial-"
FILES = ("weights", "ema", "optimiser", "extra")
FORMAT = 2
UNREADABLE = (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError)


@dataclass(frozen=True)
class Checkpoint:
    """A run after a number of steps.

    Attributes:
        step: Steps done.
        weights: State of the module, by name.
        ema: State of the averaged module, by name.
        optimiser: State of the optimiser, by `quantity/parameter`.
        state: Plain values, written as JSON.
        extra: Further tensors that a resumed run needs, by name.
    """

    step: int
    weights: Tensors
    ema: Tensors
    optimiser: Tensors
    state: dict[str, Any]
    extra: Tensors = field(default_factory=dict)


def write_checkpoint(run: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Add a checkpoint to a run's folder, then delete all but the newest `keep`; returns its folder.

    A checkpoint of that step that is there already is left as it is: the same step has the same bits.

    Raises:
        DiskFull: there is no room; nothing is left of the new checkpoint, and no older one was deleted.
    """
    root = _root(run)
    final = root / f"step-{checkpoint.step:08d}"
    if not final.exists():
        size = sum(tensor.nbytes for name in FILES for tensor in getattr(checkpoint, name).values())
        with room_for(final, size, _when_full(run)):
            _add(checkpoint, final)
    for old in complete_checkpoints(run)[:-keep]:
        _delete(old)
    return final


def _add(checkpoint: Checkpoint, final: Path) -> None:
    """Write a checkpoint's folder, whole or not at all."""
    partial = final.with_name(LITTER + final.name)
    try:
        partial.mkdir(parents=True)
        digests: dict[str, str] = {}
        for name in FILES:
            tensors: Tensors = getattr(checkpoint, name)
            # Cloned, because safetensors refuses tensors that share memory (tied weights).
            content = safetensors.torch.save({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()})
            _write(partial / f"{name}.safetensors", content)
            digests[name] = _digest(content)
        about = {"format": FORMAT, "torch": torch.__version__, "digests": digests}
        # As it will be read: a key that is a number comes back as a word.
        state = json.loads(json.dumps({"step": checkpoint.step, **checkpoint.state, **about}))
        state["digests"]["state"] = _digest_of_state(state)
        _write(partial / "state.json", json.dumps(state, indent=1).encode())
        _sync_folder(partial)
        partial.rename(final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _sync_folder(final.parent)


def _when_full(run: Path) -> str:
    found = complete_checkpoints(run)
    last = f"the last checkpoint, {found[-1]}, is intact" if found else "there is no checkpoint yet"
    return f"{last}. Free some space; the same command then continues"


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint's folder.

    Raises:
        ValueError: a file is missing or damaged, or of another version; it is named.
    """
    file = path / "state.json"
    try:
        state = json.loads(file.read_text())
        version = state.get("format") if isinstance(state, dict) else None
    except UNREADABLE as error:
        raise ValueError(f"{file} is missing or damaged ({error}). {_advice(path)}") from None
    if version != FORMAT:
        raise ValueError(
            f"{file} is damaged or of another version (format {version!r}; expected {FORMAT}): continue it with the "
            "version that wrote it, or train in another folder."
        )
    try:
        step, digests = int(state["step"]), dict(state["digests"])
        if digests["state"] != _digest_of_state(state) or _step_of(path) not in (step, None):
            raise ValueError("its values differ from those written")
    except UNREADABLE as error:
        raise ValueError(f"{file} is missing or damaged ({error}). {_advice(path)}") from None
    files = {name: _read_tensors(path, name, digests.get(name)) for name in FILES}
    return Checkpoint(step=step, state=state, **files)


def complete_checkpoints(run: Path) -> list[Path]:
    """Folders of a run's checkpoints, oldest first."""
    root = _root(run)
    found = [(step, p) for p in root.iterdir() if (step := _step_of(p)) is not None] if root.exists() else []
    return [path for _, path in sorted(found)]


def remove_litter(run: Path) -> None:
    """Delete what killed writes and deletions have left in a run's folder.

    A kill between the two renames that replace a model leaves the old one hidden: it is put back.
    """
    run = Path(run)
    for path in _root(run).glob(LITTER + "*"):
        shutil.rmtree(path)
    for stage in run.glob(".model.*.partial"):
        if (stage / "old" / "model.json").is_file() and not (run / "model").exists():
            (stage / "old").rename(run / "model")
        shutil.rmtree(stage)
    for name in (".config.yaml.*.partial", ".metrics.jsonl.*.partial", "samples/.*.partial"):
        for file in run.glob(name):
            file.unlink()


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


def _step_of(path: Path) -> int | None:
    """The step that a checkpoint's folder is named by; None for any other name."""
    found = re.fullmatch(r"step-(\d{8,})", path.name)
    return int(found.group(1)) if found else None


def _read_tensors(folder: Path, name: str, digest: str | None) -> Tensors:
    path = folder / f"{name}.safetensors"
    try:
        content = path.read_bytes()
        if _digest(content) != digest:
            raise ValueError(f"{len(content)} bytes that differ from those written")
        # Cloned, because vectorised kernels may round differently on memory that is not aligned.
        return {key: tensor.clone() for key, tensor in safetensors.torch.load(content).items()}
    except (*UNREADABLE, safetensors.SafetensorError) as error:
        raise ValueError(f"{path} is missing or damaged ({error}). {_advice(folder)}") from None


def _advice(folder: Path) -> str:
    return f"Delete {folder} to go on from the checkpoint before it."


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _digest_of_state(state: dict[str, Any]) -> str:
    """Of all values but this digest itself."""
    digests = {name: digest for name, digest in state["digests"].items() if name != "state"}
    return _digest(json.dumps({**state, "digests": digests}, sort_keys=True).encode())


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
