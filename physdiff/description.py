"""A process as plain values, and back: what `model.json` and the report say of it."""

from __future__ import annotations

import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from physdiff import clock as clocks
from physdiff import schedules
from physdiff.basis import Basis
from physdiff.process import ForwardProcess
from physdiff.registry import nearest, processes
from physdiff.semilinear import WithDrift
from physdiff.settings import check_names


def of_process(process: ForwardProcess) -> dict[str, Any]:
    """Class, settings and clock of a process."""
    cls = type(process)
    if isinstance(process, WithDrift):
        raise ValueError(
            "a drift that was given as a function cannot be written to a file: write it as the `reaction` of a class "
            "of your own, a physdiff.SemilinearProcess in a file."
        )
    name = cls.__name__ if processes.classes().get(cls.__name__) is cls and _is_ours(cls) else _import_path(cls)
    clock = process.running_clock
    return {
        "class": name,
        "settings": {
            f.name: _plain(getattr(process, f.name)) for f in fields(process) if f.name not in ("basis", "clock")
        },
        "clock": {
            "class": type(clock).__name__,
            "settings": {f.name: getattr(clock, f.name) for f in fields(clock)},
        },
    }


def to_process(values: dict[str, Any], basis: Basis) -> ForwardProcess:
    """The process that `of_process` described, on a basis.

    Raises:
        ValueError: an unknown class or setting.
    """
    cls = processes.find(values["class"])
    check_names(cls, values["settings"])
    settings = {name: _restored(value) for name, value in values["settings"].items()}
    name = values["clock"]["class"]
    # By name among the clocks alone: other things that these modules hold must not be called from a file.
    known = {k: v for home in (clocks, schedules) for k, v in vars(home).items() if _is_clock(v)}
    if name not in known:
        raise ValueError(f"unknown clock '{name}'. {nearest(str(name), known)}")
    return cls(basis, clock=known[name](**values["clock"]["settings"]), **settings)


def _is_clock(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, clocks.Clock) and value is not clocks.Clock


def _plain(value: Any) -> Any:
    """A setting as JSON can hold it; a spectrum as nested numbers."""
    return {"tensor": value.tolist()} if isinstance(value, Tensor) else value


def _restored(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"tensor"}:
        return torch.tensor(value["tensor"], dtype=torch.float64)
    return tuple(value) if isinstance(value, list) else value


def _is_ours(cls: type) -> bool:
    return cls.__module__.startswith("physdiff.")


def _import_path(cls: type) -> str:
    """As `processes.find` takes it; by file if its folder is not the one that commands are typed in."""
    file = getattr(sys.modules[cls.__module__], "__file__", None)
    if file is not None and "." not in cls.__module__ and Path(file).resolve().parent != Path.cwd():
        return f"{os.path.relpath(file)}:{cls.__qualname__}"
    return f"{cls.__module__}.{cls.__qualname__}"
