"""Masks that differ between channels and fields: densities of observed cells in physical units, against dense laws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from scipy.stats import multivariate_normal

from physdiff import FieldModel, GaussianField, Grid, ReferencePath, SpectralBasis, cli, load_fields
from physdiff.data.selection import Selection
from physdiff.randomness import keyed_generator

GRID = Grid((8, 6), (0.8, 0.6), ("periodic", "neumann"))
N = 90


def write(file: Path, holes: bool = True) -> dict[str, np.ndarray]:
    """Salinities, positive and skewed, and a temperature: with holes of their own in every field."""
    basis = SpectralBasis(GRID)
    law = GaussianField.matern(basis, 0.3, 1.0, channels=2)
    law = GaussianField(basis, law.mean, law.spectrum + 0.05)
    x = law.sample(N, keyed_generator(0, "fields")).numpy()
    values = {"salinity": 30 * np.exp(0.4 * x[:, 0]), "temperature": 280 + 3 * x[:, 1]}
    if holes:
        rng = np.random.default_rng(1)
        for name, share in (("salinity", 0.4), ("temperature", 0.15)):
            gone = rng.random((N, *GRID.shape)) < share
            gone[:, :2, :2] = name == "salinity"  # a coast beside the holes
            values[name][gone] = np.nan
    coords = {"x": GRID.coordinate(0), "y": GRID.coordinate(1)}
    variables = {name: (("trajectory", "x", "y"), x) for name, x in values.items()}
    xr.Dataset(variables, coords=coords).to_netcdf(file, engine="h5netcdf")
    return values


def train(folder: Path, monkeypatch: pytest.MonkeyPatch, normalise: object, **data: object) -> FieldModel:
    told = {
        "path": "t.nc", "boundary": "neumann", "mask": "nan", "noise_level": 0.05, "normalise": normalise,
        "splits": {"train": 0.6, "valid": 0.2, "test": 0.2}, **data,
    }  # fmt: skip
    settings = {
        "process": "VariancePreserving", "data": told, "network": {"width": 4, "multipliers": [1]},
        "training": {"steps": 2, "batch_size": 8, "validate_every": 2, "checkpoint_every": 2}, "run": "run",
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.chdir(folder)
    assert cli.run(["train", "config.yaml"]) == 0
    return FieldModel.load("run").untrained()


def dense(model: FieldModel, values: np.ndarray) -> float:
    """Log-density of what is not NaN of one field, shape (channels, *grid), by the slope of the normaliser's map."""
    path = model.denoiser.path
    assert isinstance(path, ReferencePath)
    u, point = path.basis.dense(), path.at(path.t_min)
    spectrum = (point.variance * torch.exp(-2 * point.log_gain.real)).expand_as(path.reference.spectrum)
    total = 0.0
    for c in range(len(values)):
        known = np.isfinite(values[c]).ravel()
        filled = torch.from_numpy(np.where(np.isfinite(values), values, 280.0))[None]
        # The slope of every cell by differences of the map itself.
        step = 1e-5 * torch.ones_like(filled)
        z = [model.normaliser.forward(filled + s * step)[0, c].flatten()[known] for s in (0.0, 0.5, -0.5)]
        slope = (z[1] - z[2]) / 1e-5
        covariance = u @ torch.diag(spectrum[c].flatten()) @ u.T
        mean = u @ path.reference.mean[c].flatten()
        cov: Any = covariance[known][:, known].numpy()
        law = multivariate_normal(mean[known].numpy(), cov)
        total += float(law.logpdf(z[0].numpy())) + float(slope.log().sum())
    return total


@pytest.mark.parametrize("normalise", ["standard", "log", {"salinity": "log", "temperature": "standard"}], ids=str)
def test_densities_of_observed_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, normalise: object) -> None:
    write(tmp_path / "t.nc")
    model = train(tmp_path, monkeypatch, normalise)
    assert model.observed is None
    data = load_fields("t.nc", boundary="neumann", selection=Selection(mask="nan")).first(5)
    scores = model.log_likelihood(data, probes="exact", scored="field", draws=1)
    expected = [dense(model, x) for x in data.select(model.names).values]
    # Differences of a map in double precision.
    np.testing.assert_allclose(scores["log_prob"], expected, rtol=1e-6)
    np.testing.assert_array_equal(scores["n_observed"], np.isfinite(data.values).reshape(5, -1).sum(1))
    np.testing.assert_allclose(scores["per_dimension"] * scores["n_observed"], expected, rtol=1e-6)
    assert (scores["reference_error"] == 0).all()
    # A field beside others, and one cell that is all that is known of a channel.
    alone = model.log_likelihood(data.rows(slice(3, 4)), first=3, probes="exact", scored="field", draws=1)
    np.testing.assert_allclose(alone["log_prob"][0], scores["log_prob"][3], rtol=1e-12)
    values = data.values[:1].copy()
    values[0, 0].ravel()[1:], values[0, 0, 0, 0] = np.nan, 31.0
    one = data.first(1).__class__(**{**vars(data.first(1)), "values": values, "observed": np.isfinite(values)})
    score = float(model.log_likelihood(one, probes="exact", scored="field", draws=1)["log_prob"][0])
    assert score == pytest.approx(dense(model, one.select(model.names).values[0]), rel=1e-6)


def test_a_channel_without_any_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "t.nc")
    model = train(tmp_path, monkeypatch, "standard")
    data = load_fields("t.nc", boundary="neumann", selection=Selection(mask="nan")).first(3)
    values = data.values.copy()
    values[1, data.names.index("temperature")] = np.nan
    empty = data.__class__(**{**vars(data), "values": values, "observed": np.isfinite(values)})
    with pytest.raises(ValueError, match=r"no cell of 'temperature' has a value in sample 1 \(trajectory"):
        model.log_likelihood(empty)


def test_a_mask_the_wrong_way_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 on land: what is on land is a fill value, the same everywhere, and nothing to learn."""
    values = write(tmp_path / "whole.nc", holes=False)["temperature"]
    land = np.zeros(GRID.shape, dtype=np.int8)
    land[:4, :3] = 1
    for fill, word in ((0.0, "constant|same|vary"), (np.nan, "the mask says that it is observed")):
        filled = np.where(land == 1, fill, values)
        xr.Dataset(
            {"temperature": (("trajectory", "x", "y"), filled), "land": (("x", "y"), land)},
            coords={"x": GRID.coordinate(0), "y": GRID.coordinate(1)},
        ).to_netcdf(tmp_path / f"{fill}.nc", engine="h5netcdf")
        with pytest.raises(ValueError, match=word):
            train(tmp_path, monkeypatch, "standard", path=f"{fill}.nc", fields=["temperature"], mask="land")
