"""How many samples may be computed together: what one evaluation takes, against what there is.

An evaluation needs a + b·(samples) bytes at its peak. Two of them, of one sample and of two, tell a and b.
"""

from __future__ import annotations

import re
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from physdiff.condition import Given
from physdiff.denoisers.reverse_model import ReverseModel

SOLVER_STATES = 16  # states, stages, noise and remembered evaluations of the most demanding rule
MARGIN = 1.5  # peaks of resident memory were up to 1.3 times the tensors': convolutions have buffers of their own
FREE_SHARE = 0.8  # of the free memory that is taken when no limit is given


def fitting_chunk(
    model: ReverseModel, most: int, limit: int | None, condition: Given | None, dtype: torch.dtype
) -> int:
    """How many samples, at most `most`, fit into a limit.

    Args:
        model: What is evaluated.
        most: Number that would do.
        limit: Bytes for one chunk, beside the model and the fields that are done; what is free on the model's device
            when None.
        condition: Passed on to the model, shape (n, ...).
        dtype: Of the state.

    Raises:
        ValueError: the limit is not positive, or one sample does not fit.
    """
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ValueError(f"memory_limit must be a positive whole number of bytes; got {limit!r}.")
    device = model.device
    one = _peak(model, 1, condition, dtype, device)
    each = max(_peak(model, 2, condition, dtype, device) - one, 0)
    fixed = max(one - each, 0)
    each += SOLVER_STATES * model.path.reference.spectrum.numel() * dtype.itemsize
    free = free_memory(device) if limit is None else limit
    found = int((free / MARGIN - fixed) // each)
    if found < 1:
        raise ValueError(
            f"one sample takes about {in_words(int(MARGIN * (fixed + each)))} of memory; "
            f"{'the limit is' if limit is not None else 'free are'} {in_words(free)}."
        )
    return min(found, most)


def free_memory(device: torch.device) -> int:
    """Bytes that may be taken on a device when no limit is given.

    Raises:
        ValueError: the device or the system does not tell.
    """
    if device.type == "cuda":
        held_back = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(FREE_SHARE * (torch.cuda.mem_get_info(device)[0] + held_back))
    found = [*_of_system(), *_of_container()] if device.type == "cpu" else []
    if not found:
        raise ValueError(f"the free memory of this system's {device.type} is not known: give memory_limit, in bytes.")
    return int(FREE_SHARE * min(found))


def in_words(size: int) -> str:
    """A number of bytes as people say it, in powers of 1000."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} bytes"


def in_bytes(size: str) -> int:
    """The number of bytes in words such as "2GB", "1.5 GiB" or "4096".

    Raises:
        ValueError: the words are no size, or it is below one byte.
    """
    found = re.fullmatch(r"(\d+(?:\.\d*)?)\s*(?:([kMGT])(i?))?B?", size.strip(), re.IGNORECASE)
    if found is None:
        raise ValueError(f"a memory limit is a size such as 2GB, 500MiB or 4096, in bytes; got '{size}'.")
    number, prefix, binary = found.groups()
    power = "kmgt".index(prefix.lower()) + 1 if prefix else 0
    total = int(float(number) * (1024 if binary else 1000) ** power)
    if total < 1:
        raise ValueError(f"a memory limit must be at least 1 byte; got '{size}'.")
    return total


def _of_system() -> list[int]:
    file = Path("/proc/meminfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    return [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]


def _of_container() -> list[int]:
    """What a control group leaves, if there is one with a limit."""
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if not (limit.is_file() and used.is_file()) or not limit.read_text().strip().isdigit():
        return []
    return [max(int(limit.read_text()) - int(used.read_text()), 0)]


@torch.no_grad()
def _peak(model: ReverseModel, samples: int, condition: Given | None, dtype: torch.dtype, device: torch.device) -> int:
    """Bytes at the peak of one evaluation, beside what was there before."""
    shape = (samples, *model.path.reference.spectrum.shape)
    t, s = (torch.tensor(x, dtype=torch.float64) for x in (1.0, 0.5))
    modes = model.path.at(t).unwhiten(torch.zeros(shape, dtype=dtype, device=device))
    given = None if condition is None else condition[:1].expand(samples, *condition.shape[1:])
    model.move(modes[:1], t, s, None if given is None else given[:1])  # what the path keeps is no part of it
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        model.move(modes, t, s, given)
        return torch.cuda.max_memory_allocated(device) - before
    with _LiveTensors() as live:
        model.move(modes, t, s, given)
    return live.peak


class _LiveTensors(TorchDispatchMode):
    """Counts the bytes of the tensors that are made and still alive within the block.

    Attributes:
        peak: The most at any time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        given = {_key(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and _key(x) not in given and _key(x) not in self._sizes:
                storage = x.untyped_storage()
                self._sizes[_key(x)] = storage.nbytes()
                self.peak = max(self.peak, sum(self._sizes.values()))
                weakref.finalize(storage, self._sizes.pop, _key(x)).atexit = False
        return out


def _key(x: Tensor) -> int:
    return x.untyped_storage()._cdata
