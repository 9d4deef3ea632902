"""What the samples of a data set are like: moments, range, quantiles and change of every channel, in one pass.

Statistics are of the samples as a model is trained on them: each counts once for every sample that holds it, under a
mask those of observed cells. Nothing is held but a block of samples and some drawn values. They tell to which data
they belong; see `physdiff.data.statistics_file` for how they are kept.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

from physdiff.data.agreement import unknown_field
from physdiff.data.data_identity import identity_of
from physdiff.data.fieldset import FieldSet
from physdiff.data.fingerprint import states_of
from physdiff.data.samples import Samples
from physdiff.data.streaming import blocks
from physdiff.data.summary import Summary, Summing

__all__ = ["Statistics", "Summary", "measure"]


@dataclass(frozen=True, eq=False)
class Statistics:
    """What the samples of a data set are like.

    Attributes:
        identity: Digest of the data set and of what a sample of it is; see `physdiff.data.data_identity`.
        content: Digest of every value that was read, in order.
        split: Part of the data set, "train" for all that a model may see; None for a file without parts.
        source: What messages call the data set.
        samples: Number of samples.
        channels: One for each channel.
        given: One for each field of the condition.
        scalars: One for each number of the condition.
        class_counts: Samples of each class; empty without classes.
        files: Of each file, by its path, what changes when it is written to; see `physdiff.data.fingerprint.states_of`.
    """

    identity: str
    content: str
    split: str | None
    source: str
    samples: int
    channels: tuple[Summary, ...]
    given: tuple[Summary, ...] = ()
    scalars: tuple[Summary, ...] = ()
    class_counts: dict[int, int] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    def of(self, name: str) -> Summary:
        """The summary of a channel, or of a field or number of the condition, by name.

        Raises:
            ValueError: there is none of that name.
        """
        known = {s.name: s for s in (*self.scalars, *self.given, *self.channels)}
        if name not in known:
            raise unknown_field(self.source, name, known)
        return known[name]


def measure(fields: FieldSet, split: str | None = "train", progress: bool = False) -> Statistics:
    """Read all samples once and sum them up.

    Args:
        fields: The samples.
        split: Of which part of the data set they are.
        progress: Whether to show a bar.
    """
    cells = int(np.prod(fields.grid.shape))
    channels = Summing(fields.names, fields.units, len(fields) * cells)
    given = Summing(fields.given_names, fields.given_units, len(fields) * cells)
    scalars = Summing(fields.scalar_names, [""] * len(fields.scalar_names), len(fields))
    content = hashlib.blake2b(digest_size=16)
    classes: dict[int, int] = {}
    files = states_of(fields)  # before the first is read: who writes in the meantime is noticed the next time
    for rows, samples in blocks(fields, "statistics", progress):
        _hash(content, samples)
        places = fields.places(rows)
        channels.add(samples.values, samples.observed, places)
        if samples.given is not None:
            masked = fields.selection.mask is not None
            given.add(samples.given, ~np.isnan(samples.given) if masked else None, places)
        if samples.scalars is not None:
            scalars.add(samples.scalars, None, places)
        if samples.classes is not None:
            for value, count in zip(*np.unique(samples.classes, return_counts=True), strict=True):
                classes[int(value)] = classes.get(int(value), 0) + int(count)
    return Statistics(
        identity_of(fields), content.hexdigest(), split, fields.source, len(fields), channels.summaries(),
        given.summaries(), scalars.summaries(), dict(sorted(classes.items())), files,
    )  # fmt: skip


def _hash(content: hashlib.blake2b, samples: Samples) -> None:
    for part in (samples.values, samples.given, samples.scalars, samples.classes, samples.observed):
        if part is not None:
            content.update(np.ascontiguousarray(part).data.cast("B"))
