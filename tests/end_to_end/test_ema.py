"""`physdiff ema`: a model of another average, from the profiles that a run has stored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import Command  # pyright: ignore[reportMissingImports]
from safetensors.torch import load_file

from physdiff import FieldModel
from physdiff.training import load_ema

WIDE = ("--training.steps", "4", "--training.ema_widths", "[0.05,0.1]", "--training.ema_every", "2")


@pytest.fixture
def wide(tiny: Path, command: Command) -> Path:
    """A run of four steps with two profiles."""
    assert command("train", "config.yaml", "--run", "wide", *WIDE)[0] == 0
    return tiny / "wide"


def test_the_model_of_a_stored_width_has_its_weights(wide: Path, command: Command) -> None:
    code, out, _ = command("ema", "wide", "0.1")
    assert code == 0 and "averaged over 0.1 of 4 steps, from 2 stored times; profile off by 0.0%" in out
    assert "model: wide/model-ema-0.1" in out
    stored = load_file(wide / "profiles" / "step-00000004.safetensors")
    found = FieldModel.load("wide/model-ema-0.1")
    weights = dict(found.denoiser.named_parameters())
    assert {f"1/{name}" for name in weights} == {name for name in stored if name.startswith("1/")}
    for name, x in weights.items():
        torch.testing.assert_close(x, stored[f"1/{name}"], rtol=1e-5, atol=1e-7)
    ema = load_ema(wide)
    assert max(float((x.detach() - ema[name]).abs().max()) for name, x in weights.items()) > 1e-4  # another average
    assert found.card["ema_width"] == 0.1 and found.card["steps"] == 4
    assert command("sample", "wide/model-ema-0.1", "--n", "1", "--steps", "2")[0] == 0


def test_what_was_measured_on_the_other_weights_is_left_behind(wide: Path, command: Command) -> None:
    assert command("calibrate", "wide", "--pilots", "2", "--steps", "16", "--levels", "2", "--limit", "2")[0] == 0
    assert command("ema", "wide", "0.08", "--out", "other")[0] == 0
    found = FieldModel.load("other")
    assert found.calibrated_grid is None and found.denoiser.calibration is None
    assert FieldModel.load("wide").calibrated_grid is not None


def test_what_cannot_be_made_is_one_line(wide: Path, command: Command) -> None:
    for words, message in (
        (("ema", "wide", "0.5"), "width must lie in (0, 0.28]"),
        (("ema", "run", "0.1"), "no power profiles are stored in run/profiles; train with two widths"),
        (("ema", "wide", "--width", "0.1"), "'width' has no dashes, it is told by its place: RUN WIDTH."),
        (("ema", "wide"), "ema needs WIDTH"),
    ):
        code, _, said = command(*words)
        assert code == 2 and message in said and len(said.splitlines()) == 1, said
    profile = wide / "profiles" / "step-00000002.safetensors"
    profile.write_bytes(profile.read_bytes()[:50])
    code, _, said = command("ema", "wide", "0.1")
    assert code == 2 and f"{profile.relative_to(Path.cwd())} is damaged" in said
    assert not Path("wide/model-ema-0.1").exists()
