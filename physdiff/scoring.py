"""Log-densities of many fields under a trained model, part by part: see `physdiff.parts` for what that survives."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from physdiff.data.fields import FieldData
from physdiff.likelihood import LogLikelihood
from physdiff.model import FieldModel
from physdiff.observed_scores import DRAWS, has_missing
from physdiff.parts import Part, Parts, computed, digest_of, digest_of_files, processes
from physdiff.process import ForwardProcess
from physdiff.quantised import bits_per_dimension, dequantise
from physdiff.randomness import keyed_generator


@dataclass(frozen=True)
class Quanta:
    """The values that quantised data takes, offset + k·step, in its units.

    Attributes:
        step: One number, or one a channel.
        offset: One of the values, or one a channel.
    """

    step: float | list[float]
    offset: float | list[float] = 0.0

    def dequantised(self, fields: FieldData, seed: int, first: int) -> FieldData:
        """Fields with the uniform noise of their cells, that of field i drawn from (seed, first + i).

        Raises:
            ValueError: the fields are not quantised so.
        """
        noisy = [
            dequantise(x, self._step, keyed_generator(seed, "dequantise", first + i), self._offset)
            for i, x in enumerate(torch.from_numpy(fields.values).split(1))
        ]
        return replace(fields, values=torch.cat(noisy).numpy())

    def check(self, model: FieldModel, fields: FieldData, scored: str) -> None:
        """Raise unless all fields are quantised so, and the model gives them bits."""
        dequantise(torch.from_numpy(fields.values), self._step, torch.Generator(), self._offset)
        self.bits(model, torch.zeros(0, dtype=torch.float64), scored)

    def bits(self, model: FieldModel, log_prob: Tensor, scored: str) -> Tensor:
        """Bits per dimension of dequantised fields, from their log-densities in nats and physical units."""
        path, none = model.denoiser.path, torch.zeros_like(log_prob)
        result = LogLikelihood(
            log_prob=log_prob, log_prob_reference=none, standard_error=none, probes=0, evaluations=0,
            n_support=path.reference.n_support, t_min=path.t_min, scored=scored,  # pyright: ignore[reportArgumentType]
            latent=path.reference.spectrum.unsqueeze(0), roundtrip_error=None, gaussian_bias=0.0,
            terminal_mismatch=0.0, evaluations_per_field=none, probes_per_field=none, degrees_of_freedom=0,
        )  # fmt: skip
        return bits_per_dimension(result, self._step)

    @property
    def _step(self) -> Tensor:
        return torch.tensor(self.step, dtype=torch.float64)

    @property
    def _offset(self) -> Tensor:
        return torch.tensor(self.offset, dtype=torch.float64)


def score_in_parts(
    model: FieldModel, fields: FieldData, settings: dict[str, Any], run: Path, quanta: Quanta | None = None
) -> tuple[xr.Dataset, Parts] | None:
    """Scores of all fields, as `FieldModel.log_likelihood` gives them, and the parts that they are put together from.

    Args:
        model: The model, as loaded from `run`.
        fields: In physical units.
        settings: Of `FieldModel.log_likelihood`, of which `chunk` is the number of fields of a part.
        run: Run folder or model folder.
        quanta: Of quantised data: bits per dimension join the scores.

    Returns:
        None to all processes but the first.

    Raises:
        ValueError: as `FieldModel.log_likelihood`; the data is not quantised so.
    """
    chunk, seed = settings["chunk"], settings["seed"]
    if has_missing(fields):  # of these also a chunk in which no cell is missing
        settings = {"draws": DRAWS, **settings}
    chunks = [fields.rows(slice(first, first + chunk)) for first in range(0, len(fields), chunk)]
    parts = Parts(run / "likelihood.parts", _key(model, run, {**settings, "quanta": quanta}))
    if quanta is not None:
        quanta.check(model, fields, settings.get("scored", model.scored))

    def compute(index: int) -> Part:
        some, first = chunks[index], index * chunk
        if quanta is not None:
            some = quanta.dequantised(some, seed, first)
        scores = model.log_likelihood(some, first=first, **settings)
        if quanta is not None:
            bits = quanta.bits(model, torch.from_numpy(scores["log_prob"].values), scores.attrs["scored"])
            scores["bits_per_dimension"] = (("sample",), bits.numpy(), {"units": "bit"})
            scores.attrs.update(quantum=quanta.step, quantum_offset=quanta.offset)
        tensors = {str(name): torch.from_numpy(scores[name].values) for name in scores.data_vars}
        units = {str(name): scores[name].attrs for name in scores.data_vars}
        return Part(tensors, {"of_all": scores.attrs, "of_each": units})

    with processes() as shared:
        mine = len(range(shared.rank, len(chunks), shared.count))
        with tqdm(total=mine, desc="likelihood", unit="chunk", disable=shared.rank > 0, leave=False) as bar:
            found = computed(parts, [_digest(some) for some in chunks], compute, shared, bar)
    return None if found is None else (_together(found), parts)


def _digest(fields: FieldData) -> str:
    told = {name: getattr(fields, name) for name in ("values", "given", "scalars", "classes", "observed")}
    return digest_of({name: torch.from_numpy(x) for name, x in told.items() if x is not None})


def _key(model: FieldModel, run: Path, settings: dict[str, Any]) -> str:
    """A hash of the model and of all that its scores depend on beside the fields."""
    folder = run if (run / "model.json").is_file() else run / "model"
    versions = [version("physdiff"), torch.__version__]
    files = [folder / "model.json", *folder.glob("*.safetensors"), *_written_in(type(model.denoiser.path.process))]
    about = {"model": digest_of_files(files), "settings": settings, "versions": versions}
    return hashlib.blake2b(json.dumps(about, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()


def _written_in(cls: type) -> set[Path]:
    """Files of the equations of a process, which may be a user's own and change."""
    lines = (c for c in cls.__mro__ if issubclass(c, ForwardProcess))
    files = (getattr(sys.modules[c.__module__], "__file__", None) for c in lines)
    return {Path(file) for file in files if file is not None}


def _together(parts: list[Part]) -> xr.Dataset:
    """The scores of all fields. Of attributes that differ between parts, such as evaluations, the largest."""
    first = parts[0].attributes
    variables = {
        name: (("sample",), torch.cat([part.tensors[name] for part in parts]).numpy(), attributes)
        for name, attributes in first["of_each"].items()
    }
    shared = {}
    for name, value in first["of_all"].items():
        values = [part.attributes["of_all"][name] for part in parts]
        shared[name] = value if all(v == value for v in values) else max(values)
    return xr.Dataset(variables, attrs=shared)
