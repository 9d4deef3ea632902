"""Pictures of fields lie as maps do, in whatever order axes are stored."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from physdiff.evaluation.pane import Pane
from physdiff.grid import Grid


def pane(dims: tuple[str, ...], shape: tuple[int, ...]) -> Pane:
    return Pane.of(Grid(shape, tuple(float(n) for n in shape), "periodic", dims=dims))


@pytest.mark.parametrize("dims", [("x", "y"), ("y", "x"), ("lat", "lon"), ("longitude", "latitude"), ("z", "x")])
def test_east_is_to_the_right_and_north_is_up(dims: tuple[str, str]) -> None:
    right = next(i for i, dim in enumerate(dims) if dim in ("x", "lon", "longitude"))
    field = 10 * np.indices((3, 4))[right] + np.indices((3, 4))[1 - right]  # tens: to the right; ones: upwards
    found = pane(dims, (3, 4))
    image = found.image(field)
    assert image.shape == ((3, 4)[1 - right], (3, 4)[right])
    np.testing.assert_array_equal(image[0] // 10, np.arange((3, 4)[right]))
    np.testing.assert_array_equal(image[:, 0] % 10, np.arange((3, 4)[1 - right]))
    assert found.size == ((3.0, 4.0)[right], (3.0, 4.0)[1 - right])


def test_without_such_names_the_first_axis_is_to_the_right() -> None:
    field = np.arange(12).reshape(3, 4)
    np.testing.assert_array_equal(pane(("radius", "angle"), (3, 4)).image(field), field.T)


@pytest.mark.parametrize(
    ("dims", "expected", "cut"),
    [
        (("x", "y", "z"), lambda box: box[:, :, 2].T, ("z", 2)),
        (("z", "y", "x"), lambda box: box[1], ("z", 1)),
        (("y", "x", "z"), lambda box: box[:, :, 2], ("z", 2)),
        (("depth", "lat", "lon"), lambda box: box[1], ("depth", 1)),
        (("a", "b", "c"), lambda box: box[:, :, 2].T, ("c", 2)),
    ],
)
def test_a_box_is_shown_by_its_middle_slice(
    dims: tuple[str, ...], expected: Callable[[np.ndarray], np.ndarray], cut: tuple[str, int]
) -> None:
    box = np.arange(24).reshape(2, 3, 4)
    found = pane(dims, (2, 3, 4))
    np.testing.assert_array_equal(found.image(box), expected(box))
    assert found.cuts == [cut]
