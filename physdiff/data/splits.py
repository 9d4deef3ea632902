"""Training, validation and test parts of a data set: as its files have them, or by trajectory.

Frames of one trajectory are alike, and a model that saw one knows its neighbour: a loss on frames of trajectories that
were trained on says nothing about new ones. So a trajectory is in one part as a whole, and so are all that a file says
belong to one run.
"""

from __future__ import annotations

import dataclasses
import glob
import itertools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from physdiff.data.fieldset import FieldSet
from physdiff.data.formats import find_format, source_of
from physdiff.data.formats.format import kind_of
from physdiff.data.formats.in_memory import InMemory, is_in_memory, words_for
from physdiff.data.joined import open_runs
from physdiff.data.layout import Layout
from physdiff.data.selection import Selection
from physdiff.data.source import Source
from physdiff.randomness import keyed_generator, require_seed
from physdiff.registry import nearest

SPLITS = ("train", "valid", "test")
# What a folder of data may hold beside data: cards, statistics, figures.
_BESIDE = (".yaml", ".yml", ".json", ".md", ".txt", ".png", ".svg", ".pdf", ".csv", ".log", ".part", ".py")

Paths = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class Split:
    """Shares of the trajectories, and the seed of the draw.

    Attributes:
        train: Share for training.
        valid: Share for validation; 0 for none.
        test: Share for tests; 0 for none.
        seed: Which of the ways to draw them; the same seed gives the same parts.

    Raises:
        ValueError: shares are negative or do not sum to 1.
    """

    train: float = 0.8
    valid: float = 0.1
    test: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        require_seed(self.seed)
        shares = list(self.shares.values())
        if not all(math.isfinite(x) and x >= 0 for x in shares) or abs(sum(shares) - 1) > 1e-6 or not self.train:
            said = ", ".join(f"{name} = {x:g}" for name, x in self.shares.items())
            raise ValueError(f"shares of a split must be at least 0, of train above 0, and sum to 1; got {said}.")

    @classmethod
    def of(cls, given: Split | Mapping[str, Any]) -> Split:
        """A split from itself or from its settings by name."""
        if isinstance(given, Split):
            return given
        known = [f.name for f in dataclasses.fields(cls)]
        for name in given:
            if name not in known:
                raise ValueError(f"a split has no setting '{name}'. {nearest(str(name), known)}")
        return cls(**given)

    @property
    def shares(self) -> dict[str, float]:
        """Share of each part."""
        return {name: getattr(self, name) for name in SPLITS}

    def counts(self, n: int, source: str) -> dict[str, int]:
        """How many of n runs each part gets: at least one, and its share as nearly as whole numbers go.

        Raises:
            ValueError: there are fewer runs than parts.
        """
        parts = {name: share for name, share in self.shares.items() if share}
        if n < len(parts):
            alone = (
                "frames of one trajectory are alike, so parts of it would not test what is new; "
                if n == 1
                else "parts are made of whole trajectories; "
            )
            raise ValueError(
                f"{source} has {n} {'trajectory' if n == 1 else 'trajectories'} for {len(parts)} parts "
                f"({', '.join(parts)}): {alone}set the share of a part to 0, or give further files."
            )
        # One each; the others go where most is lacking (largest remainder).
        counts = {name: max(1, math.floor(share * n + 1e-9)) for name, share in parts.items()}
        while sum(counts.values()) != n:
            lacking = {name: share * n - counts[name] for name, share in parts.items()}
            if sum(counts.values()) < n:
                counts[max(lacking, key=lambda name: lacking[name])] += 1
            else:
                spare = {name: lack for name, lack in lacking.items() if counts[name] > 1}
                counts[min(spare, key=lambda name: spare[name])] -= 1
        return counts


def split_runs(sources: Sequence[Source], split: Split, name: str = "") -> dict[str, list[np.ndarray]]:
    """Which trajectories of each file belong to each part; all of one run (`Source.labels`) to one.

    Args:
        sources: The files, in an order that stays the same.
        split: Shares and seed.
        name: What messages call the files.

    Returns:
        Per part and file the numbers of trajectories, ascending, int64; parts with the share 0 are left out.

    Raises:
        ValueError: there are fewer runs than parts.
    """
    # A run of its own number for each trajectory, or for each label, counted over the files.
    runs, total = [], 0
    for source in sources:
        own = np.arange(source.trajectories)
        if source.labels is not None:
            own = np.unique(source.labels, return_inverse=True)[1]
        runs.append(own + total)
        total += int(own.max()) + 1
    counts = split.counts(total, name or sources[0].path)
    order = torch.randperm(total, generator=keyed_generator(split.seed, "split of trajectories", total)).numpy()
    part_of = np.empty(total, dtype=np.int64)
    part_of[order] = np.repeat(np.arange(len(counts)), list(counts.values()))
    return {part: [np.flatnonzero(part_of[own] == i) for own in runs] for i, part in enumerate(counts)}


def open_splits(
    path: Paths | Mapping[str, Paths] | InMemory,
    names: Sequence[str] | None = None,
    boundary: str | Sequence[str] | None = None,
    *,
    selection: Selection | None = None,
    layout: Layout | Mapping[str, Any] | str | Path | None = None,
    split: Split | Mapping[str, Any] | None = None,
) -> dict[str, FieldSet]:
    """Every part of a data set, with nothing read but the headers of the files.

    Args:
        path: A folder `<path>/data/{train,valid,test}/*`; files, folders or patterns such as `runs/*.h5` for each part
            by its name; a file that holds its parts; or files, a folder of files, a pattern or an object of xarray or
            py-pde, which `split` divides.
        names: Fields to read; they stand for those of `selection`.
        boundary: Boundary of every axis, or of each, in place of what the files say.
        selection: What a sample is.
        layout: What the files do not tell.
        split: Shares by which files without parts are divided by trajectory.

    Returns:
        By name of the part, in the order train, valid, test; those that there are.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file cannot be read, files disagree, or the parts are not told, or told twice.
    """
    selection, layout = selection or Selection(), Layout.of(layout, boundary=_boundary(boundary))
    if names is not None:
        selection = replace(selection, fields=tuple(names))
    parts = None if is_in_memory(path) else stored_parts(path, layout)
    if parts is not None:
        if split is not None:
            raise ValueError(f"{_words(path)} has its own parts ({', '.join(parts)}); leave data.splits out.")
        return {part: FieldSet.open(files, selection, own, name) for part, (files, own, name) in parts.items()}
    assert is_in_memory(path) or not isinstance(path, Mapping)
    files = [] if is_in_memory(path) else files_of(path)
    if split is None:
        raise ValueError(
            f"{_words(path)} is not divided into {', '.join(SPLITS)}; say how to divide it by trajectory with "
            "data.splits, such as train: 0.8, valid: 0.1, test: 0.1."
        )
    sources = [source_of(path, layout, words_for(path))] if is_in_memory(path) else open_runs(files, layout)
    taken = split_runs(sources, Split.of(split), _words(path))
    return {part: FieldSet(sources, selection, f"{_words(path)} ({part})", runs) for part, runs in taken.items()}


def stored_parts(path: Paths | Mapping[str, Paths], layout: Layout) -> dict[str, tuple[list[Path], Layout, str]] | None:
    """Files, layout and name of each part where a data set has them; None where it has not."""
    if isinstance(path, Mapping):
        for part in path:
            if part not in SPLITS:
                raise ValueError(f"data.path names the part '{part}'. {nearest(str(part), SPLITS)}")
        return {part: (files_of(path[part]), layout, _words(path[part])) for part in SPLITS if part in path}
    if not isinstance(path, str | Path) or not str(path).strip():
        return None
    if Path(path).is_dir() and kind_of(Path(path)) != "zarr":
        if not (Path(path) / "data").is_dir():
            return None
        found = {part: data_files(Path(path) / "data" / part) for part in SPLITS}
        if not any(found.values()):
            raise FileNotFoundError(f"no .h5 or .hdf5 files in '{path}/data/{{{','.join(SPLITS)}}}'.")
        return {part: (files, layout, f"{path}") for part, files in found.items() if files}
    if not Path(path).exists() or layout.group is not None:
        return None
    own = find_format(path, layout).splits(Path(path))
    return {part: ([Path(path)], replace(layout, group=part), f"{path} ({part})") for part in own} or None


def split_files(folder: Path, split: str | None) -> list[Path]:
    """Files of one split of a folder in The Well's layout, sorted by name.

    Raises:
        FileNotFoundError: there is none.
        ValueError: there is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"folder '{folder}' needs a split, one of {', '.join(SPLITS)}; got {split!r}.")
    files = data_files(folder / "data" / split)
    if not files:
        raise FileNotFoundError(f"no .h5 or .hdf5 files in '{folder / 'data' / split}', nor others that hold data.")
    return files


def data_files(folder: Path) -> list[Path]:
    """Files (and zarr folders) in a folder that may hold data, sorted by name."""
    if not folder.is_dir():
        return []
    found = [f for f in folder.iterdir() if not f.name.startswith(".") and f.suffix.lower() not in _BESIDE]
    return sorted(f for f in found if f.is_file() or kind_of(f) == "zarr")


def files_of(path: Paths) -> list[Path]:
    """Files that are named: one, those of a folder, those that fit a pattern, or several of these.

    Raises:
        FileNotFoundError: one is not there, or nothing fits a pattern.
        ValueError: a file is named twice, or an empty name was given.
    """
    found: list[Path] = []
    for one in [path] if isinstance(path, str | Path) else path:
        if not str(one).strip():
            raise ValueError(f"data.path is {str(one)!r}; expected a file, a folder or a pattern.")
        here = Path(one)
        if here.is_dir() and kind_of(here) != "zarr":
            files = data_files(here)
        elif here.exists():
            files = [here]
        else:
            files = matching(one)
        if not files and here.is_dir():
            parts = f"{one}/data/{{{','.join(SPLITS)}}}"
            raise FileNotFoundError(f"no data files in '{one}', nor in '{parts}'.{_below(here)}")
        if not files:
            here_is = "" if here.is_absolute() else f" in {Path.cwd()}"
            raise FileNotFoundError(f"no file or folder '{one}'{here_is}, nor one that fits it as a pattern.")
        found += files
    if not found:
        raise ValueError("no file was named.")
    # By where they lie: `a.h5` and `./a.h5`, or a link to it, are one file, whose runs would be in two parts.
    places: dict[Path, Path] = {}
    for file in found:
        other = places.setdefault(file.resolve(), file)
        if other is not file:
            also = "" if str(other) == str(file) else f": '{other}' is the same file"
            raise ValueError(f"'{file}' is named twice{also}.")
    return found


def matching(pattern: str | Path) -> list[Path]:
    """Files that fit a pattern, sorted; a folder that is there, such as `run[1]`, is meant by its name."""
    parts, begun = Path(pattern).parts, Path()
    for number, part in enumerate(parts):
        if not (begun / part).exists():
            rest = os.path.join("", *parts[number:])
            return sorted(Path(name) for name in glob.glob(os.path.join(glob.escape(str(begun)), rest), recursive=True))
        begun /= part
    return [begun]


def _below(folder: Path) -> str:
    """Where below a folder data files lie, for a message."""
    inner = (here for here in sorted(folder.rglob("*")) if here.is_dir() and data_files(here))
    some = list(itertools.islice(inner, 4))
    if not some:
        return ""
    suffix = data_files(some[0])[0].suffix
    told = ", ".join(str(here) for here in some[:3]) + ", ..." * (len(some) > 3)
    return f" There are some in {told}; a pattern such as '{folder}/**/*{suffix}' takes those of several folders."


def _boundary(given: str | Sequence[str] | None) -> str | list[str] | None:
    return given if given is None or isinstance(given, str) else list(given)


def _words(path: Paths | Mapping[str, Paths] | InMemory) -> str:
    """A data set in messages: its path, or the first of several."""
    if is_in_memory(path):
        return words_for(path)
    if isinstance(path, Mapping):
        return _words(next(iter(path.values()))) if path else "nothing"
    if isinstance(path, str | Path):
        return str(path)
    return f"{path[0]} and {len(path) - 1} more" if len(path) > 1 else str(path[0]) if path else "nothing"
