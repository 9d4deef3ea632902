"""Laws of a semilinear process: its runs solve its equation, and its end is Gaussian because it says why.

The equation is integrated by other means (an adaptive Runge-Kutta rule, small Euler-Maruyama steps); a reaction that
claims to conserve a Gaussian law is held to Liouville's equation, and the likelihood to what follows from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from physdiff.clock_fit import FADED
from physdiff.denoisers import GaussianScore
from physdiff.laws.law import Measurement, law
from physdiff.laws.semilinear_cases import SemilinearCase
from physdiff.likelihood import log_likelihood
from physdiff.semilinear import SemilinearProcess
from physdiff.solvers import sample
from physdiff.trace import ExactTrace

RUNS = 3000


def _fields(case: SemilinearCase, n: int, seed: int) -> Tensor:
    return case.reference.sample(n, torch.Generator().manual_seed(seed))


def _early(case: SemilinearCase) -> float:
    """A physical time by which much has happened, and the reaction has not faded."""
    end = case.process.running_clock.end
    return min(end, case.process.fades_over or end) / 4


def _rate(process: SemilinearProcess, modes: Tensor, time: Tensor) -> Tensor:
    return process.basis.apply(process.drift_symbol(), modes) + process.reaction_of_modes(modes, time)


@law("reaction")
def symbols_make_sense(case: SemilinearCase) -> Iterator[Measurement]:
    """The linear part is bound: no mode grows without end, and no noise is negative.

    The drift symbol must not have a positive real part in a mode that gets noise, nor noise_spectrum a negative value.
    """
    p = case.process
    yield Measurement("growth rate of a mode", float(p.drift_symbol().real.max()), 0.0)
    yield Measurement("largest −n", float(-p.noise_spectrum().min()), 0.0)


@law("reaction")
def reaction_is_a_map_of_fields(case: SemilinearCase) -> Iterator[Measurement]:
    """The reaction keeps shapes, treats each field of a batch alone, and can be differentiated.

    Write it with torch operations on x of shape (batch, channels, *grid), without loops over the batch, in-place
    changes or numpy.
    """
    p, x = case.process, _fields(case, 3, 1)
    time = torch.tensor(_early(case), dtype=torch.float64)
    whole = p.reaction(x, time)
    yield Measurement("axes that changed", float(whole.shape != x.shape), 0.0)
    alone = p.reaction(x[:1], time)
    scale = float(whole.abs().max()) + 1e-300
    yield Measurement(
        "change of a field when its batch-mates leave", float((whole[:1] - alone).abs().max()) / scale, 1e-12
    )
    direction = _fields(case, 3, 2)
    tangent = torch.func.jvp(lambda y: p.reaction(y, time), (x,), (direction,))[1]
    step = 1e-5
    slope = (p.reaction(x + step * direction, time) - p.reaction(x - step * direction, time)) / (2 * step)
    yield Measurement("derivative against differences", float((tangent - slope).abs().max()) / scale, 1e-6)


@law("reaction")
def runs_stay_finite(case: SemilinearCase) -> Iterator[Measurement]:
    """Noisy runs from fields of about unit variance do not blow up.

    A reaction must be damped for large fields, as −x³ is, or be weak beside the friction of the linear part.
    """
    end = case.process.running_clock.end
    times = torch.cat([torch.zeros(1), torch.logspace(-4, 0, 65)]).to(torch.float64) * end
    modes = case.process.basis.forward(_fields(case, 16, 9))
    generator, largest = torch.Generator().manual_seed(9), 0.0
    for a, b in pairwise(times):
        noise = torch.randn(modes.shape, generator=generator, dtype=torch.float64)
        modes = case.process.step(modes, a, b, noise, case.reference.support)
        largest = float(modes.abs().max())
        if not math.isfinite(largest):
            yield Measurement(f"largest mode at τ = {float(b):.3g}", math.inf, 1e6)
            return
    yield Measurement("largest mode", largest, 1e6)


@law("semilinear")
def steps_solve_the_equation(case: SemilinearCase) -> Iterator[Measurement]:
    """Without noise, steps converge at first order to the solution of dx/dτ = Ax + N by an adaptive rule."""
    p = case.process
    y, length = p.basis.forward(_fields(case, 2, 3)), _early(case)

    def slope(time: float, state: np.ndarray) -> np.ndarray:
        modes = torch.from_numpy(state).reshape(y.shape)
        return _rate(p, modes, torch.tensor(time, dtype=torch.float64)).flatten().numpy()

    exact = solve_ivp(slope, (0.0, length), y.flatten().numpy(), method="DOP853", rtol=1e-9, atol=1e-11).y[:, -1]
    goal, errors = torch.from_numpy(exact).reshape(y.shape), {}
    for steps in (16, 32):
        modes = y
        for a, b in pairwise(torch.linspace(0, length, steps + 1, dtype=torch.float64)):
            modes = p.step(modes, a, b, None)
        errors[steps] = float((modes - goal).norm() / goal.norm())
    yield Measurement("relative error in 32 steps", errors[32], 0.1)
    if errors[32] > 1e-7:  # else reaction and linear part commute, and there is no error to converge
        order = math.log2(errors[16] / errors[32])
        yield Measurement(f"order {order:.2f}, off 1", abs(order - 1), 0.3)


@law("semilinear")
def moments_are_those_of_the_equation(case: SemilinearCase) -> Iterator[Measurement]:
    """Mean and variance of noisy runs are those of small Euler-Maruyama steps on the equation."""
    p = case.process
    fastest = float(p.drift_symbol().abs().max())
    length = min(_early(case), 5 / max(fastest, 1e-300))
    modes, both = p.basis.forward(_fields(case, RUNS, 4)), []
    alive = case.reference.support
    for scheme, steps in (("exponential", 24), ("Euler-Maruyama", 240)):
        generator, y = torch.Generator().manual_seed(len(scheme)), modes
        for a, b in pairwise(torch.linspace(0, length, steps + 1, dtype=torch.float64)):
            noise = torch.randn(y.shape, generator=generator, dtype=torch.float64) * alive
            if scheme == "exponential":
                y = p.step(y, a, b, noise, alive)
            else:
                rate = torch.where(alive, _rate(p, y, a), 0.0)
                y = y + (b - a) * rate + ((b - a) * p.noise_spectrum()).sqrt() * noise
        both.append(y)
    # The runs start from the same fields, but their noise is independent.
    for name, power in (("mean", 1), ("second moment", 2)):
        first, second = (y**power for y in both)
        error = ((first.var(0) + second.var(0)) / RUNS).sqrt()
        z = ((first.mean(0) - second.mean(0)) / error)[alive]
        yield Measurement(f"|z| of the {name}, of {int(alive.sum())} modes", float(z.abs().max()), 4.5)


@law("semilinear", lambda case: case.process.conserves)
def reaction_conserves_the_stationary_law(case: SemilinearCase) -> Iterator[Measurement]:
    """Liouville: div N = Σ y N/c for the law N(0, c) that the linear part holds, and energy and volume each on its own.

    A reaction that claims to conserve must be truncated where its products alias, and the noise must balance the
    damping: n = 2θc.
    """
    p, c = case.process, case.stationary_spectrum
    alive = c > 0
    unit = torch.randn((4, 1, *p.basis.grid.shape), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    root = c.sqrt()
    for time in (0.0, _early(case), p.running_clock.end):
        now = torch.tensor(time, dtype=torch.float64)

        def whitened(z: Tensor, now: Tensor = now) -> Tensor:
            rate = p.reaction_of_modes(root * z, now)
            return torch.where(alive, rate / torch.where(alive, root, 1.0), rate)

        yield from _conserved(whitened, unit, alive)


def _conserved(whitened: Callable[[Tensor], Tensor], unit: Tensor, alive: Tensor) -> Iterator[Measurement]:
    """Energy, volume and leakage of a rate in whitened modes."""
    size = unit[0].numel()
    rate, divergence = ExactTrace.of(whitened, unit, torch.ones(unit.shape[1:], dtype=torch.bool))
    scale = float(rate.flatten(1).norm(dim=1).mean()) + 1e-300
    work = (unit * rate).flatten(1).sum(1)
    yield Measurement("energy produced, relative", float(work.abs().max()) / (scale * math.sqrt(size)), 1e-12)
    yield Measurement("volume produced, relative", float(divergence.abs().max()) / scale, 1e-12)
    outside = float(torch.where(alive, 0.0, rate).abs().max()) / scale
    yield Measurement("reaction in modes without noise, relative", outside, 1e-12)


@law("semilinear", lambda case: case.process.conserves)
def density_at_rest_is_exact(case: SemilinearCase) -> Iterator[Measurement]:
    """Data with the stationary law keeps it: the likelihood carried through the nonlinear flow is the Gaussian's."""
    law_at_rest = case.at_rest.law(0.2)
    x = law_at_rest.sample(3, torch.Generator().manual_seed(6))
    found = log_likelihood(GaussianScore(case.at_rest), x, scored="state", rtol=1e-7, atol=1e-8)
    error = (found.log_prob - law_at_rest.log_prob(x)).abs().max()
    yield Measurement("nats per degree of freedom", float(error) / law_at_rest.n_support, 1e-6)
    moved = (found.latent - case.at_rest.at(0.2).whiten(case.process.basis.forward(x))).abs().max()
    yield Measurement("distance by which states moved, in standard deviations", float(moved), 1e-3, at_least=True)


@law("semilinear")
def end_is_gaussian_by_design(case: SemilinearCase) -> Iterator[Measurement]:
    """At t = 1 the reaction conserves the end's Gaussian law or has faded; else sampling starts from a wrong law.

    Set `conserves` where that is true, or let the reaction fade: a setting `fading_time`, and `fading(time,
    self.fading_time)` as a factor of the reaction.
    """
    p = case.process
    if p.conserves:
        yield Measurement("", 0.0, 0.0, reading="the reaction conserves the stationary law")
        return
    x = _fields(case, 16, 7)
    start, end = (p.reaction(x, torch.tensor(t, dtype=torch.float64)) for t in (0.0, p.running_clock.end))
    left = float(end.norm() / (start.norm() + 1e-300))
    yield Measurement("share of the reaction that is left", left, math.exp(-FADED) * 1.01, beyond="warn")


@law("semilinear")
def flow_there_and_back(case: SemilinearCase) -> Iterator[Measurement]:
    """The probability flow carried to t = 1 and back returns where it was, and densities are finite."""
    law_of_states = case.path.law(0.2)
    x = law_of_states.sample(2, torch.Generator().manual_seed(8))
    found = log_likelihood(GaussianScore(case.path), x, scored="state", rtol=1e-6, atol=1e-7, roundtrip=True)
    assert found.roundtrip_error is not None
    yield Measurement("error of the round trip", float(found.roundtrip_error.max()), 1e-3)
    yield Measurement("densities that are not finite", float((~found.log_prob.isfinite()).sum()), 0.0)


@law("semilinear")
def samples_stay_finite(case: SemilinearCase) -> Iterator[Measurement]:
    """Run backwards with the Gaussian score, which is wrong far from the data as a learned one is, samples stay finite.

    A reaction that pulls large fields in faster than linearly, as −x³ does, pushes them out to infinity on the way
    back: let it grow no faster than x for large x (physdiff.semilinear.saturated_cube).
    """
    try:
        largest = float(sample(GaussianScore(case.path), 16, steps=32).abs().max())
    except FloatingPointError:
        largest = math.inf
    yield Measurement("largest value of 16 samples", largest, 1e3, beyond="warn")
