"""Two published files that share their first 140 years: what a split between them must not hide."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import peer

from physdiff.data.duplicates import duplicates
from physdiff.data.fields import open_fields

pytestmark = pytest.mark.peers


def test_scenarios_of_one_climate_model_are_the_same_up_to_the_year_they_part() -> None:
    folder = Path(peer("iris_sample_data").path)
    names = {"train": "A1B_north_america.nc", "test": "E1_north_america.nc"}
    found = duplicates({part: open_fields(folder / name, boundary="neumann") for part, name in names.items()})
    assert [(d.first.frame, d.second.frame) for d in found] == [(i, i) for i in range(140)]
    assert all(d.crosses and d.is_exact and d.first.split == "train" for d in found)
