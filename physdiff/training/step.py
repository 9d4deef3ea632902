"""One step of the optimiser: a batch in parts, its gradient, and what must be known of it.

The batch, the numbers that its rows draw and the learning rate are functions of (seed, step). Rows are split evenly
over processes and then over accumulated parts; every part sees the numbers of its rows in the whole batch, and the
gradient is that of the mean over the whole. Where the batch is split, dropout is drawn part by part.

On a device that works ahead of Python, losses and norms are read one step late, so that no step waits; they are always
read before anything is logged, validated or saved.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from physdiff.condition import Given
from physdiff.data.order import rows_at
from physdiff.data.rows import Rows
from physdiff.randomness import RowDraws
from physdiff.training.augment import Augment
from physdiff.training.checkpoint import complete_checkpoints
from physdiff.training.company import Company
from physdiff.training.objective_call import Found, Loss, Together, adapts, total_norm
from physdiff.training.randomness import keyed_generator, keyed_global_state
from physdiff.training.run_state import Run
from physdiff.training.settings import TrainSettings
from physdiff.training.stopping import REASONS
from physdiff.training.validation import require_one_each


@dataclass(frozen=True)
class TrainingSet:
    """What a run learns from.

    Attributes:
        rows: Fields, shape (n, channels, *grid), with their condition.
        augment: Changes the rows of a batch at random; None leaves them.
    """

    rows: Rows
    augment: Augment | None = None

    def batch(self, rows: Tensor, draws: RowDraws, device: torch.device) -> tuple[Tensor, Given | None]:
        """Rows on a device."""
        x, given = self.rows.batch(rows)
        x = x.to(device, non_blocking=True)
        given = None if given is None else given.to(device, non_blocking=True)
        return (x, given) if self.augment is None else self.augment(x, draws, given)


@dataclass(frozen=True)
class _Unread:
    """What a step has left on its device: mean loss, gradient norm and wishes to stop, and the losses of its rows."""

    step: int
    values: Tensor
    losses: list[Tensor]
    ready: torch.cuda.Event | None


class Stepper:
    """Takes steps.

    Args:
        module: What is trained.
        ema: A frozen copy of it.
        objective: As for `train`.
        data: What it is trained on.
        settings: Of the run.
        company: The processes.
        folder: The run's folder, for messages.

    Attributes:
        run: What changes.
        norm: Norm of the gradient at the last step that was read, before clipping.
        wish: Why some process wants to stop; None to go on.
    """

    def __init__(
        self, module: nn.Module, ema: nn.Module, objective: Loss, data: TrainingSet, settings: TrainSettings,
        company: Company, folder: Path,
    ) -> None:  # fmt: skip
        if settings.batch_size < company.count * settings.accumulate:
            raise ValueError(
                f"batch_size is of all {company.count} processes together, split into {settings.accumulate} parts "
                f"each: it must be at least {company.count * settings.accumulate}; got {settings.batch_size}."
            )
        self.data, self.settings, self.company, self.folder = data, settings, company, folder
        self.norm = 0.0
        self.wish: str | None = None
        self._objective = objective
        self._device = next(module.parameters()).device
        self._unread: _Unread | None = None
        with keyed_global_state(self._device, settings.seed, "example"):
            self._together = Together(module, objective, company, settings, self._part(0, slice(0, 1)))
        self.run = Run.begin(module, ema, settings)
        self._parameters = list(self.run.trained.values())

    def share(self) -> list[tuple[int, slice]]:
        """This process's parts of a batch: their numbers among all parts, and their rows."""
        total, each = self.settings.batch_size, self.settings.accumulate
        count = self.company.count * each
        mine = range(self.company.rank * each, (self.company.rank + 1) * each)
        return [(part, slice(total * part // count, total * (part + 1) // count)) for part in mine]

    def take(self, wish: str | None) -> None:
        """One step.

        Args:
            wish: Why this process wants to stop, if it does.

        Raises:
            FloatingPointError: the loss or the gradient of this step or the one before is not finite.
        """
        run, settings = self.run, self.settings
        found = self._gradient()
        norm = total_norm(self._parameters, settings.gradient_clip)
        self._tell(found, norm, wish)
        if self._device.type == "cpu":  # it has waited already
            self.read()
        if adapts(self._objective):
            self.read()
            self._observe(found)
        for group in run.optimiser.param_groups:
            group["lr"] = settings.learning_rate_at(run.step)
        run.optimiser.step()
        run.averages.update(run.step)
        run.step += 1

    def expect(self) -> None:
        """Tell the data what this process will ask for from here on, so that it may be read ahead."""
        steps, share = range(self.run.step, self.settings.steps), self.share()
        self.data.rows.expect(self._rows(step)[rows] for step in steps for _, rows in share)

    def _rows(self, step: int) -> Tensor:
        size = self.settings.batch_size
        return rows_at(self.data.rows.order, step * size, size, self.settings.seed)

    def _part(self, step: int, rows: slice) -> tuple[Tensor, RowDraws, Given | None]:
        settings = self.settings
        draws = RowDraws(keyed_generator(settings.seed, "train", step), settings.batch_size, rows)
        x, given = self.data.batch(self._rows(step)[rows], draws, self._device)
        return x, draws, given

    def _gradient(self) -> list[Found]:
        """Leaves the gradient of the mean loss with the parameters; returns what the parts gave."""
        run, settings = self.run, self.settings
        for parameter in self._parameters:
            parameter.grad = None
        parts, found = self.share(), []
        whole = self.company.count * settings.accumulate == 1
        for number, (part, rows) in enumerate(parts):
            x, draws, given = self._part(run.step, rows)
            keys = (run.step,) if whole else (run.step, part)
            with (
                keyed_global_state(self._device, settings.seed, "dropout", *keys),
                self._together.part(number == len(parts) - 1),
            ):
                one: Found = self._together.call(x, draws, given)
                require_one_each(one[0], x)
                # The exchange takes the mean over processes, the loss is the mean over rows.
                weighted = one[0].mean() if whole else one[0].sum() * (self.company.count / settings.batch_size)
                weighted.backward()
            found.append((one[0].detach(), one[1], one[2]))
        return found

    def _tell(self, found: list[Found], norm: Tensor, wish: str | None) -> None:
        """Leave what must be known of this step to be read, after what was left before."""
        self.read()
        total = torch.stack([losses.double().sum() for losses, _, _ in found]).sum()
        values = torch.stack([total / self.settings.batch_size, norm.detach().double()])
        if self.company.count > 1:
            wishes = torch.tensor([float(wish == reason) for reason in REASONS], dtype=torch.float64)
            told = torch.cat([values[:1], wishes.to(self._device, non_blocking=True)])
            told = self.company.sum_(told)
            values = torch.cat([told[:1], values[1:], told[1:]])
        else:
            self.wish = wish
        ready = None
        if self._device.type == "cuda":
            values = values.to("cpu", non_blocking=True)
            ready = torch.cuda.Event()
            ready.record()
        self._unread = _Unread(self.run.step, values, [losses for losses, _, _ in found], ready)

    def read(self) -> None:
        """Read what the last step has left.

        Raises:
            FloatingPointError: its loss or gradient is not finite.
        """
        unread, self._unread = self._unread, None
        if unread is None:
            return
        if unread.ready is not None:
            unread.ready.synchronize()
        mean, self.norm, *wishes = unread.values.tolist()
        if not math.isfinite(mean) or not math.isfinite(self.norm):
            raise FloatingPointError(self._divergence(unread))
        if wishes:
            self.wish = next((reason for reason, asked in zip(REASONS, wishes, strict=True) if asked), None)
        self.run.tally.loss_sum += mean
        self.run.tally.loss_count += 1

    def _observe(self, found: list[Found]) -> None:
        """Tell an objective that adapts the times and losses of the whole batch."""
        told = torch.zeros(2, self.settings.batch_size, dtype=torch.float64, device=self._device)
        for (_, rows), (_, times, losses) in zip(self.share(), found, strict=True):
            assert times is not None and losses is not None
            told[0, rows], told[1, rows] = times.to(told), losses.detach().to(told)
        times, losses = self.company.sum_(told).cpu()
        self._objective.observe(times, losses)  # pyright: ignore[reportFunctionMemberAccess]

    def _divergence(self, unread: _Unread) -> str:
        settings = self.settings
        bad = torch.zeros(settings.batch_size, device=self._device)
        for (_, rows), losses in zip(self.share(), unread.losses, strict=True):
            bad[rows] = (~losses.isfinite()).to(bad)
        rows = self._rows(unread.step)
        guilty = rows[self.company.sum_(bad).cpu() > 0].tolist()
        what = f"the loss of rows {guilty}" if guilty else "the gradient"
        found = complete_checkpoints(self.folder)
        good = f"the last good checkpoint is {found[-1]}" if found else "there is no checkpoint yet"
        return (
            f"training stopped at step {unread.step}: {what} is not finite, in the batch of rows {rows.tolist()}; "
            f"{good}. "
            "Look at these rows, or train in another folder with a lower learning_rate or gradient_clip."
        )
