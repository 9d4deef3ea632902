"""What a model is told beside the field: fields, numbers and a class, from physical units to units of about 1.

    z = (c − mean) / std    for each field (over samples and cells) and each number (over samples) of the training split

A number or a field that is the same in all of the training split keeps std = 1: it tells nothing, and is then 0. So is
a cell of a field that holds no value, under a mask: it is told as the field's mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from physdiff.condition import Condition
from physdiff.data.samples import Samples

PARTS = ("fields", "numbers", "class")


@dataclass(frozen=True)
class Told:
    """One field or number of a condition, and its scale.

    Attributes:
        name: As the data has it; `u@-1` is a past frame.
        units: `""` if dimensionless or unknown.
        mean: In its unit.
        std: In its unit, positive.

    Raises:
        ValueError: a number is not finite, or the scale is not positive.
    """

    name: str
    units: str = ""
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.mean) and np.isfinite(self.std) and self.std > 0):
            raise ValueError(
                f"condition '{self.name}' has the mean {self.mean} and the standard deviation {self.std}; expected "
                "finite ones, and a positive scale."
            )


@dataclass(frozen=True)
class Conditions:
    """What a model is told, in the order of its network's inputs.

    Attributes:
        fields: Fields on the same grid.
        numbers: Numbers of the run or the time.
        class_name: The number of the run that is its class; None if there are no classes.
        classes: How many classes there are.
    """

    fields: tuple[Told, ...] = ()
    numbers: tuple[Told, ...] = ()
    class_name: str | None = None
    classes: int = 0

    def __bool__(self) -> bool:
        """Whether anything is told."""
        return bool(self.fields or self.numbers or self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """Of everything that is told."""
        named = () if self.class_name is None else (self.class_name,)
        return (*(t.name for t in self.fields), *(t.name for t in self.numbers), *named)

    @property
    def network(self) -> dict[str, int]:
        """What a network must be built for, by the names of its settings."""
        return {"condition_channels": len(self.fields), "scalars": len(self.numbers), "classes": self.classes}

    def condition(self, samples: Samples, source: str = "the data") -> Condition | None:
        """The condition of samples, in the units of the model; float32, bit by bit the same in any batch.

        Cells without a value are 0 where the samples come under a mask (`observed`).

        Raises:
            ValueError: a part is missing, has another number of entries, is not finite, or a class is unknown.
        """
        if not self:
            return None
        given, numbers, classes = samples.given, samples.scalars, samples.classes
        for part, names, found in (
            ("fields", [t.name for t in self.fields], None if given is None else given.shape[1]),
            ("numbers", [t.name for t in self.numbers], None if numbers is None else numbers.shape[1]),
            ("class", [self.class_name] if self.classes else [], None if classes is None else 1),
        ):
            if names and found != len(names):
                raise ValueError(
                    f"{source}: the model is told the {part} {', '.join(map(str, names))}; the data has "
                    f"{found or 'none'}."
                )
        return Condition(
            fields=_scaled(given, self.fields, source, samples.observed is not None) if self.fields else None,
            scalars=_scaled(numbers, self.numbers, source) if self.numbers else None,
            classes=self._class(classes, source) if self.classes else None,
        )

    def _class(self, classes: np.ndarray | None, source: str) -> Tensor:
        assert classes is not None
        if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < self.classes:
            wrong = int(classes.min()) if classes.min() < 0 else int(classes.max())
            raise ValueError(
                f"{source}: '{self.class_name}' is {wrong}; the model knows the classes 0 to {self.classes - 1}."
            )
        return torch.from_numpy(classes.astype(np.int64))

    def samples(self, condition: Condition) -> Samples:
        """The inverse of `condition`: its parts in physical units, beside no values."""
        n = len(condition)
        return Samples(
            np.empty((n, 0), np.float32),
            None if condition.fields is None else _unscaled(condition.fields, self.fields),
            None if condition.scalars is None else _unscaled(condition.scalars, self.numbers),
            None if condition.classes is None else condition.classes.cpu().numpy(),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values from which `from_dict` makes these again, exactly."""
        return {
            "fields": [vars(t) for t in self.fields],
            "numbers": [vars(t) for t in self.numbers],
            "class_name": self.class_name,
            "classes": self.classes,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Conditions:
        """The inverse of `to_dict`."""
        fields, numbers = (tuple(Told(**t) for t in values[name]) for name in ("fields", "numbers"))
        return cls(fields, numbers, values["class_name"], int(values["classes"]))


def _scaled(values: np.ndarray | None, told: Sequence[Told], source: str, may_miss: bool = False) -> Tensor:
    assert values is not None
    x = torch.from_numpy(np.ascontiguousarray(values)).double()
    bad = x.isinf() if may_miss else ~x.isfinite()
    if bool(bad.any()):
        sample, entry = (int(i) for i in bad.nonzero()[0][:2])
        raise ValueError(
            f"{source}: the condition '{told[entry].name}' of sample {sample} holds a value that is not finite."
        )
    mean, std = (_along(told, x, name) for name in ("mean", "std"))
    z = ((x - mean) / std).float()
    return torch.where(z.isnan(), 0.0, z) if may_miss else z


def _unscaled(x: Tensor, told: Sequence[Told]) -> np.ndarray:
    x = x.cpu().double()
    return (x * _along(told, x, "std") + _along(told, x, "mean")).numpy()


def _along(told: Sequence[Told], x: Tensor, name: str) -> Tensor:
    numbers = torch.tensor([getattr(t, name) for t in told], dtype=torch.float64)
    return numbers.reshape(-1, *[1] * (x.ndim - 2))
