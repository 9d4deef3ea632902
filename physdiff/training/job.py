"""From settings and a data folder to a run folder with a trained model in it."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from physdiff import description
from physdiff.basis import Basis, SpectralBasis
from physdiff.clock_fit import fit_clock
from physdiff.config import RunSettings
from physdiff.data.fields import FieldData, load_fields
from physdiff.data.normalise import Standardise
from physdiff.denoisers import Denoiser, NetworkScore, ScoreModel
from physdiff.gaussian import GaussianField
from physdiff.model import FieldModel, around, build_network
from physdiff.path import ReferencePath, time_of_onset
from physdiff.process import ForwardProcess, LinearProcess
from physdiff.randomness import keyed_generator
from physdiff.semilinear import SemilinearProcess
from physdiff.simulated_path import SimulatedPath
from physdiff.training.augment import shift_at_random
from physdiff.training.company import device_of, rank
from physdiff.training.loop import Draw, TrainResult, train
from physdiff.training.objective_call import Loss
from physdiff.training.trackers import open_trackers

ProcessOn = Callable[[Basis], ForwardProcess]


@dataclass(frozen=True)
class Job:
    """A run before its first step.

    Attributes:
        model: The untrained model: the Gaussian reference field.
        train: Normalised training fields, shape (n, channels, *grid), float32.
        valid: Normalised validation fields.
        settings: What the run was told.
    """

    model: FieldModel
    train: Tensor
    valid: Tensor
    settings: RunSettings


def prepare(process: ProcessOn, settings: RunSettings) -> Job:
    """Read the data, fit the reference, set the process's clock, build the network.

    Raises:
        FileNotFoundError: there is no data.
        ValueError: the data or a setting is unfit.
    """
    data = load_fields(settings.data.path, settings.data.fields, "train", settings.data.boundary)
    held_out = load_fields(settings.data.path, data.names, "valid", settings.data.boundary)
    if not held_out.grid.matches(data.grid):
        raise ValueError(
            f"{held_out.source}: split 'valid' is on {held_out.grid.describe()}, split 'train' on "
            f"{data.grid.describe()}."
        )
    return Job(*_model_and_tensors(process, settings, data, held_out), settings)


def _model_and_tensors(
    process: ProcessOn, settings: RunSettings, data: FieldData, held_out: FieldData
) -> tuple[FieldModel, Tensor, Tensor]:
    normaliser = Standardise.fit(data.values, data.names)
    fields, valid = (normaliser.forward(torch.from_numpy(d.values).double()) for d in (data, held_out))
    basis = SpectralBasis(data.grid)
    noise_level = settings.data.noise_level
    homogeneous = settings.data.homogeneous
    reference = GaussianField.fit(fields, basis, noise_level, homogeneous, rounding_of(data, normaliser))
    physics = fit_clock(process(basis), reference, noise_level)
    path = path_of(physics, reference, fields, settings)
    joined = settings.denoiser
    variance, channels = joined.learned_variance, len(data.names)
    extra = 0 if variance is None else variance.extra_channels(channels)
    network = build_network(data.grid, channels, settings.network, joined.whitened_input, extra)
    denoiser = around(network, path, joined.mode_scaling, joined.whitened_input, joined.predicted(), variance)
    card = {"data": str(settings.data.path), "train_fields": len(fields), "valid_fields": len(valid)}
    model = FieldModel(denoiser, normaliser, data.names, data.units, settings.network, noise_level, card)
    return model, fields.float(), valid.float()


def path_of(
    process: ForwardProcess, reference: GaussianField, fields: Tensor, settings: RunSettings
) -> ReferencePath | SimulatedPath:
    """The Gaussian world from the first noise on, in closed form or measured on runs from the training fields."""
    noise_level = settings.data.noise_level
    linear = process.linear if isinstance(process, SemilinearProcess) else process
    assert isinstance(linear, LinearProcess)
    onset = torch.tensor(time_of_onset(linear, reference, noise_level), dtype=torch.float64)
    t_min = float(linear.running_clock.inverse(onset))
    if not isinstance(process, SemilinearProcess):
        return ReferencePath(linear, reference, t_min)
    generator = keyed_generator(settings.training.seed, "moments")
    return SimulatedPath.measure(
        process, reference, fields, t_min, generator, settings.simulation.tolerance, settings.data.homogeneous
    )


def rounding_of(data: FieldData, normaliser: Standardise) -> Tensor:
    """Standard deviation per cell of the rounding of the stored values, in normalised units, shape (channels,)."""
    values = data.values.astype(np.float64)
    size = np.sqrt(np.square(values).mean((0, *range(2, values.ndim))))
    return torch.from_numpy(np.finfo(data.values.dtype).eps * size) / normaliser.std


def run_job(job: Job, folder: Path, progress: bool = True, draw: Draw | None = None) -> tuple[FieldModel, TrainResult]:
    """Train, or continue a run that was interrupted, and write `folder/model/` when the run is finished.

    Args:
        job: What to train on what; the network goes to the device that the settings name.
        folder: The run's.
        progress: Show a progress bar.
        draw: Draws samples while training; see `train`.

    Raises:
        ValueError: the folder holds another run.
        FloatingPointError: the loss is not finite.
    """
    model, told = job.model, job.settings.training
    model.denoiser.to(device_of(told.device))
    result = train(
        model.denoiser, objective_of(job), job.train, job.valid, told, folder,
        augment=partial(shift_at_random, model.grid) if job.settings.data.homogeneous else None,
        signature=signature(model, job.settings), progress=progress, draw=draw,
        trackers=open_trackers(told.trackers, folder, asdict(job.settings)) if rank() == 0 else (),
    )  # fmt: skip
    ema = result.ema.cpu()
    assert isinstance(ema, (Denoiser, NetworkScore))
    card = {
        **model.card,
        "steps": result.steps,
        "seconds": result.seconds,
        "validation_loss": result.validation_loss,
        "validation_error": result.validation_error,
        "parameters": sum(p.numel() for p in ema.parameters()),
        "versions": versions(),
        "settings": asdict(job.settings),
    }
    trained = FieldModel(ema, model.normaliser, model.names, model.units, model.network, model.noise_level, card)
    if result.finished and rank() == 0:
        trained.save(folder / "model")
    return trained, result


def objective_of(job: Job) -> Loss:
    """What the settings ask to minimise."""
    if isinstance(job.model.denoiser, ScoreModel):
        return job.settings.simulation.loss()
    return job.settings.objective.build().prepared(job.model.denoiser.path, job.train, job.model.normaliser.inverse)


def signature(model: FieldModel, settings: RunSettings) -> str:
    """What must be the same for a run to be continued: grid, fields, process with its clock, denoiser, target."""
    path = model.denoiser.path
    parts: dict[str, Any] = {
        "grid": model.grid.describe(),
        "fields": list(model.names),
        "normaliser": model.normaliser.to_dict(),
        "homogeneous": settings.data.homogeneous,
        "noise_level": model.noise_level,
        "process": description.of_process(path.process),
        "t_min": path.t_min,
        "mode_scaling": model.denoiser.mode_scaling,
        "whitened_input": model.denoiser.whitened_input,
        "network": asdict(model.network),
    }
    if isinstance(path, SimulatedPath):
        parts["simulation"] = asdict(settings.simulation)
    else:
        parts["objective"] = repr(settings.objective.build())
        parts["prediction"] = repr(settings.denoiser.predicted())
        parts["learned_variance"] = repr(settings.denoiser.learned_variance)
    return json.dumps(parts, sort_keys=True)


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide the numbers."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("physdiff", "torch", "numpy")},
    }
