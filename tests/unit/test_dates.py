"""Dates of numbers, as CF units mean them."""

from __future__ import annotations

import numpy as np
import pytest

from physdiff.data.dates import dates_of


@pytest.mark.parametrize(
    ("times", "units", "calendar", "expected"),
    [
        ([0.0, 1514764800.0], "seconds since 1970-01-01", "standard", ["1970-01-01T00:00:00", "2018-01-01T00:00:00"]),
        ([-1.5], "days since 2000-03-01", "proleptic_gregorian", ["2000-02-28T12:00:00"]),
        ([6.0], "hours since 1900-01-01 06:00:0.0", "gregorian", ["1900-01-01T12:00:00"]),
    ],
)
def test_numbers_are_dates(times: list[float], units: str, calendar: str, expected: list[str]) -> None:
    assert dates_of(np.array(times), units, calendar) == expected


@pytest.mark.parametrize("units", ["seconds", "", "days since then", "fortnights since 2000-01-01"])
def test_numbers_without_a_moment_are_no_dates(units: str) -> None:
    assert dates_of(np.array([0.0, 1.0]), units) is None


def test_a_calendar_that_numpy_does_not_hold_gives_no_dates() -> None:
    assert dates_of(np.array([0.0]), "days since 2000-01-01", "360_day") is None
