"""`physdiff networks`: the sizes that networks come in, and what they cost."""

from __future__ import annotations

from physdiff.grid import Grid
from physdiff.networks.cost import cost
from physdiff.networks.settings import KINDS, PRESETS, NetworkSettings, build_network

GRIDS = (Grid(256), Grid((64, 64)), Grid((32, 32, 32)))
COLUMNS = ("network", "preset", "width", "levels by blocks", "attention", "parameters", "multiply-adds per cell")


def networks(grid: str | None = None, channels: int = 1) -> None:
    """List the presets of the networks, with their parameters and their cost per cell.

    Args:
        grid: Cells along each axis, as in 64,64; a line, a plane and a box when not given.
        channels: Channels of the field.
    """
    if channels < 1:
        raise ValueError(f"channels must be at least 1; got {channels}.")
    grids = GRIDS if grid is None else (_grid(grid),)
    for where in grids:
        print(f"\n{' x '.join(map(str, where.shape))} cells, {channels} channel{'s' * (channels > 1)}")
        rows = [COLUMNS, *(_row(where, channels, kind, name) for kind, named in PRESETS.items() for name in named)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
        for row in rows:
            print("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip())
    print("\nOne evaluation costs so much; a training step about three times as much for each field of the batch.")


def _row(grid: Grid, channels: int, kind: str, name: str) -> tuple[str, ...]:
    # A field of fewer cells than a patch is one patch.
    patch = min(KINDS[kind]["patch"], max(grid.shape)) if kind == "transformer" else None
    settings = NetworkSettings(kind=kind, preset=name, patch=patch).resolved()
    found = cost(lambda: build_network(grid, channels, settings), grid, channels)
    if kind == "unet":
        levels = "-".join(map(str, settings.multipliers or ())) + f" by {settings.blocks}"
        attention = ", ".join(map(str, settings.attention or ())) or "none"
    else:
        levels, attention = f"{settings.depth} deep", f"all, patches of {settings.patch}"
    return kind, name, str(settings.width), levels, attention, _short(found.parameters), _short(found.per_cell)


def _grid(words: str) -> Grid:
    try:
        shape = tuple(int(word) for word in words.strip("[]()").split(","))
        return Grid(shape)
    except ValueError:
        raise ValueError(f"grid is cells along each axis, as in 64,64; got '{words}'.") from None


def _short(number: float) -> str:
    """Three digits and a unit: 12.7 M."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"
