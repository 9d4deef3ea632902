"""Statistics on disk, which are given back for the data that they are of and for no other.

One `.npz` file holds a text (JSON, every number exact) and the drawn values. `physdiff data stats` writes it to a
folder `statistics` beside the data, for all who train on it; training, which was not asked to write there, to the
user's cache. Either is used where it is found. Its name begins with the digest of the data set, so that several
selections of one set have a file each.

The digest does not see every byte of a large file. So the state of each file is kept as well, its size and dates:
where a file lies at the same path and was written to since, statistics are measured again. A set that was moved or
copied is known by its digest.
"""

from __future__ import annotations

import json
import math
import os
import tokenize
import zipfile
import zlib
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any

import numpy as np

from physdiff.atomic import replacing_file
from physdiff.data.data_identity import identity_of
from physdiff.data.fieldset import FieldSet
from physdiff.data.fingerprint import states_of
from physdiff.data.statistics import Statistics, measure
from physdiff.data.summary import Summary
from physdiff.model_files import intact

FORMAT = 1
FAMILIES = ("channels", "given", "scalars")
# What reading a damaged archive, or text in it that is not what it was, may raise.
DAMAGE = (
    KeyError, TypeError, ValueError, AttributeError, IndexError, EOFError, OSError, RuntimeError, zipfile.BadZipFile,
    zlib.error, SyntaxError, tokenize.TokenError,
)  # fmt: skip
TRAINING = ("train", None)  # None: a file that is not split


def statistics_of(
    fields: FieldSet, split: str | None = "train", progress: bool = False, store: bool = True
) -> Statistics:
    """Statistics of a data set: those that are stored, or else measured and stored in the user's cache.

    Both have the same bits.

    Args:
        fields: The samples of the training split.
        split: Name of that split.
        progress: Whether to show a bar.
        store: Whether to write what was measured.

    Raises:
        ValueError: the split is none to take statistics of for training.
    """
    require_training(split, fields.source)
    identity = identity_of(fields)
    for place in stored_at(fields, identity, split):
        if place.is_file():
            found = read_statistics(place)
            _check(found, place, fields, split, identity)
            if written_since(found, fields) is None:
                return found
    found = measure(fields, split, progress)
    if store:
        write_beside(found, fields, may_touch_data=False)
    return found


def require_training(split: str | None, source: str) -> None:
    """Raise unless a model may see statistics of a split."""
    if split not in TRAINING:
        raise ValueError(f"{source}: statistics for training are those of the split 'train'; got '{split}'.")


def stored_at(fields: FieldSet, identity: str, split: str | None = "train") -> tuple[Path, Path]:
    """Where the statistics of a data set may lie: beside it, and in the user's cache."""
    first = Path(fields.sources[0].path).absolute()
    # Of a folder data/train/*.h5 beside `data`, where also stats.yaml is.
    home = first.parents[2] if first.parent.parent.name == "data" and len(first.parents) > 2 else first.parent
    name = f"{identity[:16]}-{split or 'all'}.npz"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "physdiff"
    return home / "statistics" / name, cache / "statistics" / name


def write_beside(statistics: Statistics, fields: FieldSet, may_touch_data: bool = True) -> Path | None:
    """Write statistics beside their data, or in the cache if that cannot or may not be; None if neither can."""
    beside, cache = stored_at(fields, statistics.identity, statistics.split)
    on_disk = Path(fields.sources[0].path).exists()
    places = (beside, cache) if may_touch_data else (cache,)
    for place in places if on_disk else ():
        try:
            write_statistics(statistics, place)
        except OSError:  # not allowed, read-only or full
            continue
        return place
    return None


def write_statistics(statistics: Statistics, path: str | Path) -> None:
    """Write statistics to a file, whole or not at all."""
    arrays: dict[str, np.ndarray] = {}
    text: dict[str, Any] = {"format": FORMAT}
    for entry in fields_of(Statistics):
        value = getattr(statistics, entry.name)
        if entry.name in FAMILIES:
            text[entry.name] = [_plain(summary) for summary in value]
            for i, summary in enumerate(value):
                arrays[f"{entry.name}/{i}"] = summary.drawn
        else:
            text[entry.name] = {str(k): n for k, n in value.items()} if entry.name == "class_counts" else value
    with replacing_file(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, statistics=np.array(json.dumps(text)), **arrays)  # pyright: ignore[reportArgumentType]


def read_statistics(
    path: str | Path, fields: FieldSet | None = None, split: str | None = "train", identity: str | None = None
) -> Statistics:
    """Statistics from a file.

    Args:
        path: The file.
        fields: The data set of which they must be; not checked when not given.
        split: The split of which they must then be.
        identity: The data set's digest, if it is known already.

    Raises:
        FileNotFoundError: there is no file.
        ValueError: it is damaged, or of other data, of another selection or of another split, or a file of the data was
            written to since.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there are no statistics '{path}'; `physdiff data stats` makes them.")
    with intact(path, *DAMAGE):
        with np.load(path, allow_pickle=False) as stored:
            text = json.loads(str(stored["statistics"]))
            if text.pop("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT}")
            for family in FAMILIES:
                text[family] = tuple(
                    Summary(**_numbers(summary), drawn=stored[f"{family}/{i}"])
                    for i, summary in enumerate(text[family])
                )
        text["class_counts"] = {int(k): n for k, n in text["class_counts"].items()}
        found = Statistics(**text)
    if fields is not None:
        _check(found, path, fields, split, identity or identity_of(fields))
        if (file := written_since(found, fields)) is not None:
            raise ValueError(
                f"'{file}' was written to since '{path}' was made, or its rights or links were changed; `physdiff data "
                "stats` makes new statistics."
            )
    return found


def written_since(found: Statistics, fields: FieldSet) -> str | None:
    """The first file that lies where it lay when it was measured and has another size or date; None if there is none.

    Also None of statistics of an older version, which do not know.
    """
    now = states_of(fields)
    return next((file for file, state in found.files.items() if now.get(file, state) != state), None)


def _check(found: Statistics, path: Path, fields: FieldSet, split: str | None, identity: str) -> None:
    if found.split != split:
        raise ValueError(f"'{path}' holds statistics of the split '{found.split}'; expected those of '{split}'.")
    require_training(split, str(path))
    if found.identity != identity:
        here, there = fields.names, tuple(s.name for s in found.channels)
        if here != there:
            why = f"of the channels {', '.join(there)}; the data has {', '.join(here)}"
        elif found.samples != len(fields):
            why = f"of {found.samples} samples; the data has {len(fields)}"
        else:
            why = f"with the digest {found.identity[:12]}; the data has {identity[:12]}"
        raise ValueError(
            f"'{path}' holds statistics of other data or of another selection than {fields.source}: {why}; "
            "`physdiff data stats` makes new ones."
        )


def _plain(summary: Summary) -> dict[str, Any]:
    """All but the drawn values; text for numbers that JSON does not know."""
    values = {entry.name: getattr(summary, entry.name) for entry in fields_of(Summary) if entry.name != "drawn"}
    return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    return {k: float(v) if isinstance(v, str) and k not in ("name", "units") else v for k, v in values.items()}
