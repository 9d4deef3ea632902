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
from physdiff.condition import Condition, Given
from physdiff.data.conditions import Conditions
from physdiff.data.fields import FieldData
from physdiff.data.normalise import Normaliser
from physdiff.data.preparation import Preparation
from physdiff.data.samples import Samples
from physdiff.data.selection import Selection
from physdiff.denoisers import Denoiser, NetworkScore, PosteriorMean, ReverseModel, ScoreModel, calibrate
from physdiff.denoisers.guided import guided as with_guidance
from physdiff.filling import Filler
from physdiff.given import as_data, in_order, knows_all_fields, of_samples, told
from physdiff.grid import Grid
from physdiff.joined import around, how_joined, joined_as
from physdiff.likelihood import LogLikelihood, log_likelihood
from physdiff.model_files import TABLES, intact
from physdiff.networks.settings import NetworkSettings, build_network
from physdiff.observed_scores import has_missing, observed_scores, require_some
from physdiff.saved_model import folder_of, read_model, restore, tables_of, write_model
from physdiff.score_tables import curved_log_det, of_bound, of_likelihood, require_physical, trace_of
from physdiff.semilinear import SemilinearProcess
from physdiff.solvers import Calibrated, ReferenceSplitting, Solver, TimeGrid, sample, suited_grid

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
        conditions: What of the data it is told beside its fields, and on which scale; nothing if it was trained on
            conditions that were made elsewhere.
        selection: What one sample of its data is.
        observed: Which cells its data holds, shape (channels, *grid), bool, where these are the same in all fields;
            samples have no value in the others. None if all are.
    """

    denoiser: Denoiser | NetworkScore
    normaliser: Normaliser
    names: tuple[str, ...]
    units: tuple[str, ...]
    network: NetworkSettings
    noise_level: float | None = None
    card: dict[str, Any] = field(default_factory=dict)
    calibrated_grid: Calibrated | None = None
    conditions: Conditions = field(default_factory=Conditions)
    selection: Selection = field(default_factory=Selection)
    observed: Tensor | None = None

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
        return FieldModel(
            denoiser, self.normaliser, self.names, self.units, self.network, self.noise_level,
            conditions=self.conditions, selection=self.selection, observed=self.observed,
        )  # fmt: skip

    @property
    def preparation(self) -> Preparation:
        """From samples of data in physical units to what it was trained on."""
        return Preparation(self.normaliser, self.conditions, self.selection)

    def calibrate(
        self,
        fields: Tensor | None = None,
        *,
        condition: Given | None = None,
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
            condition: Of each of the fields, in the network's units; pilots take them in turn.
            pilots: Trajectories that are followed.
            steps: Nodes of a trajectory.
            order: Order of the rule that is to step on the grid, 1 to 4.
            levels: Noise levels at which each field is denoised.
            seed: Of pilots and noise.

        Raises:
            ValueError: a setting is outside its range, or the fields are not of the model's shape.
        """
        of_pilots = None if condition is None else condition[torch.arange(pilots) % len(condition)]
        grid = Calibrated.measure(
            self.denoiser, pilots=pilots, steps=steps, order=order, seed=seed, condition=of_pilots
        )
        if fields is not None and isinstance(self.denoiser, Denoiser):
            self.denoiser.calibration = calibrate(self.denoiser, fields, levels=levels, seed=seed, condition=condition)
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
        condition: Given | FieldData | xr.Dataset | None = None,
        guidance: float = 1.0,
        whole: bool = False,
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
            condition: Of each of the n fields, or one of all: samples of data in physical units, which hold what the
                model is told (its own fields are not looked at); or fields, numbers and classes in the units in which
                the network was trained on them.
            guidance: How far to go towards what the condition changes: 1 is the conditional law, 0 that of all fields,
                beyond 1 fields tell their condition the more clearly and vary the less, at twice the cost (`Guided`).
                For a model that was trained with `objective.drop_condition`.
            whole: Whether samples have values in cells that the data never holds.
            progress: Whether to show a bar.

        Returns:
            One variable a channel on dims ("sample", *grid.dims), with coordinates and units; what of the data the
            model was told stands beside them.

        Raises:
            ValueError: there is guidance and no condition; the model is told a condition and none is given; and as
                `physdiff.sample`.
        """
        solver = ReferenceSplitting() if solver is None else solver
        grid = self.grid_for(solver) if time_grid is None else time_grid
        condition = self._data_of(condition) if isinstance(condition, xr.Dataset) else condition
        told = self.told(condition, n)
        fields = sample(
            self.guided(guidance, told), n, steps=steps, solver=solver, time_grid=grid, seed=seed,
            condition=told, progress=progress,
        )  # fmt: skip
        physical = self.normaliser.inverse(fields)
        dataset = self.to_dataset(physical, "samples of a physdiff model", self.told_samples(told, condition), whole)
        dataset.attrs.update(steps=steps, seed=seed, solver=type(solver).__name__, time_grid=type(grid).__name__)
        if guidance != 1:
            dataset.attrs["guidance"] = guidance
        return dataset

    def told(self, condition: Given | FieldData | xr.Dataset | None, n: int) -> Given | None:
        """The condition of each of n fields, in the units of the network.

        Raises:
            ValueError: there are neither n nor one; the data lacks a part; none is given to a model that needs one.
        """
        if isinstance(condition, xr.Dataset):
            condition = self._data_of(condition)
        return told(self.conditions, condition, n, self.grid, knows_all_fields(self.card))

    def told_samples(self, told: Given | None, given: object = None) -> Samples | None:
        """What it was told in physical units, as `given` has it if that is data; None if no data says its units."""
        if told is None or not self.conditions:
            return None
        if isinstance(given, FieldData) and len(given) == len(told):
            return in_order(self.conditions, given)
        return self.conditions.samples(Condition.of(told))

    def guided(self, scale: float, condition: Given | None) -> ReverseModel:
        """Its denoiser, led by a factor towards what a condition changes; as it is for 1."""
        if scale == 1:
            return self.denoiser
        if condition is None:
            raise ValueError(f"guidance goes towards what a condition changes, and none is given; guidance is {scale}.")
        return with_guidance(self.denoiser, scale)

    def to_dataset(self, fields: Tensor, source: str, told: Samples | None = None, whole: bool = False) -> xr.Dataset:
        """Fields in physical units, shape (n, channels, *grid), as a data set, with what they are conditioned on."""
        observed = None if whole else self.observed
        about = {} if told is None else as_data(self.conditions, told)
        return of_samples(fields, observed, self.grid, self.names, self.units, source, about).to_xarray()

    def log_likelihood(self, data: xr.Dataset | FieldData, **settings: Any) -> xr.Dataset:
        """Log-density of fields in physical units; see `physdiff.log_likelihood` for the settings.

        The density is one per unit of the fields' own units: the normaliser's determinant is included.

        Args:
            data: Fields on the model's grid with its names and units; other variables are ignored.
            **settings: `probes` (number of Hutchinson probes, "exact" for the exact trace, 8 when not given), and
                those of `physdiff.log_likelihood`; for data with missing cells the number of `draws` of these, 4 when
                not given (if given, data under a mask is scored as such where no cell is missing too); a `condition`
                as for `sample`, that of `data` itself when not given;
                with `guidance` the density is that of fields that a deterministic solver draws with it.

        Returns:
            On dim "sample": log_prob, standard_error, per_dimension, relative_to_reference, log_prob_reference, in
            nats; degrees_of_freedom, probes_per_field, evaluations_per_field, and roundtrip_error and target_reached
            if they were asked for. Attributes tell evaluations, probes, t_min, what was scored, n_support,
            gaussian_bias, terminal_mismatch, trace, method, rtol, atol and seed. Of data with missing cells the
            density is that of the observed ones, a lower bound in expectation (see `physdiff.observed_likelihood`):
            n_observed, which divides per_dimension, and effective_draws stand beside it, and the attribute `cells`
            says "observed".

        Raises:
            ValueError: the data is on another grid, lacks a field, has other units, or holds a bad value; `scored` is
                not "field" or "noised".
        """
        scored = settings.get("scored", self.scored)
        require_physical(scored)
        settings["trace"] = trace_of(settings)
        data = self._own(data)
        settings["condition"] = self._told_with(data, settings)
        if has_missing(data) or ("draws" in settings and data.observed is not None):
            found = observed_scores(
                self.denoiser.path, self.normaliser, data, settings["condition"], self.score, scored, settings
            )
        else:
            settings.pop("draws", None)
            shift = self.log_det_at(torch.from_numpy(data.values).double(), scored)
            found = of_likelihood(self.score(self.normalised(data), **settings), shift, settings)
        guidance = settings.get("guidance", 1.0)
        return found if guidance == 1 else found.assign_attrs(guidance=guidance)

    def elbo(self, data: xr.Dataset | FieldData, **settings: Any) -> xr.Dataset:
        """Lower bound on the log-density of fields in physical units; see `physdiff.elbo` for the settings.

        Args:
            data: As for `log_likelihood`.
            **settings: Of `physdiff.elbo`; under a simulated process of `physdiff.simulated_elbo`. A `condition` as
                for `log_likelihood`; with `guidance` the bound is on the law of the guided chain.

        Returns:
            On dim "sample": bound, standard_error, per_dimension, relative_to_reference, log_prob_reference, and what
            each part takes from the bound (prior, transitions, decoder), in nats; attributes tell evaluations, draws,
            seed, n_support.

        Raises:
            ValueError: as `log_likelihood`, and as `physdiff.elbo`.
        """
        data = self._own(data)
        if has_missing(data):
            raise ValueError(f"{data.source} has cells that are not observed; log_likelihood scores the others.")
        fields = self.normalised(data)
        guidance = settings.pop("guidance", 1.0)
        if (told := self._told_with(data, settings)) is not None:
            settings["condition"] = told
        model = self.guided(guidance, told)
        if isinstance(model, ScoreModel):
            result = simulated_elbo(model, fields, **settings)
        else:
            assert isinstance(model, PosteriorMean)
            result = elbo(model, fields, **settings)
        shift = self.log_det_at(torch.from_numpy(data.values).double())
        found = of_bound(result, shift, settings.get("seed", 0))
        return found if guidance == 1 else found.assign_attrs(guidance=guidance)

    def score(self, fields: Tensor, probes: int | str = 8, **settings: Any) -> LogLikelihood:
        """Log-density of normalised fields, shape (n, channels, *grid), in the model's units."""
        settings["trace"] = trace_of({"probes": probes, **settings})
        settings.setdefault("scored", self.scored)
        model = self.guided(settings.pop("guidance", 1.0), settings.get("condition"))
        return log_likelihood(model, fields, **settings)

    @property
    def scored(self) -> Literal["field", "noised"]:
        """What likelihoods are of: fields as they are, or with the noise below which nothing is modelled."""
        process = self.denoiser.path.process
        simulated = isinstance(process, SemilinearProcess)
        clean = self.noise_level is None and not simulated and process.starts_clean
        return "field" if clean else "noised"

    def _told_with(self, data: FieldData, settings: dict[str, Any]) -> Given | None:
        """The condition in the settings of a score, or that of the fields themselves."""
        if settings.get("condition") is not None:
            return self.told(settings["condition"], len(data))
        return self.told(data if self.conditions and data.is_conditioned else None, len(data))

    def _data_of(self, data: xr.Dataset | FieldData) -> FieldData:
        return data if isinstance(data, FieldData) else FieldData.from_xarray(data, grid=self.grid, names=self.names)

    def _own(self, data: xr.Dataset | FieldData) -> FieldData:
        """The model's variables of a data set, which must be on its grid in its units."""
        return self._data_of(data).as_trained(self.names, self.units, self.grid)

    def normalised(self, data: xr.Dataset | FieldData) -> Tensor:
        """The model's variables of a data set in its units, shape (n, channels, *grid), float64.

        Cells that are not observed are filled by draws from the reference given the others (`physdiff.filling`).

        Raises:
            ValueError: a variable is missing, or grid or units differ from the model's.
        """
        data = self._own(data)
        z = self.normaliser.forward(torch.from_numpy(data.values).to(torch.float64))
        if not has_missing(data):
            return z
        require_some(data)
        return Filler(self.denoiser.path.reference)(z, torch.from_numpy(data.observed))

    def log_det_at(self, fields: Tensor, scored: str = "field") -> Tensor | float:
        """`log_det` at fields in physical units, scored so: one number of a linear normaliser, else one a field."""
        if self.normaliser.is_linear:
            return self.log_det
        return curved_log_det(self.normaliser, self.denoiser.path.reference.support, fields, scored)

    @property
    def log_det(self) -> float:
        """Log-determinant of the normaliser on the support, in nats: normalised to physical log-density.

        Raises:
            ValueError: it differs from field to field: the normaliser is not linear.
        """
        modes = self.denoiser.path.reference.support.flatten(1).sum(1)
        return float((modes * self.normaliser.log_det_per_cell).sum())

    def save(self, folder: str | Path) -> None:
        """Write the model's folder, whole or not at all; a model that is there is replaced."""
        write_model(self, tables_of(self), folder)

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
            restore(model, tables)
        return model
