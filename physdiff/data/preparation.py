"""From samples in physical units to what a network is trained on, and back: the scale of every channel and condition.

It is fitted to the training split, stored with the model, and the only way from data to a model's units: training,
sampling and likelihoods see the same numbers. Every entry is computed from itself alone, so that no bit depends on
which samples are prepared together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from physdiff.condition import Condition
from physdiff.data.conditions import Conditions, Told
from physdiff.data.fieldset import FieldSet
from physdiff.data.normalise import Normaliser, PerVariable, Standardise, normaliser_from_dict
from physdiff.data.reference import fit_normaliser
from physdiff.data.samples import Samples
from physdiff.data.selection import Selection
from physdiff.data.statistics import Statistics, Summary
from physdiff.data.symmetry import Sense, Turn, senses, sources


@dataclass(frozen=True, eq=False)
class Preparation:
    """How samples become tensors.

    Attributes:
        normaliser: Of the channels.
        conditions: What the model is told beside them.
        selection: What one sample is.
    """

    normaliser: Normaliser
    conditions: Conditions = field(default_factory=Conditions)
    selection: Selection = field(default_factory=Selection)

    @classmethod
    def fit(
        cls,
        fields: FieldSet,
        statistics: Statistics,
        normalise: str | Mapping[str, Any] = "standard",
        turns: Sequence[Turn] = (),
    ) -> Preparation:
        """From the statistics of the training split.

        Args:
            fields: The training split.
            statistics: Of it.
            normalise: Kind of scale of the channels, one for all or by field.
            turns: Symmetries of the law: a channel that changes its sign then has the mean 0, and components that
                change places have one scale.

        Raises:
            ValueError: a channel is constant, or has no such scale; a class is no number from 0.
        """
        normaliser = fit_normaliser(fields, normalise, statistics)
        channels, given = senses(fields.channels), senses(fields.given_variables)
        normaliser = _tied(normaliser, statistics.channels, channels, turns)
        told = [Told(s.name, s.units, *_scale(s)) for s in statistics.given]
        for i, mean, std in _ties(statistics.given, given, turns):
            told[i] = replace(told[i], mean=mean, std=std)
        numbers = tuple(Told(s.name, s.units, *_scale(s)) for s in statistics.scalars)
        classes = statistics.class_counts
        if classes and min(classes) < 0:
            raise ValueError(
                f"{fields.source}: '{fields.selection.classes}' is {min(classes)} in a run; classes are whole numbers "
                "from 0."
            )
        count = max(classes) + 1 if classes else 0
        conditions = Conditions(tuple(told), numbers, fields.selection.classes if count else None, count)
        names = tuple(v.name for v in fields.variables)
        return cls(normaliser, conditions, replace(fields.selection, fields=names))

    def tensors(self, samples: Samples, source: str = "the data") -> tuple[Tensor, Condition | None]:
        """Fields in units of about 1, shape (n, channels, *grid), float32, and what they are conditioned on.

        Raises:
            ValueError: the samples do not hold what the model is told.
        """
        return self.fields(samples).float(), self.conditions.condition(samples, source)

    def fields(self, samples: Samples) -> Tensor:
        """Fields in units of about 1, float64."""
        return self.normaliser.forward(torch.from_numpy(samples.values).double())

    def to_dict(self) -> dict[str, Any]:
        """Plain values from which `from_dict` makes this again, exactly."""
        return {
            "normaliser": self.normaliser.to_dict(),
            "conditions": self.conditions.to_dict(),
            "selection": asdict(self.selection),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preparation:
        """The inverse of `to_dict`; a model of an older version says nothing but its normaliser."""
        conditions, selection = values.get("conditions"), values.get("selection")
        return cls(
            normaliser_from_dict(values["normaliser"]),
            Conditions() if conditions is None else Conditions.from_dict(conditions),
            Selection() if selection is None else Selection(**selection),
        )


def constant(statistics: Statistics) -> list[str]:
    """Names of fields and numbers of the condition that are the same in all samples, and so tell nothing."""
    return [s.name for s in (*statistics.given, *statistics.scalars) if s.is_constant]


def copies(turns: Sequence[Turn], channels: Sequence[Sense]) -> Callable[[Tensor], Iterable[Tensor]] | None:
    """All turned copies of fields, one after the other, for statistics that have the symmetry; None without one."""
    if len(turns) < 2:
        return None
    known = [(turn, *sources(turn, channels)) for turn in turns]

    def turned(x: Tensor) -> Iterable[Tensor]:
        for turn, index, signs in known:
            yield turn.of_fields(x, index, signs)

    return turned


def _scale(summary: Summary) -> tuple[float, float]:
    """Mean and a scale that can be divided by."""
    return (summary.low, 1.0) if summary.is_constant else (summary.mean, summary.std)


def _ties(
    summaries: Sequence[Summary], channels: Sequence[Sense], turns: Sequence[Turn]
) -> list[tuple[int, float, float]]:
    """Mean and scale of every channel that some turn changes the sign of, or puts in the place of another."""
    found = [sources(turn, channels) for turn in turns]
    ties: list[tuple[int, float, float]] = []
    for i in range(len(summaries)):
        partners = sorted({index[i] for index, _ in found} | {i})
        is_signed = any(signs[i] < 0 for _, signs in found)
        if not is_signed and partners == [i]:
            continue
        some = [summaries[j] for j in partners]
        mean = 0.0 if is_signed else sum(s.mean for s in some) / len(some)
        # Mean square about the shared mean, over all partners.
        square = sum(s.std**2 + (s.mean - mean) ** 2 for s in some) / len(some)
        ties.append((i, mean, square**0.5 or 1.0))
    return ties


def _tied(
    normaliser: Normaliser, summaries: Sequence[Summary], channels: Sequence[Sense], turns: Sequence[Turn]
) -> Normaliser:
    ties = _ties(summaries, channels, turns)
    if not ties:
        return normaliser
    if isinstance(normaliser, PerVariable):
        parts = list(normaliser.parts)
        if all(isinstance(parts[i], Standardise) for i, *_ in ties):
            for i, mean, std in ties:
                parts[i] = Standardise(*torch.tensor([[mean], [std]], dtype=torch.float64))
            return PerVariable(tuple(parts))
    if not isinstance(normaliser, Standardise):
        names = ", ".join(channels[i].name for i, *_ in ties)
        raise ValueError(
            f"data.symmetries turn {names}, whose mean and scale must then be those of the turned fields: "
            f"data.normalise must be 'standard' for them; got '{normaliser.kind}'."
        )
    mean, std = normaliser.mean.clone(), normaliser.std.clone()
    for i, centre, scale in ties:
        mean[i], std[i] = centre, scale
    return Standardise(mean, std)
