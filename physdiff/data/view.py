"""Stored arrays by the names of their axes, whatever order a file keeps them in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from physdiff.data.stored import StoredArray

Where = int | slice


@dataclass(frozen=True)
class View:
    """A stored array with a name for each axis; nothing is read until `read`.

    Attributes:
        array: Where the numbers are.
        dims: Name of each axis in stored order, all different.
        fixed: Axes that are not seen, with the number at which they stand: the component of a vector.
        reversed: Axes whose stored order runs backwards, such as latitudes from north to south.

    Raises:
        ValueError: names and axes do not fit each other, or a fixed number is outside its axis.
    """

    array: StoredArray
    dims: tuple[str, ...]
    fixed: Mapping[str, int] = field(default_factory=dict)
    reversed: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if len(self.dims) != len(self.array.shape) or len(set(self.dims)) != len(self.dims):
            raise ValueError(
                f"{self.array.label} has the shape {self.array.shape}; its axes were named {self.dims}: expected a "
                "name of its own for each."
            )
        for name, index in self.fixed.items():
            if name not in self.dims or not 0 <= index < self.stored_sizes[name]:
                raise ValueError(
                    f"{self.array.label}: axis '{name}' has no entry {index}; its axes: {self.stored_sizes}."
                )

    @property
    def stored_sizes(self) -> dict[str, int]:
        """Length of every axis, in stored order."""
        return dict(zip(self.dims, self.array.shape, strict=True))

    @property
    def sizes(self) -> dict[str, int]:
        """Length of every axis that is seen, in stored order."""
        return {name: n for name, n in self.stored_sizes.items() if name not in self.fixed}

    @property
    def label(self) -> str:
        """What messages call it."""
        return self.array.label

    def at(self, **fixed: int) -> View:
        """The view with further axes held at a number."""
        return replace(self, fixed={**self.fixed, **fixed})

    def renamed(self, names: Mapping[str, str]) -> View:
        """The view with other names for some axes."""
        return replace(
            self,
            dims=tuple(names.get(d, d) for d in self.dims),
            fixed={names.get(d, d): i for d, i in self.fixed.items()},
            reversed=frozenset(names.get(d, d) for d in self.reversed),
        )

    def read(self, order: Sequence[str], where: Mapping[str, Where] | None = None) -> np.ndarray:
        """A part of the array.

        Args:
            order: Names of all axes that are seen, in the order wanted.
            where: Per axis a number, which drops the axis, or a slice with a step of at least 1; all of an axis that is
                not named.

        Returns:
            Values as stored, axes in `order` without those that were given a number.
        """
        where = where or {}
        key: list[Where] = []
        backwards: list[str] = []
        kept: list[str] = []
        for name, n in self.stored_sizes.items():
            chosen = self.fixed.get(name, where.get(name, slice(None)))
            if isinstance(chosen, slice):
                kept.append(name)
                start, stop, step = chosen.indices(n)
                if name in self.reversed and name not in self.fixed:
                    # The same cells counted from the other end, read forwards and turned round afterwards.
                    count = max(0, -(-(stop - start) // step))
                    first = n - 1 - (start + (count - 1) * step)
                    start, stop = (first, first + (count - 1) * step + 1) if count else (0, 0)
                    backwards.append(name)
                key.append(slice(start, stop, step))
            elif name in self.reversed and name not in self.fixed:
                key.append(n - 1 - chosen)
            else:
                key.append(chosen)
        values = self.array.read(tuple(key))
        if backwards:
            values = np.flip(values, tuple(kept.index(name) for name in backwards))
        wanted = [name for name in order if name in kept]
        if wanted != kept:
            values = values.transpose([kept.index(name) for name in wanted])
        return values
