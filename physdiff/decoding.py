r"""Fields and latents, one into the other along the probability flow, with the log-density on the way.

    encode: x → z_1,      decode: z_1 → x,
    log p(x) = log N(z_1; 0, I) + ∫ ∇·(dz/dτ) dτ − ½ Σ log V(t_min) + Σ log|m(t_min)|

A latent is the whitened state at t = 1, N(0, I) on the support, so that fields can be drawn with their own density.
Nothing is lost to the terminal law here: fields that are drawn have exactly the density that is returned, up to the
trace and to the tolerance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from physdiff.condition import Given, per_field
from physdiff.denoisers.reverse_model import ReverseModel
from physdiff.estimate import Solved, estimated, student_interval, target_reached
from physdiff.flow_ends import (
    GaussianEnds,
    check_settings,
    estimator_of,
    field_of,
    per_mode,
    rows_of,
    state_of,
    wants_graph,
)
from physdiff.gaussian import check_fields
from physdiff.path import ReferencePath
from physdiff.probability_flow import ProbabilityFlow
from physdiff.randomness import SampleNoise, keyed_generator
from physdiff.scored import Scored
from physdiff.simulated_path import SimulatedPath
from physdiff.trace import TraceEstimator
from physdiff.transport import DEFAULT_METHOD, Transport

Convention = Literal["field", "state"]


@dataclass(frozen=True)
class Decoded:
    """Fields with their log-densities.

    Attributes:
        fields: In the model's units, shape (n, channels, *grid).
        log_prob: Of the fields, in nats, shape (n,); None without a trace.
        standard_error: Of log_prob, shape (n,): 0 for the exact trace; None without a trace.
        evaluations: Denoiser evaluations per field, the most of any.
        latent: Whitened states at t = 1, shape as fields.
        scored: What the fields are, and their density is of: "field", the state at t_min over m; or "state", that
            state itself, where the process starts with noise or is simulated.
        probes: Products with the Jacobian for each field, the most of any; 0 for the exact trace.
        degrees_of_freedom: Of the standard error; 0 where there is none.
        roundtrip_error: Root mean square over modes between latents and those of the fields, shape (n,); None if it
            was not asked for.
        evaluations_per_field: Denoiser evaluations, shape (n,).
        target_reached: Whether the standard error is at most the one asked for, shape (n,); None if none was.
    """

    fields: Tensor
    log_prob: Tensor | None
    standard_error: Tensor | None
    evaluations: int
    latent: Tensor
    scored: Convention
    probes: int
    degrees_of_freedom: int
    roundtrip_error: Tensor | None
    evaluations_per_field: Tensor
    target_reached: Tensor | None

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Confidence interval of log_prob, by Student's t.

        Raises:
            ValueError: there is no density, or a single probe, which has no error bar.
        """
        if self.log_prob is None or self.standard_error is None:
            raise ValueError("no density was computed: give a trace.")
        return student_interval(self.log_prob, self.standard_error, self.probes, self.degrees_of_freedom, level)


def encode(
    denoiser: ReverseModel,
    x: Tensor,
    *,
    method: str = DEFAULT_METHOD,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    steps: int = 32,
    scored: Scored = "field",
    seed: int = 0,
    first: int = 0,
    condition: Given | None = None,
    differentiable: bool | None = None,
    chunk: int = 64,
    progress: bool = False,
) -> Tensor:
    """Latents of fields: whitened states at t = 1, shape (n, channels, *grid), zero outside the support.

    Args:
        denoiser: The model or an exact denoiser.
        x: Fields in the model's units, shape (n, channels, *grid); with `scored="state"`, states at t_min.
        method: As for `log_likelihood`, and so are all others.

    Raises:
        ValueError: as for `log_likelihood`.
        FloatingPointError: an adaptive method cannot meet its tolerances.
    """
    path = denoiser.path
    transport = Transport(path, method, rtol, atol, steps)
    check_settings(scored, chunk, seed, first)
    check_fields(x, path.reference.channels, path.basis)
    condition, graph = per_field(condition, len(x)), wants_graph(differentiable, x)
    x = x if graph else x.detach()
    latents = [torch.zeros((0, *x.shape[1:]), dtype=torch.float64)]
    with tqdm(total=len(x), desc="encode", unit="field", disable=not progress, leave=False) as bar:
        for start in range(0, len(x), chunk):
            members = slice(start, start + chunk)
            seeds = [keyed_generator(seed, "likelihood", first + i).initial_seed() for i in range(len(x))[members]]
            y, _ = state_of(denoiser, x[members], scored, seeds)
            z = path.at(path.t_min).whiten(y).to(denoiser.device)
            given = None if condition is None else condition[members]
            latents.append(transport(ProbabilityFlow(denoiser, given, graph=graph), z)[0].cpu())
            bar.update(len(seeds))
    return torch.cat(latents)


def decode(
    denoiser: ReverseModel,
    latent: Tensor,
    *,
    trace: TraceEstimator | Literal["exact"] | None = None,
    method: str = DEFAULT_METHOD,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    steps: int = 32,
    scored: Convention | None = None,
    seed: int = 0,
    first: int = 0,
    roundtrip: bool = False,
    condition: Given | None = None,
    differentiable: bool | None = None,
    chunk: int = 64,
    progress: bool = False,
) -> Decoded:
    """Fields of latents, with their log-densities if a trace is given.

    Args:
        denoiser: The model or an exact denoiser.
        latent: Whitened states at t = 1, shape (n, channels, *grid).
        trace: Of the density, as for `log_likelihood`; None for the fields alone.
        scored: What the fields are, see `Decoded`; when not given, "field" wherever the process starts clean.
        seed: Field i draws its probes from (seed, first + i).
        roundtrip: Whether to encode the states again and report the error.
        differentiable: Whether fields and log_prob can be differentiated, in the latent and in the model's parameters;
            when not given, where the latent requires it.
        method: As for `log_likelihood`, and so are all others.

    Raises:
        ValueError: latents are not on the model's grid, not finite, or not zero outside the support; "field" is asked
            for under a simulated process; a setting is outside its range.
        FloatingPointError: an adaptive method cannot meet its tolerances.
    """
    path = denoiser.path
    transport = Transport(path, method, rtol, atol, steps)
    scored = _convention(path) if scored is None else scored
    _check_decoding(denoiser, latent, scored, chunk, seed, first)
    estimator = None if trace is None else estimator_of(trace)
    condition, graph = per_field(condition, len(latent)), wants_graph(differentiable, latent)
    latent = latent if graph else latent.detach()
    decoding = _Decoding(denoiser, estimator, transport, graph, roundtrip, scored)
    parts: list[dict[str, Tensor]] = []
    with tqdm(total=len(latent), desc="decode", unit="field", disable=not progress, leave=False) as bar:
        for start in range(0, len(latent), chunk):
            members = slice(start, start + chunk)
            seeds = [keyed_generator(seed, "likelihood", first + i).initial_seed() for i in range(len(latent))[members]]
            parts.append(decoding(latent[members], None if condition is None else condition[members], seeds))
            bar.update(len(seeds))
    found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return Decoded(
        fields=found["fields"],
        log_prob=found.get("log_prob"),
        standard_error=found.get("standard_error"),
        evaluations=int(found["evaluations"].max()),
        latent=latent,
        scored=scored,
        probes=int(found["probes"].max()) if estimator else 0,
        degrees_of_freedom=estimator.degrees_of_freedom if estimator else 0,
        roundtrip_error=found.get("roundtrip"),
        evaluations_per_field=found["evaluations"],
        target_reached=target_reached(estimator, found["standard_error"]) if estimator else None,
    )


def draw(
    denoiser: ReverseModel,
    n: int,
    *,
    seed: int = 0,
    first: int = 0,
    trace: TraceEstimator | Literal["exact"] | None = "exact",
    **settings: object,
) -> Decoded:
    """Fields drawn from the model, with the density that they were drawn from.

    Args:
        denoiser: The model or an exact denoiser.
        n: Number of fields.
        seed: Field i draws its latent and its probes from (seed, first + i).
        first: Number of the first field.
        trace: Of the density; None for the fields alone.
        **settings: As for `decode`.

    Raises:
        ValueError: n is below 1; as for `decode`.
        FloatingPointError: an adaptive method cannot meet its tolerances.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1; got {n}.")
    check_settings("field", 1, seed, first)
    reference = denoiser.path.reference
    seeds = [keyed_generator(seed, "sample", first + i).initial_seed() for i in range(n)]
    latent = SampleNoise(seeds, "start")(tuple(reference.spectrum.shape)) * reference.support
    return decode(denoiser, latent, seed=seed, first=first, trace=trace, **settings)  # type: ignore[arg-type]


def _convention(path: ReferencePath | SimulatedPath) -> Convention:
    clean = isinstance(path, ReferencePath) and path.process.starts_clean
    return "field" if clean else "state"


def _check_decoding(denoiser: ReverseModel, latent: Tensor, scored: str, chunk: int, seed: int, first: int) -> None:
    path = denoiser.path
    if scored not in ("field", "state"):
        raise ValueError(f"scored must be 'field' or 'state' where fields are made; got '{scored}'.")
    if scored == "field" and not isinstance(path, ReferencePath):
        raise ValueError("under a simulated process no linear map takes states to fields: scored='state'.")
    check_settings("field", chunk, seed, first)
    check_fields(latent, path.reference.channels, path.basis)
    if len(latent) < 1:
        raise ValueError(f"decoding needs at least 1 latent; got the shape {tuple(latent.shape)}.")
    outside = torch.where(path.reference.support, 0.0, latent)
    if bool(outside.any()):
        i = int(outside.flatten(1).any(1).nonzero()[0])
        raise ValueError(f"latent {i} is not zero outside the support of the law: multiply by reference.support.")


class _Decoding:
    """What is done with the latents of each chunk."""

    def __init__(
        self,
        denoiser: ReverseModel,
        estimator: TraceEstimator | None,
        transport: Transport,
        graph: bool,
        roundtrip: bool,
        scored: Convention,
    ) -> None:
        self.denoiser, self.estimator, self.transport = denoiser, estimator, transport
        self.graph, self.roundtrip, self.scored = graph, roundtrip, scored
        path = denoiser.path
        self.ends = GaussianEnds(path)
        # A density of fields is that of their states times |det m|.
        self.log_volume = path.without_noise(path.reference.mean)[1] if scored == "field" else 0.0

    def __call__(self, latent: Tensor, condition: Given | None, seeds: list[int]) -> dict[str, Tensor]:
        """Results per field of latents, shape (n, channels, *grid)."""
        path, ends = self.denoiser.path, self.ends
        z = latent.to(self.denoiser.device, torch.float64)
        known = ends.log_terminal(z) + ends.constant + self.log_volume

        def solve(rows: Tensor | None, block: int) -> Solved:
            some, given, keys = rows_of(rows, z, condition, seeds)
            assert self.estimator is not None
            probes = self.estimator.probes(keys, path.basis, path.reference.support, block).to(z.device)
            flow = ProbabilityFlow(self.denoiser, given, self.estimator, probes, self.graph)
            state, divergence, evaluations = self.transport(flow, some, backwards=True)
            of_latent = known if rows is None else known[rows]
            # The integral from t = 1 back to t_min is minus that of the density.
            return Solved(state, of_latent.unsqueeze(1) - divergence.cpu(), evaluations)

        if self.estimator is None:
            flow = ProbabilityFlow(self.denoiser, condition, graph=self.graph)
            state, _, evaluations = self.transport(flow, z, backwards=True)
            found = {"state": state, "evaluations": evaluations}
        else:
            found = estimated(self.estimator, solve)
        state = found.pop("state")
        if self.roundtrip:
            there, _, _ = self.transport(ProbabilityFlow(self.denoiser, condition), state.detach())
            found["roundtrip"] = per_mode(there - z, path.reference.n_support)
        if self.scored == "field":
            found["fields"] = field_of(self.denoiser, state.cpu())
        else:
            found["fields"] = path.basis.inverse(ends.start.unwhiten(state).cpu())
        return found
