"""The laws of objectives over everything that is registered; and that each of them can fail."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
import pytest
import torch
from torch import Tensor

from physdiff import laws
from physdiff.condition import Given
from physdiff.denoisers import PosteriorMean
from physdiff.laws import Law, ObjectiveCase
from physdiff.objectives import DenoisingLoss, NoiseLevelsLoss, TargetScoreLoss, TransitionLoss, objectives
from physdiff.objectives.adaptive_times import LossSecondMoment
from physdiff.objectives.noise_units import NoiseUnits
from physdiff.objectives.objective import Objective
from physdiff.objectives.times import Stratified, TimeSampling
from physdiff.path import PathPoint
from physdiff.randomness import RowDraws

torch.set_num_threads(1)
OURS = {
    name: cls
    for name, cls in objectives.classes().items()
    if cls.__module__.startswith("physdiff.") and not cls.simulated
}


def cases(cls: type[Objective]) -> list[ObjectiveCase]:
    return list(laws.objective_cases(cls))


def questions() -> list[Any]:
    """Every law with every objective that it speaks of."""
    return [
        pytest.param(law, cls, id=f"{name}-{law.name}".replace(" ", "_"))
        for name, cls in OURS.items()
        for law in laws.laws_of("objective")
        if any(law.applies(case) for case in cases(cls))
    ]


@pytest.mark.parametrize(("law", "cls"), questions())
def test_law(law: Law, cls: type[Objective]) -> None:
    findings = [law.examine(case) for case in cases(cls) if law.applies(case)]
    print(laws.Report(cls.__name__, tuple(findings)))
    assert not [f for f in findings if not f.passed]


def test_every_objective_is_tried_on_every_physics_and_with_times_that_adapt() -> None:
    assert {"DenoisingLoss", "NoiseLevelsLoss", "ImplicitScoreLoss", "SlicedScoreLoss", "TargetScoreLoss"} <= set(OURS)
    for cls in OURS.values():
        found = cases(cls)
        assert {case.character for case in found} == {"isotropic", "decaying", "rotating, mean-free"}
        assert {case.number for case in found} == set(range(len(cls.examples())))
        assert {case.adaptive for case in found} == {None, LossSecondMoment}
        speaks = {law.name for law in laws.laws_of("objective") if any(law.applies(case) for case in found)}
        assert len(speaks) >= 4


# ---- each law can fail


@dataclass(frozen=True)
class Planted(Objective):
    """The noise's error by a formula in which one factor can be planted, and the numbers it draws.

    Attributes:
        wrong: What is wrong with it.
    """

    wrong: str = ""
    times: TimeSampling = field(default_factory=Stratified)

    wrongs: ClassVar[tuple[str, ...]] = ("",)

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return tuple(cls(wrong) for wrong in cls.wrongs)

    def at(
        self, model: PosteriorMean, x: Tensor, t: Tensor, draws: torch.Generator | RowDraws,
        condition: Given | None = None,
    ) -> Tensor:  # fmt: skip
        point, on = model.path.at(t), model.path.reference.support
        units, draws = NoiseUnits(point), RowDraws.of(draws, len(x))
        clean = model.path.basis.forward(x)
        noise = draws.normal(*x.shape[1:])
        if self.wrong == "draws of the part alone":
            noise = torch.randn(x.shape, generator=draws.generator, dtype=torch.float64)
        if self.wrong == "global numbers":
            noise = torch.randn(x.shape, dtype=torch.float64)
        if self.wrong == "numpy's numbers":
            noise = noise + 1e-14 * float(np.random.rand())  # noqa: NPY002
        if self.wrong == "the batch's mean":
            noise = noise - 0.1 * noise.mean(0)
        noisy = point.with_noise(clean, noise)
        residual = model.residual(noisy, t, condition)
        if self.wrong == "half the noise":
            residual = residual + 0.1 * point.wiener_gain * point.deviation(noisy)
        if self.wrong == "no memory of the mean":
            residual = residual + 0.1 * point.posterior_variance.sqrt() * on
        weight = units.gain
        if self.wrong == "all modes":
            weight = torch.where(on, weight, 1.0)
        error = weight * (point.wiener(noisy) + residual - clean)
        if self.wrong == "nothing of the model":
            error = error.detach() * 0 + noise
        total = error.square().flatten(1).sum(1)
        return total.unsqueeze(1) if self.wrong == "two axes" else total


def said(wrong: str, name: str) -> list[laws.Finding]:
    """What a law says of a planted error, on every physics."""

    class One(Planted):
        wrongs = (wrong,)

    (law,) = (one for one in laws.laws_of("objective") if one.name == name)
    return [law.examine(case) for case in cases(One) if law.applies(case)]


MINIMISER, ROWS = "exact denoiser is the minimiser", "losses are those of the rows"
OUTSIDE, STATE = "what is outside the support does not count", "state is restored"


@pytest.mark.parametrize("name", [MINIMISER, ROWS, OUTSIDE, STATE])
def test_without_an_error_the_laws_hold(name: str) -> None:
    findings = said("", name)
    assert findings and all(finding.passed for finding in findings), findings


@pytest.mark.parametrize(
    ("wrong", "name", "words"),
    [
        ("half the noise", MINIMISER, "slope"),
        ("no memory of the mean", MINIMISER, "slope"),
        ("nothing of the model", MINIMISER, "bend"),
        ("draws of the part alone", ROWS, "in two parts"),
        ("the batch's mean", ROWS, "in two parts"),
        ("global numbers", ROWS, "when asked again"),
        ("numpy's numbers", ROWS, "when asked again"),
        ("two axes", ROWS, "axes beyond"),
        ("all modes", OUTSIDE, "what a model says there"),
    ],
)
def test_a_planted_error_is_found_on_every_physics(wrong: str, name: str, words: str) -> None:
    findings = said(wrong, name)
    assert findings and not any(finding.passed for finding in findings), findings
    assert any(words in finding.detail for finding in findings), findings


def test_a_state_that_is_left_out_is_found() -> None:
    class Forgetful(NoiseLevelsLoss):
        def state_dict(self) -> dict[str, Tensor]:
            return {name: torch.zeros_like(x) for name, x in super().state_dict().items()}

    (law,) = (one for one in laws.laws_of("objective") if one.name == STATE)
    findings = [law.examine(case) for case in cases(Forgetful) if law.applies(case)]
    assert findings and not any(finding.passed for finding in findings)
    assert all("after restoring" in finding.detail for finding in findings)


def test_a_wrong_target_score_is_found() -> None:
    class Weak(TargetScoreLoss):
        """S/V for 1 in the denoising part: right for one law of the data only."""

        def target(self, clean: Tensor, score: Tensor, noisy: Tensor, point: PathPoint) -> Tensor:
            return super().target(clean, 0.8 * score, noisy, point)

        @classmethod
        def examples(cls) -> tuple[Self, ...]:
            return (cls(mixture="matched"),)

    report = laws.check_objective(Weak)
    assert {finding.law for finding in report.findings if not finding.passed} == {MINIMISER}


# ---- a user's own


def test_check_of_an_objective_is_a_report() -> None:
    report = laws.check_objective(DenoisingLoss)
    assert report.passed and str(report).startswith("DenoisingLoss: every law holds; ")
    assert {finding.law for finding in report.findings} == {MINIMISER, ROWS, OUTSIDE, STATE}


@pytest.mark.parametrize("cls", [TransitionLoss, int])
def test_what_is_no_objective_of_denoisers_is_refused(cls: type) -> None:
    with pytest.raises(ValueError, match=rf"^{cls.__name__} is no objective of denoisers"):
        laws.check_objective(cls)


def test_the_same_losses_whatever_was_drawn_before() -> None:
    case = cases(DenoisingLoss)[0]
    before = case.losses()
    torch.manual_seed(5)
    random.seed(5)
    assert torch.equal(case.losses(), before)
    assert replace(case, number=0).losses().equal(before)
