"""A run in the middle of its training, and how it becomes a checkpoint and comes back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from physdiff.training.checkpoint import Checkpoint, Tensors
from physdiff.training.settings import TrainSettings


@dataclass
class Tally:
    """Plain numbers that a run carries along.

    Attributes:
        loss_sum: Sum of the batches' losses since the last log.
        loss_count: Number of batches in it.
        seconds: Time spent in training up to here.
        validation_loss: The latest one; None before the first.
    """

    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0
    validation_loss: float | None = None


@dataclass
class Run:
    """Everything that changes while training.

    Attributes:
        module: What is trained.
        ema: Its averaged copy.
        optimiser: Holds the parameters of `module` that require a gradient.
        step: Steps done.
        tally: Sums for the log.
    """

    module: nn.Module
    ema: AveragedModel
    optimiser: torch.optim.AdamW
    step: int = 0
    tally: Tally = field(default_factory=Tally)

    @classmethod
    def begin(cls, module: nn.Module, settings: TrainSettings) -> Run:
        """A run that has done no step.

        Raises:
            ValueError: the module has nothing to train.
        """
        trained = [p for p in module.parameters() if p.requires_grad]
        if not trained:
            raise ValueError("the module has no parameter to train: none requires a gradient.")

        def average(
            averaged: tuple[Tensor, ...] | list[Tensor],
            current: tuple[Tensor, ...] | list[Tensor],
            updates: Tensor | int,
        ) -> None:
            get_ema_multi_avg_fn(settings.ema_decay_at(int(updates)))(averaged, current, updates)

        ema = AveragedModel(module, multi_avg_fn=average)
        # Frozen rather than evaluated under no_grad: a loss may itself differentiate by its inputs.
        ema.eval().requires_grad_(False)
        optimiser = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        return cls(module, ema, optimiser)

    @property
    def device(self) -> torch.device:
        """Where the module lies."""
        return next(self.module.parameters()).device

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """Parameters that the optimiser holds, by name, in its order."""
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}

    def checkpoint(self, identity: dict[str, Any]) -> Checkpoint:
        """The run as tensors and plain values, with what a later launch must agree with."""
        moments = self.optimiser.state_dict()["state"]
        optimiser = {
            f"{quantity}/{name}": value
            for index, name in enumerate(self.trained)
            for quantity, value in moments.get(index, {}).items()
        }
        state = {"ema_updates": int(self.ema.n_averaged), "tally": asdict(self.tally), **identity}
        return Checkpoint(self.step, self.module.state_dict(), self.ema.module.state_dict(), optimiser, state)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from what `checkpoint` returned."""
        self.step = checkpoint.step
        self.tally = Tally(**checkpoint.state["tally"])
        self.module.load_state_dict(checkpoint.weights)
        self.ema.module.load_state_dict(checkpoint.ema)
        self.ema.n_averaged.fill_(checkpoint.state["ema_updates"])
        index = {name: i for i, name in enumerate(self.trained)}
        moments: dict[int, Tensors] = {}
        for key, value in checkpoint.optimiser.items():
            quantity, name = key.split("/", 1)
            moments.setdefault(index[name], {})[quantity] = value
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": moments})
