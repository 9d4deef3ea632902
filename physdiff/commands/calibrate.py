"""`physdiff calibrate`: what is measured once on a trained model, so that its samples need fewer steps."""

from __future__ import annotations

from pathlib import Path

from physdiff.commands.model_data import data_of
from physdiff.data.fields import FieldData
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
    wanted = limit if isinstance(model.denoiser, Denoiser) else 0
    held_out = _held_out(model, data, wanted or pilots) if wanted or model.conditions else None
    condition = model.told(held_out, len(held_out)) if held_out is not None and model.conditions else None
    fields = model.normalised(held_out) if held_out is not None and wanted else None
    model.calibrate(fields, condition=condition, pilots=pilots, steps=steps, order=order, levels=levels, seed=seed)
    folder = Path(run)
    folder = folder if (folder / "model.json").is_file() else folder / "model"
    model.save(folder)
    print(f"time grid: {pilots} trajectories of {steps} evaluations, for solvers of order {order}")
    if fields is not None:
        print(f"uncertainty: {len(fields)} validation fields at {levels} noise levels")
    print(f"stored with the model: {folder}")


def _held_out(model: FieldModel, data: str | None, count: int) -> FieldData:
    """Samples of the validation split, at most so many."""
    if data is None and "data" not in model.card:
        raise ValueError("the model does not say which data it was trained on: name it with --data, or pass --limit 0.")
    found = data_of(model, data, default_split="valid")[0]
    return found.first(min(count, len(found)))
