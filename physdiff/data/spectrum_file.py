"""Moments of the modes of a data set, kept in the user's cache: a second run does not read the set again for them.

They depend on the samples, on the units in which modes are taken, on the basis and on the turned copies that count as
samples. A digest of all four is in the name of the file and in it, so that it serves for nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from physdiff.atomic import replacing_file
from physdiff.basis import Basis
from physdiff.data.fieldset import FieldSet
from physdiff.data.normalise.normaliser import Normaliser
from physdiff.data.statistics_file import DAMAGE, stored_at
from physdiff.model_files import intact

FORMAT = 1
MOST = 256 << 20  # bytes; measuring the modes of larger fields again costs less than keeping them

Turned = Callable[[Tensor], Iterable[Tensor]]


@dataclass(frozen=True, eq=False)
class ModeMoments:
    """What a pass over normalised samples leaves of their modes.

    Attributes:
        count: Samples, turned copies included.
        mean: Of each mode, shape (channels, *grid), float64.
        power: Mean squared deviation from it, same shape.
        rounding: Root mean square of x dz/dx of each channel, shape (channels,).
    """

    count: int
    mean: np.ndarray
    power: np.ndarray
    rounding: np.ndarray


def digest_of(identity: str, channels: int, normaliser: Normaliser, basis: Basis, turned: Turned | None) -> str:
    """What tells moments from others.

    Args:
        identity: Digest of every value of the samples, which their statistics have.
        channels: Of a sample.
        normaliser: Units in which the modes are.
        basis: Whose modes.
        turned: Copies that count as samples; told by what they make of a field of which no two values are alike.
    """
    plain = [FORMAT, identity, normaliser.to_dict(), type(basis).__qualname__, basis.grid.to_dict()]
    digest = hashlib.blake2b(json.dumps(plain, sort_keys=True).encode(), digest_size=16)
    if turned is not None:
        shape = (1, channels, *basis.grid.shape)
        for copy in turned(torch.arange(1.0, 1.0 + channels * basis.grid.size, dtype=torch.float64).reshape(shape)):
            digest.update(np.ascontiguousarray(copy.numpy()).tobytes())
    return digest.hexdigest()


def place_of(fields: FieldSet, identity: str, digest: str) -> Path | None:
    """Where moments are kept; None for data that is on no disk, or for fields too large to be worth it."""
    if 2 * 8 * len(fields.names) * fields.grid.size > MOST or not Path(fields.sources[0].path).exists():
        return None
    _, cache = stored_at(fields, identity)
    return cache.with_name(f"{identity[:16]}-spectrum-{digest[:16]}.npz")


def write_moments(moments: ModeMoments, path: Path, digest: str) -> None:
    """Keep moments, whole or not at all; a cache that cannot be written to is done without."""
    try:
        with replacing_file(path) as partial, partial.open("wb") as file:
            np.savez(file, digest=np.array(digest), **vars(moments))
    except OSError:
        return


def read_moments(path: Path, digest: str) -> ModeMoments:
    """Moments that were kept.

    Raises:
        ValueError: the file is damaged, or of other data or settings.
    """
    with intact(path, *DAMAGE), np.load(path, allow_pickle=False) as kept:
        found, count = str(kept["digest"]), int(kept["count"])
        moments = ModeMoments(count, kept["mean"], kept["power"], kept["rounding"])
    if found != digest:
        raise ValueError(
            f"'{path}' holds a spectrum of other data: its digest is {found[:12]}, expected {digest[:12]}."
        )
    return moments
