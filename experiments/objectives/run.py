"""Predictions and weightings on one data set: denoising error, samples in few steps, log-density.

    python -m experiments.objectives.run    # writes results.json and the figure; prints the tables of README.md

Everything but the prediction, the weighting (with the times that its authors draw) and the scale per mode is the same:
data, network, first weights, batches, noise, learning rate, solver. Results are kept in runs/objectives/cache by
configuration, so that a rerun does what is missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from scipy.stats import wasserstein_distance
from torch import Tensor

from physdiff.atomic import replacing_file
from physdiff.config import DataSettings, DenoiserSettings, ObjectiveSettings, RunSettings
from physdiff.data.fields import load_fields
from physdiff.data.recipes import recipe
from physdiff.evaluation.evaluate import EvaluationSettings, denoising_levels, densities
from physdiff.evaluation.spectrum import energy_spectrum
from physdiff.model import FieldModel, NetworkSettings
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.solvers import sample
from physdiff.training.job import prepare, run_job, some_of, versions
from physdiff.training.settings import TrainSettings

HERE = Path(__file__).parent
CACHE = Path("runs/objectives/cache")
SEEDS = (0, 1)
SAMPLES, SOLVER_STEPS = 256, 8
SAMPLE_SCORES = ("spectrum_error", "cell_distance", "slope_distance")
SHELLS = 24  # wavenumbers 1 to 24 rad/m: 99.9 % of the variance
DENSITY = EvaluationSettings(likelihood_fields=64, probes=4, likelihood_steps=16)

PREDICTIONS = ("residual", "x0", "epsilon", "v", "mean")
# Each with the times that belong to it.
WEIGHTINGS: dict[str, ObjectiveSettings] = {
    "simple": ObjectiveSettings(weighting="simple", times="Stratified"),
    "relative": ObjectiveSettings(weighting="relative", times="Stratified"),
    "edm": ObjectiveSettings(weighting="edm", times={"name": "LogNormal", "mean": -0.5, "emphasis": True}),
    "min_snr": ObjectiveSettings(weighting="min_snr", times="Stratified"),
    "mode_likelihood": ObjectiveSettings(weighting="mode_likelihood", times="LikelihoodImportance"),
}
SCALES = (0.0, 0.5, 1.0)
Cell = tuple[str, float, str]


def cells() -> list[Cell]:
    """Prediction, γ (of "residual" alone) and weighting of everything that is trained."""
    found = [(prediction, 1.0, weighting) for prediction in PREDICTIONS for weighting in WEIGHTINGS]
    extra = [("residual", scale, weighting) for scale in SCALES[:-1] for weighting in WEIGHTINGS]
    return [*found, *extra]


def settings(cell: Cell, seed: int) -> RunSettings:
    """Those of config.yaml with a cell's own."""
    shared = yaml.safe_load((HERE / "config.yaml").read_text(encoding="utf-8"))
    prediction, scale, weighting = cell
    return RunSettings(
        DataSettings(**shared["data"]),
        TrainSettings(**shared["training"], seed=seed),
        NetworkSettings(**shared["network"], seed=seed),
        DenoiserSettings(mode_scaling=scale, prediction=prediction),
        objective=WEIGHTINGS[weighting],
    )


def measure(told: RunSettings) -> dict[str, Any]:
    """Train one model and score it."""
    begin = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        model, _ = run_job(prepare(VariancePreserving, told), Path(folder), progress=False)
    trained = time.process_time()
    levels = denoising_levels(model, held_out(model), seed=0)
    ratios = {f"{x['noise_to_signal']:g}": x["model_error"] / x["wiener_error"] for x in levels}
    found: dict[str, Any] = {"ratios": ratios, "ratio": sum(ratios.values()) / len(ratios)}
    try:
        drawn = sample(model.denoiser, SAMPLES, steps=SOLVER_STEPS, seed=told.training.seed, chunk=SAMPLES)
        found |= beside(model, drawn)
    except FloatingPointError as error:  # a finding, not a failure: the tables say so
        found |= {"samples_failed": str(error)} | dict.fromkeys(SAMPLE_SCORES)
    score = densities(model, held_out(model, "test"), DENSITY, progress=False)
    finite = bool(torch.from_numpy(score.gain).isfinite().all())
    return found | {
        "gain": score.mean_gain if finite else None,
        "gain_per_field": [round(float(x), 5) for x in score.gain] if finite else None,
        "training_cpu_seconds": trained - begin, "scoring_cpu_seconds": time.process_time() - trained,
    }  # fmt: skip


def held_out(model: FieldModel, *splits: str) -> Tensor:
    """Fields that nothing was trained on, normalised; test and validation fields unless told."""
    path = Path(model.card["data"])
    return torch.cat([model.normalised(load_fields(path, split=split)) for split in splits or ("test", "valid")])


def beside(model: FieldModel, fields: Tensor) -> dict[str, float]:
    """How far fields are from held-out ones: spectrum, and laws of a cell and of a slope between cells.

    The spectrum's error is the root mean square of log E/E_held_out over shells; the other two are Wasserstein
    distances in units of the held-out standard deviation.
    """
    truth, basis = held_out(model), model.denoiser.path.basis
    ours, theirs = (energy_spectrum(x, basis, mean=0.0 * truth[0]).mean[0] for x in (fields, truth))
    log_ratio = (ours / theirs).log()[1 : SHELLS + 1]
    found = {"spectrum_error": float(log_ratio.square().mean().sqrt())}
    for name, of in (("cell_distance", lambda x: x), ("slope_distance", lambda x: x.roll(-1, -1) - x)):
        a, b = of(fields).flatten(), of(truth).flatten()
        found[name] = float(wasserstein_distance(a.numpy(), b.numpy()) / b.std())
    return found


def floors() -> dict[str, list[dict[str, float]]]:
    """What other fields of the true law, and fields of the Gaussian reference, score."""
    job = prepare(VariancePreserving, settings(cells()[0], 0))
    groups = [part for part in some_of(job.train).double().split(SAMPLES) if len(part) == SAMPLES]
    drawn = [sample(job.model.denoiser, SAMPLES, steps=1, seed=seed) for seed in SEEDS]
    return {
        "training_fields": [beside(job.model, part) for part in groups],
        "gaussian_reference": [beside(job.model, part) for part in drawn],
    }


def cached(key: Any, work: Any) -> Any:
    """What was measured for a configuration, or else what the work gives."""
    text = json.dumps(key, sort_keys=True)
    file = CACHE / f"{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}.json"
    if not file.is_file():
        found = work()
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(file) as partial_file:
            partial_file.write_text(json.dumps({"key": key, "found": found}) + "\n")
    return json.loads(file.read_text())["found"]


def key_of(told: RunSettings) -> dict[str, Any]:
    """What a result depends on."""
    training = {name: value for name, value in asdict(told.training).items() if not name.endswith("_every")}
    return asdict(replace(told, training=told.training)) | {
        "training": training, "samples": [SAMPLES, SOLVER_STEPS, SHELLS], "density": asdict(DENSITY),
    }  # fmt: skip


def main() -> None:
    """Measure what is not measured yet; write results.json, the figure and the tables."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    data = Path(settings(cells()[0], 0).data.path)
    if not (data / "data").is_dir():
        recipe("burgers").make(data, seed=0)
    floor = cached({"floors": [SAMPLES, SHELLS]}, floors)
    runs = []
    for seed in SEEDS:
        for cell in cells():
            told = settings(cell, seed)
            found = cached(key_of(told), lambda told=told: measure(told))
            prediction, scale, weighting = cell
            runs.append({"prediction": prediction, "scale": scale, "weighting": weighting, "seed": seed, **found})
            scores = {name: found[name] for name in ("ratio", *SAMPLE_SCORES, "gain")}
            print(f"{time.strftime('%H:%M:%S')} {prediction} γ={scale:g} {weighting} seed {seed}: {scores}", flush=True)
    kept = {"versions": versions(), "floors": floor, "runs": runs}
    with replacing_file(HERE / "results.json") as partial_file:
        partial_file.write_text(json.dumps(kept, indent=1) + "\n")
    from experiments.objectives import summary

    summary.main()


if __name__ == "__main__":
    main()
