"""The U-Net: what it sees beyond the edges, its symmetries, its sizes, and its derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from physdiff.condition import Condition
from physdiff.grid import Boundary, Grid
from physdiff.networks import Convolution, TimeEmbedding, UNet, pad

# A second thread only waits at tensors of this size, and ten times longer on a busy machine.
torch.set_num_threads(1)

WORDS: tuple[Boundary, ...] = ("periodic", "neumann", "dirichlet")
# Odd, prime, one and even sizes in one, two and three dimensions, with every boundary and mixtures.
SIZES = [
    ((7,), "neumann"),
    ((1,), "periodic"),
    ((13,), "dirichlet"),
    ((5, 3), ("periodic", "dirichlet")),
    ((1, 6), ("neumann", "periodic")),
    ((3, 1, 4), ("dirichlet", "periodic", "neumann")),
]


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def trained(grid: Grid, channels: int = 1, **kwargs: Any) -> UNet:
    """A U-Net in float64 with weights of order one everywhere, the last layer's included."""
    net = UNet(grid, channels, width=4, multipliers=(1, 2, 2), **kwargs).double()
    with torch.no_grad():
        for seed, parameter in enumerate(net.parameters()):
            parameter.add_(0.2 * draw(*parameter.shape, seed=seed, dtype=torch.float64))
    return net


def extended(x: np.ndarray, boundary: Sequence[str], width: int) -> np.ndarray:
    """`pad` by another route: numpy's modes, and for the odd mirror the sequence x, −x reversed, repeated."""
    for axis, word in enumerate(boundary, start=x.ndim - len(boundary)):
        n = x.shape[axis]
        widths = [(width, width) if a == axis else (0, 0) for a in range(x.ndim)]
        if word == "dirichlet":
            period = np.concatenate([x, -np.flip(x, axis)], axis)
            x = np.take(period, np.arange(-width, n + width) % (2 * n), axis)
        else:
            x = np.pad(x, widths, mode="wrap" if word == "periodic" else "symmetric")
    return x


@pytest.mark.parametrize("width", [0, 1, 2, 5, 11])
@pytest.mark.parametrize(
    ("shape", "boundary"),
    [((4,), (word,)) for word in WORDS]
    + [((1, 3), pair) for pair in (("periodic", "neumann"), ("neumann", "dirichlet"), ("dirichlet",) * 2)]
    + [((2, 3, 4), ("dirichlet", "periodic", "neumann"))],
)
def test_pad_is_the_boundarys_extension(shape: tuple[int, ...], boundary: tuple[Boundary, ...], width: int) -> None:
    x = draw(2, 3, *shape)
    np.testing.assert_array_equal(pad(x, boundary, width).numpy(), extended(x.numpy(), boundary, width))


def test_even_convolution_of_a_clamped_field_stays_clamped() -> None:
    n = 16
    convolution = Convolution(Grid(n, boundary="dirichlet"), 1, 1, size=5).double()
    weight = convolution.convolution.weight
    with torch.no_grad():
        weight.copy_((weight + weight.flip(-1)) / 2)
    mode = torch.sin(3 * torch.pi * (torch.arange(n, dtype=torch.float64) + 0.5) / n).reshape(1, 1, n)
    y = convolution(mode)
    # A sine that vanishes on both walls is an eigenvector, edge cells included.
    torch.testing.assert_close(y / mode, (y / mode).mean().expand_as(y), rtol=1e-12, atol=0)


@pytest.mark.parametrize("attention", [(), (0, 1, 2)])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_periodic_network_commutes_with_shifts_by_its_stride(ndim: int, attention: tuple[int, ...]) -> None:
    grid = Grid((8, 12, 4)[:ndim])
    net = trained(grid, attention=attention)
    x, t = draw(2, 1, *grid.shape, dtype=torch.float64), torch.tensor([0.1, 0.8], dtype=torch.float64)
    y = net(x, t)
    for axis in range(2, 2 + ndim):
        # Sums in another order, and nothing else: measured 2.4e-15.
        assert (net(x.roll(4, axis), t) - y.roll(4, axis)).abs().max() < 1e-13 * y.abs().max()
    # The test can fail: half a stride does not commute.
    assert (net(x.roll(2, 2), t) - y.roll(2, 2)).norm() > 1e-3 * y.norm()


@pytest.mark.parametrize("attention", [(), (0, 1, 2)])
def test_insulated_network_is_the_periodic_one_on_the_mirrored_field(attention: tuple[int, ...]) -> None:
    # Of twice as many cells, each beside its image, attention takes the same average.
    insulated = trained(Grid((8, 12), boundary=("neumann", "periodic")), attention=attention)
    with torch.no_grad():
        for name, parameter in insulated.named_parameters():
            if parameter.ndim == 4:
                # Only a network of even kernels keeps the mirror image a mirror image.
                insulated.get_parameter(name).copy_((parameter + parameter.flip(2)) / 2)
    doubled = trained(Grid((16, 12)), attention=attention)
    doubled.load_state_dict(insulated.state_dict())
    x, t = draw(2, 1, 8, 12, dtype=torch.float64), torch.tensor([0.2, 0.7], dtype=torch.float64)
    expected = doubled(torch.cat((x, x.flip(2)), dim=2), t)[:, :, :8]
    torch.testing.assert_close(insulated(x, t), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", [(7,), (2,), (5, 3), (9, 1), (3, 2, 5)])
def test_insulated_network_maps_constants_to_constants_at_any_size(shape: tuple[int, ...]) -> None:
    net = trained(Grid(shape, boundary="neumann"))
    y = net(torch.full((1, 1, *shape), 1.7, dtype=torch.float64), torch.tensor([0.4], dtype=torch.float64))
    assert y.abs().max() > 1e-3
    torch.testing.assert_close(y, y.mean().expand_as(y), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("shape", "boundary"), SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_untrained_network_is_exactly_zero(
    shape: tuple[int, ...], boundary: str | tuple[str, ...], dtype: torch.dtype
) -> None:
    net = UNet(Grid(shape, boundary=boundary), 2, width=8, blocks=2, attention=(2,), extra_channels=1, seed=3).to(dtype)
    x = draw(3, 2, *shape, dtype=dtype)
    y = net(x, torch.rand(3, generator=torch.Generator(), dtype=dtype))
    assert torch.equal(y, torch.zeros(3, 3, *shape, dtype=dtype))


@pytest.mark.parametrize(("shape", "boundary"), SIZES)
def test_functional_transforms_give_the_autograd_jacobian(
    shape: tuple[int, ...], boundary: str | tuple[str, ...]
) -> None:
    grid = Grid(shape, boundary=boundary)
    net, x = trained(grid, attention=(0, 2)), draw(1, *shape, dtype=torch.float64)
    time = torch.tensor([0.3], dtype=torch.float64)

    def field(x: Tensor) -> Tensor:
        return net(x.unsqueeze(0), time).squeeze(0)

    def by_vjp(cotangent: Tensor) -> Tensor:
        return torch.func.vjp(field, x)[1](cotangent)[0]

    def by_jvp(tangent: Tensor) -> Tensor:
        return torch.func.jvp(field, (x,), (tangent,))[1]

    expected = torch.autograd.functional.jacobian(field, x)
    assert isinstance(expected, Tensor)
    expected = expected.reshape(grid.size, grid.size)
    basis = torch.eye(grid.size, dtype=torch.float64).reshape(grid.size, 1, *shape)
    rows = torch.func.vmap(by_vjp)(basis).reshape(grid.size, grid.size)
    columns = torch.func.vmap(by_jvp)(basis).reshape(grid.size, grid.size)
    assert expected.abs().amax() > 1e-3
    torch.testing.assert_close(rows, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(columns.T, expected, rtol=1e-10, atol=1e-12)


def test_second_derivatives_are_right() -> None:
    net = trained(Grid((3, 4), boundary=("neumann", "periodic")), attention=(1,))
    x = draw(1, 1, 3, 4, dtype=torch.float64).requires_grad_()
    time = torch.tensor([0.6], dtype=torch.float64)
    torch.autograd.gradgradcheck(lambda x: net(x, time), (x,))


def test_every_parameter_learns_once_the_last_layer_has_left_zero() -> None:
    net = UNet(
        Grid((6, 5), boundary=("periodic", "dirichlet")), 2, width=8, blocks=2, condition_channels=1, scalars=2,
        classes=3, attention=(0, 2), heads=2,
    )  # fmt: skip
    x, t = draw(4, 2, 6, 5), torch.linspace(0, 1, 4)
    told = Condition(draw(4, 1, 6, 5, seed=1), draw(4, 2, seed=2), torch.arange(4) % 3, torch.arange(4) < 3)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        (net(x, t, told) - x).square().mean().backward()
        optimiser.step()
    still = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().amax() > 0]
    assert still == []


def test_samples_do_not_see_each_other_and_time_and_condition_count() -> None:
    net = trained(Grid((6, 4)), channels=2, condition_channels=3)
    x, condition = (draw(3, c, 6, 4, seed=c, dtype=torch.float64) for c in (2, 3))
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    y = net(x, t, condition)
    torch.testing.assert_close(net(x[1:2], t[1:2], condition[1:2]), y[1:2], rtol=1e-10, atol=1e-12)
    assert (net(x, t.flip(0), condition) - y)[0].norm() > 1e-2 * y[0].norm()
    assert (net(x, t, condition.flip(0)) - y)[0].norm() > 1e-2 * y[0].norm()
    plain = trained(Grid((6, 4)), channels=2)
    torch.testing.assert_close(plain(x[1:2], t[1:2]), plain(x, t)[1:2], rtol=1e-10, atol=1e-12)


def test_embedding_tells_close_times_apart_and_far_ones_too() -> None:
    features = TimeEmbedding(8).double()
    captured: list[Tensor] = []
    features.perceptron.register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0]))
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    assert features(t).shape == (1001, 8)
    # Each sine has its cosine.
    torch.testing.assert_close(captured[0].square().sum(1), torch.full_like(t, 16), rtol=1e-12, atol=0)
    distance = torch.cdist(captured[0], captured[0]) / captured[0].norm(dim=1, keepdim=True)
    assert distance.diagonal(1).min() > 0.03
    assert distance[(t - t.unsqueeze(1)).abs() > 0.005].min() > 0.1


def test_seed_alone_fixes_the_weights() -> None:
    before = torch.random.get_rng_state()
    a = UNet(Grid(8), 1, width=4, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        b, c = (UNet(Grid(8), 1, width=4, seed=seed).state_dict() for seed in (1, 2))
    assert all(torch.equal(value, b[name]) for name, value in a.state_dict().items())
    assert not torch.equal(b["lift.convolution.weight"], c["lift.convolution.weight"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 0}, "channels of at least 1; got 0"),
        ({"width": 2}, "width of at least 4; got 2"),
        ({"blocks": 0}, "blocks of at least 1; got 0"),
        ({"embedding": 0}, "embedding of at least 1; got 0"),
        ({"condition_channels": -1}, "condition_channels of at least 0; got -1"),
        ({"scalars": -1}, "scalars of at least 0; got -1"),
        ({"classes": -2}, "classes of at least 0; got -2"),
        ({"extra_channels": -1}, "extra_channels of at least 0; got -1"),
        ({"input_channels": 0}, "input_channels of at least 1; got 0"),
        ({"heads": 0}, "heads of at least 1; got 0"),
        ({"attention": (3,)}, r"from 0, the finest, to 2; got \(3,\)"),
        ({"attention": (0, -1)}, r"from 0, the finest, to 2; got \(0, -1\)"),
        ({"attention": (1,), "heads": 3}, "heads must divide the 64 features of level 1; got 3"),
        ({"multipliers": ()}, "one multiplier of at least 1 per level"),
        ({"dropout": 1.0}, r"probability in \[0, 1\); got 1.0"),
        ({"grid": Grid((2, 2, 2, 2))}, "grids of 1 to 3 axes; got 4"),
    ],
)
def test_unfit_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNet(**{"grid": Grid(8), "channels": 1, **arguments})


def test_unfit_shapes_are_refused() -> None:
    net, t = UNet(Grid((8, 4)), 2, width=4, condition_channels=1), torch.zeros(3)
    x, condition = torch.zeros(3, 2, 8, 4), torch.zeros(3, 1, 8, 4)
    with pytest.raises(ValueError, match=r"x of shape \(3, 2, 8, 4\); got \(3, 1, 8, 4\)"):
        net(condition, t, condition)
    with pytest.raises(ValueError, match=r"time of shape \(3,\); got \(\)"):
        net(x, torch.tensor(0.5), condition)
    with pytest.raises(ValueError, match=r"x of shape \(3, 3, 8, 4\); got \(3, 2, 8, 4\)"):
        UNet(Grid((8, 4)), 2, width=4, input_channels=3)(x, t)
