"""One part of the benchmark of a large set, in a process that imports what it needs for it and no more."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from physdiff.data.fields import open_fields
from physdiff.data.inspect import inspect
from physdiff.data.layout import Layout
from physdiff.data.normalise import Standardise
from physdiff.data.order import rows_at
from physdiff.data.preparation import Preparation
from physdiff.data.rows import rows_of
from physdiff.data.selection import Selection
from physdiff.data.statistics import measure


def work(path: Path, part: str, batches: int, runs: int) -> dict[str, Any]:
    """Seconds, bytes of fields read, and the most memory that the process had in use."""
    torch.set_num_threads(1)
    dims = ["trajectory", "time", "x", "y"]
    layout = Layout(fields={"u": "/u"}, dims=dims, extent=[1.0, 1.0], boundary="periodic", time=1.0)
    begin, read = time.perf_counter(), 0
    if part == "inspect":
        inspect(path, layout)
    elif part == "statistics":
        fields = open_fields(path, layout=layout).restricted([np.arange(runs)])
        measure(fields)
        read = len(fields) * fields.read([0]).values.nbytes
    elif part != "import":
        fields = open_fields(path, selection=Selection(frames=2), layout=layout)
        rows = rows_of(fields, Preparation(Standardise(torch.zeros(2), torch.ones(2))), "stream")
        for batch in range(batches if part == "batches" else 0):
            x, _ = rows.batch(rows_at(rows.order, 16 * batch, 16, 0))
            read += x.nbytes
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "read": read, "peak": _peak()}


def _peak() -> int:
    """Most bytes that this process had in memory. Not `ru_maxrss`, which begins with that of who started it."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


if __name__ == "__main__":
    print(json.dumps(work(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), max(1, round(float(sys.argv[4]))))))
