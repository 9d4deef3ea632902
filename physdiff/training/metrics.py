"""The history of a run, `metrics.jsonl`: one JSON object per line, the same with or without interruptions."""

from __future__ import annotations

import json
import os
from pathlib import Path

Record = dict[str, float]


class MetricsLog:
    """Appends records to a file that survives kills.

    Args:
        path: The file; made when missing.
        step: Steps already done. Records of later steps belong to work that a kill has lost, and are dropped.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        kept = [record for record in read_metrics(path) if record["step"] <= step]
        partial = path.with_name(path.name + ".partial")
        partial.write_text("".join(json.dumps(record) + "\n" for record in kept))
        partial.replace(path)

    def append(self, record: Record) -> None:
        """Add one record."""
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def sync(self) -> None:
        """Have the file on disk: a checkpoint must never be newer than the history that leads to it."""
        with self.path.open("a") as file:
            os.fsync(file.fileno())


def read_metrics(path: Path) -> list[Record]:
    """Records in the order of their steps; none if there is no file yet.

    Raises:
        ValueError: a line other than the last is not JSON.
    """
    lines = Path(path).read_text().splitlines() if Path(path).exists() else []
    records: list[Record] = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            # A kill in the middle of a write leaves half a last line; no checkpoint can have followed it.
            if number < len(lines):
                raise ValueError(f"line {number} of {path} is not JSON; delete it to go on.") from None
    return records
