r"""The normaliser and the Gaussian reference of a data set, each in a pass over its samples.

The samples are read in blocks and nothing but sums is held, so that a set of any size serves. The sums have the same
bits whichever loader trains on the samples afterwards, since none takes part.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from physdiff.basis import Basis
from physdiff.data.fieldset import FieldSet
from physdiff.data.moments import Moments
from physdiff.data.normalise.by_kind import Kind, draft, kinds_of, standardised
from physdiff.data.normalise.normaliser import Normaliser, relative_changes
from physdiff.data.normalise.per_variable import PerVariable, Single
from physdiff.data.spectrum_file import ModeMoments, Turned, digest_of, place_of, read_moments, write_moments
from physdiff.data.statistics import Statistics
from physdiff.data.statistics_file import statistics_of
from physdiff.data.streaming import blocks, by_channel
from physdiff.gaussian import GaussianField


def fit_normaliser(
    fields: FieldSet,
    kind: Kind | Mapping[str, Kind] = "standard",
    statistics: Statistics | None = None,
    progress: bool = False,
) -> Single | PerVariable:
    """The normaliser of the channels of a data set.

    Args:
        fields: The samples of the training split.
        kind: "standard", "robust", "log", "power", "box-cox", "yeo-johnson" or "asinh", with settings as
            {"kind": "log", "shift": 0.1}; or one of these for each channel by name.
        statistics: The set's statistics; those that are stored, or else measured, when not given.
        progress: Whether to show a bar.

    Raises:
        ValueError: there is no such kind or channel; a channel is constant, holds a value that is not finite, or one
            that its kind does not take.
    """
    kinds = kinds_of(kind, fields.names, fields.source)
    summaries = (statistics or statistics_of(fields, progress=progress)).channels
    try:
        found = draft(kinds, summaries)
    except ValueError as error:
        raise ValueError(f"{fields.source}: {error}") from None
    if found.is_linear:
        return found
    moments = Moments((found.channels,))
    for _, samples in blocks(fields, "normaliser", progress):
        z = found.forward(torch.from_numpy(samples.values).double()).numpy()
        moments.add(by_channel(z), None if samples.observed is None else by_channel(samples.observed))
    return standardised(found, moments.mean.tolist(), moments.std.tolist())


def fit_reference(
    fields: FieldSet,
    normaliser: Normaliser,
    basis: Basis,
    noise_level: float | None = None,
    homogeneous: bool = False,
    progress: bool = False,
    turned: Turned | None = None,
    identity: str | None = None,
) -> GaussianField:
    """The Gaussian law of a data set's normalised samples; see `GaussianField.fit`.

    Args:
        fields: The samples of the training split, observed everywhere.
        normaliser: Of their channels.
        basis: The basis of the law.
        noise_level: As for `GaussianField.fit`.
        homogeneous: As for `GaussianField.fit`.
        progress: Whether to show a bar.
        turned: Copies of normalised samples that are as likely as they are, themselves among them; each counts as a
            sample. Only the samples when not given.
        identity: Digest of every value of the samples, the `content` of their statistics: what is measured is then kept
            in the user's cache, and read from there the next time, with the same bits. Measured anew when not given.

    Raises:
        ValueError: there are fewer than two samples, a cell is not observed, a channel does not vary, or what was kept
            is damaged.
    """
    digest = "" if identity is None else digest_of(identity, len(fields.names), normaliser, basis, turned)
    kept = None if identity is None else place_of(fields, identity, digest)
    if kept is not None and kept.is_file():
        found = read_moments(kept, digest)
    else:
        found = _measured(fields, normaliser, basis, progress, turned)
        if kept is not None:
            write_moments(found, kept, digest)
    eps = float(np.finfo(fields.dtype).eps)
    mean, power, sizes = (torch.from_numpy(x) for x in (found.mean, found.power, found.rounding))
    return GaussianField.from_moments(basis, mean, power, found.count, noise_level, homogeneous, rounding=sizes * eps)


def _measured(
    fields: FieldSet, normaliser: Normaliser, basis: Basis, progress: bool, turned: Turned | None
) -> ModeMoments:
    """Moments of the modes, by a pass over all samples."""
    shape = (len(fields.names), *basis.grid.shape)
    modes, rounding = Moments(shape), Moments(shape[:1])
    for _, samples in blocks(fields, "spectrum", progress):
        if samples.observed is not None and not samples.observed.all():
            raise ValueError(
                f"{fields.source} has cells that are not observed; the spectrum of such data is not a mean over its "
                "samples, it is fitted by expectation-maximisation."
            )
        x = torch.from_numpy(samples.values).double()
        z = normaliser.forward(x)
        for copy in (z,) if turned is None else turned(z):
            modes.add(np.ascontiguousarray(np.moveaxis(basis.forward(copy).numpy(), 0, -1)))
        rounding.add(by_channel(relative_changes(normaliser, x).numpy()))
    if len(fields) < 2:
        raise ValueError(f"{fields.source}: a spectrum needs at least 2 samples; got {len(fields)}.")
    return ModeMoments(int(modes.count.flat[0]), modes.mean, modes.variance, rounding.rms)
