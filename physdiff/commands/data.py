"""`physdiff data make` and `physdiff data inspect`."""

from __future__ import annotations

from pathlib import Path

from physdiff.data.inspect import inspect as inspect_path
from physdiff.data.recipes import recipe as find_recipe
from physdiff.data.recipes import recipes


def make(recipe: str, folder: str | None = None, seed: int = 0, overwrite: bool = False) -> None:
    """Make a data set by a recipe.

    Args:
        recipe: Name of the recipe; `physdiff data list` lists them.
        folder: Where to put it; data/NAME when not given.
        seed: Seed of everything random in it.
        overwrite: Whether to replace a data set that is there.
    """
    chosen = find_recipe(recipe)
    target = Path(folder) if folder else Path("data") / recipe
    made = chosen.make(target, seed=seed, overwrite=overwrite)
    print(f"{chosen.summary}\nmade in {made}; its card is {made / 'card.md'}")


def list_recipes() -> None:
    """List the recipes."""
    for name, recipe in recipes().items():
        print(f"{name:14} {recipe.summary}")


def inspect(path: str) -> None:
    """Say what a file or a data set folder holds.

    Args:
        path: HDF5 or netCDF file, or a data set folder.
    """
    print(inspect_path(path))
