r"""Exact log-densities by the probability flow, with the Gaussian part in closed form.

With y at t_min, z its whitened coordinates and z integrated forward to t = 1,

    log p_{t_min}(y) = log p_Z(z_1) + ∫ ∇·(dz/dτ) dτ − ½ Σ log V(t_min),     dz/dτ = −½ n|m|/(S√V) · (D − W).

The reference's flow stands still in z: its divergence is in the determinants, exactly, and one call of the denoiser
gives the velocity of the residual and (by vector-Jacobian products) its divergence. p_Z is N(0, I), the reference
carried to t = 1, unless the true terminal law is given. The integral runs in log τ, in which the rates are bounded.

Source: Chen et al. (2018), eq. 8, and Song et al. (2021), eq. 39, in whitened coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from scipy import stats
from torch import Tensor
from torchdiffeq import odeint
from tqdm import tqdm

from physdiff.denoisers.reverse_model import ReverseModel
from physdiff.gaussian import check_fields
from physdiff.path import ReferencePath
from physdiff.randomness import SampleNoise, keyed_generator, require_seed
from physdiff.registry import nearest
from physdiff.simulated_path import SimulatedPath
from physdiff.trace import ExactTrace, Hutchinson

ADAPTIVE = ("dopri5", "dopri8", "bosh3", "adaptive_heun")
FIXED = ("midpoint", "heun3", "rk4", "euler")
Scored = Literal["field", "noised", "state"]


@dataclass(frozen=True)
class LogLikelihood:
    """Log-densities with their own error bars.

    Attributes:
        log_prob: In nats, shape (n,).
        log_prob_reference: Of the same states under the Gaussian reference, in nats, shape (n,), exact.
        standard_error: Of the trace estimate, shape (n,): 0 for the exact trace, nan for a single probe.
        probes: Number of probes; 0 for the exact trace.
        evaluations: Denoiser evaluations per field.
        n_support: Degrees of freedom: modes that vary.
        t_min: Time at which the density is taken.
        scored: "field": of x itself, its state m·x read as noiseless; "noised": of x with the process's noise of
            t_min added; "state": of states at t_min that the caller made.
        latent: Whitened terminal states, shape (n, channels, *grid).
        roundtrip_error: Root mean square over modes of z(t_min) − z'(t_min) after integrating forth and back, shape
            (n,); None if it was not asked for.
        gaussian_bias: Nats by which scoring a field without its noise lowers the reference's mean log-density; 0
            unless scored is "field".
        terminal_mismatch: Upper bound in nats of the divergence between the true terminal law and the reference.
    """

    log_prob: Tensor
    log_prob_reference: Tensor
    standard_error: Tensor
    probes: int
    evaluations: int
    n_support: int
    t_min: float
    scored: Scored
    latent: Tensor
    roundtrip_error: Tensor | None
    gaussian_bias: float
    terminal_mismatch: float

    @property
    def per_dimension(self) -> Tensor:
        """Nats per degree of freedom, shape (n,)."""
        return self.log_prob / self.n_support

    @property
    def relative_to_reference(self) -> Tensor:
        """log of the density relative to the Gaussian reference, shape (n,): what the non-Gaussian part explains."""
        return self.log_prob - self.log_prob_reference

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Confidence interval of the trace estimate: Student's t with `probes` − 1 degrees of freedom."""
        if self.probes == 0:
            return self.log_prob, self.log_prob
        if self.probes == 1:
            raise ValueError("a single probe has no error bar; use Hutchinson(2) or more.")
        factor = float(stats.t.ppf(0.5 + level / 2, self.probes - 1))
        return self.log_prob - factor * self.standard_error, self.log_prob + factor * self.standard_error


def log_likelihood(
    denoiser: ReverseModel,
    x: Tensor,
    *,
    trace: ExactTrace | Hutchinson | Literal["exact"] = "exact",
    method: str = "dopri5",
    rtol: float = 1e-5,
    atol: float = 1e-5,
    steps: int = 32,
    scored: Scored = "field",
    seed: int = 0,
    roundtrip: bool = False,
    terminal: Callable[[Tensor], Tensor] | None = None,
    condition: Tensor | None = None,
    chunk: int = 64,
    progress: bool = False,
) -> LogLikelihood:
    """Log-density of fields under a denoiser's law.

    Args:
        denoiser: The model or an exact denoiser.
        x: Fields in the model's units, shape (n, channels, *grid); with `scored="state"`, states at t_min.
        trace: "exact", or `Hutchinson(K)` with Rademacher probes that are fixed for the whole solve.
        method: A method of torchdiffeq: adaptive (dopri5, dopri8, bosh3, adaptive_heun), with rtol and atol for the
            worst sample of a chunk, or with fixed steps of equal log τ (rk4, midpoint, heun3, euler), where a
            sample's value does not depend on its batch-mates.
        rtol: Relative tolerance of an adaptive method.
        atol: Absolute tolerance, in whitened units and in nats per degree of freedom.
        steps: Number of steps of a fixed method.
        scored: What is scored; see `LogLikelihood`.
        seed: Field i draws its noise and its probes from (seed, i).
        roundtrip: Whether to integrate back and report the error.
        terminal: Log-density of modes at t = 1 in nats, shape (n, channels, *grid) to (n,), when it is known; the
            reference carried to t = 1 when not given.
        condition: Passed on to the denoiser, shape (n, ...).
        chunk: Fields that are computed together.
        progress: Whether to show a bar.

    Raises:
        ValueError: x is empty, not on the model's grid, holds a value that is not finite (the first index is named),
            or has energy outside the support; an unknown method; a setting is outside its range.
        FloatingPointError: an adaptive method cannot meet its tolerances.
    """
    path = denoiser.path
    _check_settings(method, scored, rtol, atol, steps, chunk, seed)
    check_fields(x, path.reference.channels, path.basis)
    if len(x) < 1:
        raise ValueError(f"a likelihood needs at least 1 field; got x of shape {tuple(x.shape)}.")
    solve = _Solve(path, method, rtol, atol, steps)
    estimator = ExactTrace() if trace == "exact" else trace
    parts: list[dict[str, Tensor]] = []
    with tqdm(total=len(x), desc="likelihood", unit="field", disable=not progress, leave=False) as bar:
        for first in range(0, len(x), chunk):
            members = range(first, min(first + chunk, len(x)))
            seeds = [keyed_generator(seed, "likelihood", i).initial_seed() for i in members]
            given = None if condition is None else condition[members.start : members.stop]
            y, log_volume = _state(denoiser, x[members.start : members.stop], scored, seeds)
            parts.append(_densities(denoiser, y, given, estimator, seeds, solve, roundtrip, terminal, log_volume))
            bar.update(len(members))
    found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return LogLikelihood(
        log_prob=found["log_prob"],
        log_prob_reference=found["reference"],
        standard_error=found["standard_error"],
        probes=estimator.count,
        evaluations=solve.most_evaluations,
        n_support=path.reference.n_support,
        t_min=path.t_min,
        scored=scored,
        latent=found["latent"],
        roundtrip_error=found.get("roundtrip"),
        gaussian_bias=path.bias_at_t_min if scored == "field" else 0.0,
        terminal_mismatch=path.terminal_mismatch,
    )


def _check_settings(method: str, scored: str, rtol: float, atol: float, steps: int, chunk: int, seed: int) -> None:
    if method not in ADAPTIVE + FIXED:
        raise ValueError(f"unknown method '{method}'. {nearest(method, ADAPTIVE + FIXED)}")
    if scored not in get_args(Scored):
        raise ValueError(f"scored must be 'field', 'noised' or 'state'; got '{scored}'.")
    for name, value in (("rtol", rtol), ("atol", atol)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite; got {value}.")
    for name, count in (("steps", steps), ("chunk", chunk)):
        if count < 1:
            raise ValueError(f"{name} must be at least 1; got {count}.")
    require_seed(seed)


def _densities(
    denoiser: ReverseModel,
    y: Tensor,
    condition: Tensor | None,
    estimator: ExactTrace | Hutchinson,
    seeds: list[int],
    solve: _Solve,
    roundtrip: bool,
    terminal: Callable[[Tensor], Tensor] | None,
    log_volume: float,
) -> dict[str, Tensor]:
    """The result, per field, of one chunk of states y at t_min."""
    path = denoiser.path
    reference = path.reference
    start, end = path.at(path.t_min), path.at(1.0)
    at_start, at_end = path.law(path.t_min), path.law(1.0)
    device = next((p.device for p in denoiser.parameters()), torch.device("cpu"))
    z = start.whiten(y).to(device)
    flow = _Flow(denoiser, condition, estimator.probes(seeds, reference.support, device))
    latent, divergence = solve(flow, z, max(flow.n_probes, 1))
    modes = end.unwhiten(latent).cpu()
    if terminal is None:
        log_terminal = at_end.log_prob_of_deviation(torch.where(reference.support, modes - at_end.mean, 0.0))
    else:
        log_terminal = terminal(modes)
    constant = 0.5 * (at_end.log_det - at_start.log_det) + log_volume
    per_probe = (log_terminal + constant).unsqueeze(1) + divergence.cpu()
    found = {
        "log_prob": per_probe.mean(1),
        "reference": at_start.log_prob_of_deviation((y - at_start.mean) * reference.support) + log_volume,
        "standard_error": _standard_error(per_probe.detach(), flow.n_probes),
        "latent": latent.detach().cpu(),
    }
    if roundtrip:
        back, _ = solve(_Flow(denoiser, condition, None), latent.detach(), 0, backwards=True)
        found["roundtrip"] = ((back - z).square().flatten(1).sum(1) / reference.n_support).sqrt().cpu()
    return found


def _state(denoiser: ReverseModel, x: Tensor, scored: Scored, seeds: list[int]) -> tuple[Tensor, float]:
    """Modes at t_min, and the log-determinant that carries their density to what is scored."""
    path = denoiser.path
    reference = path.reference
    if scored == "state":
        y = path.basis.forward(x.to(torch.float64))
        path.law(path.t_min).deviation(x.to(torch.float64))  # refuses energy outside the support
        return y, 0.0
    deviation = reference.deviation(x)
    if scored == "noised":
        noise = SampleNoise(seeds, "t_min")(tuple(reference.spectrum.shape))
        return path.start(reference.mean + deviation, noise), 0.0
    return path.without_noise(reference.mean + deviation)


class _Flow:
    """d(z, ∫ divergence)/d log τ, with the divergence per probe (or exact, as one column)."""

    def __init__(self, denoiser: ReverseModel, condition: Tensor | None, probes: Tensor | None) -> None:
        self.denoiser = denoiser
        self.condition = condition
        self.probes = probes
        self.exact = probes is not None and probes.shape[1] == 0
        self.n_probes = 0 if probes is None else probes.shape[1]
        self.evaluations = 0

    def __call__(self, log_time: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        self.evaluations += 1
        time = log_time.detach().to("cpu", torch.float64).exp()

        def velocity(z: Tensor) -> Tensor:
            return self.denoiser.velocity(z, time, self.condition)

        if self.probes is None:
            with torch.no_grad():
                return velocity(state[0]), state[1]
        if self.exact:
            return ExactTrace.of(velocity, state[0], self.denoiser.path.reference.support)
        return Hutchinson.of(velocity, state[0], self.probes)


def _standard_error(per_probe: Tensor, probes: int) -> Tensor:
    """Of the mean over probes; 0 for the exact trace, nan for one probe, which tells nothing."""
    if probes == 0:
        return torch.zeros(len(per_probe), dtype=per_probe.dtype)
    if probes == 1:
        return torch.full((len(per_probe),), math.nan, dtype=per_probe.dtype)
    return per_probe.std(1) / math.sqrt(probes)


class _Solve:
    """The integration over log τ between t_min and 1, by a method of torchdiffeq."""

    def __init__(self, path: ReferencePath | SimulatedPath, method: str, rtol: float, atol: float, steps: int) -> None:
        self.log_times = torch.stack([path.at(t).time.log() for t in (path.t_min, 1.0)])
        self.method, self.rtol, self.atol = method, rtol, atol
        # No step looks beyond the ends: a network knows nothing there, and τ grows exponentially. The first one is
        # given, since the solver's own guess is as long as the state is slow.
        first = float(self.log_times.diff()) / 32
        self.options: dict[str, Any] = {"norm": _worst_sample, "step_t": self.log_times, "first_step": first}
        if method in FIXED:
            self.options = {"step_size": float(self.log_times.diff()) / steps}
        self.most_evaluations = 0

    def __call__(self, flow: _Flow, z: Tensor, columns: int, backwards: bool = False) -> tuple[Tensor, Tensor]:
        """z and the integral of the divergence (so many columns) at the other end."""
        times = self.log_times.flip(0) if backwards else self.log_times
        state = (z, torch.zeros(len(z), columns, dtype=z.dtype, device=z.device))
        try:
            found = odeint(
                flow, state, times.to(z.device), rtol=self.rtol, atol=self.atol, method=self.method,
                options=self.options,
            )  # fmt: skip
        except AssertionError as error:
            if "underflow in dt" not in str(error):
                raise
            raise FloatingPointError(
                f"{self.method} cannot meet rtol = {self.rtol:g} and atol = {self.atol:g}: its step shrank to nothing; "
                "raise the tolerances, or take a fixed-step method such as rk4."
            ) from None
        self.most_evaluations = max(self.most_evaluations, flow.evaluations)
        return found[0][-1], found[1][-1]


def _worst_sample(state: tuple[Tensor, ...] | Tensor) -> Tensor:
    """Largest root mean square over samples, of all parts of the state."""
    parts = state if isinstance(state, tuple) else (state,)
    norms = [part.flatten(1).square().mean(1).sqrt().max() for part in parts if part.numel() > 0 and part.ndim > 0]
    return torch.stack(norms).max()
