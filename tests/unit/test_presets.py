"""The sizes that networks come in: what they cost, counted twice, and the command that lists them."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from physdiff.commands.networks import networks
from physdiff.grid import Grid
from physdiff.networks import PRESETS, UNet, cost, preset
from physdiff.networks.attention import Attention

torch.set_num_threads(1)


def by_hand(net: UNet) -> int:
    """Multiply-adds of one evaluation, layer by layer: the weights of each, times the cells that they act on."""
    total = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, Attention):
            cells = math.prod(output.shape[2:])
            total += 2 * cells**2 * output.shape[1]
        else:
            assert isinstance(layer.weight, Tensor)
            places = output.numel() // (output.shape[-1] if isinstance(layer, nn.Linear) else output.shape[1])
            total += layer.weight.numel() * places

    for layer in net.modules():
        if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, Attention)):
            layer.register_forward_hook(count)
    with torch.no_grad():
        net(torch.zeros(1, net.input_channels, *net.grid.shape), torch.zeros(1))
    return total


@pytest.mark.parametrize(
    ("grid", "arguments"),
    [
        (Grid(24), {}),
        (Grid((9, 6), boundary=("neumann", "periodic")), {"attention": (0, 2), "input_channels": 3, "blocks": 2}),
        (Grid((4, 5, 6)), {"attention": (1,), "extra_channels": 2, "scalars": 2}),
    ],
)
def test_cost_is_that_of_every_layer(grid: Grid, arguments: dict[str, int]) -> None:
    net = UNet(grid, 2, width=8, **arguments)  # pyright: ignore[reportArgumentType]
    found = cost(lambda: UNet(grid, 2, width=8, **arguments), grid, net.input_channels)  # pyright: ignore[reportArgumentType]
    assert found.parameters == sum(p.numel() for p in net.parameters())
    assert found.multiply_adds == by_hand(net)
    assert found.per_cell == found.multiply_adds / grid.size


@pytest.mark.parametrize("shape", [(256,), (64, 64), (32, 32, 32)])
def test_each_preset_is_several_times_the_one_before(shape: tuple[int, ...]) -> None:
    grid = Grid(shape)
    costs = [cost(lambda name=name: preset(name, grid, 1), grid, 1).per_cell for name in PRESETS]
    assert list(PRESETS) == ["tiny", "small", "base", "large"]
    ratios = [b / a for a, b in pairwise(costs)]
    print(ratios)
    assert all(4 < ratio < 12 for ratio in ratios)
    # In the plane 26,000: a step with 16 fields of 64² took one core 0.11 s.
    assert costs[0] < 6e4


def test_preset_is_its_table_and_what_is_given() -> None:
    grid = Grid((6, 5), boundary="neumann")
    net = preset("tiny", grid, 2, dropout=0.1, scalars=3, seed=5)
    same = UNet(grid, 2, width=16, multipliers=(1, 2, 2), blocks=1, dropout=0.1, scalars=3, seed=5)
    wanted = same.state_dict()
    assert net.state_dict().keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in net.state_dict().items())
    assert preset("small", grid, 1, width=8, multipliers=(1, 2), attention=()).lift.convolution.out_channels == 8
    with pytest.raises(ValueError, match=r"no preset 'smal' of the U-Net. Did you mean 'small'\?"):
        preset("smal", grid, 1)


def test_command_lists_presets_with_their_cost(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "physdiff.commands.networks.PRESETS", {"unet": {"base": PRESETS["base"]}, "transformer": {"tiny": {}}}
    )
    networks("12,10", channels=2)
    lines = capsys.readouterr().out.splitlines()
    found = cost(lambda: preset("base", Grid((12, 10)), 2), Grid((12, 10)), 2)
    assert lines[1] == "12 x 10 cells, 2 channels"
    (row,) = [line.split() for line in lines if line.startswith("unet") and "base" in line]
    assert row[:3] == ["unet", "base", "64"]
    assert row[-4:] == [f"{found.parameters / 1e6:.3g}", "M", f"{found.per_cell / 1e6:.3g}", "M"]
    monkeypatch.setattr("physdiff.commands.networks.PRESETS", {"unet": {"tiny": PRESETS["tiny"]}})
    networks()
    assert [line for line in capsys.readouterr().out.splitlines() if "cells, " in line] == [
        "256 cells, 1 channel", "64 x 64 cells, 1 channel", "32 x 32 x 32 cells, 1 channel"
    ]  # fmt: skip


@pytest.mark.parametrize("shape", [(1,), (2, 3), (3, 1, 2)])
def test_a_preset_of_more_levels_than_the_grid_has_cells_is_a_network(shape: tuple[int, ...]) -> None:
    """Its coarsest levels are of one cell, and all of it learns."""
    grid = Grid(shape, boundary="neumann")
    net = preset("base", grid, 1, width=8)
    x, t = torch.randn(2, 1, *shape, generator=torch.Generator().manual_seed(0)), torch.tensor([0.2, 0.7])
    with torch.no_grad():
        net.last.convolution.weight.normal_(generator=torch.Generator().manual_seed(1))
    net(x, t).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert all(p.grad is not None and p.grad.any() for p in net.up.parameters() if p.ndim > 1)


def test_command_lists_grids_smaller_than_a_patch(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("physdiff.commands.networks.PRESETS", {"transformer": {"tiny": {}}})
    networks("2,1")
    networks("8,8,2")
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("transformer")]
    assert "patches of 2" in said[0] and "patches of 4" in said[1]


@pytest.mark.parametrize(
    ("grid", "channels", "message"),
    [
        ("7,x", 1, r"as in 64,64; got '7,x'"),
        ("0", 1, r"as in 64,64; got '0'"),
        ("8", 0, r"channels must be at least 1; got 0"),
        ("2,2,2,2", 1, "grids of 1 to 3 axes"),
    ],
)
def test_unfit_grids_are_refused(grid: str, channels: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        networks(grid, channels)
