"""From settings and a data folder to a run folder with a trained model in it."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from physdiff import description
from physdiff.basis import Basis, SpectralBasis
from physdiff.clock_fit import fit_clock
from physdiff.config import RunSettings
from physdiff.data.conditions import Conditions
from physdiff.data.fieldset import FieldSet
from physdiff.data.filled import FilledPreparation
from physdiff.data.handles import close_all
from physdiff.data.layout import Layout
from physdiff.data.masked_reference import fit_masked_reference
from physdiff.data.preparation import Preparation, copies
from physdiff.data.reference import fit_reference
from physdiff.data.rows import Rows, rows_of
from physdiff.data.settings import DataSettings
from physdiff.data.statistics import Statistics
from physdiff.data.statistics_file import statistics_of
from physdiff.data.symmetry import senses
from physdiff.data.trained_on import remembered
from physdiff.denoisers import Denoiser, NetworkScore, ScoreModel
from physdiff.filling import Filler
from physdiff.gaussian import GaussianField
from physdiff.model import FieldModel, NetworkSettings, around, build_network
from physdiff.objectives.objective import Objective
from physdiff.path import ReferencePath, time_of_onset
from physdiff.process import ForwardProcess, LinearProcess
from physdiff.randomness import keyed_generator
from physdiff.semilinear import SemilinearProcess
from physdiff.simulated_path import SimulatedPath
from physdiff.training.augment import Augment, Symmetries
from physdiff.training.company import device_of, rank
from physdiff.training.loop import Draw, TrainResult, train
from physdiff.training.objective_call import Loss
from physdiff.training.remarks import of_axes, of_conditions, of_duplicates, of_reference, of_times, of_turns
from physdiff.training.trackers import open_trackers

RUNS = 512  # fields of which a simulated process takes runs, at most
HELD = 1 << 30  # bytes of the fields from which an objective learns before training, at most

ProcessOn = Callable[[Basis], ForwardProcess]


@dataclass(frozen=True)
class Job:
    """A run before its first step.

    Attributes:
        model: The untrained model: the Gaussian reference field.
        train: Training fields and their conditions, normalised.
        valid: Those of the validation split.
        settings: What the run was told.
        augment: What training does to a batch at random; None leaves it.
        remarks: What the user should know of the data, one line each.
    """

    model: FieldModel
    train: Rows
    valid: Rows
    settings: RunSettings
    augment: Augment | None = None
    remarks: tuple[str, ...] = ()


def prepare(process: ProcessOn, settings: RunSettings, cache: Path | None = None, progress: bool = False) -> Job:
    """Read the data, fit the reference, set the process's clock, build the network.

    Args:
        process: The noising physics.
        settings: Of the run.
        cache: Folder for prepared fields, of data that is too large for the memory.
        progress: Whether to show bars.

    Raises:
        FileNotFoundError: there is no data.
        ValueError: the data or a setting is unfit.
    """
    told = settings.data
    train_set, valid_set = opened(told)
    symmetries = _symmetries(told, train_set)
    statistics = statistics_of(train_set, progress=progress)
    preparation = Preparation.fit(train_set, statistics, told.normalise, symmetries.turns)
    model, whole, of_mask = _model(
        process, settings, train_set, valid_set, preparation, symmetries, statistics, progress
    )
    is_pinned = device_of(settings.training.device).type == "cuda"
    train, valid = (
        rows_of(some, whole, told.loader, told.workers, cache, progress=progress, is_pinned=is_pinned)
        for some in (train_set, valid_set)
    )
    of_fields = [*of_axes(train_set), *of_turns(train_set, symmetries.turns)]
    close_all()  # a loader opens what it needs
    copied = of_duplicates(told, {"train": train_set, "valid": valid_set})
    remarks = (*of_conditions(statistics), *of_fields, *of_times(train_set, valid_set), *of_mask, *copied)
    augment = symmetries if symmetries.shifted or len(symmetries.turns) > 1 else None
    return Job(model, train, valid, settings, augment, remarks)


def opened(data: DataSettings) -> tuple[FieldSet, FieldSet]:
    """The training and the validation split.

    Raises:
        FileNotFoundError: there is no data.
        ValueError: the splits are unfit, or on two grids.
    """
    train_set = data.open("train")
    names = [v.name for v in train_set.variables]
    valid_set = replace(data, fields=names).open("valid")
    if not valid_set.grid.matches(train_set.grid):
        raise ValueError(
            f"{valid_set.source}: split 'valid' is on {valid_set.grid.describe()}, split 'train' on "
            f"{train_set.grid.describe()}."
        )
    for name in ("units", "given_names", "given_units", "scalar_names"):
        there, here = getattr(train_set, name), getattr(valid_set, name)
        if here != there:
            word = "numbers" if name == "scalar_names" else name.replace("given_", "condition's ")
            raise ValueError(f"{valid_set.source}: split 'valid' has the {word} {here}, split 'train' {there}.")
    return train_set, valid_set


def _symmetries(data: DataSettings, fields: FieldSet) -> Symmetries:
    """What training does to fields: what the settings name, and shifts of homogeneous data without missing cells."""
    words, grid = list(data.symmetries), fields.grid
    if data.mask is not None:
        if words:
            raise ValueError(
                f"data.symmetries {', '.join(words)} are not for data with missing cells (data.mask): filled cells "
                "would come to lie where there are observed ones."
            )
        return Symmetries.of([], grid, senses(fields.channels), senses(fields.given_variables))
    if data.homogeneous and "shift" not in words and "periodic" in grid.boundary:
        words = ["shift", *data.turns]
    return Symmetries.of(words, grid, senses(fields.channels), senses(fields.given_variables))


def _model(
    process: ProcessOn, settings: RunSettings, fields: FieldSet, held_out: FieldSet, preparation: Preparation,
    symmetries: Symmetries, statistics: Statistics, progress: bool,
) -> tuple[FieldModel, Preparation | FilledPreparation, list[str]]:  # fmt: skip
    """The model before training, what makes whole fields in its units of samples, and remarks on its reference."""
    basis, told, normaliser = SpectralBasis(fields.grid), settings.data, preparation.normaliser
    turned = copies(symmetries.turns, symmetries.channels)
    whole, observed, remarks = preparation, None, []
    if told.mask is not None:
        fitted = fit_masked_reference(
            fields, normaliser, basis, told.noise_level, told.is_homogeneous, progress=progress,
            missing=[summary.missing for summary in statistics.channels],
        )  # fmt: skip
        reference, observed = fitted.law, fitted.observed
        remarks = of_reference(fitted, len(fields), told.homogeneous)
        whole = FilledPreparation(preparation, Filler(reference))
    else:
        reference = fit_reference(
            fields, normaliser, basis, told.noise_level, told.is_homogeneous, progress, turned, statistics.content,
        )  # fmt: skip
    physics = fit_clock(process(basis), reference, told.noise_level)
    path = path_of(physics, reference, whole.fields(fields.read(range(min(len(fields), RUNS)))), settings)
    joined = settings.denoiser
    variance, channels = joined.learned_variance, len(fields.names)
    extra = 0 if variance is None else variance.extra_channels(channels)
    layout = network_for(settings.network, preparation.conditions)
    network = build_network(fields.grid, channels, layout, joined.whitened_input, extra)
    denoiser = around(network, path, joined.mode_scaling, joined.whitened_input, joined.predicted(), variance)
    card = {
        "data": named(told), "train_fields": len(fields), "valid_fields": len(held_out),
        **remembered(fields, (fields, held_out), told.splits is not None),
    }  # fmt: skip
    model = FieldModel(
        denoiser, normaliser, fields.names, fields.units, layout, told.noise_level, card,
        conditions=preparation.conditions, selection=preparation.selection, observed=observed,
    )  # fmt: skip
    return model, whole, remarks


def named(data: DataSettings) -> str:
    """What a card calls the data: its path, or the paths of its splits."""
    return data.path if isinstance(data.path, str) else json.dumps(data.path)


def network_for(network: NetworkSettings, conditions: Conditions) -> NetworkSettings:
    """A network that is told what the data tells.

    Raises:
        ValueError: its settings ask for something else.
    """
    for name, count in conditions.network.items():
        asked = getattr(network, name)
        fits = asked in (0, count) or (name == "classes" and asked > count > 0)
        if not fits:
            raise ValueError(
                f"network.{name} is {asked}, and the data tells {count}: it follows from data.condition, data.past and "
                "data.classes; leave it out."
            )
    return replace(network, **{name: max(getattr(network, name), n) for name, n in conditions.network.items()})


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
        augment=job.augment, signature=signature(model, job.settings), progress=progress,
        draw=draw, trackers=open_trackers(told.trackers, folder, asdict(job.settings)) if rank() == 0 else (),
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
        "settings": kept(job.settings),
    }
    trained = replace(model, denoiser=ema, card=card)
    if result.finished and rank() == 0:
        trained.save(folder / "model")
    return trained, result


def kept(settings: RunSettings) -> dict[str, Any]:
    """The settings as a model keeps them: what a layout says stands in it, and not only the name of its file."""
    values = asdict(settings)
    if settings.data.layout is not None:
        layout = asdict(Layout.of(settings.data.layout))
        values["data"]["layout"] = {name: value for name, value in layout.items() if value is not None}
    return values


def objective_of(job: Job) -> Loss:
    """What the settings ask to minimise."""
    if isinstance(job.model.denoiser, ScoreModel):
        return job.settings.simulation.loss()
    objective = job.settings.objective.build()
    if type(objective).prepared is Objective.prepared:  # it takes nothing from the data, which may be large
        return objective
    return objective.prepared(job.model.denoiser.path, some_of(job.train), job.model.normaliser.inverse)


def some_of(rows: Rows, most: int = HELD) -> Tensor:
    """All rows, or where they take more bytes than `most` as many as fit, evenly spread; (k, channels, *grid)."""
    count = min(len(rows), max(2, most // (4 * math.prod(rows.shape[1:]))))
    chosen = torch.linspace(0, len(rows) - 1, count, dtype=torch.float64).round().long()
    return rows.batch(chosen)[0]


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
    # Not there without them, so that a run of an older version goes on.
    if model.conditions:
        parts["conditions"] = model.conditions.to_dict()
    if settings.data.symmetries:
        parts["symmetries"] = sorted(settings.data.symmetries)
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
