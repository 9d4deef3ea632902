"""Symmetries of the data, used in training: a field that is shifted, flipped or rotated is as likely as the field.

Each row of a batch is turned by one of the turns of the grid and shifted by a number of cells, all alike likely, and
the fields of its condition with it. Numbers of a condition stay: one that names a direction, such as the angle of a
wind, is not known as such, and a symmetry that would change it must not be asked for.

Fields come in normalised units, and a turn is exact there as well where a channel that changes its sign has the mean 0
and components that change places have one scale: `physdiff.data.preparation` sees to that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from physdiff.condition import Condition, Given
from physdiff.data.symmetry import Sense, Turn, shifted_axes, sources, turns
from physdiff.grid import Grid
from physdiff.randomness import RowDraws

Augment = Callable[[Tensor, RowDraws, Given | None], tuple[Tensor, Given | None]]


@dataclass(frozen=True)
class Symmetries:
    """Turns and shifts at random; called as an `Augment`.

    Attributes:
        grid: Where the fields live.
        turns: Turns to choose from, all alike likely.
        shifted: Axes along which fields are shifted.
        channels: How the channels of the fields answer to a turn.
        given: How the fields of the condition do.

    Raises:
        ValueError: a turn needs a component of a vector that is not there.
    """

    grid: Grid
    turns: tuple[Turn, ...]
    shifted: tuple[int, ...]
    channels: tuple[Sense, ...]
    given: tuple[Sense, ...] = ()

    def __post_init__(self) -> None:
        _ = self._sources  # refuses what it cannot turn

    @classmethod
    def of(cls, words: Sequence[str], grid: Grid, channels: Sequence[Sense], given: Sequence[Sense] = ()) -> Symmetries:
        """The symmetries that words name: `shift`, `flip`, `rotate`, or along some axes, `flip:x`, `rotate:x,y`.

        Raises:
            ValueError: an unknown word or axis; the grid or the fields do not have the symmetry.
        """
        return cls(grid, turns(words, grid), shifted_axes(words, grid), tuple(channels), tuple(given))

    @cached_property
    def _sources(self) -> list[tuple[tuple[list[int], list[int]], tuple[list[int], list[int]]]]:
        return [(sources(turn, self.channels), sources(turn, self.given)) for turn in self.turns]

    def turned(self, number: int, x: Tensor, given: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Fields under turn `number`, shape (n, channels, *grid), and those of their condition."""
        of_x, of_given = self._sources[number]
        turn = self.turns[number]
        return turn.of_fields(x, *of_x), None if given is None else turn.of_fields(given, *of_given)

    def __call__(
        self, x: Tensor, draws: torch.Generator | RowDraws, condition: Given | None = None
    ) -> tuple[Tensor, Given | None]:
        """Each row turned and shifted at random, and the fields of its condition alike; shapes as they were."""
        draws = RowDraws.of(draws, len(x))
        if len(self.turns) > 1:
            chosen = draws.below(len(self.turns)).to(x.device)
            fields = condition.fields if isinstance(condition, Condition) else condition
            x, moved = x.clone(), None if fields is None else fields.clone()
            for number in chosen.unique().tolist():
                rows = chosen == number
                some, told = self.turned(number, x[rows], None if moved is None else moved[rows])
                x[rows] = some
                if moved is not None and told is not None:
                    moved[rows] = told
            condition = _with_fields(condition, moved)
        if self.shifted:
            x, condition = _shifted(self.grid, self.shifted, x, draws, condition)
        return x, condition


def shift_at_random(
    grid: Grid, x: Tensor, draws: torch.Generator | RowDraws, condition: Given | None = None
) -> tuple[Tensor, Given | None]:
    """Each field rolled by a uniform number of cells along every periodic axis, and the fields of its condition alike.

    Args:
        grid: Where the fields live.
        x: Fields, shape (batch, channels, *grid).
        draws: The numbers of cells.
        condition: Of the same rows; its fields, if any, lie on the same grid.

    Returns:
        Fields and condition, shapes as they were.
    """
    axes = tuple(a for a, b in enumerate(grid.boundary) if b == "periodic")
    if not axes:
        return x, condition
    return _shifted(grid, axes, x, RowDraws.of(draws, len(x)), condition)


def _shifted(
    grid: Grid, axes: tuple[int, ...], x: Tensor, draws: RowDraws, condition: Given | None
) -> tuple[Tensor, Given | None]:
    from_the_end = tuple(a - grid.ndim for a in axes)
    shifts = torch.stack([draws.below(x.shape[a]) for a in from_the_end], 1).tolist()

    def rolled(fields: Tensor) -> Tensor:
        pairs = zip(fields, shifts, strict=True)
        return torch.stack([torch.roll(field, shift, from_the_end) for field, shift in pairs])

    fields = condition.fields if isinstance(condition, Condition) else condition
    return rolled(x), _with_fields(condition, None if fields is None else rolled(fields))


def _with_fields(condition: Given | None, fields: Tensor | None) -> Given | None:
    if fields is None:
        return condition
    return replace(condition, fields=fields) if isinstance(condition, Condition) else fields
