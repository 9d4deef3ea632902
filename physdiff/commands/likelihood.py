"""`physdiff likelihood`: log-densities of fields under a trained model, in parts that survive an interruption."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import xarray as xr

from physdiff.atomic import replacing_file
from physdiff.commands.model_data import data_of
from physdiff.model import FieldModel, require_physical
from physdiff.observed_scores import has_missing, require_some
from physdiff.randomness import require_seed
from physdiff.registry import spelled
from physdiff.scoring import Quanta, score_in_parts
from physdiff.trace import ExactTrace, Hutchinson, HutchPlusPlus, TraceEstimator
from physdiff.transport import DEFAULT_METHOD, METHODS, check_integration


def likelihood(
    run: str,
    data: str | None = None,
    split: str | None = None,
    probes: int | str = 8,
    target_error: float | None = None,
    method: str = DEFAULT_METHOD,
    rtol: float = 1e-4,
    atol: float = 1e-4,
    steps: int = 32,
    scored: str | None = None,
    seed: int = 0,
    limit: int | None = None,
    roundtrip: bool = False,
    quantum: float | list[float] | None = None,
    offset: float | list[float] | None = None,
    chunk: int = 16,
    layout: str | None = None,
    guidance: float = 1.0,
    draws: int | None = None,
    out: str | None = None,
) -> None:
    """Log-density of fields under a trained model, in physical units, into a netCDF file.

    What is done is kept in RUN/likelihood.parts: after an interruption the same command goes on there. Several
    processes share the work: `accelerate launch --multi_gpu --num_processes 4 -m physdiff likelihood RUN`, where
    `--multi_gpu` is what starts more than one on CPUs too, or `torchrun --nproc-per-node 4 -m -- physdiff likelihood
    RUN`.

    Args:
        run: Run folder, or model folder.
        data: File or data set folder; the one that the model was trained on when not given. It holds what the model is
            told, too.
        split: Split of a folder: train, valid or test, which is the default.
        probes: How the trace is taken: by a number of Hutchinson probes, "exact", or "hutch++" (by 12 products with the
            Jacobian; "hutch++24" by 24).
        target_error: Standard error in nats that each field is to have: as many probes as it takes, found from the
            first `probes`.
        method: adams, the default, rk45 or dop853, adaptive for each field by itself; dopri5, dopri8, bosh3, fehlberg2
            or adaptive_heun of torchdiffeq, adaptive for all fields that are scored together; or rk4, midpoint, heun3,
            euler, explicit_adams or implicit_adams with fixed steps.
        rtol: Relative tolerance of an adaptive method.
        atol: Absolute tolerance of an adaptive method.
        steps: Steps of a fixed method.
        scored: "field" or "noised"; see `physdiff.likelihood.LogLikelihood`. By default as the model was trained.
        seed: Seed of probes and noise; those of field i depend on (seed, i) alone.
        limit: Score only the first fields.
        roundtrip: Whether to integrate back and report the error.
        quantum: For data that is quantised, and no other: the step between its values, one number or one a field of
            the model. Uniform noise of that width is added, by (seed, i), and bits per dimension join the result.
        offset: One of the values of quantised data, offset + k·quantum; 0 when not given.
        chunk: Fields that are scored together, and are lost at most when the command is killed.
        layout: YAML file with what the data does not tell; that of training when not given.
        guidance: As for `physdiff sample`: the density is that of fields that are drawn with it.
        draws: Draws of the missing cells of each field, where some are not observed; 4 when not given.
        out: File to write; RUN/likelihood.nc when not given.
    """
    for name, count in (("limit", limit), ("chunk", chunk)):
        if count is not None and count < 1:
            raise ValueError(f"{name} must be at least 1 field; got {count}.")
    if draws is not None and draws < 1:
        raise ValueError(f"draws must be at least 1; got {draws}.")
    if scored is not None:
        require_physical(scored)
    method = spelled(method, METHODS)
    check_integration(method, rtol, atol, steps)
    require_seed(seed)
    if offset is not None and quantum is None:
        raise ValueError(f"offset is that of quantised data; give its --quantum too. Got --offset {offset}.")
    trace = _trace(probes, target_error)
    model = FieldModel.load(run)
    fields, source = data_of(model, data, split, layout)
    if limit is not None:
        fields = fields.first(limit)
    require_some(fields)  # before the first is scored
    if quantum is not None and has_missing(fields):
        raise ValueError(
            f"{fields.source} has cells that are not observed; bits per dimension (--quantum) are defined for whole "
            "fields."
        )
    settings: dict[str, Any] = {
        "trace": trace, "method": method, "rtol": rtol, "atol": atol, "steps": steps, "seed": seed,
        "roundtrip": roundtrip, "chunk": chunk,
    }  # fmt: skip
    if scored is not None:
        settings["scored"] = scored
    if guidance != 1:
        settings["guidance"] = guidance
    if draws is not None:
        settings["draws"] = draws
    steps_of_values = None if quantum is None else Quanta(quantum, 0.0 if offset is None else offset)
    result = score_in_parts(model, fields, settings, Path(run), steps_of_values)
    if result is None:  # another process writes
        return
    scores, parts = result
    scores.attrs["data"] = source
    print(_summary(scores, target_error))
    path = Path(out) if out else Path(run) / "likelihood.nc"
    with replacing_file(path) as partial:
        scores.to_netcdf(partial, engine="h5netcdf")
    parts.remove()
    print(f"written: {path}")


def _trace(probes: int | str, target: float | None) -> TraceEstimator:
    """The estimator that the options name."""
    sketch = re.fullmatch(r"hutch\+\+(\d*)", str(probes))
    if target is not None and isinstance(probes, str):
        raise ValueError(f"target_error needs a number of probes to begin with; got --probes {probes}.")
    if sketch:
        return HutchPlusPlus(int(sketch.group(1))) if sketch.group(1) else HutchPlusPlus()
    if probes == "exact":
        return ExactTrace()
    if isinstance(probes, str):
        raise ValueError(f"probes must be a number, 'exact' or 'hutch++'; got '{probes}'.")
    return Hutchinson(probes, target=target)


def _summary(scores: xr.Dataset, target: float | None) -> str:
    mean, gain = float(scores["log_prob"].mean()), float(scores["relative_to_reference"].mean())
    fields, of = scores.sizes["sample"], f"{scores.attrs['n_support']} degrees of freedom"
    density, per = "log-density", "dimension"
    if scores.attrs.get("cells") == "observed":
        counts = scores["n_observed"]
        low, high = int(counts.min()), int(counts.max())
        of = f"their {low if low == high else f'{low} to {high}'} observed cells alone"
        # A lower bound but for the error bars, and by less with more draws of the missing cells.
        density = f"log-density of these, a lower bound from {scores.attrs['draws']} draws of the missing cells,"
        per = "observed cell"
    error = float((scores["standard_error"] ** 2).mean() ** 0.5)
    missed = 0 if target is None else int((scores["standard_error"] > target).sum())
    trace = f"{error:.2f} nats a field" if math.isfinite(error) else "unknown, as one probe has no error bar"
    short = f" (above {target:g} in {missed} of {fields})" if missed else ""
    if "reference_error" in scores and float(scores["reference_error"].max()) > 0:
        # An error that all fields of a mask share is that of their mean too.
        shared = float((scores["reference_error"] ** 2).mean() ** 0.5)
        short += f", with {shared:.2f} of the reference's determinant, the same in all fields of a mask"
    bits = ""
    if "bits_per_dimension" in scores:
        bits = f"; {float(scores['bits_per_dimension'].mean()):.4f} bits per dimension, at most"
    return (
        f"{fields} {'field' if fields == 1 else 'fields'}, {of}: mean {density} {mean:.2f} nats "
        f"({float(scores['per_dimension'].mean()):.4f} per {per}), {gain:+.2f} relative to the Gaussian reference; "
        f"trace error {trace}{short}; {scores.attrs['evaluations']} evaluations; "
        f"scored: {scores.attrs['scored']}" + bits
    )
