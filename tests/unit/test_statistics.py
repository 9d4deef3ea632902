"""Streaming statistics against numpy on the whole arrays; what they belong to; what is refused; memory."""

from __future__ import annotations

import math
import os
import tracemalloc
import zipfile
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from physdiff.basis import SpectralBasis
from physdiff.cli import run
from physdiff.data import fingerprint, streaming, subsample
from physdiff.data.data_identity import identity_of
from physdiff.data.fields import open_fields
from physdiff.data.fieldset import FieldSet
from physdiff.data.formats.the_well_writer import FieldSpec, WellFile, write_stats
from physdiff.data.handles import close_all
from physdiff.data.moments import Moments
from physdiff.data.normalise import PerVariable, Standardise
from physdiff.data.preparation import copies
from physdiff.data.reference import fit_normaliser, fit_reference
from physdiff.data.selection import Selection
from physdiff.data.source import Source, Variable
from physdiff.data.statistics import measure
from physdiff.data.statistics_file import (
    read_statistics,
    statistics_of,
    stored_at,
    write_beside,
    write_statistics,
)
from physdiff.data.stored import MemoryArray
from physdiff.data.symmetry import senses
from physdiff.data.view import View
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.training.augment import Symmetries

GRID = Grid((5, 4), boundary=("periodic", "neumann"))


def in_memory(selection: Selection | None = None, grid: Grid = GRID, **arrays: np.ndarray) -> FieldSet:
    """A set of one object in memory: fields (runs, frames, *grid), and numbers of the runs by names in capitals."""
    fields = {name: x for name, x in arrays.items() if not name.isupper()}
    runs, frames = next(iter(fields.values())).shape[:2]
    variables = tuple(
        Variable(name, View(MemoryArray(x), ("trajectory", "time", *grid.dims)), "m") for name, x in fields.items()
    )
    times = np.broadcast_to(0.5 * np.arange(frames), (runs, frames))
    scalars = {name: x for name, x in arrays.items() if name.isupper()}
    dims = {name: ("trajectory",) for name in scalars}
    source = Source("made", "memory", grid, variables, runs, times, scalars, dims)
    return FieldSet([source], selection)


def waves(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.fixture
def in_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "BLOCK_BYTES", 8 * 2 * 20 * 7)  # 7 samples of two channels


# ---- sums


def test_a_mean_of_1e8_costs_no_digit_of_the_spread() -> None:
    """Blocks of 1000 numbers at 1e8 ± 1 against numpy's two passes over all in long double."""
    x = 1e8 + waves(3, 50_000)
    moments = Moments((3,))
    for start in range(0, x.shape[1], 1000):
        moments.add(x[:, start : start + 1000])
    exact = x.astype(np.longdouble)
    mean, std = exact.mean(1), exact.std(1)
    error = np.abs(moments.mean - mean).max() / 1e8, np.abs(moments.std / std - 1).max()
    print(f"relative error of mean {error[0]:.1e}, of std {error[1]:.1e}")  # both measured 1e-16
    assert error[0] < 3e-16 and error[1] < 3e-16
    assert np.array_equal(moments.low, x.min(1)) and np.array_equal(moments.high, x.max(1))


def test_parts_of_different_size_join_to_the_whole() -> None:
    """Uneven blocks, one of them empty and one without a counted number, with means far apart."""
    x = waves(2, 400) + np.repeat([0.0, 50.0, -3.0, 7.0], 100)
    where = np.random.default_rng(1).random((2, 400)) < 0.7
    where[:, 100:130] = False
    moments = Moments((2,))
    for a, b in ((0, 1), (1, 1), (1, 100), (100, 130), (130, 399), (399, 400)):
        moments.add(x[:, a:b], where[:, a:b])
    for c in range(2):
        chosen = x[c, where[c]]
        assert moments.count[c] == len(chosen)
        assert moments.mean[c] == pytest.approx(chosen.mean(), rel=1e-13)
        assert moments.std[c] == pytest.approx(chosen.std(), rel=1e-13)
        assert moments.rms[c] == pytest.approx(np.sqrt(np.square(chosen).mean()), rel=1e-13)
        assert (moments.low[c], moments.high[c]) == (chosen.min(), chosen.max())


# ---- of a data set


@pytest.mark.usefixtures("in_small_blocks")
def test_statistics_are_those_of_the_whole_arrays() -> None:
    u, v = 3 * waves(4, 6, 5, 4) + 100, np.exp(waves(4, 6, 5, 4, seed=1))
    numbers = np.array([1.0, 2.0, 4.0, 8.0])
    found = measure(in_memory(Selection(condition=("NU", "time")), u=u, v=v, NU=numbers))
    assert (found.samples, [s.name for s in found.channels]) == (24, ["u", "v"])
    for name, x in (("u", u), ("v", v)):
        s, change = found.of(name), np.diff(x, axis=1)
        assert (s.count, s.missing, s.not_finite, s.units) == (480, 0, 0, "m")
        expected = {
            "mean": x.mean(), "std": x.std(), "rms": np.sqrt(np.square(x).mean()), "low": x.min(), "high": x.max(),
            "change_mean": change.mean(), "change_std": change.std(),
        }  # fmt: skip
        assert {k: getattr(s, k) for k in expected} == pytest.approx(expected, rel=1e-12)
        # All values are drawn, so that quantiles are exact.
        for p in (0, 0.01, 0.25, 0.5, 0.99, 1):
            assert s.quantile(p) == np.quantile(x, p) and s.rank_error(p) == 0
    assert (found.of("NU").mean, found.of("NU").std) == pytest.approx((3.75, numbers.std()), rel=1e-14)
    assert found.of("time").mean == pytest.approx(1.25, rel=1e-14) and found.of("time").change_mean == 0.5
    with pytest.raises(ValueError, match="no field 'w'; it has"):
        found.of("w")


@pytest.mark.usefixtures("in_small_blocks")
def test_windows_and_past_frames_count_as_often_as_samples_hold_them() -> None:
    u = waves(2, 9, 5, 4)
    found = measure(in_memory(Selection(frames=2, past=1, window_stride=2), u=u))
    samples = np.stack([u[r, s : s + 3] for r in range(2) for s in range(0, 7, 2)])
    for name, j in (("u@-1", 0), ("u@0", 1), ("u@1", 2)):
        assert found.of(name).mean == pytest.approx(samples[:, j].mean(), rel=1e-12)
        assert found.of(name).std == pytest.approx(samples[:, j].std(), rel=1e-12)
    later = np.concatenate([np.diff(samples[:4, 1], axis=0), np.diff(samples[4:, 1], axis=0)])
    assert found.of("u@0").change_std == pytest.approx(later.std(), rel=1e-12)


@pytest.mark.usefixtures("in_small_blocks")
def test_changes_stay_within_a_run_and_a_patch() -> None:
    u = waves(3, 5, 6, 4)
    grid = Grid((6, 4), boundary="neumann")
    s = measure(in_memory(Selection(patch=(3, 2)), grid, u=u)).of("u")
    change = np.diff(u, axis=1)
    assert s.count == u.size
    assert (s.change_mean, s.change_std) == pytest.approx((change.mean(), change.std()), rel=1e-12)


@pytest.mark.usefixtures("in_small_blocks")
def test_under_a_mask_statistics_are_of_observed_cells() -> None:
    u, v = waves(4, 6, 5, 4), waves(4, 6, 5, 4, seed=1)
    u[:, :, 1:3, 2] = np.nan
    v[2, 3] = np.nan
    found = measure(in_memory(Selection(mask="nan"), u=u, v=v))
    for name, x in (("u", u), ("v", v)):
        s, change = found.of(name), np.diff(x, axis=1)
        assert (s.count, s.missing) == ((~np.isnan(x)).sum(), np.isnan(x).sum())
        assert (s.mean, s.std) == pytest.approx((np.nanmean(x), np.nanstd(x)), rel=1e-12)
        assert (s.change_mean, s.change_std) == pytest.approx((np.nanmean(change), np.nanstd(change)), rel=1e-11)
        assert s.quantile(0.5) == np.nanquantile(x, 0.5)
    assert fit_normaliser(in_memory(Selection(mask="nan"), u=u, v=v)).channels == 2
    with pytest.raises(ValueError, match="channel 'v' is observed nowhere"):
        fit_normaliser(in_memory(Selection(mask="nan"), u=u, v=np.nan * v))


def test_values_that_are_no_numbers_are_counted_and_refused() -> None:
    x = waves(6, 2, 3)
    x[4, 1, 2] = np.inf
    with pytest.raises(ValueError, match="channel 'b' holds a value that is not finite"):
        Standardise.fit(x, ["a", "b"])


def test_quantiles_of_a_large_set_are_off_by_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """2000 of 160000 values of which neighbours are alike: the rank of each quantile within 4 standard errors."""
    monkeypatch.setattr(subsample.Subsample.__init__, "__defaults__", (2000,))
    u = np.cumsum(waves(8, 1000, 5, 4), axis=1)
    s = measure(in_memory(u=u)).of("u")
    assert len(s.drawn) == 2000 and (s.quantile(0.0), s.quantile(1.0)) == (u.min(), u.max())
    for p in (0.05, 0.25, 0.5, 0.75, 0.95):
        error = s.rank_error(p)
        z = ((u < s.quantile(p)).mean() - p) / error
        print(f"p = {p}: z = {z:.2f}")
        assert error == pytest.approx(math.sqrt(p * (1 - p) / 2000)) and abs(z) < 4
    assert np.array_equal(measure(in_memory(u=u)).of("u").drawn, s.drawn)


@pytest.mark.usefixtures("in_small_blocks")
def test_normaliser_and_reference_are_those_of_the_whole_arrays() -> None:
    """Against numpy over all samples at once, and `GaussianField.fit`."""
    u, v = 3 * waves(20, 3, 5, 4) + 1e4, np.exp(waves(20, 3, 5, 4, seed=1))
    fields, basis = in_memory(u=u, v=v), SpectralBasis(GRID)
    x = torch.from_numpy(np.stack([u, v], 2).reshape(60, 2, 5, 4))
    for kind in ("standard", "robust", {"v": "log"}, "power"):
        normaliser = fit_normaliser(fields, kind)
        z = normaliser.forward(x)
        if kind != "robust":
            torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(2).double(), atol=1e-11, rtol=0)
            torch.testing.assert_close(z.std((0, 2, 3), correction=0), torch.ones(2).double(), atol=1e-12, rtol=0)
        for homogeneous in (False, True):
            sizes = (x * normaliser.log_slope(x).exp()).square().mean((0, 2, 3)).sqrt()
            eps = torch.finfo(torch.float64).eps
            expected = GaussianField.fit(z, basis, 0.1, homogeneous, rounding=sizes * eps)
            found = fit_reference(fields, normaliser, basis, 0.1, homogeneous)
            for name in ("mean", "spectrum", "floor"):
                torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-12, atol=1e-12)
            assert torch.equal(found.support, expected.support)
    assert isinstance(fit_normaliser(fields, {"v": "log"}), PerVariable)


def test_an_offset_wakes_no_dead_mode() -> None:
    """float32 data at 300 ± 1 with a band of modes: what is left of its rounding is no mode of the field."""
    grid = Grid((8, 8))
    basis = SpectralBasis(grid)
    band = torch.where(basis.laplacian < 300, 1.0, 0.0).double()
    law = GaussianField(basis, torch.zeros(1, 8, 8).double(), band.unsqueeze(0))
    x = law.sample(64, torch.Generator().manual_seed(1)).numpy()
    for offset in (0.0, 300.0):
        fields = in_memory(grid=grid, u=(x + offset).astype(np.float32))
        assert fit_reference(fields, fit_normaliser(fields), basis).n_support == int(band.sum())


def test_turned_copies_count_as_samples() -> None:
    u = waves(12, 1, 5, 4)
    fields, basis = in_memory(u=u), SpectralBasis(GRID)
    normaliser = fit_normaliser(fields)

    def turned(x: Tensor) -> Sequence[Tensor]:
        return x, x.flip(-1)

    z = normaliser.forward(torch.from_numpy(u))
    expected = GaussianField.fit(torch.cat(list(turned(z))), basis, 0.05)
    found = fit_reference(fields, normaliser, basis, 0.05, turned=turned)
    torch.testing.assert_close(found.spectrum, expected.spectrum, rtol=1e-12, atol=1e-12)


def test_what_a_spectrum_cannot_be_of() -> None:
    u = waves(4, 1, 5, 4)
    u[0, 0, 0, 0] = np.nan
    fields = in_memory(Selection(mask="nan"), u=u)
    with pytest.raises(ValueError, match="cells that are not observed"):
        fit_reference(fields, fit_normaliser(fields), SpectralBasis(GRID))
    one = in_memory(u=waves(1, 1, 5, 4))
    with pytest.raises(ValueError, match="at least 2 samples; got 1"):
        fit_reference(one, fit_normaliser(one), SpectralBasis(GRID))
    with pytest.raises(ValueError, match=r"made: channel 'v' holds -?[\d.]+; 'log' takes values above 0 only"):
        fit_normaliser(in_memory(u=waves(4, 1, 5, 4), v=waves(4, 1, 5, 4)), {"v": "log"})


# ---- kept, and for which data


def well(folder: Path, seed: int = 0) -> Path:
    """A data set of two files in its training split; values of `valid` are far from those of `train`."""
    rng = np.random.default_rng(seed)
    fields = {"u": FieldSpec("m"), "velocity": FieldSpec("m/s", rank=1)}
    for name, offset in (("train/a.h5", 0), ("train/b.h5", 0), ("valid/a.h5", 1000)):
        (folder / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        with WellFile(folder / "data" / name, fields, GRID, 3, np.arange(4.0)) as file:
            u, v = rng.standard_normal((3, 4, 5, 4)) + offset, rng.standard_normal((3, 4, 5, 4, 2))
            file.write(0, {"u": u.astype(np.float32), "velocity": v.astype(np.float32)})
    return folder


def test_stored_statistics_have_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fields = open_fields(well(tmp_path / "set"), split="train")
    found = statistics_of(fields)
    beside, place = stored_at(fields, found.identity)
    assert beside.parent == tmp_path / "set" / "statistics" and place.is_relative_to(tmp_path / "cache")
    # Nobody asked training to write beside the data.
    assert place.is_file() and not beside.parent.exists()

    def measured_again(*args: object) -> None:
        raise AssertionError("stored statistics were measured again")

    monkeypatch.setattr("physdiff.data.statistics_file.measure", measured_again)
    again = statistics_of(open_fields(tmp_path / "set", split="train"))
    for mine, theirs in zip(found.channels, again.channels, strict=True):
        for name, value in vars(mine).items():
            assert np.array_equal(value, getattr(theirs, name), equal_nan=name.startswith("change")), name
    assert (again.identity, again.content, again.samples, again.split) == (
        found.identity, found.content, 24, "train",
    )  # fmt: skip
    # Nothing of `valid`, which lies at 1000.
    assert found.of("u").high < 10


def test_a_second_run_does_not_read_the_set_for_its_spectrum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fields, basis = open_fields(well(tmp_path / "set"), split="train"), SpectralBasis(GRID)
    statistics = statistics_of(fields)
    normaliser = fit_normaliser(fields, statistics=statistics)
    turns = [None, copies(Symmetries.of(["flip"], GRID, senses(fields.channels), []).turns, senses(fields.channels))]
    assert turns[1] is not None
    plain = [fit_reference(fields, normaliser, basis, turned=turned) for turned in turns]
    for turned in turns:
        fit_reference(fields, normaliser, basis, turned=turned, identity=statistics.content)
    with monkeypatch.context() as unread:
        unread.setattr("physdiff.data.reference.blocks", lambda *_: pytest.fail("the set was read again"))
        for turned, law in zip(turns, plain, strict=True):
            again = fit_reference(fields, normaliser, basis, turned=turned, identity=statistics.content)
            for mine, its in ((again.mean, law.mean), (again.spectrum, law.spectrum), (again.floor, law.floor)):
                assert torch.equal(mine, its)
    assert not torch.equal(plain[0].spectrum, plain[1].spectrum)
    # Another scale of the fields has another spectrum, and other data too.
    other = Standardise(torch.zeros(3), torch.full((3,), 2.0))
    kept = fit_reference(fields, other, basis, identity=statistics.content)
    assert torch.equal(kept.spectrum, fit_reference(fields, other, basis).spectrum)
    files = sorted((tmp_path / "cache" / "physdiff" / "statistics").glob("*-spectrum-*.npz"))
    assert len(files) == 3
    for file, next_one in zip(files, (*files[1:], files[0]), strict=True):
        (tmp_path / file.name).write_bytes(next_one.read_bytes())
    for file in files:
        (tmp_path / file.name).replace(file)
    with pytest.raises(ValueError, match="holds a spectrum of other data: its digest is"):
        fit_reference(fields, normaliser, basis, identity=statistics.content)
    for file in files:
        file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"spectrum-.*npz is damaged or of another version"):
        fit_reference(fields, normaliser, basis, identity=statistics.content)


def test_statistics_of_other_data_are_refused(tmp_path: Path) -> None:
    fields, path = open_fields(well(tmp_path / "set"), split="train"), tmp_path / "kept.npz"
    found = measure(fields)
    write_statistics(found, path)
    assert read_statistics(path, fields).identity == found.identity
    other = open_fields(well(tmp_path / "other", seed=1), split="train")
    with pytest.raises(ValueError, match=r"other data or of another selection than .*other: with the digest"):
        read_statistics(path, other)
    with pytest.raises(ValueError, match="of the channels u, velocity_x, velocity_y; the data has u;"):
        read_statistics(path, open_fields(tmp_path / "set", ["u"], "train"))
    fewer = open_fields(tmp_path / "set", split="train", selection=Selection(window_stride=3))
    with pytest.raises(ValueError, match="of 24 samples; the data has 12;"):
        read_statistics(path, fewer)
    coarse = open_fields(tmp_path / "set", split="train", selection=Selection(time_stride=2))
    with pytest.raises(ValueError, match="of another selection"):
        read_statistics(path, coarse)
    half = fields.restricted([np.array([0, 1]), np.array([0, 1])])
    swapped = fields.restricted([np.array([0, 1]), np.array([0, 2])])
    assert len({identity_of(f) for f in (fields, half, swapped)}) == 3
    test = measure(open_fields(tmp_path / "set", split="valid"), "test")
    write_statistics(test, path)
    with pytest.raises(ValueError, match="holds statistics of the split 'test'; expected those of 'train'"):
        read_statistics(path, fields)
    with pytest.raises(ValueError, match="are those of the split 'train'; got 'valid'"):
        statistics_of(open_fields(tmp_path / "set", split="valid"), "valid")
    whole = path.read_bytes()
    for at in range(0, len(whole), len(whole) // 60):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        try:
            same = read_statistics(path)  # a byte of the archive that says nothing
        except ValueError as error:
            assert f"{path} is damaged or of another version" in str(error)
        else:
            assert same.content == test.content and same.of("u").mean == test.of("u").mean
    path.write_bytes(whole[:-200])
    with pytest.raises(ValueError, match=r"kept\.npz is damaged or of another version"):
        read_statistics(path, fields)
    # What numpy raises of such a header is no ValueError.
    header = b"{'descr': '<U1', 'fortran_order': False, 'shape': (\x00".ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("statistics.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(ValueError, match=r"kept\.npz is damaged or of another version"):
        read_statistics(path, fields)
    with pytest.raises(FileNotFoundError, match="there are no statistics"):
        read_statistics(tmp_path / "none.npz")


def test_one_changed_byte_is_noticed_and_a_moved_set_is_not(tmp_path: Path) -> None:
    before = identity_of(open_fields(well(tmp_path / "set"), split="train"))
    (tmp_path / "set").rename(tmp_path / "moved")
    fields = open_fields(tmp_path / "moved", split="train")
    assert identity_of(fields) == before
    path = tmp_path / "moved/data/train/b.h5"
    with h5py.File(path) as file:
        at = file["t0_fields/u"].id.get_offset() + 500  # type: ignore[union-attr]
    with path.open("r+b") as raw:
        raw.seek(at)
        byte = raw.read(1)[0]
        raw.seek(at)
        raw.write(bytes([byte ^ 1]))
    assert identity_of(open_fields(tmp_path / "moved", split="train")) != before


def test_a_file_that_was_written_to_where_no_digest_looks_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames are exchanged in place: size, ends, probes, mean and spread stay, the spectrum and one's date do not."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fingerprint, "ALL_UP_TO", 0)
    monkeypatch.setattr("physdiff.data.data_identity._add_file", lambda *_: None)
    path, basis = tmp_path / "long.h5", SpectralBasis(Grid((4, 4)))
    with h5py.File(path, "w") as file:
        file["u"] = waves(1, 60, 4, 4)

    def opened() -> FieldSet:
        dims = ["trajectory", "time", "y", "x"]
        layout = {"fields": {"u": "u"}, "dims": dims, "extent": [1, 1], "boundary": "periodic", "time": 1.0}
        return open_fields(path, layout=layout)

    def power(fields: FieldSet) -> Tensor:
        found = statistics_of(fields)
        normaliser = Standardise.of(found.channels)
        return fit_reference(fields, normaliser, basis, identity=found.content).spectrum

    before, spectrum = statistics_of(opened()), power(opened())
    write_statistics(before, tmp_path / "mine.npz")
    assert read_statistics(tmp_path / "mine.npz", opened()).content == before.content
    dates = path.stat()
    close_all()
    with h5py.File(path, "r+") as file:
        frames = np.asarray(file["u"])
        frames[0, 5:7] = np.sort(frames[0, 5:7].ravel()).reshape(2, 4, 4)  # between the samples that are looked at
        file["u"][...] = frames  # pyright: ignore[reportIndexIssue]
    os.utime(path, ns=(dates.st_atime_ns, dates.st_mtime_ns))
    after = statistics_of(opened())
    assert after.identity == before.identity and after.content != before.content
    assert after.of("u").mean == pytest.approx(before.of("u").mean, abs=1e-12)
    assert not torch.allclose(power(opened()), spectrum)
    monkeypatch.delattr("physdiff.data.statistics_file.measure")
    assert statistics_of(opened()).content == after.content  # once
    with pytest.raises(ValueError, match=r"long\.h5' was written to since .*mine\.npz' was made"):
        read_statistics(tmp_path / "mine.npz", opened())
    close_all()
    (tmp_path / "moved").mkdir()
    path = path.rename(tmp_path / "moved" / "long.h5")
    assert statistics_of(opened()).content == after.content  # a set that was moved is the same


def test_where_statistics_go_if_the_data_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fields = open_fields(well(tmp_path / "set"), split="train")
    (tmp_path / "set" / "statistics").write_text("a file where the folder would be")
    found = measure(fields)
    place = write_beside(found, fields)
    assert place is not None and place.parent == tmp_path / "cache" / "physdiff" / "statistics"
    monkeypatch.delattr("physdiff.data.statistics_file.measure")
    assert statistics_of(fields).content == found.content


def test_memory_does_not_follow_the_number_of_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """1024 and 4096 samples in blocks of 32: what is held at once is a block and the drawn values, not the set."""
    block = 8 * 32 * 32 * 32
    monkeypatch.setattr(streaming, "BLOCK_BYTES", block)
    monkeypatch.setattr(fingerprint, "ALL_UP_TO", block)
    grid = Grid((32, 32))
    run = waves(1, 64, 32, 32).astype(np.float32)
    most = []
    for runs in (16, 64):
        fields = in_memory(grid=grid, u=np.broadcast_to(run, (runs, 64, 32, 32)))  # no memory of its own
        normaliser = Standardise(torch.zeros(1), torch.ones(1))
        tracemalloc.start()
        try:
            assert measure(fields).samples == 64 * runs
            most.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.reset_peak()
            fit_reference(fields, normaliser, SpectralBasis(grid))
            most.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    print(f"peaks of {[f'{x / 1e6:.1f} MB' for x in most]}; the larger set has {4 * 4096 * 1024 / 1e6:.1f} MB")
    assert most[2] < most[0] + block and most[3] < most[1] + block
    assert most[2] < 10e6  # measured 7.3 MB: drawn values, their positions and their sorted copy have 1 MB each


# ---- the command


def test_command_prints_keeps_and_compares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = well(tmp_path / "set")
    write_stats(folder)
    assert run(["data", "stats", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "24 samples of the split 'train'" in said and "velocity_y [m/s]" in said and "warning" not in said
    u = np.concatenate([h5py.File(folder / f"data/train/{f}.h5")["t0_fields/u"][()] for f in "ab"])  # type: ignore[index]
    row = next(line for line in said.splitlines() if line.startswith("u [m]")).split()
    expected = [u.mean(), u.std(), u.min(), np.quantile(u, 0.01), np.median(u), np.quantile(u, 0.99), u.max()]
    assert [float(x) for x in row[2:9]] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    monkeypatch.delattr("physdiff.data.statistics_file.measure")
    assert statistics_of(open_fields(folder, split="train")).samples == 24
    stats = yaml.safe_load((folder / "stats.yaml").read_text())
    stats["mean"]["velocity"][1] += 0.1
    (folder / "stats.yaml").write_text(yaml.safe_dump(stats))
    assert run(["data", "stats", str(folder)]) == 0
    assert capsys.readouterr().out.count("warning:") == 1
    assert run(["data", "stats", str(folder), "--split", "valid"]) == 0
    assert "not kept" in capsys.readouterr().out
    with pytest.raises(ValueError, match="needs a split, one of train, valid, test; got 'tset'"):
        run(["data", "stats", str(folder), "--split", "tset"])
