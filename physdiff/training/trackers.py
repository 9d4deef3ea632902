"""Where else a run's records go: TensorBoard, Weights & Biases and the like, beside `metrics.jsonl`.

The file is the history of the run; a tracker is a view of it that somebody else keeps. So a tracker that fails is told
of once and left alone, and training goes on; and after a kill a tracker may hold records of steps that were lost and
done again, which the file does not.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from physdiff.registry import Registry, nearest, spelled
from physdiff.training.metrics import Record

# What to install, where it is not the tracker's own name.
PACKAGES = {"comet_ml": "comet-ml"}

T = TypeVar("T")


class Tracker(Protocol):
    """Whatever takes records; made from the run's folder and its settings (nested plain values)."""

    def log(self, step: int, record: Record) -> None:
        """Take what was logged at a step."""

    def close(self) -> None:
        """No more will come."""


def open_trackers(names: Sequence[str], folder: Path, settings: Mapping[str, Any] | None = None) -> list[Tracker]:
    """Trackers by name, each of which cannot stop a run.

    Args:
        names: Of accelerate's trackers, such as "tensorboard" (into `folder/tensorboard`) or "wandb" (project
            "physdiff", one run a folder), or a class of one's own as `module.Class` or `file.py:Class`.
        folder: The run's.
        settings: Of the run, told to trackers that keep them.

    Raises:
        ValueError: there is no such tracker, or its package is not installed.
    """
    makers = [_maker(name) for name in dict.fromkeys(names)]
    return [Careful(name, lambda make=make: make(Path(folder), settings or {})) for name, make in makers]


def check_trackers(names: Sequence[str]) -> None:
    """Raise `ValueError` unless all trackers can be opened."""
    for name in names:
        _maker(name)


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested values under one name each, `training/steps`; the entries of a list by their number."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, (list, tuple)):
            value = {str(i): entry for i, entry in enumerate(value)}
        found |= flat(value, f"{above}{name}/") if isinstance(value, Mapping) else {f"{above}{name}": value}
    return found


class Careful:
    """A tracker whose failure is one warning, after which it is left alone.

    Args:
        name: Of the tracker.
        make: Makes it; called at the first record.
    """

    def __init__(self, name: str, make: Callable[[], Tracker]) -> None:
        self.name = name
        self.failed = False
        self._make = make
        self._tracker: Tracker | None = None

    def log(self, step: int, record: Record) -> None:
        """Take a record."""
        if self._tracker is None:
            self._tracker = self._try(self._make)
        if self._tracker is not None:
            tracker = self._tracker
            self._try(lambda: tracker.log(step, record))

    def close(self) -> None:
        """No more will come."""
        if self._tracker is not None:
            self._try(self._tracker.close)
            self._tracker = None

    def _try(self, act: Callable[[], T]) -> T | None:
        if self.failed:
            return None
        try:
            return act()
        except Exception as error:
            self.failed = True
            told = f"{type(error).__name__}: {error}"
            warnings.warn(
                f"tracker '{self.name}' failed and is left alone ({told}); metrics.jsonl has all records.", stacklevel=4
            )
            return None


class FromAccelerate:
    """One of accelerate's trackers.

    Args:
        cls: Its class, a `GeneralTracker`.
        folder: The run's.
        settings: Of the run.
    """

    def __init__(self, cls: Any, folder: Path, settings: Mapping[str, Any]) -> None:
        name, options = folder.resolve().name, {}
        if cls.name == "tensorboard":
            name, options = "tensorboard", {"logging_dir": folder}
        elif cls.name == "wandb":
            # The same folder is the same run there, also after a kill.
            options = {"name": name, "id": name, "dir": str(folder), "resume": "allow"}
            name = "physdiff"
        elif cls.requires_logging_directory:
            options = {"logging_dir": folder}
        self.tracker: Any = cls(name, **options)
        if hasattr(self.tracker, "start"):
            self.tracker.start()
        told = {key: x if isinstance(x, (bool, int, float, str)) else str(x) for key, x in flat(settings).items()}
        with suppress(NotImplementedError):
            self.tracker.store_init_configuration(told)

    def log(self, step: int, record: Record) -> None:
        """Pass a record on."""
        self.tracker.log({name: x for name, x in flat(record).items() if name != "step"}, step=step)

    def close(self) -> None:
        """Have everything sent or written."""
        self.tracker.finish()


def _maker(name: str) -> tuple[str, Callable[[Path, Mapping[str, Any]], Tracker]]:
    name = spelled(name, LOGGER_TYPE_TO_CLASS)
    if name in LOGGER_TYPE_TO_CLASS:
        if name not in [str(known) for known in get_available_trackers()]:
            raise ValueError(f"tracker '{name}' needs a package: pip install {PACKAGES.get(name, name)}.")
        return name, lambda folder, settings: FromAccelerate(LOGGER_TYPE_TO_CLASS[name], folder, settings)
    if "." not in name and ":" not in name:
        if name == "jsonl":
            raise ValueError("tracker 'jsonl' is no choice: metrics.jsonl is always written; leave it out.")
        raise ValueError(f"unknown tracker '{name}'. {nearest(name, LOGGER_TYPE_TO_CLASS)}")
    return name, _own.find(name)


def _unfit(cls: type) -> str | None:
    missing = [word for word in ("log", "close") if not callable(getattr(cls, word, None))]
    return f"has no {' and no '.join(missing)}; it needs log(step, record) and close()" if missing else None


_own = Registry("tracker")
_own.unfit = _unfit
