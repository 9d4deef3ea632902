"""What the README shows runs as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
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


def test_own_physics_is_checked_trained_and_scored(demo: Path) -> None:
    (demo / "hyperviscous.py").write_text(BLOCKS[1])
    assert len(BLOCKS[1].splitlines()) <= 40
    verdict = physdiff(demo, "processes", "check", "hyperviscous.py")
    assert "Hyperviscous" in verdict
    config = README.parent / "experiments" / "turbulence" / "config.yaml"
    physdiff(demo, "train", str(config), "--process", "hyperviscous.py:Hyperviscous", "--run", "runs/mine",
             "--training.steps", "4", "--training.warmup_steps", "0")  # fmt: skip
    said = physdiff(demo, "likelihood", "runs/mine", "--data", "data/turbulence", "--limit", "2", "--probes", "2",
                    "--method", "midpoint", "--steps", "6")  # fmt: skip
    assert "960 degrees of freedom" in said
