"""Who reads windows of two frames in the benchmark of loaders; each gives a function that reads so many batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from physdiff.data.fields import open_fields
from physdiff.data.fieldset import FieldSet
from physdiff.data.order import Order, order_of
from physdiff.data.samples import Samples
from physdiff.data.selection import Selection
from physdiff.data.stream import StreamedRows
from physdiff.data.torch_dataset import FieldDataset

BATCH, SEED = 16, 0
BARE, OURS, STREAMED, CHUNKS = "bare h5py, handle kept", "FieldDataset", "StreamedRows", "FieldDataset, by chunks"
WELL, NEURALOP = "the_well WellDataset", "neuraloperator H5pyDataset"

Read = Callable[[int], None]  # reads so many batches, the next ones of an endless shuffled order


class Batches(Sampler[list[int]]):
    """Batches of an order, so many at a time, the next time the following ones."""

    def __init__(self, order: Order) -> None:
        self.order, self.count, self._done = order, 0, 0
        self._rows = order.epoch(0, SEED)

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(self.count):
            if (self._done + 1) * BATCH > len(self._rows):
                self._done = 0
            yield self._rows[self._done * BATCH : (self._done + 1) * BATCH].tolist()
            self._done += 1


class BareDataset(Dataset[Tensor]):
    """Windows of two frames by h5py alone: the file is opened once in each process."""

    def __init__(self, path: Path, name: str, windows: int) -> None:
        self.path, self.name, self.windows = path, name, windows
        self.dataset: Any = None

    def __getitem__(self, row: int) -> Tensor:
        if self.dataset is None:
            self.dataset = h5py.File(self.path, "r")[self.name]
        run, start = divmod(row, self.windows)
        return torch.from_numpy(self.dataset[run, start : start + 2])


class Unchanged:
    """A preparation that leaves physical units, so that reading alone is measured."""

    def tensors(self, samples: Samples) -> tuple[Tensor, None]:
        return torch.from_numpy(samples.values), None

    def to_dict(self) -> dict[str, Any]:
        return {}


def windows(path: Path) -> FieldSet:
    """Windows of two frames of a file of ours or of The Well's dummy."""
    return open_fields(path, selection=Selection(frames=2))


def bare(path: Path, name: str, count: int, workers: int) -> Read:
    """h5py alone in torch's loader."""
    return _loader(BareDataset(path, name, count), order_of(windows(path), "full"), workers)


def ours(path: Path, workers: int, order: Any = "full") -> Read:
    """FieldDataset in torch's loader, a batch at a time."""
    fields = windows(path)
    batches = Batches(order_of(fields, order))
    data = FieldDataset(fields)
    loader = DataLoader(data, sampler=batches, batch_size=None, num_workers=workers, persistent_workers=workers > 0)
    return _reads(loader, batches)


def streamed(path: Path, workers: int) -> Read:
    """The rows that training reads."""
    fields = windows(path)
    rows = StreamedRows(fields, Unchanged(), workers, digest="benchmark")
    batches = Batches(order_of(fields, "full"))

    def read(count: int) -> None:
        batches.count = count
        plan = [torch.tensor(batch) for batch in batches]
        rows.expect(iter(plan))
        for batch in plan:
            rows.batch(batch)

    return read


def the_well(path: Path, workers: int) -> Read:
    """The Well's own data set, one step in and one out, as its own loader batches it."""
    from the_well.data import WellDataset  # pyright: ignore[reportMissingImports]

    data = WellDataset(path=str(path.parent), n_steps_input=1, n_steps_output=1)
    return _loader(data, order_of(windows(path), "full"), workers)


def neuraloperator(path: Path, well: Path, workers: int) -> Read:
    """neuraloperator's data set of pairs; `resolution` 1024 is its way to say every cell."""
    from neuralop.data.datasets.hdf5_dataset import H5pyDataset  # pyright: ignore[reportMissingImports]

    return _loader(H5pyDataset(str(path), resolution=1024), order_of(windows(well), "full"), workers)


def bare_loop(path: Path, name: str, count: int) -> Read:
    """h5py alone in this process, without a loader, into one array: the least that reading costs."""
    batches = Batches(order_of(windows(path), "full"))
    dataset: Any = h5py.File(path, "r")[name]

    def read(number: int) -> None:
        batches.count = number
        for rows in batches:
            found = np.empty((len(rows), 2, *dataset.shape[2:]), np.float32)
            for i, row in enumerate(rows):
                run, start = divmod(row, count)
                found[i] = dataset[run, start : start + 2]

    return read


def our_loop(path: Path) -> Read:
    """`FieldSet.read` in this process, without a loader."""
    fields = windows(path)
    batches = Batches(order_of(fields, "full"))

    def read(number: int) -> None:
        batches.count = number
        for rows in batches:
            fields.read(rows)

    return read


def _loader(data: Any, order: Order, workers: int) -> Read:
    """A data set of single samples in torch's loader, which makes batches of them."""
    batches = Batches(order)
    loader = DataLoader(data, batch_sampler=batches, num_workers=workers, persistent_workers=workers > 0)
    return _reads(loader, batches)


def _reads(loader: DataLoader[Any], batches: Batches) -> Read:
    def read(count: int) -> None:
        batches.count = count
        assert sum(1 for _ in loader) == count

    return read
