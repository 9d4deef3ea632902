"""Samples of random data sets against arrays in memory: any storage, order of axes, selection and batch.

The reference knows nothing of files: it loops over windows and patches, and cuts the arrays that were written.
"""

from __future__ import annotations

import os
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from physdiff.data.fieldset import FieldSet
from physdiff.data.formats.the_well_writer import FieldSpec, WellFile
from physdiff.data.handles import close_all
from physdiff.data.layout import Layout
from physdiff.data.packing import packing, plugin_is_there
from physdiff.data.selection import Selection
from physdiff.grid import Grid

COUNT = int(os.environ.get("PHYSDIFF_RANDOM_SETS", "40"))
Arrays = dict[str, np.ndarray]  # by name, shape (runs, frames, *grid); numbers (runs, frames)


class RandomSet:
    """One to three files of one kind, and what was written into them."""

    def __init__(self, rng: np.random.Generator, folder: Path) -> None:
        self.rng = rng
        self.kind = str(rng.choice(["well", "npz", "hdf5", "hdf5", "hdf5"]))
        self.is_joined = self.kind != "well" and rng.random() < 0.4
        self.dims = ("x", "y", "z")[: int(rng.integers(1, 4))]
        self.shape = tuple(int(n) for n in rng.integers(2, 7, len(self.dims)))
        self.dtypes = {name: str(rng.choice(["<f4", "<f4", "<f8", ">f4", "<i2"])) for name in ("p", "v", "s")}
        self.packed = self.kind == "hdf5" and rng.random() < 0.3
        self.missing = str(rng.choice(["none", "none", "nan", "mask"]))
        if self.kind == "well":
            self.dtypes, self.missing = dict.fromkeys("pvs", "<f4"), str(rng.choice(["none", "mask"]))
        # Axes of each field in stored order, and how arrays lie in the file.
        whole = ["trajectory", "time", *self.dims]
        axes = {"p": whole, "v": [*whole, "component"], "s": list(self.dims), "m": whole}
        plain = rng.random() < 0.4
        self.axes = {n: a if plain else [a[i] for i in rng.permutation(len(a))] for n, a in axes.items()}
        # The grid's axes are in the order of the field with most axes.
        if self.kind != "well":
            self.dims = tuple(a for a in self.axes["v"] if a in self.dims)
        self.paths: list[Path] = []
        self.written: list[Arrays] = []
        for number in range(int(rng.integers(1, 4))):
            path = folder / f"{number}.{ {'well': 'hdf5', 'hdf5': 'h5', 'npz': 'npz'}[self.kind] }"
            self.written.append(self.write(path, int(rng.integers(1, 5)), int(rng.integers(1, 10))))

    def write(self, path: Path, runs: int, frames: int) -> Arrays:
        rng, d = self.rng, len(self.dims)
        sizes = {"p": (), "v": (d,), "s": (), "m": ()}
        stored, found = {}, {}
        mask = rng.random((runs, frames, *self.shape)) < 0.7
        for name, more in sizes.items():
            lead = () if name == "s" else (runs, frames)
            dtype = np.dtype(self.dtypes.get(name, "<f4"))
            x = (rng.standard_normal((*lead, *self.shape, *more)) * 100).astype(dtype)
            if name in "pv" and dtype.kind == "f" and self.missing != "none" and not (self.packed and name == "p"):
                hole = ~mask if self.missing == "mask" else rng.random(mask.shape) < 0.1
                x[hole] = np.nan
            stored[name] = mask.astype(dtype) if name == "m" else x
            true = stored[name].astype(np.float64)
            if self.packed and name == "p":
                true = true * 0.25 + 3.0
            for i in range(max(1, len(more) and d)):
                part = true[..., i] if more else true
                key = f"{name}_{self.dims[i]}" if more else name
                found[key] = np.broadcast_to(part, (runs, frames, *self.shape))
        nu, f = rng.standard_normal(runs), rng.standard_normal(frames)
        found |= {"nu": np.broadcast_to(nu[:, None], (runs, frames)), "f": np.broadcast_to(f, (runs, frames))}
        times = rng.uniform(0.1, 1, frames).cumsum()
        found["time"] = np.broadcast_to(times, (runs, frames))
        if self.kind == "well":
            specs = {"p": FieldSpec(), "v": FieldSpec(rank=1), "m": FieldSpec(),
                     "s": FieldSpec(sample_varying=False, time_varying=False)}  # fmt: skip
            grid = Grid(self.shape, (1.0,) * d, "periodic", self.dims)
            how = "gzip" if rng.random() < 0.5 else None
            self.paths.append(path)
            with WellFile(path, specs, grid, runs, times, parameters={"nu": nu}, compression=how, missing=True) as file:
                file.write(0, {name: stored[name] for name in specs})
            return found
        order = {"p": ["trajectory", "time", *self.dims], "m": ["trajectory", "time", *self.dims], "s": [*self.dims],
                 "v": ["trajectory", "time", *self.dims, "component"]}  # fmt: skip
        arrays = {n: x.transpose([order[n].index(a) for a in self.axes[n]]) for n, x in stored.items()}
        arrays |= {"nu": nu, "f": f, "t": times}
        axes = {**self.axes, "nu": ["trajectory"], "f": ["time"], "t": ["time"]}
        if self.is_joined:
            self.write_sets(path, arrays, axes, frames)
        else:
            self.store(path, arrays)
        return found

    def write_sets(self, path: Path, arrays: Arrays, axes: dict[str, list[str]], frames: int) -> None:
        """One run in several files, of which some go on beyond the beginning of the next."""
        rng, number = self.rng, int(self.rng.integers(0, 97))
        cuts = sorted({0, *rng.integers(0, frames, 3).tolist()}) if rng.random() < 0.7 else list(range(frames))
        for first, last in pairwise([*cuts, frames]):
            number += int(rng.integers(1, 5))
            further = int(rng.integers(0, 3)) if last < frames and last - first > 0 and rng.random() < 0.5 else 0
            own = {}
            for name, x in arrays.items():
                if "time" in axes[name]:
                    axis = axes[name].index("time")
                    x = x.take(range(first, min(last + further, frames)), axis)
                    stale = (slice(None),) * axis + (slice(last - first, None),)
                    if name != "t":
                        x[stale] = 77
                own[name] = x
            self.store(path.with_stem(f"{path.stem}_{number}"), own)

    def store(self, path: Path, arrays: Arrays) -> None:
        rng = self.rng
        self.paths.append(path)
        if self.kind == "npz":
            (np.savez if rng.random() < 0.5 else np.savez_compressed)(path, **arrays)  # pyright: ignore[reportArgumentType]
            return
        with h5py.File(path, "w") as file:
            for name, x in arrays.items():
                made = file.create_dataset(name, data=x, **(self.storage(x.shape) if x.ndim > 1 else {}))
                if self.packed and name == "p":
                    made.attrs["scale_factor"], made.attrs["add_offset"] = 0.25, 3.0

    def storage(self, shape: tuple[int, ...]) -> dict[str, Any]:
        rng = self.rng
        chunks = tuple(int(rng.integers(1, n + 1)) for n in shape)
        if rng.random() < 0.5:  # frames are chunks
            chunks = tuple(1 if i < 2 else n for i, n in enumerate(shape))
        ways = [{}, {"chunks": chunks}, {"chunks": chunks, **packing("gzip")}]
        if plugin_is_there():
            ways.append({"chunks": chunks, **packing("lz4")})
        return ways[int(rng.integers(len(ways)))]

    def layout(self) -> Layout | None:
        if self.kind == "well":
            return None
        return Layout(
            fields={n: {"path": n, "dims": list(axes)} for n, axes in self.axes.items()},
            dims=["trajectory", "time", *self.dims], components=list(self.dims), boundary="periodic", extent=1.0,
            time="t", join="number" if len(self.paths) > len(self.written) else None,
            scalars={"nu": {"path": "nu", "dims": ["trajectory"]}, "f": {"path": "f", "dims": ["time"]}},
        )  # fmt: skip

    def selection(self) -> Selection:
        rng, free = self.rng, [*(f"v_{dim}" for dim in self.dims), "p"]
        chosen = [str(n) for n in rng.permutation(free)[: int(rng.integers(1, len(free) + 1))]]
        rest = [n for n in (*free, "s") if n not in chosen]
        numbers = ["nu", "time"] if self.kind == "well" else ["nu", "f", "time"]
        condition = [n for n in (*rest, *numbers) if rng.random() < 0.3]
        cut = {}
        for dim, n in zip(self.dims, self.shape, strict=True):
            if rng.random() < 0.2:
                first = int(rng.integers(0, n))
                cut[dim] = (first, int(rng.integers(first + 1, n + 1)))
        cropped = [cut[d][1] - cut[d][0] if d in cut else n for d, n in zip(self.dims, self.shape, strict=True)]
        patch = tuple(int(rng.integers(1, n + 1)) for n in cropped) if rng.random() < 0.25 else None
        strides = tuple(int(rng.integers(1, 3)) for _ in cropped) if patch and rng.random() < 0.5 else None
        size = patch or cropped
        coarse = tuple(int(rng.choice([f for f in range(1, n + 1) if n % f == 0])) for n in size)
        edges = {d: "neumann" for d, n, whole in zip(self.dims, size, self.shape, strict=True) if n != whole}
        return Selection(
            tuple(chosen), frames=int(rng.integers(1, 4)), past=int(rng.choice([0, 0, 1, 2])),
            time_stride=int(rng.integers(1, 3)), window_stride=int(rng.integers(1, 4)), condition=tuple(condition),
            crop=cut or None, crop_boundary=edges or None, patch=patch, patch_stride=strides,
            coarsen=coarse if rng.random() < 0.3 else 1, mask={"none": None, "nan": "nan", "mask": "m"}[self.missing],
        )  # fmt: skip


def samples_of(made: RandomSet, s: Selection, taken: list[np.ndarray | None]) -> list[tuple[int, int, int, Any]]:
    """File, run, first frame and cells of every sample, by loops."""
    found = []
    axes = []
    for i, (dim, n) in enumerate(zip(made.dims, made.shape, strict=True)):
        low, high = (s.crop or {}).get(dim, (0, n))
        size = s.patch[i] if s.patch else high - low
        step = s.patch_stride[i] if s.patch_stride else size
        axes.append([slice(at, at + size) for at in range(low, high - size + 1, step)])
    for number, arrays in enumerate(made.written):
        runs, frames = arrays["p"].shape[:2]
        for run in range(runs) if taken[number] is None else taken[number]:  # pyright: ignore[reportOptionalIterable]
            for start in range(0, frames, s.window_stride):
                if start + (s.past + s.frames - 1) * s.time_stride < frames:
                    found += [(number, int(run), start, cells) for cells in product(*axes)]
    return found


def cut(
    made: RandomSet, s: Selection, name: str, at: tuple[int, int, int, Any], frame: int, masked: bool
) -> np.ndarray:
    number, run, start, cells = at
    arrays, when = made.written[number], start + frame * s.time_stride
    x = arrays[name][(run, when, *cells)]
    if masked and s.mask == "m":
        x = np.where(arrays["m"][(run, when, *cells)] != 0, x, np.nan)
    factors = (s.coarsen,) * x.ndim if isinstance(s.coarsen, int) else s.coarsen
    if max(factors) == 1:
        return x
    out = np.empty([n // f for n, f in zip(x.shape, factors, strict=True)])
    for index in np.ndindex(out.shape):
        block = x[tuple(slice(i * f, (i + 1) * f) for i, f in zip(index, factors, strict=True))]
        seen = block[~np.isnan(block)]
        out[index] = seen.mean() if len(seen) else np.nan
    return out


def batches(rng: np.random.Generator, n: int) -> list[Any]:
    stretch = int(rng.integers(0, n))
    return [
        [int(rng.integers(n))], rng.integers(0, n, 5), list(range(stretch, min(stretch + 7, n))),
        rng.permutation(n)[:20].astype(np.int32), [np.int64(i) for i in rng.integers(0, n, 4)] + [0, 0],
        rng.integers(0, n, 80), np.arange(n, dtype=np.uint16)[::-1][:70],
    ]  # fmt: skip


@pytest.mark.parametrize("part", range(4))
def test_samples_of_random_sets_are_cuts_of_what_was_written(tmp_path: Path, part: int) -> None:
    looked_at = 0
    for seed in range(part, COUNT, 4):
        rng = np.random.default_rng([6, seed])
        folder = tmp_path / str(seed)
        folder.mkdir()
        made = RandomSet(rng, folder)
        s = made.selection()
        taken: list[np.ndarray | None] = [
            np.flatnonzero(rng.random(len(a["p"])) < 0.8) if rng.random() < 0.3 else None for a in made.written
        ]
        samples = samples_of(made, s, taken)
        whole = Selection(("p",), mask=s.mask)
        if not samples:
            with pytest.raises(ValueError, match="a sample spans"):
                FieldSet(FieldSet.open(made.paths, whole, made.layout()).sources, s, "", taken)
            continue
        fields = FieldSet(FieldSet.open(made.paths, whole, made.layout()).sources, s, "", taken)
        assert len(fields) == len(samples)
        given = [n for n in s.condition if n in made.written[0] and n not in ("nu", "f", "time")]
        numbers = [n for n in s.condition if n in ("nu", "f", "time")]
        assert s.fields is not None
        exact = s.coarsen == 1 or max(np.ravel(s.coarsen)) == 1
        for rows in batches(rng, len(samples)):
            found = fields.read(rows)
            for i, row in enumerate(rows):
                at, told = samples[int(row)], f"set {seed}, {made.kind}, {s}, row {row} of {rows}"
                value = [cut(made, s, n, at, s.past + j, True) for n in s.fields for j in range(s.frames)]
                more = [cut(made, s, n, at, j, True) for n in s.fields for j in range(s.past)]
                more += [cut(made, s, n, at, s.past, False) for n in given]
                assert (found.given is None) == (not more), told
                for x, y in [(found.values[i], value)] + ([(found.given[i], more)] if found.given is not None else []):
                    y = np.stack(y).astype(x.dtype)
                    np.testing.assert_allclose(x, y, rtol=0 if exact else 2e-6, atol=0 if exact else 2e-5, err_msg=told)
                if s.mask:
                    assert found.observed is not None
                    np.testing.assert_array_equal(found.observed[i], ~np.isnan(np.stack(value)), err_msg=told)
                if numbers:
                    assert found.scalars is not None
                    when = at[1], at[2] + s.past * s.time_stride
                    expected = [made.written[at[0]][n][when] for n in numbers]
                    np.testing.assert_array_equal(found.scalars[i], expected, err_msg=told)
                looked_at += 1
        for wrong in ([-1], [len(samples)], [0] * 70 + [-1], [0] * 70 + [len(samples)]):
            with pytest.raises(IndexError, match="there is no sample"):
                fields.read(wrong)
        close_all()
    assert looked_at > 10 * COUNT
