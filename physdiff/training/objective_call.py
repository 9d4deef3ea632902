"""The objective as a module, so that what wraps modules (DDP, FSDP2) wraps all that a loss asks of the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from physdiff.condition import Given
from physdiff.randomness import RowDraws
from physdiff.training.company import Company, share_out, whole
from physdiff.training.settings import TrainSettings

Loss: TypeAlias = Callable[..., Tensor]
# Losses of some rows; with an objective that adapts also their times, and the losses without their weights.
Found: TypeAlias = tuple[Tensor, Tensor | None, Tensor | None]
SMALLEST_SHARE = 1_000_000  # weights that are worth a message of their own


class ObjectiveCall(nn.Module):
    """`objective(module, ...)` as the forward pass of a module.

    Args:
        module: What is trained.
        objective: `objective(module, x, draws)`, with `condition` as a fourth argument where there is one, gives losses
            of shape (rows,).
    """

    def __init__(self, module: nn.Module, objective: Loss) -> None:
        super().__init__()
        self.module = module
        self._objective = (objective,)  # in a tuple: were it a module, its weights are not to be trained

    def forward(self, x: Tensor, draws: RowDraws, condition: Given | None) -> Found:
        (objective,) = self._objective
        given = () if condition is None else (condition,)
        if not adapts(objective):
            return objective(self.module, x, draws, *given), None, None
        found = objective.evaluate(self.module, x, draws, *given)  # pyright: ignore[reportFunctionMemberAccess]
        return found.losses, found.times, found.unweighted


def adapts(objective: Loss) -> bool:
    """Whether an objective learns from the losses of earlier steps; see `physdiff.objectives.objective`."""
    return bool(getattr(objective, "adapts", False))


class Together:
    """A module and its objective on one process or on many.

    Args:
        module: What is trained; where weights are shared out, they are from here on.
        objective: As for `ObjectiveCall`.
        company: The processes.
        settings: Whether weights are shared out.
        example: Arguments of one call, to find out which parameters take part.
    """

    def __init__(
        self, module: nn.Module, objective: Loss, company: Company, settings: TrainSettings, example: tuple[Any, ...]
    ) -> None:
        self.call: nn.Module = ObjectiveCall(module, objective)
        self._alone = company.count == 1
        if self._alone:
            return
        if settings.shard:
            share_out(self.call, SMALLEST_SHARE)
        else:
            idle = _some_idle(module, objective, example)
            self.call = DistributedDataParallel(self.call, gradient_as_bucket_view=True, find_unused_parameters=idle)

    @contextmanager
    def part(self, is_last: bool) -> Iterator[None]:
        """Forward and backward pass of a part of the batch; gradients are exchanged in the last one."""
        if self._alone:
            yield
        elif isinstance(self.call, DistributedDataParallel):
            if is_last:
                yield
            else:
                with self.call.no_sync():
                    yield
        else:
            self.call.set_requires_gradient_sync(is_last)  # pyright: ignore[reportCallIssue]
            yield


def _some_idle(module: nn.Module, objective: Loss, example: tuple[Any, ...]) -> bool:
    """Whether some parameter has no part in the loss, which DDP must know."""
    copy = deepcopy(module)
    ObjectiveCall(copy, objective)(*example)[0].sum().backward()
    return any(p.requires_grad and p.grad is None for p in copy.parameters())


def total_norm(parameters: list[nn.Parameter], clip: float | None) -> Tensor:
    """Norm of all gradients together, before they are shortened to at most `clip`; shape ()."""
    if clip is None:
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    else:
        norm = nn.utils.clip_grad_norm_(parameters, clip)
    return whole(norm)
