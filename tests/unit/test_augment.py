"""Symmetries of the grid against the physics: derivatives of what is turned are the turned derivatives."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from physdiff.condition import Condition
from physdiff.data.symmetry import Sense, Turn, parse, sources, turns
from physdiff.grid import Grid
from physdiff.randomness import RowDraws, keyed_generator
from physdiff.training.augment import Symmetries, shift_at_random

SQUARE, CUBE = Grid((9, 9), 2.0), Grid((5, 5, 5), 3.0)  # odd, so that every mode has a derivative
ALL = ("flip", "rotate")


def vector(name: str, d: int, pseudo: bool = False, frame: int = 0) -> tuple[Sense, ...]:
    return tuple(Sense(f"{name}_{'xyz'[a]}", name, (a,), pseudo, frame) for a in range(d))


def derivative(f: Tensor, axis: int, grid: Grid) -> Tensor:
    """Along one axis of the grid, by the Fourier transform; f of shape (n, *grid)."""
    n = grid.shape[axis]
    k = 2j * math.pi * torch.fft.fftfreq(n, grid.spacing[axis], dtype=torch.float64)
    shape = [1] * (1 + grid.ndim)
    shape[1 + axis] = n
    return torch.fft.ifft(torch.fft.fft(f, dim=1 + axis) * k.reshape(shape), dim=1 + axis).real


def random_fields(grid: Grid, channels: int, n: int = 3) -> Tensor:
    return torch.randn(n, channels, *grid.shape, generator=keyed_generator(4, "fields"), dtype=torch.float64)


def divergence(v: Tensor, grid: Grid) -> Tensor:
    return sum(derivative(v[:, a], a, grid) for a in range(grid.ndim)).unsqueeze(1)  # pyright: ignore


def curl(v: Tensor, grid: Grid) -> Tensor:
    if grid.ndim == 2:
        return (derivative(v[:, 1], 0, grid) - derivative(v[:, 0], 1, grid)).unsqueeze(1)
    planes = ((1, 2), (2, 0), (0, 1))
    return torch.stack([derivative(v[:, b], a, grid) - derivative(v[:, a], b, grid) for a, b in planes], 1)


def strain(v: Tensor, grid: Grid) -> Tensor:
    """∂_a v_b, all components."""
    d = grid.ndim
    return torch.stack([derivative(v[:, b], a, grid) for a, b in itertools.product(range(d), repeat=2)], 1)


@pytest.mark.parametrize(("grid", "count"), [(SQUARE, 8), (CUBE, 48)], ids=["2-D", "3-D"])
def test_derivatives_of_turned_fields_are_turned_derivatives(grid: Grid, count: int) -> None:
    """Divergence is a scalar, the curl a pseudo-scalar or pseudo-vector, the gradient of a vector a tensor."""
    d = grid.ndim
    spin = (Sense("vorticity", pseudo=True),) if d == 2 else vector("vorticity", 3, pseudo=True)
    tensor = tuple(Sense(f"g{p}", "g", p) for p in itertools.product(range(d), repeat=2))
    v = random_fields(grid, d)
    told = torch.cat([divergence(v, grid), curl(v, grid), strain(v, grid)], 1)
    symmetries = Symmetries.of(ALL, grid, vector("v", d), (Sense("divergence"), *spin, *tensor))
    assert len(symmetries.turns) == count
    for number in range(count):
        turned, told_turned = symmetries.turned(number, v, told)
        again = torch.cat([divergence(turned, grid), curl(turned, grid), strain(turned, grid)], 1)
        assert told_turned is not None
        torch.testing.assert_close(again, told_turned, rtol=0, atol=1e-12 * float(told.abs().max()))


@pytest.mark.parametrize("grid", [SQUARE, CUBE], ids=["2-D", "3-D"])
def test_turns_are_a_group_and_act_as_one(grid: Grid) -> None:
    d, every = grid.ndim, turns(ALL, grid)
    assert len(set(every)) == 2**d * math.factorial(d)
    rotations = turns(("rotate",), grid)
    assert {t for t in every if t.determinant == 1} == set(rotations)
    assert len(turns(("flip",), grid)) == 2**d
    channels = (*vector("v", d), Sense("w", pseudo=True))
    x = random_fields(grid, d + 1, n=1)
    act = Symmetries.of(ALL, grid, channels)
    some = every if d == 2 else every[::7]
    for a, b in itertools.product(some, some):
        both = a.after(b)
        assert both.determinant == a.determinant * b.determinant
        first = act.turned(every.index(b), x)[0]
        one_by_one = act.turned(every.index(a), first)[0]
        assert torch.equal(one_by_one, act.turned(every.index(both), x)[0])
    identity = Turn(tuple(range(d)), (1,) * d)
    assert torch.equal(act.turned(every.index(identity), x)[0], x)


def test_a_quarter_turn_by_hand() -> None:
    """x to y: the cell (i, j) goes to (n − 1 − j, i), a wind along x becomes one along y."""
    turn = next(t for t in turns(("rotate",), Grid((3, 3))) if t.axes == (1, 0) and t.signs == (1, -1))
    x = torch.arange(9.0).reshape(3, 3)
    moved = turn.moved(x)
    for i, j in itertools.product(range(3), repeat=2):
        assert moved[2 - j, i] == x[i, j]
    assert sources(turn, vector("v", 2)) == ([1, 0], [-1, 1])  # new v_x is −v_y, new v_y is v_x


def test_frames_and_conditions_are_turned_alike() -> None:
    """Two frames of a vector and two past frames, the past a copy of the present: they stay copies."""
    channels = tuple(s for frame in range(2) for s in vector("v", 2, frame=frame))
    symmetries = Symmetries.of(("shift", *ALL), SQUARE, channels, channels)
    x = random_fields(SQUARE, 4, n=24)
    numbers = torch.arange(24.0).unsqueeze(1)
    moved, given = symmetries(x, keyed_generator(0, "test"), Condition(fields=x.clone(), scalars=numbers))
    assert isinstance(given, Condition) and given.fields is not None and given.scalars is not None
    assert torch.equal(given.fields, moved) and torch.equal(given.scalars, numbers)
    assert not torch.equal(moved, x)
    torch.testing.assert_close(moved.square().sum((1, 2, 3)), x.square().sum((1, 2, 3)))
    # the second frame is not mixed with the first
    same = x.clone()
    same[:, 2:] = same[:, :2]
    again = symmetries(same, keyed_generator(0, "test"))[0]
    assert torch.equal(again[:, 2:], again[:, :2])


def test_every_turn_is_drawn_and_rows_do_not_depend_on_the_split() -> None:
    symmetries = Symmetries.of(("shift", *ALL), SQUARE, vector("v", 2), (Sense("k"),))
    x, told = random_fields(SQUARE, 2, n=64), random_fields(SQUARE, 1, n=64)
    whole, given = symmetries(x, RowDraws(keyed_generator(1, "s"), 64), told)
    assert isinstance(given, Tensor)
    for rows in (slice(0, 10), slice(10, 64)):
        part, some = symmetries(x[rows], RowDraws(keyed_generator(1, "s"), 64, rows), told[rows])
        assert isinstance(some, Tensor)
        assert torch.equal(part, whole[rows]) and torch.equal(some, given[rows])
    only = Symmetries.of(ALL, SQUARE, vector("v", 2))
    turned = only(x, keyed_generator(2, "s"))[0]
    candidates = torch.stack([only.turned(number, x)[0] for number in range(8)])
    is_it = (candidates == turned).flatten(2).all(2)
    counts = is_it.sum(1)
    assert bool((is_it.sum(0) == 1).all())  # each row is one of the eight
    assert int(counts.min()) >= 1 and int(counts.sum()) == 64


def test_shift_alone_is_what_homogeneous_data_gets() -> None:
    x = random_fields(SQUARE, 1, n=6)
    by_word = Symmetries.of(("shift",), SQUARE, (Sense("k"),))(x, keyed_generator(3, "s"))[0]
    assert torch.equal(by_word, shift_at_random(SQUARE, x, keyed_generator(3, "s"))[0])
    along = Symmetries.of(("shift:y",), SQUARE, (Sense("k"),))(x, keyed_generator(3, "s"))[0]
    assert torch.equal(along.sum(3), x.sum(3)) or torch.allclose(along.sum(3), x.sum(3))
    assert not torch.equal(along, x)


def test_turns_of_a_box_that_is_longer_along_z() -> None:
    box = Grid((4, 4, 8), (1.0, 1.0, 2.0), ("periodic", "periodic", "neumann"))
    found = turns(("rotate",), box)
    assert len(found) == 4 and all(t.axes[2] == 2 and t.signs[2] == 1 for t in found)
    assert len(turns(("rotate", "flip:z"), box)) == 8
    assert {t.signs for t in turns(("flip:x",), box)} == {(1, 1, 1), (-1, 1, 1)}


@pytest.mark.parametrize(
    ("words", "grid", "message"),
    [
        (("rotate",), Grid((4, 6)), "'rotate' is by 90° between axes of the same number of cells"),
        (("rotate",), Grid((4, 4), (1.0, 2.0)), "same number of cells, length"),
        (("rotate",), Grid((4, 4), 1.0, ("periodic", "neumann")), "length, boundary and unit"),
        (("rotate:x,z",), Grid((4, 4, 8)), "the grid is 4"),
        (("rotate",), SQUARE, "'v_x' alone cannot be rotated"),
        (("shift",), Grid((4, 4), 1.0, "neumann"), "'shift' is along periodic axes"),
        (("shift:y",), Grid((4, 4), 1.0, ("periodic", "neumann")), "'shift' is along periodic axes"),
        (("flip:w",), SQUARE, "'flip' names the axis 'w'"),
    ],
    ids=str,
)
def test_impossible_symmetries_are_refused(words: tuple[str, ...], grid: Grid, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Symmetries.of(words, grid, vector("v", grid.ndim)[:1])


def test_unknown_words_name_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no symmetry 'rotat'\. Did you mean 'rotate'"):
        parse(["rotat"])
    with pytest.raises(ValueError, match="'flip' comes twice"):
        parse(["flip:x", "flip:y"])
    assert parse(["flip:x, y", "shift"]) == {"flip": ("x", "y"), "shift": None}


def test_a_component_across_the_plane_is_a_scalar_of_its_turns() -> None:
    """v_z on a plane stays where it is, with its sign, under every turn of the plane."""
    channels = vector("v", 3)
    for turn in turns(ALL, SQUARE):
        index, signs = sources(turn, channels)
        assert index[2] == 2 and signs[2] == 1
