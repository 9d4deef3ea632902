"""Any `torch.nn.Module` class by its import path, built from plain values under a seed of its own."""

from __future__ import annotations

import contextlib
import inspect
import io
from typing import Any

import torch
from torch import nn

from physdiff.registry import Registry, nearest

networks = Registry("network")


def _unfit(cls: type) -> str | None:
    """What a class lacks to be a network, for a message."""
    if not issubclass(cls, nn.Module):
        return "is not a subclass of torch.nn.Module"
    if missing := sorted(getattr(cls, "__abstractmethods__", ())):
        return f"is abstract; it must define {' and '.join(missing)}"
    return None


networks.unfit = _unfit


def find_module(class_path: str) -> type[nn.Module]:
    """The class of `module.Class`, or of `path/to/file.py:Class`.

    Raises:
        ValueError: there is none, or it is no `torch.nn.Module`.
    """
    return networks.find(class_path)


def built(cls: type[nn.Module], class_path: str, arguments: dict[str, Any], seed: int) -> nn.Module:
    """A module with weights drawn under a seed; torch's global random state is neither used nor changed.

    Raises:
        ValueError: an argument is missing, unknown or refused by the class.
    """
    parameters = inspect.signature(cls.__init__).parameters
    known = [
        name for name, p in parameters.items() if name != "self" and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for name in arguments:
            if name not in known:
                raise ValueError(f"{class_path} has no argument '{name}'. {nearest(name, known)}")
    missing = [name for name in known if parameters[name].default is inspect.Parameter.empty and name not in arguments]
    if missing:
        raise ValueError(f"{class_path} needs {' and '.join(missing)} in arguments.")
    with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(io.StringIO()):  # UNO prints what it is given
        torch.default_generator.manual_seed(seed)
        try:
            return cls(**arguments)
        except Exception as error:
            raise ValueError(
                f"{class_path} could not be built with {arguments}: {type(error).__name__}: {error}"
            ) from error
