"""Normalisers against autograd's determinants, scipy's transforms and closed forms; round trips."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy import stats

from physdiff.basis import SpectralBasis
from physdiff.data.normalise import (
    Curved,
    Log,
    Normaliser,
    PerVariable,
    Power,
    Robust,
    Standardise,
    in_physical_units,
    kinds_of,
    log_det,
    normaliser_from_dict,
)
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid

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


# ---- kinds of one channel each, curves among them


def skewed(n: int = 40, *grid: int) -> torch.Tensor:
    """Positive values over three decades in a small unit, and heavy tails of both signs in a large one."""
    rng = np.random.default_rng(5)
    a = 1e-6 * np.exp(1.5 * rng.standard_normal((n, *grid)))
    b = 1e5 * (rng.standard_t(3, (n, *grid)) + 0.3 * rng.standard_normal((n, *grid)) ** 2) + 2e5
    return torch.from_numpy(np.stack([a, b], axis=1))


def every_kind(x: torch.Tensor) -> dict[str, Normaliser]:
    a, b = x[:, :1], x[:, 1:]
    positive = torch.cat([a, a.square() * 1e9], dim=1)
    return {
        "standard": Standardise.fit(x),
        "robust": Robust.fit(x),
        "log": Log.fit(positive, shift=1e-9),
        "box-cox": Power.fit(positive, method="box-cox"),
        "yeo-johnson": Power.fit(x),
        "asinh": Power.fit(x, method="asinh"),
        "per-variable": PerVariable((Log.fit(a), Power.fit(b))),
    }


KINDS_HERE = ("standard", "robust", "log", "box-cox", "yeo-johnson", "asinh", "per-variable")


def taken_by(kind: str, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x[:, :1], x[:, :1].square() * 1e9], 1) if kind in ("log", "box-cox") else x


@pytest.mark.parametrize("kind", KINDS_HERE)
def test_every_kind_is_undone_and_has_the_determinant_of_its_jacobian(kind: str) -> None:
    x = skewed(40, 2, 3)
    normaliser, x = every_kind(x)[kind], taken_by(kind, x)
    assert normaliser.kind == kind and normaliser.channels == 2
    z = normaliser.forward(x)
    # Relative to the size of the channel: what is small beside the centre is lost by subtracting it. Measured 5e-15.
    size = x.abs().amax((0, 2, 3), keepdim=True)
    assert float(((normaliser.inverse(z) - x) / size).abs().max()) < 1e-13
    torch.testing.assert_close(normaliser.forward(normaliser.inverse(z)), z, rtol=0, atol=1e-12)
    found = normaliser.log_det(x)
    assert found.dtype == torch.float64 and found.shape == (40,)
    for i in range(3):
        jacobian = torch.autograd.functional.jacobian(normaliser.forward, x[i : i + 1]).reshape(12, 12)
        expected = jacobian.diagonal().log().sum()
        assert float((jacobian - jacobian.diagonal().diag()).abs().max()) == 0
        assert float(found[i]) == pytest.approx(float(expected), abs=1e-11)
    if normaliser.is_linear:
        torch.testing.assert_close(found[0], 6 * normaliser.log_det_per_cell.sum(), rtol=1e-13, atol=0)
    else:
        with pytest.raises(ValueError, match="not linear, so its determinant depends on the field"):
            _ = normaliser.log_det_per_cell


@pytest.mark.parametrize("kind", KINDS_HERE)
def test_every_kind_comes_back_from_text_and_acts_cell_by_cell(kind: str) -> None:
    x = skewed(33, 5)
    normaliser, x = every_kind(x)[kind], taken_by(kind, x)
    again = normaliser_from_dict(json.loads(json.dumps(normaliser.to_dict())))
    z = normaliser.forward(x)
    assert type(again) is type(normaliser) and torch.equal(again.forward(x), z)
    # No bit depends on what a field is normalised with, and channels may lie on any axis.
    assert torch.equal(torch.cat([normaliser.forward(field) for field in x.split(1)]), z)
    assert torch.equal(torch.cat([normaliser.inverse(field) for field in z.split(1)]), normaliser.inverse(z))
    assert torch.equal(normaliser.forward(x.movedim(1, -1).contiguous(), channel_axis=-1).movedim(-1, 1), z)
    assert normaliser.forward(x.float()).dtype == torch.float32
    with pytest.raises(ValueError, match=r"has 2 channels; got fields of shape \(1, 3, 5\)"):
        normaliser.forward(torch.ones(1, 3, 5))


@pytest.mark.parametrize("kind", ["standard", "log", "box-cox", "yeo-johnson", "asinh", "per-variable"])
def test_images_have_mean_0_and_std_1(kind: str) -> None:
    x = skewed(50, 4)
    z = every_kind(x)[kind].forward(taken_by(kind, x))
    torch.testing.assert_close(z.mean((0, 2)), torch.zeros(2).double(), atol=1e-13, rtol=0)
    torch.testing.assert_close(z.std((0, 2), correction=0), torch.ones(2).double(), atol=1e-13, rtol=0)


def test_robust_is_by_median_and_quartiles_of_numpy_and_wild_values_do_not_move_it() -> None:
    x = skewed(40, 5)
    normaliser = Robust.fit(x)
    for c in range(2):
        q1, q2, q3 = np.quantile(x[:, c].numpy(), (0.25, 0.5, 0.75))
        assert float(normaliser.median[c]) == q2
        # A unit normal has the spread 1.
        assert float(normaliser.spread[c]) == pytest.approx((q3 - q1) / (2 * stats.norm.ppf(0.75)), rel=1e-14)
    wild = x.clone()
    wild[0, 1, 0] = 1e12
    moved = Robust.fit(wild)
    assert float((moved.median - normaliser.median).abs()[1]) < 0.02 * float(normaliser.spread[1])
    half = torch.zeros(10, 1, 2)
    half[:2] = torch.tensor([1.0, 2.0]).reshape(2, 1, 1)
    with pytest.raises(ValueError, match=r"channel 'rain' has half of its values at 0, so its quartiles give no scale"):
        Robust.fit(half, ["rain"])


def test_exponents_are_those_of_scipy() -> None:
    """λ by scipy's own search on the same numbers; both stop where the likelihood is flat, about 1e-8 of λ away."""
    x = skewed(80, 20)
    a, b = (x[:, c].flatten().numpy() for c in range(2))
    power = Power.fit(x)
    for c, values in enumerate((a, b)):
        u = (values - float(power.centre[c])) / float(power.scale[c])
        z, exponent = stats.yeojohnson(u)
        if c == 1:
            assert 0 < exponent < 2
            assert float(power.exponent[c]) == pytest.approx(exponent, abs=1e-6)
            expected = (z - z.mean()) / z.std()
            np.testing.assert_allclose(power.forward(x)[:, c].flatten().numpy(), expected, atol=1e-5)
        else:
            # Three decades of a lognormal ask for λ < 0, which would map onto a half-line.
            assert exponent < 0 and float(power.exponent[c]) == 0
    box = Power.fit(x[:, :1], method="box-cox")
    z, exponent = stats.boxcox(a / float(box.scale[0]))
    assert float(box.exponent[0]) == pytest.approx(exponent, abs=1e-6)
    np.testing.assert_allclose(box.forward(x[:, :1]).flatten().numpy(), (z - z.mean()) / z.std(), atol=1e-5)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0, 1e-12])
def test_yeo_johnson_is_that_of_scipy_at_any_exponent(exponent: float) -> None:
    x = torch.cat([torch.linspace(-40, 40, 81).double(), torch.tensor([0.0, 1e-9, -1e-9]).double()]).reshape(1, 1, -1)
    one = torch.ones(1)
    normaliser = Curved("yeo-johnson", torch.tensor([exponent]).double(), 0 * one, one, 0 * one, one)
    expected = stats.yeojohnson(x.flatten().numpy(), exponent)
    np.testing.assert_allclose(normaliser.forward(x).flatten().numpy(), expected, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(normaliser.inverse(normaliser.forward(x)), x, rtol=1e-12, atol=1e-14)


def test_a_sample_far_out_has_an_inverse_unless_the_range_ends() -> None:
    x = skewed(40, 5)
    far = torch.full((1, 2, 1), 12.0).double() * torch.tensor([1.0, -1.0]).double().reshape(1, 2, 1)
    for kind in ("yeo-johnson", "asinh", "per-variable"):
        normaliser = every_kind(x)[kind]
        torch.testing.assert_close(normaliser.forward(normaliser.inverse(far)), far, rtol=1e-9, atol=0)
    ones = torch.ones(1)
    box = Curved("box-cox", 0.5 * ones, 0 * ones, ones, 0 * ones, ones, ("rho",))
    with pytest.raises(ValueError, match=r"channel 'rho': the normalised value -3 is beyond the range of 'box-cox'"):
        box.inverse(torch.tensor([[[0.0, -3.0]]]))


def test_log_density_of_a_lognormal_field_is_the_closed_form() -> None:
    """exp of a Gaussian field less a shift: log p(x) = log N(y) − Σ y, y = log(x + shift), N by a dense matrix."""
    basis = SpectralBasis(Grid((4, 3), boundary=("periodic", "neumann")))
    law = GaussianField.matern(basis, 0.4)
    shift = 0.2
    x = law.sample(30, torch.Generator().manual_seed(0)).exp() - shift
    normaliser = Log.fit(x, shift=shift)
    # The law of z, exactly: an affine image of the law of log(x + shift).
    spread = float((normaliser.scale * normaliser.std)[0])
    mean = basis.forward((torch.zeros(1, 4, 3).double() - normaliser.mean[0]) / normaliser.std[0])
    reference = GaussianField(basis, mean, law.spectrum / spread**2)
    found = reference.log_prob(normaliser.forward(x)) + log_det(normaliser, reference.support, x)
    u = basis.dense()
    covariance = (u * law.spectrum.flatten()) @ u.T
    y = (x + shift).log().flatten(1)
    expected = torch.distributions.MultivariateNormal(torch.zeros(12).double(), covariance).log_prob(y) - y.sum(1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    dead = reference.support.clone()
    dead[0, 1, 1] = False
    with pytest.raises(ValueError, match="a law of all 12 modes; 1 of them do not vary"):
        log_det(normaliser, dead, x)


def test_log_determinant_of_a_linear_kind_counts_modes_that_vary() -> None:
    normaliser = Standardise(torch.zeros(2), torch.tensor([2.0, 10.0]))
    support = torch.tensor([[True, True, False], [True, False, False]])
    found = log_det(normaliser, support, torch.ones(4, 2, 3).double())
    assert found.tolist() == pytest.approx([-2 * np.log(2) - np.log(10)] * 4)


def test_kinds_are_chosen_by_channel_field_or_vector() -> None:
    names = ("rho", "u@0", "u@1", "velocity_x", "velocity_y")
    chosen = kinds_of({"rho": {"kind": "log", "shift": 1}, "u": "power", "velocity": "robust"}, names)
    assert [kind["kind"] for kind in chosen] == ["log", "power", "power", "robust", "robust"]
    assert [kind["kind"] for kind in kinds_of({"u@1": "asinh"}, names)] == ["standard"] * 2 + ["asinh"] + [
        "standard"
    ] * 2
    assert kinds_of({"kind": "log", "shift": 2}, ("a", "b")) == [{"kind": "log", "shift": 2}] * 2
    for asked, words in (
        ("robsut", "there is no normaliser 'robsut'. Did you mean 'robust'"),
        ({"rho": "log", "velocty_x": "log"}, "has no channel 'velocty_x' to normalise. Did you mean 'velocity_x'"),
        ({"kind": "power", "shift": 1}, "'power' has no setting 'shift'"),
        ({"rho": {"kind": "log", "shift": "x"}}, "the shift of 'log' is a number; got 'x'"),
    ):
        with pytest.raises(ValueError, match=words):
            kinds_of(asked, names)


def test_curves_refuse_by_name_what_they_cannot_take() -> None:
    x = torch.tensor([1.0, 2.0, -0.5, 4.0]).reshape(4, 1, 1).double()
    with pytest.raises(ValueError, match=r"channel 'rho' holds -0\.5; 'log' takes values above -0\.2 only"):
        Log.fit(x, ["rho"], shift=0.2)
    with pytest.raises(ValueError, match=r"channel 'rho' holds -0\.5; 'box-cox' takes values above 0 only"):
        Power.fit(x, ["rho"], method="box-cox")
    log = Log.fit(x, ["rho"], shift=1.0)
    with pytest.raises(ValueError, match=r"channel 'rho' holds -1; 'log' takes values above -1 only"):
        log.forward(-x.sign())
    assert bool(log.forward(torch.full((1, 1, 1), torch.nan)).isnan())  # what is not observed stays so
    with pytest.raises(ValueError, match=r"no power transform 'yeo-jonson'. Did you mean 'yeo-johnson'"):
        Power.fit(x, method="yeo-jonson")
    with pytest.raises(ValueError, match="no normaliser 'lg'"):
        normaliser_from_dict({"kind": "lg"})
    with pytest.raises(ValueError, match="must have one channel"):
        PerVariable((Standardise(torch.zeros(2), torch.ones(2)),))
    old = normaliser_from_dict({"mean": [1.0], "std": [2.0]})  # of a model that says no kind
    assert isinstance(old, Standardise) and float(old.std) == 2


@pytest.mark.parametrize(
    ("mean", "std", "dtype"),
    [(280.0, 10.0, torch.float32), (1e5, 1e-2, torch.float64), (0.0, 1e-45, torch.float64), (0, 1e40, torch.float64)],
)
@pytest.mark.parametrize("axis", [1, 2])
def test_samples_in_single_precision_keep_what_varies(mean: float, std: float, dtype: torch.dtype, axis: int) -> None:
    normaliser = Standardise(*torch.tensor([[0.0, mean], [1.0, std]], dtype=torch.float64))
    z = torch.randn((50, 4, 4), generator=torch.Generator().manual_seed(0))
    z = torch.stack([z, z.flip(0)], dim=axis)
    found = in_physical_units(normaliser, z, axis)
    assert found.dtype == dtype
    back = (found.double().select(axis, 1) - mean) / std
    torch.testing.assert_close(back, z.double().select(axis, 1), rtol=1e-5, atol=1e-5)
    assert in_physical_units(normaliser, z.double(), axis).dtype == torch.float64


@pytest.mark.parametrize("size", [1e200, 1e307, 1e-200])
def test_values_whose_spread_is_no_number_are_refused_by_name(size: float) -> None:
    x = size * torch.rand((4, 1, 5), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.raises(ValueError, match=r"channel 'p' holds values from .* whose mean or standard deviation is no nu"):
        Standardise.fit(x, ["p"])
