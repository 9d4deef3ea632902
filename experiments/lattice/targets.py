"""Equal steps on the strong theory with different targets: noise alone, or the action's own score as well.

    python -m experiments.lattice.targets [--steps 600] [--seeds 2] [--samples 256]

after `experiments.lattice.theories`. Everything but the target is the same: weights, batches, times and noise. What is
printed is the loss of the averaged weights on held-out fields against the plain target and against the one of least
variance, in units of what the Wiener filter leaves unknown; and what samples are worth under the action. `targets.json`
keeps what was measured; delete it to measure again.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from experiments.lattice.theories import FOLDERS, THEORIES
from physdiff.actions import action_of
from physdiff.config import DataSettings, DenoiserSettings, RunSettings
from physdiff.decoding import draw
from physdiff.denoisers import Denoiser
from physdiff.importance import importance_weights
from physdiff.model import FieldModel, NetworkSettings
from physdiff.objectives.target import TargetScoreLoss
from physdiff.path import ReferencePath
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.randomness import keyed_generator
from physdiff.training.job import Job, prepare, some_of
from physdiff.training.settings import TrainSettings

MIXTURES = ("denoising", "matched", "fitted")
BATCH, RATE, DECAY, WARM_UP = 64, 2e-3, 0.99, 20
HERE = Path(__file__).parent


def job_of(seed: int) -> Job:
    """The strong theory's data and an untrained model."""
    data = DataSettings(FOLDERS["strong"], homogeneous=True)
    network = NetworkSettings(width=16, multipliers=(1, 2), seed=seed)
    return prepare(
        VariancePreserving, RunSettings(data, TrainSettings(1, seed=seed), network, DenoiserSettings(mode_scaling=1.0))
    )


def trained(job: Job, objective: TargetScoreLoss, steps: int, seed: int) -> tuple[Denoiser, float]:
    """The averaged denoiser after so many steps, and the seconds they took."""
    model, begin = copy.deepcopy(job.model.denoiser), time.process_time()
    assert isinstance(model, Denoiser)
    averaged = copy.deepcopy(model)
    optimiser = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.0)
    for step in range(steps):
        generator = keyed_generator(seed, "step", step)
        rows = torch.randint(len(job.train), (BATCH,), generator=generator)
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / WARM_UP) * (1 - step / steps)
        optimiser.zero_grad()
        objective(model, job.train.batch(rows)[0], generator).mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            decay = min(DECAY, (1 + step) / (10 + step))
            for mine, theirs in zip(averaged.parameters(), model.parameters(), strict=True):
                mine.lerp_(theirs, 1 - decay)
    return averaged, time.process_time() - begin


@torch.no_grad()
def held_out(model: nn.Module, valid: Tensor, objective: TargetScoreLoss) -> Tensor:
    """Losses of the held-out fields, on the same times and noise for every model."""
    generator = keyed_generator(0, "held out")
    return torch.cat([objective(model, batch, generator) for batch in valid.split(256)])


def effective(model: FieldModel, denoiser: Denoiser, samples: int, seed: int) -> float:
    """Share of the model's samples that are effective under the action."""
    drawn = draw(denoiser, samples, rtol=1e-3, atol=1e-3, seed=seed, trace="exact")
    assert drawn.log_prob is not None
    action = action_of(THEORIES["strong"], model.normaliser.inverse(drawn.fields))
    return importance_weights(drawn.log_prob + model.log_det, action).effective_samples / samples


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--samples", type=int, default=256)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cache = HERE / "targets.json"
    results = json.loads(cache.read_text()) if cache.is_file() else {}
    for seed in range(options.seeds):
        job = job_of(seed)
        plain = TargetScoreLoss(THEORIES["strong"], mixture="denoising")
        path, to_physical = job.model.denoiser.path, job.model.normaliser.inverse
        assert isinstance(path, ReferencePath)
        of = {name: replace(plain, mixture=name).prepared(path, some_of(job.train), to_physical) for name in MIXTURES}
        for name, objective in {"untrained": plain, **of}.items():
            steps = 0 if name == "untrained" else options.steps
            key = f"{name}, {steps} steps, seed {seed}, {options.samples} samples"
            if key not in results:
                model, seconds = trained(job, objective, steps, seed)
                row: dict[str, object] = {"seconds": round(seconds, 1)}
                for scale in ("denoising", "fitted"):
                    loss = held_out(model, some_of(job.valid), of[scale])
                    row[scale] = [float(loss.mean()), float(loss.std()) / len(loss) ** 0.5]
                row["effective"] = effective(job.model, model, options.samples, seed)
                results[key] = row
                cache.write_text(json.dumps(results, indent=1) + "\n")
            print(f"{key}: {json.dumps(results[key])}", flush=True)


if __name__ == "__main__":
    main()
