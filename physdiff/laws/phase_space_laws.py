"""Laws of a phase-space process: the pair (x, v) solves its block equation, and the statistic loses nothing of it.

The laws of a linear process hold the statistic to its own equation. These hold the pair to the block that the author
stated, without the statistic, and then the statistic to the pair, by Bayes' rule in three dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor
from torch.distributions import MultivariateNormal

from physdiff.laws.cases import ProcessCase, as_time
from physdiff.laws.law import Measurement, law
from physdiff.phase_space import PhaseKernel, PhaseSpaceProcess

TIMES = (0.3, 0.6, 1.0)
ROUNDING = 1e-10  # of two by two matrices in balanced units


def block_of(process: PhaseSpaceProcess) -> tuple[Tensor, Tensor, Tensor]:
    """A and G as matrices, shape (*grid, 2, 2), and V₀, shape (*grid)."""
    shape = process.basis.grid.shape
    drift = [[entry.expand(shape) for entry in row] for row in process.drift_block()]
    noise = torch.stack([entry.expand(shape) for entry in process.noise_block()], -1)
    matrix = torch.stack([torch.stack(row, -1) for row in drift], -2)
    return matrix, torch.diag_embed(noise), process.start_velocity_variance.expand(shape)


def matrices(process: PhaseSpaceProcess, kernel: PhaseKernel) -> tuple[Tensor, Tensor]:
    """Φ, whose columns are a and b, and Σ, shape (*grid, 2, 2)."""
    shape = process.basis.grid.shape
    columns = [
        torch.stack([entry.expand(shape) for entry in column], -1) for column in (kernel.gain, kernel.start_gain)
    ]
    xx, xv, vv = (entry.expand(shape) for entry in kernel.covariance)
    covariance = torch.stack([torch.stack([xx, xv], -1), torch.stack([xv, vv], -1)], -2)
    return torch.stack(columns, -1), covariance


def kernel_at(process: PhaseSpaceProcess, time: Tensor) -> PhaseKernel:
    """The law of the pair at a physical time."""
    return process.phase_kernel(process.running_clock.inverse(time))


def _few_cells(case: ProcessCase) -> bool:
    return case.process.basis.grid.size <= 40


def _resolvable(case: ProcessCase, turns: float) -> Tensor:
    """The end of the clock, or the time at which the fastest mode has done |A|τ = `turns`."""
    matrix, _, _ = block_of(case.process)  # type: ignore[arg-type]
    fastest = float(torch.linalg.eigvals(matrix).abs().max())
    return torch.minimum(case.process.physical_time(as_time(1.0)), as_time(turns / max(fastest, 1e-300)))


def _over(matrix: Tensor, covariance: Tensor) -> Tensor:
    """A matrix of second moments in units of the deviations."""
    width = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    return matrix / (width.unsqueeze(-1) * width.unsqueeze(-2))


@law("phase space")
def pair_solves_the_block_equation(case: ProcessCase) -> Iterator[Measurement]:
    """Integrating dΦ/dτ = AΦ and dΣ/dτ = AΣ + ΣAᵀ + G from Φ = 1, Σ = diag(0, V₀) gives gain and covariance."""
    process = case.process
    assert isinstance(process, PhaseSpaceProcess)
    chosen = np.unique(np.linspace(0, process.basis.grid.size - 1, 4).astype(int))
    drift, noise, start = (entry.flatten(0, process.basis.grid.ndim - 1)[chosen] for entry in block_of(process))
    for mode, a, g, variance in zip(chosen, drift.numpy(), noise.numpy(), start.numpy(), strict=True):
        time = float(_resolvable(case, 30.0))

        def slope(_: float, state: np.ndarray, a: np.ndarray = a, g: np.ndarray = g) -> np.ndarray:
            flow, spread = state.reshape(2, 2, 2)
            return np.stack([a @ flow, a @ spread + spread @ a.T + g]).ravel()

        begin = np.stack([np.eye(2), np.diag([0.0, variance])]).ravel()
        flow, covariance = (m.flatten(0, -3)[mode] for m in matrices(process, kernel_at(process, as_time(time))))
        width = covariance.diagonal().sqrt().numpy()
        # In units of x for Φ's row x and of v for its row v; v has the unit x per time.
        unit = np.array([1.0, width[1] / width[0]])
        scale = np.stack([np.outer(unit, 1 / unit), np.outer(width, width)])
        tolerance = 1e-11 * np.minimum(scale, 1.0).ravel()
        end = solve_ivp(slope, (0.0, time), begin, method="DOP853", rtol=1e-10, atol=tolerance).y[:, -1]
        wrong = np.abs(end.reshape(2, 2, 2) - np.stack([flow.numpy(), covariance.numpy()])) / scale
        yield Measurement("error of Φ", float(wrong[0].max()), 1e-8)
        yield Measurement("error of Σ, in deviations", float(wrong[1].max()), 1e-8)


@law("phase space")
def pairs_compose(case: ProcessCase) -> Iterator[Measurement]:
    """Φ(τ₁ + τ₂) = Φ(τ₂)Φ(τ₁) and Σ(τ₁ + τ₂) = Φ(τ₂)Σ(τ₁)Φ(τ₂)ᵀ + Σ_n(τ₂)."""
    process = case.process
    assert isinstance(process, PhaseSpaceProcess)
    whole = process.physical_time(as_time(1.0))
    for share in (1e-3, 0.3, 0.8):
        first, later, both = (kernel_at(process, s * whole) for s in (share, 1 - share, 1.0))
        (flow_1, spread), (flow_2, _), (flow, covariance) = (matrices(process, k) for k in (first, later, both))
        xx, xv, vv = (entry.expand(process.basis.grid.shape) for entry in later.noise)
        received = torch.stack([torch.stack([xx, xv], -1), torch.stack([xv, vv], -1)], -2)
        wrong = _over(flow_2 @ spread @ flow_2.mT + received - covariance, covariance)
        yield Measurement("error of Σ, in deviations", float(wrong.abs().max()), 1e-11)
        width = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        unit = width / width[..., :1]
        wrong = (flow_2 @ flow_1 - flow) * unit.unsqueeze(-2) / unit.unsqueeze(-1)
        yield Measurement("error of Φ", float(wrong.abs().max()), 1e-11)


@law("phase space")
def pair_stays_finite(case: ProcessCase) -> Iterator[Measurement]:
    """Gain and covariance of the pair are finite from t = 0 to 1, and the covariance is that of some random pair."""
    process = case.process
    assert isinstance(process, PhaseSpaceProcess)
    broken, negative = 0, 0.0
    for t in (0.0, 1e-30, 1e-9, 1e-3, *TIMES):
        kernel = process.phase_kernel(as_time(t))
        entries = (*kernel.gain, *kernel.start_gain, *kernel.covariance, kernel.determinant)
        broken += sum(int((~torch.isfinite(entry)).sum()) for entry in entries)
        least = [float(entry.min()) for entry in (kernel.covariance[0], kernel.covariance[2], kernel.determinant)]
        negative = max(negative, -min(least))
    yield Measurement("entries that are not finite", broken, 0)
    yield Measurement("−(Σ_xx, Σ_vv or det Σ)", negative, 0.0)


@law("phase space", _few_cells)
def simulated_pair_has_the_moments(case: ProcessCase) -> Iterator[Measurement]:
    """The equation of the pair, simulated on fields, has the means and the covariances of its kernel."""
    process, basis, n, steps = case.process, case.process.basis, 500, 96
    assert isinstance(process, PhaseSpaceProcess)
    time = _resolvable(case, 3.0)
    gain, covariance = matrices(process, kernel_at(process, time))
    (a_xx, a_xv), (a_vx, a_vv) = process.drift_block()
    generator, shape = torch.Generator().manual_seed(6), (n, 1, *basis.grid.shape)
    start = torch.randn(basis.grid.shape, generator=generator, dtype=torch.float64) * 10 * covariance[..., 0, 0].sqrt()

    def white() -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def drift(x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        x, v = basis.forward(x), basis.forward(v)
        return basis.inverse(a_xx * x + a_xv * v), basis.inverse(a_vx * x + a_vv * v)

    x = basis.inverse(start.expand(shape))
    v = basis.inverse(process.start_velocity_variance.sqrt() * white())
    h = time / steps
    # Heun's rule for additive noise: with |A|h < 0.04 its error is below 0.1 % of a moment, a fiftieth of one
    # standard error of a variance.
    for _ in range(steps):
        kicks = [basis.inverse((g * h).sqrt() * white()) for g in process.noise_block()]
        f, g = drift(x, v)
        f_next, g_next = drift(x + h * f + kicks[0], v + h * g + kicks[1])
        x, v = x + 0.5 * h * (f + f_next) + kicks[0], v + 0.5 * h * (g + g_next) + kicks[1]
    off = torch.stack([basis.forward(field)[:, 0] for field in (x, v)], -1) - gain[..., 0] * start.unsqueeze(-1)
    width = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    mean = off.mean(0) / width * math.sqrt(n)
    products = off.unsqueeze(-1) * off.unsqueeze(-2)
    wrong = _over(products.mean(0) - covariance, covariance)
    correlation = _over(covariance, covariance)
    # Var of a mean of products of normal variables: (Σ_ii Σ_jj + Σ_ij²)/n
    second = wrong / ((1 + correlation.square()) / n).sqrt()
    # 5.5: variances of 500 draws are chi-square, skewed; 1e-4 family-wise at 40 modes, each side.
    yield Measurement(f"largest |z| of the means of {n} pairs", float(mean.abs().max()), 5.5)
    yield Measurement("largest |z| of their covariances", float(second.abs().max()), 5.5)


@law("phase space", _few_cells)
def drawn_pairs_have_the_moments(case: ProcessCase) -> Iterator[Measurement]:
    """Pairs drawn from the kernel have its covariance, and their statistic has the gain and variance of the process."""
    process, basis, n = case.process, case.process.basis, 2000
    assert isinstance(process, PhaseSpaceProcess)
    x = torch.randn((n, 1, *basis.grid.shape), generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    for t in TIMES:
        pair = process.phase_kernel(as_time(t))
        gain, covariance = matrices(process, pair)
        drawn = pair.sample(x, torch.Generator().manual_seed(8))
        clean = basis.forward(x)[:, 0].unsqueeze(-1)
        off = torch.stack([basis.forward(field)[:, 0] for field in drawn], -1) - gain[..., 0] * clean
        wrong = _over((off.unsqueeze(-1) * off.unsqueeze(-2)).mean(0) - covariance, covariance)
        second = wrong / ((1 + _over(covariance, covariance).square()) / n).sqrt()
        yield Measurement(f"largest |z| of the covariances of {n} pairs", float(second.abs().max()), 5.0)
        kernel = process.kernel(as_time(t))
        left = basis.forward(process.statistic(*drawn, as_time(t)) - basis.inverse(kernel.gain * basis.forward(x)))
        ratio = left.square().mean((0, 1)) / kernel.variance - 1
        share = (left * basis.forward(x)).mean((0, 1)) / kernel.variance.sqrt()
        yield Measurement("largest |z| of the statistic's variance", float(ratio.abs().max()) * math.sqrt(n / 2), 5.0)
        yield Measurement("largest |z| of what x_0 leaves in it", float(share.abs().max()) * math.sqrt(n), 5.0)


@law("phase space", lambda case: case.is_default and _few_cells(case))
def statistic_keeps_all_information(case: ProcessCase) -> Iterator[Measurement]:
    """Bayes' rule for (x, v) with dense 2×2 matrices gives the posterior that the statistic alone gives.

    Mean and variance for Gaussian data, the mean for a mixture, and the score of the pair from that mean.
    """
    process, basis, mixture = case.process, case.process.basis, case.mixture
    assert isinstance(process, PhaseSpaceProcess)
    shape = basis.grid.shape
    for t in TIMES:
        # Units in which both deviations are 1, so that dense algebra has its digits.
        gain, covariance = matrices(process, process.phase_kernel(as_time(t)))
        a, width = gain[..., 0], covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        a, noise = a / width, _over(covariance, covariance)
        clean = mixture.sample_modes(4, torch.Generator().manual_seed(9))[:, 0]
        white = torch.randn((4, *shape, 2), generator=torch.Generator().manual_seed(10), dtype=torch.float64)
        y = a * clean.unsqueeze(-1) + torch.einsum("...ij,...j->...i", torch.linalg.cholesky(noise), white)
        x, v = ((basis.inverse((y * width)[..., i])).unsqueeze(1) for i in (0, 1))
        state = process.statistic(x, v, as_time(t))

        mean, c = case.reference.mean[0], case.reference.spectrum[0]
        whole = _outer(a, c) + noise
        weight = torch.linalg.solve(whole, a * c.unsqueeze(-1))
        dense = mean + (weight * (y - a * mean.unsqueeze(-1))).sum(-1)
        point = case.path.at(t)
        scalar = point.wiener(basis.forward(state))[:, 0]
        yield Measurement("error of E[x₀ | x, v]", _largest(scalar - dense, c.sqrt()), ROUNDING)
        left = c * (1 - (weight * a).sum(-1))
        yield Measurement("error of Var[x₀ | x, v]", _largest(point.posterior_variance[0] - left, c), ROUNDING)

        y.requires_grad_()
        logs, means = [], []
        for mean, c in zip(mixture.means[:, 0], mixture.spectra[:, 0], strict=True):
            whole = _outer(a, c) + noise
            logs.append(MultivariateNormal(a * mean.unsqueeze(-1), whole).log_prob(y).flatten(1).sum(1))
            weight = torch.linalg.solve(whole, a * c.unsqueeze(-1))
            means.append(mean + (weight * (y.detach() - a * mean.unsqueeze(-1))).sum(-1))
        joint = torch.stack(logs, 1) + mixture.log_weights
        (gradient,) = torch.autograd.grad(torch.logsumexp(joint, 1).sum(), y)
        shares = torch.softmax(joint.detach(), 1).reshape(4, -1, *[1] * len(shape))
        found = mixture(state, as_time(t))
        wrong = basis.forward(found)[:, 0] - (shares * torch.stack(means, 1)).sum(1)
        yield Measurement("error of a mixture's E[x₀ | x, v]", _largest(wrong, case.reference.spectrum[0].sqrt()), 1e-9)
        score = torch.stack([basis.forward(s)[:, 0] for s in process.phase_kernel(as_time(t)).score(x, v, found)], -1)
        yield Measurement("error of the pair's score", _largest(score * width - gradient, gradient.abs().max()), 1e-8)


@law("phase space")
def statistic_is_a_markov_process(case: ProcessCase) -> Iterator[Measurement]:
    """Cov(y_s, y_t | x_0) of the statistic, by the pair's Φ and Σ, is m(t, s) S_s: its steps are those of the process.

    So solvers that step the statistic from t to s draw from the law of the statistic of one run of the pair.
    """
    process, shape = case.process, case.process.basis.grid.shape
    assert isinstance(process, PhaseSpaceProcess)
    for s, t in ((0.3, 0.6), (0.3, 1.0), (0.6, 0.65)):
        time, since = (process.physical_time(as_time(x)) for x in (t, s))
        weights, spreads = [], []
        for now in (since, time):
            flow, covariance = matrices(process, kernel_at(process, now))
            width = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
            a = flow[..., 0] / width
            inverse = torch.linalg.solve(_over(covariance, covariance), a)
            gain = process.log_gain(now, as_time(0.0)).exp().expand(shape).unsqueeze(-1)
            weights.append(gain * inverse / (a * inverse).sum(-1, keepdim=True) / width)
            spreads.append(covariance)
        flow, _ = matrices(process, kernel_at(process, time - since))
        found = torch.einsum("...i,...ij,...kj,...k->...", weights[0], spreads[0], flow, weights[1])
        received, before = process.variance(time, as_time(0.0)), process.variance(since, as_time(0.0))
        wrong = found - process.log_gain(time, since).exp() * before
        yield Measurement("error of the correlation", _largest(wrong, (received * before).sqrt()), ROUNDING)


@law("phase space")
def noise_begins_as_declared(case: ProcessCase) -> Iterator[Measurement]:
    """√S starts as τ^p, p the declared `amplitude_exponent`, in the mode whose noise starts first."""
    process = case.process
    time, zero = 1e-7 * process.physical_time(as_time(0.02)), as_time(0.0)
    ratio = process.variance(2 * time, zero) / process.variance(time, zero)
    power = float(0.5 * torch.log2(ratio).min())
    yield Measurement("|power of √S − p|", abs(power - process.amplitude_exponent), 1e-4)


def _outer(a: Tensor, scale: Tensor) -> Tensor:
    return scale[..., None, None] * a.unsqueeze(-1) * a.unsqueeze(-2)


def _largest(difference: Tensor, scale: Tensor) -> float:
    return float((difference / scale).abs().max())
