"""The page beside the weights: true of its model, the same for the same model, and its example runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from physdiff import GaussianField, Grid, ReferencePath, SpectralBasis, fit_clock
from physdiff.data.normalise import Standardise
from physdiff.model import FieldModel, NetworkSettings, around, build_network
from physdiff.model_card import card_text
from physdiff.processes.matern import Matern
from physdiff.processes.variance_preserving import VariancePreserving

CARD: dict[str, Any] = {
    "data": "data/waves", "train_fields": 321, "valid_fields": 45, "steps": 2000, "seconds": 61.4, "parameters": 5,
    "validation_loss": 0.8125, "validation_error": 0.75, "versions": {"torch": "9.8.7"},
    "settings": {
        "data": {"path": "data/waves", "boundary": None, "homogeneous": True},
        "training": {"steps": 2000, "batch_size": 16, "gradient_clip": None, "ema_widths": []},
        "network": {"width": 4}, "denoiser": {"prediction": "residual"}, "objective": {"name": "DenoisingLoss"},
    },
}  # fmt: skip


def model_of(
    card: dict[str, object], process: type = VariancePreserving, noise_level: float | None = 0.05, **conditions: Any
) -> FieldModel:
    basis = SpectralBasis(Grid((6, 4), (2.0, 1.0), ("periodic", "neumann"), units="km"))
    one = GaussianField.matern(basis, 0.3)
    many = (x.expand(2, *x.shape[1:]).contiguous() for x in (one.mean, one.spectrum, one.floor))
    reference = GaussianField(basis, *many)
    path = ReferencePath(fit_clock(process(basis), reference, 0.05), reference, 0.0125)
    layout = NetworkSettings(width=4, multipliers=(1,), **conditions)
    scale = Standardise(torch.tensor([1.5, -2.25]), torch.tensor([3.5, 0.125]))
    network = build_network(basis.grid, 2, layout, True)
    return FieldModel(
        around(network, path, 1.0, True).eval(), scale, ("height", "flux"), ("m", ""), layout, noise_level, card
    )


def section(text: str, title: str) -> str:
    return re.split(r"^## ", text, flags=re.MULTILINE)[[*re.findall(r"^## (.*)$", text, re.MULTILINE)].index(title) + 1]


def test_the_page_says_what_the_model_and_its_card_hold() -> None:
    model = model_of(CARD)
    text = card_text(model)
    path = model.denoiser.path
    head = yaml.safe_load(text.split("---")[1])
    assert head == {"library_name": "physdiff", "tags": ["physdiff", "diffusion", "2d-fields", "VariancePreserving"]}
    assert "# height and flux: a diffusion model" in text and model.grid.describe() in text
    assert "| `height` | `m` | 1.5 | 3.5 |\n| `flux` | none | -2.25 | 0.125 |" in section(text, "Fields")
    data = section(text, "Data")
    assert "data set: data/waves" in data and "training fields: 321" in data and "validation fields: 45" in data
    assert "noise level, relative to the standard deviation: 0.05" in data and "boundary" not in data
    physics = section(text, "Noising physics")
    assert "process: VariancePreserving" in physics and f"`{path.clock.describe()}`" in physics
    assert "t_min: 0.0125" in physics and f"at most {path.terminal_mismatch:.3g} nats" in physics
    assert f"degrees of freedom: {path.reference.n_support}" in physics
    network = section(text, "Network")
    assert f"parameters: {sum(p.numel() for p in model.denoiser.parameters())}" in network and "class: UNet" in network
    assert "kind: unet" in network and "prediction given residual; mode_scaling 1" in network
    assert "objective: name DenoisingLoss" in network
    training = section(text, "Training")
    assert "steps: 2000" in training and "seconds: 61" in training and "torch 9.8.7" in training
    assert "batch_size 16" in training and "gradient_clip" not in training
    assert "validation error: 0.75\n- validation loss: 0.8125" in section(text, "Validation")
    assert "with the noise below which nothing is modelled" in section(text, "Limits")


def test_what_is_not_known_is_not_said() -> None:
    text = card_text(model_of({}, noise_level=None))
    assert "An untrained model: the Gaussian random field" in text and "A trained model" not in text
    titles = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert titles == ["Fields", "Noising physics", "Network", "Use", "Limits"]
    assert "None" not in text and "noise level" not in text and "nan" not in text
    assert "of the fields as they are" in section(text, "Limits")


def test_physics_of_ones_own_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "imports" not in card_text(model_of({}, Matern))

    class Mine(VariancePreserving):
        """Mine."""

    Mine.__module__, Mine.__qualname__ = "tests_own_physics", "Mine"
    monkeypatch.setitem(__import__("sys").modules, "tests_own_physics", type(re)("tests_own_physics"))
    text = card_text(model_of({}, Mine))
    assert "to load the model imports `tests_own_physics.Mine`" in section(text, "Limits")


def test_a_network_of_others_is_told() -> None:
    own = model_of({})
    assert "imports" not in card_text(own)
    own.network = NetworkSettings(kind="azula.nn.unet.UNet")
    assert "to load the model imports `azula.nn.unet.UNet`" in section(card_text(own), "Limits")


def test_saving_writes_the_page_and_loading_and_saving_again_the_same(tmp_path: Path) -> None:
    model = model_of(CARD)
    model.save(tmp_path / "a")
    text = (tmp_path / "a" / "README.md").read_text(encoding="utf-8")
    assert text == card_text(model)
    FieldModel.load(tmp_path / "a").save(tmp_path / "b")
    assert (tmp_path / "b" / "README.md").read_text(encoding="utf-8") == text
    assert json.loads((tmp_path / "b" / "model.json").read_text())["card"] == CARD


@pytest.mark.parametrize("conditions", [{}, {"condition_channels": 2, "classes": 3}, {"scalars": 2}])
def test_the_example_on_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, conditions: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    dropped = {**CARD["settings"], "objective": {"name": "DenoisingLoss", "drop_condition": 0.1}}
    model = model_of({**CARD, "settings": dropped}, **conditions)
    assert "guidance" not in card_text(model_of(CARD, **conditions))
    model.save("FOLDER")
    (code,) = re.findall(r"```python\n(.*?)```", card_text(model), re.DOTALL)
    said: list[object] = []
    names: dict[str, object] = {"print": lambda *words: said.extend(words)}
    assert ("condition" in code) == ("guidance=2.0" in code) == bool(conditions)
    exec(code, names)
    assert Path("samples.nc").exists() and len(said) == 3
    scores = names["scores"]
    assert scores.log_prob.shape == (16,) and bool((scores.standard_error >= 0).all())  # pyright: ignore
