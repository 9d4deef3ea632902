"""Batches that a thread makes: which, when, how many, and how it ends."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from physdiff.condition import Condition
from physdiff.data import ahead
from physdiff.data.ahead import Ahead, Parts
from physdiff.data.handles import read_part
from physdiff.data.rows import TensorRows


def threads() -> int:
    return sum(thread.name == "reads ahead" for thread in threading.enumerate())


def squares(rows: list[int]) -> Parts:
    return {"x": torch.tensor(rows) ** 2}


def plan(*batches: list[int]) -> Iterator[Tensor]:
    return (torch.tensor(rows) for rows in batches)


@pytest.fixture(autouse=True)
def leaves_no_thread() -> Iterator[None]:
    yield
    assert threads() == 0


def settles(holds: object) -> bool:
    """Whether something comes true within a second, and stays so for a moment."""
    end = time.monotonic() + 1
    while not holds() and time.monotonic() < end:  # pyright: ignore[reportCallIssue]
        time.sleep(0.001)
    time.sleep(0.02)
    return bool(holds())  # pyright: ignore[reportCallIssue]


def test_it_makes_what_is_expected_and_no_more_than_told() -> None:
    made: list[tuple[list[int], str]] = []

    def make(rows: list[int]) -> Parts:
        made.append((rows, threading.current_thread().name))
        return squares(rows)

    some = Ahead(make, reads_ahead=True, depth=2)
    batches = [[i, i + 1] for i in range(6)]
    some.expect(plan(*batches))
    assert settles(lambda: len(made) == 2)
    assert some.batch([0, 1])["x"].tolist() == [0, 1]
    assert settles(lambda: len(made) == 3)
    assert some.batch([9])["x"].tolist() == [81] and made[-1] == ([9], "MainThread")  # not of the plan, which goes on
    for rows in batches[1:]:
        assert some.batch(rows)["x"].tolist() == [i * i for i in rows]
    assert [rows for rows, name in made if name == "reads ahead"] == batches
    assert some.batch([7])["x"].tolist() == [49]  # after its end
    some.close()


def test_a_new_plan_forgets_the_old_one() -> None:
    some = Ahead(squares, reads_ahead=True)
    for first in (0, 3, 5):
        some.expect(plan(*([i] for i in range(first, 100))))
        assert threads() == 1
        assert [some.batch([i])["x"].item() for i in range(first, 9)] == [i * i for i in range(first, 9)]
    some.close()
    assert threads() == 0 and some.batch([4])["x"].item() == 16
    some.close()


def test_what_it_cannot_make_is_raised_where_it_is_asked_for() -> None:
    def make(rows: list[int]) -> Parts:
        if rows == [1]:
            raise ValueError("'flow.h5' is damaged.")
        return squares(rows)

    some = Ahead(make, reads_ahead=True)
    some.expect(plan([0], [1], [2]))
    assert some.batch([0])["x"].item() == 0
    with pytest.raises(ValueError, match=r"^'flow\.h5' is damaged\.$"):
        some.batch([1])
    assert some.batch([2])["x"].item() == 4
    some.close()


def test_the_thread_ends_with_its_owner() -> None:
    some = Ahead(squares, reads_ahead=True)
    some.expect(plan(*([i] for i in range(100))))
    assert threads() == 1
    del some
    gc.collect()
    assert settles(lambda: threads() == 0)


def test_without_a_thread_nothing_is_made_before_it_is_asked_for() -> None:
    some = Ahead(squares)
    some.expect(plan([0], [1]))
    assert threads() == 0 and some.batch([1])["x"].item() == 1
    some.close()


def test_a_fork_makes_its_own_batches_while_the_thread_reads(tmp_path: Path) -> None:
    """No lock that the thread holds at that moment is waited for."""
    path = str(tmp_path / "u.h5")
    with h5py.File(path, "w") as file:
        file.create_dataset("u", data=np.arange(4096.0).reshape(64, 64), chunks=(1, 64), compression="gzip")

    def make(rows: list[int]) -> Parts:
        return {"x": torch.from_numpy(np.stack([read_part(path, "u", (row,)) for row in rows]))}

    some = Ahead(make, reads_ahead=True)
    batches = [[i % 64, (7 * i) % 64] for i in range(400)]
    some.expect(plan(*batches))
    children = []
    for i, rows in enumerate(batches):
        assert some.batch(rows)["x"][1, 0] == 64 * rows[1]
        if i % 40 == 0:
            child = os.fork()
            if child == 0:
                following = batches[(i + 1) % 400]
                right = some.batch(following)["x"][0, 3] == 64 * following[0] + 3
                some.expect(plan([3], [4]))
                right = right and some.batch([3])["x"][0, 0] == 192 and some.batch([4])["x"][0, 0] == 256
                some.close()
                os._exit(0 if right else 1)
            children.append(child)
    some.close()
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 10


def test_batches_are_pinned_each_part_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for pinning, which needs a GPU."""
    pinned: list[tuple[int, str]] = []

    def pin(x: Tensor) -> Tensor:
        pinned.append((id(x), threading.current_thread().name))
        return x.clone()

    monkeypatch.setattr(ahead, "pin", pin)
    some = Ahead(lambda rows: squares(rows) | {"fields": torch.ones(1)}, reads_ahead=True, is_pinned=True)
    some.expect(plan([2], [3]))
    assert some.batch([2])["x"].item() == 4 and some.batch([3])["fields"].item() == 1
    assert [name for _, name in pinned] == ["reads ahead"] * 4
    assert some.batch([5])["x"].item() == 25 and [name for _, name in pinned[4:]] == ["MainThread"] * 2
    some.close()
    fields, condition = torch.arange(6.0).reshape(3, 2), Condition(scalars=torch.arange(3.0)[:, None])
    for given, count in ((condition, 2), (None, 1), (torch.ones(3, 1), 2)):
        del pinned[:]
        rows = TensorRows(fields, given, is_pinned=True)
        x, told = rows.batch(torch.tensor([2, 0]))
        plain, expected = TensorRows(fields, given).batch(torch.tensor([2, 0]))
        assert len(pinned) == count and torch.equal(x, plain) and type(told) is type(expected)
        if isinstance(told, Condition):
            assert torch.equal(told.scalars, expected.scalars)  # pyright: ignore


def test_a_batch_on_another_device_is_not_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "pin", lambda x: pytest.fail("it is not in memory"))
    assert ahead.pinned({"x": torch.empty(2, device="meta")})["x"].device.type == "meta"


def test_whatever_ends_the_making_of_a_batch_is_raised_where_it_is_asked_for() -> None:
    def make(rows: list[int]) -> Parts:
        raise SystemExit(3)

    here = Ahead(make, reads_ahead=True)
    here.expect(plan([0]))
    with pytest.raises(SystemExit):
        here.batch([0])
    here.close()
