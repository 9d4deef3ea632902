"""Phase-space processes: equilibria and first instants by hand, exactness on the statistic, training."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import linalg
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from physdiff.basis import IdentityBasis, SpectralBasis
from physdiff.block import Block
from physdiff.clock import LinearClock
from physdiff.clock_fit import fit_clock
from physdiff.denoisers import Denoiser, GaussianDenoiser
from physdiff.grid import Grid
from physdiff.laws.cases import smooth_reference
from physdiff.likelihood import log_likelihood
from physdiff.objectives import DenoisingLoss
from physdiff.path import ReferencePath
from physdiff.phase_space import PhaseSpaceProcess
from physdiff.processes.critically_damped_langevin import CriticallyDampedLangevin
from physdiff.processes.damped_wave import DampedWave
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.solvers import Ancestral, ReferenceSplitting, sample

torch.set_num_threads(1)

BOX = SpectralBasis(Grid((4, 5), (1.0, 2.0), ("periodic", "neumann")))
BOTH = pytest.mark.parametrize("cls", [CriticallyDampedLangevin, DampedWave])


@dataclass(frozen=True)
class Driven(PhaseSpaceProcess):
    """A field in coloured noise, which it does not act on: an active particle in a trap."""

    def drift_block(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        return (at(-5.0), at(1.0)), (at(0.0), at(-1.0))

    def noise_block(self) -> tuple[Tensor, Tensor]:
        return at(0.0), at(2.0)

    @property
    def start_velocity_variance(self) -> Tensor:
        return at(1.0)


@dataclass(frozen=True)
class Both(Driven):
    """The same, with noise on the field too."""

    amplitude_exponent = 0.5

    def noise_block(self) -> tuple[Tensor, Tensor]:
        return at(0.3), at(2.0)


def at(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def fitted(cls: type, basis: SpectralBasis = BOX) -> ReferencePath:
    reference = smooth_reference(basis)
    return ReferencePath(fit_clock(cls(basis), reference), reference)


# ---- what the two processes are


def test_wave_ends_in_the_gibbs_law() -> None:
    """x ~ T/(ΔV ω²), v ~ T/ΔV, independent; and with the default temperature cells have unit variance."""
    process = DampedWave(BOX, wave_speed=1.3, restoring=2.0, friction=1.7, temperature=0.6, clock=LinearClock(80.0))
    xx, xv, vv = process.phase_kernel(at(1.0)).covariance
    frequency = 1.3**2 * BOX.laplacian + 4.0
    bath = 0.6 / 0.1  # cells of ¼ × 2/5
    torch.testing.assert_close(xx, bath / frequency, rtol=1e-13, atol=0)
    torch.testing.assert_close(vv, torch.full_like(xx, bath), rtol=1e-13, atol=0)
    assert float((xv.abs() / (xx * vv).sqrt()).max()) < 1e-13
    torch.testing.assert_close(process.kernel(at(1.0)).variance, bath / frequency, rtol=1e-13, atol=0)
    default = DampedWave(BOX)
    assert default.temperature is not None
    assert float((default.temperature / 0.1 / default.squared_frequency).mean()) == pytest.approx(1.0, rel=1e-13)


def test_wave_without_friction_to_speak_of_is_dalemberts() -> None:
    """A wave of a string released at rest is turned over after half a period π/ω, ω = √(c²λ + μ²)."""
    line = SpectralBasis(Grid(8, 2.0, "periodic"))
    omega = math.sqrt((1.5 * 2 * math.pi / 2.0) ** 2 + 0.7**2)
    process = DampedWave(line, 1.5, 0.7, friction=1e-9, temperature=1e-9, clock=LinearClock(math.pi / omega))
    wave = torch.cos(2 * math.pi * torch.from_numpy(line.grid.coordinate(0)) / 2.0).reshape(1, 1, 8)
    for t, x_expected, v_expected in ((0.5, 0.0, -omega), (1.0, -1.0, 0.0)):
        kernel = process.phase_kernel(at(t))
        x, v = (line.inverse(gain * line.forward(wave)) for gain in kernel.gain)
        torch.testing.assert_close(x, x_expected * wave, rtol=0, atol=1e-8)
        torch.testing.assert_close(v, v_expected * wave, rtol=0, atol=1e-8)


def test_langevin_is_critical_and_ends_in_unit_noise() -> None:
    """Γ² = 4M: a = e^{−2τ/Γ}(1 + 2τ/Γ, −τ); x ~ N(0, 1) and v ~ N(0, M) in the end."""
    for mass in (0.25, 1.7):
        process = CriticallyDampedLangevin(IdentityBasis(Grid(3)), mass=mass, clock=LinearClock(60.0))
        rate = 1 / math.sqrt(mass)
        a_x, a_v = process.phase_kernel(at(0.01)).gain
        assert float(a_x) == pytest.approx(math.exp(-0.6 * rate) * (1 + 0.6 * rate), rel=1e-13)
        assert float(a_v) == pytest.approx(-math.exp(-0.6 * rate) * 0.6, rel=1e-13)
        end = process.phase_kernel(at(1.0)).covariance
        assert [float(e) for e in end] == pytest.approx([1.0, 0.0, mass], rel=1e-12, abs=1e-13)
        assert float(process.block.stationary_precision) == pytest.approx(1.0, rel=1e-15)


@pytest.mark.parametrize(("start", "factor"), [(0.04, 1 / 3), (0.0, 1 / 12)])
def test_noise_of_a_hidden_velocity_starts_as_the_cube_of_time(start: float, factor: float) -> None:
    """E → G τ³/3 M⁻² if v_0 is random; a velocity known to start at 0 tells three quarters of that again.

    A straight line through noise that is integrated white noise: Var(∫W) = τ³/3, and given W(τ) it is τ³/12.
    """
    process = CriticallyDampedLangevin(IdentityBasis(Grid(3)), start_velocity=start, clock=LinearClock(1.0))
    for time in (1e-12, 1e-7):
        found = float(process.variance(at(time), at(0.0)))
        assert found == pytest.approx(factor * 2.0 * time**3 / 0.25**2, rel=300 * time + 1e-13)


def test_langevin_is_variance_preserving_along_another_clock() -> None:
    """m² + S = 1 for all settings, so that the statistic is that of a process without a velocity."""
    for settings in ({}, {"mass": 1.3, "friction": 0.4, "start_velocity": 0.0}, {"friction": 9.0}):
        process = CriticallyDampedLangevin(BOX, clock=LinearClock(3.0), **settings)
        for t in (1e-3, 0.1, 0.4, 1.0):
            time = process.physical_time(at(t))
            elsewhere = -2 * process.log_gain(time, at(0.0))
            kernel, other = process.kernel(at(t)), VariancePreserving(BOX, clock=LinearClock(1.0)).kernel(elsewhere)
            torch.testing.assert_close(kernel.variance, other.variance, rtol=1e-14, atol=0)
            torch.testing.assert_close(kernel.gain, other.gain, rtol=1e-14, atol=0)


# ---- accuracy at the ends of time


def test_nothing_breaks_where_the_covariance_is_nearly_singular() -> None:
    """From t = 0 to 1, one by one and in one batch; the condition of Σ is printed."""
    for cls in (CriticallyDampedLangevin, DampedWave):
        process = fitted(cls).process
        assert isinstance(process, PhaseSpaceProcess)
        ts = [0.0, 1e-300, 1e-100, 1e-30, 1e-12, 1e-6, 1e-3, 0.1, 0.5, 1.0]
        together = process.kernel(torch.tensor(ts, dtype=torch.float64))
        worst, before = 0.0, torch.zeros((), dtype=torch.float64)
        for i, t in enumerate(ts):
            kernel, pair = process.kernel(at(t)), process.phase_kernel(at(t))
            moments = (kernel.gain, kernel.variance, *pair.gain, *pair.covariance)
            rates = (process.drift_symbol(process.physical_time(at(t))),
                     process.noise_spectrum(process.physical_time(at(t))))  # fmt: skip
            assert all(bool(torch.isfinite(m).all()) for m in (*moments, *rates))
            assert bool((kernel.variance >= before).all()) and bool((kernel.gain <= 1).all())
            before = kernel.variance
            same = torch.broadcast_to(together.variance, (len(ts), 1, *BOX.grid.shape))[i, 0]
            torch.testing.assert_close(same, kernel.variance.expand(same.shape), rtol=1e-11, atol=0)
            xx, _, vv = pair.covariance
            if t >= 1e-12:
                worst = max(worst, float(((xx + vv) ** 2 / pair.determinant).max()))
        print(f"{cls.__name__}: condition of Σ up to {worst:.1e}")
        assert worst > 1e12


def test_a_mean_mode_that_nothing_holds_drifts_and_the_rest_settles() -> None:
    """μ = 0: the mean mode's gain is 1, and E = Var[x − x_0 | v] of a velocity that is stationary from the start.

    Σ_vv = V, Σ_xv = V(1 − e)/γ, Σ_xx = 2V(γτ − 1 + e)/γ² with e = e^{−γτ} (Uhlenbeck and Ornstein, 1930).
    """
    process = DampedWave(BOX, restoring=0.0, friction=1.5, clock=LinearClock(200.0))
    assert process.temperature is not None
    bath = process.temperature / 0.1
    for t in (0.001, 0.01, 1.0):
        kernel, turns = process.kernel(at(t)), 1.5 * 200.0 * t
        lost = 2 * (turns + math.expm1(-turns)) - math.expm1(-turns) ** 2
        assert float(kernel.gain.flatten()[0]) == 1.0
        assert float(kernel.variance.flatten()[0]) == pytest.approx(bath * lost / 1.5**2, rel=1e-11)
    assert float(process.kernel(at(1.0)).gain.flatten()[1:].max()) < 1e-6
    assert process.block.stationary_precision.flatten()[0] == 0


def test_blocks_without_noise_or_with_an_idle_velocity() -> None:
    """No noise: x_0 is known for ever. A velocity that nothing moves: the scalar Ornstein-Uhlenbeck process."""

    def block(xx: float, xv: float, vx: float, vv: float, g_x: float, g_v: float, start: float) -> Block:
        return Block(((at(xx), at(xv)), (at(vx), at(vv))), (at(g_x), at(g_v)), at(start))

    for time in (1e-30, 1.0, 1e6):
        for start in (0.0, 1.0):
            silent = block(0, 1, -1, -2, 0, 0, start).at(at(time))
            assert float(silent.log_error) == -math.inf and float(silent.log_rate) == -math.inf
            idle = block(-1, 1, 0, -5, 2, 0, start).at(at(time))
            exact = math.log(-math.expm1(-2 * time)) + 2 * time  # log of S/m², S = 1 − m²
            assert float(idle.log_error) == pytest.approx(exact, rel=1e-13, abs=1e-13)


def test_a_field_driven_by_coloured_noise_falls_at_its_own_rate() -> None:
    """dx = (−5x + v)dτ, v stationary with rate 1: late, E = Var[x | v] e^{10τ} and J/I = 10; q = 1/P_xx."""
    process = Driven(BOX, clock=LinearClock(1.0))
    q = process.block.stationary_precision
    assert float(q) == pytest.approx(30.0, rel=1e-14)  # P = ∫∫e^{−5(s+s')} e^{−|s−s'|} = 1/(5·6)
    for time in (20.0, 1e3, 1e15):
        memory = process.block.at(at(time))
        given_v = 1 / 30 - (1 / 6) ** 2
        assert float(memory.log_error) == pytest.approx(math.log(given_v) + 10 * time, rel=1e-13)
        assert float(memory.log_rate) == pytest.approx(math.log(10), rel=1e-13)


def test_stationary_precision_solves_the_lyapunov_equation() -> None:
    """scipy's P of A P + P Aᵀ + G = 0, with noise on both, on one, and of all signs."""
    for a, g in ((((-1, 2), (-3, -0.5)), (0.7, 0.2)), (((-1, -2), (0.3, -4)), (0.7, 0)), (((1, 2), (-3, -4)), (0, 2))):
        (xx, xv), (vx, vv) = ([at(float(entry)) for entry in row] for row in a)
        block = Block(((xx, xv), (vx, vv)), (at(float(g[0])), at(float(g[1]))), at(1.0))
        p = linalg.solve_continuous_lyapunov(np.array(a, float), -np.diag(g))
        assert float(block.stationary_precision) == pytest.approx(1 / p[0, 0], rel=1e-13)


def test_noise_on_the_field_itself_begins_as_white_noise() -> None:
    """G_xx > 0: drift and noise of the statistic at τ = 0 are −½ q G_xx and G_xx, and their limits."""
    process = Both(BOX, clock=LinearClock(1.0))
    for time in (0.0, 1e-13):
        assert float(process.noise_spectrum(at(time))) == pytest.approx(0.3, rel=1e-11)
        decay = -0.15 * float(process.block.stationary_precision)
        assert float(process.drift_symbol(at(time))) == pytest.approx(decay, rel=1e-11)


def test_growth_is_refused() -> None:
    @dataclass(frozen=True)
    class Runaway(DampedWave):
        def drift_block(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
            (xx, xv), (vx, vv) = super().drift_block()
            return (xx, xv), (-vx, vv)

    with pytest.raises(ValueError, match="lets 20 of 20 modes grow: its trace must be ≤ 0 and its determinant ≥ 0"):
        Runaway(BOX).drift_symbol(at(1.0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"mass": -1.0}, "'mass'"), ({"friction": 0.0}, "'friction'"), ({"start_velocity": -1.0}, "'start_velocity' ≥ 0")],
)
def test_settings_of_langevin_are_checked(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CriticallyDampedLangevin(BOX, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"wave_speed": 0.0}, "'wave_speed'"), ({"restoring": -1.0}, "'restoring' ≥ 0"), ({"temperature": 0.0}, "'temp")],
)
def test_settings_of_the_wave_are_checked(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DampedWave(BOX, **settings)


# ---- the rest of the toolkit, on the statistic


@BOTH
def test_gaussian_likelihood_is_the_dense_one(cls: type) -> None:
    """The density of x itself, of which the process must leave no trace; nats per dimension."""
    path = fitted(cls)
    law, point = path.reference, path.at(path.t_min)
    covariance, gain, noise = (
        BOX.dense() @ torch.diag(e.expand(law.spectrum.shape).flatten()) @ BOX.dense().T
        for e in (law.spectrum, point.amplitude, point.noise_variance)
    )
    mean = BOX.inverse(law.mean).flatten()
    x = law.sample(5, torch.Generator().manual_seed(0))
    state = BOX.inverse(point.noised(BOX.forward(x), torch.Generator().manual_seed(1)))
    dense = MultivariateNormal(gain @ mean, gain @ covariance @ gain.T + noise)
    for scored, given, log_volume in (
        ("state", state, 0.0),
        ("field", x, float(point.log_gain.expand(BOX.grid.shape).sum())),
    ):
        result = log_likelihood(GaussianDenoiser(path), given, scored=scored)  # type: ignore[arg-type]
        at_t_min = given.flatten(1) if scored == "state" else given.flatten(1) @ gain.T
        error = float((result.log_prob - dense.log_prob(at_t_min) - log_volume).abs().max()) / 20
        print(f"{scored}: {error:.1e} nats per dimension")
        assert error < 1e-12 and result.n_support == 20
    clean = MultivariateNormal(mean, covariance)
    bias = float((log_likelihood(GaussianDenoiser(path), x).log_prob - clean.log_prob(x.flatten(1))).abs().max())
    print(f"against the density of the clean field: {bias / 20:.1e} nats per dimension")
    assert bias / 20 < 1e-3


@BOTH
@pytest.mark.parametrize("solver", [ReferenceSplitting(), Ancestral()], ids=lambda s: type(s).__name__)
def test_one_step_samples_are_the_gaussian_field(cls: type, solver: object) -> None:
    path, n = fitted(cls), 4000
    drawn = sample(GaussianDenoiser(path), n, steps=1, solver=solver, chunk=n)  # type: ignore[arg-type]
    law = path.reference
    modes = BOX.forward(drawn)[:, 0]
    spread = (modes.var(0) / law.spectrum[0] - 1) * math.sqrt(n / 2)
    mean = (modes.mean(0) - law.mean[0]) / (law.spectrum[0] / n).sqrt()
    print(f"largest |z|: mean {float(mean.abs().max()):.2f}, variance {float(spread.abs().max()):.2f}")
    assert float(mean.abs().max()) < 4.5 and float(spread.abs().max()) < 4.5


@BOTH
def test_a_network_trains_on_the_statistic(cls: type) -> None:
    """Fields in, one channel; bimodal data; the loss falls below that of the Wiener filter, which scores 1."""
    path = fitted(cls)
    law = path.reference
    generator = torch.Generator().manual_seed(0)
    signs = 2.0 * torch.randint(0, 2, (256, 1, 1, 1), generator=generator) - 1
    x = BOX.inverse(law.mean + signs * law.spectrum.sqrt()).to(torch.float64)

    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.last = nn.Linear(21, 32), nn.Linear(32, 20)
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(self.last.bias)

        def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
            assert x.shape[1:] == (1, 4, 5)
            h = torch.tanh(self.first(torch.cat([x.flatten(1), t.unsqueeze(1)], 1)))
            return self.last(h).reshape(x.shape)

    denoiser = Denoiser(Tiny(), path)
    optimiser = torch.optim.Adam(denoiser.network.parameters(), lr=0.01)
    losses = []
    for step in range(60):
        loss = DenoisingLoss()(denoiser, x, torch.Generator().manual_seed(step)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    print(f"loss {losses[0]:.3f} at first, {losses[-1]:.3f} after {len(losses)} steps")
    assert losses[0] == pytest.approx(1.0, abs=0.1)
    assert losses[-1] < 0.8


@BOTH
def test_statistic_of_the_first_and_the_last_instant(cls: type) -> None:
    """At t = 0 it is x itself; fields of any dtype keep it."""
    process = fitted(cls).process
    assert isinstance(process, PhaseSpaceProcess)
    x = torch.randn((2, 1, 4, 5), generator=torch.Generator().manual_seed(0))
    drawn_x, drawn_v = process.phase_kernel(at(0.0)).sample(x, torch.Generator().manual_seed(1))
    torch.testing.assert_close(drawn_x, x)
    spread = float(process.start_velocity_variance.sqrt())
    assert float(drawn_v.std()) == pytest.approx(spread, rel=0.5) and drawn_v.dtype == torch.float32
    torch.testing.assert_close(process.statistic(drawn_x, drawn_v, at(0.0)), x)
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    pair = process.phase_kernel(times).sample(x, torch.Generator().manual_seed(1))
    state = process.statistic(*pair, times)
    assert state.shape == x.shape and bool(torch.isfinite(state).all())
    torch.testing.assert_close(state[0], x[0])
