"""A model's folder: written whole or not at all, and read without running anything that is in it.

    model.json              grid, names, units, normaliser, conditions, what a sample is, process, network, and how
                            they are joined: plain text
    weights.safetensors     of the network
    reference.safetensors   mean, spectrum and floor of the reference
    moments.safetensors     under a simulated process
    calibration.safetensors once the model is calibrated
    README.md               for people

Tensors hold no code. The classes of process and network are named, and `physdiff.trust` says which names are followed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from physdiff import description
from physdiff.atomic import replacing_folder
from physdiff.basis import SpectralBasis
from physdiff.data.preparation import Preparation
from physdiff.denoisers import Calibration, Denoiser
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.joined import how_joined, joined_as, variance_of
from physdiff.model_card import NAME, card_text
from physdiff.model_files import Tables, intact, read_json, read_tables, read_tensors, write_tables, write_tensors
from physdiff.networks.settings import NetworkSettings, build_network
from physdiff.path import ReferencePath
from physdiff.process import LinearProcess
from physdiff.semilinear import SemilinearProcess
from physdiff.simulated_path import Moments, SimulatedPath
from physdiff.solvers import Calibrated
from physdiff.trust import require_trusted

if TYPE_CHECKING:
    from physdiff.model import FieldModel

WEIGHTS, REFERENCE, MOMENTS = "weights.safetensors", "reference.safetensors", "moments.safetensors"


def write_model(model: FieldModel, tables: Tables, folder: str | Path) -> None:
    """Write a model and the tables that were measured on it; a model that is there is replaced."""
    path = model.denoiser.path
    meta = {
        "format": 1,
        "grid": model.grid.to_dict(),
        "names": list(model.names),
        "units": list(model.units),
        **model.preparation.to_dict(),
        "process": description.of_process(path.process),
        "t_min": path.t_min,
        "noise_level": model.noise_level,
        **how_joined(model.denoiser),
        "network": model.network.to_dict(),
        "card": model.card,
    }
    reference = path.reference
    with replacing_folder(folder, overwrite=True, mark="model.json") as partial:
        write_tensors(partial / WEIGHTS, model.denoiser.network.state_dict())
        write_tensors(
            partial / REFERENCE, {"mean": reference.mean, "spectrum": reference.spectrum, "floor": reference.floor}
        )
        if isinstance(path, SimulatedPath):
            write_tensors(partial / MOMENTS, vars(path.moments))
        if tables:
            meta["calibration"] = write_tables(partial, tables)
        (partial / NAME).write_text(card_text(model))
        (partial / "model.json").write_text(json.dumps(meta, indent=2) + "\n")


def tables_of(model: FieldModel) -> Tables:
    """What was measured on a trained model or its data, as tensors by table."""
    tables: Tables = {}
    if model.calibrated_grid is not None:
        tables["time_grid"] = model.calibrated_grid.to_tensors()
    if isinstance(model.denoiser, Denoiser) and model.denoiser.calibration is not None:
        tables["uncertainty"] = model.denoiser.calibration.to_tensors()
    if model.observed is not None:
        tables["observed"] = {"cells": model.observed.to(torch.uint8)}
    return tables


def restore(model: FieldModel, tables: Tables) -> None:
    """The inverse of `tables_of`."""
    if "time_grid" in tables:
        model.calibrated_grid = Calibrated.from_tensors(tables["time_grid"])
    if "uncertainty" in tables and isinstance(model.denoiser, Denoiser):
        model.denoiser.calibration = Calibration.from_tensors(tables["uncertainty"])
    if "observed" in tables:
        model.observed = tables["observed"]["cells"].bool()


def folder_of(folder: str | Path) -> Path:
    """Where a model lies: the folder itself, or `model/` in that of a run.

    Raises:
        FileNotFoundError: there is no model.
    """
    folder = Path(folder)
    if not (folder / "model.json").is_file() and (folder / "model" / "model.json").is_file():
        folder = folder / "model"
    if not (folder / "model.json").is_file():
        raise FileNotFoundError(f"'{folder}' holds no model: there is no model.json in it or in its model/.")
    return folder


def read_model(folder: Path) -> tuple[dict[str, Any], Tables]:
    """The arguments of `FieldModel`, and the tables that were measured on the model.

    Raises:
        ValueError: a file is damaged; the weights are of another network; a class is named that may not be run.
    """
    file = folder / "model.json"
    meta = read_json(file)
    law = read_tensors(folder / REFERENCE)
    weights = read_tensors(folder / WEIGHTS)
    with intact(file, KeyError, TypeError, ValueError, AttributeError):
        grid = Grid(**meta["grid"])
        basis = SpectralBasis(grid)
        settings = NetworkSettings.from_dict(meta["network"])
        variance, whitened = variance_of(meta), meta["whitened_input"]
        name = meta["process"]["class"]
        channels = len(meta["names"])
    require_trusted(name, folder, "process")
    if settings.class_path is not None:
        require_trusted(settings.class_path, folder, "network")
    extra = 0 if variance is None else variance.extra_channels(channels)
    about_file = (TypeError, ValueError) if settings.class_path is None else (TypeError,)
    with intact(file, *about_file):
        network = build_network(grid, channels, settings, whitened, extra)
    with intact(folder / REFERENCE, KeyError, TypeError, ValueError):
        reference = GaussianField(basis, law["mean"], law["spectrum"], law["floor"])
    with intact(file, KeyError, TypeError):  # a ValueError is about the user's own process file
        process = description.to_process(meta["process"], basis)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{folder / WEIGHTS} does not fit model.json: {error}") from None
    moments = None
    if isinstance(process, SemilinearProcess):
        runs = read_tensors(folder / MOMENTS)
        with intact(folder / MOMENTS, TypeError, ValueError):
            moments = Moments(**runs)
            SimulatedPath(process, reference, moments, meta["t_min"])
    with intact(file, KeyError, TypeError, ValueError):
        if moments is not None:
            assert isinstance(process, SemilinearProcess)
            path = SimulatedPath(process, reference, moments, meta["t_min"])
        else:
            assert isinstance(process, LinearProcess)
            path = ReferencePath(process, reference, meta["t_min"])
        preparation = Preparation.from_dict(meta)
        arguments = {
            "denoiser": joined_as(network, path, meta).eval(),
            "normaliser": preparation.normaliser,
            "conditions": preparation.conditions,
            "selection": preparation.selection,
            "names": tuple(meta["names"]),
            "units": tuple(meta["units"]),
            "network": settings,
            "noise_level": meta["noise_level"],
            "card": meta["card"],
        }
    known = {"time_grid", "uncertainty", "observed"}
    return arguments, read_tables(folder, meta["calibration"], known) if "calibration" in meta else {}
