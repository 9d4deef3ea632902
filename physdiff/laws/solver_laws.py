"""Laws of a step rule: exact where it says so, convergent at the order it declares, and no more evaluations than that.

Gaussian data is carried as mean and covariance through the exact affine map of each step, so nothing here is sampled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from physdiff.denoisers import EmpiricalDenoiser, GaussianDenoiser, MixtureDenoiser
from physdiff.gaussian import GaussianField
from physdiff.laws.cases import ProcessCase, SolverCase, as_time, bimodal
from physdiff.laws.law import Measurement, law
from physdiff.laws.stepping import affine_map, carried, dense_symbol
from physdiff.path import PathPoint, ReferencePath
from physdiff.randomness import SampleNoise
from physdiff.solvers import Ancestral, LogSpaced, ReverseDynamics, Uniform

SLOPE_TOLERANCE = 0.15
SURPLUS = 0.6  # by which an order above 2 may be exceeded: less than to the next one
MOST_STEPS = 256
ROUNDING = 1e-10  # standard deviations


def _exact(case: SolverCase) -> bool:
    return case.solver.exact_on_gaussian


def _deterministic(case: SolverCase) -> bool:
    return not case.solver.stochastic


def _stochastic(case: SolverCase) -> bool:
    return case.solver.stochastic


def _stepping(case: SolverCase) -> bool:
    """Whether its steps are those that it is told to take."""
    return not case.solver.adaptive


def _ordered(case: SolverCase) -> bool:
    return _stepping(case) and case.solver.order is not None


def _start(path: ReferencePath) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the modes at t = 1."""
    end = path.at(1.0)
    return end.mean.flatten(), torch.diag(end.variance.flatten())


@law("solver", _exact)
def gaussian_law_is_exact(case: SolverCase) -> Iterator[Measurement]:
    """Samples of Gaussian data have its mean and covariance in 1, 2 and 5 steps."""
    path, reference = case.path, case.reference
    root = reference.spectrum.flatten().sqrt()
    for steps, grid in ((1, LogSpaced()), (2, LogSpaced()), (5, LogSpaced()), (5, Uniform())):
        mean, covariance = carried(case.solver, GaussianDenoiser(path), grid.times(path, steps), *_start(path))
        whitened = covariance / (root * root.unsqueeze(1)) - torch.eye(len(root), dtype=torch.float64)
        yield Measurement("covariance, whitened, minus 1", float(whitened.abs().max()), 1e-9)
        missed = (mean - reference.mean.flatten()).abs() / root
        yield Measurement("standardised error of the mean", float(missed.max()), 1e-9)


@law("solver", lambda case: _exact(case) and _deterministic(case))
def one_step_is_the_field(case: SolverCase) -> Iterator[Measurement]:
    """One step from t = 1 to 0 maps whitened z to μ + √c z."""
    path, shape = case.path, tuple(case.reference.spectrum.shape)
    z = torch.randn((3, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = path.at(1.0).unwhiten(z)
    noise = SampleNoise([0, 1, 2], "solver")
    end = case.solver.step(ReverseDynamics(GaussianDenoiser(path)), y, as_time(1.0), as_time(0.0), noise)
    wanted = case.reference.mean + case.reference.spectrum.sqrt() * z
    yield Measurement("|y₀ − μ − √c z|", float((end - wanted).abs().max()), 1e-10)


@law("solver", _stepping)
def evaluations_are_as_declared(case: SolverCase) -> Iterator[Measurement]:
    """A trajectory calls the denoiser as often as declared, and the step to the clean field not more often."""
    shape = tuple(case.reference.spectrum.shape)
    y, noise = torch.zeros(1, *shape, dtype=torch.float64), SampleNoise([0], "solver")
    dynamics, steps = ReverseDynamics(GaussianDenoiser(case.path)), 0
    for steps, (t, s) in enumerate(pairwise(LogSpaced().times(case.path, 6)), 1):
        before = dynamics.evaluations
        y = case.solver.step(dynamics, y, t, s, noise)
        if s == 0:
            spare = max(0, dynamics.evaluations - before - case.solver.evaluations)
        else:
            allowed = steps * case.solver.evaluations + case.solver.start_evaluations
            spare = max(0, dynamics.evaluations - allowed)
            if s == case.path.t_min:
                spare = abs(dynamics.evaluations - allowed)
        yield Measurement("evaluations off the declared number", spare, 0)


@law("solver", _stepping)
def noise_is_as_declared(case: SolverCase) -> Iterator[Measurement]:
    """A step draws noise if, and only if, the rule says that it is stochastic."""
    step = affine_map(case.solver, GaussianDenoiser(case.path), torch.stack([as_time(0.5), as_time(0.4)]))
    drawn = float(step.spread.abs().sum())
    yield Measurement("noise drawn", drawn, 1e-12 if case.solver.stochastic else 0.0, at_least=case.solver.stochastic)


def _slope(errors: dict[int, float]) -> float:
    """Order from the two finest step numbers; not a number where an error is 0 or not finite."""
    (n, coarse), (m, fine) = sorted(errors.items())[-2:]
    if not (0 < coarse < math.inf and 0 < fine < math.inf):
        return math.nan
    return math.log(coarse / fine) / math.log(m / n)


@law("solver", lambda case: _ordered(case) and _deterministic(case))
def order_on_a_mixture(case: SolverCase) -> Iterator[Measurement]:
    """On non-Gaussian data the error against a fine solution of the probability flow falls at the declared order."""
    mixture = bimodal(case.process, case.reference, case.path.t_min)
    shape = tuple(case.reference.spectrum.shape)
    z = torch.randn((4, *shape), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    start = mixture.path.at(1.0).unwhiten(z)
    wanted = _fine_flow(mixture, start)
    yield from _order(case, mixture, start, wanted)


@law("solver", lambda case: _ordered(case) and _deterministic(case))
def order_with_a_wrong_reference(case: SolverCase) -> Iterator[Measurement]:
    """On Gaussian data that is not the reference's, states converge to the exact flow at the declared order."""
    yield from _order(case, *_other_data(case))


def _other_data(case: SolverCase) -> tuple[GaussianDenoiser, Tensor, Tensor]:
    """The denoiser of Gaussian data that is not the reference's, and states of it at t = 1 and t_min on one flow."""
    denoiser = GaussianDenoiser(case.path, case.another_law)
    true_path = ReferencePath(case.process, case.another_law, case.path.t_min)
    shape = tuple(case.reference.spectrum.shape)
    z = torch.randn((4, *shape), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    start, wanted = (true_path.at(t).unwhiten(z) for t in (1.0, case.path.t_min))
    return denoiser, start, wanted


def _order(
    case: SolverCase, denoiser: MixtureDenoiser | GaussianDenoiser, start: Tensor, wanted: Tensor
) -> Iterator[Measurement]:
    errors: dict[int, float] = {}

    def error(steps: int) -> float:
        errors[steps] = _error_of_states(case, denoiser, start, wanted, steps)
        return errors[steps]

    yield _in_few_steps(case, error)
    limit = 0.2 if case.solver.order == 1 else 0.02
    yield Measurement("error in 64 steps, in standard deviations", errors[64], limit)


def _error_of_states(
    case: SolverCase, denoiser: MixtureDenoiser | GaussianDenoiser, start: Tensor, wanted: Tensor, steps: int
) -> float:
    """Root mean square over modes at t_min, in standard deviations."""
    path, y = denoiser.path, start
    noise = SampleNoise(range(len(start)), "solver")
    dynamics = ReverseDynamics(denoiser)
    for t, s in pairwise(LogSpaced().between(path, steps)):
        y = case.solver.step(dynamics, y, t, s, noise)
    end = path.at(path.t_min)
    return float((end.whiten(y) - end.whiten(wanted)).square().mean().sqrt())


def _fine_flow(denoiser: MixtureDenoiser, start: Tensor) -> Tensor:
    """States at t_min by DOP853 on dx/dτ = A x − ½ n·score, with nothing of the solvers or of the whitening in it."""
    path, shape = denoiser.path, start.shape
    process, basis = path.process, path.basis

    def slope(log_time: float, state: np.ndarray) -> np.ndarray:
        time = as_time(log_time).exp()
        x = basis.inverse(torch.from_numpy(state).reshape(shape))
        score = denoiser.score(x, path.clock.inverse(time))
        y = basis.apply(process.drift_symbol(time), basis.forward(x))
        rate = y - 0.5 * process.noise_spectrum(time) * basis.forward(score)
        return (time * rate).flatten().numpy()

    span = tuple(float(path.clock.time(as_time(t)).log()) for t in (1.0, path.t_min))
    solution = solve_ivp(slope, span, start.flatten().numpy(), method="DOP853", rtol=1e-10, atol=1e-12)
    return torch.from_numpy(solution.y[:, -1]).reshape(shape)


@law("solver", lambda case: _ordered(case) and _stochastic(case))
def weak_order_with_a_wrong_reference(case: SolverCase) -> Iterator[Measurement]:
    """On Gaussian data that is not the reference's, the covariance converges at the declared order."""
    yield _in_few_steps(case, lambda steps: _error_of_law(case, case.another_law, steps))


@law("solver", lambda case: hasattr(case.solver, "corrections"))
def left_alone_it_keeps_the_law(case: SolverCase) -> Iterator[Measurement]:
    """Langevin steps at one time forget where they started, and end at the law there but for an error of first order
    in their size."""
    for t in (1.0, 0.5):
        errors = {n: _error_left_alone(case, t, 0.02 / n) for n in (1, 2)}
        slope = _slope(errors)
        yield Measurement(f"slope {slope:.3f} in the step size, off 1", abs(slope - 1), SLOPE_TOLERANCE)
        yield Measurement("error with steps of 0.01, in standard deviations", errors[2], 0.02)


def _error_left_alone(case: SolverCase, t: float, step_size: float) -> float:
    """Of the law that Langevin steps tend to on data that is not the reference's, from the point 0; whitened."""
    solver = replace(case.solver, corrections=1, step_size=step_size)
    denoiser = GaussianDenoiser(case.path, case.another_law)
    step = affine_map(solver, denoiser, torch.stack([as_time(t), as_time(t)]))
    mean, covariance, matrix = step.shift, step.spread @ step.spread.T, step.matrix
    while float(matrix.abs().max()) > 1e-12:
        mean, covariance = mean + matrix @ mean, covariance + matrix @ covariance @ matrix.T
        matrix = matrix @ matrix
    return _whitened_error(mean, covariance, ReferencePath(case.process, case.another_law, case.path.t_min).at(t))


def _error_of_law(case: SolverCase, data: GaussianField, steps: int) -> float:
    """Of the covariance and the mean at t_min, carried from the data's own law at t = 1; root mean square, whitened."""
    true_path = ReferencePath(case.process, data, case.path.t_min)
    denoiser = GaussianDenoiser(case.path, None if data is case.reference else data)
    times = LogSpaced().between(case.path, steps)
    mean, covariance = carried(case.solver, denoiser, times, *_start(true_path))
    return _whitened_error(mean, covariance, true_path.at(case.path.t_min))


def _whitened_error(mean: Tensor, covariance: Tensor, goal: PathPoint) -> float:
    """Root mean square, in standard deviations."""
    root = goal.variance.flatten().sqrt()
    whitened = covariance / (root * root.unsqueeze(1)) - torch.eye(len(root), dtype=torch.float64)
    missed = (mean - goal.mean.flatten()) / root
    return float(whitened.square().mean().sqrt() + missed.square().mean().sqrt())


# ---- every solver on one process


def _in_few_steps(case: SolverCase, error: Callable[[int], float]) -> Measurement:
    """Whether an error falls at the declared order: from 32 steps on, and with more where it is too early to tell."""
    order, steps = case.solver.order, 32
    assert order is not None  # as `_ordered` sees to
    errors = {steps: error(steps)}
    while True:
        steps = 2 * steps
        errors[steps] = error(steps)
        slope = _slope(errors)
        if not math.isfinite(errors[steps]):
            return Measurement("error", math.inf, ROUNDING, reading=f"the result of {steps} steps is not finite")
        if errors[steps] < ROUNDING:
            return Measurement("error", errors[steps], ROUNDING, reading=f"exact: error {errors[steps]:.1e}")
        # Rules of high order are near rounding before their error is the leading term alone, and fall faster till then.
        surplus = SURPLUS if order > 2 and slope > order else 0.0
        if abs(slope - order) <= SLOPE_TOLERANCE + surplus or steps >= MOST_STEPS:
            break
    tolerance = SLOPE_TOLERANCE + surplus
    reading = f"order {slope:.2f} (declares {order}, within {tolerance}); error {errors[steps]:.1e} in {steps} steps"
    return Measurement("order", abs(slope - order), tolerance, reading=reading)


@law(
    "solver on process", lambda case: _exact(case) or _ordered(case),
    heading=lambda case: f"{type(case.solver).__name__}: Gaussian in, Gaussian out", follows=True,
)  # fmt: skip
def gaussian_in_gaussian_out(case: SolverCase) -> Iterator[Measurement]:
    """Samples of Gaussian data have its mean and covariance: in any number of steps if so declared, else in the limit.

    If the laws above hold, the solver is at fault: it needs more of the process than the interface promises, such as
    coefficients that are smooth in time. Sample with another one.
    """
    if not case.solver.exact_on_gaussian:
        yield _in_few_steps(case, lambda steps: _error_of_law(case, case.reference, steps))
        return
    worst = max(m.value for m in gaussian_law_is_exact(case))
    yield Measurement("mean and covariance in 1, 2, 5 steps off by", worst, 1e-9)


@law(
    "solver on process", _ordered, heading=lambda case: f"{type(case.solver).__name__}: order of convergence",
    follows=True,
)  # fmt: skip
def order_of_convergence(case: SolverCase) -> Iterator[Measurement]:
    """On Gaussian data that is not the reference's the error falls at the order that the solver declares.

    If the laws above hold, drift_symbol, noise_spectrum or the clock changes too fast with time for the number of
    steps, or jumps: sample with more steps, or a clock that is slower there.
    """
    if case.solver.stochastic:
        yield _in_few_steps(case, lambda steps: _error_of_law(case, case.another_law, steps))
    else:
        data = _other_data(case)
        yield _in_few_steps(case, lambda steps: _error_of_states(case, *data, steps))


@law("process", lambda case: case.is_noised_everywhere, follows=True)
def posterior_is_bayes(case: ProcessCase) -> Iterator[Measurement]:
    """With x₀ known, an ancestral step is the Gaussian posterior of x_s given x_t: joint covariance, law and mean.

    log_gain and variance must compose over time; see above.
    """
    basis = case.process.basis
    x0 = torch.randn((1, 1, *basis.grid.shape), generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    denoiser = EmpiricalDenoiser(case.path, x0)
    y0 = basis.forward(x0).flatten()
    for s, t in ((0.4, 1.0), (0.5, 0.6)):
        step = affine_map(Ancestral(uncertainty=0.0), denoiser, torch.stack([as_time(t), as_time(s)]))
        early, late = case.process.kernel(as_time(s)), case.process.kernel(as_time(t))
        size = len(y0)
        s_early, s_late = (torch.diag(k.variance.expand(basis.grid.shape).flatten()) for k in (early, late))
        m_early, m_late = (dense_symbol(case.path, k.gain) for k in (early, late))
        between = dense_symbol(case.path, case.process.kernel(as_time(t), as_time(s)).gain)
        mean, covariance = step.carry(m_late @ y0, s_late)
        root = s_early.diagonal().sqrt()
        scale = root * root.unsqueeze(1)
        yield Measurement("whitened error of Cov x_s", float(((covariance - s_early) / scale).abs().max()), 1e-9)
        yield Measurement("standardised error of E x_s", float(((mean - m_early @ y0) / root).abs().max()), 1e-7)
        joint = step.matrix @ s_late - s_early @ between.T
        yield Measurement(
            "error of Cov(x_s, x_t)", float((joint / s_late.diagonal().sqrt() / root[:, None]).abs().max()), 1e-9
        )
        assert step.matrix.shape == (size, size)
