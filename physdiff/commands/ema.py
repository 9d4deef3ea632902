"""`physdiff ema`: averaged weights of another width, chosen after training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from physdiff.denoisers import Denoiser
from physdiff.model import FieldModel
from physdiff.training.power_profile import mismatch
from physdiff.training.stored_profiles import reconstruct, stored_profiles


def ema(run: str, width: float, out: str | None = None) -> None:
    """Make the model whose weights are averaged over another part of the training.

    From the power profiles that a run with `--training.ema_widths` has stored (Karras et al., 2024).

    Args:
        run: Run folder.
        width: Standard deviation of the average in time, relative to the length of training, such as 0.1.
        out: Model folder to write; RUN/model-ema-WIDTH when not given.
    """
    folder = Path(run)
    weights = reconstruct(folder, width)
    stored = stored_profiles(folder)
    model = FieldModel.load(folder)
    denoiser = model.denoiser
    known = denoiser.state_dict()
    if unfit := [name for name, x in weights.items() if name not in known or known[name].shape != x.shape]:
        raise ValueError(f"the profiles in {folder} are of another network than its model: '{unfit[0]}' does not fit.")
    denoiser.load_state_dict({**known, **weights})
    # What was measured on the other weights does not hold for these.
    model = replace(model, calibrated_grid=None, card={**model.card, "ema_width": width, "steps": stored[-1].step})
    if isinstance(denoiser, Denoiser):
        denoiser.calibration = None
    target = Path(out) if out is not None else folder / f"model-ema-{width:g}"
    model.save(target)
    off = mismatch([(one.step, w) for one in stored for w in one.widths], stored[-1].step, width)
    source = f"from {len(stored)} stored times; profile off by {off:.1%}"
    print(f"averaged over {width:g} of {stored[-1].step} steps, {source}")
    print(f"model: {target}")
