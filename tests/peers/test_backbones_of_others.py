"""diffusers' UNet2DModel, azula's UNet and neuraloperator's FNO and UNO as networks: built, trained, saved, loaded."""

from __future__ import annotations

import copy
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from physdiff.basis import SpectralBasis
from physdiff.clock_fit import fit_clock
from physdiff.condition import Condition
from physdiff.data.normalise import Standardise
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.model import FieldModel, NetworkSettings, around, build_network
from physdiff.networks import Backbone
from physdiff.networks.conventions import CONVENTIONS
from physdiff.path import ReferencePath
from physdiff.processes.heat import Heat

pytestmark = pytest.mark.peers

# Neither size is one that a pyramid divides; one axis has walls.
GRID = Grid((10, 7), boundary=("periodic", "neumann"))
ARGUMENTS: dict[str, dict[str, Any]] = {
    "diffusers.UNet2DModel": {
        "block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    },
    "azula.nn.unet.UNet": {"hid_channels": [8, 16], "hid_blocks": [1, 1], "mod_features": 16},
    "neuralop.models.FNO": {"n_modes": [4, 4], "hidden_channels": 12, "n_layers": 2},
    # With its default skips, UNO cannot be built: they ask for as many channels on both sides.
    "neuralop.models.UNO": {
        "hidden_channels": 12, "n_layers": 3, "uno_out_channels": [12, 12, 12], "channel_mlp_skip": "linear",
        "uno_n_modes": [[4, 4], [3, 3], [4, 4]], "uno_scalings": [[1, 1], [0.5, 0.5], [2, 2]],
        "lifting_channels": 12, "projection_channels": 12,
    },
}  # fmt: skip
every_peer = pytest.mark.parametrize("name", list(ARGUMENTS))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network(name: str, grid: Grid = GRID, **settings: Any) -> Backbone:
    return Backbone.of_class(grid, 1, name, ARGUMENTS[name], **settings)


def opened(net: Backbone) -> Backbone:
    """With an output of its own size."""
    with torch.no_grad():
        net.gain.fill_(1.0)
    return net


@every_peer
def test_the_convention_is_found(name: str) -> None:
    expected = {"diffusers": "diffusers", "azula": "azula", "neuralop": "plain"}[name.partition(".")[0]]
    assert network(name).convention is CONVENTIONS[expected]


@every_peer
def test_it_starts_at_zero_and_all_of_it_learns_under_every_condition(name: str) -> None:
    net = network(name, condition_channels=1, scalars=2, classes=3, extra_channels=1, input_channels=2)
    x, t = draw(8, 2, *GRID.shape), torch.linspace(0, 1, 8)
    told = torch.arange(8) != 3
    given = Condition(draw(8, 1, *GRID.shape, seed=1), draw(8, 2, seed=2), torch.arange(8) % 3, told)
    assert torch.equal(net(x, t, given), torch.zeros(8, 2, *GRID.shape))
    assert all(isinstance(value, Tensor) for value in net.state_dict().values())
    fields, scalars = given.fields, given.scalars
    assert fields is not None and scalars is not None
    # Of the field, of the time, of fields and of numbers that it is told: each part must arrive.
    part = (told * scalars[:, 0] * t).reshape(-1, 1, 1, 1)
    target = torch.cat((x[:, :1] * t.reshape(-1, 1, 1, 1), part + told.reshape(-1, 1, 1, 1) * fields), 1)
    optimiser, losses = torch.optim.Adam(net.parameters(), 1e-2), []
    still = set(name for name, _ in net.named_parameters())
    for _ in range(60):
        optimiser.zero_grad()
        loss = (net(x, t, given) - target).square().mean()
        loss.backward()
        still -= {name for name, p in net.named_parameters() if p.grad is not None and p.grad.abs().amax() > 0}
        optimiser.step()
        losses.append(float(loss.detach()))
    print(f"{name}: {losses[0]:.3f} to {losses[-1]:.3f}, {sum(p.numel() for p in net.parameters())} parameters")
    assert still == set()
    assert losses[-1] < 0.5 * losses[0], losses


@every_peer
def test_the_answer_is_the_modules_own(name: str) -> None:
    """Called by hand, as its documentation says, on a grid that it divides."""
    grid = Grid((8, 12))
    net = opened(network(name, grid))
    x, t = draw(3, 1, 8, 12), torch.tensor([0.0, 0.3, 1.0])
    module: Any = net.module
    if name.startswith("diffusers"):
        own = module(x, 1000 * t).sample
    else:
        assert net.embedding is not None
        vector = net.embedding(t)
        constant = vector.reshape(3, -1, 1, 1).expand(3, vector.shape[1], 8, 12)
        own = module(x, vector) if name.startswith("azula") else module(torch.cat((x, constant), 1))
    torch.testing.assert_close(net(x, t), own / net.size)


@every_peer
def test_times_and_rows_are_told_apart(name: str) -> None:
    net = opened(network(name))
    x = draw(1, 1, *GRID.shape).expand(3, 1, *GRID.shape)
    t = torch.tensor([0.2, 0.2, 0.9])
    y = net(x, t)
    torch.testing.assert_close(y[0], y[1])
    # azula starts its modulations at a hundredth.
    assert (y[2] - y[0]).norm() > 1e-4 * y[0].norm()
    torch.testing.assert_close(net(x[2:], t[2:]), y[2:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["azula.nn.unet.UNet", "neuralop.models.FNO"])
def test_on_a_periodic_box_shifts_commute_where_the_module_lets_them(name: str) -> None:
    """Neither coordinates nor zero padding are put in by default: they would tell the middle from the edge."""
    net = opened(network(name, Grid((8, 12))))
    x, t = draw(2, 1, 8, 12), torch.tensor([0.1, 0.7])
    y = net(x, t)
    for axis in (2, 3):
        assert (net(x.roll(2, axis), t) - y.roll(2, axis)).norm() < 1e-5 * y.norm()


@pytest.mark.parametrize("embedding", ["fourier", "learned"])
def test_other_embeddings_of_time_in_diffusers_are_finite_and_tell_times_apart(embedding: str) -> None:
    name = "diffusers.UNet2DModel"
    arguments = {**ARGUMENTS[name], "time_embedding_type": embedding, "num_train_timesteps": 100}
    net = opened(Backbone.of_class(GRID, 1, name, arguments))
    y = net(draw(1, 1, *GRID.shape).expand(4, 1, *GRID.shape), torch.tensor([0.0, 0.01, 0.5, 1.0]))
    assert y.isfinite().all()
    assert (y[1:] - y[:-1]).flatten(1).norm(dim=1).amin() > 1e-3 * y[0].norm()


def test_a_network_of_azula_without_a_modulation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"without a modulation, mod_features = 0.*'plain'"):
        Backbone.of_class(GRID, 1, "azula.nn.unet.UNet", {"hid_channels": [8], "hid_blocks": [1], "mod_features": 0})
    told = {"hid_channels": [8], "hid_blocks": [1], "mod_features": 0}
    assert Backbone.of_class(GRID, 1, "azula.nn.unet.UNet", told, "plain").convention is CONVENTIONS["plain"]


@every_peer
def test_a_model_with_it_is_the_reference_untrained_and_comes_back_from_its_folder(name: str, tmp_path: Path) -> None:
    fields = draw(8, 1, *GRID.shape).double().cumsum(2)
    normaliser = Standardise.fit(fields.numpy(), ("height",))
    basis = SpectralBasis(GRID)
    reference = GaussianField.fit(normaliser.forward(fields), basis)
    path = ReferencePath(fit_clock(Heat(basis), reference), reference)
    settings = NetworkSettings(kind=name, arguments=ARGUMENTS[name], seed=2)
    net = build_network(GRID, 1, settings, whitened_input=True)
    model = FieldModel(around(net, path, 1.0, True).eval(), normaliser, ("height",), ("m",), settings)
    data = model.to_dataset(fields[:2], "test")
    found = model.log_likelihood(data, probes=2, method="midpoint", steps=4)
    torch.testing.assert_close(
        torch.from_numpy(found["log_prob"].values), torch.from_numpy(found["log_prob_reference"].values)
    )
    with torch.no_grad():
        for weights in net.parameters():
            weights += 0.05 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(weights.numel()))
    model.save(tmp_path / "model")
    again = FieldModel.load(tmp_path / "model")
    assert again.sample(2, steps=2)["height"].equals(model.sample(2, steps=2)["height"])
    twin = copy.deepcopy(model.denoiser)  # as the moving average is made
    assert twin.state_dict().keys() == model.denoiser.state_dict().keys()


def test_neuraloperator_is_imported_without_torchvision() -> None:
    import_module("neuralop.models")
    with pytest.raises(ImportError):
        import_module("torchvision")
