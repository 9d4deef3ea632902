"""`physdiff train` and `physdiff resume`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

from physdiff import description
from physdiff.atomic import replacing_file
from physdiff.basis import Basis
from physdiff.clock import Clock
from physdiff.config import DataSettings, DenoiserSettings, ObjectiveSettings, RunSettings, SimulationSettings
from physdiff.model import NetworkSettings
from physdiff.objectives import DenoisingLoss
from physdiff.process import ForwardProcess
from physdiff.simulated_path import SimulatedPath
from physdiff.training.company import device_of, rank, say
from physdiff.training.job import Job, kept, prepare, run_job
from physdiff.training.loop import TrainResult
from physdiff.training.sample_grids import SampleGrids
from physdiff.training.settings import TrainSettings
from physdiff.training.stopping import exit_code
from physdiff.training.trackers import check_trackers

SHOWN = 256  # held-out fields of which some are shown while training
BEYOND = "below 1 is structure beyond the Gaussian field"


def train(
    process: Callable[[Basis], ForwardProcess],
    data: DataSettings,
    training: TrainSettings,
    network: NetworkSettings = NetworkSettings(),  # noqa: B008  frozen
    denoiser: DenoiserSettings = DenoiserSettings(),  # noqa: B008  frozen
    simulation: SimulationSettings = SimulationSettings(),  # noqa: B008  frozen
    objective: ObjectiveSettings = ObjectiveSettings(),  # noqa: B008  frozen
    run: str = "runs/model",
) -> int:
    """Train a model; a run that was interrupted is continued.

    Several processes share each batch: `torchrun --nproc-per-node 4 -m -- physdiff train CONFIG`, or `accelerate launch
    --num_processes 4 -m physdiff train CONFIG`, with `--multi_gpu` where there is no GPU. Ctrl-C, SIGTERM, SIGUSR1 and
    the time limit end a launch after a checkpoint.

    Args:
        process: Noising physics: a name from `physdiff processes list`, or your own class as `module.Class` or
            `file.py:Class`.
        data: The fields to learn.
        training: Steps, learning rate, checkpoints.
        network: The network.
        denoiser: How the network is joined to the Gaussian reference.
        simulation: How a process with a nonlinear drift is run and learned.
        objective: What training minimises.
        run: Folder of the run.
    """
    check_trackers(training.trackers)
    device_of(training.device)  # before the data is read
    settings = RunSettings(data, training, network, denoiser, simulation, objective)
    folder = Path(run)
    job = prepare(process, settings, folder / "cache", progress=rank() == 0)
    path = job.model.denoiser.path
    config = resolved_config(settings, process(path.basis), path.clock, run)
    if rank() == 0 and not (folder / "config.yaml").exists():
        _write(config, folder)
    known = f"terminal mismatch at most {path.terminal_mismatch:.3g} nats"
    if isinstance(path, SimulatedPath):
        known = f"simulated in {len(path.moments.windows) - 1} windows"
    say(
        f"{len(job.train)} training and {len(job.valid)} validation fields on {job.model.grid.describe()}\n"
        f"{type(path.process).__name__}, {path.clock.describe()}; {path.reference.n_support} degrees of freedom; "
        f"{known}" + _conditions(job)
    )
    for remark in job.remarks:
        say(remark, sys.stderr)
    _, result = run_job(job, folder, draw=_pictures(job) if training.sample_every else None)
    if rank() == 0:
        _write(config, folder)  # a run that was prolonged is described by its last settings
    since = "" if result.resumed_from is None else f", continued from step {result.resumed_from}"
    say(f"{result.steps} steps in {result.seconds:.0f} s{since}{_validated(result, settings)}")
    if not result.finished:
        say(f"stopped by {result.stopped}, {training.steps - result.steps} steps to go: physdiff resume {folder}")
        return exit_code(result.stopped)
    if result.stopped is not None:
        say(f"stopped early: no improvement in {training.patience} validations; the model is that of the best")
    say(f"model: {folder / 'model'}")
    return 0


def _conditions(job: Job) -> str:
    """What the model is told, on a line of its own."""
    told = job.model.conditions
    classes = f" ({told.classes} classes)" if told.classes else ""
    return f"\nconditioned on {', '.join(told.names)}{classes}" if told else ""


def _pictures(job: Job) -> SampleGrids:
    """Samples while training, beside the first held-out fields and under their conditions."""
    fields, condition = job.valid.batch(torch.arange(min(len(job.valid), SHOWN)))
    return SampleGrids(job.model, fields, condition)


def _validated(result: TrainResult, settings: RunSettings) -> str:
    """What validation found last, and what the numbers mean."""
    if result.validation_loss is None:
        return ""
    loss = f", validation loss {result.validation_loss:.4f}"
    if result.validation_error is None:
        return f"{loss} (lower is better; of transition score matching, where even the exact score stays near 1)"
    objective = settings.objective.build()
    if isinstance(objective, DenoisingLoss) and objective.normalised:
        loss += f" ({BEYOND})"
    return f"{loss}, denoising error {result.validation_error:.4f} of the Wiener filter's"


def _write(config: str, folder: Path) -> None:
    with replacing_file(folder / "config.yaml") as partial:
        partial.write_text(config)


def resolved_config(settings: RunSettings, process: ForwardProcess, clock: Clock, run: str) -> str:
    """The settings of a run as YAML, with the clock that was chosen from the data; `physdiff train` takes it."""
    described = description.of_process(process.with_clock(clock))
    cls = type(process)
    along = {
        "class_path": f"{type(clock).__module__}.{type(clock).__qualname__}",
        "init_args": described["clock"]["settings"],
    }
    config: dict[str, Any] = {
        "process": {
            "class_path": f"{cls.__module__}.{cls.__qualname__}",
            "init_args": {**described["settings"], "clock": along},
        },
        **kept(settings),
        "run": run,
    }
    return yaml.safe_dump(json.loads(json.dumps(config)), sort_keys=False)  # tuples become lists
