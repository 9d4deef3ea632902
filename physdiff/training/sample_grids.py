"""Samples while training: what the averaged weights draw after so many steps, beside held-out fields.

    RUN/samples/step-00001000.png   held-out fields and samples on one scale; one figure a channel if there are several
    RUN/samples/step-00001000.nc    the samples, in physical units

The samples' noise is the same at every step, so that what changes from one figure to the next is the model. It comes
from generators of its own, and nothing of the run depends on it. The data file is written last and tells that a step
is done: a resumed run draws no step twice.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from physdiff.atomic import replacing_file
from physdiff.condition import Given
from physdiff.data.formats import netcdf
from physdiff.denoisers.reverse_model import ReverseModel
from physdiff.evaluation.field_figures import fields_figure
from physdiff.evaluation.figure_style import MUTED, png
from physdiff.evaluation.findings import Findings
from physdiff.model import FieldModel
from physdiff.randomness import keyed_generator
from physdiff.solvers import sample

FOLDER = "samples"


@dataclass(frozen=True, eq=False)
class SampleGrids:
    """Draws and keeps samples of a model in training; called as `grids(averaged module, step, run folder)`.

    Attributes:
        model: The model that is trained: its normaliser, names and units.
        held_out: Normalised fields to look at beside the samples, shape (m, channels, *grid); None for none.
        condition: What each held-out field is conditioned on, m entries: each sample then answers to the condition of
            the field beside it.
        n: Samples, at most; no more than there are conditions.
        steps: Of the sampler; few, since a picture asks for no more.
        seed: Of the samples and of the choice of held-out fields.
    """

    model: FieldModel
    held_out: Tensor | None = None
    condition: Given | None = None
    n: int = 9
    steps: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n < 1 or self.steps < 1:
            raise ValueError(f"sample grids need n >= 1 samples and steps >= 1; got {self.n} and {self.steps}.")

    def __call__(self, module: nn.Module, step: int, folder: Path) -> Path | None:
        """Write the figures and the samples of a step; returns the data file, None if it was there already."""
        assert isinstance(module, ReverseModel)
        file = Path(folder) / FOLDER / f"step-{step:08d}.nc"
        if file.exists():
            return None
        rows = self._rows
        given = None if self.condition is None else self.condition[rows.to(self.condition.device)]
        n = self.n if given is None else len(rows)
        try:
            drawn = sample(module, n, steps=self.steps, seed=self.seed, condition=given)
        except FloatingPointError as error:  # a model in training may be wild, and is then no picture
            warnings.warn(f"no samples after {step} steps: {error}", stacklevel=2)
            return None
        drawn = self.model.normaliser.inverse(drawn)
        findings = self._findings(drawn.numpy(), step)
        for channel, name in enumerate(self.model.names):
            end = "" if len(self.model.names) == 1 else f"-{_plain(name)}"
            with replacing_file(file.with_name(f"{file.stem}{end}.png")) as partial:
                partial.write_bytes(self._picture(findings, channel, step))
        dataset = self.model.to_dataset(drawn, source=f"samples of a physdiff model after {step} steps of training")
        dataset.attrs.update(steps=self.steps, seed=self.seed, training_steps=step)
        return netcdf.write(file, dataset)

    def _findings(self, samples: np.ndarray, step: int) -> Findings:
        model = self.model
        return Findings(
            title=f"step {step}", grid=model.grid.to_dict(), names=model.names, units=model.units,
            process=type(model.denoiser.path.process).__name__, equation="",
            data=None if self.held_out is None else self._shown(self.held_out), samples=samples,
        )  # fmt: skip

    @property
    def _rows(self) -> Tensor:
        """Which held-out fields are shown, at most n, the same at every step."""
        known = self.held_out if self.condition is None else self.condition
        count = 0 if known is None else len(known)
        return torch.randperm(count, generator=keyed_generator(self.seed, "shown"))[: self.n]

    def _shown(self, held_out: Tensor) -> np.ndarray:
        """The held-out fields in physical units."""
        return self.model.normaliser.inverse(held_out[self._rows.to(held_out.device)].cpu().double()).numpy()

    def _picture(self, findings: Findings, channel: int, step: int) -> bytes:
        figure = fields_figure(findings, channel, tiles=self.n)
        figure.text(0.995, 0.985, f"after {step:,} steps", ha="right", va="top", color=MUTED, fontsize=12)
        return png(figure, dpi=110)


def _plain(name: str) -> str:
    """A channel's name as part of a file's."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
