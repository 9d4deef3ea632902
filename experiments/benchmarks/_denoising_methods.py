r"""Ways to train a denoiser of fields under isotropic noise, x + σε, of this and of other libraries.

Every method states its loss on clean fields of unit variance, and what it then says of x + σε. All are trained by one
loop, and asked about the very same noisy fields. `sigma_min` and `sigma_max` are the range of noise that each is given
where it can be given one.

`pip install --no-deps -r tests/peers/requirements.txt` installs the other libraries.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from physdiff import GaussianField, Grid, ReferencePath, fit_clock
from physdiff.clock import ExponentialClock
from physdiff.config import DenoiserSettings
from physdiff.denoisers import Denoiser
from physdiff.networks import UNet
from physdiff.objectives import DenoisingLoss
from physdiff.objectives.times import Stratified
from physdiff.objectives.weighting import Simple
from physdiff.processes.variance_exploding import VarianceExploding

# Karras et al. (2022), table 1: log σ ~ N(−1.2, 1.2²) for data of standard deviation 0.5. Ours is 1: the same ratios of
# noise to signal are log 2 higher.
LOG_MEAN, LOG_SPREAD = -1.2 + math.log(2), 1.2


@dataclass(frozen=True)
class Problem:
    """What every method is given.

    Attributes:
        grid: Where the fields live.
        reference: The Gaussian law fitted to the normalised training fields.
        sigma_min: Smallest noise, in standard deviations of the data.
        sigma_max: Largest.
        width: Features of the finest level of our U-Net; peers take the width of nearest parameter count.
    """

    grid: Grid
    reference: GaussianField
    sigma_min: float
    sigma_max: float
    width: int = 16

    def unet(self, whitened: bool, seed: int) -> UNet:
        """The network of the preset `tiny`, but for its width."""
        copies = 2 if whitened else 1
        return UNet(self.grid, 1, self.width, multipliers=(1, 2, 2), blocks=1, input_channels=copies, seed=seed)

    def share(self, sigma: Tensor) -> Tensor:
        """log σ between its smallest, 0, and its largest, 1."""
        return torch.log(sigma / self.sigma_min) / math.log(self.sigma_max / self.sigma_min)


class Method(nn.Module, ABC):
    """A denoiser and its loss."""

    @abstractmethod
    def loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """To be minimised, shape (), of clean fields (batch, 1, *grid); torch's global generator is seeded as well."""

    @abstractmethod
    def denoise(self, noisy: Tensor, sigma: float) -> Tensor:
        """E[x | x + σε] of fields (batch, 1, *grid)."""


Make = Callable[[Problem, int], Method]


class Ours(Method):
    """The residual around the reference, under variance-exploding noise.

    Args:
        problem: What is learned.
        seed: Of the network's weights.
        denoiser: How the network is joined to the reference; `physdiff train`'s defaults if not given.
        objective: What is minimised; likewise.
    """

    def __init__(
        self, problem: Problem, seed: int, denoiser: DenoiserSettings | None = None,
        objective: DenoisingLoss | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        denoiser = denoiser or DenoiserSettings()
        onset = problem.sigma_min**2
        clock = ExponentialClock(problem.sigma_max**2, onset)
        process = fit_clock(VarianceExploding(problem.reference.basis, clock=clock), problem.reference)
        t_min = float(clock.inverse(torch.tensor(onset, dtype=torch.float64)))
        path = ReferencePath(process, problem.reference, t_min)
        copied = denoiser.whitened_input
        self.denoiser = Denoiser(problem.unet(copied, seed), path, denoiser.mode_scaling, copied, denoiser.predicted())
        self.objective = objective or DenoisingLoss()

    def loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return self.objective(self.denoiser, x, generator).mean()

    def denoise(self, noisy: Tensor, sigma: float) -> Tensor:
        t = self.denoiser.path.clock.inverse(torch.tensor(sigma**2, dtype=torch.float64))
        return self.denoiser(noisy.double(), t)


class SameUNetEDM(Method):
    """EDM's preconditioning, noise levels and weighting, around our U-Net, as its paper states them.

    σ_data is measured: 1 after normalisation. The U-Net is given log σ between 0 and 1, as its embedding wants
    it, where the paper has ¼ log σ.

    Source: Karras et al. (2022), table 1 and eq. 8.
    """

    def __init__(self, problem: Problem, seed: int) -> None:
        super().__init__()
        self.problem = problem
        self.network = problem.unet(False, seed)
        self.sigma_data = float(problem.reference.spectrum.mean().sqrt())

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        s = sigma.reshape(-1, *[1] * (noisy.ndim - 1))
        total = s**2 + self.sigma_data**2
        answer = self.network(noisy * total.rsqrt(), self.problem.share(sigma))
        return self.sigma_data**2 / total * noisy + s * self.sigma_data * total.rsqrt() * answer

    def loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        sigma = torch.exp(LOG_MEAN + LOG_SPREAD * torch.randn(len(x), generator=generator))
        s = sigma.reshape(-1, *[1] * (x.ndim - 1))
        noisy = x + s * torch.randn(x.shape, generator=generator)
        weight = (s**2 + self.sigma_data**2) / (s * self.sigma_data) ** 2
        return (weight * (self(noisy, sigma) - x) ** 2).mean()

    def denoise(self, noisy: Tensor, sigma: float) -> Tensor:
        return self(noisy, torch.full((len(noisy),), sigma))


class Azula(Method):
    """azula's `UNet`, `KarrasDenoiser` and its `loss`, log σ uniform between the ends."""

    def __init__(self, problem: Problem, seed: int) -> None:
        from azula.denoise import KarrasDenoiser
        from azula.nn.layers import SineEncoding
        from azula.nn.unet import UNet as AzulaUNet
        from azula.noise import VESchedule

        class Backbone(nn.Module):
            def __init__(self, width: int) -> None:
                super().__init__()
                self.encoding = SineEncoding(4 * width)
                self.unet = AzulaUNet(
                    1, 1, hid_channels=(width, 2 * width, 2 * width), hid_blocks=(1, 1, 1), mod_features=4 * width,
                    spatial=problem.grid.ndim, periodic="periodic" in problem.grid.boundary,
                )  # fmt: skip

            def forward(self, x: Tensor, log_ratio: Tensor) -> Tensor:
                return self.unet(x, self.encoding(log_ratio))

        super().__init__()
        self.problem = problem
        backbone = of_nearest_size(Backbone, range(8, 40, 2), problem, seed)
        self.denoiser = KarrasDenoiser(backbone, VESchedule(problem.sigma_min, problem.sigma_max))

    def loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return self.denoiser.loss(x, torch.rand(len(x), generator=generator))

    def denoise(self, noisy: Tensor, sigma: float) -> Tensor:
        t = self.problem.share(torch.tensor(sigma)).expand(len(noisy))
        return self.denoiser(noisy, t).mean


class Diffusers(Method):
    """diffusers' `UNet2DModel` or `UNet1DModel` with DDPM's loss on ε: its scheduler's 1,000 steps, linear β."""

    def __init__(self, problem: Problem, seed: int) -> None:
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

        super().__init__()
        self.flat = problem.grid.ndim == 1
        build = _diffusers_1d if self.flat else _diffusers_2d(problem.grid.shape)
        self.network = of_nearest_size(build, range(4, 40, 2), problem, seed)
        self.scheduler = DDPMScheduler(num_train_timesteps=1000, clip_sample=False)
        alpha_bar = self.scheduler.alphas_cumprod.double()
        self.log_ratio = 0.5 * torch.log((1 - alpha_bar) / alpha_bar).numpy()

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        # The 1-D network's random waves want a time of order one.
        return self.network(x, step / 1000 if self.flat else step).sample

    def loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        step = torch.randint(1000, (len(x),), generator=generator)
        noise = torch.randn(x.shape, generator=generator)
        noisy = self.scheduler.add_noise(x, noise, step)  # type: ignore[arg-type]
        return (self(noisy, step) - noise).square().mean()

    def denoise(self, noisy: Tensor, sigma: float) -> Tensor:
        """At the step, not a whole one, whose ratio of noise to signal is σ."""
        step = float(np.interp(math.log(sigma), self.log_ratio, np.arange(1000)))
        noise = self(noisy / math.sqrt(1 + sigma**2), torch.full((len(noisy),), step))
        return noisy - sigma * noise


def _diffusers_1d(width: int) -> nn.Module:
    from diffusers.models.unets.unet_1d import UNet1DModel

    return UNet1DModel(
        sample_size=128, in_channels=1, out_channels=1, extra_in_channels=2 * width,
        down_block_types=("DownBlock1DNoSkip", "DownBlock1D", "DownBlock1D"),
        up_block_types=("UpBlock1D", "UpBlock1D", "UpBlock1DNoSkip"),
        block_out_channels=(width, width, 32),  # its attention has one head for 32 features, and needs one
    )  # fmt: skip


def _diffusers_2d(shape: tuple[int, ...]) -> Callable[[int], nn.Module]:
    from diffusers.models.unets.unet_2d import UNet2DModel

    def build(width: int) -> nn.Module:
        return UNet2DModel(
            sample_size=shape[0], in_channels=1, out_channels=1, down_block_types=("DownBlock2D",) * 3,
            up_block_types=("UpBlock2D",) * 3, block_out_channels=(width, 2 * width, 2 * width), layers_per_block=1,
            norm_num_groups=math.gcd(width, 4), add_attention=False,
        )  # fmt: skip

    return build


def of_nearest_size(build: Callable[[int], Any], widths: range, problem: Problem, seed: int) -> Any:
    """The network whose number of parameters is nearest, by ratio, to that of our U-Net."""
    wanted = parameters(problem.unet(True, seed))
    width = min(widths, key=lambda w: abs(math.log(parameters(build(w)) / wanted)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(width)


def parameters(network: nn.Module) -> int:
    """Numbers that are trained."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


SIMPLE = DenoisingLoss(weighting=Simple(), times=Stratified())
METHODS: dict[str, Make] = {
    "EDM, our U-Net": SameUNetEDM,
    "physdiff": Ours,
    "physdiff, simple loss, γ = ½": lambda problem, seed: Ours(problem, seed, DenoiserSettings(0.5), SIMPLE),
    "physdiff, simple loss, γ = 1": lambda problem, seed: Ours(problem, seed, DenoiserSettings(1.0), SIMPLE),
    "physdiff, simple loss, γ = 0, no copy": lambda problem, seed: Ours(
        problem, seed, DenoiserSettings(0.0, whitened_input=False), SIMPLE
    ),
    "azula": Azula,
    "diffusers DDPM": Diffusers,
}
