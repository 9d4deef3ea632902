"""Conditions pick, repeat and join as tensors do, and refuse what does not fit."""

from __future__ import annotations

import pytest
import torch

from physdiff import Condition
from physdiff.condition import per_field


def condition(n: int = 3) -> Condition:
    return Condition(
        torch.arange(n * 8.0).reshape(n, 2, 4), torch.arange(n * 1.0)[:, None], torch.arange(n), torch.arange(n) != 1
    )


def test_rows_of_all_parts_go_together() -> None:
    given = condition()
    for rows in (slice(1, 3), torch.tensor([2, 0])):
        some = given[rows]
        for name, part in vars(given).items():
            assert torch.equal(getattr(some, name), part[rows])
    twice = given.repeat_interleave(2, 0)
    assert twice.classes is not None and twice.classes.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(twice) == 6
    one = per_field(given[:1], 4)
    assert isinstance(one, Condition) and one.scalars is not None and one.scalars.tolist() == [[0.0]] * 4


def test_a_type_is_that_of_real_parts_alone() -> None:
    double = condition().to(torch.float64)
    assert double.fields is not None and double.fields.dtype == torch.float64
    assert double.classes is not None and double.classes.dtype == torch.int64
    assert double.present is not None and double.present.dtype == torch.bool


def test_presence_only_shrinks() -> None:
    told = condition().told(torch.tensor([True, True, False]))
    assert told.present is not None and told.present.tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({}, "at least one of"),
        ({"present": torch.ones(2, dtype=torch.bool)}, "at least one of"),
        ({"fields": torch.zeros(2, 3)}, r"'fields' .* \(n, channels, \*grid\); got \(2, 3\)"),
        ({"scalars": torch.zeros(2)}, r"'scalars' .* \(n, scalars\); got \(2,\)"),
        ({"classes": torch.zeros(2)}, "int64; got torch.float32"),
        ({"scalars": torch.zeros(2, 1), "classes": torch.zeros(3, dtype=torch.int64)}, "same n fields"),
        ({"scalars": torch.zeros(2, 1), "present": torch.zeros(2)}, "true or false"),
    ],
)
def test_what_does_not_fit(parts: dict[str, torch.Tensor], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Condition(**parts)
