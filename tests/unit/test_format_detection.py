"""A file is told by its content; what cannot be told, or must not be read, is one clear sentence."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from scipy.io import savemat

from physdiff.data.formats import FORMATS, find_format, formats_table, open_source
from physdiff.data.formats.format import Probe
from physdiff.data.formats.the_well_writer import write_the_well
from physdiff.data.layout import Layout
from physdiff.data.stored import HDF5Array
from physdiff.grid import Grid

LAYOUT = Layout.of({"fields": {"u": "u"}, "dims": ["x", "y"], "extent": 1.0, "boundary": "periodic"})
U = np.random.default_rng(4).standard_normal((4, 5))


def examples(folder: Path) -> dict[Path, str]:
    """A file of each kind under a name that says nothing, and the name of its format."""
    kinds = ("the_well", "netcdf", "netcdf3", "matlab", "npy", "npz", "torch")
    paths = {kind: folder / f"file{i}.dat" for i, kind in enumerate(kinds)}
    dataset = xr.Dataset({"u": (("x", "y"), U)}, coords={"x": np.arange(4.0), "y": np.arange(5.0)})
    write_the_well(paths["the_well"], {"u": U[None, None]}, Grid((4, 5)))
    dataset.to_netcdf(paths["netcdf"], engine="h5netcdf")
    dataset.to_netcdf(paths["netcdf3"], engine="scipy")
    for kind, write in (
        ("matlab", lambda file: savemat(file, {"u": U})), ("npy", lambda file: np.save(file, U)),
        ("npz", lambda file: np.savez(file, u=U)), ("torch", lambda file: torch.save({"u": torch.from_numpy(U)}, file)),
    ):  # fmt: skip
        with paths[kind].open("wb") as file:
            write(file)
    return {path: kind.rstrip("3") for kind, path in paths.items()}


def test_every_file_is_of_one_format_whatever_its_name(tmp_path: Path) -> None:
    for path, name in examples(tmp_path).items():
        assert [f.name for f in FORMATS.values() if f.recognises(Probe.of(path))] == [name]
        assert find_format(path).name == name


def test_named_fields_of_hdf5_are_read_as_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_the_well(path, {"u": U[None, None]}, Grid((4, 5)))
    asked = Layout.of(LAYOUT, fields={"v": "/t0_fields/u"}, dims=["trajectory", "time", "x", "y"])
    assert (find_format(path).name, find_format(path, asked).name) == ("the_well", "hdf5")
    np.testing.assert_array_equal(
        open_source(path, asked).variables[0].view.read(("x", "y"), {"trajectory": 0, "time": 0}), U
    )
    with pytest.raises(ValueError, match=r"unknown schema 'the_wel'\. Did you mean 'the_well'"):
        find_format(path, Layout(schema="the_wel"))


def test_files_that_are_both_ask_which(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_the_well(path, {"u": U[None, None]}, Grid((4, 5)))
    with h5py.File(path, "r+") as file:
        file.attrs["_NCProperties"] = "version=2"
    with pytest.raises(ValueError, match=r"could be read as the_well, netcdf; say which with schema= \(--data.layout"):
        find_format(path)
    assert find_format(path, Layout(schema="the_well")).name == "the_well"


def test_unknown_hdf5_shows_what_it_holds_and_what_to_write(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["run/pressure"], file["run/x"], file["text"] = U, np.arange(4), "words"
    with pytest.raises(ValueError) as error:
        open_source(tmp_path / "a.h5")
    message = str(error.value)
    for part in (
        "/run/pressure: (4, 5) float64", "/run/x: (4,) int64", "fields: {pressure: [/run/pressure, <unit>]}",
        "dims: [<axis of 4>, <axis of 5>]", "--data.layout", "boundary:",
    ):  # fmt: skip
        assert part in message, message
    assert "words" not in message
    with h5py.File(tmp_path / "b.h5", "w") as file:
        for i in range(500):
            file[f"u{i}"] = U
    with pytest.raises(ValueError) as error:
        open_source(tmp_path / "b.h5")
    assert str(error.value).count("float64") == 12 and "..." in str(error.value)
    with h5py.File(tmp_path / "c.h5", "w"):
        pass
    with pytest.raises(ValueError, match="it holds no array of numbers"):
        open_source(tmp_path / "c.h5")


def test_what_is_no_data_file(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text("words")
    (tmp_path / "a.npy").write_text("words")
    (tmp_path / "empty.h5").touch()
    (tmp_path / "folder").mkdir()
    for name, message in (
        ("a.xyz", r"ends in '\.xyz'; physdiff reads \.h5, \.hdf5, \.nc"), ("a.npy", r"is truncated or no \.npy file"),
        ("empty.h5", "is empty"), ("folder", "is a folder without a zarr store"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            open_source(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        open_source(tmp_path / "nowhere")


def test_the_table_names_every_format() -> None:
    lines = formats_table().splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == list(FORMATS)
    assert max(map(len, lines)) <= 100


# ---- what must not be read


class Mischief:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


def test_pickles_are_never_run(tmp_path: Path) -> None:
    harm = Mischief(tmp_path / "harm")
    torch.save({"u": torch.from_numpy(U), "more": harm}, tmp_path / "a.pt")
    np.save(tmp_path / "a.npy", np.array([harm], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", u=np.array([harm], dtype=object))
    (tmp_path / "b.pt").write_bytes(pickle.dumps(harm))
    for name, message in (
        ("a.pt", "holds objects beside plain tensors"), ("a.npy", "holds Python objects"),
        ("a.npz", "'u' holds Python objects"), ("b.pt", r"truncated or no torch file"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            open_source(tmp_path / name, LAYOUT)
    assert not (tmp_path / "harm").exists()


def elsewhere(folder: Path) -> Path:
    """A file outside the folder that others refer to."""
    path = folder / "elsewhere" / "secret.h5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        file["u"] = U
    return path


@pytest.mark.parametrize("kind", ["external link", "soft link to it", "group", "virtual", "external storage"])
def test_values_in_other_folders_are_refused(tmp_path: Path, kind: str) -> None:
    secret = elsewhere(tmp_path)
    path = tmp_path / "data" / "a.h5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        if "link" in kind:
            file["direct"] = h5py.ExternalLink("../elsewhere/secret.h5", "/u")
            file["u"] = h5py.SoftLink("/direct") if "soft" in kind else h5py.ExternalLink(str(secret), "/u")
        elif kind == "group":
            file["g"] = h5py.ExternalLink(str(secret), "/")
        elif kind == "virtual":
            made = h5py.VirtualLayout((4, 5), "f8")
            made[:] = h5py.VirtualSource(secret, "u", (4, 5))
            file.create_virtual_dataset("u", made)
        else:
            file.create_dataset("u", (4, 5), "f8", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])
    name = "g/u" if kind == "group" else "u"
    words = "(a link to|virtual data of|values stored in)"
    with pytest.raises(ValueError, match=rf"a\.h5': .* is {words} '.*secret\.h5', outside"):
        open_source(path, Layout.of(LAYOUT, fields={"u": name}))
    with pytest.raises(ValueError):  # nor are they looked at without being asked for
        open_source(path)
    with pytest.raises(ValueError, match="outside"):
        HDF5Array.of(str(path), name)


@pytest.mark.parametrize("kind", ["external link", "virtual", "external storage"])
def test_values_beside_the_file_are_read(tmp_path: Path, kind: str) -> None:
    with h5py.File(tmp_path / "part.h5", "w") as file:
        file["u"] = U
        offset = file["u"].id.get_offset()
    with h5py.File(tmp_path / "a.h5", "w") as file:
        if kind == "virtual":
            made = h5py.VirtualLayout((4, 5), "f8")
            made[:] = h5py.VirtualSource("part.h5", "u", (4, 5))
            file.create_virtual_dataset("u", made)
        elif kind == "external link":
            file["u"] = h5py.ExternalLink("part.h5", "/u")
        else:
            file.create_dataset("u", (4, 5), "f8", external=[(str(tmp_path / "part.h5"), offset, U.nbytes)])
    view = open_source(tmp_path / "a.h5", LAYOUT).variables[0].view
    np.testing.assert_array_equal(view.read(("x", "y")), U)
    os.remove(tmp_path / "part.h5")
    with pytest.raises(ValueError, match=r"'part\.h5', which is no file|part\.h5', which is no file|no dataset 'u'"):
        open_source(tmp_path / "a.h5", LAYOUT)


def test_links_in_circles_end(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["u"], file["v"], file["group/self"] = h5py.SoftLink("/v"), h5py.SoftLink("/u"), h5py.SoftLink("/group")
    with pytest.raises(ValueError, match="is reached by more than 8 links"):
        open_source(tmp_path / "a.h5", LAYOUT)
    with pytest.raises(ValueError, match="it holds no array of numbers"):
        open_source(tmp_path / "a.h5")


def refused() -> dict[str, tuple[Any, str]]:
    return {
        "text": (np.array([[b"a", b"b"]]), r"field 'u' holds objects or text|holds text"),
        "records": (np.zeros((2, 2), dtype=[("a", "f4"), ("b", "i4")]), "holds records"),
        "nothing": (np.zeros((0, 5)), r"is empty: its shape is \(0, 5\)"),
        "long doubles": (np.zeros((2, 2), dtype=np.longdouble), "numbers of a size that torch has not"),
    }


@pytest.mark.parametrize("case", refused())
def test_what_is_no_array_of_numbers_is_refused_by_name(tmp_path: Path, case: str) -> None:
    values, message = refused()[case]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["u"] = values
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path / "a.h5", LAYOUT)


def test_absurd_sizes_are_not_believed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("u", (10**6, 10**7), "f8", chunks=(10**3, 10**3))
    with pytest.raises(ValueError, match=r"a\.h5': '/?u' claims 8e\+04 GB, shape \(1000000, 10000000\), in a file of"):
        open_source(tmp_path / "a.h5", LAYOUT)
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**7)})
    (tmp_path / "a.npy").write_bytes(head.getvalue() + bytes(64))
    with pytest.raises(ValueError, match=r"'data' of shape \(1000000, 10000000\) ends at byte 8\d+; the file has 192"):
        open_source(tmp_path / "a.npy", Layout.of(LAYOUT, fields=None))
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("u.npy", head.getvalue() + bytes(10**6))
    with pytest.raises(ValueError, match=r"'u' claims 8e\+04 GB"):
        open_source(tmp_path / "a.npz", LAYOUT)
    small = io.BytesIO()
    np.lib.format.write_array_header_1_0(small, {"descr": "<f8", "fortran_order": False, "shape": (10**4, 10**3)})
    with zipfile.ZipFile(tmp_path / "b.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("u.npy", small.getvalue() + bytes(10**3))
    with pytest.raises(ValueError, match=r"has 80000000 bytes; the archive has 1128 of it"):
        open_source(tmp_path / "b.npz", LAYOUT)


def test_archives_that_claim_too_much_are_refused_before_reading(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", u=U)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    at = content.rindex(b"PK\x01\x02") + 24  # size as the table of the archive claims it
    content[at : at + 4] = (0xFFFFFFF0).to_bytes(4, "little")
    (tmp_path / "b.npz").write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("physdiff.data.formats.arrays.MOST_BYTES", 2**30)
        with pytest.raises(ValueError, match=r"'u' claims 4\.29 GB; an array of a packed archive is read whole"):
            open_source(tmp_path / "b.npz", LAYOUT)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    for path in examples(tmp_path):
        content = path.read_bytes()
        for length in (130, len(content) // 2, len(content) - 8):
            path.write_bytes(content[:length])
            with pytest.raises(ValueError, match=path.name):
                source = open_source(path, LAYOUT)
                source.variables[0].view.read(("x", "y"))
