"""Orders of samples: permutations, chunks decompressed about once, any position taken up, shared out exactly once."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from physdiff.data.fields import open_fields
from physdiff.data.fieldset import FieldSet
from physdiff.data.formats.the_well_writer import write_the_well
from physdiff.data.order import ChunkOrder, FullOrder, Order, chunks_of, excess, order_of, rows_at, window_of
from physdiff.data.selection import Selection
from physdiff.data.torch_dataset import EpochSampler
from physdiff.grid import Grid

RUNS, FRAMES, CELLS = 12, 16, 4


def stored(folder: Path, chunks: tuple[int, ...] | None, compression: str | None, **selection: int) -> FieldSet:
    """Windows of a file that is stored as told."""
    values = np.random.default_rng(0).standard_normal((RUNS, FRAMES, CELLS)).astype(np.float32)
    path = write_the_well(folder / "u.hdf5", {"u": values}, Grid(CELLS))
    with h5py.File(path, "r+") as file:
        group = file["t0_fields"]
        assert isinstance(group, h5py.Group)
        attrs = dict(group["u"].attrs)
        del group["u"]
        group.create_dataset("u", data=values, chunks=chunks, compression=compression)
        group["u"].attrs.update(attrs)
    return open_fields(path, selection=Selection(**selection))


def loads(order: Order, chunks: torch.Tensor, kept: int, batch: int) -> int:
    """How often a chunk is decompressed in an epoch, where the `kept` last used ones are held."""
    held: OrderedDict[int, None] = OrderedDict()
    count = 0
    for rows in order.epoch(0, 0).split(batch):
        for chunk in sorted(chunks[rows].tolist()):
            if chunk not in held:
                count += 1
            held[chunk] = None
            held.move_to_end(chunk)
            while len(held) > kept:
                held.popitem(last=False)
    return count


@pytest.mark.parametrize("order", [FullOrder(23), ChunkOrder(torch.arange(23) // 4, 2)], ids=["full", "chunks"])
def test_epochs_are_permutations_that_differ_by_epoch_and_seed(order: Order) -> None:
    epochs = [order.epoch(epoch, seed) for epoch, seed in ((0, 0), (1, 0), (0, 1))]
    for i, rows in enumerate(epochs):
        assert torch.equal(rows.sort().values, torch.arange(23))
        assert not any(torch.equal(rows, other) for other in epochs[:i])
    assert torch.equal(order.epoch(1, 0), epochs[1])


@pytest.mark.parametrize("order", [FullOrder(10), ChunkOrder(torch.arange(10) // 3, 2)], ids=["full", "chunks"])
def test_any_position_can_be_taken_up(order: Order) -> None:
    whole = torch.cat([order.epoch(epoch, 5) for epoch in range(4)])
    for first, count in ((0, 4), (8, 5), (9, 23), (37, 3), (10, 0)):
        assert torch.equal(rows_at(order, first, count, 5), whole[first : first + count])


def test_chunks_are_mixed_within_a_window_and_decompressed_once() -> None:
    chunks = torch.arange(4096) // 64
    order = ChunkOrder(chunks, 8)
    rows = order.epoch(0, 0)
    for window in rows.split(8 * 64):
        inside = chunks[window]
        assert len(inside.unique()) == 8
        # A batch of 16 out of 8 chunks of 64 meets 8·(1 − C(448, 16)/C(512, 16)) = 7.1 of them on average.
        met = torch.tensor([len(batch.unique()) for batch in inside.split(16)], dtype=torch.float64)
        assert abs(met.mean() - 7.1) < 3 * 0.8 / len(met) ** 0.5
    # Once each, for the windows are whole batches; full order decompresses one for nearly every sample.
    assert loads(order, chunks, 8, 16) == 64
    assert loads(FullOrder(4096), chunks, 8, 16) > 30 * 64


def test_the_first_chunk_of_an_epoch_is_any() -> None:
    order = ChunkOrder(torch.arange(40) // 4, 1)
    first = torch.tensor([int(order.epoch(epoch, 0)[0]) // 4 for epoch in range(2000)])
    counts = torch.bincount(first, minlength=10).double()
    chi2 = float(((counts - 200) ** 2 / 200).sum())
    assert chi2 < 9 + 5 * 18**0.5  # nine degrees of freedom


@pytest.mark.parametrize(
    ("chunks", "compression", "selection", "expected", "number"),
    [
        (None, None, {"frames": 2}, 1.0, 1),
        ((1, FRAMES, CELLS), None, {"frames": 2}, 1.0, 1),  # without a filter, parts of a chunk can be read
        ((1, 1, CELLS), "gzip", {"frames": 2}, 1.0, 180),
        ((1, FRAMES, CELLS), "gzip", {"frames": 2}, 8.0, 12),
        ((1, FRAMES, CELLS), "gzip", {"frames": 1, "past": 3}, 4.0, 12),
        ((3, FRAMES, CELLS), "gzip", {"frames": 2}, 24.0, 4),
        ((1, 8, CELLS), "gzip", {"frames": 2}, 4.5, 24),  # one window in eight meets two chunks
        ((1, 4, CELLS), "gzip", {"frames": 4, "time_stride": 4}, 4.0, 12),
    ],
)
def test_what_full_order_decompresses_too_much(
    tmp_path: Path, chunks: tuple[int, ...] | None, compression: str | None, selection: dict[str, int],
    expected: float, number: int,
) -> None:  # fmt: skip
    fields = stored(tmp_path, chunks, compression, **selection)
    assert excess(fields) == pytest.approx(expected, rel=1e-12)
    # Eight chunks are kept: where there are no more, any order will do.
    assert isinstance(order_of(fields, "auto"), ChunkOrder) == (expected >= 4 and number > 8)
    if compression is not None:
        assert len(chunks_of(fields).unique()) == number


def test_a_sample_is_counted_to_the_chunk_in_which_it_begins(tmp_path: Path) -> None:
    fields = stored(tmp_path, (2, 8, CELLS), "gzip", frames=3)
    found = chunks_of(fields).tolist()
    for row in range(len(fields)):
        place = fields.place(row)
        assert found[row] == place.run // 2 * 2 + place.start // 8
    assert window_of(fields) == 8


def test_an_unknown_order_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown order 'random'; it is one of auto, full, chunks"):
        order_of(stored(tmp_path, None, None), "random")  # pyright: ignore[reportArgumentType]


class Numbers(Dataset[list[int]]):
    """Gives back what it is asked for."""

    def __getitem__(self, rows: list[int]) -> torch.Tensor:
        return torch.tensor(rows)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("world", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_every_sample_once_an_epoch_over_ranks_and_workers(world: int, workers: int) -> None:
    n, size = 47, 3
    for order in (FullOrder(n), ChunkOrder(torch.arange(n) // 5, 2))[: 1 if workers else 2]:
        seen, batches = [], []
        for rank in range(world):
            sampler = EpochSampler(order, size, 7, rank, world)
            given = list(DataLoader(Numbers(), sampler=sampler, batch_size=None, num_workers=workers))
            assert len(given) == len(sampler) and all(0 < len(batch) <= size for batch in given)
            seen += torch.cat(given).tolist()
            batches.append(len(given))
        assert sorted(seen) == list(range(n))
        assert max(batches) - min(batches) <= 1


@pytest.mark.parametrize(("n", "world"), [(48, 4), (47, 4), (25, 4), (14, 3), (13, 4)])
def test_the_rest_is_shared_out_or_dropped(n: int, world: int) -> None:
    size = 3
    kept = [list(EpochSampler(FullOrder(n), size, 0, rank, world)) for rank in range(world)]
    assert sorted(row for batches in kept for batch in batches for row in batch) == list(range(n))
    last = [len(batches[-1]) for batches in kept if len(batches) == max(map(len, kept))]
    assert max(last) - min(last) <= 1
    dropped = [list(EpochSampler(FullOrder(n), size, 0, rank, world, rest="drop")) for rank in range(world)]
    assert {len(batches) for batches in dropped} == {n // (size * world)}
    assert all(len(batch) == size for batches in dropped for batch in batches)
    rows = [row for batches in dropped for batch in batches for row in batch]
    assert len(set(rows)) == len(rows) == n // (size * world) * size * world


def test_a_sampler_goes_on_where_it_was() -> None:
    whole = EpochSampler(FullOrder(20), 3, 4)
    whole.begin(2)
    batches = list(whole)
    state = whole.state(2, 4)
    other = EpochSampler(FullOrder(20), 3, 4)
    other.resume(state)
    assert list(other) == batches[4:]
    other.begin(2)
    assert list(other) == batches
    with pytest.raises(ValueError, match="cannot resume: batch_size was 3 and is now 4"):
        EpochSampler(FullOrder(20), 4, 4).resume(state)
    with pytest.raises(ValueError, match="5 samples do not fill one batch of 3 on each of 2 processes"):
        EpochSampler(FullOrder(5), 3, world=2, rest="drop")
    with pytest.raises(ValueError, match="0 <= rank < world"):
        EpochSampler(FullOrder(5), 3, rank=2, world=2)
