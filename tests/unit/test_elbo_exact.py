"""Bounds of Gaussian chains, without noise: against dense matrices, DDPM's formulae, and their limit."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from physdiff.basis import SpectralBasis
from physdiff.bounds import continuous_elbo, elbo
from physdiff.bounds.door import Draws
from physdiff.chain import Chain
from physdiff.clock_fit import fit_clock
from physdiff.denoisers import GaussianDenoiser
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.laws.cases import smooth_reference, tilted
from physdiff.path import ReferencePath
from physdiff.process import LinearProcess
from physdiff.processes.advection_diffusion import AdvectionDiffusion
from physdiff.processes.damped_wave import DampedWave
from physdiff.processes.heat_dissipation import HeatDissipation
from physdiff.processes.matern import Matern
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.solvers.time_grid import LogSpaced

torch.set_num_threads(1)
LINE, WALL = SpectralBasis(Grid(5)), SpectralBasis(Grid(4, 1.0, "dirichlet"))


def path_of(process: LinearProcess, t_min: float | None = None) -> ReferencePath:
    law = smooth_reference(process.basis)
    return ReferencePath(fit_clock(process, law), law, t_min)


@pytest.fixture
def cubature(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], int]:
    """Noise at the points ±√d e_k, over which the mean of any quadratic is that of the normal law; their number."""

    def of_dimension(d: int) -> int:
        points = math.sqrt(d) * torch.cat([torch.eye(d), -torch.eye(d)]).to(torch.float64)

        def noise(self: Draws, rows: slice) -> Tensor:
            drawn = points.reshape(2 * d, *self.deviation.shape[1:])
            return drawn.repeat(rows.stop - rows.start, *[1] * (self.deviation.ndim - 1))

        monkeypatch.setattr(Draws, "noise", noise)
        monkeypatch.setattr(Draws, "uniform", lambda self, rows: torch.full((2 * d * (rows.stop - rows.start),), 0.5))
        return 2 * d

    return of_dimension


# ---- Gaussian chains by dense matrices


class DenseChain:
    """A reverse chain of Gaussian data in cells: matrices, conditioning, and nothing of the toolkit but kernels."""

    def __init__(
        self, path: ReferencePath, law: GaussianField, times: Tensor, variance: str | float, uncertainty: float
    ) -> None:
        self.path, self.times, self.uncertainty = path, times, uncertainty
        self.c_ref, self.c_law = (self.covariance(g) for g in (path.reference, law))
        self.mu_ref, self.mu_law = (path.basis.inverse(g.mean).flatten() for g in (path.reference, law))
        self.reverse = [self.step(t, s, variance) for t, s in pairwise(times)]

    def covariance(self, law: GaussianField) -> Tensor:
        u = self.path.basis.dense()
        return u @ torch.diag(law.spectrum.flatten()) @ u.T

    def kernel(self, t: Tensor, s: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Gain and covariance in cells of x_t given x_s, or the clean field."""
        basis, kernel = self.path.basis, self.path.process.kernel(t, s)
        size, u = basis.grid.size, basis.dense()
        eye = torch.eye(size, dtype=torch.float64).reshape(size, *basis.grid.shape)
        gain = basis.inverse(basis.apply(kernel.gain, basis.forward(eye))).reshape(size, size).T
        return gain, u @ torch.diag(kernel.variance.expand(basis.grid.shape).flatten()) @ u.T

    def posterior(self, t: Tensor, mean: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """E[x_0 | x_t] = M x_t + a and its covariance, for x_0 ~ N(mean, c)."""
        gain, noise = self.kernel(t)
        m = c @ gain.T @ torch.linalg.inv(gain @ c @ gain.T + noise)
        return m, mean - m @ gain @ mean, c - m @ gain @ c

    def step(self, t: Tensor, s: Tensor, variance: str | float) -> tuple[Tensor, Tensor, Tensor]:
        """x_s ~ N(K x_t + k, C) of the model."""
        m, a, known_by_law = self.posterior(t, self.mu_law, self.c_law)
        unknown = known_by_law if variance == "learned" else self.posterior(t, self.mu_ref, self.c_ref)[2]
        unknown = self.uncertainty * unknown
        if s == 0:
            return m, a, unknown
        (g_t, s_t), (g_s, s_s), (g, sigma) = self.kernel(t), self.kernel(s), self.kernel(t, s)
        on_noisy = s_s @ g.T @ torch.linalg.inv(s_t)  # conditioning (x_s, x_t) given x_0 on x_t
        on_clean = g_s - on_noisy @ g_t
        beta_tilde = s_s - on_noisy @ g @ s_s
        if isinstance(variance, float):
            c = function_of((1 - variance) * function_of(beta_tilde, torch.log) + variance * function_of(
                sigma, torch.log), torch.exp)  # fmt: skip
        elif variance in ("reference", "learned"):
            c = beta_tilde + on_clean @ unknown @ on_clean.T
        else:
            c = beta_tilde if variance == "posterior" else sigma
        return on_noisy + on_clean @ m, on_clean @ a, c

    def bound(self, x: Tensor) -> float:
        """E_q[log p(x, x_1, ...)] + the entropy of q(x_1, ... | x), with the joint law of all states given x."""
        x, size = x.flatten(), len(x.flatten())
        levels = self.times[:-1].flip(0)
        means, blocks, entropy = [], [], 0.0
        for i, t in enumerate(levels):
            gain, cov = self.kernel(t)
            means.append(gain @ x)
            one_step = cov if i == 0 else self.kernel(t, levels[i - 1])[1]
            entropy += 0.5 * float(torch.logdet(2 * math.pi * math.e * one_step))
            blocks.append([blocks[j][j] @ self.kernel(t, levels[j])[0].T for j in range(i)] + [cov])
        prior_gain, prior_cov = self.kernel(torch.ones(()))
        prior = MultivariateNormal(prior_gain @ self.mu_ref, prior_gain @ self.c_ref @ prior_gain.T + prior_cov)
        total = entropy + expected_log_prob(prior, means[-1], blocks[-1][-1])
        for i, (k_matrix, k, c) in enumerate(reversed(self.reverse)):
            kernel = MultivariateNormal(torch.zeros(size, dtype=torch.float64), 0.5 * (c + c.T))
            spread = k_matrix @ blocks[i][i] @ k_matrix.T
            if i == 0:
                total += expected_log_prob(kernel, x - k_matrix @ means[0] - k, spread)
                continue
            cross = k_matrix @ blocks[i][i - 1].T
            spread = spread + blocks[i - 1][i - 1] - cross - cross.T
            total += expected_log_prob(kernel, means[i - 1] - k_matrix @ means[i] - k, spread)
        return total

    def log_prob(self, x: Tensor) -> Tensor:
        """Of the chain's samples."""
        gain, noise = self.kernel(torch.ones(()))
        mean, cov = gain @ self.mu_ref, gain @ self.c_ref @ gain.T + noise
        for k_matrix, k, c in self.reverse:
            mean, cov = k_matrix @ mean + k, k_matrix @ cov @ k_matrix.T + c
        return MultivariateNormal(mean, 0.5 * (cov + cov.T)).log_prob(x.flatten(1))


def function_of(a: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
    values, vectors = torch.linalg.eigh(0.5 * (a + a.T))
    return vectors @ torch.diag(f(values)) @ vectors.T


def expected_log_prob(law: MultivariateNormal, mean: Tensor, cov: Tensor) -> float:
    return float(law.log_prob(mean) - 0.5 * torch.trace(torch.linalg.solve(law.covariance_matrix, cov)))


CHAINS = [
    VariancePreserving(LINE), AdvectionDiffusion(LINE, 0.02, 0.4, 0.3), DampedWave(LINE), Matern(WALL),
    HeatDissipation(WALL, noise_level=0.2),
]  # fmt: skip


@pytest.mark.parametrize("process", CHAINS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize(
    ("variance", "uncertainty"),
    [
        ("reference", 1.0), ("reference", 0.5), ("learned", 1.0), ("learned", 1.3), ("posterior", 1.0),
        ("upper", 1.0), (0.4, 1.0),
    ],
)  # fmt: skip
def test_bound_of_a_gaussian_chain_is_that_of_dense_matrices(
    process: LinearProcess, variance: str | float, uncertainty: float, cubature: Callable[[int], int]
) -> None:
    """Other Gaussian data than the reference's; sums of squares of what is linear are exact over the cubature."""
    path = path_of(process, 0.2)
    law, draws = tilted(path.reference), cubature(process.basis.grid.size)
    x = law.sample(3, torch.Generator().manual_seed(0))
    options = {"steps": 4, "variance": variance, "uncertainty": uncertainty, "draws": draws, "chunk": 2 * draws}
    found = elbo(GaussianDenoiser(path, law), x, **options)
    chain = DenseChain(path, law, LogSpaced().times(path, 4), variance, uncertainty)
    exact = torch.tensor([chain.bound(field) for field in x], dtype=torch.float64)
    error = float((found.bound - exact).abs().max())
    gap = chain.log_prob(x) - found.bound
    print(f"{error:.1e} nats, {float(gap.min()):.3f} to {float(gap.max()):.3f} below the chain's density")
    assert error < 5e-10  # seen: 1.5e-10, from the dense c − MGc, which cancels
    assert float(gap.min()) > 1e-6


def test_terms_are_those_of_ddpm(cubature: Callable[[int], int]) -> None:
    """Each term on a table of β, by the expected noise; the reference is white data of unit variance."""
    basis = SpectralBasis(Grid(4))
    chain = Chain.ddpm(basis, steps=6, beta_start=0.05, beta_end=0.6)
    path = chain.path(GaussianField.white(basis))
    law, draws = tilted(path.reference), cubature(4)
    model, x = GaussianDenoiser(path, law), law.sample(1, torch.Generator().manual_seed(1))
    options = {"steps": 6, "time_grid": chain.time_grid(), "draws": draws}
    betas = torch.linspace(0.05, 0.6, 6, dtype=torch.float64)
    bars = torch.cumprod(1 - betas, 0)
    noise = 2 * torch.cat([torch.eye(4), -torch.eye(4)]).to(torch.float64).reshape(draws, 1, 4)
    noise = basis.inverse(noise)
    for variance in ("posterior", "upper"):
        terms = elbo(model, x, variance=variance, **options).terms[0]
        expected = [0.5 * (bars[5] * x.square() - bars[5] - torch.log1p(-bars[5])).sum()]  # L_T
        for j in range(5, 0, -1):
            y = bars[j].sqrt() * x + (1 - bars[j]).sqrt() * noise
            eps = model.epsilon(y, torch.tensor((j + 1) / 6, dtype=torch.float64))
            tilde = betas[j] * (1 - bars[j - 1]) / (1 - bars[j])
            sigma2 = tilde if variance == "posterior" else betas[j]
            weight = betas[j] ** 2 / (2 * sigma2 * (1 - betas[j]) * (1 - bars[j]))  # Ho et al., eq. 12
            kl = 2 * (tilde / sigma2 - 1 - torch.log(tilde / sigma2))
            expected.append(kl + weight * (noise - eps).square().sum() / draws)
        y = bars[0].sqrt() * x + (1 - bars[0]).sqrt() * noise
        eps = model.epsilon(y, torch.tensor(1 / 6, dtype=torch.float64))
        clean = (y - (1 - bars[0]).sqrt() * eps) / bars[0].sqrt()
        decoder = torch.distributions.Normal(clean, (1 - bars[0]).sqrt())  # cS/V with c = V = 1
        expected.append(-decoder.log_prob(x.expand_as(clean)).sum() / draws)
        torch.testing.assert_close(terms, torch.stack(expected), rtol=1e-11, atol=1e-11)
    reference = elbo(model, x, variance="reference", **options).terms[0]  # β is right for white data of unit variance
    torch.testing.assert_close(reference, terms, rtol=1e-11, atol=1e-11)


# ---- limits


def test_discrete_bound_tends_to_the_continuous_one(cubature: Callable[[int], int]) -> None:
    """At the rate 1/steps, on other Gaussian data; no noise is left in either, the integral by the midpoint rule."""
    path = path_of(AdvectionDiffusion(LINE, 0.02, 0.4, 0.3), 0.2)
    law, draws = tilted(path.reference), cubature(5)
    model, x = GaussianDenoiser(path, law), law.sample(2, torch.Generator().manual_seed(6))
    coarse, fine, limit = (continuous_elbo(model, x, strata=n, draws=draws).bound for n in (80, 160, 320))
    order = torch.log2((fine - coarse) / (limit - fine))
    assert float((order - 2).abs().max()) < 0.15  # the midpoint rule
    for variance in ("reference", "posterior", "upper"):
        gaps = [limit - elbo(model, x, steps=n + 1, variance=variance, draws=draws).bound for n in (32, 64)]
        order = torch.log2(gaps[0] / gaps[1])
        print(variance, gaps[1].tolist(), order.tolist())
        assert float((order - 1).abs().max()) < 0.15


def test_exact_kernels_leave_the_terminal_law_alone(cubature: Callable[[int], int]) -> None:
    """Exact mean and variance of other Gaussian data: log p(x) + E[log p_ref(y_1)/p_1(y_1)] in any number of steps."""
    path = path_of(AdvectionDiffusion(LINE, 0.02, 0.4, 0.3), 0.2)
    law, draws = tilted(path.reference), cubature(5)
    x, end, point = law.sample(3, torch.Generator().manual_seed(6)), law.at(path.process, 1.0), path.at(1.0)
    mean = LINE.apply(path.process.kernel(torch.ones(())).gain, LINE.forward(x))
    ends = [(path.law(1.0), -1.0), (end, 1.0)]
    lost = torch.zeros(3, dtype=torch.float64)
    for prior, sign in ends:  # E of a Gaussian log-density: its value at the mean, less half a trace
        trace = float((point.noise_variance / prior.spectrum).sum())
        lost += sign * (prior.log_prob_of_deviation(mean - prior.mean) - 0.5 * trace)
    for steps in (1, 2, 7):
        found = elbo(GaussianDenoiser(path, law), x, steps=steps, variance="learned", draws=draws)
        torch.testing.assert_close(found.bound, law.log_prob(x) - lost, rtol=0, atol=1e-11)
    assert float(lost.abs().min()) > 1e-3
