"""The normaliser against autograd's determinant, and its round trips."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from physdiff.data.normalise import Standardise

ROUNDING = 1e-14  # a few operations on numbers of order 1 to 1e3, relative


def fields(*grid: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(7, 2, *grid, generator=generator, dtype=torch.float64)
    scale = torch.tensor([3.0, 1e-3]).double().reshape(1, 2, *[1] * len(grid))
    return x * scale + torch.tensor([500.0, -0.2]).double().reshape(scale.shape)


@pytest.mark.parametrize("grid", [(9,), (4, 5), (3, 4, 2)])
def test_fit_gives_mean_0_and_std_1_on_any_number_of_axes(grid: tuple[int, ...]) -> None:
    x = fields(*grid)
    z = Standardise.fit(x).forward(x)
    over = [0, *range(2, z.ndim)]
    # 500/3 and 0.2/1e-3 times the rounding of the shifted numbers.
    torch.testing.assert_close(z.mean(over), torch.zeros(2).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(z.std(over, correction=0), torch.ones(2).double(), atol=1e-12, rtol=0)


def test_each_channel_has_its_own_numbers() -> None:
    normaliser = Standardise(torch.tensor([1.0, 10.0]), torch.tensor([2.0, 5.0]))
    z = normaliser.forward(torch.full((1, 2, 3), 20.0))
    assert z[0].tolist() == [[9.5] * 3, [2.0] * 3]
    last = normaliser.forward(torch.full((1, 3, 2), 20.0), channel_axis=-1)
    assert last[0, 0].tolist() == [9.5, 2.0]


def test_inverse_undoes_forward_and_keeps_the_dtype() -> None:
    x = fields(4, 5)
    normaliser = Standardise.fit(x)
    torch.testing.assert_close(normaliser.inverse(normaliser.forward(x)), x, rtol=ROUNDING, atol=0)
    assert normaliser.forward(x.float()).dtype == torch.float32


def test_log_determinant_is_that_of_the_jacobian() -> None:
    x = fields(3)
    normaliser = Standardise.fit(x)
    jacobian = torch.autograd.functional.jacobian(normaliser.forward, x[:1]).reshape(6, 6)
    expected = torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(3 * normaliser.log_det_per_cell.sum(), expected, rtol=ROUNDING, atol=0)


def test_saved_numbers_come_back_exactly() -> None:
    normaliser = Standardise.fit(fields(4, 5))
    again = Standardise.from_dict(json.loads(json.dumps(normaliser.to_dict())))
    assert torch.equal(again.mean, normaliser.mean) and torch.equal(again.std, normaliser.std)


def test_numpy_float32_is_summed_in_float64() -> None:
    generator = np.random.default_rng(0)
    x = (generator.standard_normal((50, 1, 40, 40)) + 1e4).astype(np.float32)
    # numpy's own two-pass float64 sums; float32 sums would be off by about 1e-3.
    assert float(Standardise.fit(x).std[0]) == pytest.approx(x.astype(np.float64).std(), rel=1e-9)


def test_errors_say_what_is_wrong() -> None:
    x = torch.ones(3, 2, 4) * 0.1
    x[:, 0, 1] = 2.0
    with pytest.raises(ValueError, match=r"channel 'p' is constant \(0\.1 everywhere\)"):
        Standardise.fit(x, names=["u", "p"])
    infinite = fields(4)
    infinite[2, 1, 3] = torch.inf
    with pytest.raises(ValueError, match="channel 1 holds a value that is not finite"):
        Standardise.fit(infinite)
    with pytest.raises(ValueError, match=r"shape \(n, channels, \*grid\); got \(5,\)"):
        Standardise.fit(torch.ones(5))
    with pytest.raises(ValueError, match=r"std positive; got \[0\.0\], \[0\.0\]"):
        Standardise(torch.zeros(1), torch.zeros(1))
    with pytest.raises(ValueError, match=r"shapes \(1,\) and \(2,\)"):
        Standardise(torch.zeros(1), torch.ones(2))
    normaliser = Standardise(torch.zeros(2), torch.ones(2))
    with pytest.raises(ValueError, match=r"has 2 channels; got fields of shape \(1, 3, 4\)"):
        normaliser.forward(torch.zeros(1, 3, 4))
    with pytest.raises(ValueError, match=r"floating point fields; got torch\.int64"):
        normaliser.forward(torch.zeros(1, 2, 4, dtype=torch.int64))
