"""What a data file holds, as text: also of files that `load_fields` refuses, whose fault it states."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from physdiff.data.amplification import WORTH_REPACKING, amplification
from physdiff.data.axes import text
from physdiff.data.axis_ends import doubtful_ends
from physdiff.data.containment import is_dataset
from physdiff.data.damage import named
from physdiff.data.dates import dates_of
from physdiff.data.file_order import runs_of
from physdiff.data.fingerprint import files_under
from physdiff.data.formats import FORMATS, find_format
from physdiff.data.formats.format import Probe
from physdiff.data.formats.mapped import natural
from physdiff.data.globe import doubts_of_maps
from physdiff.data.handles import close_all, open_hdf5, readable
from physdiff.data.joined import open_run
from physdiff.data.layout import Layout
from physdiff.data.source import TRAJECTORY, Source, Variable
from physdiff.data.splits import SPLITS, files_of
from physdiff.data.splits import data_files as files_in
from physdiff.data.storage import Storage, compression_of, never_written, storage_of
from physdiff.data.stored import nbytes
from physdiff.data.value_ranges import BUDGET, ValueRange, value_range
from physdiff.disk import readable as as_bytes

_MOST_ATTRIBUTES = 24
_MOST_DATASETS = 40
_REFUSED = "  not loadable: "
_TOLD = 8  # files of a folder, or of a split, that are told one by one


def inspect(path: str | Path, layout: Layout | None = None, everything: bool = False) -> str:
    """Schema, grid, fields, storage, ranges and attributes of a file or folder, on several lines.

    Args:
        path: A file of any format, a folder of them, such as one in The Well's layout, or a pattern.
        layout: What the files do not tell.
        everything: Whether every value is read; otherwise frames spread over each field, up to 200 MB of it, and of the
            files of a folder after the first few the headers alone, as long as these say the same.

    Raises:
        FileNotFoundError: nothing, or no data file, is at `path`.
        ValueError: a file is truncated or of no known kind.
    """
    try:
        return "\n".join(_describe(Path(path), layout, everything))
    finally:
        close_all()  # a file that is open for reading cannot be written to


def _describe(path: Path, layout: Layout | None, everything: bool) -> list[str]:
    if path.exists() and (not path.is_dir() or is_store(path)):
        return _describe_run([path], layout, everything)
    files = data_files(path)
    splits = {split: [f for f in files if f.parent == path / "data" / split] for split in SPLITS}
    if not any(splits.values()):
        splits = {"files": files}
    kind = "folder" if path.is_dir() else "pattern"
    lines = [f"{path}: {kind}" + " in The Well's layout" * ("train" in splits)]
    for split, files in splits.items():
        lines.append(f"  {split}: {len(files)} file{'s' * (len(files) != 1)}")
        lines += [f"    {line}" for line in _describe_all(files, layout, everything)]
    return lines


def _describe_all(files: list[Path], layout: Layout | None, everything: bool) -> Iterator[str]:
    """Runs one after the other; of many, those that are as the first are counted once a few have been told."""
    first, alike, refused, in_vain = None, 0, set[str](), 0
    runs = runs_of(files, layout or Layout())
    for i, run in enumerate(runs):
        try:
            if len(runs) > _TOLD and not everything and not refused:
                schema = _schema_of(open_run(run, layout or Layout()))
                first = first or schema
                if i >= _TOLD and schema == first:
                    alike += 1
                    continue
            lines = _describe_run(run, layout, everything)
            if lines[1].startswith(_REFUSED):
                in_vain += lines[1] in refused
                lines = [] if lines[1] in refused else lines
                refused |= set(lines[1:2])
            yield from lines
        except ValueError as error:  # one that is damaged does not hide the others
            yield f"{run[0]}: not readable"
            yield f"  {error}"
    if alike:
        yield f"{alike} more, with the grid, frames and fields of the first; their values were not read"
    if in_vain:
        yield f"{in_vain} more, not loadable in the same way"
    if not refused and _go_on(runs, layout or Layout()):
        yield (
            "each begins after the one before it has ended: if they are one run, say so with join= "
            "(--data.layout.join): number, or folder"
        )


def _go_on(runs: list[list[Path]], layout: Layout) -> bool:
    """Whether files that are taken for runs of their own look as if they went on from each other in time."""
    some = sorted((run[0] for run in runs), key=lambda file: natural(str(file)))[:_TOLD]
    if len(some) < 2 or layout.join is not None or any(len(run) > 1 for run in runs):
        return False
    try:
        times = [open_run([file], layout).times for file in some]
    except ValueError:
        return False
    return all((a.max() < b.min()) for a, b in itertools.pairwise(times))


def _schema_of(source: Source) -> tuple[Any, ...]:
    """What files of one set have in common."""
    fields = [
        (v.name, v.units, str(v.view.array.dtype), {dim: n for dim, n in v.view.sizes.items() if dim != TRAJECTORY})
        for v in source.variables
    ]
    return source.grid.describe(), source.frames, sorted(source.scalars), fields


def is_store(path: Path) -> bool:
    """Whether a folder is one data file, as those of zarr are."""
    return Probe.of(path).kind == "zarr"


def data_files(folder: Path) -> list[Path]:
    """Data files of a folder: those of its splits in The Well's layout, or else those that lie in it; or of a pattern.

    Raises:
        FileNotFoundError: there is none.
    """
    found = [file for split in SPLITS for file in files_in(folder / "data" / split)] if folder.is_dir() else []
    return found or files_of(folder)


def _describe_run(files: list[Path], layout: Layout | None, everything: bool) -> list[str]:
    with named(files[0]):
        return _described(files, layout or Layout(), everything)


def _described(files: list[Path], layout: Layout, everything: bool) -> list[str]:
    path = files[0]
    probe = Probe.of(path)
    size = sum(inner.stat().st_size for file in files for inner in files_under(file))
    schema: str = probe.kind
    also = f" and {len(files) - 1} more, one run in all" * (len(files) > 1)
    try:
        schema = FORMATS[find_format(path, layout).name].title
        source = open_run(files, layout)
    except ValueError as error:
        # Only at the beginning can a name go on with what is said of "it", more than once where a reader wraps another.
        said = re.sub(r"^(?:it: )+", "", str(error).replace(f"'{path}'", "it").replace(str(path), "it"))
        lines = [f"{path}{also}: {schema}, {as_bytes(size)}", f"{_REFUSED}{said}"]
        lines += _how_to_say(said)
        return lines + (_describe_datasets(path, everything) if probe.kind == "hdf5" else [])
    lines = [f"{path}{also}: {schema}, {as_bytes(size)}", f"  grid: {source.grid.describe()}"]
    lines += [f"    {line}" for line in (*doubtful_ends(source).values(), *doubts_of_maps(source.grid))]
    lines += _describe_runs(source)
    for whole in _wholes(source):
        lines += _describe_field(source, whole, everything, " --layout LAYOUT" * (layout not in (None, Layout())))
    for name, value in source.scalars.items():
        dims = ", ".join(source.scalar_dims.get(name, ()))
        lines.append(f"  number {name}{f' ({dims})' * bool(dims)}: {_range_of(np.asarray(value))}")
    lines += [f"  attribute {key} = {_shown(value)}" for key, value in sorted(_attributes(path, probe, source).items())]
    return lines


def _how_to_say(said: str) -> list[str]:
    """Where the setting that a message names is written, for this command and in an experiment's file."""
    if "--data.layout" not in said:
        return []
    named_so = list(dict.fromkeys(re.findall(r"--data\.layout\.(\w+)", said)))
    words = ", ".join(f"{name}: ..." for name in named_so) or "..."
    return [
        f"  say it here by --layout FILE, a YAML file with {words}; in an experiment by data: {{layout: {{{words}}}}}"
    ]


def _describe_runs(source: Source) -> list[str]:
    runs = source.trajectories if source.labels is None else len(np.unique(source.labels))
    snapshots = f" ({source.trajectories} snapshots listed one by one)" * (source.labels is not None)
    times = source.times
    spaced = ""
    if source.frames > 1:
        steps = np.diff(times, axis=1)
        even = np.allclose(steps, steps.flat[0], rtol=1e-3, atol=0)
        spaced = f", {steps.flat[0]:.6g} apart" if even else ", not evenly spaced"
    lines = [
        f"  trajectories: {runs}{snapshots}, frames: {source.frames}, time: {times.min():.6g} to "
        f"{times.max():.6g}{spaced}"
    ]
    units, calendar = (str(source.attrs.get(f"time_{word}", "")) for word in ("units", "calendar"))
    dates = dates_of(np.array([times.min(), times.max()]), units, calendar or "standard")
    return lines + ([f"    {units}: {dates[0]} to {dates[1]}"] if dates else [])


def _wholes(source: Source) -> Iterator[list[Variable]]:
    """Variables by the field that they are components of."""
    found: dict[str, list[Variable]] = {}
    for variable in source.variables:
        found.setdefault(variable.parent or variable.name, []).append(variable)
    yield from found.values()


def _describe_field(source: Source, members: list[Variable], everything: bool, options: str) -> list[str]:
    first = members[0]
    view = first.view
    rank = ("scalar", "vector", "tensor")[len(first.component)]
    name = first.parent or first.name
    axes = ", ".join(f"{dim} {n}" for dim, n in view.sizes.items())
    parts = f" of {', '.join(m.name for m in members)}" if first.parent else ""
    kind = rank + parts + ", static" * (not first.varies_in_time) + ", pseudo" * first.pseudo
    units = first.units or "no units"
    lines = [
        f"  field {name} ({kind}): {axes}; {view.array.dtype}, {units}, {storage_of(view.array)}, "
        f"{as_bytes(nbytes(view.array))} unpacked"
    ]
    if told := never_written(view.array):
        lines.append(f"    {told}")
    cost = amplification(view)
    if cost.factor > 1:
        lines.append(
            f"    one frame ({as_bytes(cost.frame)}) reads {as_bytes(cost.read)}: amplification {cost.factor:.3g}"
        )
    if cost.factor >= WORTH_REPACKING:
        lines.append(
            f"    training would unpack {cost.factor:.3g} bytes for each that it uses; once, do: "
            f"physdiff data repack {source.path} NEW{options}"
        )
    missing = 0
    for member in members:
        found = value_range(source, member, None if everything else BUDGET // len(members))
        missing += found.missing
        lines.append(f"    {f'{member.name}: ' if len(members) > 1 else ''}{_told(found)}")
    if missing:
        lines.append("    cells without a value: training asks for `mask: nan` (--data.mask nan)")
    return lines


def _told(found: ValueRange) -> str:
    part = "" if found.share == 1 else f" (of {found.frames} frames, {100 * found.share:.2g} %)"
    if found.count == 0:
        return f"no finite value, {found.missing} NaN, {found.infinite} infinite{part}"
    return (
        f"range {found.low:.6g} to {found.high:.6g}, mean {found.mean:.6g}, std {found.std:.6g}, "
        f"{found.missing} NaN, {found.infinite} infinite{part}"
    )


def _describe_datasets(path: Path, everything: bool) -> list[str]:
    """Arrays of numbers of a file whose schema is not understood."""
    found: list[str] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.shape is not None:
            packed = f", {Storage(item.chunks, compression_of(item))}" if item.ndim > 1 else ""
            units = text(item.attrs["units"]) if "units" in item.attrs else ""
            found.append(f"  dataset /{name}: {item.shape} {item.dtype}{f', {units}' * bool(units)}{packed}")

    with open_hdf5(path) as file, readable(path):
        for name in (str(n) for n in file):
            if is_dataset(file, name):
                visit(name, file[name])
        file.visititems(lambda name, item: visit(name, item) if "/" in name else None)
        attributes = {str(key): file.attrs[key] for key in file.attrs}
    if len(found) > _MOST_DATASETS and not everything:
        found[_MOST_DATASETS:] = [f"  ... {len(found) - _MOST_DATASETS} datasets more"]
    return found + [f"  attribute {key} = {_shown(value)}" for key, value in sorted(attributes.items())]


def _attributes(path: Path, probe: Probe, source: Source) -> dict[str, Any]:
    found = dict(source.attrs)
    if probe.kind == "hdf5":
        with open_hdf5(path) as file:
            for key in list(file.attrs)[:_MOST_ATTRIBUTES]:
                try:
                    found.setdefault(key, file.attrs[key])
                except (OSError, TypeError, ValueError, RuntimeError):
                    found.setdefault(key, "(cannot be read)")
    return found


def _range_of(value: np.ndarray) -> str:
    if value.dtype.kind not in "fiub":
        return _shown(value)
    return f"{value.flat[0]:.6g}" if value.size == 1 else f"{value.min():.6g} to {value.max():.6g}"


def _shown(value: Any) -> str:
    if isinstance(value, bytes | str):
        shown = text(value)
    else:
        array = np.asarray(value)
        array = array.reshape(()) if array.size == 1 else array
        shown = str(array.tolist() if array.size <= 64 else f"array of shape {array.shape}, {array.dtype}")
    return shown if len(shown) <= 100 else shown[:97] + "..."
