"""Two processes on CPUs are one process with the whole batch: really launched, by torchrun and by accelerate.

One launch of two processes trains several runs one after the other, which are then compared with the same runs in this
process. What differs is the order in which gradients are added; tolerances are ten times what was measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Command  # pyright: ignore[reportMissingImports]
from distributed_cases import CASES, SETTINGS, launch  # pyright: ignore[reportMissingImports]

from physdiff.training import complete_checkpoints, read_checkpoint, read_metrics
from physdiff.training.checkpoint import Checkpoint

pytestmark = pytest.mark.xdist_group("tiny run")
ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    python_path = os.pathsep.join([str(ROOT), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": python_path}


def torchrun(*arguments: str, how: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Two processes by torchrun, at a port that is free."""
    return subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *how, "--",
            *arguments,
        ],
        env=environment(), capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of the same runs: two/NAME by two processes, one/NAME by this one."""
    folder = tmp_path_factory.mktemp("runs")
    done = torchrun(str(Path(__file__).parent / "distributed_cases.py"), str(folder / "two"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{name} done" for name in CASES]  # said by one process
    for name in CASES:
        launch(name, folder / "one" / name, alone=True)
    return folder


def end(folder: Path) -> Checkpoint:
    return read_checkpoint(complete_checkpoints(folder)[-1])


def largest_difference(a: Checkpoint, b: Checkpoint) -> float:
    """Of weights, averages and moments, relative to the largest of each tensor."""
    off = 0.0
    for part in ("weights", "ema", "optimiser", "extra"):
        one, other = getattr(a, part), getattr(b, part)
        assert one.keys() == other.keys() and (one or part == "extra")
        for name, x in one.items():
            size = float(x.double().abs().max())
            off = max(off, float((x.double() - other[name].double()).abs().max()) / size if size else 0.0)
    return off


@pytest.mark.parametrize("name", list(CASES))
def test_two_processes_have_the_loss_curve_of_one(runs: Path, name: str) -> None:
    one, two = (read_metrics(runs / which / name / "metrics.jsonl") for which in ("one", "two"))
    assert [r["step"] for r in two] == [r["step"] for r in one] == list(range(1, SETTINGS.steps + 1))
    assert [r.keys() for r in two] == [r.keys() for r in one]
    worst = 0.0
    for a, b in zip(one, two, strict=True):
        for key in a.keys() - {"step", "seconds", "learning_rate"}:
            worst = max(worst, abs(a[key] / b[key] - 1))
    state = largest_difference(end(runs / "one" / name), end(runs / "two" / name))
    print(f"{name}: records differ by {worst:.1e}, the state by {state:.1e}")
    assert worst < 1e-6 and state < 1e-5
    losses = [r["loss"] for r in one]
    assert max(losses) > 1.2 * min(losses)  # so that there is a curve to be the same


def test_splitting_is_what_the_comparison_is_about(runs: Path) -> None:
    """Another batch, or the same rows with other noise, is far from the same to rounding."""
    plain = end(runs / "one" / "plain")
    for name in ("accumulated", "shared out"):
        assert largest_difference(plain, end(runs / "one" / name)) < 1e-5  # the same run
    ours, theirs = plain.weights, end(runs / "one" / "adaptive").weights
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) > 1e-3  # other times of the same noise


def test_validation_has_the_same_bits_on_any_number_of_processes(runs: Path) -> None:
    """At a step where the weights still are the same: before training moved them apart in the last bit."""
    said = [json.loads((runs / which / "untrained.json").read_text()) for which in ("one", "two")]
    assert said[0] == said[1] and len(said[0]) == 1 + 8


def test_a_run_changes_the_number_of_its_processes(runs: Path, tmp_path: Path) -> None:
    """Half by two processes with weights shared out, the rest by one: the curve goes on as if nothing had been."""
    whole, half = runs / "one" / "plain", runs / "two" / "half shared out"
    assert end(half).step == SETTINGS.steps // 2
    result = launch("plain", half, alone=True)
    assert result.resumed_from == SETTINGS.steps // 2
    off = largest_difference(end(whole), end(half))
    print(f"resumed on one process: off by {off:.1e}")
    assert off < 1e-5


def test_a_signal_to_one_process_stops_all_after_a_checkpoint(runs: Path) -> None:
    folder = runs / "two" / "signalled"
    step = end(folder).step
    assert 3 <= step <= 5  # sent in the fourth step
    assert json.loads((runs / "two" / "signalled.json").read_text()) == ["SIGTERM", "SIGTERM"]


def accelerate(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Two processes by accelerate, at a port that is free."""
    return subprocess.run(
        [
            sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_processes", "2",
            "--main_process_port", "0", *arguments,
        ],
        env=environment(), capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def test_one_launch_trains_together_again_and_again(runs: Path) -> None:
    """As a sweep does, also after a run that has failed: nobody looks for those who are gone."""
    for rank in (0, 1):
        assert json.loads((runs / "two" / f"later {rank}.json").read_text()) == [2.0, -1.0, 2.0]


def test_a_run_of_accelerate_that_fails_is_resumed_by_torchrun(tiny: Path, command: Command) -> None:
    """One process fails: all end, with one message; then the curve is that of one process that never failed."""
    script = Path("failing.py")
    script.write_text(
        "import os\n"
        "from physdiff import cli\n"
        "from physdiff.training import step\n"
        "take = step.Stepper.take\n"
        "def failing(self, wish):\n"
        "    if os.environ['RANK'] == '1' and self.run.step == 3:\n"
        "        raise ValueError('this process has lost its disk')\n"
        "    take(self, wish)\n"
        "step.Stepper.take = failing\n"
        "cli.main()\n"
    )
    options = ("--training.steps", "6", "--training.log_every", "1", "--training.checkpoint_every", "2")
    done = accelerate(str(script), "train", "config.yaml", "--run", "other", *options)
    assert done.returncode != 0
    assert done.stderr.count("physdiff: error:") == 1
    assert "physdiff: error: this process has lost its disk" in done.stderr
    assert not Path("other/model").exists()

    done = torchrun("physdiff", "resume", "other", how=["-m"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("6 steps in") == 1 and done.stdout.count("continued from step 2") == 1
    assert command("train", "config.yaml", "--run", "alone", *options)[0] == 0
    alone, both = ([r["loss"] for r in read_metrics(Path(run) / "metrics.jsonl")] for run in ("alone", "other"))
    assert len(alone) == 6 and both == pytest.approx(alone, rel=1e-6)
    assert Path("other/model/model.json").is_file()


@pytest.mark.slow
def test_the_command_under_accelerate_is_the_command_alone(tiny: Path, command: Command) -> None:
    options = ("--training.steps", "4", "--training.log_every", "1")
    assert command("train", "config.yaml", "--run", "alone", *options)[0] == 0
    done = accelerate("-m", "physdiff", "train", "config.yaml", "--run", "both", *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("model: both/model") == 1 and done.stdout.count("training and") == 1
    alone, both = (read_metrics(Path(run) / "metrics.jsonl") for run in ("alone", "both"))
    assert [r["loss"] for r in both] == pytest.approx([r["loss"] for r in alone], rel=1e-6)
    assert Path("both/model/model.json").is_file()


def test_a_batch_must_have_a_row_for_every_part(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="accumulate must be at most batch_size = 6"):
        replace(SETTINGS, accumulate=7)
