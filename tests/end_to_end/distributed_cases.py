"""Runs that are trained by two processes and by one, for `test_distributed.py`; as a script, by those of a launcher."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from physdiff import GaussianField, Grid, ReferencePath, SpectralBasis, fit_clock
from physdiff.denoisers import Denoiser
from physdiff.networks import UNet
from physdiff.objectives import DenoisingLoss
from physdiff.processes.heat import Heat
from physdiff.randomness import RowDraws
from physdiff.training import TrainResult, TrainSettings, train
from physdiff.training.company import Company, ProcessLost, in_company
from physdiff.training.validation import HeldOut, validate

SETTINGS = TrainSettings(
    steps=12, batch_size=6, warmup_steps=3, log_every=1, checkpoint_every=50, validate_every=6, validation_batch=2,
    validation_pairs=24, ema_widths=(0.05, 0.1), ema_every=3, seed=3,
)  # fmt: skip


def data() -> Tensor:
    """Smooth random fields and their squares, unit variance, shape (12, 1, 16)."""
    walk = torch.randn(12, 1, 16, generator=torch.Generator().manual_seed(0)).cumsum(-1)
    walk = walk - walk.mean(-1, keepdim=True)
    return walk / walk.std()


def denoiser() -> Denoiser:
    fields, grid = data().double(), Grid(16)
    basis = SpectralBasis(grid)
    reference = GaussianField.fit(fields, basis)
    path = ReferencePath(fit_clock(Heat(basis), reference), reference)
    network = UNet(grid, 1, width=4, multipliers=(1, 2), seed=5)
    return Denoiser(network, path, mode_scaling=1.0)


class Adaptive:
    """Weighs rows by what it has seen of earlier losses: a state that every process must share."""

    adapts = True

    def __init__(self) -> None:
        self.seen = torch.ones((), dtype=torch.float64)

    def evaluate(self, model: Denoiser, x: Tensor, draws: RowDraws, condition: Any = None) -> Any:
        t = model.path.t_min + (1 - model.path.t_min) * draws.uniform() ** float(self.seen.clamp(0.5, 2.0))
        losses = DenoisingLoss().at(model, x, t, draws, condition)
        return Found(losses, t, losses.detach())

    def __call__(self, model: Denoiser, x: Tensor, draws: RowDraws, condition: Any = None) -> Tensor:
        return self.evaluate(model, x, draws, condition).losses

    def observe(self, times: Tensor, losses: Tensor) -> None:
        assert len(times) == len(losses) == SETTINGS.batch_size
        rank_in_row = torch.arange(1, len(times) + 1, dtype=torch.float64)
        self.seen = 0.9 * self.seen + 0.1 * (losses * rank_in_row).sum() / rank_in_row.sum() + 0.01 * times[0]

    def state_dict(self) -> dict[str, Tensor]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.seen = state["seen"]


@dataclass
class Found:
    losses: Tensor
    times: Tensor
    unweighted: Tensor


class WithIdle(nn.Module):
    """A module with a parameter that no loss needs, which DDP must be told of."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = denoiser()
        self.idle = nn.Parameter(torch.ones(2))


def idle_loss(module: WithIdle, x: Tensor, draws: RowDraws) -> Tensor:
    return DenoisingLoss()(module.inner, x, draws)


@dataclass(frozen=True)
class Case:
    """What is special about a run."""

    settings: TrainSettings = SETTINGS
    objective: Callable[[], Any] = DenoisingLoss
    module: Callable[[], nn.Module] = denoiser
    by_two: dict[str, Any] | None = None  # settings of the two processes that one alone has no use for


CASES = {
    "plain": Case(),
    "accumulated": Case(replace(SETTINGS, accumulate=3), by_two={"accumulate": 2}),
    "shared out": Case(replace(SETTINGS, shard=True)),
    "adaptive": Case(objective=Adaptive),
    "idle": Case(objective=lambda: idle_loss, module=WithIdle),
}


def launch(name: str, folder: Path, alone: bool = False) -> TrainResult:
    """Train a case."""
    case = CASES[name]
    settings = case.settings if alone else replace(case.settings, **(case.by_two or {}))
    fields = data()
    if alone and name == "plain":
        said = validate(denoiser().eval().requires_grad_(False), DenoisingLoss(), HeldOut(fields), SETTINGS, Company())
        (folder.parent / "untrained.json").parent.mkdir(parents=True, exist_ok=True)
        if folder.parent.name == "one":
            (folder.parent / "untrained.json").write_text(json.dumps([said.loss, *said.errors]))
    return train(case.module(), case.objective(), fields, fields[:5], settings, folder, progress=False)


def signalled(folder: Path) -> str | None:
    """A run whose second process is sent SIGTERM in its fourth step; why it stopped."""
    calls = 0

    def loss(module: Denoiser, x: Tensor, draws: RowDraws) -> Tensor:
        nonlocal calls
        calls += module.training
        if calls == 4 + 1 and dist.get_rank() == 1:  # the first call looks for idle parameters
            os.kill(os.getpid(), signal.SIGTERM)
        return DenoisingLoss()(module, x, draws)

    return train(denoiser(), loss, data(), None, SETTINGS, folder, progress=False).stopped


def main(folder: Path) -> None:
    with in_company(torch.device("cpu")) as company:
        for name in CASES:
            launch(name, folder / name)
            if company.is_first:
                print(f"{name} done", flush=True)
        model = denoiser().eval().requires_grad_(False)
        said = validate(model, DenoisingLoss(), HeldOut(data()), SETTINGS, company)
        half = replace(SETTINGS, shard=True, time_limit=None)
        stop_halfway(folder / "half shared out", half)
        reasons: list[str | None] = [None, None]
        dist.all_gather_object(reasons, signalled(folder / "signalled"))
        if company.is_first:
            (folder / "untrained.json").write_text(json.dumps([said.loss, *said.errors]))
            (folder / "signalled.json").write_text(json.dumps(reasons))
    (folder / f"later {os.environ['RANK']}.json").write_text(json.dumps(later_companies()))


def later_companies() -> list[float]:
    """One that fails and one that does not, as in a sweep; the second process is late for both."""
    found = []
    for fails in (True, False):
        time.sleep(0.5 * int(os.environ["RANK"]))
        try:
            with in_company(torch.device("cpu")) as company:
                found.append(float(company.sum_(torch.ones(()))))
                if fails:
                    raise FloatingPointError
        except (FloatingPointError, ProcessLost):
            found.append(-1.0)
    return found


def stop_halfway(folder: Path, settings: TrainSettings) -> None:
    """Train the first half of a run, then go away as a kill would."""

    class Away(Exception):
        pass

    class Leaving(DenoisingLoss):
        def __call__(self, model: Any, x: Tensor, *others: Any) -> Tensor:
            if model.training and complete(folder):
                raise Away
            return super().__call__(model, x, *others)

    from physdiff.training import complete_checkpoints

    def complete(run: Path) -> bool:
        return bool(complete_checkpoints(run))

    try:
        train(
            denoiser(), Leaving(), data(), data()[:5], replace(settings, checkpoint_every=settings.steps // 2), folder,
            progress=False,
        )  # fmt: skip
    except Away:
        return


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
