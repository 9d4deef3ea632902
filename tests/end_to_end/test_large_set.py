"""A set of 20 GB is opened, looked at, measured and read in little memory, in processes of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.benchmarks.large_set import LIMIT, RUNS, child, one_file, virtual

# What a part takes above the imports; of all statistics 3 of 305 runs, as memory does not follow their number.
MORE = {"open": 50e6, "inspect": 50e6, "batches": 120e6, "statistics": 70e6}  # measured 24, 19, 84, 33 MB at most


@pytest.mark.slow
@pytest.mark.parametrize("write", [one_file, virtual], ids=["one sparse file", "virtual"])
def test_20_gb_take_less_than_500_mb(tmp_path: Path, write: Callable[[Path, int], Path]) -> None:
    path = write(tmp_path / "large", RUNS)
    imports = child(path, "import", 0, 0)["peak"]
    for part, more in MORE.items():
        found = child(path, part, 200, 3 / RUNS)
        print(f"{part}: {found['peak'] / 1e6:.0f} MB, of which imports {imports / 1e6:.0f}")
        assert found["peak"] < min(LIMIT, imports + more)
        # As many frames as were asked for: runs of 1000, and batches of 16 windows of 2.
        assert found["read"] == {"statistics": 3 * 1000, "batches": 200 * 32}.get(part, 0) * 128 * 128 * 4
