"""The default clock of a process, chosen from the data's spectrum so that t covers what a denoiser has to learn."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor

from physdiff.clock import ExponentialClock
from physdiff.gaussian import GaussianField
from physdiff.path import time_of_forgetting, time_of_onset
from physdiff.process import ForwardProcess, LinearProcess
from physdiff.semilinear import SemilinearProcess

P = TypeVar("P", bound=ForwardProcess)
FADED = 4.0  # times the fading time until a reaction no longer matters, e⁻⁴ = 2 %
EARLY = 1e-3  # physical time at which an author's symbols are looked at
MOST_GROWTH = 44.0  # of log |m|: beyond it, |m|² is no number of single precision, in which networks are trained


def fit_clock(process: P, reference: GaussianField, noise_level: float | None = None) -> P:
    """The process with an exponential clock from first noise to forgotten data.

    The clock ends where every mode keeps at most 2 % of its variance from the data, |m|²c/V ≤ 0.02, and turns
    logarithmic where the noise starts to matter, so that equal shares of t are equal shares of log noise. Under a
    semilinear process both are those of its linear part, and where the reaction fades the end waits for that.

    Args:
        process: A process; a clock that it has already is kept.
        reference: The Gaussian law of the data.
        noise_level: Where noise starts to matter: standard deviation per cell relative to the data's. None: 10⁻³ of
            the variance in the data's weakest mode.

    Raises:
        ValueError: no physical time meets the condition; a mode grows without bound; a symbol of the process is of the
            wrong shape or value.
    """
    process = process.with_reference(reference)
    linear, waits = process, 0.0
    if isinstance(process, SemilinearProcess):
        linear, waits = process.linear, FADED * (process.fades_over or 0.0)
        _check_noise(process, reference)
    assert isinstance(linear, LinearProcess)
    shape, owner = tuple(reference.spectrum.shape), type(process).__name__
    check_symbols(linear, shape, owner)
    if process.clock is not None:
        _check_growth(linear, process.clock.end, shape, owner)
        return process
    duration = waits + time_of_forgetting(linear, reference)
    _check_growth(linear, duration, shape, owner)
    onset = time_of_onset(linear, reference, noise_level)
    if onset >= duration:
        raise ValueError(
            f"{type(process).__name__} forgets the data (τ = {duration:.3g}) before its noise reaches the level asked "
            f"for (τ = {onset:.3g}); lower noise_level or change the settings of the process."
        )
    return process.with_clock(ExponentialClock(duration, onset))


def _check_noise(process: SemilinearProcess, reference: GaussianField) -> None:
    """Raise if a mode in which the data varies gets no noise, ever."""
    silent = reference.support & (process.noise_spectrum() == 0)
    if bool(silent.any()):
        index = tuple(int(i) for i in silent.nonzero()[0][1:])
        raise ValueError(
            f"{type(process).__name__} gives no noise to {int(silent.sum())} of the {reference.n_support} modes in "
            f"which the data varies, the first at index {index} of the grid"
            + (" (the mean of each field): subtract it." if not any(index) else ".")
        )


def check_symbols(process: LinearProcess, shape: tuple[int, ...], owner: str) -> None:
    """Raise unless drift and noise are finite tensors for modes of shape (channels, *grid), the noise real and >= 0."""
    time = torch.tensor(EARLY, dtype=torch.float64)
    for method in ("drift_symbol", "noise_spectrum"):
        name = f"{owner}.{method}"
        symbol: Any = getattr(process, method)(time)
        if not isinstance(symbol, Tensor):
            raise ValueError(f"{name} must return a torch tensor; got {type(symbol).__name__}.")
        got = tuple(symbol.shape)
        if not _broadcasts(got, shape):
            raise ValueError(
                f"{name} has shape {got} at a time of shape (); expected one that broadcasts to {shape[1:]} (the grid) "
                f"or to {shape} (channels, grid)."
            )
        if not bool(symbol.isfinite().all()):
            bad = int((~symbol.isfinite()).sum())
            raise ValueError(
                f"{name} must be finite; got {bad} of {symbol.numel()} values that are not, at τ = {EARLY}."
            )
        if method == "noise_spectrum" and (symbol.is_complex() or bool((symbol < 0).any())):
            found = "complex values" if symbol.is_complex() else f"{float(symbol.min()):.4g}"
            raise ValueError(f"{name} must be real and at least 0; got {found} at τ = {EARLY}.")


def _check_growth(process: LinearProcess, end: float, shape: tuple[int, ...], owner: str) -> None:
    """Raise if a mode has outgrown every number by t = 1; a little growth, or for a while, may be hidden by noise."""
    zero = torch.zeros((), dtype=torch.float64)
    grown = process.log_gain(torch.tensor(end, dtype=torch.float64), zero).real.expand(shape)
    most = int(grown.argmax())
    log_growth = float(grown.flatten()[most])
    if log_growth > MOST_GROWTH:
        _, *mode = (int(i) for i in torch.unravel_index(torch.tensor(most), shape))
        raise ValueError(
            f"{owner} grows at the rate {log_growth / end:.3g} per unit of time in mode {tuple(mode)}, and never "
            "forgets the data: drift_symbol should be ≤ 0, and has the wrong sign if the physics dissipates."
        )


def _broadcasts(got: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    fits = (n in (1, wanted) for n, wanted in zip(reversed(got), reversed(shape), strict=False))
    return len(got) <= len(shape) and all(fits)
