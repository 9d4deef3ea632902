"""Which physics should noise the data? Six distinct processes and a twin, two minutes of training each, three seeds.

    python -m experiments.which_physics.run    # writes results.json and which_physics.png; prints the tables

Everything but the process is the same: data, network, steps, batches, learning rate, default clock, solver. Each model
and its scores are kept in runs/which_physics/NAME-SEED/; a rerun does what is missing, an interrupted training goes on.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from physdiff.atomic import replacing_file
from physdiff.basis import Basis
from physdiff.config import DataSettings, DenoiserSettings, ObjectiveSettings, RunSettings
from physdiff.data.fields import load_fields
from physdiff.data.recipes import recipe
from physdiff.denoisers.denoiser import Denoiser
from physdiff.evaluation.spectrum import energy_spectrum
from physdiff.likelihood import log_likelihood
from physdiff.model import FieldModel, NetworkSettings
from physdiff.objectives import DenoisingLoss
from physdiff.objectives.times import Stratified
from physdiff.objectives.weighting import Simple
from physdiff.path import ReferencePath
from physdiff.process import LinearProcess
from physdiff.processes.coloured_variance_preserving import ColouredVariancePreserving
from physdiff.processes.damped_wave import DampedWave
from physdiff.processes.edm import EDM
from physdiff.processes.heat import Heat
from physdiff.processes.matern import Matern
from physdiff.processes.rectified_flow import RectifiedFlow
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.randomness import keyed_generator
from physdiff.simulated_path import SimulatedPath
from physdiff.solvers import sample
from physdiff.solvers.time_grid import TimeGrid
from physdiff.trace import Hutchinson
from physdiff.training.job import Job, prepare, run_job, versions
from physdiff.training.settings import TrainSettings

HERE = Path(__file__).parent
DATA = Path("data/turbulence")
RUNS = Path("runs/which_physics")
RESULTS = HERE / "results.json"

ProcessOn = Callable[[Basis], LinearProcess]
PROCESSES: dict[str, ProcessOn] = {
    "VariancePreserving": VariancePreserving,
    "EDM": EDM,
    "RectifiedFlow": RectifiedFlow,
    "ColouredVariancePreserving": partial(ColouredVariancePreserving, spectrum="data"),
    "Heat": Heat,
    "Matern": Matern,
    "DampedWave": DampedWave,
}

SEEDS = (0, 1, 2)
STEPS = 2700  # 120 s of one free thread at the 0.044 s per step that were measured
SOLVER_STEPS = (4, 8, 32)  # the reference splitting evaluates the network 2n − 1 times in n steps: 7, 15, 63
SAMPLES = 128
UNKNOWN = (0.02, 0.1, 0.3, 0.6)  # shares of the variance that the Wiener filter leaves unknown
LOSS = DenoisingLoss(Simple(), Stratified())
LOSS_DRAWS = 4  # noises per held-out field
DENSITY_FIELDS, PROBES, DENSITY_STEPS = 32, 4, 16
SHELLS = 15  # |k| = 1 ... 15 rad/m: those that the grid holds whole


def job(process: ProcessOn, seed: int) -> Job:
    """What is the same for all processes."""
    training = TrainSettings(
        STEPS, batch_size=16, learning_rate=2e-3, warmup_steps=20, ema_decay=0.995, log_every=100,
        validate_every=STEPS, checkpoint_every=300, keep_checkpoints=1, seed=seed,
    )  # fmt: skip
    data = DataSettings(str(DATA), ["vorticity"], homogeneous=True)
    network, joined = NetworkSettings(width=16, seed=seed), DenoiserSettings(mode_scaling=1.0)
    simple = ObjectiveSettings(weighting="Simple", times="Stratified")
    return prepare(process, RunSettings(data, training, network, joined, objective=simple))


def measure(name: str, seed: int) -> dict[str, Any]:
    """Train one model, or continue, and score it."""
    folder = RUNS / f"{name}-{seed}"
    start = time.process_time()
    model, result = run_job(job(PROCESSES[name], seed), folder, progress=False)
    trained = time.process_time()
    found = {
        "process": name,
        "seed": seed,
        "steps": result.steps,
        "training_cpu_seconds": trained - start,  # this launch's, the first validation and the checkpoints included
        "resumed_from": result.resumed_from,
        "path": facts(of_linear(model).path),
        **denoising(model),
        "samples": {f"{steps} steps": samples(model, steps, seed) for steps in SOLVER_STEPS},
        "density": density(model, seed),
    }
    return {**found, "evaluation_cpu_seconds": time.process_time() - trained}


def of_linear(model: FieldModel) -> Denoiser:
    """The denoiser of a model whose process is linear, as all are here."""
    assert isinstance(model.denoiser, Denoiser)
    return model.denoiser


def facts(path: ReferencePath) -> dict[str, Any]:
    """What the default clock came to for a process."""
    return {
        "clock": str(path.clock),
        "t_min": path.t_min,
        "gaussian_bias_nats": path.bias_at_t_min,
        "terminal_mismatch_nats": path.terminal_mismatch,
        "n_support": path.reference.n_support,
    }


def held_out(model: FieldModel) -> Tensor:
    """All 128 fields that no model was trained or chosen on, normalised: first those of the test split."""
    return torch.cat([model.normalised(load_fields(DATA, split=split)) for split in ("test", "valid")])


@torch.no_grad()
def denoising(model: FieldModel) -> dict[str, Any]:
    """The loss over the process's own clock, and squared errors where the Wiener filter leaves given shares unknown."""
    fields, denoiser = held_out(model), of_linear(model)
    path = denoiser.path
    losses = [
        LOSS(denoiser, fields, keyed_generator(0, "which physics", "loss", str(draw))).mean()
        for draw in range(LOSS_DRAWS)
    ]
    clean = path.basis.forward(fields)
    levels: dict[str, dict[str, float]] = {}
    for share in UNKNOWN:
        t = time_at_unknown(path, share)
        point = path.at(t)
        noisy = point.noised(clean, keyed_generator(0, "which physics", "level", str(share)))
        error = point.wiener(noisy) - clean
        residual = denoiser.residual(noisy, torch.tensor(t, dtype=torch.float64))
        wiener, trained = (float(e.square().mean()) for e in (error, error + residual))
        levels[f"{share}"] = {"t": t, "wiener": wiener, "model": trained, "ratio": trained / wiener}
    return {"loss": float(torch.stack(losses).mean()), "levels": levels}


def time_at_unknown(path: ReferencePath, share: float) -> float:
    """t at which the Wiener filter leaves a share of the field's variance unknown, Σ cS/V = share · Σ c."""
    unknown = share * float(path.reference.spectrum.sum())
    return bisect(path, lambda t: float(path.at(t).posterior_variance.sum()) < unknown)


def bisect(path: ReferencePath, early: Callable[[float], bool]) -> float:
    """The time up to which a condition holds."""
    low, high = path.t_min, 1.0
    while high - low > 1e-7:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if early(middle) else (low, middle)
    return high


class EvenNoise(TimeGrid):
    """Equal steps of the log of noise over signal, σ/m by root mean square over modes.

    The default takes equal steps of log τ, and what that means for the noise is each process's own.
    """

    def between(self, path: ReferencePath | SimulatedPath, intervals: int) -> Tensor:
        assert isinstance(path, ReferencePath)
        noise = partial(log_noise, path)
        first, last = noise(1.0), noise(path.t_min)
        inner = [
            bisect(path, lambda t, at=first + step / intervals * (last - first): noise(t) < at)
            for step in range(1, intervals)
        ]
        return torch.tensor([1.0, *inner, path.t_min], dtype=torch.float64)


def log_noise(path: ReferencePath, t: float) -> float:
    """log σ/m at t."""
    point, support = path.at(t), path.reference.support
    gain = point.amplitude.square().expand_as(support)[support].mean()
    return 0.5 * float((point.noise_variance[support].mean() / gain).log())


def on_even_noise(name: str, seed: int) -> dict[str, Any]:
    """The same of samples on a time grid that is the same in noise for all processes, where steps are few."""
    model = FieldModel.load(RUNS / f"{name}-{seed}")
    return {f"{steps} steps": samples(model, steps, seed, EvenNoise()) for steps in SOLVER_STEPS[:2]}


def samples(model: FieldModel, steps: int, seed: int, time_grid: TimeGrid | None = None) -> dict[str, Any]:
    """Spectrum and kurtosis of samples beside those of held-out fields, and the network evaluations that they took."""
    calls: list[int] = []
    handle = model.denoiser.network.register_forward_hook(lambda *_: calls.append(1))
    try:
        drawn = sample(model.denoiser, SAMPLES, steps=steps, time_grid=time_grid, seed=seed, chunk=SAMPLES)
    finally:
        handle.remove()
    return {"evaluations": len(calls), **beside(model, drawn, held_out(model))}


def beside(model: FieldModel, fields: Tensor, truth: Tensor) -> dict[str, Any]:
    """Error of the spectrum, root mean square over shells of log E/E_truth, its shells; kurtosis of cells."""
    basis, reference = model.denoiser.path.basis, model.denoiser.path.reference
    mean = basis.inverse(reference.mean)
    ours, theirs = (energy_spectrum(x, basis, mean=mean).mean[0] for x in (fields, truth))
    log_ratio = (ours / theirs).log()[1 : SHELLS + 1]  # the first shell is the constant, which does not vary
    deviation = fields - mean
    return {
        "spectrum_error": float(log_ratio.square().mean().sqrt()),
        "log_ratio": [round(float(x), 5) for x in log_ratio],
        "kurtosis": float(deviation.pow(4).mean() / deviation.square().mean().square()),
    }


def density(model: FieldModel, seed: int) -> dict[str, Any]:
    """Log-density per degree of freedom of test fields, in physical units, and over the Gaussian reference's."""
    score = model.log_likelihood(
        load_fields(DATA, split="test").first(DENSITY_FIELDS),
        probes=PROBES, method="rk4", steps=DENSITY_STEPS, scored="field", seed=seed,
    )  # fmt: skip
    n = score.attrs["n_support"]
    gain = score["relative_to_reference"].values / n
    return {
        "per_dimension": float(score["per_dimension"].mean()),
        "gain": float(gain.mean()),
        "gain_per_field": [round(float(x), 5) for x in gain],
        "probe_error": float((score["standard_error"].values ** 2).mean() ** 0.5 / n / DENSITY_FIELDS**0.5),
        "reference_per_dimension": float(score["log_prob_reference"].mean()) / n,
        "evaluations": score.attrs["evaluations"],
    }


def floors() -> dict[str, Any]:
    """What fields of the true law, and of its Gaussian reference, score beside the held-out ones."""
    prepared = job(Matern, 0)
    model, truth = prepared.model, held_out(prepared.model)
    groups = prepared.train.double().split(SAMPLES)
    drawn = [sample(model.denoiser, SAMPLES, steps=1, seed=seed) for seed in SEEDS]
    return {
        "held_out_kurtosis": beside(model, truth, truth)["kurtosis"],
        "training_fields": [beside(model, fields, truth) for fields in groups if len(fields) == SAMPLES],
        "gaussian_reference": [beside(model, fields, truth) for fields in drawn],
    }


def density_checks(name: str) -> dict[str, float]:
    """How the gain of 8 fields under the model of seed 0 moves with the integrator's steps and with t_min."""
    model = FieldModel.load(RUNS / f"{name}-0")
    fields = model.normalised(load_fields(DATA, split="test").first(8))
    denoiser = of_linear(model)
    path = denoiser.path
    onset = path.at(path.t_min).time
    settings: dict[str, Any] = {"trace": Hutchinson(2), "method": "rk4", "seed": 0}

    def gain(steps: int, times_noise: float) -> float:
        later = float(path.clock.inverse(times_noise * onset))
        denoiser.path = ReferencePath(path.process, path.reference, later)
        found = log_likelihood(denoiser, fields, steps=steps, **settings)
        return float(found.relative_to_reference.mean()) / found.n_support

    coarse, fine = gain(DENSITY_STEPS, 1.0), gain(2 * DENSITY_STEPS, 1.0)
    return {"twice_the_steps": fine - coarse, "four_times_the_earliest_time": gain(DENSITY_STEPS, 4.0) - coarse}


def cached(file: Path, work: Callable[[], Any]) -> Any:
    """What a JSON file holds, or else what the work gives, written there."""
    if not file.is_file():
        found = work()
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(file) as partial_file:
            partial_file.write_text(json.dumps(found, indent=1) + "\n")
    return json.loads(file.read_text())


def main() -> None:
    """Measure what is not measured yet; write results.json, the figure and the tables."""
    torch.set_num_threads(1)
    if not (DATA / "data").is_dir():
        recipe("turbulence").make(DATA, seed=0)
    floor = cached(RUNS / "floors.json", floors)
    wanted = [(name, seed) for seed in SEEDS for name in PROCESSES]
    runs = []
    for name, seed in wanted:
        folder = RUNS / f"{name}-{seed}"
        run = cached(folder / "result.json", partial(measure, name, seed))
        runs.append(run | {"even_noise": cached(folder / "even_noise.json", partial(on_even_noise, name, seed))})
        print(f"{time.strftime('%H:%M:%S')} {name} {seed}: loss {runs[-1]['loss']:.4f}", flush=True)
    checks = {
        name: cached(RUNS / f"{name}-0" / "density_checks.json", partial(density_checks, name)) for name in PROCESSES
    }
    found = {
        "versions": {**versions(), "machine": platform.machine(), "threads": 1},
        "floors": floor,
        "density_checks": checks,
        "runs": runs,
    }
    with replacing_file(RESULTS) as partial_file:
        partial_file.write_text(json.dumps(found, indent=1) + "\n")
    from experiments.which_physics import summary

    summary.main()


if __name__ == "__main__":
    main()
