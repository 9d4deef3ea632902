"""What makes the U-Net fast or small changes no number: writing in place, checkpoints, memory order, compilation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from physdiff.condition import Condition
from physdiff.grid import Boundary, Grid
from physdiff.networks import UNet, padding
from physdiff.networks.blocks import ResidualBlock, coarsened, repeated
from physdiff.networks.padding import pad

torch.set_num_threads(1)

CASES: list[tuple[tuple[int, ...], tuple[Boundary, ...], int]] = [
    ((4,), ("periodic",), 1),
    ((5,), ("dirichlet",), 3),
    ((3, 4), ("periodic", "periodic"), 2),
    ((4, 3), ("neumann", "dirichlet"), 3),
    ((1, 3), ("dirichlet", "periodic"), 1),
    ((2, 3, 4), ("dirichlet", "periodic", "neumann"), 2),
]


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def padded(x: Tensor, boundary: tuple[Boundary, ...], width: int, large: int, monkeypatch: Any) -> Tensor:
    with monkeypatch.context() as patch:
        patch.setattr(padding, "LARGE", large)
        return pad(x, boundary, width)


@pytest.mark.parametrize(("shape", "boundary", "width"), CASES)
def test_padding_large_fields_is_padding_small_ones(
    shape: tuple[int, ...], boundary: tuple[Boundary, ...], width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = draw(2, 2, *shape)
    y = padded(x, boundary, width, 10**9, monkeypatch)
    assert torch.equal(padded(x, boundary, width, 0, monkeypatch), y)
    cotangent, n = draw(*y.shape, seed=1), x.numel()

    def by(large: int) -> Callable[[Tensor], Tensor]:
        return lambda x: padded(x, boundary, width, large, monkeypatch)

    joined = torch.func.vjp(by(10**9), x)[1](cotangent)[0]
    written = torch.func.vjp(by(0), x)[1](cotangent)[0]
    # The same sums of at most 2^d terms for each copy, in another order.
    torch.testing.assert_close(written, joined, rtol=1e-13, atol=1e-13)
    # Its transpose, and its derivatives of every kind.
    torch.testing.assert_close((cotangent * y).sum(), (written * x).sum(), rtol=1e-12, atol=1e-12)
    tangent = draw(*x.shape, seed=2)
    assert torch.equal(torch.func.jvp(by(0), (x,), (tangent,))[1], padded(tangent, boundary, width, 0, monkeypatch))
    basis = torch.eye(n, dtype=torch.float64).reshape(n, *x.shape)
    columns = torch.func.vmap(lambda v: torch.func.jvp(by(0), (x,), (v,))[1])(basis)
    matrix = torch.autograd.functional.jacobian(by(0), x)
    assert isinstance(matrix, Tensor)
    assert torch.equal(columns.reshape(n, -1).T, matrix.reshape(-1, n))
    rows = torch.func.vmap(torch.func.vjp(by(0), x)[1])(torch.stack((cotangent, 2 * cotangent)))[0]
    torch.testing.assert_close(rows, torch.stack((written, 2 * written)), rtol=1e-13, atol=1e-13)
    x.requires_grad_()
    cubed = by(0)(x).pow(3)
    both = torch.stack((cotangent, -2 * cotangent))
    together = torch.autograd.grad(cubed, x, both, is_grads_batched=True, retain_graph=True)[0]
    alone = [torch.autograd.grad(cubed, x, one, retain_graph=True)[0] for one in both]
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-13, atol=1e-13)
    torch.autograd.gradgradcheck(lambda x: by(0)(x).pow(3), (x,))


def test_padding_keeps_the_order_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    x = draw(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    for large in (0, 10**9):
        y = padded(x, ("periodic", "dirichlet"), 1, large, monkeypatch)
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(y, padded(x.contiguous(), ("periodic", "dirichlet"), 1, large, monkeypatch))


@pytest.mark.parametrize("shape", [(8,), (7,), (1,), (4, 6), (5, 4), (1, 3), (4, 2, 6), (3, 2, 1)])
def test_levels_are_averages_of_pairs_and_repetitions(shape: tuple[int, ...]) -> None:
    """In float32 on a CPU both are convolutions; in float64 they are torch's own; a third way is by hand."""
    x = draw(2, 3, *shape, dtype=torch.float32)
    wide, coarse = x.double(), x.double()
    for axis in range(2, x.ndim):
        pairs = coarse.split(2, axis)
        coarse = torch.cat([pair.mean(axis, keepdim=True) for pair in pairs], axis)
    # Rounding of a sum of eight numbers of order one.
    torch.testing.assert_close(coarsened(x).double(), coarse, rtol=0, atol=5e-7)
    torch.testing.assert_close(coarsened(wide), coarse, rtol=0, atol=1e-15)
    small = coarsened(x)
    back = small
    for axis, n in enumerate(shape, 2):
        back = back.repeat_interleave(2, axis).narrow(axis, 0, n)
    assert torch.equal(repeated(small, shape), back)
    assert torch.equal(repeated(small.double(), shape), back.double())


def test_plain_operations_average_and_repeat_to_the_same_bits() -> None:
    x = draw(3, 5, 8, 6, dtype=torch.float32)
    assert torch.equal(coarsened(x), F.avg_pool2d(x, 2))
    assert torch.equal(repeated(x, (16, 12)), F.interpolate(x, scale_factor=2, mode="nearest"))


def network(small: bool = False, **arguments: Any) -> UNet:
    """With weights of order one in the last layer too."""
    size: dict[str, Any] = {"width": 8, "blocks": 2, "attention": (1, 2)}
    if small:
        size = {"width": 4, "multipliers": (1, 2), "attention": (1,)}
    net = UNet(Grid((8, 7), boundary=("periodic", "neumann")), 2, scalars=2, **size, **arguments)
    with torch.no_grad():
        net.last.convolution.weight.copy_(0.1 * draw(*net.last.convolution.weight.shape))
    return net


X, T = draw(3, 2, 8, 7, dtype=torch.float32), torch.tensor([0.1, 0.5, 0.9])
TOLD = Condition(scalars=draw(3, 2, dtype=torch.float32), present=torch.tensor([True, False, True]))


def gradients(net: UNet, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Output, and the gradient of a loss by every parameter; what is dropped is drawn from one seed."""
    net.zero_grad()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        y = net(x, T, TOLD)
        y.square().mean().backward()
    return y.detach(), {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def test_checkpointing_changes_memory_and_nothing_else() -> None:
    plain, frugal = network(dropout=0.3), network(dropout=0.3, checkpointing=True)
    (y, wanted), (z, found) = gradients(plain, X), gradients(frugal, X)
    assert torch.equal(y, z) and found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-8)
    # The test can fail: without dropout's noise the gradients are others.
    assert not torch.equal(gradients(plain.eval(), X)[0], y)

    def held(net: UNet) -> int:
        """Bytes between the ways forward and back: what autograd saves, and what goes into blocks that save nothing."""
        kept: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        blocks = [block for block in net.modules() if isinstance(block, ResidualBlock)]
        handles = [b.register_forward_pre_hook(lambda _, inputs: (note(inputs[0]), None)[1]) for b in blocks]
        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            y = net.train()(X, T, TOLD)
        for handle in handles:
            handle.remove()
        del y
        for p in net.parameters():
            kept.pop(p.untyped_storage().data_ptr(), None)
        return sum(kept.values())

    kept, all_of_it = held(frugal), held(plain)
    print(f"kept {kept} of {all_of_it} bytes")
    assert kept < 0.35 * all_of_it
    # Sampling and likelihoods are as they were: a derivative by the input, of any kind.
    x = X.double()
    tangent = draw(*x.shape, seed=5)
    plain, frugal = plain.double().eval(), frugal.double().eval()
    ahead = [torch.func.jvp(lambda x, f=f: f(x, T.double(), TOLD), (x,), (tangent,))[1] for f in (plain, frugal)]
    assert torch.equal(*ahead)


def test_checkpointing_gives_way_to_the_transforms_of_torch_func() -> None:
    """In training too, by the input and by the weights; torch's own checkpoints fail under each of these."""
    plain, frugal = (network(small=True, checkpointing=again).double() for again in (False, True))
    x, t, told = X.double(), T.double(), TOLD.to(torch.float64)
    weights = {name: p.detach() for name, p in plain.named_parameters()}

    def by_input(net: UNet) -> Tensor:
        return torch.func.vjp(lambda x: net(x, t, told), x)[1](x)[0]

    def by_weights(net: UNet) -> Tensor:
        loss = lambda w: torch.func.functional_call(net, w, (x, t, told)).square().sum()  # noqa: E731
        return torch.cat([g.flatten() for g in torch.func.grad(loss)(weights).values()])

    def of_a_tangent(net: UNet) -> Tensor:
        net.zero_grad()
        torch.func.jvp(lambda x: net(x, t, told), (x,), (x,))[1].square().sum().backward()
        return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])

    for act in (by_input, by_weights, of_a_tangent):
        found, wanted = act(frugal.train()), act(plain.train())
        assert wanted.abs().max() > 1e-3
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)


def test_channels_last_is_another_order_in_memory_alone() -> None:
    y, wanted = gradients(network(), X)
    last = network().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    z, found = gradients(last, X.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(z, y, rtol=1e-4, atol=1e-5)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5)


def test_bfloat16_under_autocast_stays_near_float32() -> None:
    net = network()
    with torch.autocast("cpu", torch.bfloat16):
        y = net(X, T, TOLD)
    wanted = net(X, T, TOLD)
    # Measured 0.007: 2^-8 of rounding through ten layers.
    assert 0 < (y - wanted).norm() / wanted.norm() < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_network_is_the_network(backend: str) -> None:
    """In one graph, forward and back: nothing in it depends on what the tensors hold."""
    net, x = network(small=True).double(), X.double()
    y, wanted = gradients(net, x)
    compiled = torch.compile(net, fullgraph=True, backend=backend)
    net.zero_grad()
    z = compiled(x, T, TOLD)
    # Rounding in float64, in another order.
    torch.testing.assert_close(z, y, rtol=1e-10, atol=1e-12)
    z.square().mean().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(p.grad, wanted[name], rtol=1e-10, atol=1e-12)
