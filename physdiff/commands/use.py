"""`physdiff sample` and `physdiff likelihood`: a trained model put to use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import xarray as xr

from physdiff.atomic import replacing_file
from physdiff.data.fields import load_fields
from physdiff.model import FieldModel, require_physical
from physdiff.solvers import solvers


def sample(
    run: str,
    n: int = 16,
    steps: int = 16,
    solver: str = "ReferenceSplitting",
    seed: int = 0,
    out: str | None = None,
) -> None:
    """Draw fields from a trained model into a netCDF file.

    Args:
        run: Run folder, or model folder.
        n: Number of fields.
        steps: Solver steps.
        solver: Step rule: ReferenceSplitting, Heun or Ancestral.
        seed: Seed; field i depends on (seed, i) alone.
        out: File to write; RUN/samples.nc when not given.
    """
    rule = solvers.find(solver)()
    model = FieldModel.load(run)
    dataset = model.sample(n, steps=steps, solver=rule, seed=seed, progress=True)
    _write(dataset, Path(out) if out else Path(run) / "samples.nc")


def likelihood(
    run: str,
    data: str | None = None,
    split: str | None = None,
    probes: int | str = 8,
    method: str = "dopri5",
    rtol: float = 1e-4,
    atol: float = 1e-4,
    steps: int = 32,
    scored: str | None = None,
    seed: int = 0,
    limit: int | None = None,
    roundtrip: bool = False,
    out: str | None = None,
) -> None:
    """Log-density of fields under a trained model, in physical units, into a netCDF file.

    Args:
        run: Run folder, or model folder.
        data: HDF5 or netCDF file, or a data set folder; the one that the model was trained on when not given.
        split: Split of a folder: train, valid or test, which is the default.
        probes: Hutchinson probes, or "exact".
        method: dopri5 (adaptive), or rk4, midpoint, heun3, euler with fixed steps.
        rtol: Relative tolerance of an adaptive method.
        atol: Absolute tolerance of an adaptive method.
        steps: Steps of a fixed method.
        scored: "field" or "noised"; see `physdiff.likelihood.LogLikelihood`. By default as the model was trained.
        seed: Seed of probes and noise.
        limit: Score only the first fields.
        roundtrip: Whether to integrate back and report the error.
        out: File to write; RUN/likelihood.nc when not given.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 field; got {limit}.")
    if scored is not None:
        require_physical(scored)
    model = FieldModel.load(run)
    folder = Path(data or model.card["data"])
    split = split or ("test" if folder.is_dir() else None)
    fields = load_fields(folder, model.names, split, model.boundary_override)
    if limit is not None:
        fields = fields.first(limit)
    settings: dict[str, Any] = {"method": method, "rtol": rtol, "atol": atol, "steps": steps, "seed": seed}
    if scored is not None:
        settings["scored"] = scored
    result = model.log_likelihood(fields, probes=probes, roundtrip=roundtrip, progress=True, **settings)
    result.attrs["data"] = str(folder)
    mean, gain = float(result["log_prob"].mean()), float(result["relative_to_reference"].mean())
    dimensions, evaluations = result.attrs["n_support"], result.attrs["evaluations"]
    error = float((result["standard_error"] ** 2).mean() ** 0.5)
    print(
        f"{len(fields)} fields, {dimensions} degrees of freedom: mean log-density {mean:.2f} nats "
        f"({mean / dimensions:.4f} per dimension), {gain:+.2f} relative to the Gaussian reference; "
        f"trace error {error:.2f} nats a field; {evaluations} evaluations; scored: {result.attrs['scored']}"
    )
    _write(result, Path(out) if out else Path(run) / "likelihood.nc")


def _write(dataset: xr.Dataset, path: Path) -> None:
    with replacing_file(path) as partial:
        dataset.to_netcdf(partial, engine="h5netcdf")
    print(f"written: {path}")
