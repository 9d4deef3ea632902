r"""Which turns map a grid onto itself, and what they make of scalars, vectors and tensors on it.

A turn R sends axis a to axis p(a) with the sign s_a: R e_a = s_a e_p(a). A field that is turned with the box is

    f'(Rx) = f(x)               a scalar
    v'_p(a)(Rx) = s_a v_a(x)    a vector; a tensor has one factor s an index
    ω'(Rx) = det R · ω(x)       a pseudo-scalar, such as vorticity in 2-D; likewise for pseudo-vectors

Cells lie symmetrically in the box under every boundary, x_i = (i + ½)·h, so that a turn only moves numbers and changes
signs: it is exact. All turns are 2^d flips times d! exchanges of axes, 8 in 2-D and 48 in 3-D.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from physdiff.data.source import Variable
from physdiff.grid import Grid
from physdiff.registry import nearest, spelled

WORDS = ("shift", "flip", "rotate")


@dataclass(frozen=True, order=True)
class Turn:
    """An orthogonal map of a box onto itself.

    Attributes:
        axes: p, the axis to which each axis goes.
        signs: s, 1 or −1 for each axis.
    """

    axes: tuple[int, ...]
    signs: tuple[int, ...]

    @property
    def determinant(self) -> int:
        """1 of a rotation, −1 where a reflection is in it."""
        order, n = self.axes, len(self.axes)
        swaps = sum(order[i] > order[j] for i in range(n) for j in range(i + 1, n))
        return (-1) ** swaps * math.prod(self.signs)

    def after(self, first: Turn) -> Turn:
        """The turn that does `first`, then this one."""
        return Turn(
            tuple(self.axes[b] for b in first.axes),
            tuple(s * self.signs[b] for s, b in zip(first.signs, first.axes, strict=True)),
        )

    def moved(self, x: Tensor) -> Tensor:
        """Values taken along with their cells, shape (..., *grid), signs as they were."""
        lead = x.ndim - len(self.axes)
        came_from = [self.axes.index(b) for b in range(len(self.axes))]
        turned = x.permute(*range(lead), *(lead + a for a in came_from))
        flipped = [lead + b for a, b in enumerate(self.axes) if self.signs[a] < 0]
        return turned.flip(flipped) if flipped else turned

    def of_fields(self, x: Tensor, index: Sequence[int], signs: Sequence[int]) -> Tensor:
        """Fields under the turn, shape (n, channels, *grid); each channel's source and sign as `sources` tells them."""
        sign = x.new_tensor(signs)
        return self.moved(x[:, list(index)]) * sign.reshape(-1, *[1] * (x.ndim - 2))


@dataclass(frozen=True)
class Sense:
    """How one channel answers to a turn.

    Attributes:
        name: Its own.
        parent: Name of the vector or tensor that it belongs to; "" of a scalar.
        component: Its place on the tensor's indices, each a number of an axis.
        pseudo: Whether a reflection turns its sign beyond that.
        frame: Which frame of the sample it is; a turn never mixes frames.
    """

    name: str
    parent: str = ""
    component: tuple[int, ...] = ()
    pseudo: bool = False
    frame: int = 0


def senses(channels: Iterable[Variable]) -> tuple[Sense, ...]:
    """Of channels in their order; a variable that comes again is its next frame."""
    found: list[Sense] = []
    for v in channels:
        frame = sum(other.name == v.name for other in found)
        found.append(Sense(v.name, v.parent, tuple(v.component), v.pseudo, frame))
    return tuple(found)


def sources(turn: Turn, channels: Sequence[Sense]) -> tuple[list[int], list[int]]:
    """Which channel each channel is taken from, and with which sign.

    Raises:
        ValueError: a component that the turn needs is not among the channels.
    """
    place = {(c.parent, c.component, c.frame): i for i, c in enumerate(channels) if c.parent}
    came_from = {b: a for a, b in enumerate(turn.axes)}
    index, signs = [], []
    for i, channel in enumerate(channels):
        # An index that is no axis of the grid, such as z on a plane, is not turned.
        before = tuple(came_from.get(b, b) for b in channel.component)
        sign = math.prod(turn.signs[a] for a in before if a in came_from) * (turn.determinant if channel.pseudo else 1)
        if channel.parent and before != channel.component:
            found = place.get((channel.parent, before, channel.frame))
            if found is None:
                raise ValueError(
                    f"data.symmetries: '{channel.name}' alone cannot be rotated, for a rotation takes it from another "
                    f"component of '{channel.parent}'; name '{channel.parent}' among the fields, or leave 'rotate' out."
                )
            i = found
        index.append(i)
        signs.append(sign)
    return index, signs


def in_lower_case(entry: str) -> str:
    """A symmetry with its word as it is known; axes are named as the grid does."""
    word, colon, axes = entry.partition(":")
    return spelled(word, WORDS) + colon + axes


def parse(words: Sequence[str]) -> dict[str, tuple[str, ...] | None]:
    """Symmetries by word, with the axes that they were given: `flip` or `flip:x`, `rotate:x,y`.

    Raises:
        ValueError: an unknown word, or one that comes twice.
    """
    found: dict[str, tuple[str, ...] | None] = {}
    for entry in words:
        word, _, axes = in_lower_case(str(entry)).partition(":")
        if word not in WORDS:
            raise ValueError(f"data.symmetries: there is no symmetry '{word}'. {nearest(word, WORDS)}")
        if word in found:
            raise ValueError(f"data.symmetries: '{word}' comes twice; name its axes together, as in {word}:x,y.")
        found[word] = tuple(axis.strip() for axis in axes.split(",")) if axes else None
    return found


def shifted_axes(words: Sequence[str], grid: Grid) -> tuple[int, ...]:
    """Axes along which fields may be shifted, by number.

    Raises:
        ValueError: shifts were asked for along an axis that is not periodic, or there is none that is.
    """
    asked = parse(words)
    if "shift" not in asked:
        return ()
    periodic = tuple(a for a, b in enumerate(grid.boundary) if b == "periodic")
    axes = periodic if asked["shift"] is None else _numbers("shift", asked["shift"], grid)
    if not axes or not set(axes) <= set(periodic):
        raise ValueError(f"data.symmetries: 'shift' is along periodic axes; the grid is {grid.describe()}.")
    return axes


def turns(words: Sequence[str], grid: Grid) -> tuple[Turn, ...]:
    """All turns that flips and rotations by 90° make of each other, in a fixed order, the identity among them.

    `flip` is along every axis; `rotate` is in every plane of two axes that are alike (cells, length, boundary, unit).

    Raises:
        ValueError: rotations were asked for in a plane of unlike axes, or there is none of like ones.
    """
    asked, d = parse(words), grid.ndim
    whole = tuple(range(d))
    generators: list[Turn] = []
    if "flip" in asked:
        for a in _numbers("flip", asked["flip"], grid) if asked["flip"] else whole:
            generators.append(Turn(whole, tuple(-1 if b == a else 1 for b in whole)))
    if "rotate" in asked:
        chosen = _numbers("rotate", asked["rotate"], grid) if asked["rotate"] else whole
        planes = [(a, b) for a in chosen for b in chosen if a < b]
        like = [plane for plane in planes if _alike(grid, *plane)]
        if not like or (asked["rotate"] and like != planes):
            raise ValueError(
                "data.symmetries: 'rotate' is by 90° between axes of the same number of cells, length, boundary and "
                f"unit; the grid is {grid.describe()}."
            )
        for a, b in like:
            axes, signs = list(whole), [1] * d
            axes[a], axes[b], signs[b] = b, a, -1
            generators.append(Turn(tuple(axes), tuple(signs)))
    group = {Turn(whole, (1,) * d)}
    new = set(group)
    while new:
        new = {g.after(t) for g in generators for t in new} - group
        group |= new
    return tuple(sorted(group))


def _alike(grid: Grid, a: int, b: int) -> bool:
    same = all(x[a] == x[b] for x in (grid.shape, grid.boundary, grid.units))
    return same and abs(grid.extent[a] - grid.extent[b]) <= 1e-6 * grid.extent[a]


def _numbers(word: str, dims: tuple[str, ...] | None, grid: Grid) -> tuple[int, ...]:
    for dim in dims or ():
        if dim not in grid.dims:
            raise ValueError(f"data.symmetries: '{word}' names the axis '{dim}'. {nearest(dim, grid.dims)}")
    return tuple(sorted({grid.dims.index(dim) for dim in dims or ()}))
