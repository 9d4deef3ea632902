"""What numbers of time mean: the dates that CF units give them (CF conventions 1.11, section 4.4)."""

from __future__ import annotations

import warnings

import numpy as np
import xarray as xr


def dates_of(times: np.ndarray, units: str, calendar: str = "standard") -> list[str] | None:
    """Numbers of time as dates, to the second.

    Args:
        times: Numbers, any shape, in order.
        units: Such as "seconds since 1970-01-01"; of "seconds", which count from nowhere, there are no dates.
        calendar: A CF calendar.

    Returns:
        One date a number, as in 2018-01-01T06:00:00; None where units or calendar give none without cftime.
    """
    if " since " not in units:
        return None
    numbers = xr.Variable(("time",), np.ravel(times), {"units": units, "calendar": calendar})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # dates that numpy cannot hold: there are none, then
            found = xr.decode_cf(xr.Dataset(coords={"time": numbers}))["time"].values
    except (ValueError, ImportError, OverflowError):
        return None
    return [str(date) for date in found.astype("datetime64[s]")] if found.dtype.kind == "M" else None
