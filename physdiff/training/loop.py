"""The training loop: AdamW on a per-sample loss, averaged weights, and a history that no kill can change.

Every step is a function of (module, averaged module, optimiser state, step number) alone: its noise, its
dropout and its rows are keyed by seed and step. A checkpoint stores exactly these, so a run that is killed
and launched again ends in the same bits as one that never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from physdiff.training.checkpoint import (
    complete_checkpoints,
    read_checkpoint,
    remove_litter,
    write_checkpoint,
)
from physdiff.training.identity import require_same_run, run_identity
from physdiff.training.metrics import MetricsLog, Record
from physdiff.training.randomness import batch_indices, keyed_generator, keyed_global_state
from physdiff.training.run import Run
from physdiff.training.settings import TrainSettings

Loss = Callable[[nn.Module, Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    Attributes:
        folder: The run's folder.
        steps: Steps done.
        resumed_from: Steps that were already done when this launch began; None if it began the run.
        validation_loss: Of the averaged weights at the last step; None without validation data.
        seconds: Time spent in training, all launches together; work lost to kills is not counted.
        ema: Copy of the module with the averaged weights, in evaluation mode, its parameters frozen.
    """

    folder: Path
    steps: int
    resumed_from: int | None
    validation_loss: float | None
    seconds: float
    ema: nn.Module


def train(
    module: nn.Module,
    loss: Loss,
    data: Tensor,
    validation: Tensor | None,
    settings: TrainSettings,
    folder: Path,
    *,
    signature: str = "",
    progress: bool = True,
    on_log: Callable[[Record], None] | None = None,
) -> TrainResult:
    """Train a module in place, or continue from the newest checkpoint in the folder.

    Args:
        module: What is trained, on the device where it lies.
        loss: `loss(module, batch, generator)` gives the loss of each sample, shape (batch,), with noise
            from the (CPU) generator only. It also serves in validation, on the averaged module in
            evaluation mode.
        data: Training fields, shape (n, channels, *grid), on any device.
        validation: Fields held out, shape (m, channels, *grid), or None.
        settings: Settings of the run.
        folder: The run's folder, for `metrics.jsonl` and `checkpoints/`; one process at a time.
        signature: One line that must be the same when the run is continued, such as the grid and the process.
        progress: Show a progress bar.
        on_log: Called with each record that is logged.

    Returns:
        TrainResult.

    Raises:
        ValueError: data or loss have an unfit shape; the folder's run is a different one, or is damaged.
        FloatingPointError: the loss or its gradient is not finite; step, rows and last checkpoint are named.
    """
    folder = Path(folder)
    _check_data(data, validation)
    identity = run_identity(module, data, settings, signature)
    run = Run.begin(module, settings)
    resumed_from = _resume(run, folder, identity, settings)
    log = MetricsLog(folder / "metrics.jsonl", run.step)
    was_training, seconds_before, start = module.training, run.tally.seconds, time.perf_counter()
    module.train()
    try:
        with tqdm(total=settings.steps, initial=run.step, disable=not progress, unit="step") as bar:
            while run.step < settings.steps:
                norm = _train_step(run, loss, data, settings, folder)
                bar.update()
                is_last = run.step == settings.steps
                validated = None
                if validation is not None and (is_last or run.step % settings.validate_every == 0):
                    validated = run.tally.validation_loss = _validate(run, loss, validation, settings)
                run.tally.seconds = seconds_before + time.perf_counter() - start
                if is_last or validated is not None or run.step % settings.log_every == 0:
                    record = _record(run, norm, settings, validated)
                    log.append(record)
                    bar.set_postfix(loss=f"{record['loss']:.4g}")
                    if on_log is not None:
                        on_log(record)
                if is_last or run.step % settings.checkpoint_every == 0:
                    log.sync()
                    write_checkpoint(folder, run.checkpoint(identity), settings.keep_checkpoints)
    finally:
        module.train(was_training)
    tally = run.tally
    return TrainResult(folder, run.step, resumed_from, tally.validation_loss, tally.seconds, run.ema.module)


def _resume(run: Run, folder: Path, identity: dict[str, Any], settings: TrainSettings) -> int | None:
    folder.mkdir(parents=True, exist_ok=True)
    remove_litter(folder)
    found = complete_checkpoints(folder)
    if not found:
        return None
    checkpoint = read_checkpoint(found[-1])
    require_same_run(checkpoint.state, identity, found[-1])
    if checkpoint.step > settings.steps:
        raise ValueError(
            f"cannot continue {found[-1]}, which has done {checkpoint.step} steps, to {settings.steps}; "
            "ask for more steps, or train in another folder."
        )
    run.restore(checkpoint)
    return run.step


def _train_step(run: Run, loss: Loss, data: Tensor, settings: TrainSettings, folder: Path) -> float:
    """One step of the optimiser; returns the gradient's norm before clipping."""
    step = run.step
    rows = batch_indices(len(data), settings.batch_size, step, settings.seed)
    batch = data[rows.to(data.device)].to(run.device)
    run.optimiser.zero_grad(set_to_none=True)
    with keyed_global_state(run.device, settings.seed, "dropout", step):
        losses = loss(run.module, batch, keyed_generator(settings.seed, "train", step))
        _check_losses(losses, batch)
        mean = losses.mean()
        mean.backward()
    clip = math.inf if settings.gradient_clip is None else settings.gradient_clip
    norm = float(nn.utils.clip_grad_norm_(run.trained.values(), clip))
    value = float(mean.detach())
    if not math.isfinite(value) or not math.isfinite(norm):
        raise FloatingPointError(_divergence(step, losses.detach().cpu(), rows, folder))
    for group in run.optimiser.param_groups:
        group["lr"] = settings.learning_rate_at(step)
    run.optimiser.step()
    run.ema.update_parameters(run.module)
    run.tally.loss_sum += value
    run.tally.loss_count += 1
    run.step += 1
    return norm


def _validate(run: Run, loss: Loss, validation: Tensor, settings: TrainSettings) -> float:
    """Mean loss of the averaged weights, on the same noise every time."""
    generator = keyed_generator(settings.seed, "validation")
    total = 0.0
    with keyed_global_state(run.device, settings.seed, "validation"):
        for batch in validation.split(settings.validation_batch):
            losses = loss(run.ema.module, batch.to(run.device), generator)
            _check_losses(losses, batch)
            total += float(losses.detach().double().sum())
    return total / len(validation)


def _record(run: Run, norm: float, settings: TrainSettings, validated: float | None) -> Record:
    """A line of the log; begins the next mean of the loss."""
    tally = run.tally
    record: Record = {
        "step": run.step,
        "loss": tally.loss_sum / tally.loss_count,
        "gradient_norm": norm,
        "learning_rate": settings.learning_rate_at(run.step - 1),
        "seconds": round(tally.seconds, 3),
    }
    if validated is not None:
        record["validation_loss"] = validated
    tally.loss_sum, tally.loss_count = 0.0, 0
    return record


def _divergence(step: int, losses: Tensor, rows: Tensor, folder: Path) -> str:
    guilty = rows[~losses.isfinite()].tolist()
    what = f"the loss of rows {guilty}" if guilty else "the gradient"
    found = complete_checkpoints(folder)
    good = f"the last good checkpoint is {found[-1]}" if found else "there is no checkpoint yet"
    return (
        f"training stopped at step {step}: {what} is not finite, in the batch of rows {rows.tolist()}; "
        f"{good}. "
        "Look at these rows, or train in another folder with a lower learning_rate or gradient_clip."
    )


def _check_losses(losses: Tensor, batch: Tensor) -> None:
    if losses.shape != batch.shape[:1]:
        raise ValueError(
            f"the loss must return one number per sample, shape ({len(batch)},); got {tuple(losses.shape)}."
        )


def _check_data(data: Tensor, validation: Tensor | None) -> None:
    if data.ndim < 3 or len(data) == 0:
        raise ValueError(f"training data has shape (n, channels, *grid) with n >= 1; got {tuple(data.shape)}.")
    if validation is not None and (validation.shape[1:] != data.shape[1:] or len(validation) == 0):
        raise ValueError(
            f"validation data must be of shape (m, {', '.join(map(str, data.shape[1:]))}) with m >= 1, "
            f"as training data is; got {tuple(validation.shape)}."
        )
