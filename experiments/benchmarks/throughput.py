"""Fields per second of the U-Net's presets, and the share of the device's matrix rate that they reach.

On a GPU: presets base and large on 64², 128², 256² and 64³; without one: tiny and small on small grids, so that the
code runs everywhere. Eager and compiled, in float32 and bfloat16, and with channels last. Per setting:

- *training*: objective, backward, clipping, AdamW (fused) and averaged weights; *network*: one evaluation without
  gradient; *sampling*: whole samples in 8 steps of the default solver; *density*: log-densities by 8 steps of the
  fourth-order rule with one probe (32 evaluations with a derivative along the probe).
- *share*: multiply-adds of the network (counted, three evaluations for a training step), two operations each, over the
  rate of a large matrix product of the same type measured in the same run. Float32 is compared with the product as
  torch's own settings compute it.
- *memory*: most that was allocated during training, GPU only.

Without a GPU, seconds are CPU seconds. What is measured is kept setting by setting in `throughput.json`, by device: a
run that is stopped goes on. The profiles are of training steps, device time by operation.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.profiler import ProfilerActivity, profile

from experiments.benchmarks._writing import keep, kept, machine, table
from physdiff import (
    Denoiser,
    GaussianField,
    Grid,
    Hutchinson,
    ReferencePath,
    SpectralBasis,
    fit_clock,
    log_likelihood,
    sample,
)  # fmt: skip
from physdiff.networks.cost import Cost, cost
from physdiff.networks.presets import preset
from physdiff.objectives import DenoisingLoss
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.training import TrainSettings
from physdiff.training.computing import computing_as, lay_out
from physdiff.training.settings import Precision

HERE = Path(__file__).parent
TOP = 12  # operations of a profile
NOT_SHOWN = """**What it does not show.** Reading and augmenting data, checkpoints, validation and more than one device;
other networks than the U-Net. The share counts multiply-adds of convolutions, linear maps and attention alone, as if
normalisation, activations, transforms and the optimiser were free: what is missing from 100 % is theirs, memory's and
the launching of kernels. Batches are those that were tried, halved where memory ran out; larger ones may be faster.
"""


@dataclass(frozen=True)
class Setting:
    """One network on one grid, computing in one way.

    Attributes:
        preset: Of the U-Net.
        grid: Cells along each axis.
        batch: Fields at once; halved until they fit.
        precision: "float32" or "bfloat16".
        compiled: Whether by torch.compile.
        channels_last: Layout.
    """

    preset: str
    grid: tuple[int, ...]
    batch: int
    precision: str = "float32"
    compiled: bool = False
    channels_last: bool = False

    @property
    def way(self) -> str:
        """How it computes, in words."""
        parts = [self.precision, "compiled" if self.compiled else "eager"]
        return ", ".join([*parts, *(["channels last"] if self.channels_last else [])])

    def training(self) -> TrainSettings:
        """As `physdiff train` is told it."""
        precision = cast(Precision, self.precision)
        return TrainSettings(1, precision=precision, compile=self.compiled, channels_last=self.channels_last)


WAYS = (("float32", False, False), ("float32", True, False), ("bfloat16", False, False), ("bfloat16", True, False),
        ("bfloat16", True, True))  # fmt: skip


def measure(quick: bool = False) -> str:
    """The report, in Markdown; `quick` tries the code on a few cells and keeps nothing."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", str(torch.get_num_threads()))))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else machine()
    stored: dict[str, Any] = {} if quick or not (HERE / "throughput.json").is_file() else kept("throughput")
    own = stored.setdefault(name, {"rates": {}, "rows": {}, "profiles": {}})
    settings = [Setting("tiny", (16, 16), 2), Setting("tiny", (8, 8, 8), 1, "bfloat16")] if quick else wanted(device)

    def store() -> None:
        if not quick:
            keep("throughput", stored)

    if not own["rates"]:
        own["rates"] = {str(kind)[6:]: matrix_rate(kind, device, quick) for kind in (torch.float32, torch.bfloat16)}
    for setting in settings:
        key = f"{setting.preset} {'x'.join(map(str, setting.grid))} {setting.way}"
        if key in own["rows"]:
            continue
        row = measured(setting, device, 0.02 if quick else 2.0)
        own["rows"][key] = {**asdict(setting), "way": setting.way, **row}
        store()
        print(f"{time.strftime('%H:%M:%S')} {key}: {row}", flush=True)
    for setting in settings[-1:] if quick else profiled(device):
        key = f"{setting.preset} {'x'.join(map(str, setting.grid))} {setting.way}"
        if key not in own["profiles"]:
            own["profiles"][key] = operations(setting, device)
            store()
    return page(stored)


def wanted(device: str) -> list[Setting]:
    """All settings of a device."""
    sizes = (
        {(64, 64): 64, (128, 128): 32, (256, 256): 16, (64, 64, 64): 4}
        if device == "cuda" else {(128,): 16, (32, 32): 16, (16, 16, 16): 4}
    )  # fmt: skip
    presets = ("base", "large") if device == "cuda" else ("tiny", "small")
    ways = WAYS if device == "cuda" else WAYS[:1]
    return [
        Setting(size, grid, batch, *way)
        for grid, batch in sizes.items() for size in presets for way in ways if len(grid) > 1 or not way[2]
    ]  # fmt: skip


def profiled(device: str) -> list[Setting]:
    """Settings of which a profile is taken."""
    if device == "cpu":
        return [Setting("tiny", (32, 32), 16)]
    return [Setting("large", (128, 128), 32, "bfloat16", compiled) for compiled in (False, True)]


# ---- one setting


class Bench:
    """A model with random fields, and what is done with it."""

    def __init__(self, setting: Setting, device: str) -> None:
        self.setting, self.device = setting, device
        self.grid = Grid(setting.grid)
        reference = GaussianField.matern(SpectralBasis(self.grid), 0.2)
        path = ReferencePath(fit_clock(VariancePreserving(reference.basis), reference, 0.05), reference)
        network = preset(setting.preset, self.grid, 1, input_channels=2)
        self.model = Denoiser(network, path, 1.0, whitened_input=True).to(device)
        lay_out(self.model, setting.training())
        self.fields = reference.sample(setting.batch, torch.Generator().manual_seed(0)).float().to(device)
        self.objective = DenoisingLoss()
        self.parameters: list[Tensor] = list(self.model.parameters())
        self.averaged = [p.detach().clone() for p in self.parameters]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=1e-4, fused=True)
        self.average = get_ema_multi_avg_fn(0.999)
        self.generator = torch.Generator().manual_seed(0)

    def cost(self) -> Cost:
        """Counted, of the network."""
        return cost(lambda: preset(self.setting.preset, self.grid, 1, input_channels=2), self.grid, 2)

    def train(self) -> None:
        """One step."""
        self.optimiser.zero_grad(set_to_none=True)
        self.objective(self.model, self.fields, self.generator).mean().backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.average(self.averaged, self.parameters, 0)

    @torch.no_grad()
    def evaluate(self) -> None:
        """The network alone."""
        field = torch.cat([self.fields, self.fields], 1)
        self.model.network(field, torch.full((len(field),), 0.5, device=self.device))

    def sample(self) -> None:
        """A batch of samples."""
        sample(self.model, len(self.fields), steps=8, seed=0)

    def density(self) -> None:
        """Log-densities of a batch."""
        log_likelihood(self.model, self.fields, trace=Hutchinson(1), method="rk4", steps=8, seed=0)


def measured(setting: Setting, device: str, seconds: float) -> dict[str, Any]:
    """Fields per second of each use, and the memory of training; smaller batches until they fit."""
    while True:
        try:
            return _measured(setting, device, seconds)
        except torch.cuda.OutOfMemoryError:
            if setting.batch == 1:
                return {"fits": False}
            setting = Setting(**{**asdict(setting), "batch": setting.batch // 2})
        finally:
            gc.collect()
            if device == "cuda":
                torch.cuda.empty_cache()


def _measured(setting: Setting, device: str, seconds: float) -> dict[str, Any]:
    bench = Bench(setting, device)
    counted = bench.cost()
    found: dict[str, Any] = {"fits": True, "batch": setting.batch, "parameters": counted.parameters,
                             "multiply_adds": counted.multiply_adds}  # fmt: skip
    with computing_as(bench.model, setting.training()):
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        begin = now(device)
        bench.train()
        found["first_step_seconds"] = now(device) - begin
        found["training"] = setting.batch / per_call(bench.train, device, seconds)
        if device == "cuda":
            found["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        bench.model.eval()
        bench.optimiser.zero_grad(set_to_none=True)
        found["network"] = setting.batch / per_call(bench.evaluate, device, seconds)
        found["sampling"] = setting.batch / per_call(bench.sample, device, seconds)
        # A forward derivative of a compiled graph is another graph: densities are scored without compiling.
        if not setting.compiled:
            found["density"] = setting.batch / per_call(bench.density, device, seconds)
    return found


def per_call(work: Callable[[], None], device: str, seconds: float) -> float:
    """Median of the seconds of a call, of as many as fit in a time, three at least; the first two are not counted."""
    for _ in range(2):
        work()
    taken: list[float] = []
    end = now(device) + seconds
    while len(taken) < 3 or (now(device) < end and len(taken) < 200):
        begin = now(device)
        work()
        taken.append(now(device) - begin)
    return sorted(taken)[len(taken) // 2]


def now(device: str) -> float:
    """Seconds by the wall when a GPU has done all; without one, CPU seconds of a thread, which others hardly change."""
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() / torch.get_num_threads()


def matrix_rate(kind: torch.dtype, device: str, quick: bool) -> float:
    """Operations per second of a large square product."""
    n = 256 if quick else 8192 if device == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device).to(kind) for _ in range(2))

    def product() -> None:
        torch.mm(a, b)

    return 2 * n**3 / per_call(product, device, 0.02 if quick else 2.0)


def operations(setting: Setting, device: str) -> list[tuple[str, float]]:
    """Share of the device's time of the operations that take most of it, in training steps."""
    bench = Bench(setting, device)
    with computing_as(bench.model, setting.training()):
        for _ in range(3):
            bench.train()
        now(device)
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
        with profile(activities=kinds) as found:
            for _ in range(3):
                bench.train()
            now(device)
    times = {
        event.key: event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
        for event in found.key_averages()
    }
    total = sum(times.values())
    return [(name, times[name] / total) for name in sorted(times, key=lambda n: -times[n])[:TOP]]


# ---- words


def page(stored: dict[str, Any]) -> str:
    """The tables of every device that was measured, in Markdown."""
    parts = [
        "# Throughput\n", "`python -m experiments.benchmarks throughput` writes this page.\n",
        (__doc__ or "").split("\n", 1)[1].strip() + "\n",
    ]  # fmt: skip
    for device, found in stored.items():
        rates = ", ".join(f"{kind} {rate / 1e12:.3g} T operations/s" for kind, rate in found["rates"].items())
        parts += [f"## {device}\n", f"Matrix products: {rates}.\n", _rows(found)]
        for key, shares in found["profiles"].items():
            rows = [[f"`{name[:90]}`", f"{100 * share:.1f} %"] for name, share in shares]
            parts += [f"Training, {key}:\n", table(["operation", "share of time"], rows)]
    return "\n".join([*parts, NOT_SHOWN])


def _rows(found: dict[str, Any]) -> str:
    rows = []
    for row in found["rows"].values():
        name = [row["preset"], "x".join(map(str, row["grid"])), row["way"], str(row["batch"])]
        if not row["fits"]:
            rows.append([*name, "does not fit", *[""] * 6])
            continue
        operations_of = {"training": 6.0, "network": 2.0}
        rate = found["rates"][row["precision"]]
        shares = [f"{100 * row[use] * n * row['multiply_adds'] / rate:.1f} %" for use, n in operations_of.items()]
        rows.append([
            *name, f"{row['training']:.3g}", shares[0], f"{row['network']:.3g}", shares[1], f"{row['sampling']:.3g}",
            f"{row['density']:.3g}" if "density" in row else "",
            f"{row['memory_gib']:.1f}" if "memory_gib" in row else "",
        ])  # fmt: skip
    head = ["preset", "grid", "way", "batch", "training, 1/s", "share", "network, 1/s", "share", "sampling, 1/s",
            "density, 1/s", "memory, GiB"]  # fmt: skip
    return table(head, rows)
