"""What a trained model is worth, measured on held-out data against the exact Gaussian reference.

Every number has its rival beside it, on the same fields and the same noise: the Wiener filter for denoising, the
Gaussian reference and phase-scrambled surrogates for densities, and each comparison is paired.
"""

from __future__ import annotations

import inspect
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from physdiff import description
from physdiff.condition import Given
from physdiff.data.fields import FieldData
from physdiff.denoisers import Denoiser
from physdiff.evaluation.findings import Check, DenoisingLevel, Findings
from physdiff.evaluation.held_out import HeldOutLikelihood
from physdiff.model import FieldModel
from physdiff.observed_scores import has_missing
from physdiff.path import ReferencePath
from physdiff.randomness import keyed_generator, require_seed
from physdiff.registry import spelled
from physdiff.training.job import versions
from physdiff.transport import METHODS

NOISE_TO_SIGNAL = (0.1, 0.2, 0.4, 0.7, 1.0, 1.4, 2.0, 5.0)


@dataclass(frozen=True)
class EvaluationSettings:
    """How a model is evaluated.

    Attributes:
        samples: Fields to draw, from the model and from its reference.
        sample_steps: Solver steps of a sample.
        likelihood_fields: Held-out fields whose density is computed, each with a surrogate.
        probes: Hutchinson probes per field, at least 2.
        method: Integrator of the likelihood.
        likelihood_steps: Steps of a fixed-step integrator.
        tolerance: Tolerance of an adaptive integrator.
        seed: Seed of all noise.
    """

    samples: int = 64
    sample_steps: int = 16
    likelihood_fields: int = 32
    probes: int = 6
    method: str = "rk4"
    likelihood_steps: int = 12
    tolerance: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", spelled(self.method, METHODS))
        if self.probes < 2:
            raise ValueError(f"an evaluation needs at least 2 probes for its error bars; got {self.probes}.")
        for name, least in (("samples", 2), ("likelihood_fields", 2), ("sample_steps", 1), ("likelihood_steps", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} of an evaluation must be at least {least}; got {getattr(self, name)}.")
        if not 0 < self.tolerance < math.inf:
            raise ValueError(f"tolerance must be positive and finite; got {self.tolerance}.")
        require_seed(self.seed)


def evaluate(
    model: FieldModel, held_out: FieldData, settings: EvaluationSettings, title: str, progress: bool = True
) -> Findings:
    """Samples, denoising errors and log-densities of a model, with their checks.

    Args:
        model: The trained model.
        held_out: Fields it was not trained on.
        settings: How to evaluate.
        title: Headline of the report.
        progress: Whether to show bars.
    """
    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        value = work()
        seconds[name] = round(time.perf_counter() - start, 2)
        return value

    fields = model.normalised(held_out)
    given = model.told(held_out, len(held_out)) if model.conditions else None
    seed, count = settings.seed, settings.samples
    shown = spread_out(len(held_out), count)
    # Samples are drawn under the conditions of the fields that they are compared with, in turn.
    of_samples = None if given is None else given[torch.from_numpy(shown[np.arange(count) % len(shown)])]

    def draw(law: FieldModel, steps: int, label: str) -> Any:
        found = law.sample(count, steps=steps, seed=seed, condition=of_samples, whole=True, progress=progress)
        return FieldData.from_xarray(found, grid=model.grid, names=model.names, source=label).values

    samples = timed("samples", lambda: draw(model, settings.sample_steps, "samples"))
    untrained = draw(model.untrained(), 1, "reference")
    denoising = timed("denoising", lambda: denoising_levels(model, fields, seed, given))
    likelihood = timed("likelihood", lambda: densities(model, fields, settings, progress, given))
    path, card, caveats = model.denoiser.path, model.card, caveats_of(model, held_out)
    process = description.of_process(path.process)
    if "seconds" in card:
        seconds["training"] = round(card["seconds"], 2)
    own = _whole(model, held_out, fields)[shown]
    return Findings(
        title=title, grid=model.grid.to_dict(), names=model.names, units=model.units, process=process["class"],
        equation=(inspect.getdoc(type(path.process)) or "").split("\n\n")[0].replace("\n", " "),
        settings={
            "process": process, "evaluation": {**asdict(settings), **_caveats(caveats)}, **card.get("settings", {})
        },
        versions=card.get("versions", versions()),
        seeds={"evaluation": seed, **_seeds(card)},
        seconds=seconds,
        counts={
            "train": card.get("train_fields", 0), "valid": card.get("valid_fields", 0), "test": len(held_out),
            "parameters": sum(p.numel() for p in model.denoiser.parameters()), "steps": card.get("steps", 0),
            "n_support": path.reference.n_support,
        },
        data=own, samples=samples, reference_samples=untrained,
        mean=_centre(model, own), likelihood=likelihood, denoising=denoising,
        checks=checks(denoising, likelihood, caveats), conditions=tuple(model.conditions.names),
        curve="" if model.normaliser.is_linear else model.normaliser.kind,
    )  # fmt: skip


def caveats_of(model: FieldModel, held_out: FieldData) -> list[str]:
    """What the numbers of an evaluation are of, where that is not the fields in physical units; one sentence each."""
    found = []
    if has_missing(held_out):
        assert held_out.observed is not None
        share = 100 * (1 - float(held_out.observed.mean()))
        found.append(
            f"{share:.3g} % of the held-out values are missing; they are filled by draws from the Gaussian reference "
            "given the others, and all numbers are of filled fields. Density over the reference is so, in expectation, "
            "a lower bound on that of the observed cells, which `physdiff likelihood` scores."
        )
    if not model.normaliser.is_linear:
        found.append(
            f"Densities are per unit of the normalised fields: the normaliser '{model.normaliser.kind}' is not linear. "
            "Differences between two laws of one field are the same in physical units, in which `physdiff likelihood "
            "--scored field` gives densities."
        )
    return found


def _caveats(caveats: list[str]) -> dict[str, str]:
    return {"caveats": " ".join(caveats)} if caveats else {}


def _whole(model: FieldModel, held_out: FieldData, fields: Tensor) -> np.ndarray:
    """The fields that are shown: those of the data, with missing cells as they were filled."""
    values = held_out.select(model.names).values
    if not has_missing(held_out):
        return values
    observed = held_out.select(model.names).observed
    assert observed is not None
    return np.where(observed, values, model.normaliser.inverse(fields).numpy())


def _centre(model: FieldModel, own: np.ndarray) -> np.ndarray:
    """The reference's mean in physical units, shape (channels, *grid), about which spectra are taken.

    A curved normaliser makes of a mean no mean (of that of a logarithm the median): its distance to that of the data,
    one number a channel, is taken off, or it would count as variance.
    """
    reference = model.denoiser.path.reference
    centre = model.normaliser.inverse(reference.basis.inverse(reference.mean).unsqueeze(0))[0].numpy()
    if model.normaliser.is_linear:
        return centre
    axes = tuple(range(2, own.ndim))
    return centre + (own - centre).astype(np.float64).mean((0, *axes)).reshape(-1, *[1] * len(axes))


def _seeds(card: dict[str, Any]) -> dict[str, int]:
    settings = card.get("settings", {})
    return {k: settings[k]["seed"] for k in ("training", "network") if "seed" in settings.get(k, {})}


@torch.no_grad()
def denoising_levels(model: FieldModel, fields: Tensor, seed: int, given: Given | None = None) -> list[DenoisingLevel]:
    """Mean squared error per cell (normalised units) of the model and of the Wiener filter, on the same noise."""
    denoiser = model.denoiser
    if not isinstance(denoiser, Denoiser):  # what a simulated process makes of a field is no multiple of it plus noise
        return []
    path = denoiser.path
    clean = path.basis.forward(fields)
    levels: list[DenoisingLevel] = []
    for ratio in NOISE_TO_SIGNAL:
        t = time_at_noise_to_signal(path, ratio)
        if t is None:
            continue
        point = path.at(t)
        noisy = point.noised(clean, keyed_generator(seed, "denoising", f"{ratio}"))
        at = torch.tensor(t, dtype=torch.float64)
        residual = torch.cat(
            [
                denoiser.residual(noisy[some], at, None if given is None else given[some])
                for some in torch.arange(len(noisy)).split(64)
            ]
        )
        error = point.wiener(noisy) - clean
        wiener = error.square().flatten(1).mean(1)
        trained = (error + residual).square().flatten(1).mean(1)
        difference = trained - wiener
        levels.append(
            DenoisingLevel(
                noise_to_signal=ratio,
                t=t,
                model_error=float(trained.mean()),
                wiener_error=float(wiener.mean()),
                difference=float(difference.mean()),
                standard_error=float(difference.std() / math.sqrt(len(fields))),
            )
        )
    return levels


def time_at_noise_to_signal(path: ReferencePath, ratio: float) -> float | None:
    """t at which σ/m = `ratio`, by root mean square over the support; None if the path does not reach it."""
    support = path.reference.support

    def at(t: float) -> float:
        point = path.at(t)
        gain = point.amplitude.square().expand_as(support)[support].mean()
        return float((point.noise_variance[support].mean() / gain).sqrt())

    low, high = path.t_min, 1.0
    if not at(low) <= ratio <= at(high):
        return None
    while high - low > 1e-6:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if at(middle) < ratio else (low, middle)
    return high


def densities(
    model: FieldModel, fields: Tensor, settings: EvaluationSettings, progress: bool, given: Given | None = None
) -> HeldOutLikelihood:
    """Log-densities of fields and of their phase-scrambled surrogates, in physical units.

    The surrogate is made of the very state that is scored, so that the reference gives both the same density.
    """
    path = model.denoiser.path
    chosen = torch.from_numpy(spread_out(len(fields), settings.likelihood_fields))
    fields = fields[chosen]
    condition = None if given is None else given[chosen]
    modes = path.basis.forward(fields)
    scored = model.scored
    if scored == "noised":
        noise = torch.randn(modes.shape, generator=keyed_generator(settings.seed, "t_min"), dtype=torch.float64)
        state, log_volume = path.start(modes, noise), 0.0
    else:
        state, log_volume = path.without_noise(modes)
    centre = path.at(path.t_min).mean
    scrambled = path.basis.scramble(state - centre, keyed_generator(settings.seed, "surrogates")) + centre

    def score(y: Tensor) -> Any:
        return model.score(
            path.basis.inverse(y), probes=settings.probes, scored="state", method=settings.method,
            steps=settings.likelihood_steps, rtol=settings.tolerance, atol=settings.tolerance, seed=settings.seed,
            condition=condition, progress=progress,
        )  # fmt: skip

    real, surrogate = score(state), score(scrambled)
    # Where the slope of the normaliser is not the same everywhere, densities are per normalised unit.
    shift = (model.log_det if model.normaliser.is_linear else 0.0) + log_volume
    return HeldOutLikelihood(
        log_prob=(real.log_prob + shift).numpy(), standard_error=real.standard_error.numpy(),
        surrogate_log_prob=(surrogate.log_prob + shift).numpy(),
        surrogate_standard_error=surrogate.standard_error.numpy(),
        reference_log_prob=(real.log_prob_reference + shift).numpy(), probes=real.probes,
        evaluations=real.evaluations, t_min=path.t_min, scored=scored,
        gaussian_bias=path.bias_at_t_min if scored == "field" else 0.0, terminal_mismatch=path.terminal_mismatch,
        n_support=path.reference.n_support, noise_level=model.noise_level,
    )  # fmt: skip


def spread_out(n: int, wanted: int) -> np.ndarray:
    """At most `wanted` of n rows, evenly spaced: neighbours in a file are often alike."""
    return np.unique(np.linspace(0, n - 1, min(n, wanted)).round().astype(int))


def checks(denoising: list[DenoisingLevel], likelihood: HeldOutLikelihood, caveats: Sequence[str] = ()) -> list[Check]:
    """The claims that a trained model must support, with the numbers; `caveats` say what these are of."""
    of = "".join(f" {caveat}" for caveat in caveats)
    gaps = likelihood.gap_in_errors
    gain, error = likelihood.mean_gain, likelihood.mean_gain_error
    better = [
        level for level in denoising
        if 0.1 <= level["noise_to_signal"] <= 2 and level["difference"] < -3 * level["standard_error"]
    ]  # fmt: skip
    worst = max((level["model_error"] / level["wiener_error"] for level in denoising), default=math.nan)
    of_denoising = [
        Check(
            name="denoises better than the Wiener filter",
            statement="On the same noise the mean squared error is lower by more than 3 standard errors at five or "
            "more noise levels with σ/m from 0.1 to 2." + of,
            measured=f"{len(better)} levels",
            required="5 levels",
            passed=len(better) >= 5,
        ),
        Check(
            name="nowhere worse than the Wiener filter",
            statement="At no noise level is the mean squared error above the Wiener filter's by more than 1 %.",
            measured=f"largest ratio {worst:.4f}",
            required="at most 1.01",
            passed=worst <= 1.01,
        ),
    ]
    of_density = [
        Check(
            name="structure has density",
            statement="Every held-out field has a higher log-density than its phase-scrambled surrogate, by more than "
            "10 standard errors of the trace estimate." + of,
            measured=f"{likelihood.wins} of {len(likelihood)}; smallest gap {gaps.min():.1f} standard errors",
            required=f"{len(likelihood)} of {len(likelihood)}; above 10",
            passed=bool((gaps > 10).all()),
        ),
        Check(
            name="better than Gaussian",
            statement="The mean held-out log-density is above the Gaussian reference's by more than 5 standard errors."
            + of,
            measured=f"{gain:+.4f} ± {error:.4f} nats per dimension ({gain / error:.1f} standard errors)",
            required="above 5 standard errors",
            passed=bool(gain > 5 * error),
        ),
    ]
    return of_density + (of_denoising if denoising else [])


def read_metrics(run: Path) -> list[dict[str, float]]:
    """The training curve of a run folder, empty if there is none."""
    path = run / "metrics.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
