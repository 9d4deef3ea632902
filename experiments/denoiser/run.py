"""How the network is joined to the reference: its scale per mode, and a whitened copy of its input.

    python -m experiments.denoiser.run            # writes results.json and README.md's table beside this file

Each setting is trained for the same steps from the same seeds on the demo's turbulence, and scored on the same held-out
fields with the same noise and probes. Results are cached by setting; delete results.json to measure again.
"""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path

import torch

from physdiff.config import DataSettings, DenoiserSettings, ObjectiveSettings, RunSettings
from physdiff.data.fields import load_fields
from physdiff.data.recipes import recipe
from physdiff.evaluation.evaluate import EvaluationSettings, denoising_levels, densities
from physdiff.model import NetworkSettings
from physdiff.processes.matern import Matern
from physdiff.training.job import prepare, run_job
from physdiff.training.settings import TrainSettings

HERE = Path(__file__).parent
DATA = Path("data/turbulence")
STEPS, SEEDS = 500, (0, 1)
SETTINGS = ((0.0, False), (0.5, False), (1.0, False), (0.5, True), (1.0, True))


def measure(mode_scaling: float, whitened_input: bool, seed: int) -> dict[str, float]:
    """Train one model and score it."""
    settings = RunSettings(
        DataSettings(str(DATA), ["vorticity"], homogeneous=True),
        TrainSettings(STEPS, warmup_steps=20, ema_decay=0.995, validate_every=STEPS, seed=seed),
        NetworkSettings(width=16, seed=seed),
        DenoiserSettings(mode_scaling, whitened_input),
        objective=ObjectiveSettings(weighting="Simple", times="Stratified"),
    )
    with tempfile.TemporaryDirectory() as folder:
        model, result = run_job(prepare(Matern, settings), Path(folder))
    held_out = model.normalised(load_fields(DATA, split="test"))
    levels = denoising_levels(model, held_out, seed=0)
    score = densities(model, held_out, EvaluationSettings(likelihood_fields=24), progress=False)
    ratios = {f"ratio at {x['noise_to_signal']}": x["model_error"] / x["wiener_error"] for x in levels}
    return {**ratios, "gain": score.mean_gain, "seconds": result.seconds}


def main() -> None:
    """Measure what is not measured yet, and print the table."""
    torch.set_num_threads(1)
    if not (DATA / "data").is_dir():
        recipe("turbulence").make(DATA, seed=0)
    cache = HERE / "results.json"
    results = json.loads(cache.read_text()) if cache.is_file() else {}
    for mode_scaling, whitened in SETTINGS:
        for seed in SEEDS:
            key = f"mode_scaling {mode_scaling}, whitened_input {whitened}, seed {seed}"
            if key not in results:
                results[key] = measure(mode_scaling, whitened, seed)
                cache.write_text(json.dumps(results, indent=1) + "\n")
    columns = ("ratio at 0.1", "ratio at 0.4", "ratio at 1.0", "ratio at 2.0", "gain")
    print("| mode_scaling | whitened_input | " + " | ".join(columns) + " |\n" + "|---" * (2 + len(columns)) + "|")
    for mode_scaling, whitened in SETTINGS:
        rows = [results[f"mode_scaling {mode_scaling}, whitened_input {whitened}, seed {s}"] for s in SEEDS]
        cells = []
        for column in columns:
            values = [row[column] for row in rows]
            mean = sum(values) / len(values)
            spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
            cells.append(f"{mean:.4f} ± {spread:.4f}")
        print(f"| {mode_scaling} | {whitened} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
