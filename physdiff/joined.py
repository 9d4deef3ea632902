"""A network joined to the Gaussian world of its data: the denoiser, or under a simulated process the score."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from torch import nn

from physdiff.denoisers import Denoiser, NetworkScore
from physdiff.denoisers.learned_variance import LearnedVariance
from physdiff.denoisers.prediction import Prediction, Residual, described, prediction_of
from physdiff.path import ReferencePath
from physdiff.simulated_path import SimulatedPath


def around(
    network: nn.Module,
    path: ReferencePath | SimulatedPath,
    mode_scaling: float,
    whitened_input: bool,
    prediction: str | Prediction = "residual",
    learned_variance: LearnedVariance | None = None,
) -> Denoiser | NetworkScore:
    """What a network makes of a path: a denoiser, or under a simulated process a score.

    Raises:
        ValueError: a learned variance is asked of a simulated process; and as `Denoiser`.
    """
    if isinstance(path, SimulatedPath):
        if learned_variance is not None:
            raise ValueError("a variance can be learned under a linear process only; this one is simulated.")
        return NetworkScore(network, path, whitened_input)
    return Denoiser(network, path, mode_scaling, whitened_input, prediction, learned_variance)


def how_joined(denoiser: Denoiser | NetworkScore) -> dict[str, Any]:
    """How a network is joined, as plain values; a simulated process's score has one form."""
    told = denoiser.prediction if isinstance(denoiser, Denoiser) else Residual(denoiser.mode_scaling)
    variance = denoiser.learned_variance if isinstance(denoiser, Denoiser) else None
    return {
        "mode_scaling": denoiser.mode_scaling,
        "whitened_input": denoiser.whitened_input,
        "prediction": described(told),
        "learned_variance": None if variance is None else asdict(variance),
    }


def joined_as(network: nn.Module, path: ReferencePath | SimulatedPath, how: dict[str, Any]) -> Denoiser | NetworkScore:
    """The inverse of `how_joined`; a file of an older version says neither prediction nor variance."""
    told = prediction_of(**how.get("prediction", {"given": "residual", "mode_scaling": how["mode_scaling"]}))
    return around(network, path, how["mode_scaling"], how["whitened_input"], told, variance_of(how))


def variance_of(how: dict[str, Any]) -> LearnedVariance | None:
    """The learned variance among the values of `how_joined`, if there is one."""
    settings = how.get("learned_variance")
    return None if settings is None else LearnedVariance(**settings)
