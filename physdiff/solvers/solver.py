r"""What a solver is: one step rule from t to s < t, against a denoiser and the reference path.

State between steps is y in modes. A rule declares its order, its evaluations per step and whether it adds noise, and
the laws hold it to all three. s = 0 is the clean field: no rule evaluates the denoiser there, where the noise is gone,
so the last step is first order. A rule is without state: what a multistep rule must know of earlier steps, the
`ReverseDynamics` of the trajectory remembers for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor

from physdiff.condition import Given
from physdiff.denoisers.posterior_mean import Posterior, PosteriorMean
from physdiff.denoisers.reverse_model import ReverseModel
from physdiff.path import PathPoint, ReferencePath
from physdiff.registry import Registry
from physdiff.simulated_path import SimulatedPath

Noise = Callable[[tuple[int, ...]], Tensor]

solvers = Registry("solver")


@dataclass(frozen=True)
class Evaluation:
    """What a model said at the start of an earlier step.

    Attributes:
        t: Time of the evaluation, shape ().
        value: What the rule made of it: a residual or a velocity, shape (batch, channels, *grid).
        length: Of the step from there, in a coordinate of the rule's own, if it has one.
        moved: What that step added to the state, for a rule that corrects it later.
    """

    t: Tensor
    value: Tensor
    length: Tensor | None = None
    moved: Tensor | None = None


class ReverseDynamics:
    """All that a solver ever sees: the Gaussian world and what a model adds to it, along one trajectory of a batch.

    Args:
        model: Whose reverse process it is.
        condition: Passed on to the model.

    Attributes:
        evaluations: Calls of the model so far.
        past: What a multistep rule remembers of earlier steps, oldest first; empty at the start of a trajectory.
    """

    def __init__(self, model: ReverseModel, condition: Given | None = None) -> None:
        self.gaussian: ReferencePath | SimulatedPath = model.path
        self._model = model
        self._condition = condition
        self.evaluations = 0
        self.past: list[Evaluation] = []

    def remember(
        self, t: Tensor, value: Tensor, keep: int, length: Tensor | None = None, moved: Tensor | None = None
    ) -> None:
        """Append an `Evaluation` to `past`, of which the newest `keep` stay."""
        self.past = [*self.past, Evaluation(t, value, length, moved)][-keep:]

    def only(self, rows: slice) -> ReverseDynamics:
        """The reverse process of some samples of the batch, with a count and a past of its own."""
        return ReverseDynamics(self._model, None if self._condition is None else self._condition[rows])

    @property
    def path(self) -> ReferencePath:
        """The reference under a linear process."""
        assert isinstance(self.gaussian, ReferencePath)
        return self.gaussian

    def residual(self, modes: Tensor, t: Tensor) -> Tensor:
        """E[y₀ | y] − W(y) in modes at one time t, shape (), under a linear process."""
        assert isinstance(self._model, PosteriorMean)
        self.evaluations += 1
        return self._model.residual(modes, t, self._condition)

    def posterior(self, modes: Tensor, t: Tensor) -> Posterior:
        """Residual and Var[y₀ | y] as the model has it, by one evaluation, under a linear process."""
        assert isinstance(self._model, PosteriorMean)
        self.evaluations += 1
        return self._model.posterior(modes, t, self._condition)

    def move(self, modes: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """What z moves by between t and s, with what the model says at (modes, t) held still; under any process."""
        self.evaluations += 1
        return self._model.move(modes, t, s, self._condition)

    def velocity(self, z: Tensor, time: Tensor) -> Tensor:
        """dz/dlog τ of whitened modes at one physical time τ, shape (); under any process."""
        self.evaluations += 1
        return self._model.velocity(z, time, self._condition)


@dataclass(frozen=True)
class Solver(ABC):
    """One step rule.

    Attributes:
        order: Order of convergence in the largest step (of the weak error for stochastic rules); None for a rule whose
            error more steps do not take away.
        evaluations: Model evaluations per step.
        stochastic: Whether steps draw noise.
        exact_on_gaussian: Whether the law of its samples of Gaussian data is exact in any number of steps.
        any_process: Whether it runs under simulated processes too, and not under linear ones only.
        multistep: Whether it uses evaluations of earlier steps: a step is then no map of the state alone.
        start_evaluations: Evaluations beyond `evaluations` per step that a trajectory needs to get started.
        adaptive: Whether it takes steps of its own between the times it is given, to a tolerance: `order` and
            `evaluations` are then those of one of them.
    """

    order: ClassVar[int | None]
    evaluations: ClassVar[int]
    stochastic: ClassVar[bool]
    exact_on_gaussian: ClassVar[bool]
    any_process: ClassVar[bool] = False
    multistep: ClassVar[bool] = False
    start_evaluations: ClassVar[int] = 0
    adaptive: ClassVar[bool] = False

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Settings on which the laws try the rule: all that differ in kind."""
        return (cls(),)

    @abstractmethod
    def step(self, dynamics: ReverseDynamics, y: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        """Modes at s < t from modes y at t, shape (batch, channels, *grid), float64.

        Args:
            dynamics: The reverse process.
            y: State at t.
            t: Time now, shape ().
            s: Time after the step, shape ().
            noise: `noise(shape)` gives unit normal noise of shape (batch, *shape).
        """


def last_step(y: Tensor, residual: Tensor, here: PathPoint, clean: PathPoint) -> Tensor:
    """To the clean field along the reference's flow, with the residual frozen.

    The denoiser itself, E[y₀ | y], would lack the spread that the noise at this time still hides.
    """
    return clean.unwhiten(here.whiten(y) + here.push(clean).to(y) * residual)
