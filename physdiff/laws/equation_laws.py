"""Laws of an equation: what must hold before any other question about a process has an answer."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from physdiff.laws.cases import ProcessCase, as_time
from physdiff.laws.law import Measurement, law

LOG_GROWTH = 7.0  # of an amplitude: noise would have to grow to a million times the data's variance to hide it
TIMES = (0.0, 1e-9, 0.02, 0.3, 0.5, 0.7, 1.0)


@law("equation")
def noise_power_is_not_negative(case: ProcessCase) -> Iterator[Measurement]:
    """n(τ) ≥ 0 in every mode at every time: it is the variance that a mode receives.

    Correct noise_spectrum: it returns a variance per unit of time, a square, and no part of it may have the wrong sign.
    """
    p = case.process
    for t in TIMES:
        noise = p.noise_spectrum(p.physical_time(as_time(t)))
        least = float(noise.min())
        worst = int(noise.expand(p.basis.grid.shape).argmin())
        index = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), p.basis.grid.shape))
        reading = f"least n {least:.2g} (must be ≥ 0)"
        if least < 0:
            reading = f"noise_spectrum is {least:.2g} in mode {index} at t = {t:g} (must be ≥ 0)"
        yield Measurement("n", least, 0.0, at_least=True, reading=reading)


@law("equation")
def modes_do_not_grow(case: ProcessCase) -> Iterator[Measurement]:
    """No mode grows without bound: Re A(τ) ≤ 0, but for a little while.

    drift_symbol has the wrong sign if the physics dissipates: the Laplacian ∇² has the symbol −basis.laplacian, so
    heat conduction is −diffusivity·laplacian, friction −rate.
    """
    p = case.process
    end = p.physical_time(as_time(1.0))
    drift = torch.stack([p.drift_symbol(end * i / 8).real.max() for i in range(9)])
    rate, log_growth = float(drift.max()), float(drift.mean() * end)
    growth = f"10^{log_growth / math.log(10):.0f}" if log_growth > 10 else f"{math.exp(max(log_growth, 0.0)):.3g}"
    reading = f"drift_symbol is up to {rate:.3g} per unit of time (should be ≤ 0)"
    if not case.unfit:
        reading += f": a mode grows ×{growth} by t = 1"
    if rate <= 0:
        reading = f"largest Re A {rate + 0.0:.2g} (should be ≤ 0)"
    beyond = "fail" if log_growth > LOG_GROWTH or case.unfit else "warn"
    yield Measurement("Re A", rate, 0.0, beyond=beyond, reading=reading)


def _is_told(case: ProcessCase) -> bool:
    """Whether another law says already why no clock fits."""
    return "noise_spectrum must be" in case.unfit or "grows at the rate" in case.unfit


@law("equation", lambda case: not _is_told(case))
def a_clock_fits_the_data(case: ProcessCase) -> Iterator[Measurement]:
    """Noise begins, and in the end the data is forgotten, so that a time for t = 1 can be chosen.

    A mode is forgotten when it decays (Re A < 0) or when its noise outgrows its signal: give every mode one or the
    other. If some are meant to be kept, declare forgets = False; or give the process a clock of its own.
    """
    p = case.process
    reading = case.unfit.rstrip(".") or f"t = 1 is at τ = {p.running_clock.end:.3g}"
    yield Measurement("clock", math.inf if case.unfit else 0.0, 0.0, reading=reading)
