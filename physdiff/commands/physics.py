"""`physdiff processes list` and `physdiff processes check`."""

from __future__ import annotations

import inspect
from pathlib import Path

from physdiff import laws
from physdiff.basis import SpectralBasis
from physdiff.data.fields import open_fields
from physdiff.data.reference import fit_normaliser, fit_reference
from physdiff.data.statistics_file import statistics_of
from physdiff.gaussian import GaussianField
from physdiff.registry import processes
from physdiff.settings import listed, settings_of


def list_processes() -> None:
    """List the noising physics, with their equations and settings."""
    for name, cls in processes.classes().items():
        summary = (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")
        print(f"{name}\n    {summary}\n    settings: {listed(settings_of(cls))}")


def check(process: str, data: str | None = None) -> int:
    """Hold a noising physics to the laws, your own included.

    Args:
        process: A name from `physdiff processes list`, `module.Class` or `file.py:Class`.
        data: Data set folder or file, as `train` takes it: tells how many nats of that data survive to t = 1.
    """
    chosen = processes.find(process)
    report = laws.check(chosen, data=None if data is None else _law_of(data), progress=True)
    print(report)
    return 0 if report.passed else 2


def _law_of(path: str) -> GaussianField:
    """The Gaussian law of a data set's training fields, normalised, as `train` fits it."""
    fields = open_fields(path, split="train" if Path(path).is_dir() else None)
    statistics = statistics_of(fields)
    normaliser = fit_normaliser(fields, statistics=statistics)
    return fit_reference(fields, normaliser, SpectralBasis(fields.grid), identity=statistics.content)
