"""The recipes that make data sets: `datasets/` of a checkout, or the copy that is installed with the package.

They are loaded from their folder under a name of their own, because another well-known package is called `datasets`.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = "physdiff_datasets"
OF_ALL = ("folder", "seed", "progress", "overwrite")  # parameters of every recipe, options of their own


def recipes() -> dict[str, Any]:
    """Every recipe by name; see `datasets.Recipe`."""
    return _package().recipes()


def recipe(name: str) -> Any:
    """One recipe; a ValueError that names the nearest if there is none of that name."""
    return _package().recipe(name)


def settings_of(make: Callable[..., Path]) -> list[tuple[str, Any, str]]:
    """Settings of a recipe that are its own: name, value when not given, and what its docstring says of it."""
    lines = (inspect.getdoc(make) or "").splitlines()
    told: dict[str, str] = {}
    name = ""
    for line in lines[lines.index("Args:") + 1 :] if "Args:" in lines else []:
        if not line.startswith("    "):
            break
        if not line.startswith("     "):
            name, _, line = line.partition(":")
            name = name.strip()
        told[name] = f"{told.get(name, '')} {line.strip()}".strip()
    parameters = inspect.signature(make).parameters.values()
    return [(p.name, p.default, told.get(p.name, "")) for p in parameters if p.name not in OF_ALL]


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
