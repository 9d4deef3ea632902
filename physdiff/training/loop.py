"""The training loop: AdamW on a per-sample loss, averaged weights, and a history that no kill can change.

Every step is a function of (module, averages, optimiser state, objective state, step number) alone: its noise, its
dropout and its rows are keyed by seed and step. A checkpoint stores exactly these, so a run that is killed and launched
again ends in the same bits as one that never stopped; on another number of processes, or with another number of
accumulated parts, it is the same run to rounding.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from physdiff.condition import Condition, Given, per_field
from physdiff.data.rows import Rows, TensorRows
from physdiff.training.augment import Augment
from physdiff.training.checkpoint import (
    complete_checkpoints,
    read_checkpoint,
    remove_litter,
    write_checkpoint,
)
from physdiff.training.company import Company, in_company
from physdiff.training.computing import computing_as, lay_out
from physdiff.training.identity import require_same_run, run_identity
from physdiff.training.lock import only_process
from physdiff.training.metrics import MetricsLog, Record
from physdiff.training.objective_call import Loss, adapts
from physdiff.training.run_state import Run, averaged_copy, trained_parameters
from physdiff.training.settings import TrainSettings
from physdiff.training.step import Stepper, TrainingSet
from physdiff.training.stopping import Wishes
from physdiff.training.stored_profiles import forget_profiles_after, store_profiles
from physdiff.training.trackers import Tracker
from physdiff.training.validation import HeldOut, Validated, validate

Draw = Callable[[nn.Module, int, Path], object]


@dataclass(frozen=True)
class TrainResult:
    """A run at the end of a launch.

    Attributes:
        folder: The run's folder.
        steps: Steps done.
        resumed_from: Steps that were already done when this launch began; None if it began the run.
        validation_loss: Of `ema`; None without validation data, or before the first validation.
        seconds: Time spent in training, all launches together; work lost to kills is not counted.
        ema: Copy of the module with the averaged weights, in evaluation mode, its parameters frozen: those of the last
            step, or with patience those of the best validation.
        validation_error: Of `ema`, the mean over noise levels; None where there is none.
        stopped: Why it ended before the last step: "patience", "time limit", "SIGINT", "SIGTERM" or "SIGUSR1"; None if
            it did not.
    """

    folder: Path
    steps: int
    resumed_from: int | None
    validation_loss: float | None
    seconds: float
    ema: nn.Module
    validation_error: float | None = None
    stopped: str | None = None

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do; otherwise the same call continues."""
        return self.stopped in (None, "patience")


def train(
    module: nn.Module,
    objective: Loss,
    data: Tensor | Rows,
    validation: Tensor | Rows | None,
    settings: TrainSettings,
    folder: Path,
    *,
    condition: Given | None = None,
    validation_condition: Given | None = None,
    augment: Augment | None = None,
    signature: str = "",
    progress: bool = True,
    on_log: Callable[[Record], None] | None = None,
    trackers: Sequence[Tracker] = (),
    draw: Draw | None = None,
) -> TrainResult:
    """Train a module in place, or continue from the newest checkpoint in the folder.

    Where a launcher has started several processes, each calls this with the same arguments; the first writes.

    Args:
        module: What is trained, on the device where it lies. Its `network`, if it has one, is what is compiled and
            runs in bfloat16, else all of it. With `settings.shard` on several processes it is left with parts of its
            weights.
        objective: `objective(module, batch, draws)`, with the batch's condition as a fourth argument where there is
            one, gives the loss of each sample, shape (batch,), with all randomness from `draws`, a `RowDraws`. It also
            serves in validation, on the averaged module in evaluation mode.
        data: Training fields, shape (n, channels, *grid), on any device; or rows, such as `physdiff.data.rows_of`
            gives of files. A run may be continued with the same data kept in another way.
        validation: Fields held out, shape (m, channels, *grid), or rows of them, or None.
        settings: Settings of the run.
        folder: The run's folder, for `metrics.jsonl` and `checkpoints/`; one launch at a time.
        condition: Of the training fields, n rows or one for all; rows have their own.
        validation_condition: Of the fields held out, m rows or one for all; needed where training has one.
        augment: Changes a batch and its condition at random, in training only.
        signature: One line that must be the same when the run is continued, such as the grid and the process.
        progress: Show a progress bar.
        on_log: Called with each record that is logged.
        trackers: Told of each record too, and closed in the end.
        draw: `draw(averaged module, step, folder)` every `settings.sample_every` steps.

    Returns:
        TrainResult.

    Raises:
        ValueError: data, condition or loss have an unfit shape; the folder's run is a different one, or is damaged.
        FloatingPointError: the loss or its gradient is not finite; step, rows and last checkpoint are named.
    """
    folder = Path(folder)
    _check_data(data, validation)
    training_set = TrainingSet(_with_condition(data, condition, "training"), augment)
    held_out = None
    if validation is not None:
        if condition is not None and validation_condition is None:
            raise ValueError("the training fields have a condition: give that of the validation fields too.")
        held_out = HeldOut(_with_condition(validation, validation_condition, "validation"))
    trained_parameters(module)
    with ExitStack() as open_:
        company = open_.enter_context(in_company(next(module.parameters()).device))
        open_.enter_context(only_process(folder) if company.is_first else nullcontext())
        listeners: list[Callable[[int, Record], None]] = []
        if company.is_first:
            for tracker in trackers:
                open_.callback(tracker.close)
            listeners = [tracker.log for tracker in trackers]
            if on_log is not None:
                listeners.append(lambda step, record: on_log(record))
        wishes = open_.enter_context(Wishes(settings.seconds_allowed))
        launch = _Launch(module, objective, training_set, held_out, settings, folder, signature, company, wishes)
        with launch.prepared():
            return launch.train(progress, listeners, draw)


class _Launch:
    """One launch of a run on one of its processes."""

    def __init__(
        self, module: nn.Module, objective: Loss, data: TrainingSet, held_out: HeldOut | None,
        settings: TrainSettings, folder: Path, signature: str, company: Company, wishes: Wishes,
    ) -> None:  # fmt: skip
        self.module, self.objective, self.data, self.held_out = module, objective, data, held_out
        self.settings, self.folder, self.company, self.wishes = settings, folder, company, wishes
        identity = run_identity(module, data.rows, settings, signature)
        self.identity: dict[str, Any] = json.loads(json.dumps(identity))  # as it will be read back
        self.saved_at: int | None = None
        self.resumed_from: int | None = None

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Within the block the module is in training, wrapped for speed and for company, and the run is restored."""
        module, was_training = self.module, self.module.training
        lay_out(module, self.settings)
        ema = averaged_copy(module)
        module.train()
        try:
            with computing_as(module, self.settings):
                # Wrapping first: where weights are shared out, the optimiser must hold the parts.
                self.stepper = Stepper(module, ema, self.objective, self.data, self.settings, self.company, self.folder)
                self.run: Run = self.stepper.run
                self._resume()
                yield
        finally:
            module.train(was_training)
            self.data.rows.close()
            if self.held_out is not None:
                self.held_out.rows.close()

    def _resume(self) -> None:
        folder, run = self.folder, self.run
        if self.company.is_first:
            folder.mkdir(parents=True, exist_ok=True)
            remove_litter(folder)
        self.company.meet()
        found = complete_checkpoints(folder)
        if found:
            checkpoint = read_checkpoint(found[-1])
            require_same_run(checkpoint.state, self.identity, found[-1])
            if checkpoint.step > self.settings.steps:
                raise ValueError(
                    f"cannot continue {found[-1]}, which has done {checkpoint.step} steps, to {self.settings.steps}; "
                    "ask for more steps, or train in another folder."
                )
            state = run.restore(checkpoint)
            if adapts(self.objective):
                self.objective.load_state_dict(state)  # pyright: ignore[reportFunctionMemberAccess]
            self.resumed_from = self.saved_at = run.step
        if self.company.is_first:
            forget_profiles_after(folder, run.step)
        self.company.meet()

    def train(
        self, progress: bool, listeners: Sequence[Callable[[int, Record], None]], draw: Draw | None
    ) -> TrainResult:
        """Take steps until all are done, or something asks for an end."""
        settings, run, stepper, company = self.settings, self.run, self.stepper, self.company
        log = MetricsLog(self.folder / "metrics.jsonl", run.step) if company.is_first else None
        seconds_before, start = run.tally.seconds, time.perf_counter()
        stopped = self._out_of_patience()
        stepper.expect()
        show = progress and company.is_first
        with tqdm(total=settings.steps, initial=run.step, disable=not show, unit="step") as bar:
            while run.step < settings.steps and stopped is None:
                stepper.take(self.wishes.reason)
                bar.update()
                done, is_last = run.step, run.step == settings.steps
                stopped = stepper.wish
                validated = None
                if self.held_out is not None and (is_last or done % settings.validate_every == 0):
                    stepper.read()
                    validated = self._validate(self.held_out)
                    stopped = stopped or self._out_of_patience()
                if is_last or validated is not None or done % settings.log_every == 0:
                    stepper.read()
                    run.tally.seconds = seconds_before + time.perf_counter() - start
                    record = self._record(validated)
                    bar.set_postfix(loss=f"{record['loss']:.4g}")
                    if log is not None:
                        log.append(record)
                    for listen in listeners:
                        listen(done, record)
                if settings.ema_widths and (is_last or done % settings.ema_every == 0):
                    stepper.read()
                    self._store_profiles()
                if draw is not None and settings.sample_every and done % settings.sample_every == 0:
                    stepper.read()
                    self._draw(draw)
                if is_last or stopped is not None or done % settings.checkpoint_every == 0:
                    stepper.read()
                    run.tally.seconds = seconds_before + time.perf_counter() - start
                    self._save(log)
        return self._result(None if run.step == settings.steps else stopped)

    def _validate(self, held_out: HeldOut) -> Validated:
        run, tally = self.run, self.run.tally
        run.publish()
        validated = validate(run.ema, self.objective, held_out, self.settings, self.company)
        tally.validation_loss, tally.validation_error = validated.loss, validated.error
        if is_better(validated.score, tally.best, self.settings.min_improvement):
            tally.best, tally.best_step, tally.stale = validated.score, run.step, 0
            tally.best_loss = validated.loss
            # Weights of an earlier best are not kept beside this score, where patience asks for none.
            kept = run.ema.state_dict() if self.settings.patience else {}
            run.best = {name: x.detach().to("cpu", copy=True) for name, x in kept.items()}
        else:
            tally.stale += 1
        return validated

    def _out_of_patience(self) -> str | None:
        patience = self.settings.patience
        return "patience" if patience and self.run.tally.stale >= patience else None

    def _record(self, validated: Validated | None) -> Record:
        """A line of the log; begins the next mean of the loss."""
        tally = self.run.tally
        record: Record = {
            "step": self.run.step,
            "loss": tally.loss_sum / tally.loss_count,
            "gradient_norm": self.stepper.norm,
            "learning_rate": self.settings.learning_rate_at(self.run.step - 1),
            "seconds": round(tally.seconds, 3),
        }
        if validated is not None:
            record |= validated.record()
        tally.loss_sum, tally.loss_count = 0.0, 0
        return record

    def _store_profiles(self) -> None:
        profiles = self.run.profiles()
        if self.company.is_first:
            store_profiles(self.folder, self.run.step, profiles, self.settings.ema_widths)

    def _draw(self, draw: Draw) -> None:
        self.run.publish()
        if self.company.is_first:
            with torch.random.fork_rng():  # a user's own drawing may take global numbers
                draw(self.run.ema, self.run.step, self.folder)
        self.company.meet()

    def _save(self, log: MetricsLog | None) -> None:
        state = self.objective.state_dict() if adapts(self.objective) else {}  # pyright: ignore
        checkpoint = self.run.checkpoint(self.identity, state)
        if log is not None:
            log.sync()
            write_checkpoint(self.folder, checkpoint, self.settings.keep_checkpoints)
        self.company.meet()

    def _result(self, stopped: str | None) -> TrainResult:
        run, tally = self.run, self.run.tally
        run.publish()
        loss, error = tally.validation_loss, tally.validation_error
        if run.best and self.settings.patience:
            run.ema.load_state_dict(run.best)
            loss, error = tally.best_loss, None if error is None else tally.best
        return TrainResult(
            self.folder, run.step, self.resumed_from, loss, tally.seconds, run.ema,
            validation_error=error, stopped=stopped,
        )  # fmt: skip


def is_better(score: float, best: float | None, margin: float) -> bool:
    """Whether a validation counts as the best so far: below the one before by more than a part of its size.

    A score that is not finite never does.
    """
    return math.isfinite(score) and (best is None or score < best - margin * abs(best))


def _with_condition(fields: Tensor | Rows, condition: Given | None, which: str) -> Rows:
    if isinstance(fields, Tensor):
        return TensorRows(fields, _per_row(condition, fields, which))
    if condition is not None:
        raise ValueError(f"the {which} rows have their own condition; leave it out.")
    return fields


def _per_row(condition: Given | None, fields: Tensor, which: str) -> Given | None:
    if condition is not None and not isinstance(condition, (Tensor, Condition)):
        raise ValueError(
            f"the {which} condition is a Condition(fields, scalars, classes), or a tensor of fields; got a "
            f"{type(condition).__name__}."
        )
    if condition is not None and len(condition) not in (1, len(fields)):
        raise ValueError(
            f"the {which} condition needs one row a field, or one for all: {len(fields)} or 1; got {len(condition)}."
        )
    return per_field(condition, len(fields))


def _check_data(data: Tensor | Rows, validation: Tensor | Rows | None) -> None:
    if len(data.shape) < 3 or len(data) == 0:
        raise ValueError(f"training data has shape (n, channels, *grid) with n >= 1; got {tuple(data.shape)}.")
    if validation is not None and (validation.shape[1:] != data.shape[1:] or len(validation) == 0):
        raise ValueError(
            f"validation data must be of shape (m, {', '.join(map(str, data.shape[1:]))}) with m >= 1, "
            f"as training data is; got {tuple(validation.shape)}."
        )
