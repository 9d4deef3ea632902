"""A trained model as its users see it: physical units and xarray objects in and out, one folder on disk.

What the folder holds is told by `physdiff.saved_model`: plain text and tensors, never pickled code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import xarray as xr
from torch import Tensor

from physdiff.bounds import elbo, simulated_elbo
from physdiff.condition import Given, per_field
from physdiff.data.fields import FieldData
from physdiff.data.normalise import Standardise
from physdiff.denoisers import (
    Calibration,
    Denoiser,
    NetworkScore,
    PosteriorMean,
    ReverseModel,
    ScoreModel,
    calibrate,
    guided,
)
from physdiff.flow_ends import estimator_of
from physdiff.grid import Grid
from physdiff.joined import around, how_joined, joined_as
from physdiff.likelihood import LogLikelihood, log_likelihood
from physdiff.model_files import TABLES, intact
from physdiff.networks.settings import NetworkSettings, build_network
from physdiff.saved_model import folder_of, read_model, write_model
from physdiff.score_tables import of_bound, of_likelihood
from physdiff.semilinear import SemilinearProcess
from physdiff.solvers import Calibrated, ReferenceSplitting, Solver, TimeGrid, sample, suited_grid
from physdiff.trace import ExactTrace, Hutchinson, TraceEstimator

__all__ = ["FieldModel", "NetworkSettings", "around", "build_network", "require_physical"]


@dataclass(eq=False)
class FieldModel:
    """A law of fields in physical units.

    Attributes:
        denoiser: The denoiser, or under a simulated process the score, in normalised units.
        normaliser: Physical to normalised units.
        names: Name of each channel.
        units: Unit of each channel.
        network: What the network was built from.
        noise_level: Noise of the data relative to its standard deviation, below which nothing is modelled; None if
            the weakest mode of the data sets it.
        card: Anything worth keeping about where the model came from; plain values.
        calibrated_grid: Where its own trajectories call for steps; None until it is calibrated.
    """

    denoiser: Denoiser | NetworkScore
    normaliser: Standardise
    names: tuple[str, ...]
    units: tuple[str, ...]
    network: NetworkSettings
    noise_level: float | None = None
    card: dict[str, Any] = field(default_factory=dict)
    calibrated_grid: Calibrated | None = None

    @property
    def grid(self) -> Grid:
        """Where its fields live."""
        return self.denoiser.path.basis.grid

    @property
    def boundary_override(self) -> str | None:
        """The boundary that it was trained with in place of its data's own; None for the data's own."""
        return self.card.get("settings", {}).get("data", {}).get("boundary")

    def untrained(self) -> FieldModel:
        """The same model with the network as it was before training: the Gaussian reference field."""
        own = self.denoiser
        variance = own.learned_variance if isinstance(own, Denoiser) else None
        extra = 0 if variance is None else variance.extra_channels(len(self.names))
        network = build_network(self.grid, len(self.names), self.network, own.whitened_input, extra)
        denoiser = joined_as(network, own.path, how_joined(own))
        return FieldModel(denoiser, self.normaliser, self.names, self.units, self.network, self.noise_level)

    def calibrate(
        self,
        fields: Tensor | None = None,
        *,
        pilots: int = 16,
        steps: int = 64,
        order: int = 3,
        levels: int = 16,
        seed: int = 0,
    ) -> None:
        """Measure where trajectories need steps, and how far the denoiser is from the clean fields; kept by `save`.

        It costs pilots · steps evaluations of the network, and levels for each field.

        Args:
            fields: Normalised fields that the model was not trained on, shape (n, channels, *grid). None, or a
                simulated process: only the time grid is measured.
            pilots: Trajectories that are followed.
            steps: Nodes of a trajectory.
            order: Order of the rule that is to step on the grid, 1 to 4.
            levels: Noise levels at which each field is denoised.
            seed: Of pilots and noise.

        Raises:
            ValueError: a setting is outside its range, or the fields are not of the model's shape.
        """
        grid = Calibrated.measure(self.denoiser, pilots=pilots, steps=steps, order=order, seed=seed)
        if fields is not None and isinstance(self.denoiser, Denoiser):
            self.denoiser.calibration = calibrate(self.denoiser, fields, levels=levels, seed=seed)
        self.calibrated_grid = grid

    def grid_for(self, solver: Solver) -> TimeGrid:
        """Where a rule's steps stop when nobody says."""
        return suited_grid(solver, self.denoiser.path, self.calibrated_grid)

    def sample(
        self,
        n: int,
        *,
        steps: int = 16,
        solver: Solver | None = None,
        time_grid: TimeGrid | None = None,
        seed: int = 0,
        condition: Given | None = None,
        guidance: float = 1.0,
        progress: bool = False,
    ) -> xr.Dataset:
        """Draw fields, in physical units.

        Args:
            n: Number of fields.
            steps: Solver steps.
            solver: Step rule; the reference splitting when not given.
            time_grid: Where the steps stop; what suits the step rule when not given: for the reference splitting the
                calibrated grid, if the model has one.
            seed: Field i depends on (seed, i) alone.
            condition: Fields, numbers and classes in the units in which the model was trained on them, of each of the
                n fields, or one of all.
            guidance: How far to go towards what the condition changes: 1 is the conditional law, 0 that of all fields,
                beyond 1 fields tell their condition the more clearly and vary the less, at twice the cost (`Guided`).
                For a model that was trained with `objective.drop_condition`.
            progress: Whether to show a bar.

        Returns:
            One variable a channel on dims ("sample", *grid.dims), with coordinates and units.

        Raises:
            ValueError: there is guidance and no condition; and as `physdiff.sample`.
        """
        solver = ReferenceSplitting() if solver is None else solver
        grid = self.grid_for(solver) if time_grid is None else time_grid
        fields = sample(
            self._guided(guidance, condition), n, steps=steps, solver=solver, time_grid=grid, seed=seed,
            condition=condition, progress=progress,
        )  # fmt: skip
        dataset = self.to_dataset(self.normaliser.inverse(fields), source="samples of a physdiff model")
        dataset.attrs.update(steps=steps, seed=seed, solver=type(solver).__name__, time_grid=type(grid).__name__)
        if guidance != 1:
            dataset.attrs["guidance"] = guidance
        return dataset

    def _guided(self, scale: float, condition: Given | None) -> ReverseModel:
        if scale == 1:
            return self.denoiser
        if condition is None:
            raise ValueError(f"guidance goes towards what a condition changes, and none is given; guidance is {scale}.")
        return guided(self.denoiser, scale)

    def to_dataset(self, fields: Tensor, source: str) -> xr.Dataset:
        """Fields in physical units, shape (n, channels, *grid), as a data set."""
        n = len(fields)
        index = torch.arange(n)
        data = FieldData(
            values=fields.cpu().numpy(), grid=self.grid, names=self.names, units=self.units,
            trajectory=index.numpy(), time=torch.zeros(n, dtype=torch.float64).numpy(), source=source,
        )  # fmt: skip
        return data.to_xarray()

    def log_likelihood(self, data: xr.Dataset | FieldData, **settings: Any) -> xr.Dataset:
        """Log-density of fields in physical units; see `physdiff.log_likelihood` for the settings.

        The density is one per unit of the fields' own units: the normaliser's determinant is included.

        Args:
            data: Fields on the model's grid with its names and units; other variables are ignored.
            **settings: `probes` (number of Hutchinson probes, "exact" for the exact trace, 8 when not given), and
                those of `physdiff.log_likelihood`; a `condition` as for `sample`; with `guidance` the density is that
                of fields that a deterministic solver draws with it.

        Returns:
            On dim "sample": log_prob, standard_error, per_dimension, relative_to_reference, log_prob_reference, in
            nats; degrees_of_freedom, probes_per_field, evaluations_per_field, and roundtrip_error and target_reached
            if they were asked for. Attributes tell evaluations, probes, t_min, what was scored, n_support,
            gaussian_bias, terminal_mismatch, trace, method, rtol, atol and seed.

        Raises:
            ValueError: the data is on another grid, lacks a field, has other units, or holds a bad value; `scored` is
                not "field" or "noised".
        """
        require_physical(settings.get("scored", self.scored))
        settings["trace"] = _trace(settings)
        found = of_likelihood(self.score(self.normalised(data), **settings), self.log_det, settings)
        guidance = settings.get("guidance", 1.0)
        return found if guidance == 1 else found.assign_attrs(guidance=guidance)

    def elbo(self, data: xr.Dataset | FieldData, **settings: Any) -> xr.Dataset:
        """Lower bound on the log-density of fields in physical units; see `physdiff.elbo` for the settings.

        Args:
            data: As for `log_likelihood`.
            **settings: Of `physdiff.elbo`; under a simulated process of `physdiff.simulated_elbo`. A `condition` as
                for `sample`; with `guidance` the bound is on the law of the guided chain.

        Returns:
            On dim "sample": bound, standard_error, per_dimension, relative_to_reference, log_prob_reference, and what
            each part takes from the bound (prior, transitions, decoder), in nats; attributes tell evaluations, draws,
            seed, n_support.

        Raises:
            ValueError: as `log_likelihood`, and as `physdiff.elbo`.
        """
        fields = self.normalised(data)
        guidance = settings.pop("guidance", 1.0)
        model = self._guided(guidance, settings.get("condition"))
        if "condition" in settings:
            settings["condition"] = per_field(settings["condition"], len(fields))
        if isinstance(model, ScoreModel):
            result = simulated_elbo(model, fields, **settings)
        else:
            assert isinstance(model, PosteriorMean)
            result = elbo(model, fields, **settings)
        found = of_bound(result, self.log_det, settings.get("seed", 0))
        return found if guidance == 1 else found.assign_attrs(guidance=guidance)

    def score(self, fields: Tensor, probes: int | str = 8, **settings: Any) -> LogLikelihood:
        """Log-density of normalised fields, shape (n, channels, *grid), in the model's units."""
        settings["trace"] = _trace({"probes": probes, **settings})
        settings.setdefault("scored", self.scored)
        model = self._guided(settings.pop("guidance", 1.0), settings.get("condition"))
        return log_likelihood(model, fields, **settings)

    @property
    def scored(self) -> Literal["field", "noised"]:
        """What likelihoods are of: fields as they are, or with the noise below which nothing is modelled."""
        process = self.denoiser.path.process
        simulated = isinstance(process, SemilinearProcess)
        clean = self.noise_level is None and not simulated and process.starts_clean
        return "field" if clean else "noised"

    def normalised(self, data: xr.Dataset | FieldData) -> Tensor:
        """The model's variables of a data set in its units, shape (n, channels, *grid), float64.

        Raises:
            ValueError: a variable is missing, or grid or units differ from the model's.
        """
        if not isinstance(data, FieldData):
            data = FieldData.from_xarray(data, grid=self.grid, names=self.names)
        if data.names != self.names:
            data = data.select(self.names)
        if any(theirs not in ("", ours) for theirs, ours in zip(data.units, self.units, strict=True)):
            raise ValueError(
                f"{data.source}: the fields {', '.join(data.names)} have the units {data.units}; the model was "
                f"trained on {self.units}."
            )
        if not data.grid.matches(self.grid):
            raise ValueError(
                f"{data.source} is on the grid {data.grid.describe()}; the model was trained on {self.grid.describe()}."
            )
        return self.normaliser.forward(torch.from_numpy(data.values).to(torch.float64))

    @property
    def log_det(self) -> float:
        """Log-determinant of the normaliser on the support, in nats: normalised to physical log-density."""
        modes = self.denoiser.path.reference.support.flatten(1).sum(1)
        return float((modes * self.normaliser.log_det_per_cell).sum())

    def save(self, folder: str | Path) -> None:
        """Write the model's folder, whole or not at all; a model that is there is replaced."""
        write_model(self, self._calibration, folder)

    @property
    def _calibration(self) -> dict[str, dict[str, Tensor]]:
        """What was measured on the trained model, as tensors by table."""
        tables = {}
        if self.calibrated_grid is not None:
            tables["time_grid"] = self.calibrated_grid.to_tensors()
        if isinstance(self.denoiser, Denoiser) and self.denoiser.calibration is not None:
            tables["uncertainty"] = self.denoiser.calibration.to_tensors()
        return tables

    def _restore(self, tables: dict[str, dict[str, Tensor]]) -> None:
        """The inverse of `_calibration`."""
        if "time_grid" in tables:
            self.calibrated_grid = Calibrated.from_tensors(tables["time_grid"])
        if "uncertainty" in tables and isinstance(self.denoiser, Denoiser):
            self.denoiser.calibration = Calibration.from_tensors(tables["uncertainty"])

    @classmethod
    def load(cls, folder: str | Path) -> FieldModel:
        """Read a model from its folder, or from the run folder that holds it as `model/`; no code in it is run.

        Raises:
            FileNotFoundError: there is no model.
            ValueError: a file of it is damaged, or its weights are of another network; it names a class that is not
                there, or that came with it.
        """
        folder = folder_of(folder)
        arguments, tables = read_model(folder)
        model = cls(**arguments)
        with intact(folder / TABLES, KeyError, TypeError, ValueError):
            model._restore(tables)
        return model


def _trace(settings: dict[str, Any]) -> TraceEstimator:
    """The estimator that `trace` or `probes` says."""
    if "trace" in settings:
        return estimator_of(settings["trace"])
    probes = settings.get("probes", 8)
    if isinstance(probes, str) and probes != "exact":
        raise ValueError(f"probes must be a number or 'exact'; got '{probes}'.")
    return ExactTrace() if probes == "exact" else Hutchinson(int(probes))


def require_physical(scored: str) -> None:
    """Raise unless fields in physical units can be scored so."""
    if scored not in ("field", "noised"):
        raise ValueError(f"scored must be 'field' or 'noised' for fields in physical units; got '{scored}'.")
