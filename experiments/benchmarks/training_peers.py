"""Training a denoiser beside other libraries: error after equal steps and after equal time.

All methods get the same fields, batches, optimiser (AdamW, constant rate after a warm-up, gradients clipped at 1),
averaged weights and number of steps, in one loop, and about the same number of parameters. Each has the best of three
learning rates, chosen on the validation fields after a quarter of the steps. They are then asked for the clean field
of the very same noisy fields x + σε, from the test split, at seven σ from 0.05 to 5 standard deviations of the data.
The error |D − x|² of each σ is given relative to that of the Wiener filter fitted to the training fields: 1 is what a
Gaussian field's best denoiser reaches. *Mean* is the average of the seven ratios.

- *EDM, our U-Net*: EDM's preconditioning, noise levels and weighting around the same U-Net: what one writes by hand.
- *physdiff*: the residual around the reference under variance-exploding noise, all settings as `physdiff train` has
  them (γ = ½, a whitened copy of the input, every mode weighted as the likelihood does); *simple loss*: the plain mean
  square of what is predicted, log σ drawn evenly, with a scale of the network's output that is partly (γ = ½), wholly
  (γ = 1) or not at all (γ = 0) per mode.
- *azula*: its `UNet`, `KarrasDenoiser` and `loss`; *diffusers DDPM*: its `UNet2DModel` (1-D: `UNet1DModel`), DDPM's
  1,000 steps and loss on ε.

Results are kept by configuration, in `runs/training_peers` and in `training_peers.json`: what is there is not trained
again.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from experiments.benchmarks._denoising_methods import METHODS, Method, Problem, parameters
from experiments.benchmarks._training_page import Found, mean_ratio, page
from experiments.benchmarks._writing import curves, keep, kept, machine
from physdiff import GaussianField, SpectralBasis
from physdiff.atomic import replacing_file
from physdiff.data.fields import load_fields
from physdiff.data.normalise import Standardise
from physdiff.data.recipes import recipe
from physdiff.randomness import keyed_generator
from physdiff.training.augment import shift_at_random

HERE = Path(__file__).parent
CACHE = Path("runs/training_peers")
BASELINE = "EDM, our U-Net"
SIGMAS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
NOISE_LEVEL = 0.01  # below it nothing is modelled
SIGMA_MIN = 0.02
SEEDS = (0, 1, 2)
RATES = (1e-3, 2e-3, 4e-3)
BATCH, WARMUP, CLIP, DECAY = 16, 20, 1.0, 0.995
ROUNDS, BLOCK = 15, 4  # of the timing


@dataclass(frozen=True)
class Case:
    """One data set and the length of its training.

    Attributes:
        recipe: Name of the data's recipe.
        settings: What the recipe is told.
        steps: Of each training, at most 3,000.
        homogeneous: As `data.homogeneous`: constant mean, random shifts.
        skipped: Methods left out for time.
    """

    recipe: str
    settings: dict[str, Any]
    steps: int
    homogeneous: bool
    skipped: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where the data lies."""
        return Path("data") / "_".join([self.recipe, *(str(v) for k, v in self.settings.items() if k == "cells")])

    @property
    def methods(self) -> list[str]:
        """Names of what is compared."""
        return [name for name in METHODS if name not in self.skipped]


VARIANTS = tuple(name for name in METHODS if "simple loss" in name)
CASES = {
    "Burgers 128": Case("burgers", {}, 3000, True),
    "terrain 32²": Case("terrain", {}, 800, False, VARIANTS),
    "turbulence 64²": Case("turbulence", {"cells": 64, "viscosity": 5e-4}, 300, True, VARIANTS),
}
Keeper = Callable[[dict[str, Any], Callable[[], Any]], Any]


def measure(quick: bool = False) -> str:
    """The report, in Markdown; `quick` trains a few steps of one case to try the code, and keeps nothing."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    cases = {"Burgers 128": replace(CASES["Burgers 128"], steps=12)} if quick else CASES
    seeds, rates, rounds = (SEEDS[:1], RATES[1:2], 2) if quick else (SEEDS, RATES, ROUNDS)
    cache = Cache()
    keeper: Keeper = (lambda _, work: work()) if quick else cache
    found: dict[str, Found] = {}
    for name, case in cases.items():
        data = prepared(case)
        runs: dict[str, list[dict[str, Any]]] = {}
        for method in case.methods:
            rate = best_rate(case, data, method, max(1, case.steps // 4), rates, keeper)
            runs[method] = [trained(case, data, method, rate, seed, keeper) for seed in seeds]
            print(f"{time.strftime('%H:%M:%S')} {name}, {method}, rate {rate:g}", flush=True)
        key = {"timing": [case.recipe, case.settings], "parameters": sizes(data, case.methods), "block": BLOCK}
        seconds = keeper(key, lambda data=data, case=case: timed(data, case.methods, rounds))
        found[name] = Found(runs, seconds, BASELINE, SIGMAS)
    if not quick:
        keep("training_peers", {"sigmas": SIGMAS, "machine": machine(), "cache": cache.used})
        for name, each in found.items():
            curves(
                HERE / f"training_peers_{CASES[name].recipe}.png", each.curves(), "steps",
                "error / Wiener filter's, mean over σ", bold="physdiff",
            )  # fmt: skip
    return page(__doc__ or "", found, {name: CASES[name].recipe for name in found})


# ---- data, and what every method is asked


@dataclass(frozen=True)
class Prepared:
    """Fields in units of their standard deviation, and the law fitted to them."""

    problem: Problem
    train: Tensor
    choose: Tensor
    test: Tensor
    homogeneous: bool


def prepared(case: Case) -> Prepared:
    """Data, made if it is not there."""
    if not (case.folder / "data").is_dir():
        recipe(case.recipe).make(case.folder, seed=0, **dict(case.settings))
    splits = {split: load_fields(case.folder, split=split) for split in ("train", "valid", "test")}
    data = splits["train"]
    normaliser = Standardise.fit(data.values, data.names)
    train, valid, test = (normaliser.forward(torch.from_numpy(d.values).double()) for d in splits.values())
    reference = GaussianField.fit(train, SpectralBasis(data.grid), NOISE_LEVEL, case.homogeneous)
    # Where the strongest mode keeps 2 % of its variance from the data, as the default clock ends.
    sigma_max = math.sqrt(49 * float(reference.spectrum.max()))
    problem = Problem(data.grid, reference, SIGMA_MIN, sigma_max)
    return Prepared(problem, train.float(), valid[:64].float(), test[:128].float(), case.homogeneous)


@torch.no_grad()
def errors(denoise: Callable[[Tensor, float], Tensor], clean: Tensor) -> list[float]:
    """Mean squared error per cell at each σ, of the same noise for everyone."""
    found = []
    for sigma in SIGMAS:
        noise = torch.randn(clean.shape, generator=keyed_generator(0, "training peers", str(sigma)))
        pairs = zip(clean.split(64), noise.split(64), strict=True)
        squares = [(denoise(x + sigma * e, sigma) - x).double().square().flatten(1).mean(1) for x, e in pairs]
        found.append(float(f"{float(torch.cat(squares).mean()):.6g}"))
    return found


def wiener(reference: GaussianField) -> Callable[[Tensor, float], Tensor]:
    """μ + c/(c + σ²)(x + σε − μ) per mode."""
    basis = reference.basis

    def denoise(noisy: Tensor, sigma: float) -> Tensor:
        gain = reference.spectrum / (reference.spectrum + sigma**2)
        modes = basis.forward(noisy.double())
        return basis.inverse(reference.mean + gain * (modes - reference.mean))

    return denoise


# ---- training


def trained(case: Case, data: Prepared, method: str, rate: float, seed: int, keeper: Keeper) -> dict[str, Any]:
    """Errors of the averaged weights on the test fields along one training."""
    key = _key(case, data, method, rate, seed, case.steps)
    return keeper(key, lambda: run(data, method, rate, seed, case.steps, data.test))


def best_rate(case: Case, data: Prepared, method: str, steps: int, rates: tuple[float, ...], keeper: Keeper) -> float:
    """Learning rate of the lowest mean error on the validation fields after some steps."""

    def score(rate: float) -> float:
        key = {"choose": _key(case, data, method, rate, 0, steps)}
        short = keeper(key, lambda: run(data, method, rate, 0, steps, data.choose, only_last=True))
        return mean_ratio(short["curve"][-1][1], short["wiener"])

    scores = {rate: score(rate) for rate in rates}
    return min(scores, key=lambda rate: scores[rate])


def run(
    data: Prepared, method: str, rate: float, seed: int, steps: int, asked: Tensor, only_last: bool = False
) -> dict[str, Any]:
    """Train one network; the errors of its averaged weights at some steps."""
    loop = Loop(data, METHODS[method](data.problem, seed), rate, seed)
    wanted = {steps} if only_last else checkpoints(steps)
    curve = [(0, errors(loop.ema.denoise, asked))] if 0 in wanted else []
    begin = time.process_time()
    asking = 0.0
    while loop.step < steps:
        loop.advance()
        if loop.step in wanted:
            stopped = time.process_time()
            curve.append((loop.step, errors(loop.ema.denoise, asked)))
            asking += time.process_time() - stopped
    seconds = time.process_time() - begin - asking
    return {
        "curve": curve, "wiener": errors(wiener(data.problem.reference), asked), "rate": rate, "seed": seed,
        "cpu_seconds": seconds, "parameters": parameters(loop.module),
    }  # fmt: skip


def checkpoints(steps: int) -> set[int]:
    """Steps after which errors are measured: none, then growing by a fifth."""
    found, step = {0, steps}, 10.0
    while step < steps:
        found.add(round(step))
        step *= 1.2
    return found


class Loop:
    """What one writes by hand: forward, loss, backward, clip, AdamW, averaged weights."""

    def __init__(self, data: Prepared, module: Method, rate: float, seed: int) -> None:
        self.data, self.module, self.rate, self.seed, self.step = data, module, rate, seed, 0
        self.ema = copy.deepcopy(module).eval().requires_grad_(False)
        self.trained: list[Tensor] = list(module.parameters())
        self.averaged: list[Tensor] = list(self.ema.parameters())
        self.optimiser = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=0.0)

    def advance(self) -> None:
        """One step."""
        data, generator = self.data, keyed_generator(self.seed, "training peers", self.step)
        torch.manual_seed(generator.initial_seed())  # for losses that draw from the global generator
        x = data.train[torch.randint(len(data.train), (BATCH,), generator=generator)]
        if data.homogeneous:
            x, _ = shift_at_random(data.problem.grid, x, generator)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * min(1.0, (self.step + 1) / WARMUP)
        self.optimiser.zero_grad(set_to_none=True)
        self.module.loss(x, generator).backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), CLIP)
        self.optimiser.step()
        decay = min(DECAY, (1 + self.step) / (10 + self.step))
        get_ema_multi_avg_fn(decay)(self.averaged, self.trained, self.step)
        self.step += 1


def timed(data: Prepared, methods: list[str], rounds: int) -> dict[str, list[float]]:
    """CPU seconds per step of every method, of each round; in turn: what else the machine does falls on all."""
    loops = {method: Loop(data, METHODS[method](data.problem, 0), 1e-3, 0) for method in methods}
    found: dict[str, list[float]] = {method: [] for method in methods}
    for turn in range(rounds + 1):
        for method, loop in loops.items():
            begin = time.process_time()
            for _ in range(BLOCK):
                loop.advance()
            if turn:
                found[method].append(round((time.process_time() - begin) / BLOCK, 6))
    return found


# ---- cache


class Cache:
    """What was measured, by configuration: in a folder while it is measured, then in the benchmark's numbers.

    Attributes:
        used: What was asked for, by the hash of its configuration.
    """

    def __init__(self) -> None:
        self.used: dict[str, Any] = {}
        self.committed = kept("training_peers")["cache"] if (HERE / "training_peers.json").is_file() else {}

    def __call__(self, key: dict[str, Any], work: Callable[[], Any]) -> Any:
        """What was measured for a configuration, or else what the work gives."""
        name = hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=12).hexdigest()
        file = CACHE / f"{name}.json"
        if name in self.committed:
            found = self.committed[name]
        elif file.is_file():
            found = json.loads(file.read_text())
        else:
            found = {"key": key, "found": work()}
            file.parent.mkdir(parents=True, exist_ok=True)
            with replacing_file(file) as partial_file:
                partial_file.write_text(json.dumps(found) + "\n")
        self.used[name] = found
        return found["found"]


def _key(case: Case, data: Prepared, method: str, rate: float, seed: int, steps: int) -> dict[str, Any]:
    return {
        "data": [case.recipe, case.settings], "method": method, "rate": rate, "seed": seed, "steps": steps,
        "sigmas": SIGMAS, "batch": BATCH, "width": data.problem.width, "parameters": sizes(data, [method])[method],
    }  # fmt: skip


def sizes(data: Prepared, methods: list[str]) -> dict[str, int]:
    """Parameters of each method's network."""
    return {method: parameters(METHODS[method](data.problem, 0)) for method in methods}
