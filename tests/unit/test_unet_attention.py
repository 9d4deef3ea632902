"""Attention over cells: against an independent one, its symmetry, and its derivatives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from physdiff.networks.attention import WRITTEN_OUT, Attention, attend, differentiated

torch.set_num_threads(1)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attention(features: int, heads: int) -> Attention:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        layer = Attention(features, heads).double()
    with torch.no_grad():
        for seed, parameter in enumerate(layer.parameters()):
            parameter.add_(draw(*parameter.shape, seed=seed))
    return layer


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("heads", [1, 2, 8])
def test_is_torchs_own_attention(heads: int, exact: bool) -> None:
    layer, x = attention(8, heads), draw(2, 8, 3, 5)
    other = nn.MultiheadAttention(8, heads, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        other.in_proj_weight.copy_(layer.query_key_value.weight)
        other.in_proj_bias.copy_(layer.query_key_value.bias)
        other.out_proj.weight.copy_(layer.out.weight)
        other.out_proj.bias.copy_(layer.out.bias)
    cells = layer.norm(x).flatten(2).transpose(1, 2)
    expected = x + other(cells, cells, cells)[0].transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(layer(x, exact), expected, rtol=1e-12, atol=1e-12)


def test_commutes_with_every_permutation_of_the_cells() -> None:
    layer, x = attention(8, 2), draw(2, 8, 30)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(layer(x[..., order]), layer(x)[..., order], rtol=1e-12, atol=1e-12)
    # The test can fail: the cells do see each other.
    assert (layer(x)[..., :15] - layer(x[..., :15])).abs().max() > 0.1


def test_written_out_wherever_a_derivative_by_the_input_is_taken() -> None:
    x = draw(1, 2, 4)
    assert not differentiated(x)
    seen: list[bool] = []

    def f(x: Tensor) -> Tensor:
        seen.append(differentiated(x))
        return x.square()

    torch.func.jvp(f, (x,), (x,))
    torch.func.vjp(f, x)
    torch.func.jacfwd(f)(x)
    torch.func.vmap(torch.func.jacrev(f))(x)
    f(x.requires_grad_())
    assert seen == [True] * 5
    with torch.no_grad():
        assert not differentiated(x)


def test_too_many_cells_for_the_matrix_of_pairs_go_through_the_fused_kernel() -> None:
    query = draw(1, 1, WRITTEN_OUT + 1, 1).requires_grad_()
    few = draw(1, 1, 8, 1)
    with torch.no_grad():
        torch.testing.assert_close(attend(few, few, few, True), attend(few, few, few, False), rtol=1e-12, atol=1e-14)
    held: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        held.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        attend(query, query, query, exact=True)
    assert max(held) < 100 * WRITTEN_OUT
