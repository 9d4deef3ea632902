"""Draw docs/beam.png from the run of bring-your-own-physics.md: `python docs/beam.py FOLDER`, the folder it is in."""

import os
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

import physdiff
from physdiff import fit_clock, load_fields
from physdiff.evaluation.figure_style import RULE, WIDE, png, styled
from physdiff.processes.variance_preserving import VariancePreserving

HERE = Path(__file__).resolve().parent
TIMES = (0.0, 0.6, 0.7, 0.8, 1.0)


@styled
def beam() -> bytes:
    """One held-out field carried to five times by the beam and by variance preserving, PNG."""
    model = physdiff.load("runs/beam")
    path = model.denoiser.path
    field = model.normalised(load_fields("data/turbulence", split="test").first(1))
    white = fit_clock(VariancePreserving(path.basis), path.reference)
    figure = Figure(figsize=(WIDE, 4.6), layout="constrained")
    for row, (process, name) in zip(
        figure.subplots(2, len(TIMES)), ((path.process, "Damped\nbeam"), (white, "Variance\npreserving")), strict=True
    ):
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", labelpad=6)
        for axes, t in zip(row, TIMES, strict=True):
            noised, _ = process.perturb(field, torch.tensor(t), torch.Generator().manual_seed(0))
            values, spread = noised[0, 0].numpy(), float(noised.std())
            axes.imshow(values.T, origin="lower", cmap="RdBu_r", vmin=-2.5 * spread, vmax=2.5 * spread)
            axes.set(xticks=[], yticks=[], title=f"t = {t:g}", xlabel=f"std {spread:.2g}")
            for spine in axes.spines.values():
                spine.set_visible(True)
                spine.set_color(RULE)
    return png(figure, dpi=90)


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    sys.path.insert(0, "")  # damped_beam.py
    (HERE / "beam.png").write_bytes(beam())
