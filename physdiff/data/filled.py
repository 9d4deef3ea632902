"""Samples of which only some cells are observed, made whole for training; see `physdiff.filling`."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

from physdiff.condition import Condition
from physdiff.data.preparation import Preparation
from physdiff.data.samples import Samples
from physdiff.filling import Filler


@dataclass(frozen=True, eq=False)
class FilledPreparation:
    """A preparation whose fields are whole.

    Attributes:
        preparation: Of the samples as they are.
        filler: Fills their missing cells.
    """

    preparation: Preparation
    filler: Filler

    def tensors(self, samples: Samples, source: str = "the data") -> tuple[Tensor, Condition | None]:
        """As `Preparation.tensors`, with a draw from the reference in every missing cell."""
        return self.fields(samples).float(), self.preparation.conditions.condition(samples, source)

    def fields(self, samples: Samples) -> Tensor:
        """Whole fields in units of about 1, float64.

        Raises:
            ValueError: a channel of a sample has no value at all; the first is named.
        """
        if samples.empty is not None:
            raise ValueError(f"{samples.empty}.")
        z = self.preparation.fields(samples)
        return z if samples.observed is None else self.filler(z, torch.from_numpy(samples.observed))

    def to_dict(self) -> dict[str, Any]:
        """Plain values that say all of what it does."""
        law = self.filler.law
        digest = blake2b(law.mean.numpy().tobytes() + law.spectrum.numpy().tobytes(), digest_size=16).hexdigest()
        return {**self.preparation.to_dict(), "filled": {"law": digest, "seed": self.filler.seed}}
