"""Chains against exact products, dense conditioning, published tables, and exact propagation of Gaussian data."""

from __future__ import annotations

import math
from decimal import Decimal, getcontext
from itertools import pairwise

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor

from physdiff import schedules
from physdiff.basis import Basis, IdentityBasis, SpectralBasis
from physdiff.chain import Chain
from physdiff.clock_fit import fit_clock
from physdiff.denoisers import GaussianDenoiser
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.laws.cases import smooth_reference
from physdiff.laws.stepping import affine_map, carried
from physdiff.path import ReferencePath
from physdiff.processes.advection_diffusion import AdvectionDiffusion
from physdiff.processes.edm import EDM
from physdiff.processes.heat import Heat
from physdiff.processes.rectified_flow import RectifiedFlow
from physdiff.processes.sub_variance_preserving import SubVariancePreserving
from physdiff.processes.variance_exploding import VarianceExploding
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.schedules import TableClock
from physdiff.solvers import Ancestral, Heun, ReferenceSplitting, Solver, Uniform, sample

LINE, WALL, CELLS = SpectralBasis(Grid(6)), SpectralBasis(Grid(5, 2.0, "neumann")), IdentityBasis(Grid(4))


def zero_terminal(basis: Basis, steps: int = 30) -> Chain:
    return Chain.from_betas(basis, schedules.rescaled_zero_terminal_snr(schedules.linear_betas(steps, 1e-3, 0.4)))


CHAINS = {
    "ddpm": Chain.ddpm(LINE, steps=1000),
    "cosine": Chain.ddpm(LINE, steps=50, schedule="cosine"),
    "zero terminal SNR": zero_terminal(LINE),
    "ncsn": Chain.ncsn(LINE, 0.01, 50.0, levels=20),
    "edm": Chain(EDM(LINE), torch.tensor([0.0, 0.01, 0.1, 1.0, 10.0])),
    "sub-vp": Chain(SubVariancePreserving(LINE), torch.tensor([0.0, 0.01, 0.1, 1.0, math.inf])),
    "wind": Chain(AdvectionDiffusion(LINE, 0.03, 0.5, velocity=0.7), torch.linspace(0, 3, 13)),
    "heat": Chain(Heat(WALL), torch.logspace(-4, 1, 12) - 1e-4),
    "heat dissipation": Chain.heat_dissipation(WALL, 0.05, 2.0, levels=20, noise_level=0.02),
}
every_chain = pytest.mark.parametrize("chain", CHAINS.values(), ids=list(CHAINS))


def pairs(chain: Chain) -> list[tuple[int, int]]:
    last = chain.steps
    return [(0, 1), (0, last), (1, 2), (1, last), (last // 2, last // 2 + 1), (last - 1, last)]


def dense(basis: Basis, symbol: Tensor) -> np.ndarray:
    """A symbol as a matrix on modes."""
    eye = torch.eye(basis.grid.size, dtype=torch.float64).reshape(-1, *basis.grid.shape)
    return basis.apply(symbol, eye).flatten(1).T.numpy()


def diagonal(basis: Basis, spectrum: Tensor) -> np.ndarray:
    return np.diag(spectrum.expand(basis.grid.shape).flatten().numpy())


# ---- coefficients


@pytest.mark.parametrize(
    "betas",
    [schedules.linear_betas(), schedules.cosine_betas(), schedules.linear_betas(10, 0.01, 0.9)],
    ids=["linear", "cosine", "coarse"],
)
def test_alpha_bar_is_the_product_of_one_minus_beta(betas: Tensor) -> None:
    """Against products of 50 digits. Tolerances are three times the measured relative errors: sums of 1,000 terms."""
    getcontext().prec = 50
    chain, product = Chain.from_betas(LINE, betas), Decimal(1)
    for level, beta in enumerate(betas.tolist(), start=1):
        product *= 1 - Decimal(beta)
        assert float(chain.alpha_bar(level)) == pytest.approx(float(product), rel=2.4e-14)
        assert float(chain.gain(level)) == pytest.approx(float(product.sqrt()), rel=1.2e-14)
        assert float(chain.variance(level)) == pytest.approx(float(1 - product), rel=3e-15)
        assert float(chain.beta(level)) == pytest.approx(beta, rel=1.5e-13)


def test_cosine_is_the_published_alpha_bar() -> None:
    """ᾱ(t) = f(t)/f(0), f = cos²((t/T + s)/(1 + s)·π/2), in 50 digits at three levels, β ≤ 0.999 at the last."""
    with mpmath.workdps(50):
        curve = [
            mpmath.cos((mpmath.mpf(j) / 1000 + mpmath.mpf("0.008")) / mpmath.mpf("1.008") * mpmath.pi / 2) ** 2
            for j in range(1001)
        ]
        chain = Chain.ddpm(LINE, schedule="cosine")
        for level in (1, 10, 500, 999):
            assert float(chain.alpha_bar(level)) == pytest.approx(float(curve[level] / curve[0]), rel=3.3e-13)
        assert float(chain.beta(1000)) == pytest.approx(0.999, rel=1e-12)
        assert float(schedules.cosine_betas()[:-1].max()) < 0.76


@every_chain
def test_kernels_compose(chain: Chain) -> None:
    last = chain.steps
    for earlier, middle, later in ((0, 1, 2), (0, 1, last), (1, last // 2, last), (last - 2, last - 1, last)):
        direct = chain.kernel(later, earlier)
        composed = chain.kernel(middle, earlier).then(chain.kernel(later, middle))
        torch.testing.assert_close(composed.gain, direct.gain, rtol=1e-12, atol=0)
        torch.testing.assert_close(composed.variance + 0 * direct.variance, direct.variance, rtol=1e-10, atol=0)


@every_chain
def test_posterior_is_dense_conditioning(chain: Chain) -> None:
    """Bayes' rule on the joint covariance of (y_i, y_j) given y_0, as matrices over all modes."""
    basis = chain.process.basis
    for earlier, later in pairs(chain):
        early, late, between = chain.kernel(earlier), chain.kernel(later), chain.kernel(later, earlier)
        s_early, s_late = diagonal(basis, early.variance), diagonal(basis, late.variance)
        m_early, m_late, step = (dense(basis, k.gain) for k in (early, late, between))
        cross = s_early @ step.T
        regression = np.linalg.solve(s_late, cross.T).T
        bridge = chain.posterior(earlier, later)
        scale = 1e-11 * max(1.0, abs(regression).max())
        np.testing.assert_allclose(dense(basis, bridge.on_noisy), regression, rtol=0, atol=scale)
        np.testing.assert_allclose(
            dense(basis, bridge.on_clean), m_early - regression @ m_late, rtol=0, atol=1e-11 * abs(m_early).max()
        )
        conditional = s_early - regression @ cross.T
        np.testing.assert_allclose(diagonal(basis, bridge.variance), conditional, rtol=0, atol=1e-11 * s_early.max())


@every_chain
@pytest.mark.parametrize("stochasticity", [0.0, 0.4, 1.0])
def test_every_bridge_keeps_the_marginal(chain: Chain, stochasticity: float) -> None:
    """Integrated over y_j given y_0, any η gives y_i its mean m_i y_0 and its variance S_i; η² is the noise's share."""
    basis = chain.process.basis
    for earlier, later in pairs(chain):
        bridge, posterior = chain.posterior(earlier, later, stochasticity), chain.posterior(earlier, later)
        old, m_late = dense(basis, bridge.on_noisy), dense(basis, chain.gain(later))
        wanted, s_early = dense(basis, chain.gain(earlier)), diagonal(basis, chain.variance(earlier))
        mean = dense(basis, bridge.on_clean) + old @ m_late
        np.testing.assert_allclose(mean, wanted, rtol=0, atol=1e-12 * abs(wanted).max())
        spread = old @ diagonal(basis, chain.variance(later)) @ old.T + diagonal(basis, bridge.variance)
        np.testing.assert_allclose(spread, s_early, rtol=0, atol=1e-12 * max(s_early.max(), 1e-300))
        torch.testing.assert_close(bridge.variance, stochasticity**2 * posterior.variance)


def test_bridge_mean_is_what_its_symbols_say() -> None:
    chain, generator = CHAINS["wind"], torch.Generator().manual_seed(0)
    clean, noisy = torch.randn((2, 3, 1, 6), generator=generator, dtype=torch.float64)
    bridge, basis = chain.posterior(3, 9), chain.process.basis
    expected = clean @ torch.from_numpy(dense(basis, bridge.on_clean)).T
    expected = expected + noisy @ torch.from_numpy(dense(basis, bridge.on_noisy)).T
    torch.testing.assert_close(bridge.mean(clean, noisy), expected)


@every_chain
def test_beta_is_not_below_the_posterior_variance(chain: Chain) -> None:
    for level in range(1, chain.steps + 1):
        posterior = chain.posterior(level - 1, level)
        assert bool((posterior.upper_variance * (1 + 1e-12) >= posterior.variance).all())  # equal where S stands still
        torch.testing.assert_close(posterior.upper_variance, chain.beta(level), rtol=1e-12, atol=0)


def test_bridge_knows_a_mode_without_noise() -> None:
    """A mode that receives no noise is known from y_0; nothing is divided by its variance."""

    class Silent(VariancePreserving):
        def noise_spectrum(self, time: Tensor) -> Tensor:
            return torch.tensor([0.0, 1, 1, 0, 1, 1], dtype=torch.float64)

    bridge = Chain(Silent(LINE), torch.tensor([0.0, 1.0, 2.0])).posterior(1, 2)
    for symbol in (bridge.on_clean, bridge.on_noisy, bridge.variance):
        assert bool(torch.isfinite(symbol).all())
    assert float(bridge.on_clean[0]) == pytest.approx(math.exp(-0.5)) and float(bridge.on_noisy[0]) == 0


# ---- the clock


@every_chain
def test_clock_is_exact_at_the_levels(chain: Chain) -> None:
    clock, t = chain.process.running_clock, torch.arange(chain.steps + 1, dtype=torch.float64) / chain.steps
    assert torch.equal(clock.time(t), chain.physical_times)
    assert torch.equal(clock.inverse(chain.physical_times), t)


def test_clock_between_levels() -> None:
    clock = TableClock((0.0, 0.1, 0.3, 2.0, 50.0))
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    assert bool((clock.time(t).diff() > 0).all())
    torch.testing.assert_close(clock.inverse(clock.time(t)), t, rtol=0, atol=1e-14)
    inside, h = t[:-1] + 5e-4, 1e-6
    slope = (clock.time(inside + h) - clock.time(inside - h)) / (2 * h)
    torch.testing.assert_close(clock.rate(inside), slope, rtol=1e-8, atol=0)


# ---- sampling along a chain


def gaussian_law(chain: Chain, reference: GaussianField, solver: Solver, steps: int, spacing: str) -> Tensor:
    """Covariance of the samples over the reference's, exactly, as a matrix."""
    path = chain.path(reference)
    end, root = path.at(1.0), reference.spectrum.flatten().sqrt()
    times = chain.time_grid(spacing).times(path, steps)
    start = end.mean.flatten(), torch.diag(end.variance.flatten())
    _, covariance = carried(solver, GaussianDenoiser(path), times, *start)
    return covariance / (root * root.unsqueeze(1))


@every_chain
@pytest.mark.parametrize("solver", [Ancestral(), ReferenceSplitting()], ids=["ancestral", "splitting"])
def test_gaussian_data_is_sampled_exactly(chain: Chain, solver: Solver) -> None:
    reference = smooth_reference(chain.process.basis)
    one = torch.eye(reference.basis.grid.size, dtype=torch.float64)
    for steps, spacing in ((1, "trailing"), (2, "linspace"), (4, "trailing"), (min(chain.steps, 20), "linspace")):
        found = gaussian_law(chain, reference, solver, steps, spacing)
        assert float((found - one).abs().max()) < 1e-9


def test_ddpm_is_too_narrow_by_what_it_leaves_out() -> None:
    """With β̃, v_i = E[y_i|y_j]-slope² v_j + Var[y_i|y_0, y_j], both by conditioning in the joint covariance of
    (y_0, y_i, y_j), built from products of 1 − β. More steps are less narrow; `uncertainty=1` is exact."""
    spectrum = torch.tensor([0.3, 0.7, 1.0, 2.0], dtype=torch.float64).square()
    reference, betas = GaussianField.centred(CELLS, spectrum), schedules.linear_betas(steps=200, beta_end=0.1)
    chain, kept = Chain.from_betas(CELLS, betas), np.cumprod(np.concatenate([[1.0], 1 - betas.numpy()]))
    widths = {}
    for steps in (10, 50, 200):
        visited, expected = [*chain.levels(steps).tolist(), 0], []
        for c in spectrum.tolist():
            variance = kept[-1] * c + 1 - kept[-1]
            for later, earlier in pairwise(visited):
                m, step = math.sqrt(kept[earlier]), math.sqrt(kept[later] / kept[earlier])
                own = kept[earlier] * c + 1 - kept[earlier]
                late = kept[later] * c + 1 - kept[later]
                joint = np.array([[c, m * c, m * step * c], [m * c, own, step * own], [m * step * c, step * own, late]])
                known = joint[np.ix_([0, 2], [0, 2])]
                narrow = joint[1, 1] - joint[1, [0, 2]] @ np.linalg.solve(known, joint[1, [0, 2]])
                variance = (joint[1, 2] / joint[2, 2]) ** 2 * variance + narrow
            expected.append(variance / c)
        widths[steps] = gaussian_law(chain, reference, Ancestral(0.0), steps, "trailing").diagonal()
        np.testing.assert_allclose(widths[steps].numpy(), expected, rtol=1e-9)
    print("variance over true variance:", {n: v.tolist() for n, v in widths.items()})
    assert bool((widths[10] < widths[50]).all() and (widths[50] < widths[200]).all() and (widths[200] < 1).all())
    exact = gaussian_law(chain, reference, Ancestral(1.0), 200, "trailing").diagonal()
    assert float((exact - 1).abs().max()) < 1e-9


def test_upper_variance_is_right_for_white_unit_data() -> None:
    """Ho et al. (2020), section 3.2: β_t is the variance for x_0 ~ N(0, 1); the ancestral step finds it by itself."""
    chain = Chain.ddpm(CELLS, steps=40, beta_end=0.3)
    path = chain.path(GaussianField.white(CELLS))
    for later in (2, 20, 40):
        step = affine_map(Ancestral(), GaussianDenoiser(path), torch.stack([chain.t(later), chain.t(later - 1)]))
        noise = (step.spread @ step.spread.T).diagonal()
        torch.testing.assert_close(
            noise, chain.posterior(later - 1, later).upper_variance.expand(4), rtol=1e-12, atol=0
        )


@pytest.mark.parametrize("solver", [Ancestral(), ReferenceSplitting(), Heun()], ids=lambda s: type(s).__name__)
def test_sample_visits_every_level(solver: Solver) -> None:
    chain = zero_terminal(LINE)
    path, visited = chain.path(smooth_reference(LINE)), []
    x = sample(
        GaussianDenoiser(path), 2, steps=chain.steps, solver=solver, time_grid=chain.time_grid(),
        callback=lambda t, y: visited.append(float(path.clock.time(t))),
    )  # fmt: skip
    assert visited == chain.physical_times.flip(0)[1:].tolist()
    assert bool(torch.isfinite(x).all())


def test_zero_terminal_snr_leaves_nothing_and_stays_finite() -> None:
    given = schedules.linear_betas()
    betas = schedules.rescaled_zero_terminal_snr(given)
    chain = Chain.from_betas(LINE, betas)
    assert float(betas[-1]) == 1 and float(betas[0]) == pytest.approx(1e-4, rel=1e-10)
    assert float(chain.gain(1000)) == 0 and float(chain.variance(1000)) == 1 and float(chain.beta(1000)) == 1
    # The rescaled signal is a straight line of the old one, with the first level kept and the last at 0.
    old, new = (torch.stack([c.gain(j) for j in range(1, 1001)]) for c in (Chain.from_betas(LINE, given), chain))
    slope = (new.diff() / old.diff()).numpy()
    np.testing.assert_allclose(slope, slope[0], rtol=1e-8)
    for stochasticity in (0.0, 1.0):
        bridge = chain.posterior(999, 1000, stochasticity)
        assert all(bool(torch.isfinite(b)) for b in (bridge.on_clean, bridge.on_noisy, bridge.variance))
    posterior = chain.posterior(999, 1000)  # y_K is noise alone: y_{K−1} is drawn afresh
    assert float(posterior.on_noisy) == 0 and float(posterior.on_clean) == float(chain.gain(999))
    point = chain.path(smooth_reference(LINE)).at(1.0)
    for value in (point.wiener_gain, point.posterior_variance, point.angle, point.pull_rate, point.variance):
        assert bool(torch.isfinite(value).all())
    torch.testing.assert_close(point.variance, torch.ones(1, 6, dtype=torch.float64), rtol=0, atol=0)


# ---- chains with a name, and levels


def test_named_chains_have_their_levels() -> None:
    ncsn = Chain.ncsn(LINE, 0.01, 50.0, levels=232)
    sigma = torch.stack([ncsn.variance(j).sqrt() for j in range(1, 233)])
    assert float(sigma[0]) == pytest.approx(0.01) and float(sigma[-1]) == pytest.approx(50.0)
    np.testing.assert_allclose(sigma[1:] / sigma[:-1], 5000 ** (1 / 231), rtol=1e-12)
    blur = Chain.heat_dissipation(WALL, 0.05, 2.0, levels=20, noise_level=0.02)
    for level, width in ((1, 0.05), (20, 2.0)):
        cosine = torch.cos(
            torch.pi * (torch.arange(5, dtype=torch.float64) + 0.5) * 0.4 / 2.0
        )  # first wave of length 2
        melted = WALL.inverse(WALL.apply(blur.gain(level), WALL.forward(cosine)))
        torch.testing.assert_close(melted, cosine * math.exp(-0.5 * (math.pi / 2.0 * width) ** 2))
        torch.testing.assert_close(blur.variance(level), torch.full((5,), 0.02**2, dtype=torch.float64))


def test_chain_of_a_path_stops_where_its_sample_does() -> None:
    process = fit_clock(Heat(WALL), smooth_reference(WALL))
    path = ReferencePath(process, smooth_reference(WALL))
    for grid in (None, Uniform()):
        chain, times = Chain.of(path, 8, grid), []
        own = chain.path(path.reference)
        sample(GaussianDenoiser(path), 1, steps=8, time_grid=grid, callback=lambda t, y: times.append(t))  # noqa: B023
        stops = path.clock.time(torch.stack(times[::-1]))
        torch.testing.assert_close(stops, chain.physical_times[:-1], rtol=1e-14, atol=0)
        at_fourth = path.at_time(chain.physical_times[4]).variance
        torch.testing.assert_close(own.at(0.5).variance, at_fourth, rtol=1e-14, atol=0)
        assert own.t_min == 1 / 8


def test_levels_are_the_published_ones() -> None:
    """Lin et al. (2024), table 2: T = 1000, S = 10."""
    chain = CHAINS["ddpm"]
    published = {
        "leading": [1, 101, 201, 301, 401, 501, 601, 701, 801, 901],
        "linspace": [1, 112, 223, 334, 445, 556, 667, 778, 889, 1000],
        "trailing": [100, 200, 300, 400, 500, 600, 700, 800, 900, 1000],
    }
    ten = Chain.ddpm(LINE, steps=10)  # three of ten, by hand: 10, 6.67, 3.33; 10, 5.5 (to even, counted from 0), 1
    by_hand = {"leading": [7, 4, 1], "linspace": [10, 5, 1], "trailing": [10, 7, 3]}
    for spacing, levels in published.items():
        assert ten.levels(3, spacing).tolist() == by_hand[spacing]
        assert chain.levels(10, spacing).tolist() == levels[::-1]
        assert chain.levels(1000, spacing).tolist() == list(range(1000, 0, -1))
        for steps in (1, 3, 7, 333, 999):
            visited = chain.levels(steps, spacing).tolist()
            assert len(visited) == steps and all(a > b for a, b in pairwise(visited))
            assert 1 <= visited[-1] and visited[0] <= 1000


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: Chain.ddpm(LINE, schedule="cosin"), "Did you mean 'cosine'"),
        (lambda: Chain.ddpm(LINE, steps=1), "at least 2 steps; got 1"),
        (lambda: Chain.from_betas(LINE, torch.tensor([0.1, 1.0, 0.2])), "β = 1 at step 2"),
        (lambda: Chain.from_betas(LINE, torch.tensor([0.1, -0.2])), "β = -0.2 at step 2"),
        (lambda: Chain(VariancePreserving(LINE), torch.tensor([0.0, 2.0, 1.0])), "start at 0 and increase"),
        (lambda: Chain(VariancePreserving(LINE), torch.tensor([0.1, 1.0, 2.0])), "start at 0 and increase"),
        (lambda: Chain(VariancePreserving(LINE), torch.tensor([0.0, math.nan, 2.0])), "start at 0 and increase"),
        (lambda: Chain(VarianceExploding(LINE), torch.tensor([0.0, 1.0, math.inf])), "must be finite; got inf"),
        (lambda: Chain(RectifiedFlow(LINE), torch.tensor([0.0, 1.0, math.inf])), "must be finite; got inf"),
        (lambda: Chain.ncsn(LINE, 1.0, 0.1, 10), "grow from a positive"),
        (lambda: CHAINS["ddpm"].kernel(3, 5), "must not be below 5; got 3"),
        (lambda: CHAINS["ddpm"].posterior(5, 5), "must be below 5; got 5"),
        (lambda: CHAINS["ddpm"].gain(1001), "0 to 1000; got 1001"),
        (lambda: CHAINS["ddpm"].time_grid("leading"), "never visits"),
        (lambda: CHAINS["ddpm"].time_grid("trailng"), "Did you mean 'trailing'"),
        (lambda: CHAINS["ddpm"].levels(1001), "1 to 1000 steps; got 1001"),
        (lambda: TableClock((0.0, 1.0, math.inf)), "finite, increasing"),
    ],
)
def test_refusals_say_what_was_wrong(make: object, part: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError) as refused:
        make()
    assert part in str(refused.value)


def test_a_time_grid_is_for_its_own_chain() -> None:
    path = Chain.ddpm(LINE, steps=10).path(smooth_reference(LINE))
    with pytest.raises(ValueError, match=r"chain\.path\(reference\)"):
        CHAINS["ddpm"].time_grid().times(path, 5)
