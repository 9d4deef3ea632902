"""What is measured on a trained model is stored with it, used by its samples, and refused when it is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from physdiff.basis import SpectralBasis
from physdiff.clock_fit import fit_clock
from physdiff.data.normalise import Standardise
from physdiff.denoisers import Denoiser
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.model import FieldModel, NetworkSettings, build_network
from physdiff.path import ReferencePath
from physdiff.processes.heat import Heat
from physdiff.solvers import Ancestral, LogSpaced

NETWORK = NetworkSettings(width=4, multipliers=(1,))
FIELDS = torch.randn(6, 1, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64).cumsum(-1)


@pytest.fixture
def model() -> FieldModel:
    """A network whose weights are all random, so that its output is not zero, on a line of 8 cells."""
    grid = Grid(8, 1.0, "neumann")
    normaliser = Standardise.fit(FIELDS.numpy(), ("height",))
    fields = normaliser.forward(FIELDS)
    basis, generator = SpectralBasis(grid), torch.Generator().manual_seed(4)
    reference = GaussianField.fit(fields, basis)
    path = ReferencePath(fit_clock(Heat(basis), reference), reference)
    network = build_network(grid, 1, NETWORK, whitened_input=True)
    with torch.no_grad():
        for weights in network.parameters():
            weights += 0.05 * torch.randn(weights.shape, generator=generator)
    denoiser = Denoiser(network, path, 0.0, whitened_input=True).eval()
    return FieldModel(denoiser, normaliser, ("height",), ("m",), NETWORK)


def calibrated(model: FieldModel, fields: bool = True) -> FieldModel:
    model.calibrate(model.normaliser.forward(FIELDS) if fields else None, pilots=2, steps=16, levels=3)
    return model


def test_calibrations_are_stored_with_the_model(model: FieldModel, tmp_path: Path) -> None:
    before = model.sample(2, steps=4)
    assert before.attrs["time_grid"] == "Angle"
    calibrated(model).save(tmp_path / "model")
    again = FieldModel.load(tmp_path / "model")
    assert again.calibrated_grid is not None and model.calibrated_grid is not None
    for name, tensor in model.calibrated_grid.to_tensors().items():
        assert torch.equal(again.calibrated_grid.to_tensors()[name], tensor)
    assert isinstance(again.denoiser, Denoiser) and isinstance(model.denoiser, Denoiser)
    assert again.denoiser.calibration is not None and model.denoiser.calibration is not None
    assert torch.equal(again.denoiser.calibration.ratios, model.denoiser.calibration.ratios)
    ours, theirs = model.sample(2, steps=4), again.sample(2, steps=4)
    assert ours.attrs["time_grid"] == "Calibrated" and ours.equals(theirs) and not ours.equals(before)
    assert model.sample(2, steps=4, time_grid=LogSpaced()).attrs["time_grid"] == "LogSpaced"
    assert model.sample(2, steps=4, solver=Ancestral()).attrs["time_grid"] == "Angle"


def test_one_table_alone_and_none(model: FieldModel, tmp_path: Path) -> None:
    """A model folder without calibration is as it was before there was any; a new one replaces the old tables."""
    model.save(tmp_path / "model")
    assert not (tmp_path / "model" / "calibration.safetensors").exists()
    assert "calibration" not in json.loads((tmp_path / "model" / "model.json").read_text())
    assert FieldModel.load(tmp_path / "model").calibrated_grid is None
    calibrated(model, fields=False).save(tmp_path / "model")
    assert set(load_file(tmp_path / "model" / "calibration.safetensors")) == {
        "time_grid/density",
        "time_grid/log_times",
    }
    again = FieldModel.load(tmp_path / "model")
    assert isinstance(again.denoiser, Denoiser) and again.denoiser.calibration is None
    again.calibrated_grid = None
    again.save(tmp_path / "model")
    assert not (tmp_path / "model" / "calibration.safetensors").exists()


def test_a_calibration_that_fails_leaves_the_model_as_it_was(model: FieldModel) -> None:
    with pytest.raises(ValueError, match=r"fields must have the shape \(n, 1, 8\)"):
        model.calibrate(FIELDS[..., :4], pilots=1, steps=16)
    assert model.calibrated_grid is None


def test_damaged_tables_are_refused(model: FieldModel, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    calibrated(model).save(folder)
    file, whole = folder / "calibration.safetensors", (folder / "calibration.safetensors").read_bytes()
    tables = {name: x.clone() for name, x in load_file(file).items()}
    meta = json.loads((folder / "model.json").read_text())
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"calibration\.safetensors is missing or damaged"):
        FieldModel.load(folder)
    file.unlink()
    with pytest.raises(ValueError, match=r"calibration\.safetensors is missing or damaged"):
        FieldModel.load(folder)
    save_file({**tables, "time_grid/density": -tables["time_grid/density"]}, file)
    with pytest.raises(ValueError, match=r"calibration\.safetensors is damaged .*positive, finite values of 'density'"):
        FieldModel.load(folder)
    save_file({name: x for name, x in tables.items() if name != "uncertainty/ratios"}, file)
    with pytest.raises(ValueError, match=r"calibration\.safetensors is damaged .*'ratios'"):
        FieldModel.load(folder)
    save_file({name: x for name, x in tables.items() if name.startswith("uncertainty")}, file)
    with pytest.raises(ValueError, match="it has nothing of time_grid"):
        FieldModel.load(folder)
    file.write_bytes(whole)
    for entry in ({"format": 2, "tables": ["time_grid"]}, {"format": 1, "tables": ["time_grid", "later"]}):
        (folder / "model.json").write_text(json.dumps({**meta, "calibration": entry}))
        with pytest.raises(ValueError, match=r"is of another version: .*Calibrate the model again"):
            FieldModel.load(folder)
    (folder / "model.json").write_text(json.dumps({**meta, "calibration": {"format": 1}}))
    with pytest.raises(ValueError, match=r"model\.json is damaged .*'tables'"):
        FieldModel.load(folder)
