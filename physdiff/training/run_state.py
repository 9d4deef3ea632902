"""A run in the middle of its training, and how it becomes a checkpoint and comes back."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from physdiff.training.averages import Averages, local
from physdiff.training.checkpoint import Checkpoint, Tensors
from physdiff.training.company import part_like, whole
from physdiff.training.settings import TrainSettings


@dataclass
class Tally:
    """Plain numbers that a run carries along.

    Attributes:
        loss_sum: Sum of the batches' losses since the last log.
        loss_count: Number of batches in it.
        seconds: Time spent in training up to here.
        validation_loss: The latest one; None before the first.
        validation_error: The latest mean over noise levels; None before the first, or without levels.
        best: Validation error, or loss without levels, that counts as the best so far; None before the first.
        best_step: Steps done at it.
        best_loss: Validation loss at it.
        stale: Validations since then.
    """

    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0
    validation_loss: float | None = None
    validation_error: float | None = None
    best: float | None = None
    best_step: int = 0
    best_loss: float | None = None
    stale: int = 0


@dataclass
class Run:
    """Everything that changes while training.

    Attributes:
        module: What is trained.
        ema: Its averaged copy, in evaluation mode, frozen; up to date after `publish`.
        averages: The averages that are carried along.
        optimiser: Holds the parameters of `module` that require a gradient.
        step: Steps done.
        tally: Sums for the log.
        best: Averaged weights at the best validation, where patience asks for them.
    """

    module: nn.Module
    ema: nn.Module
    averages: Averages
    optimiser: torch.optim.AdamW
    step: int = 0
    tally: Tally = field(default_factory=Tally)
    best: Tensors = field(default_factory=dict)

    @classmethod
    def begin(cls, module: nn.Module, ema: nn.Module, settings: TrainSettings) -> Run:
        """A run that has done no step, of a module that lies as it is to be trained, and a frozen copy of it."""
        trained = trained_parameters(module)
        # One kernel for all parameters, where there is one.
        fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in trained.values())
        optimiser = torch.optim.AdamW(
            trained.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=fused or None
        )
        averages = Averages(trained, dict(ema.named_parameters()), settings)
        return cls(module, ema, averages, optimiser)

    @property
    def device(self) -> torch.device:
        """Where the module lies."""
        return next(self.module.parameters()).device

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """Parameters that the optimiser holds, by name, in its order."""
        return trained_parameters(self.module)

    @torch.no_grad()
    def publish(self) -> None:
        """Bring the averaged copy up to date; all processes together."""
        averaged = dict(self.ema.named_parameters())
        for (name, parameter), average in zip(self.trained.items(), self.averages.ema, strict=True):
            if hasattr(parameter, "device_mesh"):
                averaged[name].copy_(whole(_like(average, parameter)))
        buffers = dict(self.module.named_buffers())
        for name, buffer in self.ema.named_buffers():
            buffer.copy_(buffers[name])

    def profiles(self) -> Tensors:
        """The power profiles by `index/parameter`; all processes together."""
        return {
            f"{index}/{name}": whole(_like(average, parameter))
            for index, profile in enumerate(self.averages.profiles)
            for (name, parameter), average in zip(self.trained.items(), profile, strict=True)
        }

    def checkpoint(self, identity: dict[str, Any], objective: Tensors) -> Checkpoint:
        """The run as tensors and plain values, with what a later launch must agree with; all processes together.

        Args:
            identity: Plain values.
            objective: State of the objective.
        """
        self.publish()
        moments = self.optimiser.state_dict()["state"]
        optimiser = {
            f"{quantity}/{name}": whole(value)
            for index, name in enumerate(self.trained)
            for quantity, value in moments.get(index, {}).items()
        }
        extra = {f"objective/{name}": value for name, value in objective.items()}
        extra |= {f"profile/{name}": value for name, value in self.profiles().items()}
        extra |= {f"best/{name}": value for name, value in self.best.items()}
        weights = {name: whole(value) for name, value in self.module.state_dict().items()}
        state = {"tally": asdict(self.tally), **identity}
        return Checkpoint(self.step, weights, self.ema.state_dict(), optimiser, state, extra)

    @torch.no_grad()
    def restore(self, checkpoint: Checkpoint) -> Tensors:
        """Continue from what `checkpoint` returned, on any number of processes; returns the objective's state."""
        self.step = checkpoint.step
        self.tally = Tally(**checkpoint.state["tally"])
        now = self.module.state_dict()
        self.module.load_state_dict({name: part_like(x, now[name]) for name, x in checkpoint.weights.items()})
        self.ema.load_state_dict(checkpoint.ema)
        trained = self.trained
        averaged = dict(self.ema.named_parameters())
        for (name, parameter), average in zip(trained.items(), self.averages.ema, strict=True):
            average.copy_(local(part_like(averaged[name], parameter)))
        index = {name: i for i, name in enumerate(trained)}
        moments: dict[int, Tensors] = {}
        for key, value in checkpoint.optimiser.items():
            quantity, name = key.split("/", 1)
            fits = value.shape == trained[name].shape and value.ndim > 0
            moments.setdefault(index[name], {})[quantity] = part_like(value, trained[name]) if fits else value
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": moments})
        for number, profile in enumerate(self.averages.profiles):
            for (name, parameter), average in zip(trained.items(), profile, strict=True):
                average.copy_(local(part_like(checkpoint.extra[f"profile/{number}/{name}"], parameter)))
        self.best = _below(checkpoint.extra, "best/")
        return _below(checkpoint.extra, "objective/")


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that require a gradient, by name.

    Raises:
        ValueError: there is none.
    """
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not trained:
        raise ValueError("the module has no parameter to train: none requires a gradient.")
    return trained


def averaged_copy(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose parameters are frozen."""
    # Frozen rather than evaluated under no_grad: a loss may itself differentiate by its inputs.
    return deepcopy(module).eval().requires_grad_(False)


def _below(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}


def _like(part: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A process's part of a tensor that is shared out as a parameter is; all of it where that is not."""
    if not hasattr(parameter, "device_mesh"):
        return part
    from torch.distributed.tensor import DTensor

    assert isinstance(parameter, DTensor)
    return DTensor.from_local(
        part, parameter.device_mesh, parameter.placements, shape=parameter.shape, stride=parameter.stride()
    )
