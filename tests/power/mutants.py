"""Wrong maths, planted one line at a time: a suite that stays green on any of these does not test what it says.

    python -m tests.power.mutants [--processes 2] [WORD ...]

copies the package, plants one error, runs the few tests named beside it, and exits with 1 if an error survives. The
same tests are run on a clean copy first: a test that fails there kills nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

LAW = "tests/laws/test_laws.py::test_law[{}]"
BASIS, GAUSSIAN = "tests/unit/test_grid_basis.py", "tests/unit/test_gaussian.py"
PROCESSES, PATH = "tests/unit/test_processes.py", "tests/unit/test_path.py"
DENOISERS, OBJECTIVE = "tests/unit/test_denoisers.py", "tests/unit/test_objective.py"
SAMPLING, LIKELIHOOD = "tests/unit/test_sampling.py", "tests/unit/test_likelihood.py"
# Non-Gaussian data alone: on Gaussian data the residual is zero, and only the determinants are tested.
ISOTROPIC = "tests/unit/test_isotropic.py"
PHYSICS = "tests/unit/test_linear_physics.py"
MIXTURE = f"{LIKELIHOOD}::test_mixture_likelihood_is_the_truth"
COVERAGE = f"{LIKELIHOOD}::test_hutchinson_intervals_cover_at_their_rate"
UNTRAINED = f"{LIKELIHOOD}::test_untrained_likelihood_is_the_closed_form"


def laws(*names: str) -> tuple[str, ...]:
    """Node ids of laws, `Class-name of the law`."""
    return tuple(LAW.format(name.replace(" ", "_")) for name in names)


@dataclass(frozen=True)
class Mutant:
    """One planted error.

    Attributes:
        file: Below physdiff/.
        old: Text that stands exactly once in the file.
        new: What is planted in its place.
        meaning: The mistake that a person could make.
        tests: Node ids, of which at least one must fail.
    """

    file: str
    old: str
    new: str
    meaning: str
    tests: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.file}: {self.meaning}"


MUTANTS = (
    # ---- basis
    Mutant("basis.py", "spectrum.real - spectrum.imag", "spectrum.real + spectrum.imag",
           "Hartley transform of the reflected field: derivatives change sign", laws("all-derivative is exact")),
    Mutant("basis.py", "symbol.real * y - symbol.imag", "symbol.real * y + symbol.imag",
           "conjugate missing in complex symbols", laws("all-one cell of shift rolls")),
    Mutant("basis.py", "if n % 2 == 0:", "if n % 2 == 2:",
           "Nyquist wave differentiated", laws("all-derivative is exact")),
    Mutant("basis.py", "[1] * len(self._periodic)", "[0] * len(self._periodic)",
           "reflection off by one cell", laws("all-symbols are multipliers")),
    Mutant("basis.py", "return 0.5 * (power + self.reflect(power))", "return power",
           "spectrum not tied over {k, −k}", (f"{GAUSSIAN}::test_fit_recovers_mean_and_spectrum_tied_over_orbits",)),
    Mutant("basis.py", "phase - self.reflect(phase)", "phase",
           "scrambled phases not odd in k", laws("all-scrambling keeps the spectrum")),
    Mutant("basis.py", "torch.arange(n, dtype=torch.float64) + 0.5", "torch.arange(n, dtype=torch.float64)",
           "walls at cell centres instead of faces", laws("all-laplacian is diagonal")),
    Mutant("basis.py", 'k = k + math.pi / length if boundary == "dirichlet" else k', "k = k + 0",
           "sine waves counted from zero", laws("all-finite differences are diagonal")),
    Mutant("basis.py", "sign = 1 - 2 * (torch.arange(n, device=x.device) % 2).to(x)", "sign = torch.ones(n).to(x)",
           "alternating sign of the DST by DCT missing", (f"{BASIS}::test_long_walls_agree_with_scipy",)),
    Mutant("basis.py", "weight[0] = math.sqrt(1 / n)", "weight[0] = math.sqrt(2 / n)",
           "constant of the long DCT normalised like the others", (f"{BASIS}::test_long_walls_agree_with_scipy",)),
    # ---- quadrature, process
    Mutant("quadrature.py", "decay = torch.exp(2 * (lost", "decay = torch.exp((lost",
           "gain for gain² in the variance integral", laws("Heat-solution solves the equation")),
    Mutant("quadrature.py", "lost = lost + torch", "lost = torch",
           "only the last panel's decay remembered", laws("Heat-solution solves the equation")),
    Mutant("process.py", "decay = -2 * self.drift_symbol(time).real * duration",
           "decay = -self.drift_symbol(time).real * duration", "factor 2 dropped in the variance",
           laws("Heat-simulation has the moments")),
    Mutant("process.py", "torch.where(at_zero, 1.0, -torch.expm1(-x)", "torch.where(at_zero, 0.0, -torch.expm1(-x)",
           "the mean mode of heat receives no noise", laws("Heat-ode solver agrees")),
    Mutant("process.py", "gain = torch.exp(2 * later.log_gain.real)", "gain = torch.exp(later.log_gain.real)",
           "gain for gain² when transitions compose", laws("Matern-steps compose")),
    Mutant("process.py", "kernel.variance.sqrt().to(x.device) * self.basis.forward(noise)",
           "kernel.variance.to(x.device) * self.basis.forward(noise)", "variance for standard deviation in perturb",
           laws("VariancePreserving-perturb draws from the kernel")),
    Mutant("clock.py", "self.onset * self.growth * torch.exp", "self.onset * torch.exp",
           "rate of the exponential clock lacks its exponent",
           (f"{PROCESSES}::test_clocks_invert_and_know_their_rate",)),
    # ---- physics
    Mutant("processes/heat.py", "return -self.diffusivity *", "return -0.5 * self.diffusivity *",
           "half the diffusivity", (f"{PROCESSES}::test_heat_is_the_limit_of_finite_differences",)),
    Mutant("processes/heat.py", "self.noise_level**2 / self.basis.grid.cell_volume", "self.noise_level**2",
           "noise per cell instead of per volume", laws("Heat-refinement is as declared")),
    Mutant("processes/heat.py", "torch.full_like(time, self.noise_level**2", "torch.full_like(time, self.noise_level",
           "amplitude for variance", (f"{PROCESSES}::test_heat_reaches_its_balance_and_its_mean_never_does",)),
    Mutant("processes/matern.py", "return -2 * self.drift_symbol(time)", "return -self.drift_symbol(time)",
           "half the noise that balances the decay", (f"{PROCESSES}::test_matern_ends_in_the_bessel_covariance",)),
    Mutant("processes/variance_preserving.py", "torch.full_like(time, -0.5)", "torch.full_like(time, -1.0)",
           "decay of the variance for that of the field",
           (f"{PROCESSES}::test_variance_preserving_has_the_published_constants",)),
    Mutant("processes/advection_diffusion.py", "symbol = symbol - v *", "symbol = symbol + v *",
           "against the wind", (f"{PROCESSES}::test_wind_carries_a_bump_with_its_speed_and_direction",)),
    Mutant("spectra.py", "- (nu + d / 2) * torch.log", "- nu * torch.log",
           "Matérn exponent without d/2", (f"{PROCESSES}::test_matern_ends_in_the_bessel_covariance",)),
    Mutant("spectra.py", "(1 / (2 * rates[rates > 0]))", "(1 / (rates[rates > 0]))",
           "heat balanced at the wrong variance", (f"{PROCESSES}::test_default_heat_noise_balances_at_unit_variance",)),
    # ---- further processes, clocks
    Mutant("processes/edm.py", "return 2 * time", "return time",
           "dσ²/dσ without its 2", laws("EDM-solution solves the equation")),
    Mutant("processes/sub_variance_preserving.py", "torch.expm1(-time - since)", "torch.expm1(-time)",
           "sub-VP variance of a step that starts at zero", laws("SubVariancePreserving-steps compose")),
    Mutant("processes/rectified_flow.py", "2 * time / (1 + time).square()", "2 * time / (1 + time)",
           "interpolant noise rate", laws("RectifiedFlow-solution solves the equation")),
    Mutant("processes/variance_exploding.py", "torch.ones_like(time)", "2 * torch.ones_like(time)",
           "variance twice the clock", (f"{ISOTROPIC}::test_variance_exploding_has_the_variance_since_the_start",)),
    Mutant("processes/coloured_variance_preserving.py", "torch.full_like(time, -0.5)", "torch.full_like(time, -1.0)",
           "terminal spectrum halved", (f"{ISOTROPIC}::test_data_spectrum_gives_every_mode_the_same_signal_to_noise",)),
    Mutant("processes/fractional_heat.py", "self.basis.laplacian**self.power", "self.basis.laplacian * self.power",
           "multiple for power", (f"{PHYSICS}::test_fractional_heat_is_the_matrix_power",)),
    Mutant("processes/reaction_diffusion.py", "rates * self.basis.laplacian + coefficient",
           "rates + self.basis.laplacian * coefficient",
           "Horner's rule turned round", (f"{PHYSICS}::test_reaction_diffusion_relaxes_waves_at_the_polynomial",)),
    Mutant("processes/heat_dissipation.py", "return 2 * self.diffusivity", "return self.diffusivity",
           "dissipation not balanced",
           (f"{PHYSICS}::test_heat_dissipation_blurs_by_the_root_of_its_time_and_keeps_its_noise",)),
    Mutant("processes/blurring.py", "rate(time) - 2 * self.drift_symbol", "rate(time) - self.drift_symbol",
           "G = dS/dτ − AS", laws("Blurring-solution solves the equation")),
    Mutant("process.py", "(time > 0) * torch.exp(2 * self", "(time > 0) * torch.exp(self",
           "gain for gain² on the start's noise",
           (f"{PHYSICS}::test_heat_dissipation_blurs_by_the_root_of_its_time_and_keeps_its_noise",)),
    Mutant("clock.py", "torch.log1p(-lost)", "torch.log1p(lost)",
           "sign in the cosine schedule", ("tests/unit/test_clocks.py",)),
    Mutant("solvers/solver.py", "here.push(clean).to(y) * residual", "-here.push(clean).to(y) * residual",
           "sign of the last step", (f"{SAMPLING}::test_last_step_follows_the_flow_of_the_data",)),
    # ---- Gaussian world
    Mutant("gaussian.py", "(terms + self.log_det", "(terms - self.log_det",
           "sign of the log-determinant", (f"{GAUSSIAN}::test_density_and_divergence_are_those_of_the_dense_normal",)),
    Mutant("gaussian.py", "torch.exp(2 * kernel.log_gain.real) *", "torch.exp(kernel.log_gain.real) *",
           "gain for gain² in the carried law", (f"{GAUSSIAN}::test_carried_law_is_the_dense_one",)),
    Mutant("gaussian.py", "torch.where(estimated, modes.mean(0), 0.0)", "modes.mean(0)",
           "a homogeneous field keeps the mean's waves",
           (f"{GAUSSIAN}::test_homogeneous_fit_has_one_mean_along_periodic_axes",)),
    Mutant("path.py", "self._per_variance(self.amplitude * self", "self._per_variance(self.amplitude.square() * self",
           "one gain too many in the Wiener filter", (f"{PATH}::test_wiener_is_dense_bayes",)),
    Mutant("path.py", "self.turn.conj()", "self.turn",
           "rotation not undone", (f"{PATH}::test_whitening_whitens_and_comes_back",)),
    Mutant("path.py", "-0.5 * noise_rate * self.amplitude", "0.5 * noise_rate * self.amplitude",
           "sign of the flow, and so of its divergence", (MIXTURE,)),
    Mutant("path.py", "0.5 * torch.log(p.variance[support] / p.noise_variance[support])",
           "-0.5 * torch.log(p.variance[support] / p.noise_variance[support])", "sign of the terminal mismatch",
           (f"{PATH}::test_terminal_mismatch_bounds_the_divergence",)),
    Mutant("path.py", "0.5 * (ratio - 1 - torch.log(ratio))", "0.5 * (1 - ratio - torch.log(ratio))",
           "sign in the bias at t_min", (f"{PATH}::test_bias_at_t_min_is_the_mean_loss",)),
    # ---- denoisers, objective
    Mutant("denoisers/denoiser.py", "_per_cell(point.variance).rsqrt()", "_per_cell(point.variance).reciprocal()",
           "c_in = 1/V for 1/√V", (f"{DENOISERS}::test_network_sees_unit_variance_in_the_moving_frame",)),
    Mutant("denoisers/posterior_mean.py", "basis.inverse(point.rotate(comoving))", "basis.inverse(comoving)",
           "score left in the moving frame", laws("AdvectionDiffusion-score is the gradient")),
    Mutant("denoisers/posterior_mean.py", "point.amplitude / torch.where(support, point.noise_variance, 1.0), 0.0)",
           "1.0 / torch.where(support, point.noise_variance, 1.0), 0.0)", "gain missing in Tweedie's formula",
           laws("Matern-score is the gradient")),
    Mutant("denoisers/exact.py", "shifted.square() / variance + torch.log(variance)", "shifted.square() / variance",
           "determinants missing in the mixture's shares", (f"{DENOISERS}::test_mixture_is_dense_bayes",)),
    Mutant("objectives/denoising.py", "clean - point.wiener(noisy)", "noisy - point.wiener(noisy)",
           "the noisy field as the target", (f"{OBJECTIVE}::test_the_posterior_mean_minimises_the_loss",)),
    # ---- solvers
    Mutant("solvers/heun.py", "0.5 * step * (first + second)", "step * first",
           "Euler for Heun", laws("Heun-order with a wrong reference")),
    Mutant("solvers/heun.py", "drift = process.drift", "drift = 0.5 * process.drift",
           "half the drift in the flow", laws("Heun-order with a wrong reference")),
    Mutant("solvers/reference_splitting.py", "second = -there.push(here)", "second = there.push(here)",
           "the second slope runs backwards", laws("ReferenceSplitting-order with a wrong reference")),
    Mutant("solvers/ancestral.py", "back.on_clean.abs().square()", "back.on_clean.abs()",
           "gain for gain² in the extra variance", laws("Ancestral-gaussian law is exact")),
    Mutant("bridge.py", "carried = torch.sqrt(before / whole * left)", "carried = torch.sqrt(before / whole)",
           "transition gain missing in the posterior mean", laws("Matern-posterior is bayes")),
    Mutant("bridge.py", "variance=eta * before * new", "variance=eta * received",
           "step variance for the posterior's", laws("Matern-posterior is bayes")),
    Mutant("bridge.py", "-log_gain.imag", "log_gain.imag",
           "the posterior turns the wrong way", laws("AdvectionDiffusion-posterior is bayes")),
    Mutant("solvers/sample.py", 'keyed_generator(seed, "sample", i)', 'keyed_generator(seed, "sample", i - first)',
           "noise keyed by the place in the chunk", (f"{SAMPLING}::test_a_sample_is_the_same_in_any_batch",)),
    # ---- trace, likelihood
    Mutant("trace.py", "(2 * torch.stack(draws) - 1)", "torch.stack(draws)",
           "probes 0 or 1 instead of ±1", (COVERAGE,)),
    Mutant("likelihood.py", "per_probe.std(1) / math.sqrt(probes)", "per_probe.std(1) / probes",
           "error bar shrinks with K for √K", (COVERAGE,)),
    Mutant("likelihood.py", "unsqueeze(1) + divergence.cpu()", "unsqueeze(1) - divergence.cpu()",
           "sign of the divergence", (MIXTURE,)),
    Mutant("likelihood.py", "0.5 * (at_end.log_det - at_start.log_det)", "0.5 * (at_start.log_det - at_end.log_det)",
           "sign of the log-determinants", (MIXTURE,)),
    Mutant("likelihood.py", "0.5 * (at_end.log_det - at_start.log_det) + log_volume", "log_volume",
           "log-determinants missing", (MIXTURE,)),
    Mutant("likelihood.py", "(time * point.pull_rate)", "point.pull_rate",
           "dτ for d log τ", (MIXTURE,)),
    Mutant("likelihood.py", "return point.restore(comoving), float(log_volume)", "return point.restore(comoving), 0.0",
           "volume of x ↦ m x missing", (UNTRAINED,)),
    Mutant("likelihood.py", "point.noise_variance.sqrt() * noise", "point.noise_variance * noise",
           "variance for deviation in the noise that is scored",
           (f"{LIKELIHOOD}::test_noised_fields_have_the_noise_of_t_min",)),
    Mutant("likelihood.py", "log_terminal = terminal(modes)", "log_terminal = terminal(latent.cpu())",
           "terminal law of the whitened state", (MIXTURE,)),
)  # fmt: skip


def applied(mutant: Mutant, package: Path) -> None:
    """Plant the error in a copy of the package."""
    path = package / mutant.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        raise ValueError(f"{mutant}: its text stands {text.count(mutant.old)} times in {path}, not once.")
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")


def copied(folder: Path) -> Path:
    """A copy of the package that Python finds before any other."""
    shutil.copytree(ROOT / "physdiff", folder / "physdiff", ignore=shutil.ignore_patterns("__pycache__"))
    return folder / "physdiff"


def run(folder: Path, tests: Sequence[str], stop: bool = True) -> subprocess.CompletedProcess[str]:
    """Pytest on the copy in `folder`."""
    environment = {
        **os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    # -P-less `python -m pytest` puts the working directory first on the path: it must be the copy's.
    options = ["-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
    command = [sys.executable, "-m", "pytest", *options, *(["-x"] if stop else []), *[str(ROOT / t) for t in tests]]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


def verdict(mutant: Mutant) -> tuple[str, float]:
    """ "killed", "survived" or "broken" (the tests could not run), and the seconds it took."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        applied(mutant, copied(Path(name)))
        done = run(Path(name), mutant.tests)
    word = {0: "survived", 1: "killed"}.get(done.returncode, "broken")
    return word, time.monotonic() - begin


def clean_run(mutants: Sequence[Mutant]) -> None:
    """Run the named tests on a clean copy.

    Raises:
        RuntimeError: a test fails there, or the copy is not the package that the tests import.
    """
    tests = list(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
    with tempfile.TemporaryDirectory() as name:
        package = copied(Path(name))
        where = subprocess.run(
            [sys.executable, "-c", "import physdiff.grid as m; print(m.__file__)"], cwd=name,
            env={**os.environ, "PYTHONPATH": name}, capture_output=True, text=True, check=False,
        ).stdout.strip()  # fmt: skip
        if Path(where).resolve() != (package / "grid.py").resolve():
            raise RuntimeError(f"the tests would import {where or 'nothing'}, not the copy in {package}.")
        done = run(Path(name), tests, stop=False)
        if done.returncode != 0:
            raise RuntimeError(f"the tests fail without any planted error:\n{done.stdout[-3000:]}{done.stderr[-2000:]}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The table of verdicts; 1 if an error survived."""
    parser = argparse.ArgumentParser(description="Plant errors in a copy of the package and see that tests fail.")
    parser.add_argument("words", nargs="*", help="only mutants whose name holds one of these words")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(arguments)
    chosen = [m for m in MUTANTS if not options.words or any(word in str(m) for word in options.words)]
    begin = time.monotonic()
    clean_run(chosen)
    print(f"clean copy passes in {time.monotonic() - begin:.0f} s", flush=True)
    with ThreadPoolExecutor(options.processes) as pool:
        verdicts = []
        for mutant, (word, seconds) in zip(chosen, pool.map(verdict, chosen), strict=True):
            verdicts.append(word)
            print(f"{word:9} {seconds:5.1f} s  {mutant}", flush=True)
    killed = verdicts.count("killed")
    print(f"{killed} of {len(chosen)} planted errors killed in {time.monotonic() - begin:.0f} s")
    return 0 if killed == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
