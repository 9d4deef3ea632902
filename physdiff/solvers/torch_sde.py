r"""The reverse stochastic equation by torchsde: strong order 1.5, or steps that adapt to a tolerance.

What is integrated is the whitened state z against x, with log τ = log τ_t − xL from x = 0 at t to x = 1 at s:

    dz = L [−½ η²κ z + ½(1 + η²) κ √V |m| r/S] dx + √(L η²κ) dW,    κ = τ n/V

Its marginal laws are those of the noising for any η, also for one of each mode and time. η = 1 reverses the noising,
but a mode that has forgotten the data is then stirred at its own rate κ, however stiff the physics, and for nothing:
its law stands still. So η² = (1 + (κ/κ_max)⁴)^{−1/4}: modes that are still being noised are reversed, and none is
stirred faster than κ_max per unit of log τ. No rate is large then, the noise of a mode does not depend on the state
("additive"), and the stochastic Runge-Kutta rule of Rößler (2010) has strong order 1.5 at two evaluations. The step to
the clean field, where log τ has no end, follows the reference's flow.

Each sample has a Brownian path of its own, seeded by its own noise: it is the same in any batch. With a tolerance each
sample is solved on its own as well, because torchsde has one step for a batch. Its global draws are undone.

The interval, its tree of Brownian bridges above all, costs more than the arithmetic of small fields
(`experiments/benchmarks/brownian.md`). Use this rule where the path matters, not only its law.

Source: Rößler (2010), table 6.2 (SRA1); Kidger, Foster, Li and Lyons (2021), appendix E, for the Brownian interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, get_args

import torch
import torchsde
from torch import Tensor

from physdiff.path import PathPoint
from physdiff.settings import is_whole
from physdiff.solvers.solver import Noise, ReverseDynamics, Solver, last_step, solvers

Method = Literal["euler", "srk", "heun", "midpoint"]
EVALUATIONS = {"euler": 1, "srk": 2, "heun": 2, "midpoint": 2}
ITO = ("euler", "srk")
KEPT = 4  # drifts that torchsde may ask for again
ROUNDING = 1e-12


@solvers.register
@dataclass(frozen=True)
class TorchSDE(Solver):
    """The reverse equation through torchsde.

    Attributes:
        method: "euler", "srk" (strong order 1.5), "heun" or "midpoint" (of Stratonovich, which is Itô here).
        substeps: Steps between two times of the grid, at least 1; with a tolerance the first one's share.
        tolerance: Error of a step in units of a mode's deviation, relative and absolute, above which it is shortened;
            None for steps as given.
        fastest: κ_max > 0, in units of 1/log τ; infinity for the noising reversed in all modes.
    """

    method: Method = "srk"
    substeps: int = 1
    tolerance: float | None = None
    fastest: float = 4.0

    order: ClassVar[int | None] = 1
    stochastic: ClassVar[bool] = True
    exact_on_gaussian: ClassVar[bool] = False
    adaptive: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.method not in EVALUATIONS:
            raise ValueError(f"TorchSDE: 'method' must be one of {', '.join(get_args(Method))}; got {self.method!r}.")
        if not is_whole(self.substeps, 1):
            raise ValueError(f"TorchSDE: 'substeps' must be a whole number, at least 1; got {self.substeps!r}.")
        if self.tolerance is not None and not (math.isfinite(self.tolerance) and self.tolerance > 0):
            raise ValueError(f"TorchSDE: 'tolerance' must be positive; got {self.tolerance}.")
        if not self.fastest > 0:
            raise ValueError(f"TorchSDE: 'fastest' must be positive; got {self.fastest}.")

    @property
    def evaluations(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]  # a matter of settings
        """Of one step of the method."""
        return EVALUATIONS[self.method]

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(), cls("euler", 2), cls(tolerance=1e-2)

    def step(self, dynamics: ReverseDynamics, y: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        path = dynamics.path
        end = s if s > 0 else torch.tensor(path.t_min, dtype=torch.float64)
        if end < t:
            y = path.at(end).unwhiten(self._solved(dynamics, path.at(t).whiten(y), t, end, noise))
        if s > 0:
            return y
        return last_step(y, dynamics.residual(y, end), path.at(end), path.at(s))

    def _solved(self, dynamics: ReverseDynamics, z: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        """z at s, all samples together, or each by itself where steps depend on the state."""
        area = "space-time" if self.method == "srk" else "none"
        options = {"size": (1, z[0].numel()), "dtype": torch.float64, "levy_area_approximation": area}
        paths = [torchsde.BrownianInterval(0.0, 1.0, entropy=seed, **options) for seed in entropies(noise)]
        parts = [slice(0, len(z))] if self.tolerance is None else [slice(i, i + 1) for i in range(len(z))]
        ends = []
        for rows in parts:
            some = dynamics.only(rows)
            calculus = "ito" if self.method in ITO else "stratonovich"
            equation = ReverseSDE(some, t, s, tuple(z.shape[1:]), self.fastest, calculus)
            ends.append(self._integrated(equation, z[rows], SeparatePaths(paths[rows], z)))
            dynamics.evaluations += some.evaluations
        return torch.cat(ends)

    def _integrated(self, equation: ReverseSDE, z: Tensor, paths: torchsde.BaseBrownian) -> Tensor:
        times = torch.tensor([0.0, 1.0], dtype=torch.float64)
        step = (1 + ROUNDING) / self.substeps  # a last step that rounding leaves over would cost evaluations
        options: dict[str, Any] = {"method": self.method, "dt": step}
        if self.tolerance is not None:
            options |= {"adaptive": True, "rtol": self.tolerance, "atol": self.tolerance}
        devices = [z.device] if z.is_cuda else []
        with torch.random.fork_rng(devices):  # torchsde draws a vector to learn a shape
            ends: Any = torchsde.sdeint(equation, z.flatten(1), times, bm=paths, **options)
        return ends[-1].reshape(z.shape)


class ReverseSDE:
    """The equation in torchsde's words: drift `f` and noise `g_prod` at x ∈ [0, 1] of flat whitened states.

    Args:
        dynamics: The reverse process.
        t: Time at x = 0, shape ().
        s: Time at x = 1, below t, above 0.
        shape: Of the modes of one sample.
        fastest: κ_max.
        sde_type: "ito" or "stratonovich": the same, for the noise does not depend on the state.
    """

    noise_type = "additive"

    def __init__(
        self,
        dynamics: ReverseDynamics,
        t: Tensor,
        s: Tensor,
        shape: tuple[int, ...],
        fastest: float = math.inf,
        sde_type: str = "ito",
    ) -> None:
        self.dynamics, self.shape, self.fastest, self.sde_type = dynamics, shape, fastest, sde_type
        self.t, self.s = t, s
        self.start, self.end = (dynamics.path.at(time).time.log() for time in (t, s))
        self.length = self.start - self.end
        self._recent: list[tuple[float, Tensor, Tensor]] = []

    def f(self, x: Tensor, z: Tensor) -> Tensor:
        """Drift, shape (batch, size); what torchsde asks for again is not evaluated again."""
        for place, state, drift in self._recent:
            if place == float(x) and state is z:
                return drift
        modes, point = z.reshape(-1, *self.shape), self._point(x)
        residual = self.dynamics.residual(point.unwhiten(modes), self._time(x))
        stirred, share = self._stirring(point)
        pull = -(1 + share) * point.time * point.pull_rate
        drift = self.length * (pull.to(z) * residual - 0.5 * stirred.to(z) * modes).flatten(1)
        self._recent = [*self._recent, (float(x), z, drift)][-KEPT:]
        return drift

    def g_prod(self, x: Tensor, z: Tensor, v: Tensor) -> Tensor:
        """Noise of unit noise v, shape (batch, size)."""
        stirred, _ = self._stirring(self._point(x))
        return (self.length * stirred).expand(self.shape).sqrt().flatten().to(v) * v

    def _time(self, x: Tensor) -> Tensor:
        """t, never outside the step, whatever the rounding."""
        log_time = self.start + x.to(torch.float64).cpu() * (self.end - self.start)
        return self.dynamics.path.clock.inverse(log_time.exp()).clamp(self.s, self.t)

    def _point(self, x: Tensor) -> PathPoint:
        return self.dynamics.path.at(self._time(x))

    def _stirring(self, point: PathPoint) -> tuple[Tensor, Tensor]:
        """η²κ, zero outside the support, and η²."""
        support = point.path.reference.support
        noise_rate = point.time * point.path.process.noise_spectrum(point.time)
        rate = torch.where(support, noise_rate / torch.where(support, point.variance, 1.0), 0.0)
        share = (1 + (rate / self.fastest) ** 4) ** -0.25
        return share * rate, share


class SeparatePaths(torchsde.BaseBrownian):
    """The Brownian paths of several samples as one, each from its own interval.

    Intervals are of float64 and on the CPU, whatever the state: another type draws another path from the same seed.

    Args:
        intervals: One a sample, each of size (1, size).
        like: A state, in whose type and on whose device the paths are read.
    """

    __slots__ = ("intervals", "like")

    def __init__(self, intervals: Sequence[torchsde.BrownianInterval], like: Tensor) -> None:
        self.intervals, self.like = intervals, like

    def __call__(self, ta: Any, tb: Any = None, return_U: bool = False, return_A: bool = False) -> Any:
        drawn: list[Any] = [interval(ta, tb, return_U=return_U, return_A=return_A) for interval in self.intervals]
        if not return_U and not return_A:
            return torch.cat(drawn).to(self.like)
        return tuple(torch.cat(parts).to(self.like) for parts in zip(*drawn, strict=True))

    def __repr__(self) -> str:
        return f"SeparatePaths({self.intervals!r})"

    @property
    def dtype(self) -> torch.dtype:
        return self.like.dtype

    @property
    def device(self) -> torch.device:
        return self.like.device

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.intervals), *self.intervals[0].shape[1:])

    @property
    def levy_area_approximation(self) -> str:
        return self.intervals[0].levy_area_approximation


def entropies(noise: Noise) -> list[int]:
    """A whole number for each sample, from the bits of its next normal numbers."""
    bits = noise((2,)).to(torch.float64).cpu().contiguous().view(torch.int64)
    return [abs(int(high)) << 64 | abs(int(low)) for high, low in bits]
