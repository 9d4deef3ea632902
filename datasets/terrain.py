"""Real terrain: patches of the elevation model of the Jacksboro fault, Tennessee, that matplotlib ships.

One fixed picture is cut by columns, west to east, so that no cell is in two splits: training columns 0 to
239, validation 240 to 271 (beside the training columns, so correlated with their edge), none from 272 to 303,
test from 304. Elevation does not vanish or repeat at a patch's edge, and `neumann` is the boundary that
assumes least.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
from matplotlib.cbook import get_sample_data
from tqdm import tqdm

from physdiff.atomic import replacing_folder
from physdiff.data.formats.the_well_writer import write_stats, write_the_well
from physdiff.grid import Grid

NAME = "terrain"
SUMMARY = "real elevation: 32 x 32 patches of the Jacksboro fault model that comes with matplotlib"

COLUMNS = {"train": (0, 240), "valid": (240, 272), "test": (304, 403)}
_EARTH_RADIUS = 6_371_008.8  # mean radius, m


def elevation() -> tuple[np.ndarray, tuple[float, float]]:
    """Elevation, x eastwards and y northwards, shape (403, 344), and the sides of a cell; all in metres."""
    with np.load(str(get_sample_data("jacksboro_fault_dem.npz", asfileobj=False))) as file:
        # Rows run southwards from `ymin`, which is the northern edge's latitude in this file.
        values = file["elevation"][::-1].T
        latitude = math.radians((float(file["ymin"]) + float(file["ymax"])) / 2)
        north = math.radians(float(file["dy"])) * _EARTH_RADIUS
        east = math.radians(float(file["dx"])) * _EARTH_RADIUS * math.cos(latitude)
    return np.ascontiguousarray(values, dtype=np.float32), (east, north)


def make(
    folder: Path,
    seed: int = 0,
    progress: bool = True,
    *,
    cells: int = 32,
    stride: int = 8,
    overwrite: bool = False,
) -> Path:
    """Cut the patches and write `<folder>/data/{train,valid,test}/terrain.hdf5`.

    Args:
        folder: Data set folder to make.
        seed: Stored with the data; nothing here is drawn at random.
        progress: Whether a progress bar is shown.
        cells: Cells of a patch along each axis, at most the 32 columns of the validation split.
        stride: Cells from one patch to the next; patches overlap where it is less than `cells`.
        overwrite: Whether a data set in `folder` is replaced.

    Raises:
        ValueError: `folder` holds something, or a setting is out of range.
    """
    widest = min(stop - start for start, stop in COLUMNS.values())
    if not 2 <= cells <= widest or stride < 1:
        raise ValueError(f"cells must be 2 to {widest} and stride at least 1; got {cells} and {stride}.")
    field, spacing = elevation()
    grid = Grid((cells, cells), [cells * side for side in spacing], "neumann", units="m")
    with replacing_folder(folder, overwrite) as partial:
        for split, (start, stop) in tqdm(COLUMNS.items(), desc=NAME, unit="split", disable=not progress):
            corners = [
                (x, y)
                for x in range(start, stop - cells + 1, stride)
                for y in range(0, field.shape[1] - cells + 1, stride)
            ]
            patches = np.stack([field[x : x + cells, y : y + cells] for x, y in corners])
            column, row = np.array(corners).T
            write_the_well(
                partial / "data" / split / f"{NAME}.hdf5",
                {"elevation": np.expand_dims(patches, 1)},
                grid,
                units={"elevation": "m"},
                time=np.zeros(1),
                parameters={"column": column, "row_from_south": row},
                attrs={"dataset_name": NAME, "seed": seed, "stride": stride},
            )
        write_stats(partial)
        shutil.copyfile(Path(__file__).parent / "cards" / f"{NAME}.md", partial / "card.md")
    return Path(folder)
