"""Scores of fields as data sets, per physical unit: the normaliser's log-determinant is in every log-density."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from physdiff.bounds import Bound
from physdiff.flow_ends import estimator_of
from physdiff.likelihood import log_likelihood
from physdiff.scored import LogLikelihood
from physdiff.transport import FIXED

DEFAULTS = {name: p.default for name, p in inspect.signature(log_likelihood).parameters.items()}


def of_likelihood(result: LogLikelihood, shift: float, settings: Mapping[str, Any]) -> xr.Dataset:
    """Log-densities, on dim "sample".

    Args:
        result: In normalised units.
        shift: Log-determinant in nats, normalised to physical log-density.
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
    plain = {
        "degrees_of_freedom": torch.full((len(result.log_prob),), result.degrees_of_freedom),
        "probes_per_field": result.probes_per_field,
        "evaluations_per_field": result.evaluations_per_field,
        "roundtrip_error": result.roundtrip_error,
        "target_reached": result.target_reached,
    }
    names = ("evaluations", "probes", "n_support", "t_min", "scored", "gaussian_bias", "terminal_mismatch")
    attributes = {name: getattr(result, name) for name in names}
    attributes["log_det_of_normaliser"] = shift
    attributes["trace"] = repr(estimator_of(told["trace"]))
    attributes.update({name: told[name] for name in ("method", "rtol", "atol", "seed")})
    if told["method"] in FIXED:
        attributes["steps"] = told["steps"]
    return _dataset(nats, plain, attributes)


def of_bound(result: Bound, shift: float, seed: int) -> xr.Dataset:
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
    return _dataset(nats, {}, {**attributes, "seed": seed, "log_det_of_normaliser": shift})


def _dataset(nats: dict[str, Tensor], plain: dict[str, Tensor | None], attributes: dict[str, Any]) -> xr.Dataset:
    columns = [("nat", nats), ("1", {name: x for name, x in plain.items() if x is not None})]
    variables = {
        name: (("sample",), x.detach().cpu().numpy(), {"units": unit}) for unit, of in columns for name, x in of.items()
    }
    return xr.Dataset(variables, attrs=attributes)
