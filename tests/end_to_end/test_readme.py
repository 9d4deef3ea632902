"""What the README shows runs as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
SHELL = "".join(re.findall(r"```sh\n(.*?)```", README.read_text(), re.DOTALL)).replace("\\\n    ", "")
pytestmark = pytest.mark.xdist_group("readme")  # one worker makes the demo for all
BIN = Path(sys.executable).parent / "physdiff"


def physdiff(folder: Path, *arguments: str) -> str:
    done = subprocess.run([BIN, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where `physdiff demo` has run, with few fields and few steps."""
    folder = tmp_path_factory.mktemp("demo")
    from datasets.turbulence import make

    make(folder / "data" / "turbulence", train_runs=32, valid_runs=8, test_runs=8, progress=False)
    quick = {"samples": 9, "sample_steps": 2, "likelihood_fields": 2, "likelihood_steps": 2, "probes": 2}
    options = [word for name, value in quick.items() for word in (f"--evaluation.{name}", str(value))]
    physdiff(folder, "demo", "--steps", "4", *options)
    return folder


def test_demo_leaves_a_report(demo: Path) -> None:
    report = (demo / "runs" / "demo" / "report.html").read_text()
    assert "Decaying 2-D turbulence" in report
    assert "Checks" in report


def test_ten_lines_of_python_run(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(demo)
    names: dict[str, object] = {}
    exec(compile(BLOCKS[0], "README.md", "exec"), names)
    fields, score = names["fields"], names["score"]
    assert fields["vorticity"].attrs["units"] == "1/s"  # type: ignore[index]
    assert fields.sizes == {"sample": 8, "x": 32, "y": 32}  # type: ignore[attr-defined]
    # Four steps of training leave the Gaussian field: the data's own spread, density within its own noise.
    assert abs(float(fields["vorticity"].std()) / 0.51 - 1) < 0.1  # type: ignore[index]
    assert (abs(score["relative_to_reference"]) < 0.05 * score.attrs["n_support"]).all()  # type: ignore[index, attr-defined]


def test_every_command_is_for_an_empty_folder() -> None:
    """Someone who installed the package has no checkout: no command names a file of it."""
    assert "physdiff train" in SHELL
    assert not re.search(r"experiments/|\.yaml", SHELL)


def test_own_physics_is_checked_trained_and_scored(demo: Path) -> None:
    (demo / "hyperviscous.py").write_text(BLOCKS[1])
    assert len(BLOCKS[1].splitlines()) <= 40
    verdict = physdiff(demo, "processes", "check", "hyperviscous.py")
    assert "Hyperviscous" in verdict
    (command,) = (line for line in SHELL.splitlines() if line.startswith("physdiff train --process hyperviscous.py"))
    assert command.split()[-2:] == ["--run", "runs/mine"]
    physdiff(demo, *command.split()[1:], "--training.steps", "4")
    said = physdiff(demo, "likelihood", "runs/mine", "--data", "data/turbulence", "--limit", "2", "--probes", "2",
                    "--method", "midpoint", "--steps", "6")  # fmt: skip
    assert "960 degrees of freedom" in said
