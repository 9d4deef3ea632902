"""What a training run is told: data, physics, network and training, as one file or on the command line."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from physdiff.data.settings import DataSettings
from physdiff.denoisers.learned_variance import LearnedVariance
from physdiff.denoisers.prediction import Mean, Prediction, prediction_of
from physdiff.model import NetworkSettings
from physdiff.objectives.by_name import find, with_settings
from physdiff.objectives.objective import Objective, objectives
from physdiff.objectives.transition import Target, TransitionLoss
from physdiff.training.settings import TrainSettings

__all__ = ["DataSettings", "DenoiserSettings", "ObjectiveSettings", "RunSettings", "SimulationSettings"]


@dataclass(frozen=True)
class DenoiserSettings:
    """How the network is joined to the reference.

    Attributes:
        mode_scaling: γ ∈ [0, 1], the part of the network's scale that is taken per mode; see `physdiff.Denoiser`.
        whitened_input: Whether the network sees a whitened copy of its input as well.
        prediction: What the network is asked for: "residual", "x0", "epsilon", "v", "score" or "mean"; see
            `physdiff.denoisers.prediction`. The mode_scaling is that of "residual".
        mean_steps: Steps of the chain whose posterior mean is predicted, of "mean".
        learned_variance: Variance that further outputs of the network say, for `HybridLoss`; none when not given.
    """

    mode_scaling: float = 0.5
    whitened_input: bool = True
    prediction: str = "residual"
    mean_steps: int = 1000
    learned_variance: LearnedVariance | None = None

    def __post_init__(self) -> None:
        Mean(self.mean_steps)
        self.predicted()  # refuses what it cannot use

    def predicted(self) -> Prediction:
        """What the network is asked for, with its settings."""
        return prediction_of(self.prediction, mode_scaling=self.mode_scaling, steps=self.mean_steps)


@dataclass(frozen=True)
class ObjectiveSettings:
    """What training minimises under a linear process. Every part is a name, or a mapping with `name` and its settings.

    Attributes:
        name: The objective: one of `physdiff.objectives`, or your own as module.Class or file.py:Class.
        weighting: How much each mode counts at each time: "simple", "min_snr", {name: min_snr, gamma: 3}, ...; that of
            the objective when not given.
        times: How times are drawn: "Stratified", "LogNormal", {name: LogNormal, mean: -0.5}, ...; likewise.
        drop_condition: Probability with which a field in training is not told its condition, in [0, 1).
        settings: Further settings of the objective, by name.
    """

    name: str = "DenoisingLoss"
    weighting: str | dict[str, Any] | None = None
    times: str | dict[str, Any] | None = None
    drop_condition: float = 0.0
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.build()  # refuses what it cannot use

    def build(self) -> Objective:
        """The objective.

        Raises:
            ValueError: an unknown name, or a setting that there is not or of the wrong type.
        """
        given = {name: value for name in ("weighting", "times") if (value := getattr(self, name)) is not None}
        if self.drop_condition:
            given["drop_condition"] = self.drop_condition
        for name in given:
            if name in self.settings:
                raise ValueError(f"objective.{name} is given twice, by itself and in objective.settings.")
        cls = TransitionLoss if self.name == TransitionLoss.__name__ else find(objectives, self.name)
        if cls.simulated:
            raise ValueError(
                f"objective.name: {self.name} is for simulated processes, and is chosen for them by itself; its "
                "settings are those of 'simulation'."
            )
        return with_settings(cls, {**self.settings, **given}, "objective")


@dataclass(frozen=True)
class SimulationSettings:
    """How a process with a nonlinear drift is run and learned; without effect under a linear one.

    Attributes:
        target: What the score is regressed on: "euler", "linearised" or "backward"; see `physdiff.TransitionLoss`.
        windows_per_run: Consecutive rows of a batch that share a run, each in a window of its own. Where the rows of a
            process, or of an accumulated part, are a multiple of it, losses are those of a batch that is not split.
        substeps: Steps within a window, of "linearised".
        tolerance: Largest difference between one step and two half steps, in standard deviations of the noise: it sets
            the number of windows.
    """

    target: Target = "euler"
    windows_per_run: int = 8
    substeps: int = 4
    tolerance: float = 0.1

    def __post_init__(self) -> None:
        self.loss()  # refuses what it cannot use
        if not 0 < self.tolerance < math.inf:
            raise ValueError(f"simulation.tolerance must be positive and finite; got {self.tolerance}.")

    def loss(self) -> TransitionLoss:
        """What training minimises."""
        return TransitionLoss(self.target, self.windows_per_run, self.substeps)


@dataclass(frozen=True)
class RunSettings:
    """A training run, but for its process.

    Attributes:
        data: The fields to learn.
        network: The U-Net.
        denoiser: How the network is joined to the reference.
        training: Steps, learning rate, checkpoints.
        simulation: Runs of a nonlinear process.
        objective: What training minimises.
    """

    data: DataSettings
    training: TrainSettings
    network: NetworkSettings = field(default_factory=NetworkSettings)
    denoiser: DenoiserSettings = field(default_factory=DenoiserSettings)
    simulation: SimulationSettings = field(default_factory=SimulationSettings)
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
