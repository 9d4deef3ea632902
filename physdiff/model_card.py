"""The page that lies beside a model's weights, `README.md`: what it is, what it was made from, how to use it.

It says what the model and its card hold, and nothing else; a part that is not known is left out. Equal models have
equal pages.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from physdiff import description
from physdiff.data.normalise import Standardise
from physdiff.given import knows_all_fields
from physdiff.joined import how_joined

if TYPE_CHECKING:
    from physdiff.model import FieldModel

NAME = "README.md"


def card_text(model: FieldModel) -> str:
    """The page, in Markdown, with a YAML head of library and tags that model hubs read."""
    process = type(model.denoiser.path.process).__name__
    head = {"library_name": "physdiff", "tags": ["physdiff", "diffusion", f"{len(model.grid.shape)}d-fields", process]}
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n",
        f"# {_listed(model.names)}: a diffusion model\n",
        _what(model),
        _section("Fields", _fields(model)),
        _section("Conditions", _conditions(model)),
        _section("Data", _data(model)),
        _section("Noising physics", _physics(model)),
        _section("Network", _network(model)),
        _section("Training", _training(model)),
        _section("Validation", _validation(model)),
        _section("Use", _use(model)),
        _section("Limits", _limits(model)),
    ]
    return "\n".join(part for part in parts if part)


def _section(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f"## {title}\n", *lines, ""]) if lines else ""


def _what(model: FieldModel) -> str:
    about = f"{_listed(model.names)} on the grid {model.grid.describe()}"
    if "steps" not in model.card:
        return f"An untrained model: the Gaussian random field with the mean and spectrum of its data, {about}.\n"
    return (
        f"A trained model of {about}. It draws new fields and gives the log-density of given ones; fields go in and "
        "come out in physical units. The Gaussian field with the data's mean and spectrum is built in exactly, and the "
        "network learns what it leaves.\n"
    )


def _fields(model: FieldModel) -> list[str]:
    scale = model.normaliser
    if not isinstance(scale, Standardise):
        rows = [f"| {_cell(name)} | {_unit(unit)} |" for name, unit in zip(model.names, model.units, strict=True)]
        return ["| field | unit |", "| --- | --- |", *rows, "", f"Normalised by: {_cell(json.dumps(scale.to_dict()))}"]
    rows = [
        f"| {_cell(name)} | {_unit(unit)} | {m:.6g} | {s:.6g} |"
        for name, unit, m, s in zip(model.names, model.units, scale.mean.tolist(), scale.std.tolist(), strict=True)
    ]
    return ["| field | unit | mean | standard deviation |", "| --- | --- | --- | --- |", *rows]


def _conditions(model: FieldModel) -> list[str]:
    """What of its data the model is told; nothing if that is nothing."""
    told = model.conditions
    rows = [
        f"| {_cell(t.name)} | {what} | {_unit(t.units)} | {t.mean:.6g} | {t.std:.6g} |"
        for what, some in (("field", told.fields), ("number", told.numbers)) for t in some
    ]  # fmt: skip
    if told.class_name is not None:
        rows.append(f"| {_cell(told.class_name)} | class, 0 to {told.classes - 1} | none | | |")
    head = ["| told | kind | unit | mean | standard deviation |", "| --- | --- | --- | --- | --- |"]
    return [*head, *rows] if rows else []


def _unit(unit: str) -> str:
    return _cell(unit) if unit else "none"


def _data(model: FieldModel) -> list[str]:
    card, settings = model.card, model.card.get("settings", {}).get("data", {})
    found = {
        "data set": card.get("data"),
        "training fields": card.get("train_fields"),
        "validation fields": card.get("valid_fields"),
        "boundary, in place of the data's own": settings.get("boundary"),
        "noise level, relative to the standard deviation": model.noise_level,
        "statistics are the same everywhere along periodic axes": settings.get("homogeneous"),
    }
    return _items(found)


def _physics(model: FieldModel) -> list[str]:
    path = model.denoiser.path
    about = description.of_process(path.process)
    mismatch = path.terminal_mismatch
    summary = (inspect.getdoc(type(path.process)) or "").split("\n\n")[0].replace("\n", " ")
    lines = [f"{summary}\n"] if summary else []
    found = {
        "process": about["class"],
        **about["settings"],
        "clock": f"`{path.clock.describe()}`",
        "earliest time t_min": path.t_min,
        "terminal mismatch": "no bound is known" if math.isnan(mismatch) else f"at most {mismatch:.3g} nats",
        "degrees of freedom": path.reference.n_support,
    }
    return lines + _items(found)


def _network(model: FieldModel) -> list[str]:
    found = {
        "class": type(model.denoiser.network).__name__,
        "parameters": sum(p.numel() for p in model.denoiser.parameters()),
        **{name: x for name, x in model.network.to_dict().items() if x not in (0, 0.0, [], False)},
        "joined to the reference by": how_joined(model.denoiser),
        "objective": model.card.get("settings", {}).get("objective"),
    }
    return _items(found)


def _training(model: FieldModel) -> list[str]:
    card = model.card
    found = {name: card.get(name) for name in ("steps", "stopped")}
    if "seconds" in card:
        found["seconds"] = round(card["seconds"])
    return _items({**found, "versions": card.get("versions"), "settings": card.get("settings", {}).get("training")})


def _validation(model: FieldModel) -> list[str]:
    names = sorted(name for name, x in model.card.items() if name.startswith("validation_") and x is not None)
    return _items({name.replace("_", " "): model.card[name] for name in names})


def _use(model: FieldModel) -> list[str]:
    condition, told, more = _condition(model), "", []
    if condition:
        told = ", condition=condition"
    if condition and knows_all_fields(model.card):
        more = [f"samples = model.sample(16, steps=16, seed=0{told}, guidance=2.0)  # tells its condition more clearly"]
    return [
        "```python",
        "import physdiff",
        *(["import torch"] if condition else []),
        "import xarray as xr",
        "",
        'model = physdiff.load("FOLDER")  # the folder that holds this page',
        *condition,
        f"samples = model.sample(16, steps=16, seed=0{told})",
        *more,
        f"print(samples[{model.names[0]!r}].std())",
        'samples.to_netcdf("samples.nc")',
        "",
        'fields = xr.open_dataset("samples.nc")  # or your own, on this grid, with these names and units',
        f"scores = model.log_likelihood(fields, probes=8, seed=0{told})",
        "print(scores.log_prob, scores.standard_error)  # nats",
        "```",
    ]


def _condition(model: FieldModel) -> list[str]:
    """How a condition of the right shapes is made; nothing if the model takes none."""
    network, cells = model.network, ", ".join(str(n) for n in model.grid.shape)
    parts = {
        "fields": f"torch.zeros(1, {network.condition_channels}, {cells})" if network.condition_channels else "",
        "scalars": f"torch.zeros(1, {network.scalars})" if network.scalars else "",
        "classes": "torch.zeros(1, dtype=torch.int64)" if network.classes else "",
    }
    given = [f"    {name}={shape}," for name, shape in parts.items() if shape]
    if not given:
        return []
    yours = "yours, in the units in which the model was trained on it"
    if model.conditions:
        yours += "; or samples of data, as physdiff.load_fields(FILE, selection=model.selection) reads them"
    return ["condition = physdiff.Condition(", *given, f")  # {yours}"]


def _limits(model: FieldModel) -> list[str]:
    path = model.denoiser.path
    name = description.of_process(path.process)["class"]
    scored = {
        "field": "Log-densities are of the fields as they are, in nats, per unit of their own units.",
        "noised": "Log-densities are of the fields with the noise below which nothing is modelled, in nats.",
    }[model.scored]
    lines = [
        f"- It knows fields on {model.grid.describe()} in the units above, and refuses others.",
        f"- {scored}",
        f"- Of {math.prod(path.reference.spectrum.shape)} modes, {path.reference.n_support} are modelled; the data "
        "has nothing in the others.",
    ]
    if "." in name or ":" in name:
        lines.append(f"- Its physics is not part of physdiff: to load the model imports `{name}`.")
    if (network := model.network.class_path) is not None:
        lines.append(f"- Its network is not part of physdiff: to load the model imports `{network}`.")
    return lines


def _items(found: Mapping[str, Any]) -> list[str]:
    """What is known of some values, one a line."""
    return [f"- {name}: {_value(value)}" for name, value in found.items() if value is not None and value != {}]


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        known = [f"{key} {_value(x)}" for key, x in value.items() if x is not None]
        return "; ".join(known)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        words = ", ".join(_value(entry) for entry in value[:12])
        return f"[{words}{', ...' if len(value) > 12 else ''}]"
    return str(value) if isinstance(value, (int, str)) else json.dumps(value)


def _cell(text: str) -> str:
    return "`" + text.replace("|", "\\|") + "`"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(", ".join(names).rsplit(", ", 1))
