"""Scores of data with missing cells in physical units: those of the cells that are observed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from physdiff.condition import Given
from physdiff.data.field_data import FieldData
from physdiff.data.normalise.normaliser import Normaliser
from physdiff.observed_likelihood import observed_log_likelihood
from physdiff.path import ReferencePath
from physdiff.score_tables import of_observed
from physdiff.scored import LogLikelihood

DRAWS = 4


def has_missing(data: FieldData) -> bool:
    """Whether some cell of some field is not observed."""
    return data.observed is not None and not bool(data.observed.all())


def require_some(data: FieldData) -> None:
    """Raise where a channel of a sample has no observed cell at all."""
    if data.observed is None:
        return
    empty = np.argwhere(~data.observed.any(axis=tuple(range(2, data.observed.ndim))))
    if len(empty):
        sample, channel = (int(i) for i in empty[0])
        raise ValueError(
            f"{data.source}: no cell of '{data.names[channel]}' has a value in sample {sample} (trajectory "
            f"{data.trajectory[sample]}, time {data.time[sample]:g}); there is nothing of it to score or to fill from."
        )


def observed_scores(
    path: object,
    normaliser: Normaliser,
    data: FieldData,
    told: Given | None,
    score: Callable[..., LogLikelihood],
    scored: str,
    settings: Mapping[str, Any],
) -> xr.Dataset:
    """Log-densities of the observed cells; see `physdiff.observed_likelihood`.

    Args:
        path: Of the model.
        normaliser: Physical to normalised units.
        data: Fields on the model's grid with its variables.
        told: The condition of each field, in the network's units.
        score: The likelihood of whole normalised fields, with settings by name.
        scored: "field" or "noised".
        settings: Of the likelihood, and `draws`.

    Raises:
        ValueError: the process is simulated; a sample has no observed cell of a channel; the normaliser is not linear
            and what is scored is noised.
    """
    if not isinstance(path, ReferencePath):
        raise ValueError(
            f"{data.source} has cells that are not observed; their likelihood is that of linear processes, not of one "
            "that is simulated."
        )
    settings = dict(settings)
    draws, first, seed = settings.pop("draws", DRAWS), settings.pop("first", 0), settings.pop("seed", 0)
    for name in ("scored", "condition"):
        settings.pop(name, None)
    if settings.pop("roundtrip", False):
        raise ValueError(
            f"{data.source} has cells that are not observed; there is no round trip of a bound (roundtrip)."
        )
    require_some(data)
    assert data.observed is not None
    x, observed = torch.from_numpy(data.values).double(), torch.from_numpy(data.observed)
    x = _known(x, observed)
    z = normaliser.forward(x)

    def of_whole(filled: Tensor) -> LogLikelihood:
        return score(filled, scored="field", condition=told, seed=seed, first=first, **settings)

    found = observed_log_likelihood(
        path, z, observed, of_whole, draws=draws, noised=scored == "noised", seed=seed, first=first
    )
    return of_observed(found, _log_det(normaliser, x, observed, scored), scored, {**settings, "seed": seed})


def _log_det(normaliser: Normaliser, x: Tensor, observed: Tensor, scored: str) -> Tensor:
    """Log-determinant of the normaliser on the observed cells, shape (n,)."""
    if normaliser.is_linear:
        return observed.flatten(2).sum(2).double() @ normaliser.log_det_per_cell
    if scored != "field":
        raise ValueError(
            f"under the normaliser '{normaliser.kind}', which is not linear, a density in physical units is that of "
            f"the fields as they are: score 'field' (--scored field); got '{scored}'."
        )
    return torch.where(observed, normaliser.log_slope(x), 0.0).flatten(1).sum(1)


def _known(x: Tensor, observed: Tensor) -> Tensor:
    """Fields with some observed value of its channel in every missing cell, which every normaliser takes."""
    of_channel = observed.transpose(0, 1).flatten(1)
    first = x.transpose(0, 1).flatten(1).gather(1, of_channel.int().argmax(1, keepdim=True))
    return torch.where(observed, x, first.reshape(1, -1, *[1] * (x.ndim - 2)))
