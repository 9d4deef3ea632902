"""Samples while training: the pictures are there, the numbers are the sampler's, and the run does not notice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import xarray as xr
from torch import Tensor

from physdiff import GaussianField, Grid, ReferencePath, SpectralBasis, fit_clock, sample
from physdiff.data.normalise import Standardise
from physdiff.model import FieldModel, NetworkSettings, around, build_network
from physdiff.objectives import DenoisingLoss
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.training import TrainSettings, complete_checkpoints, read_checkpoint, train
from physdiff.training.sample_grids import SampleGrids

PNG = b"\x89PNG\r\n\x1a\n"


def model_of(shape: tuple[int, ...], names: tuple[str, ...] = ("u",)) -> FieldModel:
    """Untrained, with another mean and scale in each channel."""
    basis = SpectralBasis(Grid(shape))
    one = GaussianField.matern(basis, 0.3)
    many = (x.expand(len(names), *x.shape[1:]).contiguous() for x in (one.mean, one.spectrum, one.floor))
    reference = GaussianField(basis, *many)
    path = ReferencePath(fit_clock(VariancePreserving(basis), reference, 0.05), reference, 0.01)
    layout = NetworkSettings(width=4, multipliers=(1,))
    scale = Standardise(torch.arange(1.0, 1 + len(names)), torch.arange(2.0, 2 + len(names)))
    denoiser = around(build_network(basis.grid, len(names), layout, True), path, 1.0, True)
    return FieldModel(denoiser.eval(), scale, names, ("m/s",) * len(names), layout)


def fields_of(model: FieldModel, n: int) -> Tensor:
    return model.denoiser.path.reference.sample(n, torch.Generator().manual_seed(3)).float()


@pytest.mark.parametrize(
    ("shape", "names", "pictures"),
    [
        ((12,), ("u",), ["step-00000030.png"]),
        ((6, 8), ("u",), ["step-00000030.png"]),
        ((4, 6, 5), ("u",), ["step-00000030.png"]),
        ((6, 6), ("u", "v w"), ["step-00000030-u.png", "step-00000030-v_w.png"]),
    ],
)
def test_pictures_of_every_channel_and_the_samples_in_physical_units(
    tmp_path: Path, shape: tuple[int, ...], names: tuple[str, ...], pictures: list[str]
) -> None:
    model = model_of(shape, names)
    file = SampleGrids(model, fields_of(model, 5), n=4, steps=3, seed=7)(model.denoiser, 30, tmp_path)
    assert file == tmp_path / "samples" / "step-00000030.nc"
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == sorted([file.name, *pictures])
    assert all((tmp_path / "samples" / name).read_bytes().startswith(PNG) for name in pictures)
    found = xr.load_dataset(file, engine="h5netcdf")
    expected = model.normaliser.inverse(sample(model.denoiser, 4, steps=3, seed=7))
    for channel, name in enumerate(names):
        assert (found[name].values == expected[:, channel].numpy()).all()
        assert found[name].attrs["units"] == "m/s"
    assert found.attrs["training_steps"] == 30


def test_a_step_is_drawn_once_and_half_a_picture_is_drawn_again(tmp_path: Path) -> None:
    model = model_of((12,))
    grids = SampleGrids(model, fields_of(model, 3), n=2, steps=1)
    file = grids(model.denoiser, 1, tmp_path)
    assert file is not None
    picture, first = file.with_suffix(".png"), file.stat().st_mtime_ns
    assert grids(model.denoiser, 1, tmp_path) is None and file.stat().st_mtime_ns == first
    content = picture.read_bytes()
    file.unlink()
    picture.write_bytes(content[:100])  # killed between the picture and the samples
    assert grids(model.denoiser, 1, tmp_path) == file and picture.read_bytes() == content


def test_each_sample_answers_to_the_condition_of_the_field_beside_it(tmp_path: Path) -> None:
    model, seen = model_of((8,)), []
    condition = torch.arange(5.0).reshape(5, 1, 1).expand(5, 1, 8)
    residual = model.denoiser.residual

    def conditioned(y: Tensor, t: Tensor, given: Tensor | None = None) -> Tensor:
        assert given is not None
        seen.append(given[:, 0, 0].tolist())
        return residual(y, t, None)

    model.denoiser.residual = conditioned  # pyright: ignore[reportAttributeAccessIssue]
    held_out = fields_of(model, 5)
    grids = SampleGrids(model, held_out, condition, n=3, steps=1)
    grids(model.denoiser, 1, tmp_path)
    rows = [int(value) for value in seen[0]]
    assert len(rows) == 3 and all(other == seen[0] for other in seen)
    shown = torch.from_numpy(grids._shown(held_out))
    assert torch.equal(shown, model.normaliser.inverse(held_out[rows].double()))


def test_a_model_that_is_wild_makes_no_picture_and_stops_nothing(tmp_path: Path) -> None:
    model = model_of((8,))
    with torch.no_grad():
        for parameter in model.denoiser.parameters():
            parameter.fill_(float("nan"))
    with pytest.warns(UserWarning, match="no samples after 5 steps: samples are not finite"):
        assert SampleGrids(model, n=2, steps=1)(model.denoiser, 5, tmp_path) is None
    assert not (tmp_path / "samples").exists()


def test_drawing_changes_no_bit_of_the_run(tmp_path: Path) -> None:
    told = TrainSettings(steps=6, batch_size=3, checkpoint_every=3, validate_every=3, device="cpu")

    def run(folder: Path, sample_every: int) -> dict[str, Tensor]:
        model = model_of((8,))
        held_out = fields_of(model, 4)
        torch.manual_seed(11)
        before = torch.random.get_rng_state()
        train(
            model.denoiser, DenoisingLoss(), fields_of(model, 6), held_out,
            replace(told, sample_every=sample_every), folder, draw=SampleGrids(model, held_out, n=2, steps=2),
            progress=False,
        )  # fmt: skip
        assert torch.equal(torch.random.get_rng_state(), before)
        found = read_checkpoint(complete_checkpoints(folder)[-1])
        return {f"{part}/{k}": x for part in ("weights", "ema", "optimiser") for k, x in getattr(found, part).items()}

    alone, drawn = run(tmp_path / "alone", 0), run(tmp_path / "drawn", 2)
    assert set(alone) == set(drawn) and all(torch.equal(alone[name], drawn[name]) for name in alone)
    assert not (tmp_path / "alone" / "samples").exists()
    names = sorted(p.name for p in (tmp_path / "drawn" / "samples").glob("*.nc"))
    assert names == ["step-00000002.nc", "step-00000004.nc", "step-00000006.nc"]


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="n >= 1 samples and steps >= 1; got 0 and 8"):
        SampleGrids(model_of((8,)), n=0)
