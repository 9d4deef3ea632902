"""Whose code a model's file may name.

A model's folder is data, and may come from a stranger. Its `model.json` names classes, a class is found by importing
its module, and importing runs code. So nothing is imported that came with the model: only code that is on this machine
for reasons of its own,

    what this program has imported already,
    modules on the Python path: physdiff, installed packages, the folder where the command is typed,
    files below that folder, as `sub/my_physics.py:MyProcess`,

and never from the standard library (no class that a model needs is there), from the model's own folder, or from the
folder around it. A file is imported only if it defines or imports something of the class's name: a script is not run by
mistake, the user's or a package's. (A package's `__init__.py` is taken at its word: many make their names on demand.)
What is found must then be a class of the right kind before it is called, see `Registry.find`, and its arguments are
plain values none of which names a place, see `require_plain`: classes that fetch weights or code take it from there.

What remains: a class that is installed here, of the right kind, is called with numbers and words that a stranger chose.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any


def require_plain(value: Any, name: str) -> None:
    """Raise unless a class's argument, at any depth, is a number, a truth value, None, or a word that names no place.

    A model's folder must be all that it takes to make the model again; and what a class reads from a path or an address
    may be code.

    Args:
        value: The argument; lists and mappings by word are looked through.
        name: What it is called, for the message.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, Mapping):
        for key, each in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{name} has the key {key!r}; expected words as keys.")
            require_plain(each, f"{name}.{key}")
    elif isinstance(value, (list, tuple)):
        for i, each in enumerate(value):
            require_plain(each, f"{name}[{i}]")
    elif isinstance(value, str):
        if any(mark in value for mark in ("/", "\\", "~", ":")) or value.startswith("."):
            raise ValueError(
                f"{name} is '{value}', which looks like a path or an address; a network is made from numbers and words "
                "alone, and its weights lie in the model's folder."
            )
    elif value is not None and not isinstance(value, (bool, int, float)):
        raise ValueError(f"{name} is a {type(value).__name__}; expected numbers, words, lists or mappings of them.")


def require_trusted(name: str, folder: Path, kind: str) -> None:
    """Raise unless a class that a model's file names may be imported; nothing is.

    Args:
        name: `module.Class` or `path/to/file.py:Class`; a bare word is a registered name, and always may.
        folder: The model's.
        kind: What it is to be, for the message.

    Raises:
        ValueError: it may not, or the name is none of these.
    """
    asked = f"{folder / 'model.json'} names the {kind} '{name}'"
    by_file = isinstance(name, str) and (":" in name or name.endswith(".py"))
    if not isinstance(name, str) or not name or not (by_file or all(part.isidentifier() for part in name.split("."))):
        raise ValueError(f"{asked}; expected a name, module.Class or file.py:Class.")
    if name.isidentifier():
        return
    path, _, cls = name.partition(":") if by_file else name.rpartition(".")
    file = Path(path).resolve() if by_file else None
    if _is_imported(path, file):
        return
    if file is None:
        files = _files_of(path)
        if path.partition(".")[0] in sys.stdlib_module_names or any(_is_pythons(each) for each in files):
            raise ValueError(f"{asked}, of Python's own library; a model needs nothing of it. It was not loaded.")
    elif file.is_relative_to(Path.cwd()):
        files = [file]
    else:
        raise ValueError(f"{asked}, outside the current folder; import it before you load the model.")
    for each in files:
        if where := _came_with(each, folder):
            raise ValueError(
                f"{asked}, a file in {where}. What comes with a model is not run: if it is your own, put it elsewhere."
            )
    # Where there is no file, the import says so.
    if files and files[-1].is_file() and not _may_define(files[-1], cls):
        raise ValueError(f"{asked}, but {files[-1]} defines no class '{cls}'; it was not run.")


def _is_imported(path: str, file: Path | None) -> bool:
    module = sys.modules.get(path if file is None else file.stem)
    if module is None or file is None:
        return module is not None
    return Path(getattr(module, "__file__", None) or "").resolve() == file


def _files_of(module: str) -> list[Path]:
    """What an import of a module would run or look through, package by package, without importing any of them."""
    places: Iterable[str] | None = [str(Path.cwd()), *sys.path]
    files: list[Path] = []
    for i, part in enumerate(module.split(".")):
        spec = PathFinder.find_spec(part, list(places or ()))
        if spec is None and i == 0:
            spec = importlib.util.find_spec(part)  # a package that is installed where it is developed
        if spec is None:
            break
        places = spec.submodule_search_locations
        found = [spec.origin] if spec.origin else list(places or ())  # a folder without __init__.py is a package too
        files += [Path(each).resolve() for each in found]
    return files


def _came_with(file: Path, folder: Path) -> Path | None:
    """The folder of the model, or the one around it unless it is where the command is typed, if the file is there."""
    model, here = folder.resolve(), Path.cwd()
    around = () if here.is_relative_to(model.parent) else (model.parent,)
    return next((place for place in (model, *around) if file.is_relative_to(place)), None)


def _is_pythons(file: Path) -> bool:
    """Whether a file is of the standard library, its tests included, and of no package that is installed in it."""
    home = Path(sysconfig.get_path("stdlib")).resolve()
    return file.is_relative_to(home) and not {"site-packages", "dist-packages"} & set(file.relative_to(home).parts)


def _is_installed(file: Path) -> bool:
    """Whether a file is an installed package's; if not, and below the current folder, it is the user's own."""
    places = {Path(sysconfig.get_path(place)).resolve() for place in ("purelib", "platlib")}
    return any(file.is_relative_to(place) for place in places) or not file.is_relative_to(Path.cwd())


def _may_define(file: Path, cls: str) -> bool:
    """Whether a file, without running it, defines or imports a class of a name; what is no Python text may."""
    if file.suffix != ".py":
        return True
    installed = _is_installed(file)
    if installed and file.name == "__init__.py":
        return True
    try:
        tree = ast.parse(file.read_text(encoding="utf-8", errors="replace"))
    except (SyntaxError, ValueError, OSError):
        return False
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return cls in names or (installed and "*" in names)
