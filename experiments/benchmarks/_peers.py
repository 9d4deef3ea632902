"""Samplers of other libraries on one problem: x + σε of known law, from a largest σ to the clean field.

Every library scales its states in its own way; what they have in common is the noise-to-signal ratio σ. A problem
gives the exact denoiser E[x | x + σε], counts its calls, and a start at σ_max. A sampler gives what it makes of that
start in so many calls.

`pip install --no-deps -r tests/peers/requirements.txt` installs them.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Denoise = Callable[[Tensor, float], Tensor]


@dataclass
class Counted:
    """An exact denoiser that counts its calls.

    Attributes:
        denoise: E[x | x + σε] of states of shape (batch, size), at one σ.
        calls: So far.
    """

    denoise: Denoise
    calls: int = field(default=0)

    def __call__(self, noisy: Tensor, sigma: Any) -> Tensor:
        self.calls += 1
        return self.denoise(noisy, float(torch.as_tensor(sigma).flatten()[0]))


@dataclass(frozen=True)
class Peer:
    """A sampler of another library with one choice of its own options.

    Attributes:
        name: Library and sampler.
        options: What distinguishes this choice: the spacing of the noise levels, as the library calls it.
        run: From (denoise, start at σ_max, σ_max, σ_min, steps) to the end.
        evaluations: Calls of the denoiser in so many steps.
        ends_clean: Whether the end is the clean field; else it is the state at σ_min.
    """

    name: str
    options: str
    run: Callable[[Counted, Tensor, float, float, int], Tensor]
    evaluations: Callable[[int], int] = lambda steps: steps
    ends_clean: bool = True

    def steps(self, evaluations: int) -> int:
        """The most steps that so many calls allow."""
        steps = evaluations
        while steps and self.evaluations(steps) > evaluations:
            steps -= 1
        return steps


def peers() -> list[Peer]:
    """Every sampler that is compared with, with each of its usual spacings."""
    return [*_azula(), *_diffusers(), *_k_diffusion()]


# ---- azula: time in [0, 1], α and σ by a schedule, equal steps of time


def _azula() -> list[Peer]:
    from azula import sample
    from azula.denoise import Denoiser, DiracPosterior
    from azula.noise import VPSchedule

    class Exact(Denoiser):
        def __init__(self, denoise: Counted, schedule: VPSchedule) -> None:
            super().__init__()
            self.denoise, self.schedule = denoise, schedule

        def forward(self, x_t: Tensor, t: Tensor, **_: Any) -> DiracPosterior:
            alpha, sigma = self.schedule(t)
            return DiracPosterior(self.denoise(x_t / alpha, sigma / alpha))

    def runner(sampler: str, **options: Any) -> Callable[[Counted, Tensor, float, float, int], Tensor]:
        def run(denoise: Counted, start: Tensor, sigma_max: float, sigma_min: float, steps: int) -> Tensor:
            schedule = VPSchedule(alpha_min=math.sqrt((1 + sigma_min**2) / (1 + sigma_max**2)), sigma_min=sigma_min)
            alpha = schedule.alpha(torch.tensor(1.0, dtype=torch.float64))
            made = getattr(sample, sampler)(
                Exact(denoise, schedule), steps=steps, silent=True, dtype=torch.float64, **options
            )
            return made(alpha * start)

        return run

    one = [("DDIMSampler", {}), ("REABSampler", {}), *((n, {"order": k}) for n in ("vABSampler", "zEABSampler",
            "xEABSampler") for k in (2, 3))]  # fmt: skip
    found = [
        Peer(f"azula {n}{k.get('order', '')}", "VP, uniform in t", runner(n, **k), ends_clean=False) for n, k in one
    ]
    heun = Peer("azula HeunSampler", "VP, uniform in t", runner("HeunSampler"), lambda n: 2 * n, ends_clean=False)
    return [*found, heun]


# ---- diffusers: a table of β, of which steps pick some


TABLE = 1536  # divisible by all numbers of steps: DDIM here finds its next level by division


def _diffusers() -> list[Peer]:
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

    def table(sigma_max: float, sigma_min: float) -> Tensor:
        """β of a variance-preserving chain whose ratios are geometric from σ_min to σ_max."""
        levels = torch.linspace(math.log(sigma_min), math.log(sigma_max), TABLE, dtype=torch.float64).exp()
        alpha_bar = 1 / (1 + levels**2)
        return 1 - alpha_bar / torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])

    def runner(cls: type, **options: Any) -> Callable[[Counted, Tensor, float, float, int], Tensor]:
        def run(denoise: Counted, start: Tensor, sigma_max: float, sigma_min: float, steps: int) -> Tensor:
            betas = table(sigma_max, sigma_min).numpy()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                scheduler = cls(num_train_timesteps=TABLE, trained_betas=betas, prediction_type="sample", **options)
                scheduler.set_timesteps(steps)
            y: Tensor | None = None
            for i, t in enumerate(scheduler.timesteps):
                ratio = _ratio(scheduler, i, t)
                alpha = 1 / math.sqrt(1 + ratio**2)
                y = alpha * start if y is None else y
                y = scheduler.step(denoise(y / alpha, ratio), t, y).prev_sample
            assert y is not None
            return y

        return run

    def _ratio(scheduler: Any, i: int, t: Tensor) -> float:
        if hasattr(scheduler, "sigmas"):
            return float(scheduler.sigmas[i])
        alpha_bar = float(scheduler.alphas_cumprod[int(t)])
        return math.sqrt((1 - alpha_bar) / alpha_bar)

    spacings = {"uniform log-SNR": {"use_lu_lambdas": True}, "Karras": {"use_karras_sigmas": True},
                "trailing": {"timestep_spacing": "trailing"}}  # fmt: skip
    found = []
    for options, choice in spacings.items():
        for order in (2, 3):
            given = {**choice, "solver_order": order, "final_sigmas_type": "zero"}
            found.append(
                Peer(f"diffusers DPM-Solver++({order}M)", options, runner(DPMSolverMultistepScheduler, **given))
            )
        if "use_lu_lambdas" not in choice:
            given = {**choice, "solver_order": 3, "final_sigmas_type": "zero", "predict_x0": True}
            found.append(Peer("diffusers UniPC-3", options, runner(UniPCMultistepScheduler, **given)))
    ddim = {"timestep_spacing": "trailing", "clip_sample": False, "set_alpha_to_one": True}
    return [*found, Peer("diffusers DDIM", "trailing", runner(DDIMScheduler, **ddim))]


# ---- k-diffusion: states are x + σε themselves


def k_diffusion() -> Any:
    """`k_diffusion.sampling`, without the package's own imports, which need torchvision."""
    if "k_diffusion.sampling" in sys.modules:
        return sys.modules["k_diffusion.sampling"]
    spec = importlib.util.find_spec("k_diffusion")
    assert spec is not None and spec.submodule_search_locations
    package, utils = types.ModuleType("k_diffusion"), types.ModuleType("k_diffusion.utils")
    package.__path__ = list(spec.submodule_search_locations)
    utils.append_dims = lambda x, ndim: x[(..., *(None,) * (ndim - x.ndim))]  # type: ignore[attr-defined]
    package.utils = utils  # type: ignore[attr-defined]
    sys.modules |= {"k_diffusion": package, "k_diffusion.utils": utils}
    name = "k_diffusion.sampling"
    loaded = importlib.util.spec_from_file_location(name, Path(package.__path__[0]) / "sampling.py")
    assert loaded is not None and loaded.loader is not None
    module = importlib.util.module_from_spec(loaded)
    sys.modules[name] = module
    loaded.loader.exec_module(module)
    return module


def _k_diffusion() -> list[Peer]:
    library = k_diffusion()
    spacings = {"Karras": library.get_sigmas_karras, "uniform log-SNR": library.get_sigmas_exponential}

    def runner(sampler: str, spacing: str, **options: Any) -> Callable[[Counted, Tensor, float, float, int], Tensor]:
        def run(denoise: Counted, start: Tensor, sigma_max: float, sigma_min: float, steps: int) -> Tensor:
            sigmas = spacings[spacing](steps, sigma_min, sigma_max).double()
            sigmas[0], sigmas[-2] = sigma_max, sigma_min
            if steps == 1:
                sigmas = torch.tensor([sigma_max, 0.0], dtype=torch.float64)
            return getattr(library, sampler)(denoise, sigma_max * (start / sigma_max), sigmas, disable=True, **options)

        return run

    found = []
    for spacing in spacings:
        found += [
            Peer("k-diffusion dpmpp_2m", spacing, runner("sample_dpmpp_2m", spacing)),
            Peer("k-diffusion lms4", spacing, runner("sample_lms", spacing)),
            Peer("k-diffusion euler", spacing, runner("sample_euler", spacing)),
            Peer("k-diffusion heun", spacing, runner("sample_heun", spacing), lambda steps: 2 * steps - 1),
        ]
    return found
