"""Missing cells filled by draws from the reference given the observed ones, so that whole fields can be trained on.

The law of filled fields, p(x_O) p_ref(x_M | x_O), has the data's own law in the observed cells, whatever the reference
is, and no other filling leaves a network less to learn: an untrained model has that of the missing cells already. A
constant or a mean in their place would be a law without density, and one with a coast that no wave has.

The draw is keyed by the observed values themselves: a field is filled alike in any batch, file and process.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

from physdiff.gaussian import GaussianField
from physdiff.kriging import Kriging
from physdiff.randomness import keyed_generator

_KEPT = 4  # masks whose factors are kept; most data has one


class Filler:
    """Fills fields.

    Args:
        law: The reference.
        seed: Of the draws.
    """

    def __init__(self, law: GaussianField, seed: int = 0) -> None:
        self.law, self.seed = law, seed
        self._kept: OrderedDict[bytes, Kriging] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Without what can be computed again, for another process."""
        return {**self.__dict__, "_kept": OrderedDict()}

    def __call__(self, x: Tensor, observed: Tensor) -> Tensor:
        """Whole fields.

        Args:
            x: Fields in the law's units, shape (n, channels, *grid); what stands in missing cells is not looked at.
            observed: Which cells are known, shape as x, bool.

        Returns:
            Shape as x, float64; observed cells as they were.
        """
        x = x.to(torch.float64)
        filled = x.clone()
        # One at a time: sums over a batch are rounded by its size.
        for i in range(len(x)):
            if not bool(observed[i].all()):
                filled[i] = self._one(x[i : i + 1], observed[i])[0]
        return filled

    def _one(self, x: Tensor, observed: Tensor) -> Tensor:
        # −0 and 0 are the same value, and NaN may have many bit patterns: only what is observed counts.
        known = torch.where(observed, x[0], 0.0) + 0.0
        mask = observed.numpy().tobytes()
        key = blake2b(known.numpy().tobytes() + mask, digest_size=16).hexdigest()
        noise = torch.randn(x.shape, generator=keyed_generator(self.seed, "fill", key), dtype=torch.float64)
        return self._kriging(observed, mask).draw(x, noise)

    def _kriging(self, observed: Tensor, key: bytes) -> Kriging:
        if key not in self._kept:
            self._kept[key] = Kriging(self.law, observed)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]
