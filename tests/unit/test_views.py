"""Views: whatever order an array is stored in, a part of it is what numpy cuts from the array in named order."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest

from physdiff.data.stored import MemoryArray, StackedArray
from physdiff.data.view import View

DIMS = ("trajectory", "time", "x", "y")
VALUES = np.random.default_rng(0).standard_normal((2, 5, 3, 4))
PARTS: tuple[dict[str, int | slice], ...] = (
    {},
    {"trajectory": 1},
    {"trajectory": 0, "time": slice(1, 5, 2), "x": slice(1, 3)},
    {"time": slice(0, 5, 3), "x": slice(0, 3, 2), "y": slice(1, 4, 2)},
    {"time": slice(2, 2), "y": 3},
    {"x": 0, "y": slice(3, 4)},
)


@pytest.mark.parametrize("part", range(len(PARTS)))
@pytest.mark.parametrize("backwards", [(), ("y",), ("x", "time")], ids=str)
def test_any_stored_order_gives_what_numpy_cuts(part: int, backwards: tuple[str, ...]) -> None:
    where = PARTS[part]
    key = tuple(where.get(dim, slice(None)) for dim in DIMS)
    expected = VALUES[key]
    kept = [dim for dim in DIMS if not isinstance(where.get(dim), int)]
    for stored in itertools.permutations(range(4)):
        array = VALUES.transpose(stored)
        dims = tuple(DIMS[i] for i in stored)
        array = np.flip(array, [dims.index(name) for name in backwards])
        view = pickle.loads(pickle.dumps(View(MemoryArray(array), dims, reversed=frozenset(backwards))))
        order = tuple(reversed(DIMS))
        found = view.read(order, where)
        wanted = expected.transpose([kept.index(dim) for dim in order if dim in kept])
        np.testing.assert_array_equal(found, wanted)


def test_fixed_axes_are_not_seen() -> None:
    view = View(MemoryArray(VALUES), ("time", "trajectory", "x", "component")).at(component=2)
    assert view.sizes == {"time": 2, "trajectory": 5, "x": 3}
    np.testing.assert_array_equal(view.read(("trajectory", "time", "x"), {"x": 1}), VALUES[:, :, 1, 2].T)
    named = view.renamed({"x": "lat", "component": "c"})
    np.testing.assert_array_equal(named.read(("time", "trajectory", "lat")), VALUES[..., 2])


def test_misfits_are_named() -> None:
    with pytest.raises(ValueError, match=r"u has the shape \(2, 5, 3, 4\); its axes were named \('x', 'y'\)"):
        View(MemoryArray(VALUES, "u"), ("x", "y"))
    with pytest.raises(ValueError, match="u: axis 'y' has no entry 4"):
        View(MemoryArray(VALUES, "u"), DIMS, {"y": 4})
    with pytest.raises(ValueError, match="a name of its own"):
        View(MemoryArray(VALUES, "u"), ("x", "x", "y", "z"))


def test_stacked_arrays_read_as_one() -> None:
    stack = StackedArray(tuple(MemoryArray(part, "run") for part in VALUES))
    for key in ((slice(None), 0, slice(1, 3), 2), (1, slice(0, 5, 2), 0, slice(None)), (slice(1, 2), 4, 1, 1)):
        np.testing.assert_array_equal(stack.read(key), VALUES[key])
    with pytest.raises(ValueError, match="one array is to be made of them"):
        StackedArray((MemoryArray(VALUES[0]), MemoryArray(VALUES[0, 1:])))
