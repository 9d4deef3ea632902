"""`physdiff demo`: the whole job on one CPU, from a simulation to a report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from physdiff.basis import Basis
from physdiff.commands.report import evaluate
from physdiff.commands.training import train
from physdiff.config import DataSettings
from physdiff.data.recipes import recipe
from physdiff.evaluation.evaluate import EvaluationSettings
from physdiff.model import NetworkSettings
from physdiff.process import ForwardProcess
from physdiff.processes.matern import Matern
from physdiff.training.settings import TrainSettings


def demo(
    run: str = "runs/demo",
    data: str = "data/turbulence",
    steps: int = 1500,
    seed: int = 0,
    process: Callable[[Basis], ForwardProcess] = Matern,
    evaluation: EvaluationSettings = EvaluationSettings(),  # noqa: B008  frozen
) -> int:
    """Make 2-D turbulence, learn it, sample it, score held-out fields, write a report.

    Args:
        run: Folder of the run; one that was interrupted is continued.
        data: Folder of the data; it is made if it is not there.
        steps: Training steps.
        seed: Seed of everything.
        process: Noising physics.
        evaluation: How the model is measured in the end.
    """
    if not (Path(data) / "data").is_dir():
        recipe("turbulence").make(Path(data), seed=seed)
    code = train(
        process,
        DataSettings(data, ["vorticity"], homogeneous=True),
        TrainSettings(
            steps=steps, batch_size=16, learning_rate=2e-3, warmup_steps=min(20, steps - 1), ema_decay=0.995,
            log_every=25, validate_every=150, checkpoint_every=150, seed=seed,
        ),
        NetworkSettings(width=16, seed=seed),
        run=run,
    )  # fmt: skip
    if code:  # interrupted
        return code
    evaluate(run, settings=evaluation, title="Decaying 2-D turbulence")
    return 0
