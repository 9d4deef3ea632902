"""The Gaussian reference of samples of which only some cells are observed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from physdiff.basis import Basis
from physdiff.data.fieldset import FieldSet
from physdiff.data.normalise.normaliser import Normaliser, relative_changes
from physdiff.data.subsample import strata
from physdiff.gaussian import GaussianField
from physdiff.masked_fit import fit_masked

MOST = 2048  # samples; each round of the fit visits all of them
_CELLS = 1 << 24  # of fields in all: no more samples than that, but for
_FEWEST = 256


@dataclass(frozen=True)
class MaskedReference:
    """The reference of masked data.

    Attributes:
        law: Of whole fields, in normalised units.
        observed: Which cells are observed, shape (channels, *grid), bool, if these are the same in all samples; None
            if all are, or they differ.
        converged: Whether more rounds would not have changed it.
        samples: How many samples it was fitted to.
    """

    law: GaussianField
    observed: Tensor | None
    converged: bool
    samples: int = 0


def fit_masked_reference(
    fields: FieldSet,
    normaliser: Normaliser,
    basis: Basis,
    noise_level: float | None = None,
    homogeneous: bool = False,
    progress: bool = False,
    missing: Sequence[int] | None = None,
) -> MaskedReference:
    """The law of a data set's normalised samples by expectation-maximisation; see `physdiff.masked_fit`.

    Args:
        fields: The samples of the training split; of more than `MOST`, or fewer of large grids, one drawn in each of as
            many stretches counts (C).
        normaliser: Of their channels.
        basis: The basis of the law.
        noise_level: As for `GaussianField.fit`.
        homogeneous: As for `GaussianField.fit`.
        progress: Whether to show a bar.
        missing: Missing values of each channel in all samples, where it is known: a mask that is the same in those that
            count is not said to be that of all if it does not account for these.

    Raises:
        ValueError: as `fit_masked`; a channel of a sample has no value at all.
    """
    n = len(fields)
    samples = fields.read(strata(n, min(MOST, max(_FEWEST, _CELLS // basis.grid.size))))
    if samples.empty is not None:
        raise ValueError(f"{samples.empty}.")
    x = torch.from_numpy(samples.values).double()
    observed = torch.ones_like(x, dtype=torch.bool) if samples.observed is None else torch.from_numpy(samples.observed)
    z = normaliser.forward(x)
    sizes = torch.where(observed, relative_changes(normaliser, x), 0.0).square()
    over = (0, *range(2, x.ndim))
    rounding = float(np.finfo(fields.dtype).eps) * (sizes.sum(over) / observed.sum(over)).sqrt()
    try:
        found = fit_masked(z, observed, basis, noise_level, homogeneous, rounding, progress=progress)
    except ValueError as error:
        raise ValueError(f"{fields.source}: {error}") from None
    is_fixed = bool((observed == observed[0]).all()) and not bool(observed.all())
    if missing is not None and is_fixed:
        is_fixed = [n * int((~channel).sum()) for channel in observed[0]] == list(missing)
    return MaskedReference(found.law, observed[0] if is_fixed else None, found.converged, len(samples))
