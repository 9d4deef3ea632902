"""Laws of a process: the solution is that of the equation, on symbols and on fields, and the ends are as they must be.

The equation (drift symbol, noise spectrum) is what the author means; gain and variance are held to it by quadrature,
by an ODE solver and by simulating the stochastic equation on fields.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from physdiff import quadrature
from physdiff.clock_fit import fit_clock
from physdiff.gaussian import GaussianField
from physdiff.laws.cases import ProcessCase, as_time, relative_error
from physdiff.laws.law import Measurement, law
from physdiff.path import ReferencePath

TIMES = (0.02, 0.3, 0.7, 1.0)
# Mismatch of the terminal law, nats per degree of freedom, above which a user should know; the fitted clock has 0.01.
WARN_MISMATCH = 0.02


def _small(case: ProcessCase) -> bool:
    return case.process.basis.grid.size <= 40


@law("process")
def solution_solves_the_equation(case: ProcessCase) -> Iterator[Measurement]:
    """Gain and variance are the integrals of the drift symbol and the noise spectrum, by quadrature.

    "log m" speaks of log_gain, "S" of variance. Correct the one that breaks (or the equation that it solves), or delete
    both, and the toolkit solves the equation. An AutonomousProcess must not depend on time; a LinearProcess may. An
    error near 1e-8 is single precision: symbols are float64, as basis.laplacian is.
    """
    p = case.process
    time, since = (p.physical_time(torch.tensor(t, dtype=torch.float64)) for t in ((1.0, 0.7), (0.0, 0.02)))
    integral = quadrature.log_gain(p.drift_symbol, time, since)
    error = (p.log_gain(time, since) - integral).abs() / (1 + integral.abs())
    yield Measurement("error of log m", float(error.max()), 1e-10)
    received = quadrature.variance(p.drift_symbol, p.noise_spectrum, time, since)
    yield Measurement("relative error of S", relative_error(p.variance(time, since), received), 1e-9)


@law("process", follows=True)
def ode_solver_agrees(case: ProcessCase) -> Iterator[Measurement]:
    """Integrating dlog m/dτ = A and dS/dτ = 2 Re A S + n by LSODA gives gain and variance.

    If the laws above hold, the equation changes too fast with time for the quadrature.
    """
    p, shape = case.process, case.process.basis.grid.shape
    chosen = np.unique(np.linspace(0, p.basis.grid.size - 1, 5).astype(int))

    def symbol(values: Tensor) -> np.ndarray:
        return values.expand(torch.broadcast_shapes(values.shape, shape)).reshape(-1).numpy()[chosen]

    def slope(time: float, state: np.ndarray) -> np.ndarray:
        now = as_time(time)
        drift = symbol(p.drift_symbol(now))
        received = 2 * np.real(drift) * state[2 * len(chosen) :] + symbol(p.noise_spectrum(now))
        return np.concatenate([np.real(drift), np.imag(drift), received])

    since = p.physical_time(as_time(0.3))
    fastest = float(p.drift_symbol(since).abs().max())
    time = torch.minimum(p.physical_time(as_time(1.0)), since + 30 / max(fastest, 1e-300))
    span = (float(since), float(time))
    scale = float(symbol(p.noise_spectrum(since)).max()) * (span[1] - span[0])
    start = np.zeros(3 * len(chosen))
    tolerance = np.repeat([1e-10, 1e-10, 1e-12 * scale], len(chosen))
    end = solve_ivp(slope, span, start, method="LSODA", rtol=1e-9, atol=tolerance).y[:, -1]
    real, imaginary, received = np.split(end, 3)
    expected = symbol(p.log_gain(time, since))
    errors = np.abs(real + 1j * imaginary - expected) / (1 + np.abs(expected))
    yield Measurement("error of log m", float(errors.max()), 1e-6)
    variance = symbol(p.variance(time, since))
    differs = received != variance  # modes that receive no noise agree at 0
    error = np.abs(received[differs] / variance[differs] - 1).max(initial=0.0)
    yield Measurement("relative error of S", float(error), 1e-6)


@law("process", follows=True)
def steps_compose(case: ProcessCase) -> Iterator[Measurement]:
    """Two transitions in a row are the one transition, for symbols and for fields.

    log_gain(time, since) and variance(time, since) must hold for any `since`, not for 0 alone.
    """
    p, basis = case.process, case.process.basis
    x = torch.randn((2, 1, *basis.grid.shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for s, t in ((0.3, 1.0), (0.1, 0.6), (0.6, 0.7)):
        first, later, whole = p.kernel(as_time(s)), p.kernel(as_time(t), as_time(s)), p.kernel(as_time(t))
        both = first.then(later)
        yield Measurement("relative error of m", relative_error(both.gain, whole.gain), 1e-10)
        yield Measurement("relative error of S", relative_error(both.variance, whole.variance), 1e-10)
        moved = basis.apply(later.gain, basis.apply(first.gain, x)) - basis.apply(whole.gain, x)
        yield Measurement("difference of the moved fields", float(moved.abs().max()), 1e-12)


@law("process")
def starts_clean(case: ProcessCase) -> Iterator[Measurement]:
    """At t = 0 the gain is 1 and there is no noise, and none just after, or the class declares that there is.

    The gain and the noise of a duration 0 are 1 and 0. A process that begins with noise declares starts_clean = False
    and gives its start_variance.
    """
    p = case.process
    kernel = p.kernel(as_time(0.0))
    yield Measurement("|m − 1|", float((kernel.gain - 1).abs().max()), 0.0)
    yield Measurement("S", float(kernel.variance.abs().max()), 0.0)
    just_after, whole = (p.noise_variance(p.physical_time(as_time(t))) for t in (1e-12, 1.0))
    share = float(just_after.max() / whole.max())
    if p.starts_clean:
        yield Measurement("noise at t = 1e-12, of that at t = 1,", share, 1e-6)
        return
    if share < 1e-6:
        reading = "declares starts_clean = False, but there is no noise at t = 1e-12"
        yield Measurement("share of noise", share, 1e-6, at_least=True, reading=reading)
        return
    error = relative_error(just_after, p.start_variance.expand_as(just_after))
    reading = f"declares that it does not: noise {float(just_after.mean().sqrt()):.3g} per cell from the start"
    if error > 1e-6:
        reading = f"noise at t = 1e-12 is not start_variance: relative error {error:.2g} (must be ≤ 1e-06)"
    yield Measurement("start_variance", max(error, 1e-12), 1e-6, reading=reading)  # not 0: it is to be the one shown


@law("process")
def moments_stay_finite(case: ProcessCase) -> Iterator[Measurement]:
    """Gain and variance are finite, and the variance not negative, from t = 1e-300 to 1 and beyond.

    Write small differences without subtracting: expm1 and log1p; and no 0/0 where a rate or a duration is 0.
    """
    broken, negative = 0, 0.0
    for t in (1e-300, 1e-30, 1e-9, *TIMES, 3.0):
        for since in (None, as_time(t / 2)):
            kernel = case.process.kernel(as_time(t), since)
            finite = torch.isfinite(kernel.gain.abs()).all() & torch.isfinite(kernel.variance).all()
            broken += not bool(finite)
            negative = max(negative, -float(kernel.variance.min()))
    yield Measurement("times with a moment that is not finite", broken, 0)
    yield Measurement("−S", negative, 0.0)


@law("process", lambda case: case.is_default, follows=True)
def coefficients_survive_twelve_decades(case: ProcessCase) -> Iterator[Measurement]:
    """All coefficients of denoiser, solvers and likelihood are finite for data over 12 decades, dead modes too.

    log_gain or variance overflows or loses its digits at a time that such data needs.
    """
    basis, generator = case.process.basis, torch.Generator().manual_seed(1)
    decades = basis.symmetrise(torch.rand((1, *basis.grid.shape), generator=generator, dtype=torch.float64))
    share = (decades - decades.min()) / (decades.max() - decades.min() + 1e-300)
    spectrum = torch.where((share > 0.4) & (share < 0.5), 0.0, 10 ** (-12 * share))
    reference = GaussianField(basis, torch.ones_like(spectrum), spectrum)
    process = fit_clock(replace(case.process, clock=None), reference)
    path = ReferencePath(process, reference, t_min=1e-3)
    points = [path.at(t) for t in (path.t_min, *np.linspace(path.t_min, 1.0, 6)[1:])]
    broken, dead = 0, 0.0
    for point in points:
        values = [
            point.wiener_gain, point.posterior_variance, point.pull_rate, point.angle, point.mean,
            point.push(path.at(0.0)), point.push(points[0]), point.whiten(torch.ones_like(spectrum)),
        ]  # fmt: skip
        broken += sum(int((~torch.isfinite(v)).sum()) for v in values)
        outside = [torch.where(reference.support, 0.0, values[i]).abs().max() for i in (0, 1, 2, 3, 5, 6, 7)]
        dead = max(dead, float(torch.stack(outside).max()))
    yield Measurement("coefficients that are not finite", broken, 0)
    yield Measurement("weight of a dead mode", dead, 0.0)


@law("process")
def real_fields_stay_real(case: ProcessCase) -> Iterator[Measurement]:
    """The symbol at −k is the conjugate of that at k, and the noise is the same at both.

    Build symbols from basis.laplacian (even) and basis.derivative(axis) (odd and imaginary); an odd number of
    derivatives belongs in the imaginary part, an even number in the real one.
    """
    p, basis = case.process, case.process.basis
    for t in TIMES:
        time = p.physical_time(as_time(t))
        drift = p.drift_symbol(time).expand(basis.grid.shape)
        noise = p.noise_spectrum(time).expand(basis.grid.shape)
        imaginary = drift.imag if drift.is_complex() else torch.zeros_like(drift)
        scale = max(float(drift.abs().max()), 1e-300)
        odd = (basis.reflect(imaginary) + imaginary).abs().max() / scale
        even = (basis.reflect(drift.real) - drift.real).abs().max() / scale
        yield Measurement("|A(−k) − Ā(k)|/|A|", float(odd + even), 1e-14)
        yield Measurement("|n(−k)/n(k) − 1|", relative_error(basis.reflect(noise), noise), 1e-12)


@law("process")
def batched_times_agree(case: ProcessCase) -> Iterator[Measurement]:
    """A batch of times gives each of them its own kernel.

    Use torch on `time` as it comes, of shape () or (batch, 1, ..., 1); no float(time), no `if time > ...`.
    """
    shape = case.process.basis.grid.shape
    t, s = torch.tensor(TIMES, dtype=torch.float64), torch.tensor(TIMES, dtype=torch.float64) / 3
    together = case.process.kernel(t, s)
    for i in range(len(TIMES)):
        alone = case.process.kernel(t[i], s[i])
        for what, batch, single in (
            ("m", together.gain, alone.gain),
            ("S", together.variance, alone.variance),
        ):
            mine = batch.expand(len(TIMES), 1, *shape)[i]
            yield Measurement(f"relative error of {what}", relative_error(mine, single.expand(mine.shape)), 1e-12)


@law("process", lambda case: case.is_noised_everywhere)
def perturb_draws_from_the_kernel(case: ProcessCase) -> Iterator[Measurement]:
    """Fields noised by `perturb` and by the kernel have its gain and variance; the noise is the one returned.

    z-scores are in standard errors of the estimate. variance must broadcast to the grid, one number per mode.
    """
    p, basis, n = case.process, case.process.basis, 1000
    shape = (n, 1, *basis.grid.shape)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for t in (0.3, 1.0):
        kernel = p.kernel(as_time(t))
        draws = {
            "perturb": lambda x, t=t: p.perturb(x, as_time(t), torch.Generator().manual_seed(3))[0],
            "kernel.sample": lambda x, k=kernel: k.sample(x, torch.Generator().manual_seed(3)),
        }
        for name, draw in draws.items():
            noise = draw(torch.zeros_like(x))
            moved = basis.forward(draw(x) - noise) - basis.apply(kernel.gain, basis.forward(x))
            yield Measurement(f"error of the gain in {name}", float(moved.abs().max()), 1e-10)
            ratio = basis.forward(noise).var(0) / kernel.variance - 1
            # 5 standard errors: below 1e-4 family-wise over the modes of one case.
            yield Measurement(
                f"largest |z| of {n} variances in {name}", float(ratio.abs().max()) * math.sqrt(n / 2), 5.0
            )
        y, unit = p.perturb(torch.zeros_like(x), as_time(t), torch.Generator().manual_seed(3))
        implied = basis.forward(y).square() - kernel.variance * basis.forward(unit).square()
        yield Measurement("|y² − Sε²|/S", float((implied / kernel.variance).abs().max()), 1e-9)


@law("process", lambda case: _small(case) and case.is_noised_everywhere, follows=True)
def simulation_has_the_moments(case: ProcessCase) -> Iterator[Measurement]:
    """The stochastic equation, simulated on fields, has the mean and the variance of the kernel.

    z-scores in standard errors; Heun's rule for the equation. If the laws above hold, the symbols do not act on real
    fields as meant.
    """
    p, basis, n, steps = case.process, case.process.basis, 500, 32
    time = p.physical_time(as_time(1.0))
    while max(float(p.drift_symbol(time * i / steps).abs().max()) for i in range(steps + 1)) * float(time) > 3:
        time = 0.8 * time
    gain, variance = p.log_gain(time, as_time(0.0)).exp(), p.variance(time, as_time(0.0)).expand(basis.grid.shape)
    generator = torch.Generator().manual_seed(4)
    # Each mode starts ten of its own deviations out: next to a stronger mode's, its error would be many of its own. A
    # mode that receives no noise has no deviation, and no standard error: rounding stands in for it.
    least = 1e-20 * variance.max()
    unit = torch.randn(basis.grid.shape, generator=generator, dtype=torch.float64)
    start = basis.inverse(10 * (variance + least).sqrt() * basis.forward(unit))
    x, h = start.expand(n, 1, *basis.grid.shape), time / steps

    def drift(x: Tensor, now: Tensor) -> Tensor:
        return basis.inverse(basis.apply(p.drift_symbol(now), basis.forward(x)))

    # Heun's rule for additive noise, weak order 2. Its error is (|A|h)²/6 · |A|τ < 0.5 % of m in the fastest mode,
    # 0.2 standard errors of the mean at the most.
    for step in range(steps):
        now, white = step * h, torch.randn(x.shape, generator=generator, dtype=torch.float64)
        # n at mid-step: the mean over the step to second order
        kick = basis.inverse((p.noise_spectrum(now + h / 2) * h).sqrt() * basis.forward(white))
        first = drift(x, now)
        x = x + 0.5 * h * (first + drift(x + h * first + kick, now + h)) + kick
    y = basis.forward(x)
    mean = (y.mean((0, 1)) - basis.apply(gain, basis.forward(start))) / (variance / n + least).sqrt()
    spread = (y.var((0, 1)) - variance) / (variance + least) / math.sqrt(2 / (n - 1))
    # Variances of 500 samples are chi-square, skewed: 5.5 standard errors is 1e-4 family-wise at 40 modes, each side.
    yield Measurement(f"largest |z| of the mean of {n} fields", float(mean.abs().max()), 5.5)
    yield Measurement(f"largest |z| of the variance of {n} fields", float(spread.abs().max()), 5.5)


def _terminal_heading(case: ProcessCase) -> str:
    return "your data at t = 1" if case.is_of_the_user else "terminal law is the reference"


@law("process", heading=_terminal_heading)
def terminal_law_is_the_reference(case: ProcessCase) -> Iterator[Measurement]:
    """At t = 1 the data is forgotten: the bound on KL(p₁ ‖ Gaussian reference carried to t = 1) is small.

    A sample starts from the Gaussian reference carried to t = 1; what the data still has beyond mean and spectrum is
    lost there. Let the clock run longer; a process without a clock is given one that forgets (physdiff.fit_clock). One
    that declares forgets = False keeps its slow modes on purpose.
    """
    path = ReferencePath(case.process, case.reference, 0.5)  # the earliest time does not matter here
    nats = path.terminal_mismatch
    mismatch = nats / case.reference.n_support
    whose = "your data" if case.is_of_the_user else "made-up data"
    reading = (
        f"at most {nats:.2g} nats of {whose} survive to t = 1, {mismatch:.2g} per degree of freedom "
        f"(should be ≤ {WARN_MISMATCH})"
    )
    yield Measurement("nats per degree of freedom", mismatch, WARN_MISMATCH, beyond="warn", reading=reading)


@law("process", follows=True)
def conversions_come_back(case: ProcessCase) -> Iterator[Measurement]:
    """Whitening, rotating and centring are undone by their inverses, and score and noise give back E[x₀ | x].

    log_gain and variance must keep their digits at small and at large times.
    """
    path, basis = case.path, case.process.basis
    generator = torch.Generator().manual_seed(7)
    clean = case.mixture.sample_modes(3, generator)
    for t in (path.t_min, 0.5 * (1 + path.t_min), 1.0):
        point = path.at(t)
        y = point.noised(clean, generator)
        scale = float(y.abs().max())
        for name, back in (
            ("unwhiten(whiten(y)) − y", point.unwhiten(point.whiten(y))),
            ("restore(deviation(y)) − y", point.restore(point.deviation(y))),
            ("unrotate(rotate(y)) − y", point.unrotate(point.rotate(y))),
        ):
            yield Measurement(f"|{name}|/|y|", float((back - y).abs().max()) / scale, 1e-12)
    # At the earliest time, where no mode has decayed beyond recovery.
    mixture, now = case.mixture, as_time(path.t_min)
    kernel = case.process.kernel(now)
    x = basis.inverse(path.at(now).noised(clean, generator))
    wanted, y = mixture(x, now), basis.forward(x)
    for name, step in (
        ("score", kernel.variance * basis.forward(mixture.score(x, now))),
        ("noise", -kernel.variance.sqrt() * basis.forward(mixture.epsilon(x, now))),
    ):
        found = basis.inverse(basis.apply(torch.exp(-kernel.log_gain), y + step))
        yield Measurement(f"|E[x₀|x] from the {name} − E[x₀|x]|", float((found - wanted).abs().max()), 1e-9)


@law("process", follows=True)
def score_is_the_gradient(case: ProcessCase) -> Iterator[Measurement]:
    """On a mixture, score = ∇ log p_t by autograd, and m E[x₀|x] = x + S·score, ε = −√S·score (Tweedie).

    If the laws above hold, this is a fault of the toolkit: please report it.
    """
    mixture = case.mixture
    path, basis = mixture.path, case.process.basis
    generator = torch.Generator().manual_seed(5)
    clean = mixture.sample_modes(3, generator)
    for t in (path.t_min, 0.5 * (1 + path.t_min), 1.0):
        kernel = case.process.kernel(as_time(t))
        x = basis.inverse(path.at(t).noised(clean, generator)).requires_grad_()
        (gradient,) = torch.autograd.grad(mixture.log_prob(basis.forward(x), t).sum(), x)
        score = mixture.score(x.detach(), as_time(t))
        scale = float(gradient.abs().max())
        yield Measurement("|score − ∇log p|/|∇log p|", float((score - gradient).abs().max()) / scale, 1e-8)
        expected = basis.forward(mixture(x.detach(), as_time(t)))
        y = basis.forward(x.detach())
        by_tweedie = y + kernel.variance * basis.forward(gradient)
        moved = basis.apply(kernel.gain, expected)
        yield Measurement("|m E[x₀|x] − x − S∇log p|", float((moved - by_tweedie).abs().max()), 1e-8)
        noise = basis.forward(mixture.epsilon(x.detach(), as_time(t)))
        missed = noise * kernel.variance.sqrt() + kernel.variance * basis.forward(gradient)
        yield Measurement("|√S ε + S∇log p|", float(missed.abs().max()), 1e-8)
