"""What one sample is: which fields, how many frames, what it is conditioned on, which part of the grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from physdiff.grid import Boundary

Coarsening = Literal["mean", "spectral"]


@dataclass(frozen=True)
class Selection:
    """What one sample is.

    The grid is cut in this order: crop, patches, coarsening; all three count stored cells.

    Attributes:
        fields: Names of the fields, stacked as channels in this order; a vector's name stands for its components. When
            not given, all that change in time or between runs, without those of the condition and the mask.
        frames: Frames of a sample, at least 1; those of a field are channels `u@0`, `u@1`, ...
        past: Frames before them that are given as a condition, at least 0; those of a field are `u@-2`, `u@-1`.
        time_stride: Stored frames from one frame of a sample to the next, at least 1.
        window_stride: Stored frames from the start of one sample to the start of the next, at least 1.
        condition: What a sample is conditioned on beside past frames: fields (static ones too), numbers of the run,
            `time`. What changes in time is given at the first frame that the sample models.
        classes: A whole number of the run that is given as a class.
        crop: Per axis of the grid the first cell and the one after the last.
        crop_boundary: Boundary of the axes that a crop or patch cuts, one word or one for each axis by name. A cut axis
            is not periodic any more and a clamped wall is cut off, so there it must be said; insulated walls stay.
        patch: Cells of a patch along each axis; samples are patches of the (cropped) grid.
        patch_stride: Cells from one patch to the next; those of a patch when not given.
        coarsen: Cells along each axis that become one; 1 leaves them.
        coarsening: "mean" of cells, or "spectral": without the modes that the coarse grid does not hold.
        mask: What says which cells hold values: "nan", "file" for the file's own mask, or the name of a field that is
            not 0 there; None: all do, and a NaN is an error.

    Raises:
        ValueError: a number is too small, or a range of cells is empty.
    """

    fields: tuple[str, ...] | None = None
    frames: int = 1
    past: int = 0
    time_stride: int = 1
    window_stride: int = 1
    condition: tuple[str, ...] = ()
    classes: str | None = None
    crop: Mapping[str, tuple[int, int]] | None = None
    crop_boundary: str | Mapping[str, str] | None = None
    patch: tuple[int, ...] | None = None
    patch_stride: tuple[int, ...] | None = None
    coarsen: int | tuple[int, ...] = 1
    coarsening: Coarsening = "mean"
    mask: str | None = None

    def __post_init__(self) -> None:
        # Lists, as YAML gives them, become what the annotations say.
        for name in ("fields", "condition", "patch", "patch_stride"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise ValueError(f"data.{name} is '{value}'; expected a list of names.")
            if value is not None:
                object.__setattr__(self, name, tuple(value))
        if not isinstance(self.coarsen, int):
            object.__setattr__(self, "coarsen", tuple(self.coarsen))
        if self.crop is not None:
            object.__setattr__(self, "crop", {dim: _cells(dim, given) for dim, given in self.crop.items()})
        least = {"frames": 1, "past": 0, "time_stride": 1, "window_stride": 1, "patch": 1, "patch_stride": 1}
        for name, lowest in {**least, "coarsen": 1}.items():
            value = getattr(self, name)
            for number in () if value is None else value if isinstance(value, tuple) else (value,):
                if not isinstance(number, int) or isinstance(number, bool) or number < lowest:
                    raise ValueError(f"data.{name} must be whole and at least {lowest}; got {number!r}.")
        if self.fields == ():
            raise ValueError("data.fields names no field; leave it out for all that change.")
        if self.patch_stride is not None and self.patch is None:
            raise ValueError("data.patch_stride was given without data.patch.")
        if self.coarsening not in get_args(Coarsening):
            raise ValueError(f"data.coarsening is '{self.coarsening}'; expected one of {get_args(Coarsening)}.")
        if self.mask is not None and self.mask.lower() == "nan":
            object.__setattr__(self, "mask", "nan")
        if self.coarsening == "spectral" and self.mask is not None:
            raise ValueError(
                "data.coarsening spectral needs every cell, and data.mask says that some hold no value; "
                "choose data.coarsening mean."
            )
        said = self.crop_boundary
        for word in () if said is None else (said,) if isinstance(said, str) else said.values():
            if word not in get_args(Boundary):
                raise ValueError(f"data.crop_boundary has '{word}'; expected one of {', '.join(get_args(Boundary))}.")
        if self.crop_boundary is not None and self.crop is None and self.patch is None:
            raise ValueError(
                "data.crop_boundary was given without data.crop and data.patch; the boundary of a whole axis is "
                "data.boundary."
            )

    @property
    def span(self) -> int:
        """Stored frames from the first of a sample to its last, both counted."""
        return 1 + (self.past + self.frames - 1) * self.time_stride

    @property
    def first_modelled(self) -> int:
        """Stored frames from the start of a sample to the first frame that it models."""
        return self.past * self.time_stride

    def windows(self, frames: int) -> int:
        """Samples in a trajectory of so many frames."""
        return max(0, (frames - self.span) // self.window_stride + 1)


def _cells(dim: str, given: Any) -> tuple[int, int]:
    if (
        not isinstance(given, list | tuple)
        or len(given) != 2
        or any(not isinstance(n, int) or isinstance(n, bool) for n in given)
        or not 0 <= given[0] < given[1]
    ):
        raise ValueError(
            f"data.crop of '{dim}' is {given!r}; expected the first cell and the one after the last, such as [0, 32]."
        )
    return given[0], given[1]
