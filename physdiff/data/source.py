"""One file as its format understands it: named variables on one grid, trajectories, times, numbers; nothing read yet.

Every format makes a `Source`; everything later (windows, splits, statistics, loaders) sees only that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from physdiff.data.view import View
from physdiff.grid import Grid

TRAJECTORY, TIME = "trajectory", "time"


@dataclass(frozen=True)
class Variable:
    """One scalar field: a variable of its own, or a component of a vector or tensor.

    Attributes:
        name: Its own, `velocity_x` for a component.
        view: Its values, axes `trajectory`, `time` and those of the grid. Without `time` it does not change within a
            trajectory, without `trajectory` all have the same, and without an axis of the grid it is constant along it.
        units: `""` if dimensionless or unknown.
        parent: Name of the vector or tensor; "" of a scalar.
        component: Place on the tensor's axes, each a number of an axis of the grid: (0,) of a vector along x.
        pseudo: Whether a reflection turns its sign beyond what its components say: vorticity in 2-D.
    """

    name: str
    view: View
    units: str = ""
    parent: str = ""
    component: tuple[int, ...] = ()
    pseudo: bool = False

    @property
    def varies_in_time(self) -> bool:
        """Whether it has a value for each frame."""
        return TIME in self.view.sizes

    @property
    def varies_between_runs(self) -> bool:
        """Whether it has a value for each trajectory."""
        return TRAJECTORY in self.view.sizes


@dataclass(frozen=True)
class Source:
    """What a file holds.

    Attributes:
        path: The file, or what messages call an object in memory.
        schema: Name of the format that understood it.
        grid: Where its fields live.
        variables: In the file's order, with names of their own.
        trajectories: Number of runs N, at least 1.
        times: Time of each frame, shape (N, T), float64.
        scalars: Numbers by name, shape (), (N,), (T,) or (N, T).
        scalar_dims: Axes of each number, which N = T would leave open: (), ("trajectory",), ("time",) or both.
        labels: Number of the run that each trajectory belongs to, shape (N,), where a file lists snapshots one by one;
            None if each is a run of its own.
        observed: Which cells hold values, where the file has a mask: boolean, axes as of a variable; None if all do.
        attrs: Further attributes of the file, plain values.
        files: All files, where several hold one run; `path` is the first of them.
        is_in_memory: Whether values lie in an object, whatever file its name is that of.

    Raises:
        ValueError: a variable does not fit the grid, the trajectories or the times.
    """

    path: str
    schema: str
    grid: Grid
    variables: tuple[Variable, ...]
    trajectories: int
    times: np.ndarray
    scalars: Mapping[str, np.ndarray] = field(default_factory=dict)
    scalar_dims: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    labels: np.ndarray | None = None
    observed: View | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    is_in_memory: bool = False

    def __post_init__(self) -> None:
        if self.trajectories < 1 or self.times.ndim != 2 or len(self.times) != self.trajectories:
            raise ValueError(
                f"{self.path}: times have the shape {self.times.shape}; expected ({self.trajectories} trajectories, "
                "frames)."
            )
        if not np.isfinite(self.times).all():
            run, frame = (int(i) for i in np.argwhere(~np.isfinite(self.times))[0])
            raise ValueError(f"{self.path}: the time of trajectory {run}, frame {frame} is {self.times[run, frame]}.")
        if self.times.shape[1] < 1:
            raise ValueError(f"{self.path} holds no frame: its time axis is empty.")
        if not self.variables:
            raise ValueError(f"{self.path} holds no field.")
        sizes = {
            TRAJECTORY: self.trajectories,
            TIME: self.frames,
            **dict(zip(self.grid.dims, self.grid.shape, strict=True)),
        }
        views = [(v.name, v.view) for v in self.variables]
        if self.observed is not None:
            views.append(("mask", self.observed))
        for name, view in views:
            for dim, n in view.sizes.items():
                if sizes.get(dim) != n:
                    known = ", ".join(f"{d} ({k})" for d, k in sizes.items())
                    raise ValueError(
                        f"{self.path}: field '{name}' has {n} entries along '{dim}'; expected axes among {known}."
                    )
        names = [v.name for v in self.variables]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"{self.path}: two fields are named '{twice}'.")

    @property
    def paths(self) -> tuple[str, ...]:
        """Every file that it is made of."""
        return self.files or (self.path,)

    @property
    def frames(self) -> int:
        """Frames of a trajectory, T."""
        return self.times.shape[1]

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each variable."""
        return tuple(v.name for v in self.variables)
