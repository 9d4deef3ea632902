"""`physdiff calibrate`: what is measured once on a trained model, so that its samples need fewer steps."""

from __future__ import annotations

from pathlib import Path

import torch

from physdiff.data.fields import load_fields
from physdiff.denoisers import Denoiser
from physdiff.model import FieldModel


def calibrate(
    run: str,
    pilots: int = 16,
    steps: int = 64,
    order: int = 3,
    levels: int = 16,
    limit: int = 256,
    data: str | None = None,
    seed: int = 0,
) -> None:
    """Measure where a trained model's samples need steps, and how uncertain it is; both are stored with the model.

    Samples then stop on the calibrated time grid, unless another is asked for, and solvers that draw noise can take
    the learned variance. To be run again when training has written the model anew.

    Args:
        run: Run folder, or model folder.
        pilots: Trajectories that are followed from noise to data.
        steps: Evaluations of each.
        order: Order of the solver that is to take few steps, 1 to 4.
        levels: Noise levels at which validation fields are denoised.
        limit: How many validation fields are denoised, the first ones; 0 for none: the time grid alone is measured.
        data: Data set folder; the one that the model was trained on when not given.
        seed: Seed of pilots and noise.
    """
    if limit < 0:
        raise ValueError(f"limit must be a number of fields, 0 or more; got {limit}.")
    model = FieldModel.load(run)
    fields = _validation_fields(model, data, limit) if isinstance(model.denoiser, Denoiser) and limit else None
    model.calibrate(fields, pilots=pilots, steps=steps, order=order, levels=levels, seed=seed)
    folder = Path(run)
    folder = folder if (folder / "model.json").is_file() else folder / "model"
    model.save(folder)
    print(f"time grid: {pilots} trajectories of {steps} evaluations, for solvers of order {order}")
    if fields is not None:
        print(f"uncertainty: {len(fields)} validation fields at {levels} noise levels")
    print(f"stored with the model: {folder}")


def _validation_fields(model: FieldModel, data: str | None, limit: int) -> torch.Tensor:
    """Normalised fields of the validation split, at most so many."""
    source = data or model.card.get("data")
    if source is None:
        raise ValueError("the model does not say which data it was trained on: name it with --data, or pass --limit 0.")
    held_out = load_fields(source, model.names, "valid", model.boundary_override)
    return model.normalised(held_out.first(min(limit, len(held_out))))
