"""Scores of fields as data sets, per physical unit: the normaliser's log-determinant is in every log-density."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from physdiff.bounds import Bound
from physdiff.data.normalise import Normaliser, log_det
from physdiff.flow_ends import estimator_of
from physdiff.likelihood import log_likelihood
from physdiff.observed_likelihood import ObservedLikelihood
from physdiff.scored import LogLikelihood
from physdiff.trace import ExactTrace, Hutchinson, TraceEstimator
from physdiff.transport import FIXED

DEFAULTS = {name: p.default for name, p in inspect.signature(log_likelihood).parameters.items()}


def of_likelihood(result: LogLikelihood, shift: float | Tensor, settings: Mapping[str, Any]) -> xr.Dataset:
    """Log-densities, on dim "sample".

    Args:
        result: In normalised units.
        shift: Log-determinant in nats, normalised to physical log-density: one for all, or one a field.
        settings: Of `log_likelihood`, by which the result was computed; its defaults where there is none.
    """
    told = {**DEFAULTS, **settings}
    nats = {
        "log_prob": result.log_prob + shift,
        "log_prob_reference": result.log_prob_reference + shift,
        "relative_to_reference": result.relative_to_reference,
        "per_dimension": (result.log_prob + shift) / result.n_support,
        "standard_error": result.standard_error,
    }
    plain: dict[str, Tensor | None] = {
        "degrees_of_freedom": torch.full((len(result.log_prob),), result.degrees_of_freedom),
        "probes_per_field": result.probes_per_field,
        "evaluations_per_field": result.evaluations_per_field,
        "roundtrip_error": result.roundtrip_error,
        "target_reached": result.target_reached,
    }
    names = ("evaluations", "probes", "n_support", "t_min", "scored", "gaussian_bias", "terminal_mismatch")
    attributes = {name: getattr(result, name) for name in names}
    _tell(shift, plain, attributes)
    attributes["trace"] = repr(estimator_of(told["trace"]))
    attributes.update({name: told[name] for name in ("method", "rtol", "atol", "seed")})
    if told["method"] in FIXED:
        attributes["steps"] = told["steps"]
    return _dataset(nats, plain, attributes)


def of_observed(result: ObservedLikelihood, shift: Tensor, scored: str, settings: Mapping[str, Any]) -> xr.Dataset:
    """Log-densities of the observed cells of fields, on dim "sample".

    Args:
        result: In normalised units.
        shift: Log-determinant of the normaliser on the observed cells in nats, shape (n,).
        scored: Of what: "field" or "noised".
        settings: As for `of_likelihood`.
    """
    found = of_likelihood(result.whole, 0.0, settings)
    log_prob = result.log_prob + shift
    nats = {
        "log_prob": log_prob,
        "log_prob_reference": result.log_prob_reference + shift,
        "relative_to_reference": result.relative_to_reference,
        "per_dimension": log_prob / result.n_observed,
        "standard_error": result.standard_error,
        "reference_error": result.reference_error,
    }
    n = len(log_prob)
    plain: dict[str, Tensor | None] = {
        "n_observed": result.n_observed,
        "effective_draws": result.effective_draws,
        "log_det_of_normaliser": shift,
        "degrees_of_freedom": torch.full((n,), result.whole.degrees_of_freedom),
        "probes_per_field": result.whole.probes_per_field.reshape(n, -1).sum(1),
        "evaluations_per_field": result.whole.evaluations_per_field.reshape(n, -1).sum(1),
    }
    attributes = {name: value for name, value in found.attrs.items() if name != "log_det_of_normaliser"}
    attributes |= {"scored": scored, "cells": "observed", "draws": result.draws}
    attributes["gaussian_bias"] = found.attrs["gaussian_bias"] if scored == "field" else 0.0
    return _dataset(nats, plain, attributes)


def of_bound(result: Bound, shift: float | Tensor, seed: int) -> xr.Dataset:
    """Lower bounds of log-densities, on dim "sample"; arguments as for `of_likelihood`."""
    nats = {
        "bound": result.bound + shift,
        "log_prob_reference": result.log_prob_reference + shift,
        "relative_to_reference": result.relative_to_reference,
        "per_dimension": (result.bound + shift) / result.n_support,
        "standard_error": result.standard_error,
        "prior": result.prior,
        "transitions": result.transitions.sum(1),
        "decoder": result.decoder - shift,
    }
    attributes = {name: getattr(result, name) for name in ("evaluations", "draws", "n_support")}
    plain: dict[str, Tensor | None] = {}
    attributes["seed"] = seed
    _tell(shift, plain, attributes)
    return _dataset(nats, plain, attributes)


def _tell(shift: float | Tensor, plain: dict[str, Tensor | None], attributes: dict[str, Any]) -> None:
    """The log-determinant, as an attribute if it is that of all fields."""
    if isinstance(shift, Tensor):
        plain["log_det_of_normaliser"] = shift
    else:
        attributes["log_det_of_normaliser"] = shift


def _dataset(nats: dict[str, Tensor], plain: dict[str, Tensor | None], attributes: dict[str, Any]) -> xr.Dataset:
    columns = [("nat", nats), ("1", {name: x for name, x in plain.items() if x is not None})]
    variables = {
        name: (("sample",), x.detach().cpu().numpy(), {"units": unit}) for unit, of in columns for name, x in of.items()
    }
    return xr.Dataset(variables, attrs=attributes)


def curved_log_det(normaliser: Normaliser, support: Tensor, fields: Tensor, scored: str) -> Tensor:
    """Nats by which log-densities of normalised fields grow to be those of fields in physical units, shape (n,).

    Args:
        normaliser: One that is not linear.
        support: Modes that vary, shape (channels, *grid).
        fields: In physical units, shape (n, channels, *grid).
        scored: Of what the densities are.

    Raises:
        ValueError: the noise of what was scored is not known, or there are modes that do not vary.
    """
    if scored != "field":
        raise ValueError(
            f"under the normaliser '{normaliser.kind}', which is not linear, a density in physical units is that of "
            f"the fields as they are: score 'field' (--scored field); got '{scored}'."
        )
    return log_det(normaliser, support, fields)


def trace_of(settings: Mapping[str, Any]) -> TraceEstimator:
    """The estimator that `trace` or `probes` says."""
    if "trace" in settings:
        return estimator_of(settings["trace"])
    probes = settings.get("probes", 8)
    if isinstance(probes, str) and probes != "exact":
        raise ValueError(f"probes must be a number or 'exact'; got '{probes}'.")
    return ExactTrace() if probes == "exact" else Hutchinson(int(probes))


def require_physical(scored: str) -> None:
    """Raise unless fields in physical units can be scored so."""
    if scored not in ("field", "noised"):
        raise ValueError(f"scored must be 'field' or 'noised' for fields in physical units; got '{scored}'.")
