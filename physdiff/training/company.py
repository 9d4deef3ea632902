"""The processes that train together: what they tell each other, and what each holds of the weights.

Every process keeps the same settings, data and step number; weights are copied to all (DDP) or shared out (FSDP2). Each
computes the losses of its rows of the batch; gradients are summed. Files are written by the first process alone.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TextIO

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore, Store  # pyright: ignore[reportPrivateImportUsage]

from physdiff.parts import launched

SPEAKS = "the first of its company to fail"
WAIT = timedelta(hours=2)  # for one another: samples are drawn and checkpoints written by one while the rest wait


# The launcher's store, once it is known, and the number of the next company of this process, as in a sweep.
_stores: list[Store] = []
_later = itertools.count(1)


@dataclass(frozen=True)
class Company:
    """Processes that each call the same methods in the same order.

    Attributes:
        rank: Number of this one; the first, 0, writes the files.
        count: How many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def meet(self) -> None:
        """Return when all have called it."""
        if self.count > 1:
            dist.barrier()

    def sum_(self, x: Tensor) -> Tensor:
        """The sum over the processes, in place."""
        if self.count > 1:
            dist.all_reduce(x)
        return x


class ProcessLost(RuntimeError):
    """Another process of the company is gone; it has said why."""


@contextmanager
def in_company(device: torch.device) -> Iterator[Company]:
    """The processes that a launcher has started, if it has, talking by what suits the device.

    Raises:
        ProcessLost: another process failed before this one.
    """
    if dist.is_initialized():
        yield Company(dist.get_rank(), dist.get_world_size())
        return
    if not launched():
        yield Company()
        return
    from accelerate import PartialState

    state = PartialState(cpu=device.type == "cpu", timeout=WAIT, **_meeting_place())
    if not _stores:
        _stores.append(dist.distributed_c10d._get_default_store())
    try:
        yield Company(state.process_index, state.num_processes)
        state.wait_for_everyone()  # a process that leaves early would break the line to the others
    except Exception as error:
        # Whoever fails first tells why. The others fail with it, if only because nobody answers them.
        if not _first_to_fail():
            raise ProcessLost("another process of this run has stopped") from error
        error.add_note(SPEAKS)
        raise
    finally:
        state.destroy_process_group()
        PartialState._reset_state()


def _meeting_place() -> dict[str, Any]:
    """Where the next company finds one another: the first by what the launcher says, later ones on pages of their own.

    On the first one's page the addresses of a company that is gone still stand.
    """
    if not _stores:
        return {}
    place = PrefixStore(f"physdiff/company {next(_later)}", _stores[0])
    return {"store": place, "rank": rank(), "world_size": int(os.environ["WORLD_SIZE"])}


def _first_to_fail() -> bool:
    try:
        return dist.distributed_c10d._get_default_store().add("physdiff/failed", 1) == 1
    except RuntimeError:  # the process that keeps the store is gone
        return False


def tells(error: BaseException) -> bool:
    """Whether this process should say what went wrong: one of all does."""
    if isinstance(error, ProcessLost):
        return False
    return rank() == 0 or SPEAKS in getattr(error, "__notes__", ())


def rank() -> int:
    """Number of this process among those that a launcher has started; 0 alone."""
    return int(os.environ.get("RANK", "0"))


def say(text: str, file: TextIO | None = None) -> None:
    """Print, if this is the process that speaks for all."""
    if rank() == 0:
        print(text, file=file, flush=True)


def device_of(name: str) -> torch.device:
    """The device of this process: "auto" is a GPU where there is one.

    Raises:
        ValueError: there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"training.device must be 'auto', 'cpu' or 'cuda'; '{name}' is not here: {error}") from None
    return device


def whole(x: Tensor) -> Tensor:
    """A tensor of which each process may hold a part, complete; all processes ask for it together."""
    x = x.detach()
    return x.full_tensor() if hasattr(x, "full_tensor") else x  # pyright: ignore


def part_like(x: Tensor, like: Tensor) -> Tensor:
    """A complete tensor, shared out as another is."""
    if not hasattr(like, "device_mesh"):
        return x
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(x.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def share_out(module: nn.Module, least: int) -> None:
    """Leave each process a part of every weight (FSDP2); blocks of at least so many weights are gathered one at a time.

    In place: the weights become `DTensor`s.
    """
    from torch.distributed.fsdp import FSDPModule, fully_shard

    def shard(part: nn.Module) -> int:
        """Returns the weights below it that no block has taken."""
        left = sum(p.numel() for p in part.parameters(recurse=False)) + sum(shard(child) for child in part.children())
        if left < least or isinstance(part, (nn.ModuleList, nn.ModuleDict)):
            return left
        fully_shard(part)
        return 0

    shard(module)
    if not isinstance(module, FSDPModule):
        fully_shard(module)
