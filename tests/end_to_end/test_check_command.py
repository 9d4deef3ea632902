"""`physdiff processes check` as it is typed: on the toolkit's own physics, a user's, and broken ones."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from datasets.turbulence import make
from physdiff import cli

PHYSICS = """
from dataclasses import dataclass
import torch
from physdiff import AutonomousProcess

@dataclass(frozen=True)
class Bath(AutonomousProcess):
    diffusivity: float = 0.05

    def drift_symbol(self, time):
        return -1 - self.diffusivity * self.basis.laplacian

    def noise_spectrum(self, time):
        return torch.full_like(time, 1.0) / self.basis.grid.cell_volume

@dataclass(frozen=True)
class WrongSign(Bath):
    def drift_symbol(self, time):
        return -1 + self.diffusivity * self.basis.laplacian

@dataclass(frozen=True)
class NegativeNoise(Bath):
    def noise_spectrum(self, time):
        return (1 - 0.01 * self.basis.laplacian) / self.basis.grid.cell_volume

@dataclass(frozen=True)
class Divides(Bath):
    def noise_spectrum(self, time):
        return self.basis.laplacian * (1 / 0)
"""

DIVIDES = 1 + next(i for i, line in enumerate(PHYSICS.splitlines()) if "(1 / 0)" in line)

Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def physdiff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Said:
    """Type a command line in a folder with physics of one's own; exit code, output and errors."""
    (tmp_path / "own.py").write_text(PHYSICS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def typed(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["physdiff", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        sys.modules.pop("own", None)
        said = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return stopped.value.code, said.out, said.err

    return typed


def test_own_physics_and_own_data(physdiff: Said) -> None:
    make(Path("data"), train_runs=4, valid_runs=1, test_runs=1, cells=16, duration=1.0, progress=False)
    code, out, _ = physdiff("processes", "check", "own.py:Bath", "--data", "data")
    assert code == 0
    assert out.startswith("Bath: every law holds; ")
    (line,) = (line for line in out.splitlines() if "your data at t = 1" in line)
    assert line.startswith("ok    your data at t = 1") and "nats of your data survive to t = 1" in line
    for solver in ("Ancestral", "Heun", "ReferenceSplitting"):
        assert f"ok    {solver}: Gaussian in, Gaussian out" in out
        assert f"ok    {solver}: order of convergence" in out
    assert all(len(line) < 180 for line in out.splitlines())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("WrongSign", ("modes do not grow", "drift_symbol has the wrong sign")),
        ("NegativeNoise", ("noise power is not negative", "Correct noise_spectrum")),
        ("Divides", ("ZeroDivisionError", f"(own.py, line {DIVIDES})")),
    ],
)
def test_broken_physics_is_told_what_to_fix(physdiff: Said, name: str, words: tuple[str, ...]) -> None:
    code, out, _ = physdiff("processes", "check", f"own.py:{name}")
    assert code == 2
    assert out.startswith(f"{name}: 1 law broken") and out.count("FAIL") == 1
    for word in words:
        assert word in out.replace("\n      ", " ")


def test_a_folder_without_data_is_one_line(physdiff: Said) -> None:
    for folder, words in (("nowhere", "no file or folder 'nowhere'"), (".", "no .h5 or .hdf5 files in 'data/train'")):
        code, out, err = physdiff("processes", "check", "Heat", "--data", folder)
        assert (code, out) == (2, "")
        assert err.startswith("physdiff: error: ") and words in err and len(err.splitlines()) == 1
