"""What the U-Net is told: every part counts where it is told, and nothing of it where it is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from physdiff.condition import Condition
from physdiff.grid import Grid
from physdiff.networks import UNet
from physdiff.networks.embedding import ScalarEmbedding

torch.set_num_threads(1)

GRID = Grid((6, 5), boundary=("periodic", "neumann"))
T = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
ALL: dict[str, int] = {"condition_channels": 2, "scalars": 3, "classes": 4}
OPTION = {"fields": "condition_channels", "scalars": "scalars", "classes": "classes"}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X = draw(3, 1, 6, 5)


def trained(**arguments: Any) -> UNet:
    """A U-Net in float64 with weights of order one everywhere."""
    net = UNet(GRID, 1, width=4, multipliers=(1, 2), **arguments).double()
    with torch.no_grad():
        for seed, parameter in enumerate(net.parameters()):
            parameter.add_(0.2 * draw(*parameter.shape, seed=seed))
    return net


def told(seed: int = 1, present: list[bool] | None = None) -> Condition:
    classes = torch.tensor([0, 3, 1]) if seed == 1 else torch.tensor([1, 2, 0])
    return Condition(
        draw(3, 2, 6, 5, seed=seed), draw(3, 3, seed=seed), classes, None if present is None else torch.tensor(present)
    )


def test_untold_rows_do_not_depend_on_the_condition() -> None:
    net = trained(**ALL)
    nothing = net(X, T)
    assert torch.equal(net(X, T, told(1, [False] * 3)), nothing)
    wild = told(2, [False] * 3)
    assert wild.fields is not None and wild.scalars is not None
    wild.fields.fill_(torch.nan)
    wild.scalars.fill_(torch.inf)
    # Not by a product with zero: nothing that stands in an untold row gets through, nor spoils a gradient.
    y = net(X, T, wild)
    assert torch.equal(y, nothing)
    y.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


def test_rows_are_told_one_by_one() -> None:
    net = trained(**ALL)
    mixed = net(X, T, told(1, [True, False, True]))
    whole, nothing = net(X, T, told(1)), net(X, T)
    torch.testing.assert_close(mixed[::2], whole[::2], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mixed[1], nothing[1], rtol=1e-12, atol=1e-12)
    assert (whole - nothing).flatten(1).norm(dim=1).min() > 1e-2 * nothing.norm()


@pytest.mark.parametrize("part", ["fields", "scalars", "classes"])
def test_every_part_counts_and_a_missing_one_is_not_told(part: str) -> None:
    net = trained(**ALL)
    without = replace(told(1), **{part: None})
    other = net(X, T, replace(told(1), **{part: getattr(told(2), part)}))
    one = net(X, T, told(1))
    lacking = net(X, T, without)
    for a, b in ((one, other), (one, lacking), (other, lacking)):
        assert (a - b).flatten(1).norm(dim=1).min() > 1e-3 * one.norm()
    # What stands for a missing part is its own vector, and that of no other part.
    gradients = torch.autograd.grad(lacking.square().sum(), list(net.conditioning.absent.values()))
    used = {name for name, g in zip(net.conditioning.absent, gradients, strict=True) if g.abs().max() > 0}
    assert used == {part}
    # A network that has no other part answers as with None.
    alone = trained(**{OPTION[part]: ALL[OPTION[part]]})
    only = Condition(**{part: getattr(told(1), part)})
    torch.testing.assert_close(
        alone(X, T, only.told(torch.zeros(3, dtype=torch.bool))), alone(X, T), rtol=1e-12, atol=1e-12
    )
    assert (alone(X, T, only) - alone(X, T)).norm() > 1e-3 * one.norm()


def test_fields_of_zeros_are_told_and_a_tensor_is_fields() -> None:
    net = trained(condition_channels=2)
    fields = told().fields
    assert fields is not None
    assert torch.equal(net(X, T, fields), net(X, T, Condition(fields)))
    # Single precision in, the network's own inside.
    torch.testing.assert_close(net(X, T, fields.float()), net(X, T, fields), rtol=1e-5, atol=1e-5)
    zeros = torch.zeros_like(fields)
    assert (net(X, T, zeros) - net(X, T)).norm() > 1e-3 * net(X, T).norm()


def test_every_parameter_has_a_gradient_whatever_is_told() -> None:
    """A distributed run waits for all of them."""
    net = trained(**ALL)
    parts = told(1)
    cases: list[Condition | None] = [None, parts, told(1, [True, False, True])]
    cases += [replace(parts, **{part: None}) for part in OPTION]
    for condition in cases:
        net.zero_grad()
        net(X, T, condition).square().sum().backward()
        assert [name for name, p in net.named_parameters() if p.grad is None] == []


def test_a_whitened_copy_is_input_and_never_dropped() -> None:
    net = trained(input_channels=2, **ALL)
    x, other = draw(3, 2, 6, 5), torch.cat((draw(3, 1, 6, 5), draw(3, 1, 6, 5, seed=9)), 1)
    x[:, 0] = other[:, 0]
    assert net(x, T).shape == (3, 1, 6, 5)
    assert (net(x, T) - net(other, T)).norm() > 1e-2 * net(x, T).norm()
    # Weights from when the copy was a condition fit as they are.
    plain = UNet(GRID, 1, width=4, input_channels=2)
    assert plain.lift.convolution.weight.shape == (4, 2, 3, 3)
    assert not [name for name in plain.state_dict() if name.startswith("conditioning")]


def test_further_channels_come_after_the_fields() -> None:
    net, wide = trained(), trained(extra_channels=2)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            wide.get_parameter(name)[: len(parameter)] = parameter
    y = wide(X, T)
    assert y.shape == (3, 3, 6, 5)
    torch.testing.assert_close(y[:, :1], net(X, T), rtol=1e-12, atol=1e-12)
    assert y[:, 1:].norm() > 1e-2


def test_scalars_far_apart_and_close_together_are_told_apart() -> None:
    embedding = ScalarEmbedding(8, 1).double()
    captured: list[Tensor] = []
    embedding.perceptron.register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0]))
    s = torch.linspace(-4, 4, 801, dtype=torch.float64).unsqueeze(1)
    assert embedding(s).shape == (801, 8)
    features = captured[0]
    torch.testing.assert_close(features[:, :1], s, rtol=0, atol=0)
    distance = torch.cdist(features, features)
    # 0.01 apart, and no two alike however far: the longest wave has 16 units, the range 8.
    assert distance.diagonal(1).min() > 0.05
    assert distance[(s - s.T).abs() > 0.05].min() > 0.25


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (torch.zeros(3, 1, 6, 5), r"'fields' of a condition of shape \(3, 2, 6, 5\); got \(3, 1, 6, 5\)"),
        (torch.zeros(3, 2, 6, 4), r"'fields' of a condition of shape \(3, 2, 6, 5\); got \(3, 2, 6, 4\)"),
        (Condition(scalars=torch.zeros(3, 2)), r"'scalars' of a condition of shape \(3, 3\); got \(3, 2\)"),
        (Condition(classes=torch.zeros(2, dtype=torch.int64)), r"'classes' .* of shape \(3,\); got \(2,\)"),
        (Condition(classes=torch.tensor([0, 4, 1])), "knows the classes 0 to 3; got 4"),
        (Condition(classes=torch.tensor([0, -1, 1])), "knows the classes 0 to 3; got -1"),
    ],
)
def test_unfit_conditions_are_refused(condition: Condition | Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trained(**ALL)(X, T, condition)


@pytest.mark.parametrize("part", ["fields", "scalars", "classes"])
def test_parts_that_a_network_was_built_without_are_refused(part: str) -> None:
    others = {option: count for option, count in ALL.items() if option != OPTION[part]}
    with pytest.raises(ValueError, match=f"built without {OPTION[part]}, but was given a condition by {part}"):
        trained(**others)(X, T, told(1))
