"""A reader in another process, started anew when a file has killed it."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TIMEOUT = 60.0  # seconds for one small file; a loaded machine needs a fraction of one


class Reader:
    """Reads files in a process of its own."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __call__(self, path: Path, layout: dict[str, Any]) -> dict[str, Any]:
        """What came of a file: "read", "refused", "broken" (a traceback), "hung" or "crashed"."""
        process = self._running()
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps({"path": str(path), "layout": layout}) + "\n")
        process.stdin.flush()
        if not select.select([process.stdout], [], [], TIMEOUT)[0]:
            self.stop()
            return {"outcome": "hung", "message": f"no answer within {TIMEOUT:.0f} s"}
        answer = process.stdout.readline()
        if not answer:
            code = process.wait()
            self.stop()
            return {"outcome": "crashed", "message": f"the process ended with code {code}"}
        return json.loads(answer)

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("reader.py"))], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )  # fmt: skip
            assert self._process.stdout is not None
            assert self._process.stdout.readline() == "ready\n"
        return self._process

    def stop(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()


@pytest.fixture(scope="session")
def reader() -> Iterator[Reader]:
    it = Reader()
    yield it
    it.stop()
