"""The default clock of a process, chosen from the data's spectrum so that t covers what a denoiser has to learn."""

from __future__ import annotations

from typing import TypeVar

from physdiff.clock import ExponentialClock
from physdiff.gaussian import GaussianField
from physdiff.path import time_of_forgetting, time_of_onset
from physdiff.process import LinearProcess

P = TypeVar("P", bound=LinearProcess)


def fit_clock(process: P, reference: GaussianField, noise_level: float | None = None) -> P:
    """The process with an exponential clock from first noise to forgotten data.

    The clock ends where every mode keeps at most 2 % of its variance from the data, |m|²c/V ≤ 0.02, and turns
    logarithmic where the noise starts to matter, so that equal shares of t are equal shares of log noise.

    Args:
        process: A process; a clock that it has already is kept.
        reference: The Gaussian law of the data.
        noise_level: Where noise starts to matter: standard deviation per cell relative to the data's. None: 10⁻³ of
            the variance in the data's weakest mode.

    Raises:
        ValueError: no physical time meets the condition.
    """
    process = process.with_reference(reference)
    if process.clock is not None:
        return process
    duration = time_of_forgetting(process, reference)
    onset = time_of_onset(process, reference, noise_level)
    if onset >= duration:
        raise ValueError(
            f"{type(process).__name__} forgets the data (τ = {duration:.3g}) before its noise reaches the level asked "
            f"for (τ = {onset:.3g}); lower noise_level or change the settings of the process."
        )
    return process.with_clock(ExponentialClock(duration, onset))
