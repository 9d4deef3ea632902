"""Files for the benchmark of loaders: the same runs stored in three ways, and as pairs for neuraloperator."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from physdiff.data.formats.the_well_writer import write_the_well
from physdiff.data.packing import packing, plugin_is_there
from physdiff.grid import Grid

RUNS, FRAMES, SIDE = 24, 64, 128
FRAME, TRAJECTORY, REPACKED = "chunk a frame", "chunk a trajectory, gzip", "repacked"


def packed_as() -> str:
    """Compression of the repacked file."""
    return "lz4" if plugin_is_there() else "gzip"


def runs_of_flow(runs: int = RUNS) -> np.ndarray:
    """Smooth fields that drift and change, shape (runs, frames, 128, 128), float32, about as hard to pack as a flow."""
    draws = np.random.default_rng(0)
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(SIDE, 1 / SIDE), np.fft.rfftfreq(SIDE, 1 / SIDE), indexing="ij"))
    amplitude = np.where(k > 0, np.maximum(k, 1) ** -2.5, 0) * SIDE**2
    found = np.empty((runs, FRAMES, SIDE, SIDE), np.float32)
    for run in range(runs):
        phase = draws.random(k.shape) * 2 * np.pi
        for frame in range(FRAMES):
            found[run, frame] = np.fft.irfft2(amplitude * np.exp(1j * (phase + 0.05 * frame * k)), s=(SIDE, SIDE))
    return found


def write_files(folder: Path, values: np.ndarray) -> dict[str, dict[str, Path]]:
    """By storage: the file in The Well's layout, and the same windows as pairs `x`, `y` of frames."""
    frame, trajectory = (1, 1, SIDE, SIDE), (1, FRAMES, SIDE, SIDE)
    told = {
        FRAME: {"chunks": frame},
        TRAJECTORY: {"chunks": trajectory, "compression": "gzip"},
        REPACKED: {"chunks": frame, **packing(packed_as())},
    }
    found: dict[str, dict[str, Path]] = {}
    for number, (name, storage) in enumerate(told.items()):
        well = folder / "data" / f"kind{number}" / "flow.hdf5"
        _stored_as(write_the_well(well, {"u": values}, Grid((SIDE, SIDE))), values, storage)
        pairs = folder / f"pairs{number}.h5"
        with h5py.File(pairs, "w") as file:
            for part, chosen in (("x", values[:, :-1]), ("y", values[:, 1:])):
                flat = {**storage, "chunks": storage["chunks"][1:]}
                file.create_dataset(part, data=chosen.reshape(-1, SIDE, SIDE), **flat)
        found[name] = {"well": well, "pairs": pairs}
    return found


def _stored_as(path: Path, values: np.ndarray, storage: dict[str, object]) -> None:
    with h5py.File(path, "r+") as file:
        group = file["t0_fields"]
        assert isinstance(group, h5py.Group)
        attrs = dict(group["u"].attrs)
        del group["u"]
        group.create_dataset("u", data=values, **storage).attrs.update(attrs)
        # Fields of The Well that have a dummy dimension of one run would be another file.
        file.attrs["n_trajectories"] = len(values)
