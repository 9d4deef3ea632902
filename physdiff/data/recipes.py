"""The recipes that make data sets: `datasets/` of a checkout, or the copy that is installed with the package.

They are loaded from their folder under a name of their own, because another well-known package is called `datasets`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = "physdiff_datasets"


def recipes() -> dict[str, Any]:
    """Every recipe by name; see `datasets.Recipe`."""
    return _package().recipes()


def recipe(name: str) -> Any:
    """One recipe; a ValueError that names the nearest if there is none of that name."""
    return _package().recipe(name)


def _package() -> ModuleType:
    if PACKAGE in sys.modules:
        return sys.modules[PACKAGE]
    here = Path(__file__).parents[1]
    folder = next(f for f in (here / "_datasets", here.parent / "datasets") if (f / "__init__.py").is_file())
    found = importlib.util.spec_from_file_location(
        PACKAGE, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[PACKAGE] = module
    found.loader.exec_module(module)
    return module
