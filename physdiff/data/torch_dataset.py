"""Fields for a training loop of one's own: a map-style data set of torch, and batches that can be taken up anywhere.

    fields = open_fields("flow.hdf5", split="train")
    data, sampler = FieldDataset(fields), EpochSampler(fields, batch_size=16, seed=0)
    loader = DataLoader(data, sampler=sampler, batch_size=None, num_workers=4, persistent_workers=True)
    for epoch in range(10):
        sampler.begin(epoch)
        for batch in loader:
            step(batch["values"])

The sampler gives whole batches, so `batch_size=None`: each is read in one piece, which is faster than sample by sample.
To stop after k batches of an epoch and go on later, keep `sampler.state(epoch, k)` and give it to `sampler.resume`. On
several processes each takes `EpochSampler(..., rank=rank, world=world)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from physdiff.data.fieldset import FieldSet
from physdiff.data.order import Order, Shuffling, epoch_of, order_of
from physdiff.data.rows import Prepares, parts_of
from physdiff.data.samples import Samples
from physdiff.randomness import require_seed

Rest = Literal["keep", "drop"]


class FieldDataset(Dataset[dict[str, Tensor]]):
    """Samples of files, as dictionaries of tensors; safe in worker processes, however they are started.

    A sample has "values", shape (channels, *grid), in physical units, and where the selection asks for them "given",
    "scalars", "classes" and "observed". With a preparation it has "x" in normalised units and the parts of its
    condition in place of these. A list of numbers gives a batch.

    Args:
        fields: The samples.
        preparation: What makes tensors for a network of them; None leaves physical units.
    """

    def __init__(self, fields: FieldSet, preparation: Prepares | None = None) -> None:
        self.fields, self.preparation = fields, preparation

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.fields)

    def __getitem__(self, row: int | Sequence[int]) -> dict[str, Tensor]:
        """A sample by number, or a batch of them by a list."""
        if isinstance(row, int):
            return {name: x[0] for name, x in self._read([row]).items()}
        return self._read(row)

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Tensor]]:
        """Samples by number, read in one piece; torch's loaders call this to fill a batch."""
        batch = self._read(rows)
        return [{name: x[i] for name, x in batch.items()} for i in range(len(rows))]

    def _read(self, rows: Sequence[int]) -> dict[str, Tensor]:
        samples = self.fields.read(rows)
        return as_tensors(samples) if self.preparation is None else parts_of(*self.preparation.tensors(samples))


class EpochSampler(Sampler[list[int]]):
    """Batches of sample numbers: every sample once an epoch over all processes, in an order keyed by seed and epoch.

    Args:
        fields: The samples, or an order of them.
        batch_size: Samples of a batch of one process.
        seed: Keys the order.
        rank: Number of this process, from 0.
        world: Number of processes.
        order: "full", "chunks" or "auto", see `physdiff.data.order`.
        rest: What happens to the samples that do not fill a last batch on every process. "keep" shares them out as
            evenly as may be; a process whose share is empty has one batch fewer than others. "drop" leaves them out
            of this epoch (they differ from epoch to epoch), so that every process has equally many full batches.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self, fields: FieldSet | Order, batch_size: int, seed: int = 0, rank: int = 0, world: int = 1,
        order: Shuffling = "auto", rest: Rest = "keep",
    ) -> None:  # fmt: skip
        if batch_size < 1 or world < 1 or not 0 <= rank < world:
            raise ValueError(
                f"a sampler needs batch_size >= 1 and 0 <= rank < world; got batch_size = {batch_size}, rank = {rank}, "
                f"world = {world}."
            )
        if rest not in get_args(Rest):
            raise ValueError(f"unknown rest '{rest}'; it is one of {', '.join(get_args(Rest))}.")
        require_seed(seed)
        self.order: Order = order_of(fields, order) if isinstance(fields, FieldSet) else fields
        self.batch_size, self.seed, self.rank, self.world, self.rest = batch_size, seed, rank, world, rest
        self.epoch, self.first = 0, 0
        if len(self) == 0 and rest == "drop":
            raise ValueError(
                f"{len(self.order)} samples do not fill one batch of {batch_size} on each of {world} processes; take "
                "rest = 'keep', or smaller batches."
            )

    def begin(self, epoch: int, batch: int = 0) -> None:
        """Let the next iteration give the batches of an epoch, from one of them on."""
        if epoch < 0 or batch < 0:
            raise ValueError(f"epochs and batches are counted from 0; got epoch {epoch}, batch {batch}.")
        self.epoch, self.first = epoch, batch

    def state(self, epoch: int, done: int) -> dict[str, Any]:
        """Plain values from which `resume` goes on after `done` batches of an epoch.

        The loop counts, as a loader with workers has asked for batches that nobody has seen yet.
        """
        return {"epoch": epoch, "batch": done, **self._fixed()}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on where `state` says.

        Raises:
            ValueError: it is of another order: of other data, batch size, seed or number of processes.
        """
        for name, now in self._fixed().items():
            if state.get(name) != now:
                raise ValueError(f"cannot resume: {name} was {state.get(name)!r} and is now {now!r}.")
        self.begin(state["epoch"], state["batch"])

    def __len__(self) -> int:
        """Batches of this process in an epoch."""
        full, left = divmod(len(self.order), self.batch_size * self.world)
        return full + (self.rest == "keep" and self._share(left)[0] < self._share(left)[1])

    def __iter__(self) -> Iterator[list[int]]:
        epoch, first, total = self.epoch, self.first, self.batch_size * self.world
        self.first = 0
        rows = epoch_of(self.order, epoch, self.seed)
        for batch in range(first, len(self)):
            start = batch * total
            begin, end = self._share(min(total, len(rows) - start))
            yield rows[start + begin : start + end].tolist()

    def _share(self, n: int) -> tuple[int, int]:
        """This process's part of n samples."""
        return n * self.rank // self.world, n * (self.rank + 1) // self.world

    def _fixed(self) -> dict[str, Any]:
        names = ("batch_size", "seed", "world", "rest")
        return {"samples": len(self.order), "order": self.order.name} | {name: getattr(self, name) for name in names}


def as_tensors(samples: Samples) -> dict[str, Tensor]:
    """Samples in physical units as tensors, by the names of their parts."""
    return {name: torch.from_numpy(x) for name, x in samples.arrays.items()}
