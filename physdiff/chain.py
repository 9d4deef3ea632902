r"""Chains: a linear process looked at on integer steps j = 0 ... K.

DDPM, NCSN and heat dissipation's levels are no physics of their own. Each is a process and a table of physical times
0 = τ_0 < τ_1 < ... < τ_K, and every coefficient is one of the process:

    q(y_j | y_i) = N(m(τ_j, τ_i) y_i, S(τ_j, τ_i))                                  `kernel(j, i)`
    ᾱ_j = |m_j|²,   β_j = S(τ_j, τ_{j−1})                                           `alpha_bar(j)`, `beta(j)`
    q(y_i | y_j, y_0) = N(on_clean·y_0 + on_noisy·y_j, β̃)                           `posterior(i, j)`

For the variance preserving process, m = e^{−τ/2} and S = 1 − e^{−τ}, these are

    q(x_j | x_{j−1}) = N(√(1 − β_j) x_{j−1}, β_j),   q(x_j | x_0) = N(√ᾱ_j x_0, 1 − ᾱ_j)          (Ho 2020, eq. 2, 4)
    mean = √ᾱ_{j−1} β_j/(1 − ᾱ_j) x_0 + √α_j (1 − ᾱ_{j−1})/(1 − ᾱ_j) x_j                          (eq. 6, 7)
    β̃_j = (1 − ᾱ_{j−1})/(1 − ᾱ_j) β_j                                                            (eq. 7)

and β_j, β̃_j are the two variances that DDPM samples with: right for white data of unit variance and for one known
field. `Ancestral` on `chain.time_grid()` is DDPM's sampler with `uncertainty=0`; with 1 it takes, in every mode, the
variance that the data's spectrum asks for, which is β_j for white data of unit variance.

Where no signal is left at the end (β_K = 1, "zero terminal SNR") τ_K is infinite. The chain takes a finite time there
at which m is 0 to the last bit, so that everything stays finite.

Source: Ho, Jain and Abbeel (2020); Nichol and Dhariwal (2021), eq. 17; Song and Ermon (2019); Rissanen, Heinonen and
Solin (2023); Lin, Liu, Li and Yang (2024).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from physdiff import schedules
from physdiff.basis import Basis
from physdiff.bridge import Bridge, bridge
from physdiff.gaussian import GaussianField
from physdiff.levels import Levels, spaced_levels
from physdiff.path import LATEST, ReferencePath
from physdiff.process import Kernel, LinearProcess
from physdiff.processes.heat_dissipation import HeatDissipation
from physdiff.processes.variance_exploding import VarianceExploding
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.registry import nearest
from physdiff.schedules import TableClock
from physdiff.solvers.reference_splitting import ReferenceSplitting
from physdiff.solvers.suited_grid import suited_grid
from physdiff.solvers.time_grid import TimeGrid

SCHEDULES = ("linear", "cosine")


@dataclass(frozen=True, eq=False)
class Chain:
    """A linear process on integer steps.

    Attributes:
        process: The physics. Its clock is replaced by one with t = j/K at level j, so that `chain.process` serves
            paths, denoisers, solvers and likelihoods as any process does.
        physical_times: τ_0 = 0 < τ_1 < ... < τ_K, shape (K + 1,), float64. The last may be given as infinite for a
            process that forgets every mode, and is finite here.

    Raises:
        ValueError: the times do not start at 0 or do not increase, or the last is infinite for a process that keeps
            some signal.
    """

    process: LinearProcess
    physical_times: Tensor

    def __post_init__(self) -> None:
        times = torch.as_tensor(self.physical_times, dtype=torch.float64).clone()
        if times.ndim != 1 or len(times) < 3 or float(times[0]) != 0 or not bool((times.diff() > 0).all()):
            raise ValueError(
                "Chain needs 'physical_times' of shape (K + 1,), K ≥ 2, that start at 0 and increase; got the shape "
                f"{tuple(times.shape)}, from {times.flatten()[:3].tolist()} to {times.flatten()[-2:].tolist()}."
            )
        if math.isinf(times[-1]):
            times[-1] = _time_without_signal(self.process, after=float(times[-2]))
        object.__setattr__(self, "physical_times", times)
        object.__setattr__(self, "process", self.process.with_clock(TableClock(tuple(times.tolist()))))

    # ---- chains with a name

    @classmethod
    def ddpm(
        cls, basis: Basis, steps: int = 1000, schedule: str = "linear", beta_start: float = 1e-4, beta_end: float = 0.02
    ) -> Chain:
        """Variance preserving with "linear" or "cosine" β; the latter takes no start and end.

        Source: Ho, Jain and Abbeel (2020), section 4; Nichol and Dhariwal (2021), eq. 17.
        """
        if schedule not in SCHEDULES:
            raise ValueError(f"Chain.ddpm: unknown schedule '{schedule}'. {nearest(schedule, SCHEDULES)}")
        linear = schedule == "linear"
        betas = schedules.linear_betas(steps, beta_start, beta_end) if linear else schedules.cosine_betas(steps)
        return cls.from_betas(basis, betas)

    @classmethod
    def from_betas(cls, basis: Basis, betas: Tensor) -> Chain:
        """Variance preserving with a given table β_1 ... β_K in (0, 1), shape (K,); the last may be 1."""
        return cls(VariancePreserving(basis), schedules.physical_times_of(betas))

    @classmethod
    def ncsn(cls, basis: Basis, sigma_min: float, sigma_max: float, levels: int) -> Chain:
        """Variance exploding with `levels` noise levels in geometric steps, σ_1 = sigma_min to σ_K = sigma_max.

        Level 0 is the clean field and level 1 has all of sigma_min² (Song and Ermon, 2019): not Song's later
        stochastic equation, whose noise at time t is σ(t)² − sigma_min² and which therefore starts clean.
        """
        return cls(VarianceExploding(basis), _with_clean(_geometric("ncsn", sigma_min, sigma_max, levels).square()))

    @classmethod
    def heat_dissipation(
        cls, basis: Basis, blur_min: float, blur_max: float, levels: int = 200, noise_level: float = 0.05
    ) -> Chain:
        """Heat dissipation with `levels` widths of the blur in geometric steps.

        Args:
            basis: Where it lives.
            blur_min: Standard deviation of the blur at level 1, length; half a cell in the paper.
            blur_max: At level K, length.
            levels: K.
            noise_level: σ, field units; all levels but the clean one have it.

        Source: Rissanen, Heinonen and Solin (2023), eq. 3 and section 4 (τ = σ_B²/2 there, at unit diffusivity).
        """
        process = HeatDissipation(basis, noise_level=noise_level)
        widths = _geometric("heat_dissipation", blur_min, blur_max, levels)
        return cls(process, _with_clean(widths.square() / (2 * process.diffusivity)))

    @classmethod
    def of(cls, path: ReferencePath, steps: int, time_grid: TimeGrid | None = None) -> Chain:
        """The chain whose levels are where a sample of `steps` steps stops, by default as `sample` does."""
        grid = suited_grid(ReferenceSplitting(), path) if time_grid is None else time_grid
        times = grid.times(path, steps).flip(0)
        return cls(path.process, path.clock.time(times))

    # ---- its coefficients

    @property
    def steps(self) -> int:
        """K."""
        return len(self.physical_times) - 1

    def t(self, level: int) -> Tensor:
        """The diffusion's time j/K, shape ()."""
        if not 0 <= level <= self.steps:
            raise ValueError(f"the levels of this chain are 0 to {self.steps}; got {level}.")
        return torch.tensor(level / self.steps, dtype=torch.float64)

    def kernel(self, later: int, earlier: int = 0) -> Kernel:
        """The law of y_j given y_i, j ≥ i; given the clean field when i is 0."""
        if earlier > later:
            raise ValueError(f"a kernel runs forward: the later level must not be below {earlier}; got {later}.")
        return self.process.kernel(self.t(later), self.t(earlier) if earlier else None)

    def gain(self, level: int) -> Tensor:
        """m_j, real or complex, broadcasts to the grid."""
        return self.kernel(level).gain

    def alpha_bar(self, level: int) -> Tensor:
        """|m_j|², the share of a mode's clean variance that is left."""
        return torch.exp(2 * self.kernel(level).log_gain.real)

    def variance(self, level: int) -> Tensor:
        """S_j, all noise received up to level j."""
        return self.kernel(level).variance

    def beta(self, level: int) -> Tensor:
        """β_j, the noise received in step j ≥ 1."""
        return self.kernel(level, level - 1).variance

    def posterior(self, earlier: int, later: int, stochasticity: float = 1.0) -> Bridge:
        """The law of y_i given y_j and y_0, i < j; at a lower `stochasticity` η the same marginals with less noise."""
        if not earlier < later:
            raise ValueError(f"a posterior runs backward: the earlier level must be below {later}; got {earlier}.")
        since, time = (self.process.physical_time(self.t(level)) for level in (earlier, later))
        return bridge(self.process, since, time, stochasticity)

    # ---- sampling along it

    def path(self, reference: GaussianField) -> ReferencePath:
        """The reference carried along the chain; its earliest time is level 1."""
        return ReferencePath(self.process.with_reference(reference), reference, 1 / self.steps)

    def time_grid(self, spacing: str = "trailing") -> Levels:
        """The time grid of a sample that visits `steps` of the levels: all of them with `sample(steps=chain.steps)`."""
        clock = self.process.running_clock
        assert isinstance(clock, TableClock)
        return Levels(clock, spacing)

    def levels(self, steps: int, spacing: str = "trailing") -> Tensor:
        """The levels that are visited in `steps` steps, decreasing, shape (steps,), int64; see `Levels`."""
        return spaced_levels(self.steps, steps, spacing)


def _geometric(chain: str, first: float, last: float, levels: int) -> Tensor:
    if not (0 < first < last < math.inf and levels >= 2):
        raise ValueError(
            f"Chain.{chain} needs at least 2 levels that grow from a positive to a finite value; got {levels} from "
            f"{first} to {last}."
        )
    return first * (last / first) ** torch.linspace(0, 1, levels, dtype=torch.float64)


def _with_clean(times: Tensor) -> Tensor:
    return torch.cat([torch.zeros(1, dtype=torch.float64), times])


def _time_without_signal(process: LinearProcess, after: float) -> float:
    """A finite physical time beyond `after` at which m is 0 in double precision in every mode."""
    zero = torch.zeros((), dtype=torch.float64)
    time = 1.0
    while math.log(time) < LATEST:
        gain = torch.exp(process.log_gain(torch.tensor(time, dtype=torch.float64), zero).real)
        if time > after and not bool(gain.any()):
            return time
        time *= 2
    raise ValueError(
        f"{type(process).__name__} keeps some signal at any finite time, so the last of 'physical_times' must be "
        "finite; got inf."
    )
