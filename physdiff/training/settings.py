"""What a training run is told, and the two schedules that follow from it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, get_args

from physdiff.randomness import require_seed

Schedule = Literal["cosine", "constant"]
Precision = Literal["float32", "bfloat16"]

# They say when to stop, what to keep and on what to run, not what to compute: a run may go on with others. The batch is
# the same however it is split, so its parts are among them; it is then the same run to rounding, not to the bit.
FREE_SETTINGS = (
    "checkpoint_every", "keep_checkpoints", "accumulate", "compile", "channels_last", "shard", "device", "patience",
    "min_improvement", "time_limit", "sample_every", "trackers",
)  # fmt: skip
WIDEST = 0.28  # just below √(1/12), the relative width of a plain mean
AT_LEAST_ONE = (
    "steps", "batch_size", "accumulate", "log_every", "checkpoint_every", "keep_checkpoints", "validate_every",
    "validation_batch", "validation_levels", "validation_pairs",
)  # fmt: skip


@dataclass(frozen=True)
class TrainSettings:
    """Settings of a training run; two runs with equal settings, data and module end in equal bits.

    Attributes:
        steps: Optimiser steps of the whole run, at least 1.
        batch_size: Rows per step of the optimiser, those of all processes and all accumulated parts together.
        accumulate: Parts of a process's share of the batch, of which one is in memory at a time, at least 1.
        learning_rate: Peak learning rate of AdamW, > 0.
        warmup_steps: Steps over which the learning rate rises linearly to its peak; fewer than `steps`.
        schedule: After the warm-up, `"cosine"` falls towards zero at the end, `"constant"` stays.
        weight_decay: Decoupled weight decay of AdamW, >= 0.
        gradient_clip: Largest norm of the gradient of all parameters together, > 0; None does not clip.
        ema_decay: Decay per step of the averaged weights, in [0, 1); short runs use less, see `ema_decay_at`.
        ema_widths: Two widths relative to the length of training, such as (0.05, 0.1), each in (0, 0.28]: averages of
            these power profiles are stored as well, and `physdiff ema` makes that of any width from them; empty
            for none.
        ema_every: Steps between stored profiles; the last step has one too.
        precision: Of what the network computes: "float32" or "bfloat16". Weights, averages and losses stay in float32.
        compile: Whether the network is compiled, which takes a minute and then saves time at every step.
        channels_last: Whether the network's weights and inputs are laid out with channels last, faster on some devices.
        device: Where to train from the command line: "cuda", "cpu", or "auto" for what there is.
        shard: Whether processes share out the weights and the optimiser's state, where one alone has no room for them.
        log_every: Steps between lines of `metrics.jsonl`.
        checkpoint_every: Steps between checkpoints, the most that a kill can lose; the last step has one too.
        keep_checkpoints: Newest checkpoints that stay on disk, at least 1.
        validate_every: Steps between validations of the averaged weights; the last step has one too.
        validation_batch: Rows evaluated at once in validation; part of what fixes the validation noise.
        validation_levels: Noise levels at which the validation error of a denoiser is measured.
        validation_pairs: Evaluations that the levels share; every field is denoised at every level if they are enough.
        patience: Validations without improvement after which training stops; 0 never stops.
        min_improvement: Part of the best error by which the next best must be smaller, in [0, 1).
        time_limit: Seconds, or "HH:MM:SS", after which a launch checkpoints and ends, to be continued; None is never.
        sample_every: Steps between drawn samples; 0 draws none.
        trackers: Where records go beside `metrics.jsonl`, such as "tensorboard"; see `physdiff.training.trackers`.
        seed: Keys all noise, times, dropout and the order of the data.

    Raises:
        ValueError: a setting is outside its range.
    """

    steps: int
    batch_size: int = 16
    accumulate: int = 1
    learning_rate: float = 2e-3
    warmup_steps: int = 0
    schedule: Schedule = "cosine"
    weight_decay: float = 0.0
    gradient_clip: float | None = 1.0
    ema_decay: float = 0.999
    ema_widths: tuple[float, ...] = ()
    ema_every: int = 500
    precision: Precision = "float32"
    compile: bool = False
    channels_last: bool = False
    device: str = "auto"
    shard: bool = False
    log_every: int = 50
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    validate_every: int = 500
    validation_batch: int = 64
    validation_levels: int = 8
    validation_pairs: int = 256
    patience: int = 0
    min_improvement: float = 0.0
    time_limit: float | str | None = None
    sample_every: int = 0
    trackers: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (*AT_LEAST_ONE, "ema_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}.")
        if not 0 <= self.warmup_steps < self.steps:
            raise ValueError(f"warmup_steps must be in [0, steps = {self.steps}); got {self.warmup_steps}.")
        if self.schedule not in get_args(Schedule):
            raise ValueError(f"unknown schedule '{self.schedule}'; it is one of {', '.join(get_args(Schedule))}.")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive and finite; got {self.learning_rate}.")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be at least 0 and finite; got {self.weight_decay}.")
        if self.gradient_clip is not None and not 0 < self.gradient_clip < math.inf:
            raise ValueError(f"gradient_clip must be positive and finite, or None; got {self.gradient_clip}.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1); got {self.ema_decay}.")
        if len(self.ema_widths) not in (0, 2) or len(set(self.ema_widths)) != len(self.ema_widths):
            raise ValueError(f"ema_widths are two different widths, or none; got {self.ema_widths}.")
        for width in self.ema_widths:
            require_width(width, "ema_widths")
        if self.precision not in get_args(Precision):
            raise ValueError(f"unknown precision '{self.precision}'; it is one of {', '.join(get_args(Precision))}.")
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"accumulate must be at most batch_size = {self.batch_size}, a part has a row; got {self.accumulate}."
            )
        for name in ("patience", "sample_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0; got {getattr(self, name)}.")
        if not 0 <= self.min_improvement < 1:
            raise ValueError(f"min_improvement must be in [0, 1); got {self.min_improvement}.")
        _ = self.seconds_allowed
        require_seed(self.seed)

    @property
    def seconds_allowed(self) -> float:
        """`time_limit` in seconds, infinite without one."""
        limit = self.time_limit
        if limit is None:
            return math.inf
        if isinstance(limit, str) and (found := re.fullmatch(r"(\d+):([0-5]?\d):([0-5]?\d)", limit.strip())):
            hours, minutes, seconds = map(int, found.groups())
            limit = 3600 * hours + 60 * minutes + seconds
        try:
            allowed = float(limit)
        except ValueError:
            allowed = math.nan
        if not 0 < allowed < math.inf:
            raise ValueError(f"time_limit must be a positive number of seconds or 'HH:MM:SS'; got {self.time_limit!r}.")
        return allowed

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return self.learning_rate
        progress = (step - self.warmup_steps) / (self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))

    def ema_decay_at(self, updates: int) -> float:
        """Decay after n updates, min(decay, (1 + n)/(10 + n)): a young average soon forgets its start."""
        return min(self.ema_decay, (1 + updates) / (10 + updates))


def require_width(width: float, name: str = "width") -> None:
    """Raise unless a relative width is that of a power profile."""
    if not 0 < width <= WIDEST:
        raise ValueError(f"{name} must lie in (0, {WIDEST}], relative to the length of training; got {width}.")
