"""`physdiff data`: make, list, inspect, stats, duplicates, repack and formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from textwrap import fill
from typing import Any

from physdiff.atomic import replacing_file
from physdiff.commands.data_stats import find_duplicates, stats
from physdiff.data.file_order import runs_of
from physdiff.data.formats import formats_table, open_source
from physdiff.data.inspect import data_files, is_store
from physdiff.data.inspect import inspect as inspect_path
from physdiff.data.joined import open_run
from physdiff.data.layout import Layout
from physdiff.data.recipes import OF_ALL, recipes, settings_of
from physdiff.data.recipes import recipe as find_recipe
from physdiff.data.repack import repack as repack_path
from physdiff.disk import readable as as_bytes
from physdiff.evaluation.figure_style import png
from physdiff.evaluation.inspect_figure import inspect_figure
from physdiff.registry import nearest

__all__ = ["find_duplicates", "formats", "inspect", "list_recipes", "make", "repack", "stats"]


def make(
    recipe: str,
    folder: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
    settings: dict[str, Any] | None = None,
) -> None:
    """Make a data set by a recipe.

    Args:
        recipe: Name of the recipe; `physdiff data list` lists them.
        folder: Where to put it; data/NAME when not given.
        seed: Seed of everything random in it.
        overwrite: Whether to replace a data set that is there.
        settings: Further settings of the recipe by name, as in `--settings.train_runs 64`; `physdiff data list
            --recipe NAME` tells them.
    """
    chosen = find_recipe(recipe)
    if folder is not None and folder.startswith("~"):
        raise ValueError(f"folder '{folder}': only the shell knows '~', and here it did not; name it in full.")
    target = Path(folder) if folder else Path("data") / chosen.name
    made = chosen.make(target, seed=seed, overwrite=overwrite, **_settings_of(recipe, chosen.make, settings or {}))
    print(f"{_what_was_made(made)}\nmade in {made}; its card is {made / 'card.md'}")


def _what_was_made(folder: Path) -> str:
    """Runs of each split, frames, fields and grid, as the files have them: settings may differ from the summary's."""
    files = data_files(folder)
    sources = [open_source(file) for file in files]
    first = sources[0]
    runs = " + ".join(f"{source.trajectories} {file.parent.name}" for source, file in zip(sources, files, strict=True))
    frames = first.times.shape[1]
    size = as_bytes(sum(file.stat().st_size for file in files))
    return (
        f"{', '.join(variable.name for variable in first.variables)}: {runs} trajectories of {frames} "
        f"{'frame' if frames == 1 else 'frames'} on {first.grid.describe()}, {size}"
    )


def _settings_of(recipe: str, make: Callable[..., Path], given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as the recipe takes them: lists as tuples, no name that it does not have, types as of its defaults."""
    own = {n: p for n, p in signature(make).parameters.items() if n not in OF_ALL}
    for name, value in given.items():
        if name not in own:
            raise ValueError(f"recipe '{recipe}' has no setting '{name}'. {nearest(name, own)}")
        default = own[name].default
        # A setting of several types says so, and its recipe looks at them.
        plain = "|" not in str(own[name].annotation)
        kinds = next((k for k in (bool, int, float, str) if plain and isinstance(default, k)), object)
        if not isinstance(value, (int, float) if kinds is float else kinds) or (kinds is int and value is True):
            raise ValueError(f"recipe '{recipe}': setting '{name}' is {value!r}; it is {default!r} when not given.")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def list_recipes(recipe: str | None = None) -> None:
    """List the recipes, or the settings of one.

    Args:
        recipe: Name of the recipe whose settings are listed.
    """
    if recipe is not None:
        found = find_recipe(recipe)
        print(f"{found.summary}\nsettings, each as `--settings.NAME VALUE` of `physdiff data make {recipe}`:")
        for name, value, told in settings_of(found.make):
            print(fill(f"{name} = {value}: {told}", 120, initial_indent="  ", subsequent_indent="      "))
        return
    known = recipes()
    width = max(map(len, known))
    for name, one in known.items():
        print(f"{name:{width}}  {one.summary}")


def inspect(
    path: str,
    layout: str | None = None,
    schema: str | None = None,
    boundary: str | None = None,
    everything: bool = False,
    figure: str | None = None,
) -> None:
    """Say what a file or a data set folder holds: schema, grid, fields, how they are stored, ranges and gaps.

    Args:
        path: File of any format, a data set folder, or a pattern in quotes, such as 'runs/*.h5'.
        layout: YAML file that tells what the file does not.
        schema: Name of the format, where the file could be read as several; `physdiff data formats` lists them.
        boundary: Boundary of every axis, in place of the one in the file.
        everything: Whether every value is read, not only frames spread over the file.
        figure: PNG file to draw some frames into, and how values are distributed.
    """
    told = Layout.of(layout, schema=schema, boundary=boundary)
    print(inspect_path(path, told, everything))
    if figure is None:
        return
    file = Path(path)
    files = data_files(file) if not file.exists() or (file.is_dir() and not is_store(file)) else [file]
    drawn = png(inspect_figure(open_run(runs_of(files, told)[0], told)), dpi=120)
    with replacing_file(figure) as partial:
        partial.write_bytes(drawn)
    print(f"drawn: {figure}")


def repack(
    path: str,
    to: str,
    compression: str = "gzip",
    layout: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write a file, or a folder's files, anew with one chunk a frame, so that training reads only what it uses.

    The new file is read back and compared before it takes its place; HDF5 files keep their schema.

    Args:
        path: File of any format, or a data set folder.
        to: The new file or folder; PATH itself with `--overwrite true`.
        compression: gzip, lzf or none; with the package hdf5plugin lz4 or zstd, which unpack faster.
        layout: YAML file that tells what the file does not.
        overwrite: Whether what is there may be replaced.
    """
    for done in repack_path(path, to, compression=compression, layout=Layout.of(layout), overwrite=overwrite):
        print(
            f"{done.path}: {as_bytes(done.before)} to {as_bytes(done.after)}; one frame reads "
            f"{done.worst_before:.3g} times its size before, {done.worst_after:.3g} now; compared with the old file"
        )


def formats() -> None:
    """List the file formats that are read, and what each asks for."""
    print(formats_table())
