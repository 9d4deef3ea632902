"""Zarr stores of which files are missing, cut short or changed: one clear error, or a read; never anything else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from .small_files import STORES
from .test_damaged_files import steady

pytest.importorskip("zarr")

CASES = pytest.mark.parametrize("cases", [20, pytest.param(400, marks=pytest.mark.slow)])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Folder and layout of a sound store of each version."""
    found = {}
    for name, write in STORES.items():
        path = tmp_path_factory.mktemp("whole") / name
        found[name] = path, write(path)
    return found


@pytest.mark.parametrize("name", STORES)
def test_a_sound_store_is_read(reader: Any, whole: Any, name: str) -> None:
    path, layout = whole[name]
    assert reader(path, layout) == {"outcome": "read", "shape": [10, 1, 6, 4]}


@CASES
@pytest.mark.parametrize("name", STORES)
def test_damaged_stores(reader: Any, tmp_path: Path, whole: Any, name: str, cases: int) -> None:
    path, layout = whole[name]
    files = sorted(f.relative_to(path) for f in path.rglob("*") if f.is_file())
    # Metadata as often as chunks, of which there are more.
    kinds = [[f for f in files if (f.suffix == ".json" or f.name.startswith(".z")) == told] for told in (True, False)]
    outcomes = set()

    @steady(cases)
    @given(
        st.one_of([st.sampled_from(kind) for kind in kinds]), st.sampled_from(["missing", "cut", "flipped", "empty"]),
        st.floats(0, 1, exclude_max=True), st.integers(1, 255),
    )  # fmt: skip
    def damage(file: Path, how: str, place: float, by: int) -> None:
        copy = tmp_path / f"damaged_{name}"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(path, copy)
        content = bytearray((copy / file).read_bytes())
        at = int(place * len(content))
        if how == "missing":
            (copy / file).unlink()
        elif how == "flipped":
            content[at] ^= by
            (copy / file).write_bytes(content)
        else:
            (copy / file).write_bytes(content[: at if how == "cut" else 0])
        found = reader(copy, layout)
        assert found["outcome"] in ("read", "refused"), f"{file} {how}: {found['outcome']}\n{found['message']}"
        if found["outcome"] == "refused":
            assert copy.name in found["message"] and len(found["message"]) < 1500, found["message"]
        # A chunk that is not there is read as the store's fill value, which xarray makes NaN.
        assert found["outcome"] == "refused" or how != "missing" or file in kinds[0], f"{file} is missing: {found}"
        outcomes.add(found["outcome"])

    damage()
    assert "refused" in outcomes
