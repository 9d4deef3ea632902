"""From settings to networks, into a model's folder and back; and that a folder from a stranger runs nothing."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import xarray as xr
from torch import Tensor, nn

from physdiff.basis import SpectralBasis
from physdiff.clock_fit import fit_clock
from physdiff.condition import Condition
from physdiff.data.normalise import Standardise
from physdiff.denoisers import Denoiser
from physdiff.denoisers.learned_variance import LearnedVariance
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.model import FieldModel, NetworkSettings, around, build_network
from physdiff.networks import Backbone, DiffusionTransformer, UNet
from physdiff.networks.presets import PRESETS
from physdiff.path import ReferencePath
from physdiff.processes.heat import Heat

GRID = Grid(8, 1.0, "neumann")
FIELDS = torch.randn(6, 1, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64).cumsum(-1)


class Line(nn.Module):
    """A map of lines; two of its weights are one."""

    def __init__(self, in_channels: int, out_channels: int, width: int = 4) -> None:
        super().__init__()
        self.first = nn.Conv1d(in_channels, width, 1)
        self.second = nn.Conv1d(width, width, 1)
        self.third = nn.Conv1d(width, width, 1)
        self.third.weight = self.second.weight
        self.last = nn.Conv1d(width, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.third(self.second(self.first(x).sin()).sin()).sin())


NETWORKS = {
    "U-Net": NetworkSettings(width=4, multipliers=(1, 2), attention=(1,), heads=2, checkpointing=True),
    "transformer": NetworkSettings(kind="transformer", width=8, depth=1, heads=2, patch=2),
    "class": NetworkSettings(kind=f"{__name__}.Line", arguments={"width": 6}, convention="plain"),
    "conditional": NetworkSettings(
        kind="transformer", width=8, depth=1, heads=2, patch=(4,), condition_channels=1, scalars=2, classes=3
    ),
}
every_network = pytest.mark.parametrize("name", list(NETWORKS))


def model_of(
    settings: NetworkSettings,
    whitened: bool = True,
    prediction: str = "residual",
    variance: LearnedVariance | None = None,
) -> FieldModel:
    """A model whose weights are all random, on a line of 8 cells."""
    normaliser = Standardise.fit(FIELDS.numpy(), ("height",))
    basis, generator = SpectralBasis(GRID), torch.Generator().manual_seed(4)
    reference = GaussianField.fit(normaliser.forward(FIELDS), basis)
    path = ReferencePath(fit_clock(Heat(basis), reference), reference)
    extra = 0 if variance is None else variance.extra_channels(1)
    network = build_network(GRID, 1, settings, whitened, extra)
    with torch.no_grad():
        for weights in network.parameters():
            weights += 0.05 * torch.randn(weights.shape, generator=generator)
    denoiser = around(network, path, 1.0, whitened, prediction, variance).eval()
    return FieldModel(denoiser, normaliser, ("height",), ("m",), settings)


# ---- settings


def test_what_is_given_takes_precedence_over_the_preset_and_that_over_the_kind() -> None:
    assert NetworkSettings().resolved() == NetworkSettings(
        width=32, multipliers=(1, 2, 2), blocks=1, dropout=0.0, attention=(), heads=4, checkpointing=False
    )
    small = NetworkSettings(preset="small", width=48).resolved()
    assert small.width == 48 and small.multipliers == PRESETS["small"]["multipliers"]
    assert NetworkSettings(kind="transformer", preset="base", patch=8).resolved() == NetworkSettings(
        kind="transformer", preset="base", patch=8, width=768, depth=12, heads=12, dropout=0.0, checkpointing=False
    )
    assert small.resolved() == small


@every_network
def test_settings_survive_a_file(name: str) -> None:
    settings = NETWORKS[name]
    assert NetworkSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings.resolved()


def test_each_setting_reaches_the_network() -> None:
    grid = Grid((8, 8))
    unet = build_network(
        grid,
        2,
        NetworkSettings(width=8, multipliers=(1, 2), attention=(1,), heads=2, scalars=3, extra_channels=1),
        True,
    )
    assert isinstance(unet, UNet)
    assert unet(torch.zeros(1, 4, 8, 8), torch.zeros(1), Condition(scalars=torch.zeros(1, 3))).shape == (1, 3, 8, 8)
    assert any("attention" in key for key in unet.state_dict())
    settings = NetworkSettings(kind="transformer", patch=(2, 4), width=16, depth=3, heads=4, dropout=0.2, classes=5)
    net = build_network(grid, 2, settings, extra_channels=4)
    assert isinstance(net, DiffusionTransformer)
    assert (net.tokens, len(net.blocks), net.output_channels, net.input_channels) == ((4, 2), 3, 6, 2)
    assert net(torch.zeros(1, 2, 8, 8), torch.zeros(1), Condition(classes=torch.tensor([4]))).shape == (1, 6, 8, 8)
    other = build_network(GRID, 1, NETWORKS["class"], True)
    assert isinstance(other, Backbone) and isinstance(other.module, Line)
    assert other.module.first.weight.shape == (6, 2 + 8, 1)  # field, whitened copy, time


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "transfomer"}, "network.kind 'transfomer' is unknown. Did you mean 'transformer'"),
        ({"preset": "smal"}, "network.preset 'smal' is unknown. Did you mean 'small'"),
        ({"kind": "transformer", "preset": "bas"}, "Did you mean 'base'"),
        ({"patch": 4}, "network.patch is a setting of the kind transformer; this network is of the kind unet"),
        ({"kind": "transformer", "blocks": 2}, "network.blocks is a setting of the kind unet"),
        ({"arguments": {}}, r"network.arguments is a setting of the kind module.Class"),
        ({"kind": "torch.nn.Conv2d", "width": 4}, "network.width is a setting of the kind unet or transformer"),
        ({"kind": "torch.nn.Conv2d", "preset": "base"}, "a class has network.arguments instead"),
        ({"kind": "torch.nn.Conv2d", "arguments": {"weights": "their/weights.pt"}}, "looks like a path or an address"),
    ],
)
def test_settings_of_another_kind_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NetworkSettings(**settings)


def test_outputs_that_nobody_reads_are_refused() -> None:
    with pytest.raises(ValueError, match=r"network\.extra_channels is 3, and the learned variance needs 4"):
        build_network(GRID, 1, NetworkSettings(extra_channels=3), extra_channels=4)


# ---- a model's folder


@every_network
def test_a_model_comes_back_from_its_folder(name: str, tmp_path: Path) -> None:
    model = model_of(NETWORKS[name])
    model.save(tmp_path / "model")
    again = FieldModel.load(tmp_path / "model")
    assert again.network == model.network.resolved()
    weights, theirs = (m.denoiser.network.state_dict() for m in (model, again))
    assert weights.keys() == theirs.keys() and all(torch.equal(weights[key], theirs[key]) for key in weights)
    given = None
    if name == "conditional":
        given = Condition(torch.ones(1, 1, 8), torch.ones(1, 2), torch.tensor([2]))
    ours, back = (m.sample(2, steps=2, condition=given)["height"] for m in (model, again))
    assert ours.equals(back)
    untrained = again.untrained().denoiser.network
    x, t = torch.ones(2, 2, 8), torch.ones(2)
    assert torch.equal(untrained(x, t), torch.zeros(2, 1, 8))


@pytest.mark.parametrize("prediction", ["residual", "x0", "v"])
def test_how_a_network_is_joined_comes_back(prediction: str, tmp_path: Path) -> None:
    variance = LearnedVariance(waves=2)
    model = model_of(NetworkSettings(width=4, multipliers=(1,)), False, prediction, variance)
    model.save(tmp_path / "model")
    again = FieldModel.load(tmp_path / "model").denoiser
    assert isinstance(model.denoiser, Denoiser) and isinstance(again, Denoiser)
    assert again.prediction == model.denoiser.prediction and again.learned_variance == variance
    t, y = torch.tensor(0.4, dtype=torch.float64), FIELDS
    assert torch.equal(again.posterior(y, t).unknown, model.denoiser.posterior(y, t).unknown)
    assert torch.equal(
        FieldModel.load(tmp_path / "model").untrained().denoiser(y, t).isfinite(), torch.ones_like(y) > 0
    )


def test_a_condition_reaches_samples_likelihoods_and_bounds() -> None:
    model = model_of(NETWORKS["conditional"])
    data = model.to_dataset(FIELDS[:2], "test")
    first, second = (
        Condition(torch.full((1, 1, 8), v), torch.full((1, 2), v), torch.tensor([c])) for v, c in ((1.0, 0), (-1.0, 2))
    )
    for act in (
        lambda given: model.sample(2, steps=2, condition=given)["height"],
        lambda given: model.log_likelihood(data, condition=given, method="midpoint", steps=4)["log_prob"],
        lambda given: model.elbo(data, condition=given, draws=2)["bound"],
    ):
        assert act(first).equals(act(first))
        assert not act(first).equals(act(second))


def test_guidance_reaches_samples_likelihoods_and_bounds() -> None:
    model = model_of(NETWORKS["conditional"])
    data, told = model.to_dataset(FIELDS[:2], "test"), Condition(classes=torch.tensor([2]))
    untold = Condition(classes=torch.tensor([2]), present=torch.tensor([False]))
    acts = {
        "height": lambda **given: model.sample(2, steps=2, **given),
        "log_prob": lambda **given: model.log_likelihood(data, method="midpoint", steps=2, **given),
        "bound": lambda **given: model.elbo(data, steps=4, draws=1, **given),
    }
    for name, act in acts.items():
        found = {w: act(condition=told, guidance=w) for w in (0.0, 1.0, 3.0)}
        xr.testing.assert_allclose(found[0.0][name], act(condition=untold)[name], rtol=1e-6)
        assert found[1.0][name].equals(act(condition=told)[name])
        assert float(abs(found[3.0][name] - found[1.0][name]).min()) > 1e-5
        assert found[3.0].attrs["guidance"] == 3.0 and "guidance" not in found[1.0].attrs
        with pytest.raises(ValueError, match="none is given; guidance is 2"):
            act(guidance=2.0)


def test_a_model_of_the_first_version_is_read_as_it_was(tmp_path: Path) -> None:
    model = model_of(NetworkSettings(width=4, multipliers=(1, 2), dropout=0.1, seed=3))
    model.save(tmp_path / "model")
    file = tmp_path / "model" / "model.json"
    meta = json.loads(file.read_text())
    meta["network"] = {"width": 4, "multipliers": [1, 2], "blocks": 1, "dropout": 0.1, "seed": 3}
    for name in ("prediction", "learned_variance"):
        del meta[name]
    file.write_text(json.dumps(meta))
    again = FieldModel.load(tmp_path / "model")
    assert again.sample(2, steps=2)["height"].equals(model.sample(2, steps=2)["height"])
    assert asdict(again.network.resolved()) == asdict(model.network.resolved())


# ---- folders from strangers

EVIL = """
from pathlib import Path
Path({marker!r}).touch()
import torch
class Evil(torch.nn.Module):
    def __init__(self, **arguments): Path({marker!r}).touch()
"""

Stranger = Callable[..., Path]


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """Is there as soon as evil code has run."""
    return tmp_path / "ran"


@pytest.fixture
def stranger(tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch) -> Stranger:
    """Writes a model's folder, below the current folder, whose model.json says something else; returns it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(**changes: Any) -> Path:
        folder = tmp_path / "download" / "model"
        model_of(NetworkSettings(width=4, multipliers=(1,))).save(folder)
        meta = json.loads((folder / "model.json").read_text())
        (folder / "model.json").write_text(json.dumps({**meta, **changes}))
        for place in (folder, folder.parent):
            (place / "evil_code.py").write_text(EVIL.format(marker=str(marker)))
        return folder

    return write


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("os.system", "has no class 'system'"),
        ("subprocess.Popen", "is not a subclass of"),
        ("builtins.eval", "has no class 'eval'"),
        ("antigravity.Flight", "of Python's own library"),
        ("evil_code.Evil", "there is no module 'evil_code'"),
        ("download/evil_code.py:Evil", "What comes with a model is not run"),
        ("download/model/evil_code.py:Evil", "What comes with a model is not run"),
        ("download/model/../evil_code.py:Evil", "What comes with a model is not run"),
        ("/somewhere/evil_code.py:Evil", "outside the current folder; import it before"),
        ("download.evil_code.Evil", "What comes with a model is not run"),
        ("download.model.evil_code.Evil", "What comes with a model is not run"),
        ("evil..Evil", "expected a name, module.Class or file.py:Class"),
    ],
)
@pytest.mark.parametrize("part", ["network", "process"])
def test_a_class_that_came_with_a_model_is_not_run(
    part: str, name: str, message: str, stranger: Stranger, marker: Path
) -> None:
    changes = {
        "network": {"network": {"kind": name, "arguments": {"command": "touch ran"}}},
        "process": {"process": {"class": name, "settings": {"args": ["touch", str(marker)]},
                                "clock": {"class": "LinearClock", "settings": {}}}},
    }  # fmt: skip
    folder = stranger(**changes[part])
    with pytest.raises(ValueError, match=message):
        FieldModel.load(folder)
    assert not marker.exists()
    assert "evil_code" not in sys.modules and "antigravity" not in sys.modules


def test_the_folder_of_a_model_is_no_place_for_code_even_as_the_current_one(
    stranger: Stranger, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stranger(network={"kind": "evil_code.Evil"})
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match="What comes with a model is not run"):
        FieldModel.load(".")
    assert not marker.exists()


def test_a_script_of_ones_own_is_not_run_by_mistake(stranger: Stranger, marker: Path, tmp_path: Path) -> None:
    folder = stranger(network={"kind": "my_script.Network"})
    (tmp_path / "my_script.py").write_text(EVIL.format(marker=str(marker)))
    with pytest.raises(ValueError, match=r"my_script\.py defines no class 'Network'; it was not run"):
        FieldModel.load(folder)
    assert not marker.exists()


def test_a_network_of_ones_own_is_found_where_commands_are_typed(stranger: Stranger, tmp_path: Path) -> None:
    (tmp_path / "my_network.py").write_text(
        "import torch\n"
        "class Mine(torch.nn.Conv1d):\n"
        "    def __init__(self, in_channels, out_channels): super().__init__(in_channels, out_channels, 1)\n"
        "    def forward(self, x): return super().forward(x)\n"
    )
    folder = stranger()
    settings = NetworkSettings(kind="my_network.Mine")
    model = model_of(settings)
    model.save(folder)
    del sys.modules["my_network"]
    assert FieldModel.load(folder).sample(1, steps=1)["height"].equals(model.sample(1, steps=1)["height"])
    del sys.modules["my_network"]


@pytest.mark.parametrize("clock", ["dataclass", "torch", "ABC", "Clock", "linear_betas", "__builtins__"])
def test_only_a_clock_is_a_clock(clock: str, stranger: Stranger) -> None:
    folder = stranger()
    meta = json.loads((folder / "model.json").read_text())
    meta["process"]["clock"]["class"] = clock
    (folder / "model.json").write_text(json.dumps(meta))
    with pytest.raises(ValueError, match=f"unknown clock '{clock}'"):
        FieldModel.load(folder)


@pytest.mark.parametrize("file", ["weights.safetensors", "reference.safetensors"])
def test_a_pickle_under_another_name_is_not_opened(file: str, stranger: Stranger, marker: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (marker,)

    folder = stranger()
    whole = pickle.dumps(Touch())
    (folder / file).write_bytes(whole)
    with pytest.raises(ValueError, match=f"{file} is missing or damaged"):
        FieldModel.load(folder)
    assert not marker.exists()
    pickle.loads(whole)  # the test can fail: whoever opens it as a pickle has run it
    assert marker.exists()
