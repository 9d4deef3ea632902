"""The history of a run, `metrics.jsonl`: one JSON object per line, the same with or without interruptions."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from physdiff.atomic import replacing_file
from physdiff.disk import room_for

Record = dict[str, Any]
THEN = "free some space; the same command continues from the last checkpoint"


class MetricsLog:
    """Appends records to a file that survives kills.

    Args:
        path: The file; made when missing.
        step: Steps already done. Records of later steps belong to work that a kill has lost, and are dropped.

    Raises:
        DiskFull: there is no room for the file; it is as it was.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = Path(path)
        kept = "".join(_line(record) for record in read_metrics(path) if record["step"] <= step)
        if not self.path.exists() or self.path.read_text() != kept:
            with replacing_file(self.path) as partial:
                partial.write_text(kept)

    def append(self, record: Record) -> None:
        """Add one record.

        Raises:
            DiskFull: there is no room; the file ends with the record before.
        """
        line = _line(record).encode()
        with room_for(self.path, len(line), THEN), self.path.open("ab", buffering=0) as file:
            whole = file.seek(0, os.SEEK_END)
            try:
                written = 0
                while written < len(line):
                    written += file.write(line[written:])
            except OSError:
                file.truncate(whole)
                raise

    def sync(self) -> None:
        """Have the file on disk: a checkpoint must never be newer than the history that leads to it."""
        with room_for(self.path, then=THEN), self.path.open("a") as file:
            os.fsync(file.fileno())


def _line(record: Record) -> str:
    return json.dumps(record) + "\n"


def read_metrics(path: Path) -> list[Record]:
    """Records in the order of their steps; none if there is no file yet.

    Raises:
        ValueError: a line other than the last is not a record.
    """
    lines = Path(path).read_text(errors="replace").splitlines() if Path(path).exists() else []
    records: list[Record] = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(_record(line))
        except ValueError as error:
            # A kill in the middle of a write leaves half a last line; no checkpoint can have followed it.
            if number < len(lines):
                raise ValueError(f"line {number} of {path} is not {error}; delete it to go on.") from None
    return records


def _record(line: str) -> Record:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("JSON") from None
    if not isinstance(found, dict) or not isinstance(found.get("step"), (int, float)):
        raise ValueError("a record with its step")
    return found
