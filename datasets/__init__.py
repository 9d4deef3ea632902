"""Recipes that make data sets in The Well's layout: one file and one card each, found by their `NAME`."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from physdiff.registry import spelled

from .its_settings import telling_its_settings


@dataclass(frozen=True)
class Recipe:
    """How one data set is made.

    Attributes:
        name: What the command line calls it.
        summary: One line for people.
        make: `make(folder, seed=0, progress=True, **settings)` writes the data set and returns its folder.
        card: Markdown page that tells what the data is, how it was made and what it does not show.
    """

    name: str
    summary: str
    make: Callable[..., Path]
    card: Path


def recipes() -> dict[str, Recipe]:
    """Every recipe, by name: each module of this package that states a `NAME`."""
    found = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        if hasattr(module, "NAME"):
            card = Path(__file__).parent / "cards" / f"{module.NAME}.md"
            found[module.NAME] = Recipe(module.NAME, module.SUMMARY, telling_its_settings(module.make), card)
    return found


def recipe(name: str) -> Recipe:
    """One recipe.

    Raises:
        ValueError: there is none of that name; the nearest is named.
    """
    known = recipes()
    if (found := spelled(name, known)) in known:
        return known[found]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise ValueError(f"no recipe '{name}'; there are {', '.join(known)}.{hint}")
