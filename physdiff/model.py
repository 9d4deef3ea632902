"""A trained model as its users see it: physical units and xarray objects in and out, one folder on disk.

The folder holds plain text and tensors, never pickled code: `model.json` (grid, names, units, normaliser, process,
network), `weights.safetensors`, `reference.safetensors`, under a simulated process `moments.safetensors`, and
`calibration.safetensors` once the model is calibrated.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import xarray as xr
from torch import Tensor, nn

from physdiff import description
from physdiff.atomic import replacing_folder
from physdiff.basis import SpectralBasis
from physdiff.bounds import elbo, simulated_elbo
from physdiff.data.fields import FieldData
from physdiff.data.normalise import Standardise
from physdiff.denoisers import Calibration, Denoiser, NetworkScore, calibrate
from physdiff.flow_ends import estimator_of
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.likelihood import LogLikelihood, log_likelihood
from physdiff.model_files import TABLES, intact, read_json, read_tables, read_tensors, write_tables, write_tensors
from physdiff.networks.unet import UNet
from physdiff.path import ReferencePath
from physdiff.process import LinearProcess
from physdiff.score_tables import of_bound, of_likelihood
from physdiff.semilinear import SemilinearProcess
from physdiff.simulated_path import Moments, SimulatedPath
from physdiff.solvers import Calibrated, ReferenceSplitting, Solver, TimeGrid, sample, suited_grid
from physdiff.trace import ExactTrace, Hutchinson, TraceEstimator


@dataclass(frozen=True)
class NetworkSettings:
    """The U-Net of a model.

    Attributes:
        width: Features of the finest level.
        multipliers: Features of each level in units of the width; as many levels.
        blocks: Residual blocks per level.
        dropout: Probability with which features are dropped in training.
        seed: Seed of the initial weights.
    """

    width: int = 32
    multipliers: tuple[int, ...] = (1, 2, 2)
    blocks: int = 1
    dropout: float = 0.0
    seed: int = 0


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
        path = self.denoiser.path
        network = build_network(self.grid, len(self.names), self.network, self.denoiser.whitened_input)
        denoiser = around(network, path, self.denoiser.mode_scaling, self.denoiser.whitened_input)
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
            progress: Whether to show a bar.

        Returns:
            One variable a channel on dims ("sample", *grid.dims), with coordinates and units.
        """
        solver = ReferenceSplitting() if solver is None else solver
        grid = self.grid_for(solver) if time_grid is None else time_grid
        fields = sample(self.denoiser, n, steps=steps, solver=solver, time_grid=grid, seed=seed, progress=progress)
        dataset = self.to_dataset(self.normaliser.inverse(fields), source="samples of a physdiff model")
        dataset.attrs.update(steps=steps, seed=seed, solver=type(solver).__name__, time_grid=type(grid).__name__)
        return dataset

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
                those of `physdiff.log_likelihood`.

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
        return of_likelihood(self.score(self.normalised(data), **settings), self.log_det, settings)

    def elbo(self, data: xr.Dataset | FieldData, **settings: Any) -> xr.Dataset:
        """Lower bound on the log-density of fields in physical units; see `physdiff.elbo` for the settings.

        Args:
            data: As for `log_likelihood`.
            **settings: Of `physdiff.elbo`; under a simulated process of `physdiff.simulated_elbo`.

        Returns:
            On dim "sample": bound, standard_error, per_dimension, relative_to_reference, log_prob_reference, and what
            each part takes from the bound (prior, transitions, decoder), in nats; attributes tell evaluations, draws,
            seed, n_support.

        Raises:
            ValueError: as `log_likelihood`, and as `physdiff.elbo`.
        """
        fields, model = self.normalised(data), self.denoiser
        result = simulated_elbo(model, fields, **settings) if isinstance(model, NetworkScore) else elbo(
            model, fields, **settings
        )  # fmt: skip
        return of_bound(result, self.log_det, settings.get("seed", 0))

    def score(self, fields: Tensor, probes: int | str = 8, **settings: Any) -> LogLikelihood:
        """Log-density of normalised fields, shape (n, channels, *grid), in the model's units."""
        settings["trace"] = _trace({"probes": probes, **settings})
        settings.setdefault("scored", self.scored)
        return log_likelihood(self.denoiser, fields, **settings)

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
        path = self.denoiser.path
        meta = {
            "format": 1,
            "grid": self.grid.to_dict(),
            "names": list(self.names),
            "units": list(self.units),
            "normaliser": self.normaliser.to_dict(),
            "process": description.of_process(path.process),
            "t_min": path.t_min,
            "noise_level": self.noise_level,
            "mode_scaling": self.denoiser.mode_scaling,
            "whitened_input": self.denoiser.whitened_input,
            "network": asdict(self.network),
            "card": self.card,
        }
        reference = path.reference
        with replacing_folder(folder, overwrite=True, mark="model.json") as partial:
            write_tensors(partial / "weights.safetensors", self.denoiser.network.state_dict())
            tensors = {"mean": reference.mean, "spectrum": reference.spectrum, "floor": reference.floor}
            write_tensors(partial / "reference.safetensors", tensors)
            if isinstance(path, SimulatedPath):
                write_tensors(partial / "moments.safetensors", vars(path.moments))
            if tables := self._calibration:
                meta["calibration"] = write_tables(partial, tables)
            (partial / "model.json").write_text(json.dumps(meta, indent=2) + "\n")

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
        """Read a model from its folder, or from the run folder that holds it as `model/`.

        Raises:
            FileNotFoundError: there is no model.
            ValueError: a file of it is damaged, or its weights are of another network.
        """
        folder = Path(folder)
        if not (folder / "model.json").is_file() and (folder / "model" / "model.json").is_file():
            folder = folder / "model"
        if not (folder / "model.json").is_file():
            raise FileNotFoundError(f"'{folder}' holds no model: there is no model.json in it or in its model/.")
        file = folder / "model.json"
        meta = read_json(file)
        law = read_tensors(folder / "reference.safetensors")
        weights = read_tensors(folder / "weights.safetensors")
        with intact(file, KeyError, TypeError, ValueError):
            grid = Grid(**meta["grid"])
            basis = SpectralBasis(grid)
            layout = NetworkSettings(**{**meta["network"], "multipliers": tuple(meta["network"]["multipliers"])})
            network = build_network(grid, len(meta["names"]), layout, meta["whitened_input"])
        with intact(folder / "reference.safetensors", KeyError, TypeError, ValueError):
            reference = GaussianField(basis, law["mean"], law["spectrum"], law["floor"])
        with intact(file, KeyError, TypeError):  # a ValueError is about the user's own process file
            process = description.to_process(meta["process"], basis)
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(f"{folder / 'weights.safetensors'} does not fit model.json: {error}") from None
        moments = None
        if isinstance(process, SemilinearProcess):
            runs = read_tensors(folder / "moments.safetensors")
            with intact(folder / "moments.safetensors", TypeError, ValueError):
                moments = Moments(**runs)
                SimulatedPath(process, reference, moments, meta["t_min"])
        with intact(file, KeyError, TypeError, ValueError):
            if moments is not None:
                assert isinstance(process, SemilinearProcess)
                path = SimulatedPath(process, reference, moments, meta["t_min"])
            else:
                assert isinstance(process, LinearProcess)
                path = ReferencePath(process, reference, meta["t_min"])
            denoiser = around(network, path, meta["mode_scaling"], meta["whitened_input"])
            model = cls(
                denoiser.eval(), Standardise.from_dict(meta["normaliser"]), tuple(meta["names"]), tuple(meta["units"]),
                layout, meta["noise_level"], meta["card"],
            )  # fmt: skip
        if "calibration" in meta:
            tables = read_tables(folder, meta["calibration"], {"time_grid", "uncertainty"})
            with intact(folder / TABLES, KeyError, TypeError, ValueError):
                model._restore(tables)
        return model


def build_network(grid: Grid, channels: int, settings: NetworkSettings, whitened_input: bool) -> UNet:
    """The U-Net that settings describe, with room for a whitened copy of its input; its output is zero."""
    return UNet(
        grid, channels, width=settings.width, multipliers=settings.multipliers, blocks=settings.blocks,
        dropout=settings.dropout, condition_channels=channels if whitened_input else 0, seed=settings.seed,
    )  # fmt: skip


def around(
    network: nn.Module, path: ReferencePath | SimulatedPath, mode_scaling: float, whitened_input: bool
) -> Denoiser | NetworkScore:
    """What a network makes of a path: a denoiser, or under a simulated process a score."""
    if isinstance(path, SimulatedPath):
        return NetworkScore(network, path, whitened_input)
    return Denoiser(network, path, mode_scaling, whitened_input)


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
