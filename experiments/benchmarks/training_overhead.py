"""What the training loop and the objective cost beside a bare loop: time of a step, in pairs.

The same network (U-Net, width 16), data, batch (16) and optimiser; one thread, or one GPU where there is one.

- *full loop*: `physdiff.training.train` with all it does: keyed noise, random shifts, checks that nothing is infinite,
  averaged weights, clipping, log, progress.
- *bare, same objective*: forward, loss, backward, clip, AdamW (fused), averaged weights (one fused call), nothing
  else; the loss is the library's. What is left over is the loop's.
- *bare, EDM by hand*: the same bare loop with EDM's loss in single precision, about thirty lines that know no
  reference: what the mathematics of the residual costs is in the ratio too.

The three take turns in blocks of steps within one run: each block of the full loop is compared with the mean of the
bare blocks before and after it, and the median of these ratios is given with its quartiles. Times are CPU times, the
GPU's by the wall clock. Checkpoints (every 500 steps unless told) are timed by themselves.
"""

from __future__ import annotations

import copy
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from experiments.benchmarks._denoising_methods import Problem, SameUNetEDM
from experiments.benchmarks._writing import keep, machine, table
from physdiff import Denoiser, GaussianField, Grid, ReferencePath, SpectralBasis, fit_clock
from physdiff.objectives import DenoisingLoss
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.training import TrainSettings, train
from physdiff.training.augment import shift_at_random

GRIDS = ((128,), (32, 32), (64, 64))
FIELDS, BATCH, PAIRS = 256, 16, 20
SECONDS = 1.0  # of a block, about
FULL, SAME, EDM = "full loop", "bare, same objective", "bare, EDM by hand"

Loss = Callable[[Tensor, torch.Generator], Tensor]


def measure(quick: bool = False) -> str:
    """The report, in Markdown; `quick` tries the code on the smallest grid and keeps nothing."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    grids, pairs, seconds = (GRIDS[:1], 2, 0.05) if quick else (GRIDS, PAIRS, SECONDS)
    found = [{"device": device, "grid": "x".join(map(str, shape)), **compare(shape, device, pairs, seconds)}
             for device in devices for shape in grids]  # fmt: skip
    if not quick:
        keep("training_overhead", {"machine": machine(), "rows": found})
    return page(found)


def compare(shape: tuple[int, ...], device: str, pairs: int, seconds: float) -> dict[str, Any]:
    """Seconds per step of the three loops, block by block."""
    grid = Grid(shape)
    reference = GaussianField.power_law(SpectralBasis(grid), 3.0)
    fields = reference.sample(FIELDS, torch.Generator().manual_seed(0)).float().to(device)
    problem = Problem(grid, reference, 0.02, 50.0)
    bare = {SAME: ours(grid, reference, problem, device), EDM: by_hand(problem, device)}
    loops = {name: Bare(module, loss, fields) for name, (module, loss) in bare.items()}
    block = max(2, round(seconds / timed(lambda: loops[SAME].block(3)) * 3))
    taken: dict[str, list[float]] = {FULL: [], SAME: [], EDM: []}
    since = [0.0]

    def now() -> float:
        """CPU seconds of this process, which others on the machine hardly change; a GPU's by the wall clock."""
        if device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def turn(_: object) -> None:
        taken[FULL].append((now() - since[0]) / block)
        for name, loop in loops.items():
            begin = now()
            loop.block(block)
            taken[name].append((now() - begin) / block)
        since[0] = now()

    module, _ = ours(grid, reference, problem, device)

    steps = (pairs + 2) * block
    settings = TrainSettings(
        steps, BATCH, log_every=block, checkpoint_every=steps, validate_every=steps, weight_decay=0.0
    )
    with tempfile.TemporaryDirectory() as folder:
        since[0] = now()
        train(
            module, DenoisingLoss(), fields, None, settings, Path(folder), augment=partial(shift_at_random, grid),
            progress=False, on_log=turn,
        )  # fmt: skip
        end = now() - since[0]  # the last step's checkpoint
    ratios = {name: _paired(taken[FULL], taken[name]) for name in loops}
    return {"block": block, "seconds": {name: median(x[1:]) for name, x in taken.items()}, "checkpoint": end,
            "ratios": ratios}  # fmt: skip


def _paired(full: list[float], bare: list[float]) -> list[float]:
    """Each block of the full loop over the mean of its neighbours; the first two warm up."""
    return [ours / (0.5 * (before + after)) for ours, (before, after) in zip(full[2:], pairwise(bare[1:]), strict=True)]


class Bare:
    """A loop by hand around one loss."""

    def __init__(self, module: nn.Module, loss: Loss, data: Tensor) -> None:
        self.module, self.loss, self.data = module, loss, data
        self.ema = copy.deepcopy(module).eval().requires_grad_(False)
        self.trained: list[Tensor] = list(module.parameters())
        self.averaged: list[Tensor] = list(self.ema.parameters())
        self.optimiser = torch.optim.AdamW(self.trained, lr=2e-3, weight_decay=0.0, fused=True)
        self.generator = torch.Generator().manual_seed(0)
        self.average = get_ema_multi_avg_fn(0.999)

    def block(self, steps: int) -> None:
        """So many steps."""
        for _ in range(steps):
            rows = torch.randint(len(self.data), (BATCH,), generator=self.generator)
            x = self.data[rows.to(self.data.device)]
            self.optimiser.zero_grad(set_to_none=True)
            self.loss(x, self.generator).backward()
            nn.utils.clip_grad_norm_(self.trained, 1.0)
            self.optimiser.step()
            self.average(self.averaged, self.trained, 0)


def ours(grid: Grid, reference: GaussianField, problem: Problem, device: str) -> tuple[Denoiser, Loss]:
    """The residual denoiser at its defaults, and its loss on shifted fields."""
    path = ReferencePath(fit_clock(VariancePreserving(reference.basis), reference, 0.05), reference)
    module = Denoiser(problem.unet(True, 0), path, 1.0, True).to(device)
    objective = DenoisingLoss()
    return module, lambda x, g: objective(module, shift_at_random(grid, x, g)[0], g).mean()


def by_hand(problem: Problem, device: str) -> tuple[SameUNetEDM, Loss]:
    """EDM around the same network, and its loss."""
    module = SameUNetEDM(problem, 0).to(device)
    return module, module.loss


def timed(work: Callable[[], None]) -> float:
    """CPU seconds of the second time."""
    work()
    begin = time.process_time()
    work()
    return time.process_time() - begin


def page(found: list[dict[str, Any]]) -> str:
    """The tables, in Markdown."""
    rows = []
    for row in found:
        cells = []
        for name in (SAME, EDM):
            low, middle, high = quantiles(row["ratios"][name], n=4)
            cells.append(f"{middle:.3f} ({low:.3f} to {high:.3f})")
        rows.append([
            row["device"], row["grid"], *(f"{1e3 * row['seconds'][name]:.1f}" for name in (FULL, SAME, EDM)), *cells,
            f"{row['checkpoint'] / row['seconds'][FULL]:.1f}",
        ])  # fmt: skip
    head = ["device", "grid", *(f"{name}, ms a step" for name in (FULL, SAME, EDM)),
            f"{FULL} / {SAME}", f"{FULL} / {EDM}", "a checkpoint, in steps"]  # fmt: skip
    worst = {name: max(median(row["ratios"][name]) for row in found) for name in (SAME, EDM)}
    told = (
        f"**Found.** The full loop takes at most {worst[SAME]:.3f} of the time of a bare one with the same objective, "
        f"at most {worst[EDM]:.3f} of that of a bare one with EDM's loss (medians, the worst grid; goal: 1.05).\n\n"
        "**What it does not show.** Runs on several processes, conditions, validation and drawn samples; other widths: "
        "the objective's share falls as the network grows.\n"
    )
    return "\n".join([
        "# Overhead of training\n", "`python -m experiments.benchmarks training_overhead` writes this page.\n",
        f"Machine: {machine()}.\n", (__doc__ or "").split("\n", 1)[1].strip() + "\n", table(head, rows), told,
    ])  # fmt: skip
