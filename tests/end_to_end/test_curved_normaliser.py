"""Positive data on a logarithmic scale, all the way: samples are positive, densities are those of their own unit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from scipy.stats import multivariate_normal

from physdiff import FieldModel, GaussianField, Grid, SpectralBasis, cli, load_fields
from physdiff.evaluation.captions import fields_caption, spectrum_caption
from physdiff.evaluation.findings import Findings
from physdiff.randomness import keyed_generator

GRID = Grid((8, 8), 1.0, "periodic")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rain")
    basis = SpectralBasis(GRID)
    law = GaussianField.matern(basis, 0.3, 1.0)
    law = GaussianField(basis, law.mean, law.spectrum + 0.02)
    for split, n in (("train", 96), ("valid", 16), ("test", 12)):
        file = folder / "set" / "data" / split / "rain.nc"
        file.parent.mkdir(parents=True)
        rain = 5 * np.exp(0.6 * law.sample(n, keyed_generator(0, split))[:, 0].numpy())
        xr.Dataset(
            {"rain": (("trajectory", "x", "y"), rain, {"units": "mm"})},
            coords={"x": GRID.coordinate(0), "y": GRID.coordinate(1)},
        ).to_netcdf(file, engine="h5netcdf")
    settings = {
        "process": "VariancePreserving",
        "data": {"path": "set", "boundary": "periodic", "normalise": "log", "noise_level": 0.02},
        "network": {"width": 4, "multipliers": [1, 2]},
        "training": {"steps": 8, "batch_size": 8, "validate_every": 4, "checkpoint_every": 4, "log_every": 4},
        "run": "run",
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.run(["train", "config.yaml"]) == 0
    return folder


def test_samples_are_in_range(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    assert cli.run(["sample", "run", "--n", "32", "--steps", "4"]) == 0
    rain = xr.load_dataset("run/samples.nc", engine="h5netcdf")["rain"].values
    assert np.isfinite(rain).all() and (rain > 0).all()
    # After 8 steps the model is near its reference, whose logarithm has the data's mean and spread; 32 fields of about
    # ten independent patches each.
    assert np.log(rain).mean() == pytest.approx(np.log(5), abs=5 * 0.6 / np.sqrt(320))
    assert np.log(rain).std() == pytest.approx(0.6, rel=0.2)


def test_densities_are_those_of_the_lognormal_law(work: Path) -> None:
    """Of the untrained model, with numpy's own logarithm: log p(x) = log N(log x) − Σ log x."""
    model = FieldModel.load(work / "run").untrained()
    rain = load_fields(work / "set", split="test", boundary="periodic").first(4)
    scores = model.log_likelihood(rain, probes="exact", scored="field")
    path = model.denoiser.path
    point, u = path.at(path.t_min), path.basis.dense()
    spectrum = (point.variance * torch.exp(-2 * point.log_gain.real)).expand_as(path.reference.spectrum)[0]
    covariance = (u @ torch.diag(spectrum.flatten()) @ u.T).numpy()
    told = model.normaliser.to_dict()
    mean = told["mean"][0] + told["std"][0] * (u @ path.reference.mean[0].flatten()).numpy()
    x = rain.values[:, 0].reshape(4, -1).astype(np.float64)
    expected = multivariate_normal(mean, told["std"][0] ** 2 * covariance).logpdf(np.log(x)) - np.log(x).sum(1)
    np.testing.assert_allclose(scores["log_prob"], expected, rtol=1e-8)


def test_commands_say_in_which_unit_a_density_is(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(work)
    with pytest.raises(ValueError, match=r"normaliser 'log', which is not linear, .*\(--scored field\); got 'noised'"):
        cli.run(["likelihood", "run"])
    quick = ("--probes", "2", "--method", "rk4", "--steps", "2", "--limit", "2", "--scored", "field")
    assert cli.run(["likelihood", "run", *quick]) == 0
    few = ("--settings.likelihood_fields", "2", "--settings.samples", "4", "--settings.sample_steps", "2")
    assert cli.run(["evaluate", "run", *few, "--settings.likelihood_steps", "2"]) == 0
    caveat = "Densities are per unit of the normalised fields: the normaliser"
    assert caveat in capsys.readouterr().out and caveat in Path("run/report.html").read_text()


def test_figures_say_in_which_units_the_reference_is_gaussian(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    few = ("--settings.likelihood_fields", "2", "--settings.samples", "4", "--settings.sample_steps", "2")
    assert cli.run(["evaluate", "run", *few, "--settings.likelihood_steps", "2"]) == 0
    found = Findings.load(work / "run")
    # The exponential of the mean logarithm is the median: power about it would hold the distance of the two squared.
    assert found.mean is not None and found.data is not None
    np.testing.assert_allclose(found.mean.mean((1, 2)), found.data.mean((0, 2, 3)), rtol=1e-12)
    said = "Gaussian in the units of the normaliser 'log', with the data's mean and spectrum there"
    assert said in fields_caption(found, 0) and "fitted to do so in units of 'log'" in spectrum_caption(found, 0)
    plain = replace(found, curve="")
    assert "Gaussian field with the data's mean and spectrum:" in fields_caption(plain, 0)
