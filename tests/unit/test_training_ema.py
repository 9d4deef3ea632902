"""Power profiles: the published formulae, exact averages of known weights, other widths after the fact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from physdiff.randomness import RowDraws
from physdiff.training import TrainSettings, train
from physdiff.training.power_profile import combination, exponent_of, kept, mismatch, width_of
from physdiff.training.stored_profiles import reconstruct, stored_profiles

WIDTHS = (0.05, 0.1)


def density_moment(width: float, power: int) -> float:
    """E[(τ/t)ᵖ] of a profile by quadrature."""
    exponent = exponent_of(width)
    tau = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    return float(((exponent + 1) * tau**exponent * tau**power).mean())


@pytest.mark.parametrize("width", [0.01, 0.05, 0.1, 0.2, 0.28])
def test_the_width_is_the_standard_deviation_of_the_profile(width: float) -> None:
    spread = (density_moment(width, 2) - density_moment(width, 1) ** 2) ** 0.5
    assert spread == pytest.approx(width, rel=1e-4)  # the midpoint rule's error at the steepest profile
    assert width_of(exponent_of(width)) == pytest.approx(width, rel=1e-12)


def test_published_exponents() -> None:
    """Karras et al. (2024), section 3.1: widths 0.05 and 0.10 are γ = 16.97 and 6.94."""
    assert exponent_of(0.05) == pytest.approx(16.97, abs=0.005)
    assert exponent_of(0.10) == pytest.approx(6.94, abs=0.005)


class Known(nn.Module):
    """Weights that move by a known path: the loss pulls them nowhere, the optimiser is set aside."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))


def trajectory(steps: int) -> Tensor:
    """Weights after each step, a random walk, shape (steps, 3), float64."""
    generator = torch.Generator().manual_seed(4)
    return torch.randn(steps, 3, generator=generator, dtype=torch.float64).cumsum(0)


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Tensor]:
    """The folder of a run whose weights were given, and the weights after each step."""
    path = trajectory(400)
    module = Known()

    def moved(self: Any, closure: Any = None) -> None:
        done = getattr(self, "done", 0)
        module.weight.data.copy_(path[done])
        self.done = done + 1

    monkeypatch.setattr(torch.optim.AdamW, "step", moved)
    settings = TrainSettings(steps=400, batch_size=2, ema_widths=WIDTHS, ema_every=40, checkpoint_every=400)

    def loss(module: Known, x: Tensor, draws: RowDraws) -> Tensor:
        return module.weight.square().sum() * 1e-3 + x.flatten(1).sum(1)

    train(module, loss, torch.zeros(4, 1, 2), None, settings, tmp_path, progress=False)
    return tmp_path, path


def exact(path: Tensor, width: float) -> Tensor:
    """Σ w_i θ_i with w_i the exact share of step i."""
    edges = torch.linspace(0, 1, len(path) + 1, dtype=torch.float64) ** (exponent_of(width) + 1)
    return (edges.diff().unsqueeze(1) * path).sum(0)


def test_stored_profiles_are_the_exact_averages_of_a_known_path(known: tuple[Path, Tensor]) -> None:
    folder, path = known
    found = stored_profiles(folder)
    assert [one.step for one in found] == list(range(40, 401, 40))
    from safetensors.torch import load_file

    for one in found:
        tensors = load_file(one.file)
        for index, width in enumerate(WIDTHS):
            # float32, a few hundred updates of numbers of size 20
            expected = exact(path[: one.step], width)
            torch.testing.assert_close(tensors[f"{index}/weight"].double(), expected, rtol=0, atol=5e-5)


def test_a_stored_width_is_given_back_and_others_are_near(known: tuple[Path, Tensor]) -> None:
    folder, path = known
    spread = float(path.std())
    for width in WIDTHS:
        off = (reconstruct(folder, width)["weight"].double() - exact(path, width)).abs().amax()
        assert float(off) < 1e-4
    for width in (0.06, 0.08, 0.12, 0.15):
        off = float((reconstruct(folder, width)["weight"].double() - exact(path, width)).abs().amax())
        print(f"width {width}: off by {off / spread:.2%} of the path's spread")
        assert off < 0.02 * spread
        assert float((exact(path, width) - exact(path, 0.05)).abs().amax()) > 3 * off  # another one altogether


def test_combinations_are_nearest_in_the_mean_square() -> None:
    """The normal equations of Karras et al. (2024), algorithm 3, with their closed-form inner products."""
    stored = [(t, width) for t in (250, 500, 750, 1000) for width in WIDTHS]

    def product(a: tuple[int, float], b: tuple[int, float]) -> float:
        (t, p), (s, q) = ((time, exponent_of(width)) for time, width in (a, b))
        ratio = (t / s) ** (q if t < s else -p)
        return (p + 1) * (q + 1) * ratio / ((p + q + 1) * max(t, s))

    gram = torch.tensor([[product(a, b) for b in stored] for a in stored], dtype=torch.float64)
    for width in (0.07, 0.13):
        right = torch.tensor([product(a, (1000, width)) for a in stored], dtype=torch.float64)
        expected = torch.linalg.solve(gram, right)
        found = combination(stored, 1000, width)
        # Steps of 1/1000 in the place of a continuum, and a sum that is exactly 1: measured 0.6 % and 1.4 %.
        off, size = (found - expected) @ gram @ (found - expected), product((1000, width), (1000, width))
        distance = float(off / size) ** 0.5
        print(f"width {width}: combinations differ by {distance:.2%}")
        assert distance < 0.04
        assert float(found.sum()) == pytest.approx(1, abs=1e-12)


def test_the_fit_gets_better_with_more_stored_times() -> None:
    off = [
        mismatch([(t, w) for t in range(every, 1001, every) for w in WIDTHS], 1000, 0.15) for every in (500, 250, 100)
    ]
    print("profile off by", [f"{x:.2%}" for x in off])
    assert off[0] > off[1] > off[2] and off[2] < 0.03


def test_updates_keep_all_of_a_constant() -> None:
    assert kept(exponent_of(0.1), 1) == 0
    assert 0 < kept(exponent_of(0.1), 2) < kept(exponent_of(0.1), 100) < 1


@pytest.mark.parametrize("widths", [(0.1,), (0.1, 0.1), (0.0, 0.1), (0.1, 0.3)])
def test_unfit_widths_are_refused(widths: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="ema_widths"):
        TrainSettings(steps=3, ema_widths=widths)


def test_without_profiles_there_is_nothing_to_combine(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no power profiles are stored.*ema_widths"):
        reconstruct(tmp_path, 0.1)
    with pytest.raises(ValueError, match=r"width must lie in \(0, 0.28\]"):
        reconstruct(tmp_path, 0.4)
