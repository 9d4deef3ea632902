"""Every planted error still fits the code, and (slow) is caught."""

from __future__ import annotations

import ast

import pytest
from mutants import MIXTURE, MUTANTS, ROOT, Mutant, clean_run, verdict


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_planted_text_stands_once_and_is_valid(mutant: Mutant) -> None:
    text = (ROOT / "physdiff" / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1
    assert mutant.old != mutant.new
    ast.parse(text.replace(mutant.old, mutant.new))
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert not name or f"def {name.split('[')[0]}(" in (ROOT / file).read_text(encoding="utf-8")


def test_the_market_of_mutants_is_wide() -> None:
    assert len(MUTANTS) >= 24
    assert len({m.file for m in MUTANTS}) >= 12
    densities = ("likelihood.py", "flow_ends.py")
    on_mixtures_alone = [m.meaning for m in MUTANTS if m.file in densities and m.tests == (MIXTURE,)]
    assert any("sign" in meaning for meaning in on_mixtures_alone)
    assert any("determinant" in meaning for meaning in on_mixtures_alone)


IN_EVERY_RUN = ("sign of the divergence", "log-determinants missing", "sign of the log-determinants")


@pytest.mark.parametrize("mutant", [m for m in MUTANTS if m.meaning in IN_EVERY_RUN], ids=str)
def test_planted_likelihood_errors_are_killed_in_every_run(mutant: Mutant) -> None:
    assert verdict(mutant)[0] == "killed"


@pytest.mark.slow
def test_the_tests_pass_without_a_planted_error() -> None:
    clean_run(MUTANTS)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_mutant_is_killed(mutant: Mutant) -> None:
    assert verdict(mutant)[0] == "killed"
