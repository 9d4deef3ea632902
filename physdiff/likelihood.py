r"""Exact log-densities by the probability flow, with the Gaussian part in closed form.

With y at t_min, z its whitened coordinates and z integrated forward to t = 1,

    log p_{t_min}(y) = log p_Z(z_1) + ∫ ∇·(dz/dτ) dτ − ½ Σ log V(t_min),     dz/dτ = −½ n|m|/(S√V) · (D − W).

The reference's flow stands still in z: its divergence is in the determinants, exactly, and one call of the denoiser
gives the velocity of the residual and (by vector-Jacobian products) its divergence. p_Z is N(0, I), the reference
carried to t = 1, unless the true terminal law is given.

Source: Chen et al. (2018), eq. 8, and Song et al. (2021), eq. 39, in whitened coordinates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from physdiff.condition import Given, per_field
from physdiff.denoisers.reverse_model import ReverseModel
from physdiff.estimate import Solved, estimated, target_reached
from physdiff.flow_ends import (
    GaussianEnds,
    check_settings,
    estimator_of,
    per_mode,
    rows_of,
    state_of,
    wants_graph,
)
from physdiff.gaussian import check_fields
from physdiff.probability_flow import ProbabilityFlow
from physdiff.randomness import keyed_generator
from physdiff.scored import LogLikelihood, Scored
from physdiff.trace import TraceEstimator
from physdiff.transport import DEFAULT_METHOD, Transport


def log_likelihood(
    denoiser: ReverseModel,
    x: Tensor,
    *,
    trace: TraceEstimator | Literal["exact"] = "exact",
    method: str = DEFAULT_METHOD,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    steps: int = 32,
    scored: Scored = "field",
    seed: int = 0,
    first: int = 0,
    roundtrip: bool = False,
    terminal: Callable[[Tensor], Tensor] | None = None,
    condition: Given | None = None,
    differentiable: bool | None = None,
    chunk: int = 64,
    progress: bool = False,
) -> LogLikelihood:
    """Log-density of fields under a denoiser's law.

    Args:
        denoiser: The model or an exact denoiser.
        x: Fields in the model's units, shape (n, channels, *grid); with `scored="state"`, states at t_min.
        trace: "exact"; `Hutchinson(K)` with probes that are fixed for the whole solve, or with as many as a target
            needs; `HutchPlusPlus(K)`.
        method: adams, rk45 or dop853: adaptive, with rtol and atol for each field by itself, whose value does not
            depend on its batch-mates. Or a method of torchdiffeq: adaptive for the worst field of a chunk (dopri5,
            dopri8, bosh3, fehlberg2, adaptive_heun), or with fixed steps of equal log τ (rk4, midpoint, heun3, euler,
            explicit_adams, implicit_adams).
        rtol: Relative tolerance of an adaptive method.
        atol: Absolute tolerance, in whitened units and in nats per square root of the degrees of freedom.
        steps: Number of steps of a fixed method.
        scored: What is scored; see `LogLikelihood`.
        seed: Field i draws its noise and its probes from (seed, first + i).
        first: Number of the first field, where x is a part of more.
        roundtrip: Whether to integrate back and report the error.
        terminal: Log-density of modes at t = 1 in nats, shape (n, channels, *grid) to (n,), when it is known; the
            reference carried to t = 1 when not given.
        condition: Passed on to the denoiser, shape (n, ...), or (1, ...) for all fields.
        differentiable: Whether log_prob and latent can be differentiated, in x and in the model's parameters, at the
            memory of all evaluations; when not given, where x requires it. Not under torch.no_grad().
        chunk: Fields that are computed together.
        progress: Whether to show a bar.

    Raises:
        ValueError: x is empty, not on the model's grid, holds a value that is not finite (the first index is named),
            or has energy outside the support; an unknown method or trace; a condition of another number of fields; a
            setting is outside its range.
        FloatingPointError: an adaptive method cannot meet its tolerances.
    """
    path = denoiser.path
    transport = Transport(path, method, rtol, atol, steps)
    check_settings(scored, chunk, seed, first)
    check_fields(x, path.reference.channels, path.basis)
    if len(x) < 1:
        raise ValueError(f"a likelihood needs at least 1 field; got x of shape {tuple(x.shape)}.")
    estimator, condition = estimator_of(trace), per_field(condition, len(x))
    graph = wants_graph(differentiable, x)
    x = x if graph else x.detach()
    scoring = _Scoring(denoiser, estimator, transport, graph, roundtrip, terminal)
    parts: list[dict[str, Tensor]] = []
    with tqdm(total=len(x), desc="likelihood", unit="field", disable=not progress, leave=False) as bar:
        for start in range(0, len(x), chunk):
            members = slice(start, start + chunk)
            seeds = [keyed_generator(seed, "likelihood", first + i).initial_seed() for i in range(len(x))[members]]
            y, log_volume = state_of(denoiser, x[members], scored, seeds)
            parts.append(scoring(y, None if condition is None else condition[members], seeds, log_volume))
            bar.update(len(seeds))
    found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return LogLikelihood(
        log_prob=found["log_prob"],
        log_prob_reference=found["reference"],
        standard_error=found["standard_error"],
        probes=int(found["probes"].max()),
        evaluations=int(found["evaluations"].max()),
        n_support=path.reference.n_support,
        t_min=path.t_min,
        scored=scored,
        latent=found["state"],
        roundtrip_error=found.get("roundtrip"),
        gaussian_bias=path.bias_at_t_min if scored == "field" else 0.0,
        terminal_mismatch=path.terminal_mismatch if terminal is None else 0.0,
        evaluations_per_field=found["evaluations"],
        probes_per_field=found["probes"],
        degrees_of_freedom=estimator.degrees_of_freedom,
        target_reached=target_reached(estimator, found["standard_error"]),
    )


class _Scoring:
    """What is done with the states of each chunk."""

    def __init__(
        self,
        denoiser: ReverseModel,
        estimator: TraceEstimator,
        transport: Transport,
        graph: bool,
        roundtrip: bool,
        terminal: Callable[[Tensor], Tensor] | None,
    ) -> None:
        self.denoiser, self.estimator, self.transport = denoiser, estimator, transport
        self.graph, self.roundtrip = graph, roundtrip
        self.ends = GaussianEnds(denoiser.path, terminal)

    def __call__(self, y: Tensor, condition: Given | None, seeds: list[int], log_volume: float) -> dict[str, Tensor]:
        """Results per field of states y at t_min, modes of shape (n, channels, *grid)."""
        path, ends = self.denoiser.path, self.ends
        z = ends.start.whiten(y).to(self.denoiser.device)

        def solve(rows: Tensor | None, block: int) -> Solved:
            some, given, keys = rows_of(rows, z, condition, seeds)
            probes = self.estimator.probes(keys, path.basis, path.reference.support, block).to(z.device)
            flow = ProbabilityFlow(self.denoiser, given, self.estimator, probes, self.graph)
            latent, divergence, evaluations = self.transport(flow, some)
            log_prob = (ends.log_terminal(latent) + ends.constant + log_volume).unsqueeze(1) + divergence.cpu()
            return Solved(latent, log_prob, evaluations)

        found = estimated(self.estimator, solve)
        deviation = (y - ends.law_at_start.mean) * path.reference.support
        found["reference"] = ends.law_at_start.log_prob_of_deviation(deviation) + log_volume
        if self.roundtrip:
            flow = ProbabilityFlow(self.denoiser, condition)
            back, _, _ = self.transport(flow, found["state"].detach(), backwards=True)
            found["roundtrip"] = per_mode(back - z.detach(), path.reference.n_support)
        found["state"] = found["state"].cpu()
        return found
