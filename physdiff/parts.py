"""Work in numbered parts that outlives the process: what is done is on disk, and a later launch does the rest.

    FOLDER/KEY/part-00000003.safetensors

A part holds the numbers of a few fields and a digest of them, is written whole or not at all, and does not depend on
which process computes it, or when. So what is put together in the end has the same bits after any number of kills, and
from any number of processes: process r of w takes the parts r, r + w, r + 2w, and so on, and they meet only when all
are done. In between nobody waits for anybody: adaptive solvers take another number of evaluations on each part.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from physdiff.atomic import replacing_file


@dataclass(frozen=True, eq=False)
class Part:
    """What was computed of a few fields.

    Attributes:
        tensors: Numbers per field, by name, first dimension the fields.
        attributes: Plain values.
    """

    tensors: dict[str, Tensor]
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Parts:
    """Where the parts of one piece of work are kept.

    Attributes:
        folder: Folder of all such work.
        key: What the work is, such as a hash of model and settings: parts of other work are left alone.
    """

    folder: Path
    key: str

    def write(self, index: int, part: Part, source: str) -> None:
        """Put a part on disk.

        Args:
            index: Its number.
            part: What was computed.
            source: Digest of what it was computed from.
        """
        tensors = {name: x.contiguous() for name, x in part.tensors.items()}
        about = {"source": source, "attributes": json.dumps(part.attributes), "digest": digest_of(tensors)}
        with replacing_file(self._file(index)) as partial:
            save_file(tensors, partial, about)

    def read(self, index: int, source: str) -> Part | None:
        """A part that was computed from the same; None if there is none, or a damaged one, which is said."""
        file = self._file(index)
        if not file.exists():
            return None
        try:
            with safe_open(file, "pt") as content:
                about = content.metadata() or {}
                tensors = {name: content.get_tensor(name).clone() for name in content.keys()}
            intact = about["digest"] == digest_of(tensors)
            attributes = json.loads(about["attributes"])
        except (OSError, SafetensorError, KeyError, ValueError):
            intact, about, tensors, attributes = False, {}, {}, {}
        if not intact:
            tqdm.write(f"{file} is damaged; its fields are computed again", file=sys.stderr)
            return None
        return Part(tensors, attributes) if about.get("source") == source else None

    def remove(self) -> None:
        """Delete the parts of this work, and the folder if it held no other."""
        shutil.rmtree(self.folder / self.key, ignore_errors=True)
        with suppress(OSError):
            self.folder.rmdir()

    def _file(self, index: int) -> Path:
        return self.folder / self.key / f"part-{index:08d}.safetensors"


@dataclass(frozen=True)
class Processes:
    """Those that share the work.

    Attributes:
        rank: Number of this one.
        count: How many there are.
        meet: Returns when all have called it.
    """

    rank: int = 0
    count: int = 1
    meet: Callable[[], None] = lambda: None


def launched() -> bool:
    """Whether a launcher has started several processes, such as `torchrun --nproc-per-node 2 -m -- physdiff ...`."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ:
        return True
    if "ACCELERATE_DYNAMO_BACKEND" in os.environ and "MASTER_ADDR" in os.environ:
        tqdm.write(
            "accelerate was asked for several processes and started one, as it does without GPUs: add --multi_gpu",
            file=sys.stderr,
        )
    return False


@contextmanager
def processes() -> Iterator[Processes]:
    """The processes that a launcher has started."""
    if not launched():
        yield Processes()
        return
    from accelerate import PartialState

    # By the CPU, whatever the work runs on: nothing is exchanged. Parts may differ by days.
    state = PartialState(cpu=True, timeout=timedelta(days=365))
    try:
        yield Processes(state.process_index, state.num_processes, state.wait_for_everyone)
    finally:
        state.destroy_process_group()


def computed(
    parts: Parts,
    sources: list[str],
    compute: Callable[[int], Part],
    shared: Processes,
    bar: tqdm[Any],
) -> list[Part] | None:
    """All parts, of which those that are on disk are not computed again.

    Args:
        parts: Where they are kept.
        sources: Digest of what each is computed from.
        compute: Computes the part of a number.
        shared: The processes that each call this.
        bar: Moves on by one a part of this process.

    Returns:
        The parts in order to process 0, None to the others.
    """

    def one(index: int) -> Part:
        found = parts.read(index, sources[index])
        if found is None:
            found = compute(index)
            parts.write(index, found, sources[index])
        return found

    for index in range(shared.rank, len(sources), shared.count):
        one(index)
        bar.update()
    shared.meet()
    return [one(index) for index in range(len(sources))] if shared.rank == 0 else None


def digest_of(tensors: dict[str, Tensor]) -> str:
    """A hash of names, types, shapes and values."""
    total = hashlib.blake2b(digest_size=16)
    for name, x in sorted(tensors.items()):
        total.update(f"{name} {x.dtype} {tuple(x.shape)}\n".encode())
        total.update(x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def digest_of_files(files: Iterable[Path]) -> str:
    """A hash of the names and contents of files."""
    total = hashlib.blake2b(digest_size=16)
    for file in sorted(files, key=lambda f: (f.name, str(f))):
        total.update(f"{file.name} {file.stat().st_size}\n".encode())
        with file.open("rb") as content:
            total.update(hashlib.file_digest(content, "blake2b").digest())
    return total.hexdigest()
