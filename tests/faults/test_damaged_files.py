"""Truncated files and flipped bytes: one clear error that names the file, or a read; never anything else."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from .small_files import FILES

COUNTED: Counter[tuple[str, str]] = Counter()
FEW, MANY = 9, 120  # of each format and kind of damage


def steady(cases: int) -> settings:
    """The same cases in every run."""
    return settings(
        max_examples=cases, derandomize=True, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


CASES = pytest.mark.parametrize("cases", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, dict[str, Any]]]:
    """Bytes and layout of a sound file of every format."""
    found = {}
    for name, write in FILES.items():
        path = tmp_path_factory.mktemp("whole") / name
        layout = write(path)
        found[name] = path.read_bytes(), layout
    return found


def check(reader: Any, folder: Path, name: str, damage: str, content: bytes, layout: dict[str, Any]) -> None:
    path = folder / f"damaged_{name}"
    path.write_bytes(content)
    found = reader(path, layout)
    COUNTED[damage, found["outcome"]] += 1
    assert found["outcome"] in ("read", "refused"), f"{damage}: {found['outcome']}\n{found['message']}"
    if found["outcome"] == "refused":
        assert path.name in found["message"], found["message"]
        assert len(found["message"]) < 1500 and "Traceback" not in found["message"]
    assert [f.name for f in folder.iterdir()] == [path.name]


@pytest.mark.parametrize("name", FILES)
def test_a_sound_file_is_read(reader: Any, tmp_path: Path, whole: Any, name: str) -> None:
    content, layout = whole[name]
    (tmp_path / name).write_bytes(content)
    found = reader(tmp_path / name, layout)
    assert found["outcome"] == "read", found["message"]
    frames = {"py_pde": 5, "dedalus": 5, "pdebench_darcy": 2}.get(name, 10)
    assert found["shape"][0] == frames and found["shape"][2:] == ([6] if name == "pdebench" else [6, 4])


@CASES
@pytest.mark.parametrize("name", FILES)
def test_truncated(reader: Any, tmp_path: Path, whole: Any, name: str, cases: int) -> None:
    content, layout = whole[name]

    @steady(cases)
    @given(st.integers(0, len(content) - 1))
    def cut(length: int) -> None:
        check(reader, tmp_path, name, "truncated", content[:length], layout)

    cut()


@CASES
@pytest.mark.parametrize("name", FILES)
def test_flipped_bytes(reader: Any, tmp_path: Path, whole: Any, name: str, cases: int) -> None:
    """In the first kilobytes, where headers are, as often as anywhere."""
    content, layout = whole[name]
    anywhere = st.integers(0, len(content) - 1)
    place = st.one_of(anywhere, st.integers(0, min(4096, len(content)) - 1))

    @steady(cases)
    @given(st.lists(st.tuples(place, st.integers(1, 255)), min_size=1, max_size=6))
    def flip(changes: list[tuple[int, int]]) -> None:
        damaged = bytearray(content)
        for at, by in changes:
            damaged[at] ^= by
        check(reader, tmp_path, name, "flipped", bytes(damaged), layout)

    flip()


@CASES
@pytest.mark.parametrize("name", FILES)
def test_overwritten_and_missing_blocks(reader: Any, tmp_path: Path, whole: Any, name: str, cases: int) -> None:
    content, layout = whole[name]
    size = st.integers(1, 600)

    @steady(cases)
    @given(st.integers(0, len(content) - 1), size, st.sampled_from([b"\x00", b"\xff", b"removed", b"again"]))
    def block(at: int, length: int, how: bytes) -> None:
        part = {b"removed": b"", b"again": content[at : at + length] * 2}.get(how, how * length)
        check(reader, tmp_path, name, "blocks", content[:at] + part + content[at + length :], layout)

    block()


def test_how_many_there_were() -> None:
    """Last in this file: that the cases above were run, and that both outcomes occur."""
    print(dict(COUNTED))
    total = sum(COUNTED.values())
    if total:  # nothing to count where only this test was asked for
        assert total >= 300
        assert all(COUNTED[kind, "refused"] > 0 for kind in ("truncated", "flipped", "blocks"))
