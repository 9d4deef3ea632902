"""What a law of fields may be conditioned on: other fields on the grid, numbers, a class.

A plain tensor is short for a condition by fields alone. Sampling, likelihoods, bounds and training only ever pick rows
of a condition, repeat them and move them, so that both serve alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TypeAlias

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Condition:
    """Conditions of n fields; each part is optional.

    Attributes:
        fields: Fields on the same grid (past frames, forcing, masks), in units of about 1, shape (n, channels, *grid).
        scalars: Numbers (parameters of an equation), in units of about 1, shape (n, scalars).
        classes: Class of each field, shape (n,), int64, from 0.
        present: Whether each field's condition is told, shape (n,), bool; all of them if None. Where it is not told,
            the model answers for the law of all fields (classifier-free guidance: Ho and Salimans, 2022).

    Raises:
        ValueError: a part has the wrong number of axes or its own number of rows, or there is none.
    """

    fields: Tensor | None = None
    scalars: Tensor | None = None
    classes: Tensor | None = None
    present: Tensor | None = None

    def __post_init__(self) -> None:
        axes = {"fields": "(n, channels, *grid)", "scalars": "(n, scalars)", "classes": "(n,)", "present": "(n,)"}
        parts = {name: x for name, x in vars(self).items() if x is not None}
        if not parts or set(parts) == {"present"}:
            raise ValueError("a condition needs at least one of 'fields', 'scalars' and 'classes'.")
        for name, x in parts.items():
            fits = x.ndim >= 3 if name == "fields" else x.ndim == axes[name].count(",") + (name == "scalars")
            if not fits:
                raise ValueError(f"the '{name}' of a condition have the shape {axes[name]}; got {tuple(x.shape)}.")
        rows = {name: len(x) for name, x in parts.items()}
        if len(set(rows.values())) > 1:
            raise ValueError(f"the parts of a condition are of the same n fields; got {rows}.")
        if self.classes is not None and self.classes.dtype != torch.int64:
            raise ValueError(f"the 'classes' of a condition are whole numbers, int64; got {self.classes.dtype}.")
        if self.present is not None and self.present.dtype != torch.bool:
            raise ValueError(f"'present' says true or false for each field; got {self.present.dtype}.")

    @classmethod
    def of(cls, given: Given) -> Condition:
        """A condition, from itself or from fields."""
        return given if isinstance(given, Condition) else cls(fields=given)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def shape(self) -> tuple[int]:
        """(n,)."""
        return (len(next(x for x in vars(self).values() if x is not None)),)

    @property
    def ndim(self) -> int:
        """1: there is an axis of fields."""
        return 1

    @property
    def device(self) -> torch.device:
        """Where its parts lie."""
        return next(x for x in vars(self).values() if x is not None).device

    def _each(self, act: Callable[[Tensor], Tensor]) -> Condition:
        return Condition(**{f.name: None if (x := getattr(self, f.name)) is None else act(x) for f in fields(self)})

    def __getitem__(self, rows: slice | Tensor) -> Condition:
        """The conditions of some rows."""
        return self._each(lambda x: x[rows])

    def to(self, where: torch.device | str | torch.dtype, non_blocking: bool = False) -> Condition:
        """On another device, or fields and scalars of another type."""
        if isinstance(where, torch.dtype):
            return self._each(lambda x: x.to(where) if x.is_floating_point() else x)
        return self._each(lambda x: x.to(where, non_blocking=non_blocking))

    def expand(self, n: int, *_: int) -> Condition:
        """One condition as that of n fields; n conditions as they are."""
        return self._each(lambda x: x.expand(n, *x.shape[1:]))

    def repeat_interleave(self, repeats: int, dim: int = 0) -> Condition:
        """Each row so many times."""
        assert dim == 0
        return self._each(lambda x: x.repeat_interleave(repeats, 0))

    def told(self, present: Tensor) -> Condition:
        """Told only where `present`, shape (n,), bool, and where it was told before."""
        present = present.to(self.device)
        return replace(self, present=present if self.present is None else self.present & present)


Given: TypeAlias = Tensor | Condition


def per_field(condition: Given | None, n: int, one: str = "field") -> Given | None:
    """The condition of each of n fields, shape (n, ...); one is that of all.

    Raises:
        ValueError: there are neither n of them nor one.
    """
    if condition is None:
        return None
    if condition.ndim < 1 or len(condition) not in (1, n):
        raise ValueError(
            f"the condition needs one entry a {one}, or one for all: shape ({n}, ...) or (1, ...); got "
            f"{tuple(condition.shape)}."
        )
    return condition.expand(n, *condition.shape[1:])
