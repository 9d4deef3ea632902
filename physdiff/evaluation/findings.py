"""Everything a report shows, as plain numbers and arrays: made once, kept on disk, drawn as often as one likes.

    FOLDER/evaluation.json    numbers and words, and a digest of the arrays
    FOLDER/evaluation.npz     arrays (nothing pickled)

Each file is whole or absent, and the digest tells arrays of another evaluation apart.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from physdiff.atomic import replacing_file
from physdiff.basis import SpectralBasis
from physdiff.evaluation.held_out import HeldOutLikelihood
from physdiff.grid import Grid

VERSION = 1
ENSEMBLES = ("data", "samples", "reference_samples")
ARRAYS = (*ENSEMBLES, "mean")


class DenoisingLevel(TypedDict):
    """Mean squared denoising errors at one noise level, on the same noise.

    `noise_to_signal` is σ/m, `t` its time; `model_error` and `wiener_error` share one unit; `difference` is model
    minus Wiener, `standard_error` that of this paired difference.
    """

    noise_to_signal: float
    t: float
    model_error: float
    wiener_error: float
    difference: float
    standard_error: float


class Check(TypedDict):
    """One claim with what was measured and what it had to be, both in words or numbers."""

    name: str
    statement: str
    measured: str | float
    required: str | float
    passed: bool


@dataclass(frozen=True, eq=False)
class Findings:
    """What was found about one trained model.

    Attributes:
        title: Headline of the report.
        grid: `Grid.to_dict()`.
        names: Name of each channel.
        units: Unit of each channel, "" if dimensionless.
        process: Name of the noising physics.
        equation: The process's equation as text.
        settings: Nested plain values.
        versions: Version of each library.
        seeds: Every seed that was used.
        seconds: Wall time of each stage, in seconds.
        counts: Numbers of things: train, valid, test, parameters, steps, n_support.
        metrics: Records of training, oldest first: step, loss, seconds, learning_rate and, on some, validation_loss.
        data: Held-out fields in physical units, shape (n, channels, *grid).
        samples: Fields from the trained model, the same way.
        reference_samples: Fields from the untrained model, the Gaussian reference, the same way.
        mean: Mean of the reference law, shape (channels, *grid); spectra are taken about it. Under a `curve` what it
            makes of that mean, moved by a number to the data's. None: the mean of `data`.
        likelihood: Densities of held-out fields and their surrogates.
        denoising: Denoising errors, by rising noise.
        checks: Claims and whether they hold.
        conditions: Names of what the model is told beside the noisy field; its Gaussian reference is not.
        curve: Name of the normaliser in whose units the reference is Gaussian; "" where these are linear, so that it is
            Gaussian in the fields' own units too.

    Raises:
        ValueError: a value is not plain, an array does not fit the grid and names, or a record lacks a number.
    """

    title: str
    grid: dict[str, Any]
    names: tuple[str, ...]
    units: tuple[str, ...]
    process: str
    equation: str
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    seeds: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    metrics: list[dict[str, float]] = field(default_factory=list)
    data: np.ndarray | None = None
    samples: np.ndarray | None = None
    reference_samples: np.ndarray | None = None
    mean: np.ndarray | None = None
    likelihood: HeldOutLikelihood | None = None
    denoising: list[DenoisingLevel] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    conditions: tuple[str, ...] = ()
    curve: str = ""

    def __post_init__(self) -> None:
        for name in ("grid", "settings", "versions", "seeds", "seconds", "counts", "metrics", "denoising", "checks"):
            object.__setattr__(self, name, _plain(getattr(self, name), name))
        for name in ("names", "units", "conditions"):
            object.__setattr__(self, name, tuple(str(word) for word in getattr(self, name)))
        if len(self.names) != len(self.units):
            raise ValueError(f"each channel needs a name and a unit; got {self.names} and {self.units}.")
        shape = (len(self.names), *Grid(**self.grid).shape)
        for name in ARRAYS:
            value = getattr(self, name)
            if value is None:
                continue
            array = np.asarray(value)
            got = array.shape[1:] if name in ENSEMBLES else array.shape
            if got != shape or (name in ENSEMBLES and len(array) == 0):
                raise ValueError(f"findings '{name}' must hold fields of shape {shape}; got an array of {array.shape}.")
            object.__setattr__(self, name, array)
        for name, kind in (("denoising", DenoisingLevel), ("checks", Check)):
            for record in getattr(self, name):
                missing = kind.__required_keys__ - record.keys()
                if missing:
                    raise ValueError(f"a record of findings '{name}' lacks {', '.join(sorted(missing))}: {record}.")
        if any("step" not in record or "loss" not in record for record in self.metrics):
            raise ValueError("every record of findings 'metrics' needs 'step' and 'loss'.")

    @property
    def basis(self) -> SpectralBasis:
        """Eigenvectors of the Laplacian on the grid, in which spectra are taken."""
        return SpectralBasis(Grid(**self.grid))

    @property
    def ensembles(self) -> dict[str, np.ndarray]:
        """The sets of fields that are there, by name, in the order data, samples, reference_samples."""
        found = {name: getattr(self, name) for name in ENSEMBLES}
        return {name: array for name, array in found.items() if array is not None}

    @property
    def centre(self) -> np.ndarray | None:
        """Field that spectra take deviations from, shape (channels, *grid)."""
        if self.mean is None and self.data is not None:
            return self.data.mean(0)
        return self.mean

    def save(self, folder: str | Path) -> None:
        """Write `evaluation.json` and `evaluation.npz` into a folder, each atomically."""
        folder = Path(folder)
        arrays = {name: getattr(self, name) for name in ARRAYS if getattr(self, name) is not None}
        likelihood = None
        if self.likelihood is not None:
            stored, likelihood = self.likelihood.split()
            arrays |= {f"likelihood/{name}": array for name, array in stored.items()}
        with replacing_file(folder / "evaluation.npz") as partial:
            with partial.open("wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
            digest = _digest(partial.read_bytes())
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in (*ARRAYS, "likelihood")}
        values = {"version": VERSION, **plain, "likelihood": likelihood, "arrays": sorted(arrays), "digest": digest}
        with replacing_file(folder / "evaluation.json") as partial:
            # A diverged run has losses that are NaN or infinite; Python's reader takes them back.
            partial.write_text(json.dumps(values, indent=1, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Findings:
        """Read what `save` wrote, bit for bit.

        Raises:
            ValueError: a file is missing, damaged, of another version, or belongs to another evaluation.
        """
        json_path, npz_path = Path(folder) / "evaluation.json", Path(folder) / "evaluation.npz"
        try:
            values = json.loads(json_path.read_text(encoding="utf-8"))
            version, digest, stored = values.pop("version"), values.pop("digest"), values.pop("arrays")
            if version != VERSION:
                raise ValueError(f"version {version}; this physdiff reads version {VERSION}")
            scalars = values.pop("likelihood")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _unreadable(json_path, error) from None
        try:
            if _digest(npz_path.read_bytes()) != digest:
                raise ValueError(f"not the arrays that {json_path.name} was written with")
            with np.load(npz_path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in stored}
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise _unreadable(npz_path, error) from None
        try:
            if scalars is not None:
                part = {k.removeprefix("likelihood/"): a for k, a in arrays.items() if k.startswith("likelihood/")}
                values["likelihood"] = HeldOutLikelihood(**part, **scalars)
            return cls(**values, **{name: arrays[name] for name in ARRAYS if name in arrays})
        except (ValueError, KeyError, TypeError) as error:
            raise _unreadable(json_path, error) from None


def _plain(value: Any, where: str) -> Any:
    """Numbers, words, lists and dicts, the same as JSON gives them back."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    raise ValueError(f"findings '{where}' must be a plain number, word, list or dict; got {type(value).__name__}.")


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is missing or damaged ({error}); evaluate the run again.")
