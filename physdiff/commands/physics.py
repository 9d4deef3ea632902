"""`physdiff processes list` and `physdiff processes check`."""

from __future__ import annotations

import dataclasses
import inspect

from physdiff import laws
from physdiff.registry import processes


def list_processes() -> None:
    """List the noising physics, with their equations and settings."""
    for name, cls in processes.classes().items():
        summary = (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")
        fields = [f for f in dataclasses.fields(cls) if f.name not in ("basis", "clock")]
        settings = ", ".join(f"{f.name} = {f.default}" for f in fields) or "none"
        print(f"{name}\n    {summary}\n    settings: {settings}")


def check(process: str) -> int:
    """Hold a noising physics to the laws, your own included.

    Args:
        process: A name from `physdiff processes list`, `module.Class` or `file.py:Class`.
    """
    report = laws.check(processes.find(process))
    print(report)
    return 0 if report.passed else 2
