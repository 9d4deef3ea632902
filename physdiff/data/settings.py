"""What a training run is told of its data: where it lies, what one sample is, how it is prepared and read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from physdiff.data.fields import open_fields
from physdiff.data.fieldset import FieldSet
from physdiff.data.layout import Layout
from physdiff.data.selection import Coarsening, Selection
from physdiff.data.splits import Split
from physdiff.data.symmetry import in_lower_case, parse
from physdiff.registry import nearest

Loader = Literal["auto", "memory", "mmap", "stream"]


@dataclass(frozen=True)
class DataSettings:
    """The fields to learn, and what they are conditioned on.

    Attributes:
        path: Data set folder in The Well's layout, with splits train, valid and test; a file, which is split by
            `splits`; or files and folders by split, {train: [...], valid: [...], test: [...]}.
        fields: Names of the fields, stacked as channels; all that change in time or between runs when not given. A
            vector's name stands for its components.
        boundary: "periodic", "neumann" or "dirichlet" on every axis, in place of what the data says.
        noise_level: Noise of the data relative to its standard deviation, below which nothing is modelled: the
            earliest time of the diffusion has this noise, and likelihoods are those of fields with it. Not given:
            10⁻³ of the variance in the weakest mode.
        homogeneous: Whether statistics are the same everywhere along periodic axes: the reference then has a constant
            mean, and training shifts fields at random along these axes (but not those with missing cells).
        condition: What a sample is conditioned on: fields on the grid (which may be the same for all frames), numbers
            of the run, and `time`.
        classes: A whole number of the run, from 0, that is its class.
        frames: Frames of a sample.
        past: Frames before them that it is conditioned on.
        time_stride: Stored frames from one frame of a sample to the next.
        window_stride: Stored frames from the start of one sample to that of the next.
        crop: Part of the grid: per axis the first cell and the one after the last, {x: [0, 32]}.
        crop_boundary: Boundary of the axes that a crop or patch cuts, one word or one for each axis by name.
        patch: Cells of a patch along each axis; samples are patches of the grid.
        patch_stride: Cells from one patch to the next; those of a patch when not given.
        coarsen: Cells along each axis that become one.
        coarsening: "mean" of cells, or "spectral": without the modes that the coarse grid does not hold.
        mask: What says which cells hold values: "nan", "file", or the name of a field that is not 0 there.
        layout: What the files do not tell: a YAML file, or its settings (fields, dims, extent, boundary, ...).
        splits: Shares of the runs of data without splits of its own, {train: 0.8, valid: 0.1, test: 0.1, seed: 0}.
        symmetries: What training may do to fields at random: "shift" along periodic axes, as of homogeneous data,
            "flip", "rotate" by 90° between like axes; along some axes, flip:x or rotate:x,y. Vectors turn with the
            grid; a number of the condition that names a direction cannot.
        normalise: How fields are brought to units of about 1: "standard", "robust", "log", "power", ..., one for all
            or by field.
        loader: "memory", "mmap" (a cache on disk), "stream" (read as needed), or "auto", by size.
        workers: Processes that read ahead, of a loader that streams.
    """

    path: str | dict[str, str | list[str]]
    fields: list[str] | None = None
    boundary: str | None = None
    noise_level: float | None = None
    homogeneous: bool = False
    condition: list[str] = field(default_factory=list)
    classes: str | None = None
    frames: int = 1
    past: int = 0
    time_stride: int = 1
    window_stride: int = 1
    crop: dict[str, list[int]] | None = None
    crop_boundary: str | dict[str, str] | None = None
    patch: list[int] | None = None
    patch_stride: list[int] | None = None
    coarsen: int | list[int] = 1
    coarsening: Coarsening = "mean"
    mask: str | None = None
    layout: str | dict[str, Any] | None = None
    splits: dict[str, int | float] | None = None
    symmetries: list[str] = field(default_factory=list)
    normalise: str | dict[str, Any] = "standard"
    loader: Loader = "auto"
    workers: int = 0

    def __post_init__(self) -> None:
        if self.noise_level is not None and not 0 < self.noise_level < 1:
            raise ValueError(f"data.noise_level must lie in (0, 1); got {self.noise_level}.")
        if self.workers < 0:
            raise ValueError(f"data.workers must be at least 0; got {self.workers}.")
        if isinstance(self.path, dict):
            _check_names("data.path", self.path, ("train", "valid", "test"))
        if self.splits is not None:
            Split.of(self.splits)  # refuses what it cannot use
        parse(self.symmetries)
        object.__setattr__(self, "symmetries", [in_lower_case(word) for word in self.symmetries])
        _ = self.selection  # refuses what it cannot use

    @property
    def selection(self) -> Selection:
        """What one sample is."""
        return Selection(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Selection)})

    @property
    def is_homogeneous(self) -> bool:
        """Whether statistics are taken to be the same everywhere along all periodic axes."""
        return self.homogeneous or "shift" in self.symmetries

    @property
    def turns(self) -> list[str]:
        """The symmetries that turn fields, beside those that shift them."""
        return [word for word in self.symmetries if not word.startswith("shift")]

    def open(self, split: str) -> FieldSet:
        """The samples of one split; only the headers of files are read.

        Raises:
            FileNotFoundError: there is no data.
            ValueError: it is unfit.
        """
        return open_fields(
            self.path, None, split, self.boundary, selection=self.selection, layout=Layout.of(self.layout),
            splits=self.splits,
        )  # fmt: skip


def _check_names(option: str, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name in given:
        if name not in known:
            raise ValueError(f"{option} has no entry '{name}'. {nearest(name, known)}")
