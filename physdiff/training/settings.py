"""What a training run is told, and the two schedules that follow from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from physdiff.randomness import require_seed

Schedule = Literal["cosine", "constant"]


@dataclass(frozen=True)
class TrainSettings:
    """Settings of a training run; two runs with equal settings, data and module end in equal bits.

    Attributes:
        steps: Optimiser steps of the whole run, at least 1.
        batch_size: Rows per step.
        learning_rate: Peak learning rate of AdamW, > 0.
        warmup_steps: Steps over which the learning rate rises linearly to its peak; fewer than `steps`.
        schedule: After the warm-up, `"cosine"` falls towards zero at the end, `"constant"` stays.
        weight_decay: Decoupled weight decay of AdamW, >= 0.
        gradient_clip: Largest norm of the gradient of all parameters together, > 0; None does not clip.
        ema_decay: Decay per step of the averaged weights, in [0, 1); short runs use less, see `ema_decay_at`.
        log_every: Steps between lines of `metrics.jsonl`.
        checkpoint_every: Steps between checkpoints, the most that a kill can lose; the last step has one too.
        keep_checkpoints: Newest checkpoints that stay on disk, at least 1.
        validate_every: Steps between validations of the averaged weights; the last step has one too.
        validation_batch: Rows evaluated at once in validation; part of what fixes the validation noise.
        seed: Keys all noise, times, dropout and the order of the data.

    Raises:
        ValueError: a setting is outside its range.
    """

    steps: int
    batch_size: int = 16
    learning_rate: float = 2e-3
    warmup_steps: int = 0
    schedule: Schedule = "cosine"
    weight_decay: float = 0.0
    gradient_clip: float | None = 1.0
    ema_decay: float = 0.999
    log_every: int = 50
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    validate_every: int = 500
    validation_batch: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (
            "steps", "batch_size", "log_every", "checkpoint_every", "keep_checkpoints", "validate_every",
            "validation_batch",
        ):  # fmt: skip
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
        require_seed(self.seed)

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
