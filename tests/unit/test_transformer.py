"""The diffusion transformer: its patches, its symmetry, what it knows of walls, and its derivatives."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from physdiff.condition import Condition
from physdiff.grid import Boundary, Grid
from physdiff.networks import DiffusionTransformer, pad
from physdiff.networks.fitting import cropped, fitted
from physdiff.networks.positions import Rotary, whole_frequencies

torch.set_num_threads(1)

ROUNDING = 1e-13  # of a norm; 5e-16 was measured, and sums of up to 100 terms round elsewhere in another order
CASES = [
    (Grid((12,)), 4),
    (Grid((8, 12)), (2, 4)),
    (Grid((4, 6, 4)), 2),
    (Grid((8, 7), boundary=("periodic", "neumann")), 2),
    (Grid((5, 6), boundary=("dirichlet", "periodic")), 3),
]
every_case = pytest.mark.parametrize(("grid", "patch"), CASES, ids=lambda v: str(getattr(v, "shape", v)))


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def trained(grid: Grid, patch: Any = 2, channels: int = 1, **settings: Any) -> DiffusionTransformer:
    """A transformer in float64 with weights of order one everywhere."""
    net = DiffusionTransformer(grid, channels, patch, width=24, depth=2, heads=2, **settings).double()
    with torch.no_grad():
        for seed, parameter in enumerate(net.parameters()):
            parameter.add_(0.2 * draw(*parameter.shape, seed=seed))
    return net


@every_case
def test_untrained_network_is_exactly_zero(grid: Grid, patch: Any) -> None:
    net = DiffusionTransformer(grid, 2, patch, width=24, heads=2, depth=2, extra_channels=1, input_channels=4, seed=3)
    x = draw(3, 4, *grid.shape, dtype=torch.float32)
    assert torch.equal(net(x, torch.rand(3, generator=torch.Generator())), torch.zeros(3, 3, *grid.shape))


@every_case
def test_shifts_by_patches_along_periodic_axes_commute_with_the_network(grid: Grid, patch: Any) -> None:
    net, x, t = trained(grid, patch), draw(2, 1, *grid.shape), torch.tensor([0.1, 0.8], dtype=torch.float64)
    y = net(x, t)
    for axis, (p, word) in enumerate(zip(net.patch, grid.boundary, strict=True), 2):
        if word == "periodic":
            assert (net(x.roll(p, axis), t) - y.roll(p, axis)).norm() < ROUNDING * y.norm()
            # The test can fail: one cell is no whole patch.
            assert (net(x.roll(1, axis), t) - y.roll(1, axis)).norm() > 0.1 * y.norm()
        else:
            assert (net(x.roll(p, axis), t) - y.roll(p, axis)).norm() > 0.1 * y.norm()


def test_a_cast_to_low_precision_and_back_leaves_the_symmetry() -> None:
    net = trained(Grid(28), 4).to(torch.bfloat16).double()
    x, t = draw(1, 1, 28), torch.tensor([0.4], dtype=torch.float64)
    y = net(x, t)
    assert (net(x.roll(8, 2), t) - y.roll(8, 2)).norm() < ROUNDING * y.norm()


def test_walls_are_felt_and_a_periodic_axis_is_the_same_everywhere() -> None:
    net = trained(Grid((8, 12), boundary=("neumann", "periodic")))
    y = net(torch.ones(1, 1, 8, 12, dtype=torch.float64), torch.tensor([0.4], dtype=torch.float64))
    patches = y.reshape(4, 2, 6, 2).permute(0, 2, 1, 3).reshape(4, 6, 4)
    along = (patches - patches[:, :1]).abs().amax()
    across = (patches[:, 0].unsqueeze(0) - patches[:, 0].unsqueeze(1)).norm(dim=-1) + torch.eye(4)
    assert along < ROUNDING * y.abs().amax()
    assert across.amin() > 0.05 * patches[:, 0].norm(dim=-1).mean()  # each distance from the wall has its own answer


@pytest.mark.parametrize("words", [("periodic", "neumann"), ("dirichlet", "periodic"), ("neumann", "dirichlet")])
def test_added_cells_are_those_beyond_the_boundary(words: tuple[Boundary, ...]) -> None:
    x = draw(2, 3, 5, 7)
    larger = fitted(x, words, (4, 5))
    assert larger.shape == (2, 3, 8, 10)
    # 3 cells along either axis: 1 before and 2 behind.
    assert torch.equal(larger, pad(x, words, 3)[:, :, 2:10, 2:12])
    assert torch.equal(cropped(larger, (5, 7)), x)
    assert fitted(x, words, (5, 7)) is x


@every_case
def test_a_token_is_the_cells_of_its_patch(grid: Grid, patch: Any) -> None:
    net = trained(grid, patch, channels=2)
    x = draw(2, 2, *grid.shape)
    tokens, whole = net._patches(x), fitted(x, grid.boundary, net.patch)
    for i, place in enumerate(itertools.product(*(range(n) for n in net.tokens))):
        cells = tuple(slice(k * p, (k + 1) * p) for k, p in zip(place, net.patch, strict=True))
        assert torch.equal(tokens[:, i], whole[(slice(None), slice(None), *cells)].flatten(1))
    assert torch.equal(net._fields(tokens), x)


@pytest.mark.parametrize(("n", "word"), [(7, "periodic"), (6, "neumann"), (2, "periodic"), (1, "dirichlet")])
def test_rotary_products_see_differences_of_position_alone(n: int, word: Boundary) -> None:
    """Against complex numbers: Re Σ_f q_f k̄_f e^{iθ_f(i − j)}, with i − j modulo n on a periodic axis."""
    rotary, (q, k) = Rotary((n,), (word,), 12), draw(2, 12)
    found = rotary(q.expand(n, 12), *rotary.angles(q.dtype)) @ rotary(k.expand(n, 12), *rotary.angles(q.dtype)).T
    waves = torch.tensor(whole_frequencies(n // 2 if word == "periodic" else n, 6))
    apart = torch.arange(n).unsqueeze(1) - torch.arange(n)
    apart = apart.remainder(n) if word == "periodic" else apart / 2
    turned = torch.polar(torch.ones(n, n, 6).double(), 2 * torch.pi * apart.double().unsqueeze(-1) * waves / n)
    expected = (torch.complex(q[:6], q[6:]) * torch.complex(k[:6], k[6:]).conj() * turned).sum(-1).real
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_frequencies_are_whole_different_and_span_the_range() -> None:
    for highest, count in itertools.product(range(41), range(1, 21)):
        found = whole_frequencies(highest, count)
        assert len(found) == count
        told = [f for f in found if f]
        assert told == sorted(set(told)) and len(told) == min(count, highest)
        assert all(1 <= f <= highest for f in told)
        assert count < 2 or not told or told[-1] == highest


def test_written_out_and_fused_attention_agree() -> None:
    net = trained(Grid((8, 6)))
    x, t = draw(2, 1, 8, 6), torch.tensor([0.2, 0.9], dtype=torch.float64)
    torch.testing.assert_close(net(x.requires_grad_(), t), net(x.detach(), t), rtol=1e-12, atol=1e-13)


@every_case
def test_functional_transforms_give_the_autograd_jacobian(grid: Grid, patch: Any) -> None:
    net, x, time = trained(grid, patch), draw(1, *grid.shape), torch.tensor([0.3], dtype=torch.float64)

    def field(x: Tensor) -> Tensor:
        return net(x.unsqueeze(0), time).squeeze(0)

    expected = torch.autograd.functional.jacobian(field, x)
    assert isinstance(expected, Tensor)
    expected = expected.reshape(grid.size, grid.size)
    basis = torch.eye(grid.size, dtype=torch.float64).reshape(grid.size, 1, *grid.shape)
    rows = torch.func.vmap(lambda e: torch.func.vjp(field, x)[1](e)[0])(basis)
    columns = torch.func.vmap(lambda e: torch.func.jvp(field, (x,), (e,))[1])(basis)
    assert expected.abs().amax() > 1e-3
    torch.testing.assert_close(rows.reshape(grid.size, -1), expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(columns.reshape(grid.size, -1).T, expected, rtol=1e-9, atol=1e-11)


def test_second_derivatives_are_right() -> None:
    net = trained(Grid((4, 3), boundary=("neumann", "periodic")), (2, 1))
    x, time = draw(1, 1, 4, 3).requires_grad_(), torch.tensor([0.6], dtype=torch.float64)
    torch.autograd.gradgradcheck(lambda x: net(x, time), (x,))


def test_every_parameter_learns_once_the_gates_have_left_zero() -> None:
    net = DiffusionTransformer(
        Grid((6, 5), boundary=("periodic", "dirichlet")), 2, 2, width=16, depth=2, heads=2, condition_channels=1,
        scalars=2, classes=3,
    )  # fmt: skip
    x, t = draw(4, 2, 6, 5, dtype=torch.float32), torch.linspace(0, 1, 4)
    told = torch.tensor([True, True, False, True])
    condition = Condition(
        draw(4, 1, 6, 5, seed=1).float(), draw(4, 2, seed=2).float(), torch.tensor([0, 1, 2, 2]), told
    )
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        (net(x, t, condition) - x).square().mean().backward()
        optimiser.step()
    still = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().amax() > 0]
    assert still == []


def test_it_learns_to_carry_a_patch_to_its_neighbour() -> None:
    """Only attention moves anything between patches, and only positions say which is the neighbour."""
    net = DiffusionTransformer(Grid(16), 1, 2, width=32, depth=1, heads=2, seed=1)
    optimiser = torch.optim.Adam(net.parameters(), 5e-3)
    losses = []
    for step in range(100):
        x = draw(16, 1, 16, seed=step, dtype=torch.float32)
        loss = (net(x, torch.full((16,), 0.5)) - x.roll(2, 2)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    # Whoever does not know the neighbour has 1 at best.
    after = sum(losses[-10:]) / 10
    assert losses[0] > 0.8 and after < 0.5, (losses[0], after)


def test_rows_do_not_see_each_other_and_every_condition_counts_where_it_is_told() -> None:
    net = trained(Grid((6, 4)), condition_channels=2, scalars=2, classes=3)
    x, t = draw(3, 1, 6, 4), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    fields, scalars, classes = draw(3, 2, 6, 4, seed=5), draw(3, 2, seed=6), torch.tensor([0, 1, 2])
    whole = Condition(fields, scalars, classes)
    y = net(x, t, whole)
    torch.testing.assert_close(net(x[1:2], t[1:2], whole[1:2]), y[1:2], rtol=1e-10, atol=1e-12)
    for other in (
        Condition(fields.flip(0), scalars, classes), Condition(fields, scalars.flip(0), classes),
        Condition(fields, scalars, classes.flip(0)),
    ):  # fmt: skip
        assert (net(x, t, other) - y)[0].norm() > 1e-2 * y[0].norm()
    some = whole.told(torch.tensor([True, False, True]))
    assert torch.equal(net(x, t, some)[1], net(x, t)[1])
    torch.testing.assert_close(net(x, t, some)[::2], y[::2], rtol=1e-12, atol=1e-13)


def test_checkpointing_changes_no_gradient() -> None:
    grid = Grid((8, 6))
    x, t = draw(2, 1, 8, 6), torch.tensor([0.2, 0.9], dtype=torch.float64)
    gradients = []
    for checkpointing in (False, True):
        net = trained(grid, checkpointing=checkpointing, dropout=0.1)
        torch.manual_seed(0)
        (net(x, t) - x).square().mean().backward()
        gradients.append([p.grad for p in net.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_mixed_precision_rounds_what_blocks_add_and_nothing_else() -> None:
    net = trained(Grid((8, 6), boundary=("periodic", "neumann"))).float()
    x, t = draw(2, 1, 8, 6, dtype=torch.float32), torch.tensor([0.2, 0.9])
    seen: list[torch.dtype] = []
    net.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = net(x, t)
    assert seen == [torch.float32]
    # bfloat16 rounds by 2⁻⁹; 0.0080 was measured, over two blocks.
    assert (rounded.float() - net(x, t)).norm() < 0.024 * net(x, t).norm()


@pytest.mark.slow
def test_it_is_one_graph_to_a_compiler() -> None:
    net = trained(Grid((4, 6), boundary=("periodic", "neumann")), scalars=1, classes=2)
    x, t = draw(2, 1, 4, 6), torch.tensor([0.2, 0.9], dtype=torch.float64)
    given = Condition(scalars=draw(2, 1), classes=torch.tensor([0, 1]))
    whole = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(whole(x, t, given), net(x, t, given), rtol=1e-12, atol=1e-13)


def test_an_axis_shorter_than_the_patch_is_one_patch() -> None:
    net = trained(Grid((8, 2), boundary=("periodic", "neumann")), 4)
    assert net.patch == (4, 2) and net.tokens == (2, 1)
    x, t = draw(1, 1, 8, 2), torch.tensor([0.3], dtype=torch.float64)
    torch.testing.assert_close(net(x.roll(4, 2), t), net(x, t).roll(4, 2), rtol=1e-10, atol=1e-12)


def test_seed_alone_fixes_the_weights() -> None:
    before = torch.random.get_rng_state()
    a = DiffusionTransformer(Grid(8), 1, 2, width=8, depth=1, heads=1, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        b, c = (DiffusionTransformer(Grid(8), 1, 2, width=8, depth=1, heads=1, seed=s).state_dict() for s in (1, 2))
    assert all(torch.equal(value, b[name]) for name, value in a.state_dict().items())
    assert not torch.equal(b["lift.weight"], c["lift.weight"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 0}, "channels of at least 1; got 0"),
        ({"depth": 0}, "depth of at least 1; got 0"),
        ({"extra_channels": -1}, "extra_channels of at least 0; got -1"),
        ({"input_channels": 1, "channels": 2}, "input_channels of at least 2; got 1"),
        ({"width": 12, "heads": 4}, "width that is a multiple of 8 and at least 8; got 12"),
        ({"width": 8, "heads": 4, "grid": Grid((8, 8))}, "multiple of 8 and at least 16; got 8"),
        ({"patch": 9}, r"from 1 to the cells of the axis, here \(8,\); got 9"),
        ({"patch": (2, 2)}, r"one size per axis, .*; got \(2, 2\)"),
        ({"dropout": 1.0}, r"probability in \[0, 1\); got 1.0"),
        ({"grid": Grid((2, 2, 2, 2))}, "grids of 1 to 3 axes; got 4"),
    ],
)
def test_unfit_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiffusionTransformer(**{"grid": Grid(8), "channels": 1, "patch": 2, **arguments})


def test_unfit_shapes_are_refused() -> None:
    net, t = trained(Grid((8, 4)), channels=2), torch.zeros(3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"x of shape \(3, 2, 8, 4\); got \(3, 1, 8, 4\)"):
        net(draw(3, 1, 8, 4), t)
    with pytest.raises(ValueError, match=r"time of shape \(3,\); got \(\)"):
        net(draw(3, 2, 8, 4), torch.tensor(0.5))
    with pytest.raises(ValueError, match="without condition_channels"):
        net(draw(3, 2, 8, 4), t, draw(3, 1, 8, 4))
