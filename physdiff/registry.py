"""What can be named in a config or on the command line, and how a name is found.

A registered class is covered by the laws, the documentation and `physdiff processes list` with no further edit. A
user's own class is named by its import path, `my_physics.MyProcess`, from the current folder or the Python path.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T", bound=type)


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error sentence: the closest known name if there is one, else all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name.lower(), [k.lower() for k in known], n=1, cutoff=0.6)
    if close:
        return f"Did you mean '{next(k for k in known if k.lower() == close[0])}'?"
    return f"Known: {', '.join(known)}."


def spelled(name: str, known: Iterable[str]) -> str:
    """A known name whose letters are typed in another case; the name as it is where none or several are meant."""
    known = list(known)
    alike = [k for k in known if k.lower() == name.lower()]
    return alike[0] if name not in known and len(alike) == 1 else name


def _file_here(name: str) -> str:
    """The end of an error sentence: the file that was meant by its name without .py; empty if there is none."""
    file = Path(f"{name}.py")
    if not name.isidentifier() or not file.is_file():
        return ""
    classes = re.findall(r"^class (\w+)", file.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    ways = [file.name, *(f"{name}.{cls}" for cls in classes)]
    return f"There is a file {file} here: say {' or '.join(ways)}."


class Registry:
    """Classes of one kind by name, in the order of registration.

    Args:
        kind: The word for one entry in messages, such as "process".

    Attributes:
        unfit: What a user's class lacks to be one of this kind, as the end of a sentence; None if it lacks nothing.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.unfit: Callable[[type], str | None] = lambda cls: None
        self._classes: dict[str, type] = {}

    def register(self, cls: T) -> T:
        """Class decorator: enter the class under its own name."""
        known = self._classes.get(cls.__name__)
        if known is not None and known.__module__ != cls.__module__:
            raise ValueError(
                f"{self.kind} '{cls.__name__}' is already registered by {known.__module__}; "
                f"rename the one in {cls.__module__}."
            )
        self._classes[cls.__name__] = cls
        return cls

    def classes(self, kind: type = object) -> dict[str, type]:
        """Registered classes by name: all, or the subclasses of one."""
        return {name: cls for name, cls in self._classes.items() if issubclass(cls, kind)}

    def find(self, name: str) -> type:
        """The class of a registered name, of `module.Class`, or of `path/to/file.py:Class`.

        Raises:
            ValueError: there is no such name, module, file or class; its file cannot be imported; it is of another
                kind.
        """
        here = _file_here(name)
        if (known := name if here else spelled(name, self._classes)) in self._classes:
            return self._classes[known]
        if ":" in name or name.endswith(".py"):
            return self._from_file(name)
        if "." in name:
            return self._from_module(name)
        raise ValueError(f"unknown {self.kind} '{name}'. {here or nearest(name, self._classes)}")

    def _from_module(self, name: str) -> type:
        module_name, _, class_name = name.rpartition(".")
        with _importable(os.getcwd()):
            try:
                module = importlib.import_module(module_name)
            except ModuleNotFoundError as error:
                if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                    raise self._broken(name, error) from error
                raise ValueError(
                    f"{self.kind} '{name}': there is no module '{module_name}' here or on the Python path."
                ) from None
            except Exception as error:
                raise self._broken(name, error) from error
        return self._member(module, class_name, name)

    def _from_file(self, name: str) -> type:
        path, _, class_name = name.partition(":")
        file = Path(path).resolve()
        if not file.is_file():
            raise ValueError(f"{self.kind} '{name}': there is no file {path}.")
        with _importable(str(file.parent)):
            try:
                module = importlib.import_module(file.stem)
            except Exception as error:
                raise self._broken(name, error) from error
        if Path(getattr(module, "__file__", "") or "").resolve() != file:
            raise ValueError(f"{self.kind} '{name}': a module named '{file.stem}' exists already; rename the file.")
        if not class_name:
            own = [c for c in self._classes.values() if c.__module__ == module.__name__]
            if len(own) != 1:
                raise ValueError(
                    f"{self.kind} '{name}': the file registers {len(own)} classes; name one, as in {path}:MyClass."
                )
            return self._fit(own[0], name)
        return self._member(module, class_name, name)

    def _member(self, module: Any, class_name: str, name: str) -> type:
        cls = getattr(module, class_name, None)
        if not isinstance(cls, type):
            classes = [n for n, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__]
            raise ValueError(
                f"{self.kind} '{name}': {module.__name__} has no class '{class_name}'. "
                f"{nearest(class_name, classes) if classes else 'It defines no class.'}"
            )
        return self._fit(cls, name)

    def _fit(self, cls: type, name: str) -> type:
        if reason := self.unfit(cls):
            raise ValueError(f"{self.kind} '{name}': {cls.__name__} {reason}.")
        return cls

    def _broken(self, name: str, error: Exception) -> ValueError:
        """Where in the user's code an import failed, and why."""
        if isinstance(error, SyntaxError):
            file, line, reason = error.filename or "", error.lineno, error.msg
        else:
            ours = (__file__, importlib.__file__)
            frames = traceback.extract_tb(error.__traceback__)
            theirs = [f for f in frames if f.filename not in ours and not f.filename.startswith("<frozen")]
            file, line = (theirs[0].filename, theirs[0].lineno) if theirs else ("", None)
            reason = f"{type(error).__name__}: {error}"
        where = "" if line is None else f"line {line}: "
        if where and Path(file).name != Path(name.partition(":")[0]).name:
            where = f"{file}, {where}"
        return ValueError(f"{self.kind} '{name}': {where}{reason.rstrip('.')}.")


class _importable:
    """Within the block, modules of one folder can be imported."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        sys.path.insert(0, self.folder)
        importlib.invalidate_caches()

    def __exit__(self, *_: object) -> None:
        sys.path.remove(self.folder)


processes = Registry("process")
register = processes.register
