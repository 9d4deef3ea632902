"""What a flat box makes of latitudes and longitudes: a map, on which all cells are alike."""

from __future__ import annotations

import math

from physdiff.grid import Grid

_LATITUDES, _LONGITUDES = ("lat", "latitude", "nav_lat"), ("lon", "longitude", "nav_lon")
_UNEQUAL = 2.0  # times that the largest cell is the smallest one's, from which on that is told


def doubts_of_maps(grid: Grid) -> list[str]:
    """What is to be known of a grid of degrees, one line each; nothing of any other."""
    found = []
    for axis, dim in enumerate(grid.dims):
        n, h, boundary = grid.shape[axis], grid.spacing[axis], grid.boundary[axis]
        low, high = (grid.origin[axis] + i * h for i in (0.5, n - 0.5))
        name, unit = dim.lower(), grid.units[axis].lower()
        if unit and not unit.startswith("deg"):
            continue
        if name in _LATITUDES and -90.01 <= low and high <= 90.01:
            if boundary == "periodic":
                found.append(
                    f"'{dim}' is said to be periodic, so that its south end meets its north end; a globe's latitudes "
                    "end, such as with neumann"
                )
            widest = math.cos(math.radians(0.0 if low <= 0 <= high else min(abs(low), abs(high))))
            narrowest = math.cos(math.radians(min(max(abs(low), abs(high)), 90 - h / 2)))
            if widest > _UNEQUAL * narrowest:
                found.append(
                    f"cells along '{dim}' count alike, though those near a pole are {narrowest / widest:.2g} as wide: "
                    "means, spectra, losses and likelihoods are those of the map, without weights for areas"
                )
        elif name in _LONGITUDES and abs(n * h - 360) <= 1e-3 * h and boundary != "periodic":
            found.append(f"'{dim}' goes all around the globe and is said to be {boundary}, not periodic")
    return found
