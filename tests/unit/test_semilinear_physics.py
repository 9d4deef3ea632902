"""The simulated physics against what is known of each: conserved energies, invariant laws, actions, phases."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from torch import Tensor

from physdiff import description
from physdiff.basis import IdentityBasis, SpectralBasis
from physdiff.clock import LinearClock
from physdiff.clock_fit import fit_clock
from physdiff.denoisers import GaussianScore
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.likelihood import log_likelihood
from physdiff.objectives.transition import TransitionLoss, _Linearised
from physdiff.path import ReferencePath
from physdiff.processes.allen_cahn import AllenCahn
from physdiff.processes.euler_vorticity import EulerVorticity
from physdiff.processes.heat import Heat
from physdiff.processes.lattice_phi4 import LatticePhi4
from physdiff.processes.stochastic_burgers import StochasticBurgers
from physdiff.processes.variance_exploding import VarianceExploding
from physdiff.semilinear import SemilinearProcess, saturated_cube, with_drift
from physdiff.simulated_path import Moments, SimulatedPath
from physdiff.solvers import Ancestral, sample

ZERO = torch.zeros((), dtype=torch.float64)
PLANE = SpectralBasis(Grid((18, 15), (1.0, 1.5), "periodic"))


def drift(process: SemilinearProcess, x: Tensor, time: Tensor = ZERO) -> Tensor:
    """All of dx/dτ but the noise, on fields."""
    modes = process.basis.apply(process.drift_symbol(), process.basis.forward(x))
    return process.basis.inverse(modes) + process.reaction(x, time)


def field(basis: SpectralBasis, n: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((n, 1, *basis.grid.shape), generator=generator, dtype=torch.float64)


# ---- Burgers


def test_burgers_is_the_truncated_equation() -> None:
    """−½ s ∂(Px)² by numpy's Fourier transform on a grid twice as fine, where nothing aliases."""
    n, p = 24, StochasticBurgers(SpectralBasis(Grid(24, 2.0)), strength=0.7)
    x = field(p.basis)[0, 0].numpy()
    k = np.fft.fftfreq(n, 1 / n)
    low = np.where(3 * np.abs(k) < n, np.fft.fft(x) / n, 0)
    fine = np.zeros(2 * n, complex)
    fine[np.fft.fftfreq(2 * n, 1 / (2 * n)).astype(int) % (2 * n)] = 0
    for index, q in enumerate(k.astype(int)):
        fine[q % (2 * n)] = low[index]
    square = np.fft.fft(np.real(np.fft.ifft(fine * 2 * n)) ** 2) / (2 * n)
    coarse = np.array([square[q % (2 * n)] if 3 * abs(q) < n else 0 for q in k.astype(int)])
    expected = np.real(np.fft.ifft(-0.5 * 0.7 * 2j * np.pi / 2.0 * k * coarse * n))
    found = p.reaction(torch.from_numpy(x).reshape(1, 1, n), ZERO)[0, 0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("process", [StochasticBurgers(SpectralBasis(Grid(64))), StochasticBurgers(PLANE)])
def test_burgers_conserves_energy_to_rounding(process: StochasticBurgers) -> None:
    x = field(process.basis)
    rate = process.reaction(x, ZERO)
    assert float((x * rate).flatten(1).sum(1).abs().max() / (x.norm() * rate.norm())) < 1e-15


def test_burgers_forgets_into_the_exact_gaussian() -> None:
    """From shifted copies of one profile, far from Gaussian, to N(0, 1) per mode: variance 1 and kurtosis 0 in standard
    errors, at a time when the linear part alone still remembers; the two ways differ in between."""
    basis, n = SpectralBasis(Grid(24)), 4000
    generator = torch.Generator().manual_seed(0)
    shift = torch.rand((n, 1, 1), generator=generator, dtype=torch.float64)
    place = torch.arange(24, dtype=torch.float64) / 24
    profile = 2 * torch.sin(2 * math.pi * (place - shift)) + torch.cos(4 * math.pi * (place - shift))
    process = StochasticBurgers(basis, strength=0.3)
    times = torch.linspace(0, 3, 61, dtype=torch.float64)
    states = [basis.forward(process.simulate(profile, times, generator)[i])[:, 0] for i in (0, 20, 60)]
    busy = [1, 2, -1, -2]  # the modes in which the data is

    def kurtosis(y: Tensor) -> Tensor:
        return (y**4).mean(0) / (y**2).mean(0) ** 2 - 3

    assert float(kurtosis(states[0])[busy].abs().min()) > 1.4  # a sinusoid of random phase has −1.5
    linear = process.linear.variance(times[20], ZERO) + torch.exp(
        2 * process.linear.log_gain(times[20], ZERO)
    ) * states[0].square().mean(0)
    moved = (states[1].square().mean(0) / linear - 1).abs()
    assert float(moved[busy].max()) > 0.1  # at τ = 1 energy has gone to other modes
    end = states[2]
    variance_error = (end.square().mean(0) - 1) / math.sqrt(2 / n)
    kurtosis_error = kurtosis(end) / math.sqrt(24 / n)
    assert float(variance_error.abs().max()) < 4.5
    assert float(kurtosis_error.abs().max()) < 4.5


# ---- Euler


def test_euler_is_the_vorticity_equation() -> None:
    """On two waves a·cos(k·x) + b·cos(q·x) the advection is known in closed form."""
    p = EulerVorticity(SpectralBasis(Grid((18, 18), 2 * math.pi, "periodic")), strength=1.0)
    x, y = torch.meshgrid(*[torch.from_numpy(p.basis.grid.coordinate(i)) for i in (0, 1)], indexing="ij")
    a, b, k, q = 0.7, 1.3, (1.0, 2.0), (3.0, 1.0)
    first, second = (w[0] * x + w[1] * y for w in (k, q))
    vorticity = (a * torch.cos(first) + b * torch.cos(second)).reshape(1, 1, 18, 18)
    cross = k[0] * q[1] - k[1] * q[0]
    # dω/dτ = −u·∇ω = ψ_x ω_y − ψ_y ω_x with ψ = ω/k² wave by wave: only the cross terms are left.
    expected = a * b * cross * (1 / 5 - 1 / 10) * torch.sin(first) * torch.sin(second)
    np.testing.assert_allclose(p.reaction(vorticity, ZERO)[0, 0], expected, atol=1e-12)
    alone = p.reaction((a * torch.cos(first)).reshape(1, 1, 18, 18), ZERO)
    assert float(alone.abs().max()) < 1e-12  # one wave is at rest


def test_euler_conserves_energy_and_enstrophy_to_rounding() -> None:
    p = EulerVorticity(PLANE)
    y = p.basis.forward(field(p.basis)) * (p.basis.laplacian > 0)
    rate = p.reaction_of_modes(y, ZERO)
    inverse = torch.where(p.basis.laplacian > 0, 1 / p.basis.laplacian.clamp(min=1e-9), 0.0)
    for weight in (torch.ones_like(inverse), inverse):
        produced = (y * weight * rate).flatten(1).sum(1).abs().max()
        assert float(produced / ((y * weight).norm() * rate.norm())) < 1e-15


def test_the_end_of_a_conserving_flow_is_taken_exactly() -> None:
    basis = SpectralBasis(Grid(12))
    reference = GaussianField.matern(basis, 0.2)
    process = fit_clock(StochasticBurgers(basis), reference)
    fields = reference.sample(40, torch.Generator().manual_seed(0))
    path = SimulatedPath.measure(process, reference, fields, 0.3, torch.Generator().manual_seed(1))
    assert float((path.law(1.0).spectrum - 1).abs().max()) < 1e-12
    assert float(path.law(1.0).mean.abs().max()) < 1e-12


def test_euler_keeps_kraichnans_equilibrium() -> None:
    """Runs from N(0, c) stay there, mode by mode, and Gaussian; runs from white data go there."""
    basis, n = SpectralBasis(Grid((8, 7), 1.0, "periodic")), 1500
    process = EulerVorticity(basis, strength=2.0)
    c = process.stationary_spectrum
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn((n, 1, 8, 7), generator=generator, dtype=torch.float64)
    times = torch.linspace(0, 2.5, 51, dtype=torch.float64)
    alive = c > 0
    for start, allowed in ((c.sqrt() * noise, 0.0), (0.5 * noise * alive, math.exp(-5.0))):
        end = basis.forward(process.simulate(basis.inverse(start), times, generator)[-1])[:, 0][:, alive]
        error = (end.square().mean(0) / c[alive] - 1).abs()
        assert float(error.max()) < 4.5 * math.sqrt(2 / n) + allowed
        kurtosis = (end**4).mean(0) / (end**2).mean(0) ** 2 - 3
        assert float(kurtosis.abs().max()) < 4.5 * math.sqrt(24 / n)


# ---- φ⁴ and Allen-Cahn


@pytest.mark.parametrize("grid", [Grid(9, 9.0), Grid((6, 5), (6.0, 5.0), "periodic"), Grid(7, 7.0, "neumann")])
def test_phi4_drifts_down_its_action(grid: Grid) -> None:
    p = LatticePhi4(SpectralBasis(grid), hopping=0.27, coupling=0.4, scale=1.3, saturation=None)
    x = field(p.basis).requires_grad_()
    (gradient,) = torch.autograd.grad(p.action(x).sum(), x)
    assert float((drift(p, x.detach()) + gradient).abs().max()) < 1e-12
    assert float(p.free_hopping) < 0.5 / grid.ndim


def test_phi4_action_is_that_of_the_sites() -> None:
    """−2κ Σ φφ' + (1 − 2λ) φ² + λφ⁴ by rolling the field."""
    p = LatticePhi4(SpectralBasis(Grid((4, 5), (4.0, 5.0), "periodic")), hopping=0.23, coupling=0.3, scale=0.8)
    x = field(p.basis)
    phi = 0.8 * x[:, 0]
    neighbours = sum((phi * torch.roll(phi, 1, axis)).flatten(1).sum(1) for axis in (1, 2))
    sites = ((1 - 0.6) * phi**2 + 0.3 * phi**4).flatten(1).sum(1)
    np.testing.assert_allclose(p.action(x), sites - 2 * 0.23 * neighbours, rtol=1e-12)


def test_phi4_rests_at_the_boltzmann_law() -> None:
    """With an interaction that does not fade, runs reach <φ²> and <φ⁴> of e^{−S}, by quadrature on one site."""
    p = LatticePhi4(SpectralBasis(Grid(1)), hopping=0.3, coupling=0.5, fading_time=1e12, saturation=None)
    generator, n = torch.Generator().manual_seed(2), 40000
    times = torch.linspace(0, 6, 601, dtype=torch.float64)
    end = p.simulate(torch.randn((n, 1, 1), generator=generator, dtype=torch.float64), times, generator)[-1].flatten()
    x = torch.linspace(-5, 5, 4001, dtype=torch.float64)
    weight = torch.exp(-p.action(x.reshape(-1, 1, 1)))
    weight = weight / torch.trapezoid(weight, x)
    for power in (2, 4):
        exact = float(torch.trapezoid(weight * x**power, x))
        found = end**power
        # Steps of 0.01 shift the law by O(0.01); 1 % is allowed for that.
        assert abs(float(found.mean()) - exact) < 4 * float(found.std()) / math.sqrt(n) + 0.01 * exact


def test_allen_cahn_is_its_equation_and_fades_into_the_bath() -> None:
    p = AllenCahn(SpectralBasis(Grid(12, 1.0, "neumann")), reaction_rate=2.0, friction=0.7, saturation=None)
    x = field(p.basis)
    by_definition = p.diffusivity * p.basis.inverse(-p.basis.laplacian * p.basis.forward(x)) + 2.0 * (x - x**3)
    assert float((drift(p, x) - by_definition).abs().max()) < 1e-12
    late = torch.tensor(40 * p.fading_time, dtype=torch.float64)
    assert float(p.reaction(x, late).abs().max()) < 1e-15
    assert float(drift(p, torch.ones_like(x)).abs().max()) < 1e-12  # a phase is at rest
    bath = p.noise_spectrum() / (-2 * p.drift_symbol())
    assert float(bath.mean()) == pytest.approx(1, abs=1e-12)


def test_a_saturated_cube_is_the_cube_where_fields_are_small() -> None:
    x = torch.tensor([0.1, 1.0, 100.0], dtype=torch.float64)
    found = saturated_cube(x, 2.0)
    assert float(found[0]) == pytest.approx(1e-3, rel=1e-5)
    assert float(found[1]) == pytest.approx(1 / math.sqrt(1 + 1 / 16), rel=1e-12)
    assert float(found[2]) == pytest.approx(4 * 100, rel=1e-5)
    assert float(saturated_cube(x, None)[2]) == 1e6


def test_a_cubic_reaction_is_told_that_it_cannot_be_run_backwards() -> None:
    basis = SpectralBasis(Grid((8, 8)))
    reference = GaussianField.matern(basis, 0.2)
    fields = reference.sample(40, torch.Generator().manual_seed(0))
    wild, tame = (fit_clock(AllenCahn(basis, saturation=b), reference) for b in (None, 2.0))
    paths = [SimulatedPath.measure(p, reference, fields, 0.2, torch.Generator().manual_seed(1)) for p in (wild, tame)]
    with pytest.raises(FloatingPointError, match=r"samples are not finite at t = .*saturate it"):
        sample(GaussianScore(paths[0]), 64, steps=16)
    assert float(sample(GaussianScore(paths[1]), 64, steps=16).abs().max()) < 50


def test_the_clock_waits_for_the_reaction_to_fade() -> None:
    basis = SpectralBasis(Grid(16))
    reference = GaussianField.matern(basis, 0.2)
    quick, slow = (fit_clock(AllenCahn(basis, fading_time=f), reference).running_clock.end for f in (0.25, 1.5))
    assert slow - quick == pytest.approx(4 * 1.25, rel=1e-9)


# ---- linear drifts that are given as functions: closed forms


MIXING = torch.tensor([[-0.5, 0.8, 0.0], [-0.3, -0.2, 0.4], [0.1, 0.0, -1.0]], dtype=torch.float64)


def mixed_path() -> SimulatedPath:
    basis = IdentityBasis(Grid(3))
    process = with_drift(VarianceExploding(basis, clock=LinearClock(1.0)), lambda x, time: x @ MIXING.T)
    law = GaussianField.white(basis)
    shape = torch.zeros((2, 1, 3), dtype=torch.float64)
    times = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    return SimulatedPath(process, law, Moments(times, times[1:], shape, shape + 1.5), 0.3)


def test_linearised_windows_are_exact_for_a_linear_drift() -> None:
    """Mean and covariance of a window against the matrix exponential (Van Loan); C⁻¹ by conjugate gradients."""
    path = mixed_path()
    times = torch.linspace(0.3, 1.0, 401, dtype=torch.float64)
    start = torch.randn((5, 1, 3), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    window = _Linearised(path, times, start)
    a, length = MIXING.numpy(), 0.7
    block = expm(length * np.block([[-a, np.eye(3)], [np.zeros((3, 3)), a.T]]))
    gain = block[3:, 3:].T
    covariance = gain @ block[:3, 3:]
    np.testing.assert_allclose(window.mean[:, 0], start[:, 0] @ gain.T, atol=2e-3)  # first order in the substep
    unit = torch.eye(3, dtype=torch.float64).reshape(3, 1, 3)
    carried = _Linearised(path, times, torch.zeros((3, 1, 3), dtype=torch.float64)).covariance(unit)[:, 0]
    np.testing.assert_allclose(carried, covariance, atol=2e-3)
    deviation = torch.randn((5, 1, 3), generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    few = _Linearised(path, times[::40], start)
    solved = few.solve(deviation)
    np.testing.assert_allclose(few.covariance(solved), deviation, atol=1e-5)


def test_a_drift_that_commutes_is_the_linear_process() -> None:
    """dx = κ∇²x − bx has the kernel of the linear process with friction, whichever part b is counted in."""
    basis = SpectralBasis(Grid(8))
    process = with_drift(Heat(basis, diffusivity=0.01, clock=LinearClock(1.0)), lambda x, time: -0.8 * x)
    modes = torch.randn((2, 1, 8), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    a, b = torch.tensor(0.2, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    expected = torch.exp((process.drift_symbol() - 0.8) * 0.1) * modes
    assert float((process.step(modes, a, b, None) - expected).abs().max()) < 1e-6  # (0.08)⁵/120 of Runge and Kutta


def test_with_drift_moves_to_another_grid_and_cannot_be_saved() -> None:
    process = with_drift(Heat(SpectralBasis(Grid(8)), clock=LinearClock(1.0)), lambda x, time: -(x**3), fading_time=2.0)
    finer = process.on(Grid(16))
    assert finer.linear.drift_symbol(ZERO).shape == (16,)
    x = torch.ones((1, 1, 16), dtype=torch.float64)
    assert float(finer.reaction(x, torch.tensor(2.0)).mean()) == pytest.approx(-math.exp(-1))
    with pytest.raises(ValueError, match="given as a function cannot be written"):
        description.of_process(process)


# ---- wrong use, one clear line


def test_wrong_use_is_told(tmp_path) -> None:
    with pytest.raises(ValueError, match="needs a periodic axis"):
        StochasticBurgers(SpectralBasis(Grid(8, 1.0, "neumann")))
    with pytest.raises(ValueError, match="needs a periodic plane"):
        EulerVorticity(SpectralBasis(Grid(8)))
    with pytest.raises(ValueError, match=r"'free_hopping' between 0 and 0\.25"):
        LatticePhi4(SpectralBasis(Grid((4, 4))), free_hopping=0.25)
    with pytest.raises(ValueError, match="unknown target 'eular'"):
        TransitionLoss("eular")  # pyright: ignore[reportArgumentType]
    path = mixed_path()
    with pytest.raises(ValueError, match="Ancestral works under linear processes only"):
        sample(GaussianScore(path), 2, solver=Ancestral())
    with pytest.raises(ValueError, match="scored='noised'"):
        log_likelihood(GaussianScore(path), torch.zeros((1, 1, 3), dtype=torch.float64))
    basis = SpectralBasis(Grid(8))
    reference = GaussianField.matern(basis, 0.3)
    fields = reference.sample(20, torch.Generator().manual_seed(0))
    vortices = SpectralBasis(Grid((6, 6), 1.0, "periodic"))
    with pytest.raises(ValueError, match=r"no noise to 1 of the 36 modes .* index \(0, 0\) .*: subtract it"):
        fit_clock(EulerVorticity(vortices), GaussianField.matern(vortices, 0.3))
    flat = with_drift(Heat(basis), lambda x, time: -x.sum(1))
    with pytest.raises(ValueError, match=r"reaction returned the shape \(3, 8\) for fields of shape \(3, 1, 8\)"):
        flat.step(field(basis), ZERO, torch.ones_like(ZERO), None)
    with pytest.raises(ValueError, match="AllenCahn is simulated: no closed form"):
        ReferencePath(AllenCahn(basis), GaussianField.matern(basis, 0.3))  # pyright: ignore[reportArgumentType]
    hurried = fit_clock(with_drift(Heat(basis), lambda x, time: -4000 * x**3), GaussianField.matern(basis, 0.3))
    with pytest.raises(ValueError, match=r"too fast for the first window, up to t_min .*smaller noise_level"):
        SimulatedPath.measure(hurried, GaussianField.matern(basis, 0.3), field(basis, 9), 0.95, torch.Generator())
    path = mixed_path()
    cut = Moments(path.moments.windows, path.moments.times, path.moments.means, path.moments.variances[..., :2])
    with pytest.raises(ValueError, match="moments must hold rising times"):
        SimulatedPath(path.process, path.reference, cut, path.t_min)
    wild = StochasticBurgers(basis, strength=50.0)
    with pytest.raises(FloatingPointError, match=r"a run is not finite at τ = .*more times or substeps"):
        wild.simulate(field(basis), torch.tensor([0.0, 2.0, 4.0], dtype=torch.float64), torch.Generator())
    runaway = fit_clock(with_drift(Heat(basis, diffusivity=0.01), lambda x, time: 0.02 * x**3), reference)
    with pytest.raises(ValueError, match=r"a run is not finite at τ = .*its reaction blows up"):
        SimulatedPath.measure(runaway, reference, fields, 0.3, torch.Generator().manual_seed(0))
