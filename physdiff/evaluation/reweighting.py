r"""A model against a law that is known up to its constant: weights, free energy, and averages set right.

The model's samples come with their log-density in physical units (the normaliser's determinant is in it), the action is
evaluated on the same fields, and `physdiff.importance` does the rest. What is weighted is the density that the samples
really have, noise of t_min and all: noise costs effective samples, never correctness. Beside the model stands its
Gaussian reference, whose samples and density are exact: what an untrained model is worth.

Held-out data are samples of the law; their trajectories are the blocks of the error bars. What is not in any of these
is the integrator's error in log-densities: repeat with a smaller tolerance to see it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from physdiff.actions import Action, action_of, observables
from physdiff.atomic import replacing_file
from physdiff.data.fields import FieldData
from physdiff.decoding import draw
from physdiff.evaluation.evaluate import spread_out
from physdiff.importance import (
    ImportanceWeights,
    bennett_free_energy,
    importance_weights,
    reverse_free_energy,
)
from physdiff.jackknife import Estimate, mean_of
from physdiff.model import FieldModel
from physdiff.randomness import keyed_generator, require_seed
from physdiff.trace import Hutchinson

APART = 4.0  # combined standard errors between reweighted and held-out means that are still chance


@dataclass(frozen=True)
class ImportanceSettings:
    """How a model is held against an action.

    Attributes:
        samples: Fields to draw from the model.
        reference_samples: Fields to draw from its Gaussian reference; they cost nothing.
        held_out_fields: Held-out fields whose density is computed, spread over the data.
        exact_modes: Degrees of freedom up to which the trace is exact.
        probes: Hutchinson probes above that, at least 2.
        tolerance: Of the integrator, relative and absolute.
        seed: Seed of samples and probes.
    """

    samples: int = 512
    reference_samples: int = 16384
    held_out_fields: int = 256
    exact_modes: int = 256
    probes: int = 32
    tolerance: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("samples", 2), ("reference_samples", 2), ("held_out_fields", 2), ("probes", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}; got {getattr(self, name)}.")
        if not 0 < self.tolerance < math.inf:
            raise ValueError(f"tolerance must be positive and finite; got {self.tolerance}.")
        require_seed(self.seed)


@dataclass(frozen=True, eq=False)
class Reweighted:
    """What samples of one model say of the law.

    Attributes:
        weights: Of the samples.
        raw: Means of the samples as they are, by observable.
        reweighted: Means under the law.
        reverse_free_energy: −log Z from held-out fields and their density under the model.
        bennett_free_energy: −log Z from both.
    """

    weights: ImportanceWeights
    raw: dict[str, Estimate]
    reweighted: dict[str, Estimate]
    reverse_free_energy: Estimate
    bennett_free_energy: Estimate


@dataclass(frozen=True, eq=False)
class Reweighting:
    """A model and its reference against a law.

    Attributes:
        action: What the law is called.
        trace: How log-densities of the model were computed.
        model: What the model's samples say.
        reference: What the Gaussian reference's samples say.
        held_out: Means of all held-out fields, by observable.
        settings: What the comparison was told.
    """

    action: str
    trace: str
    model: Reweighted
    reference: Reweighted
    held_out: dict[str, Estimate]
    settings: ImportanceSettings

    @property
    def warnings(self) -> list[str]:
        """Observables whose mean under the law is not that of the held-out data."""
        found = []
        for name, known in self.held_out.items():
            of_law = self.model.reweighted[name]
            apart = abs(of_law.value - known.value)
            combined = math.hypot(of_law.standard_error, known.standard_error)
            if apart > APART * combined:
                found.append(
                    f"{name}: reweighted {of_law} and held-out {known} differ by {apart / max(combined, 1e-300):.1f} "
                    "combined errors; the data may follow another law: check the action's settings"
                )
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values; an estimate is [value, standard error], and what is not finite is None."""

        def of(side: Reweighted) -> dict[str, Any]:
            w = side.weights
            return {
                "samples": len(w),
                "effective_samples": w.effective_samples,
                "largest_share": w.largest_share,
                "tail_shape": _plain(w.tail_shape),
                "acceptance": _plain(w.acceptance),
                "trace_noise": w.trace_noise,
                "free_energy": _plain(w.free_energy),
                "reverse_free_energy": _plain(side.reverse_free_energy),
                "bennett_free_energy": _plain(side.bennett_free_energy),
                "raw": {name: _plain(e) for name, e in side.raw.items()},
                "reweighted": {name: _plain(e) for name, e in side.reweighted.items()},
                "warnings": w.warnings,
            }

        return {
            "action": self.action,
            "trace": self.trace,
            "settings": asdict(self.settings),
            "model": of(self.model),
            "reference": of(self.reference),
            "held_out": {name: _plain(e) for name, e in self.held_out.items()},
            "warnings": self.warnings,
        }

    def save(self, folder: str | Path) -> Path:
        """Write `importance.json` into a run folder."""
        path = Path(folder) / "importance.json"
        with replacing_file(path) as partial:
            partial.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
        return path

    def table(self) -> str:
        """For people."""
        sides = {"model": self.model, "reference": self.reference}
        lines = [f"against {self.action}; {self.trace}"]
        for name, side in sides.items():
            w = side.weights
            part = w.effective_samples / len(w)
            lines += [
                f"{name:9}  {w.effective_samples:.1f} of {len(w)} samples are effective ({part:.2%}), largest share "
                f"{w.largest_share:.2%}, tail shape {w.tail_shape:.2f}, Metropolis acceptance {w.acceptance}",
                f"{'':9}  free energy −log Z: {w.free_energy} (samples), {side.reverse_free_energy} (held-out), "
                f"{side.bennett_free_energy} (both)",
                *(f"{'':9}  warning: {sentence}" for sentence in w.warnings),
            ]
        rows: list[tuple[str, ...]] = [("", "model", "reweighted", "reference", "reweighted", "held-out data")]
        for name, known in self.held_out.items():
            columns = [column[name] for side in sides.values() for column in (side.raw, side.reweighted)]
            rows.append((name, *map(str, [*columns, known])))
        lines += ["".join(f"{cell:20}" for cell in row).rstrip() for row in rows]
        lines += [f"warning: {sentence}" for sentence in self.warnings]
        return "\n".join(lines)


def check_comparison(
    model: FieldModel, action: Action, held_out: FieldData, settings: ImportanceSettings = ImportanceSettings()
) -> None:
    """Try what costs nothing before anything is computed.

    Raises:
        ValueError: the model's law does not fill its grid; the held-out fields that are chosen are of one trajectory;
            the action is unfit, or not finite on them; the data is not on the model's grid.
    """
    reference = model.denoiser.path.reference
    if reference.n_support != reference.support.numel():
        raise ValueError(
            f"an action is a density over all {reference.support.numel()} modes of a field; this model's law lies on "
            f"{reference.n_support} of them."
        )
    chosen = spread_out(len(held_out), settings.held_out_fields)
    trajectories = len(np.unique(np.asarray(held_out.trajectory)[chosen]))
    if trajectories < 2:
        raise ValueError(
            f"error bars need held-out fields of at least 2 trajectories; the {len(chosen)} that were chosen of "
            f"{held_out.source} are of {trajectories}: take more held_out_fields, or data with more trajectories."
        )
    found = action_of(action, model.normaliser.inverse(model.normalised(held_out)[chosen]))
    if not bool(found.isfinite().all()):
        first = int((~found.isfinite()).nonzero()[0])
        raise ValueError(
            f"the action must be finite on samples of its law; got {float(found[first])} for field "
            f"{int(chosen[first])} of {held_out.source}."
        )


def reweigh(
    model: FieldModel,
    action: Action,
    held_out: FieldData,
    settings: ImportanceSettings = ImportanceSettings(),
    name: str = "the action",
    progress: bool = False,
) -> Reweighting:
    """Hold a model against the law e^{−S}/Z of its fields.

    Args:
        model: The trained model.
        action: S of physical fields, shape (n, channels, *grid) to (n,).
        held_out: Samples of the law, that the model was not trained on; a trajectory is a block of the error bars.
        settings: How.
        name: What the law is called.
        progress: Whether to show bars.

    Raises:
        ValueError: the model's law does not fill its grid; the action is unfit; the data is not on the model's grid.
    """
    check_comparison(model, action, held_out, settings)
    reference = model.denoiser.path.reference
    exact = reference.n_support <= settings.exact_modes
    normalised = model.normalised(held_out)
    chosen = spread_out(len(held_out), settings.held_out_fields)
    blocks = torch.from_numpy(np.asarray(held_out.trajectory))
    law = Side(model, action, normalised[chosen], blocks[chosen])

    drawn = draw(
        model.denoiser, settings.samples, seed=settings.seed, trace="exact" if exact else Hutchinson(settings.probes),
        progress=progress, rtol=settings.tolerance, atol=settings.tolerance,
    )  # fmt: skip
    assert drawn.log_prob is not None
    # Held-out fields are scored as what was drawn: the two densities must be one.
    scored = model.score(
        normalised[chosen], probes="exact" if exact else settings.probes, scored=drawn.scored, seed=settings.seed,
        progress=progress, rtol=settings.tolerance, atol=settings.tolerance,
    )  # fmt: skip
    of_model = law.judge(drawn.fields, drawn.log_prob, drawn.standard_error, scored.log_prob, scored.standard_error)
    fields = reference.sample(settings.reference_samples, keyed_generator(settings.seed, "reference"))
    of_reference = law.judge(fields, reference.log_prob(fields), None, reference.log_prob(normalised[chosen]), None)
    everything = model.normaliser.inverse(normalised)
    return Reweighting(
        action=name,
        trace="exact trace" if exact else f"Hutchinson's trace with {settings.probes} probes",
        model=of_model,
        reference=of_reference,
        held_out={name: mean_of(o, blocks) for name, o in observables(everything, action).items()},
        settings=settings,
    )


@dataclass(frozen=True, eq=False)
class Side:
    """Samples of the law, against which models are held.

    Attributes:
        model: Whose units fields have.
        action: S of physical fields.
        fields: Of the law, normalised.
        blocks: Trajectory of each.
    """

    model: FieldModel
    action: Action
    fields: Tensor
    blocks: Tensor

    def judge(
        self, fields: Tensor, log_prob: Tensor, error: Tensor | None, law_log_prob: Tensor, law_error: Tensor | None
    ) -> Reweighted:
        """What samples with log-densities per normalised unit say, and what they do with those of the law's fields."""
        found = observables(self.model.normaliser.inverse(fields), self.action)
        shift = self.model.log_det
        weights = importance_weights(log_prob + shift, found["action"], error)
        law_action = action_of(self.action, self.model.normaliser.inverse(self.fields))
        known = (law_log_prob + shift, law_action, law_error, self.blocks)
        return Reweighted(
            weights=weights,
            raw={name: mean_of(o) for name, o in found.items()},
            reweighted={name: weights.mean(o) for name, o in found.items()},
            reverse_free_energy=reverse_free_energy(*known),
            bennett_free_energy=bennett_free_energy(weights, *known),
        )


def titled(action: str, settings: Mapping[str, Any] | None) -> str:
    """`LatticePhi4 (coupling = 0.1)`."""
    return action + (f" ({', '.join(f'{k} = {v}' for k, v in settings.items())})" if settings else "")


def _plain(value: Estimate | float) -> Any:
    if isinstance(value, Estimate):
        return [_plain(value.value), _plain(value.standard_error)]
    return value if math.isfinite(value) else None
