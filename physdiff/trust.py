"""Whose code a model's file may name.

A model's folder is data, and may come from a stranger. Its `model.json` names classes, a class is found by importing
its module, and importing runs code. So nothing is imported that came with the model: only code that is on this machine
for reasons of its own,

    what this program has imported already,
    modules on the Python path: physdiff, installed packages, the folder where the command is typed,
    files below that folder, as `sub/my_physics.py:MyProcess`,

and never from the standard library (no class that a model needs is there), from the model's own folder, or from the
folder around it. A file of the user's is imported only if it defines a class of that name: a script is not run by
mistake. What is found must then be a class of the right kind before it is called; see `Registry.find`.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
import sysconfig
from collections.abc import Iterable
from importlib.machinery import PathFinder
from pathlib import Path


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
        if path.partition(".")[0] in sys.stdlib_module_names:
            raise ValueError(f"{asked}, of Python's own library; a model needs nothing of it. It was not loaded.")
        files = _files_of(path)
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
    if files and files[-1].is_file() and _is_own(files[-1]) and cls not in _classes(files[-1]):
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


def _is_own(file: Path) -> bool:
    """Whether a file is the user's, below the current folder, and not an installed package's."""
    paths = sysconfig.get_paths()
    installed = any(file.is_relative_to(Path(paths[place]).resolve()) for place in ("purelib", "platlib"))
    return file.is_relative_to(Path.cwd()) and not installed


def _classes(file: Path) -> set[str]:
    """Names that a file defines or imports at its top level, without running it."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8", errors="replace"))
    except (SyntaxError, ValueError, OSError):
        return set()
    defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    imported = [alias for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    return defined | {alias.asname or alias.name for alias in imported}
