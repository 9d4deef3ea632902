"""Wrong maths, planted one line at a time: a suite that stays green on any of these does not test what it says.

    python tests/power/mutants.py [--processes 2] [WORD ...]

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
NORMALISE, STATISTICS = "tests/unit/test_normalise.py", "tests/unit/test_statistics.py"
TRAINED_ON = "tests/unit/test_trained_on.py"
BASIS, GAUSSIAN = "tests/unit/test_grid_basis.py", "tests/unit/test_gaussian.py"
PROCESSES, PATH = "tests/unit/test_processes.py", "tests/unit/test_path.py"
DENOISERS, OBJECTIVE = "tests/unit/test_denoisers.py", "tests/unit/test_objective.py"
PREDICTIONS, WEIGHTINGS = "tests/unit/test_predictions.py", "tests/unit/test_weightings.py"
TIMES = "tests/unit/test_time_sampling.py"
SAMPLING, LIKELIHOOD = "tests/unit/test_sampling.py", "tests/unit/test_likelihood.py"
# Non-Gaussian data alone: on Gaussian data the residual is zero, and only the determinants are tested.
ISOTROPIC = "tests/unit/test_isotropic.py"
GRAPH, SPHERE, CHAIN = "tests/unit/test_graph_basis.py", "tests/unit/test_sphere_basis.py", "tests/unit/test_chain.py"
PHYSICS = "tests/unit/test_linear_physics.py"
PHASE_SPACE = "tests/unit/test_phase_space.py"
SIMULATED, REACTIONS = "tests/unit/test_semilinear.py", "tests/unit/test_semilinear_physics.py"
MIXTURE = f"{LIKELIHOOD}::test_mixture_likelihood_is_the_truth"
COVERAGE = f"{LIKELIHOOD}::test_hutchinson_intervals_cover_at_their_rate"
IMPORTANCE, LATTICE = "tests/unit/test_importance.py", "tests/unit/test_lattice.py"
DETERMINISTIC = "tests/unit/test_deterministic_solvers.py"
GRIDS = "tests/unit/test_time_grids.py"
INTEGRATE = "tests/unit/test_integrate.py"
LOOP, SCORING = "tests/unit/test_sampling_loop.py", "tests/end_to_end/test_scoring.py"
STOCHASTIC = "tests/unit/test_stochastic_solvers.py"
BOUND, BOUND_EXACT = "tests/unit/test_elbo.py", "tests/unit/test_elbo_exact.py"
BOUND_SIMULATED = "tests/unit/test_simulated_elbo.py"
VARIATIONAL, LEARNED_VARIANCE = "tests/unit/test_variational.py", "tests/unit/test_learned_variance.py"
TRANSFORMER, BACKBONES = "tests/unit/test_transformer.py", "tests/unit/test_backbones.py"
NETWORK_SETTINGS = "tests/unit/test_network_settings.py"
UNET_SPEED, UNET_CONDITIONS = "tests/unit/test_unet_speed.py", "tests/unit/test_unet_conditions.py"
GUIDED = "tests/unit/test_guided.py"
KRIGING = "tests/unit/test_kriging.py"
UNTRAINED = f"{LIKELIHOOD}::test_untrained_likelihood_is_the_closed_form"
MATCHING = "tests/unit/test_score_matching.py"
MINIMISED = "tests/laws/test_objective_laws.py::test_law[{}-exact_denoiser_is_the_minimiser]"


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
    # ---- networks
    Mutant("networks/padding.py", 'return (-first, -last) if word == "dirichlet" else (first, last)',
           "return first, last", "odd mirror at a clamped wall without its sign",
           ("tests/unit/test_unet.py::test_pad_is_the_boundarys_extension",)),
    Mutant("networks/padding.py", "last.add_(after)", "first.add_(after)",
           "ghost cells' gradients added up at one end",
           (f"{UNET_SPEED}::test_padding_large_fields_is_padding_small_ones",)),
    Mutant("networks/blocks.py", "_pairs(x, 0.5 ** (x.ndim - 2))", "_pairs(x, 0.5)",
           "average over one axis alone", (f"{UNET_SPEED}::test_levels_are_averages_of_pairs_and_repetitions",)),
    Mutant("networks/attention.py", "query.shape[-1] ** -0.5", "query.shape[-1] ** -1.0",
           "√d forgotten in attention", ("tests/unit/test_unet_attention.py::test_is_torchs_own_attention",)),
    Mutant("networks/conditioning.py", "told = present if value is not None", "told = ~present if value is not None",
           "what is not told gets through", (f"{UNET_CONDITIONS}::test_rows_are_told_one_by_one",)),
    Mutant("networks/cost.py", "counter.get_total_flops() // 2", "counter.get_total_flops()",
           "operations taken for multiply-adds", ("tests/unit/test_presets.py::test_cost_is_that_of_every_layer",)),
    Mutant("denoisers/guided.py", "absent + scale *", "told + scale *",
           "guidance counted from the conditional law", (f"{GUIDED}::test_score_is_that_of_the_tilted_density",)),
    Mutant("denoisers/guided.py", "device=given.device) < n", "device=given.device) >= n",
           "told and untold halves swapped", (f"{GUIDED}::test_gaussians_tilt_to_a_gaussian",)),
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
    Mutant("process.py", "return received + (time > 0)", "return received + (time > 1e-6)",
           "the start's noise comes late", laws("HeatDissipation-starts clean")),
    Mutant("processes/heat.py", "return -self.diffusivity *", "return self.diffusivity *",
           "heat runs backwards", laws("Heat-modes do not grow")),
    Mutant("processes/blurring.py", "_noise_rate(time) - 2 * self", "_noise_rate(time) + 2 * self",
           "noise fed in where blurring takes none out", laws("Blurring-noise power is not negative")),
    Mutant("clock.py", "torch.log1p(-lost)", "torch.log1p(lost)",
           "sign in the cosine schedule", ("tests/unit/test_clocks.py",)),
    Mutant("solvers/solver.py", "here.push(clean).to(y) * residual", "-here.push(clean).to(y) * residual",
           "sign of the last step", (f"{SAMPLING}::test_last_step_follows_the_flow_of_the_data",)),
    # ---- what survives a kill, and what is told of it
    Mutant("training/checkpoint.py", "partial = final.with_name(LITTER + final.name)", "partial = final",
           "half a checkpoint under the name of a whole one",
           ("tests/end_to_end/test_kills.py::test_a_run_that_is_killed_ends_in_the_same_bits",)),
    Mutant("training/metrics.py", 'if record["step"] <= step)', 'if record["step"] <= step + 1)',
           "a record of a step that was lost is kept",
           ("tests/unit/test_training_loop.py::test_resumed_run_ends_in_the_same_bits",)),
    Mutant("training/sweep_table.py", '(o.status != "done", error(o))', '(o.status != "done", -error(o))',
           "the worst run of a sweep comes first",
           ("tests/end_to_end/test_sweep.py::test_the_table_orders_by_what_all_have_and_puts_what_is_not_a_number_last",)),
    Mutant("training/sample_grids.py", "condition[rows.to(", "condition[rows.flip(0).to(",
           "samples beside the fields of other conditions",
           ("tests/unit/test_sample_grids.py::test_each_sample_answers_to_the_condition_of_the_field_beside_it",)),
    # ---- phase space
    Mutant("block.py", "-2 * self.trace * self.determinant /", "-self.trace * self.determinant /",
           "stationary variance doubled", (f"{PHASE_SPACE}::test_wave_ends_in_the_gibbs_law",)),
    Mutant("block.py", "(self.determinant + vv.square()) * self.noise[0]", "vv.square() * self.noise[0]",
           "noise of x itself without its part in the stationary variance",
           (f"{PHASE_SPACE}::test_stationary_precision_solves_the_lyapunov_equation",)),
    Mutant("block.py", "from_x * p * p + from_v * q * q", "from_x * p * p + from_v * p * p",
           "noise of v put into x", laws("DampedWave-pair solves the block equation")),
    Mutant("block.py", "(p * s + q * r) * xv", "(p * s - q * r) * xv",
           "sign in the doubling of Σ_xv", laws("DampedWave-pair solves the block equation")),
    Mutant("block.py", "even - self.skew * odd)", "even + self.skew * odd)",
           "friction speeds v up", laws("CriticallyDampedLangevin-pair solves the block equation")),
    Mutant("block.py", "torch.where(turns, torch.cos(x), 0.5", "torch.where(turns, torch.cosh(x), 0.5",
           "ringing modes grow", laws("DampedWave-pair solves the block equation")),
    Mutant("block.py", "noise * by_noise[0] + start * self.cross * self.started[1]",
           "noise * by_noise[0] + start * self.cross * self.started[0]",
           "b for b⊥ in adj(Σ)a", laws("DampedWave-statistic keeps all information")),
    Mutant("block.py", "start * self.cross.square()", "start * self.cross",
           "det Φ for its square in the information", laws("DampedWave-statistic keeps all information")),
    Mutant("block.py", "lost.log() - found.log() - 2 * self.log_scale", "lost.log() - found.log() - self.log_scale",
           "gain for gain² in E", laws("CriticallyDampedLangevin-statistic keeps all information")),
    Mutant("block.py", "torch.where(alone, xx * time, slow)", "slow",
           "a mode that its velocity does not hear falls at the slower rate",
           (f"{PHASE_SPACE}::test_a_field_driven_by_coloured_noise_falls_at_its_own_rate",)),
    Mutant("phase_space.py", "-0.5 * torch.exp(log_rate + share)", "-torch.exp(log_rate + share)",
           "decay of the variance for that of the field", laws("DampedWave-solution solves the equation")),
    Mutant("phase_space.py", "return 0.5 * (before - after)", "return before - after",
           "gain² for gain", laws("CriticallyDampedLangevin-drawn pairs have the moments")),
    Mutant("phase_space.py", "-torch.expm1(known) *", "torch.expm1(-known) *",
           "E_t/E_s for E_s/E_t in the variance of a step", laws("DampedWave-steps compose")),
    Mutant("phase_space.py", "xx * vv - xv * xv + self.start_variance", "xx * vv - xv * xv - self.start_variance",
           "sign of the start's velocity in det Σ", laws("DampedWave-drawn pairs have the moments")),
    Mutant("phase_space.py", "across * b_v", "across * b_x",
           "b for b⊥ in the pair's score", laws("DampedWave-statistic keeps all information")),
    Mutant("phase_space.py", "ClassVar[float] = 1.5", "ClassVar[float] = 0.5",
           "noise declared to be white in time", laws("DampedWave-noise begins as declared")),
    Mutant("phase_space.py", "self._log_variance(log_error)), self.block.noise[0])",
           "self._log_variance(log_error)), 0.0)", "no noise at the first instant",
           (f"{PHASE_SPACE}::test_noise_on_the_field_itself_begins_as_white_noise",)),
    Mutant("processes/damped_wave.py", "self.wave_speed**2 * self", "self.wave_speed * self",
           "c for c²", (f"{PHASE_SPACE}::test_wave_without_friction_to_speak_of_is_dalemberts",)),
    Mutant("processes/damped_wave.py", "2 * self.friction * self.start_velocity_variance",
           "self.friction * self.start_velocity_variance", "half the noise that friction takes",
           (f"{PHASE_SPACE}::test_wave_ends_in_the_gibbs_law",)),
    Mutant("processes/damped_wave.py", "self.temperature / self.basis.grid.cell_volume", "self.temperature",
           "temperature per cell instead of per volume", laws("DampedWave-refinement is as declared")),
    Mutant("processes/critically_damped_langevin.py", "2 * math.sqrt(self.mass)", "math.sqrt(self.mass)",
           "friction of half the critical", (f"{PHASE_SPACE}::test_langevin_is_critical_and_ends_in_unit_noise",)),
    Mutant("processes/critically_damped_langevin.py", "_number(-self.friction / self.mass)", "_number(-self.friction)",
           "friction on the momentum, not on the velocity",
           (f"{PHASE_SPACE}::test_langevin_is_critical_and_ends_in_unit_noise",)),
    Mutant("processes/critically_damped_langevin.py", "_number(2 * self.friction)", "_number(self.friction)",
           "half the noise that friction takes",
           (f"{PHASE_SPACE}::test_langevin_is_critical_and_ends_in_unit_noise",)),
    # ---- Gaussian world
    Mutant("gaussian.py", "(terms + self.log_det", "(terms - self.log_det",
           "sign of the log-determinant", (f"{GAUSSIAN}::test_density_and_divergence_are_those_of_the_dense_normal",)),
    Mutant("gaussian.py", "torch.exp(2 * kernel.log_gain.real) *", "torch.exp(kernel.log_gain.real) *",
           "gain for gain² in the carried law", (f"{GAUSSIAN}::test_carried_law_is_the_dense_one",)),
    Mutant("gaussian.py", "mean = torch.where(estimated, mean, 0.0)", "mean = 1 * mean",
           "a homogeneous field keeps the mean's waves",
           (f"{GAUSSIAN}::test_homogeneous_fit_has_one_mean_along_periodic_axes",)),
    Mutant("gaussian.py", "power * (n / (n - 1)), power + mean.square())", "power * (n / (n - 1)), power)",
           "power about a mean that is not the law's", (f"{GAUSSIAN}::test_law_from_moments_is_that_of_the_fields",)),
    # ---- statistics and normalisers
    Mutant("data/moments.py", "shift**2 * (self.count * share)", "shift**2 * share",
           "spread between blocks lost", (f"{STATISTICS}::test_parts_of_different_size_join_to_the_whole",)),
    Mutant("data/moments.py", "shifted = values - self._pivot[..., None]",
           "shifted = values - 0 * self._pivot[..., None]",
           "means that lose the digits of what lies between them",
           (f"{STATISTICS}::test_a_mean_of_1e8_costs_no_digit_of_the_spread",)),
    Mutant("data/summary.py", "if (source, run) != self._run:", "if self._run is None:",
           "a change from one run to the next", (f"{STATISTICS}::test_changes_stay_within_a_run_and_a_patch",)),
    Mutant("data/statistics_file.py", "if now.get(file, state) != state), None)", "if state is None), None)",
           "statistics of a file that was written to since",
           (f"{STATISTICS}::test_a_file_that_was_written_to_where_no_digest_looks_is_measured_again",)),
    Mutant("training/job.py", "progress, turned, statistics.content,", "progress, turned, statistics.identity,",
           "a spectrum of values that were exchanged", (f"{TRAINED_ON}::test_the_spectrum_is_that_of_the_values",)),
    Mutant("data/trained_on.py", "if was is not None and division_of(train) != was:", "if was is None:",
           "a test part that holds runs of training",
           (f"{TRAINED_ON}::test_a_test_part_of_which_runs_were_trained_on_is_refused",)),
    Mutant("data/trained_on.py", "known = [Path(other), *([] if home is None else [Path(home) / other])]",
           "known = [Path(other)]", "runs of training scored as a test from another folder",
           (f"{TRAINED_ON}::test_data_is_found_from_another_folder",)),
    Mutant("data/trained_on.py", "now[0] < was[0] - room or now[1] > was[1] + room", "now[0] < 0 * room",
           "frames of another time step", (f"{TRAINED_ON}::test_data_of_other_steps_is_refused",)),
    Mutant("data/duplicates.py", "if _is_left_by_single(frame, of) else code", "if of is None else code",
           "copies in single precision that pass for other fields",
           ("tests/unit/test_duplicates.py"
            "::test_a_copy_in_single_precision_of_a_field_with_a_large_mean_is_found",)),
    Mutant("data/formats/marks.py", "tuple(named) != grid.dims", "False", "u along the axis y",
           ("tests/unit/test_data_traps.py"
            "::test_components_in_another_order_than_the_axes_that_they_name_are_refused",)),
    Mutant("data/formats/marks.py", "return [by_name[dim] for dim in grid.dims]", "return list(by_name.values())",
           "components in the order in which they were written",
           ("tests/unit/test_data_traps.py::test_a_vector_is_told_by_axes",)),
    Mutant("data/splits.py", "glob.escape(str(begun))", "str(begun)", "a folder run[1] is run1",
           ("tests/unit/test_data_traps.py::test_a_folder_that_is_there_is_no_pattern",)),
    Mutant("named_options.py", "return [*words[:first], f", "return words or [*words[:first], f",
           "a setting beside a layout file drops the file",
           ("tests/unit/test_data_traps.py::test_a_setting_beside_a_layout_file_leaves_the_others",)),
    Mutant("evaluation/evaluate.py", "return centre + (own - centre)", "return centre + 0 * (own - centre)",
           "variance about the median",
           ("tests/end_to_end/test_curved_normaliser.py"
            "::test_figures_say_in_which_units_the_reference_is_gaussian",)),
    Mutant("data/splits.py", "places.setdefault(file.resolve(), file)", "places.setdefault(file, file)",
           "a file under two names in two parts",
           ("tests/unit/test_splits.py::test_one_file_under_two_names_is_one_file",)),
    Mutant("data/normalise/precision.py", "return found.to(fields.dtype) if bool(fits.all()) else found",
           "return found.to(fields.dtype)", "samples of 1e5 ± 0.01 in single precision",
           (f"{NORMALISE}::test_samples_in_single_precision_keep_what_varies",)),
    Mutant("data/normalise/normaliser.py", "return x * normaliser.log_slope(x).exp()",
           "return normaliser.log_slope(x).exp()",
           "rounding of the spread and not of the stored numbers",
           (f"{STATISTICS}::test_an_offset_wakes_no_dead_mode",)),
    Mutant("data/normalise/curves.py", "torch.where(u < 0, 2 - exponent, exponent)",
           "torch.where(u < 0, exponent, exponent)", "one exponent on both sides of 0",
           (f"{NORMALISE}::test_exponents_are_those_of_scipy",)),
    Mutant("data/normalise/curves.py", "-0.5 * torch.log1p(u * u)", "-torch.log1p(u * u)", "slope of asinh squared",
           (f"{NORMALISE}::test_every_kind_is_undone_and_has_the_determinant_of_its_jacobian",)),
    Mutant("data/normalise/curves.py", "lambda u, p: (p - 1) * u.log()", "lambda u, p: p * u.log()",
           "exponent of the slope",
           (f"{NORMALISE}::test_every_kind_is_undone_and_has_the_determinant_of_its_jacobian",)),
    Mutant("data/normalise/curved.py", ".log_slope(u, p) - scales", ".log_slope(u, p) + scales",
           "sign of the scale's logarithm",
           (f"{NORMALISE}::test_log_density_of_a_lognormal_field_is_the_closed_form",)),
    Mutant("data/normalise/normaliser.py", "(modes * normaliser.log_det_per_cell",
           "(-modes * normaliser.log_det_per_cell",
           "sign of a linear normaliser's determinant",
           (f"{NORMALISE}::test_log_determinant_of_a_linear_kind_counts_modes_that_vary",)),
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
    Mutant("denoisers/denoiser.py", "point.variance).rsqrt()", "point.variance).reciprocal()",
           "c_in = 1/V for 1/√V", (f"{DENOISERS}::test_network_sees_unit_variance_in_the_moving_frame",)),
    Mutant("denoisers/posterior_mean.py", "basis.inverse(point.rotate(comoving))", "basis.inverse(comoving)",
           "score left in the moving frame", laws("AdvectionDiffusion-score is the gradient")),
    Mutant("denoisers/posterior_mean.py", "point.amplitude / torch.where(support, point.noise_variance, 1.0), 0.0)",
           "1.0 / torch.where(support, point.noise_variance, 1.0), 0.0)", "gain missing in Tweedie's formula",
           laws("Matern-score is the gradient")),
    Mutant("denoisers/posterior_mean.py", "basis.inverse(-root.to(score) * score)",
           "basis.inverse(root.to(score) * score)", "sign of the expected noise", laws("Heat-conversions come back")),
    Mutant("denoisers/exact.py", "shifted.square() / variance + torch.log(variance)", "shifted.square() / variance",
           "determinants missing in the mixture's shares", (f"{DENOISERS}::test_mixture_is_dense_bayes",)),
    Mutant("denoisers/prediction.py", "Rows(root * left, left * inverse, -seen)",
           "Rows(root * left, left * inverse, seen)", "sign of the noise in the residual's target",
           (f"{OBJECTIVE}::test_the_posterior_mean_minimises_the_loss",
            f"{PREDICTIONS}::test_targets_say_the_clean_field_under_every_process")),
    Mutant("denoisers/prediction.py", "point.amplitude * (white - c) / whole", "point.amplitude * (c - white) / whole",
           "the Wiener filter less the skip of v",
           (f"{PREDICTIONS}::test_v_is_salimans_and_ho_and_edm_with_the_other_sign",
            f"{PREDICTIONS}::test_targets_say_the_clean_field_under_every_process")),
    Mutant("denoisers/prediction.py", "-on_noisy / safe - point.wiener_gain", "-on_noisy / safe",
           "the posterior mean's skip for its excess", (f"{PREDICTIONS}::test_mean_is_the_one_of_ddpm",)),
    Mutant("denoisers/prediction.py", "torch.where(support, -size / noise.sqrt(), 0.0)",
           "torch.where(support, size / noise.sqrt(), 0.0)", "sign of the score's target",
           (f"{PREDICTIONS}::test_score_target_is_minus_the_noise_over_its_deviation",)),
    Mutant("objectives/weighting.py", "math.log(0.5) + torch.log(rate * speed)", "torch.log(rate * speed)",
           "no half in the likelihood",
           (f"{WEIGHTINGS}::test_published_formulas_of_variance_preserving",)),
    Mutant("objectives/weighting.py", "return 2 * log_gain(point) - _log(point.noise_variance)",
           "return log_gain(point) - _log(point.noise_variance)", "gain for gain² in a weighting",
           (f"{WEIGHTINGS}::test_published_formulas_of_variance_preserving",)),
    Mutant("objectives/tabulated_times.py", "width / (mass * (self.nodes[-1] - self.nodes[0]))",
           "mass * (self.nodes[-1] - self.nodes[0]) / width", "the density for its inverse",
           (f"{TIMES}::test_the_mean_of_the_weighted_loss_is_that_over_t",)),
    Mutant("objectives/transition.py", "for window in range(len(times) - 1):",
           "for window in range(int(chosen.max()) + 1):", "a part of a batch draws fewer numbers than the whole",
           (f"{SIMULATED}::test_a_batch_that_is_split_between_runs_has_the_losses_of_the_whole",)),
    Mutant("objectives/transition.py", "x[first.to(x.device)]", "x[: len(first)]",
           "runs start from the fields of other rows",
           (f"{SIMULATED}::test_a_batch_that_is_split_between_runs_has_the_losses_of_the_whole",)),
    Mutant("objectives/objective.py", "found * drawn.weight.to(found)", "found", "the choice of times not made up for",
           (f"{TIMES}::test_importance_sampling_lowers_the_variance_of_likelihood_weighting",)),
    # ---- solvers
    Mutant("solvers/heun.py", "0.5 * step * (first + second)", "step * first",
           "Euler for Heun", laws("Heun-order with a wrong reference")),
    Mutant("solvers/comoving_flow.py", "drift = process.drift", "drift = 0.5 * process.drift",
           "half the drift in the flow", laws("Heun-order with a wrong reference")),
    Mutant("solvers/comoving_flow.py", "drift + 0.5 * noise_rate", "drift + noise_rate",
           "twice the score of the reference", laws("Heat-gaussian in gaussian out")),
    Mutant("solvers/reference_splitting.py", "second = -dynamics.move(", "second = dynamics.move(",
           "the second slope runs backwards", laws("ReferenceSplitting-order with a wrong reference")),
    Mutant("solvers/ancestral.py", "back.on_clean.abs().square()", "back.on_clean.abs()",
           "gain for gain² in the extra variance", laws("Ancestral-gaussian law is exact")),
    Mutant("bridge.py", "carried = torch.sqrt(before / whole * left)", "carried = torch.sqrt(before / whole)",
           "transition gain missing in the posterior mean", laws("Matern-posterior is bayes")),
    Mutant("bridge.py", "variance=eta * before * new", "variance=eta * received",
           "step variance for the posterior's", laws("Matern-posterior is bayes")),
    Mutant("bridge.py", "-log_gain.imag", "log_gain.imag",
           "the posterior turns the wrong way", laws("AdvectionDiffusion-posterior is bayes")),
    Mutant("solvers/sample.py", 'keyed_generator(self.seed, "sample", i)',
           'keyed_generator(self.seed, "sample", i - members.start)', "noise keyed by the place in the chunk",
           (f"{LOOP}::test_a_sample_is_the_same_in_any_batch",)),
    # ---- trace, likelihood
    Mutant("trace/estimator.py", "2 * torch.stack(drawn) - 1", "torch.stack(drawn)",
           "probes 0 or 1 instead of ±1", (COVERAGE,)),
    Mutant("estimate.py", "columns.std(1) / math.sqrt(columns.shape[1])", "columns.std(1) / columns.shape[1]",
           "error bar shrinks with K for √K", (COVERAGE,)),
    Mutant("likelihood.py", "unsqueeze(1) + divergence.cpu()", "unsqueeze(1) - divergence.cpu()",
           "sign of the divergence", (MIXTURE,)),
    Mutant("flow_ends.py", "0.5 * (self.law_at_end.log_det - self.law_at_start.log_det)",
           "0.5 * (self.law_at_start.log_det - self.law_at_end.log_det)",
           "sign of the log-determinants", (MIXTURE,)),
    Mutant("flow_ends.py", "self.constant = 0.5 * (self.law_at_end.log_det - self.law_at_start.log_det)",
           "self.constant = 0.0",
           "log-determinants missing", (MIXTURE,)),
    Mutant("denoisers/posterior_mean.py", "(time * point.pull_rate)", "point.pull_rate",
           "dτ for d log τ", (MIXTURE,)),
    Mutant("path.py", "* deviation), float(log_volume)", "* deviation), 0.0",
           "volume of x ↦ m x missing", (UNTRAINED,)),
    Mutant("path.py", "deviation + point.noise_variance.sqrt() * noise", "deviation + point.noise_variance * noise",
           "variance for deviation in the noise that is scored",
           (f"{LIKELIHOOD}::test_noised_fields_have_the_noise_of_t_min",)),
    Mutant("flow_ends.py", "return self.terminal(modes)", "return self.terminal(latent.cpu())",
           "terminal law of the whitened state", (MIXTURE,)),
    # ---- graphs, spheres
    Mutant("bases/graph.py", "sparse.diags_array(self.volumes**-0.5)", "sparse.diags_array(self.volumes**-1.0)",
           "volumes for their roots in the Laplacian", (f"{GRAPH}::test_heat_is_the_matrix_exponential",)),
    Mutant("bases/graph.py", "np.eye(k) - vectors[:k].T * signs[:k]", "np.eye(k) + vectors[:k].T * signs[:k]",
           "sign in the block reflector", laws("all-transform is orthonormal")),
    Mutant("bases/graph.py", "(y @ w) @ m.T @ w.T", "(y @ w) @ m @ w.T",
           "inverse of the block reflector not transposed", laws("all-inverse undoes forward")),
    Mutant("bases/graph.py", "/ max(n - k, 1)", "/ n",
           "trace of the rest spread over all modes", (f"{GRAPH}::test_few_modes_of_many_nodes_need_no_dense_matrix",)),
    Mutant("bases/graph.py", "np.sqrt(self.volumes / self.volumes.mean())", "self.volumes / self.volumes.mean()",
           "volume for its root in the weight of a value", laws("all-graph laplacian is scipys")),
    Mutant("bases/sphere.py", "degree * (degree + 1), first_missing", "degree * degree, first_missing",
           "l² for l(l + 1)", (f"{SPHERE}::test_heat_spreads_as_the_heat_kernel",)),
    Mutant("bases/sphere.py", "(1 - x * x) ** (m / 2)", "(1 - x * x) ** m",
           "sin²ᵐ θ for sinᵐ θ", laws("all-modes are scipys harmonics")),
    # Within an order QR repairs any recursion that spans the same polynomials; the functions themselves are held too.
    Mutant("bases/sphere.py", "((l - 1) ** 2 - m * m) / (4 * (l - 1) ** 2 - 1)", "(l**2 - m * m) / (4 * l**2 - 1)",
           "recursion of the Legendre functions off by one degree", (f"{SPHERE}::test_degree_500_is_orthonormal",)),
    Mutant("bases/sphere.py", "complete[:, :k] *= np.sign(np.diagonal(upper))", "pass",
           "signs of harmonics as QR leaves them", laws("all-modes are scipys harmonics")),
    Mutant("bases/sphere.py", "weights[[0, -1]] /= 2", "weights[[0, -1]] /= 1",
           "poles counted like whole rows", (f"{SPHERE}::test_cells_cover_the_sphere",)),
    Mutant("bases/sphere.py", "k = self._order / self.grid.radius", "k = self._order * self.grid.radius",
           "radius for its inverse in the wind", (f"{SPHERE}::test_wind_turns_the_sphere_rigidly",)),
    # ---- chains, schedules, levels
    Mutant("chain.py", "torch.exp(2 * self.kernel(level).log_gain.real)", "torch.exp(self.kernel(level).log_gain.real)",
           "gain for gain² in ᾱ", (f"{CHAIN}::test_alpha_bar_is_the_product_of_one_minus_beta",)),
    Mutant("chain.py", "self.kernel(level, level - 1).variance", "self.kernel(level).variance",
           "all noise for that of one step", (f"{CHAIN}::test_alpha_bar_is_the_product_of_one_minus_beta",)),
    Mutant("chain.py", "widths.square() / (2 * process.diffusivity)", "widths.square() / process.diffusivity",
           "factor 2 dropped in the time of a blur", (f"{CHAIN}::test_named_chains_have_their_levels",)),
    Mutant("chain.py", "sigma_max, levels).square()", "sigma_max, levels)",
           "noise level for its square in NCSN", (f"{CHAIN}::test_named_chains_have_their_levels",)),
    Mutant("schedules.py", "-torch.log1p(-betas).cumsum(0)", "betas.cumsum(0)",
           "−log(1 − β) ≈ β", (f"{CHAIN}::test_alpha_bar_is_the_product_of_one_minus_beta",)),
    Mutant("schedules.py", "torch.arange(steps, dtype=torch.float64) / (steps - 1)",
           "torch.arange(steps, dtype=torch.float64) / steps",
           "cosine schedule off by one step", (f"{CHAIN}::test_cosine_is_the_published_alpha_bar",)),
    Mutant("schedules.py", "return 1 - kept.square()", "return 1 - kept",
           "√α for α at zero terminal SNR", (f"{CHAIN}::test_zero_terminal_snr_leaves_nothing_and_stays_finite",)),
    Mutant("schedules.py", "return self.steps * torch.where(j == 0", "return torch.where(j == 0",
           "rate of the table per step instead of per t", (f"{CHAIN}::test_clock_between_levels",)),
    Mutant("levels.py", "(count - number * (count / steps))", "(count - 1 - number * (count / steps))",
           "trailing levels counted from zero", (f"{CHAIN}::test_levels_are_the_published_ones",)),
    Mutant("levels.py", "(count - 1) / (steps - 1)", "count / steps",
           "ends of a line of levels left out", (f"{CHAIN}::test_levels_are_the_published_ones",)),
    Mutant("levels.py", "(1 + number * (count // steps))", "(number * (count // steps))",
           "leading levels from the clean field on", (f"{CHAIN}::test_levels_are_the_published_ones",)),
    Mutant("levels.py", "levels.to(torch.float64) / self.clock.steps",
           "(levels - 1).to(torch.float64) / self.clock.steps",
           "times of the levels below", (f"{CHAIN}::test_sample_visits_every_level",)),
    # ---- simulated processes
    Mutant("semilinear.py", "step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)", "step / 6 * (k1 + 2 * k2 + k3 + 2 * k4)",
           "Runge-Kutta weights", (f"{REACTIONS}::test_a_drift_that_commutes_is_the_linear_process",)),
    Mutant("semilinear.py", "kernel.variance.sqrt().to(modes.device)", "kernel.variance.to(modes.device)",
           "variance for deviation in a step", laws("AllenCahn-moments are those of the equation")),
    Mutant("semilinear.py", "moved = self.basis.apply(kernel.gain.to(modes.device), self.react(",
           "moved = self.basis.apply(kernel.gain.square().to(modes.device), self.react(",
           "damped twice in a step", laws("AllenCahn-steps solve the equation")),
    Mutant("semilinear.py", "torch.exp(-time / fading_time)", "torch.exp(-time * fading_time)",
           "fading rate for fading time", (f"{REACTIONS}::test_with_drift_moves_to_another_grid_and_cannot_be_saved",)),
    Mutant("clock_fit.py", "FADED * (process.fades_over or 0.0)", "0.0 * (process.fades_over or 0.0)",
           "the clock does not wait for the reaction",
           (f"{REACTIONS}::test_the_clock_waits_for_the_reaction_to_fade",)),
    Mutant("denoisers/score.py", "noise * (z - correction)", "2 * noise * (z - correction)",
           "drift of the reverse equation for that of the flow", (f"{SIMULATED}::test_likelihood_is_exact",)),
    Mutant("denoisers/score.py", "point.time * drift - point.mean_rate.to(z)", "point.time * drift",
           "the moving mean left out", (f"{SIMULATED}::test_likelihood_is_exact",)),
    Mutant("denoisers/score.py", "- 0.5 * point.log_variance_rate", "- point.log_variance_rate",
           "rate of the variance for that of its root", (f"{SIMULATED}::test_likelihood_is_exact",)),
    Mutant("denoisers/score.py", "process.reaction_of_modes(modes, point.time, support)",
           "process.reaction_of_modes(modes, 0 * point.time, support)",
           "the reaction does not fade on the way back", (f"{SIMULATED}::test_flow_knows_that_the_reaction_fades",)),
    Mutant("simulated_path.py", "(3 * a * rest + 2 * b) * rest + c", "(3 * a * rest + b) * rest + c",
           "derivative of the spline", (f"{SIMULATED}::test_likelihood_is_exact",)),
    Mutant("simulated_path.py", "basis.symmetrise(between) + received", "basis.symmetrise(between)",
           "the window's own noise missing in the variance", (f"{SIMULATED}::test_moments_hold_the_windows_noise",)),
    Mutant("objectives/implicit.py", "g.square() - noised.reference * g", "g.square() + noised.reference * g",
           "sign of the reference's share in implicit score matching", (MINIMISED.format("ImplicitScoreLoss"),)),
    Mutant("objectives/implicit.py", "return 1 + 2 /", "return 1 + 1 /", "half of it in the loss",
           (f"{MATCHING}::test_implicit_loss_is_hyvarinens_with_the_references_part_in_the_mean",)),
    Mutant("objectives/implicit.py", "sdpa_kernel(SDPBackend.MATH)", "sdpa_kernel(SDPBackend.FLASH_ATTENTION)",
           "attention by a kernel without a second derivative",
           (f"{MATCHING}::test_the_gradient_is_that_of_the_loss",)),
    Mutant("objectives/sliced.py", "0.5 * along_g.square() - along_b", "along_g.square() - along_b",
           "factor ½ of the sliced square", (MINIMISED.format("SlicedScoreLoss"),)),
    Mutant("objectives/noise_units.py", "self.point.amplitude / self._root, 0.0", "self._root / self._root, 0.0",
           "a residual taken for a score: |m|/√S forgotten", (MINIMISED.format("ImplicitScoreLoss"),)),
    Mutant("objectives/noise_levels.py", "score + noise, 0.0", "score - noise, 0.0",
           "sign of the noise in the target of the score", (MINIMISED.format("NoiseLevelsLoss"),)),
    Mutant("objectives/target.py", "return -slope", "return slope", "force for score",
           (MINIMISED.format("TargetScoreLoss"),)),
    Mutant("objectives/target.py", "noise_share = point.noise_variance /", "noise_share = point.clean_variance /",
           "signal's share for the noise's in the matched target",
           (f"{MATCHING}::test_the_matched_target_of_a_gaussian_has_no_noise",)),
    Mutant("objectives/target.py", "point.noise_variance * self.information", "point.noise_variance",
           "Fisher's information forgotten in the best share",
           (f"{MATCHING}::test_fitted_is_the_least_of_the_mixtures_and_as_said",)),
    Mutant("objectives/target.py", "fields if self.to_physical is None else self.to_physical(fields)", "fields",
           "the action taken in the model's units",
           (f"{MATCHING}::test_the_action_quietens_the_target_on_a_lattice",)),
    Mutant("objectives/target.py", "self.target(clean, score, noisy, point)", "self.target(clean, score, clean, point)",
           "the target of the clean state", (MINIMISED.format("TargetScoreLoss"),)),
    Mutant("objectives/transition.py", "- point.whiten(after)) + noise", "- point.whiten(after)) - noise",
           "sign of the transition's score", (f"{SIMULATED}::test_exact_score_minimises_the_loss",)),
    Mutant("objectives/transition.py", "before[rows] + reacted", "before[rows] - reacted",
           "the reaction taken back twice", (f"{SIMULATED}::test_exact_score_minimises_the_loss",)),
    Mutant("objectives/transition.py", "self.spread[i].square() * weight", "self.spread[i] * weight",
           "deviation for variance in a linearised window",
           (f"{REACTIONS}::test_linearised_windows_are_exact_for_a_linear_drift",)),
    Mutant("processes/stochastic_burgers.py", "-0.5 * self.strength * symbols", "0.5 * self.strength * symbols",
           "Burgers runs backwards", (f"{REACTIONS}::test_burgers_is_the_truncated_equation",)),
    Mutant("processes/stochastic_burgers.py", "* self._kept.to(x.device))", ")",
           "aliased products", laws("StochasticBurgers-reaction conserves the stationary law")),
    Mutant("processes/euler_vorticity.py", "flux_y = -basis.inverse", "flux_y = basis.inverse",
           "a velocity with divergence", laws("EulerVorticity-reaction conserves the stationary law")),
    Mutant("processes/euler_vorticity.py", "return -self.strength", "return self.strength",
           "Euler runs backwards", (f"{REACTIONS}::test_euler_is_the_vorticity_equation",)),
    Mutant("processes/euler_vorticity.py", "return k2 / (self", "return (k2 > 0) / (self",
           "velocity spectrum for that of the vorticity", laws("EulerVorticity-reaction conserves the stationary law")),
    Mutant("processes/lattice_phi4.py", "4 * self.coupling * (x", "2 * self.coupling * (x",
           "half the quartic force", (f"{REACTIONS}::test_phi4_drifts_down_its_action",)),
    Mutant("processes/allen_cahn.py", "- self.reaction_rate * cube)", "- self.reaction_rate * x**2)",
           "one phase only", (f"{REACTIONS}::test_allen_cahn_is_its_equation_and_fades_into_the_bath",)),
    Mutant("bounds/terms.py", "there.amplitude.square() * back.upper_variance", "there.amplitude * back.upper_variance",
           "gain for gain² in a bound", (BOUND_EXACT,)),
    Mutant("bounds/terms.py", "(self.sharpening * missed - excess) / (1 + excess)",
           "self.sharpening * missed / (1 + excess)", "trace term of the KL dropped", (BOUND_EXACT,)),
    Mutant("bounds/terms.py", "torch.log(after / before)", "torch.log(before / after)",
           "β and β̃ exchanged", (BOUND_EXACT,)),
    Mutant("bounds/discrete.py", "- step.cost(of_reference, missed.by_reference)",
           "- step.cost(unknown, missed.by_reference)", "control variate without its mean", (BOUND_EXACT,)),
    Mutant("bounds/continuous.py", "gained = 0.5 * (per_log_time", "gained = (per_log_time",
           "a ½ lost in the continuous bound", (f"{BOUND}::test_continuous_bound_lacks_the_terminal_law_only",)),
    Mutant("denoisers/exact.py", "(share * (within + between.square())).sum(1)", "(share * within).sum(1)",
           "variance between components forgotten", (BOUND,)),
    Mutant("bounds/simulated.py",
           "        return path.process.react(mean, self.time, self.since, path.reference.support)",
           "        return mean", "reaction not undone in a bound", (BOUND_SIMULATED,)),
    Mutant("bounds/simulated.py", "torch.exp(0.5 * (kernel.log_gain.conj() - kernel.log_gain))",
           "torch.exp(0.5 * (kernel.log_gain - kernel.log_gain.conj()))", "rotation the wrong way in a bound",
           (BOUND_SIMULATED,)),
    Mutant("solvers/ancestral.py", "return dynamics.posterior(y, t)",
           "return Posterior(dynamics.residual(y, t), here.posterior_variance.to(y))",
           "the reference's variance where the model's was asked for",
           (f"{STOCHASTIC}::test_learned_variance_is_exact_on_gaussian_data_whatever_the_reference",)),
    # ---- variational objectives, learned variance
    Mutant("denoisers/learned_variance.py", "weights = given.flatten(3).mean(3)", "weights = given.flatten(3).sum(3)",
           "a variance that grows with the grid", (f"{LEARNED_VARIANCE}::test_costs_are_kls_and_a_log_density",)),
    Mutant("denoisers/learned_variance.py", "0.5 * (1 + exponent) if", "exponent if",
           "the share of log variance off by an affine map",
           (f"{LEARNED_VARIANCE}::test_interpolation_is_the_published_one",)),
    Mutant("denoisers/learned_variance.py", "counts.cumsum(0) - 0.5 * (counts + 1)", "counts.cumsum(0) - 1 * (counts)",
           "equal modes at the first of their places", (f"{LEARNED_VARIANCE}::test_places_are_ranks",)),
    Mutant("solvers/ancestral.py", "drawn = known * torch.exp(said.share * room)",
           "drawn = known * torch.exp((1 - said.share) * room)", "β and β̃ exchanged in a learned step",
           (f"{LEARNED_VARIANCE}::test_the_ends_of_the_interpolation_are_ddpms_two",)),
    Mutant("bounds/terms.py", "torch.expm1(share * self.room)", "share * self.room",
           "variances interpolated in themselves, to first order",
           (f"{LEARNED_VARIANCE}::test_interpolation_is_the_published_one",)),
    Mutant("objectives/variational.py", "return self.steps / model.path", "return 1 / model.path",
           "one level not counted for all", (f"{VARIATIONAL}::test_all_levels_are_the_bound",)),
    Mutant("objectives/variational.py", "return self.steps - 1 - (share", "return 0 * self.steps + (share",
           "levels counted from the wrong end", (f"{VARIATIONAL}::test_levels_follow_the_time",)),
    Mutant("objectives/chain_states.py", "slope += (high - low).squeeze(0)", "slope += high.squeeze(0)",
           "the constant of a step counted in its slope", (f"{VARIATIONAL}::test_all_levels_are_the_bound",)),
    Mutant("objectives/continuous.py", "decoder / self.decoder_share", "decoder",
           "rows of the decoder not counted for all",
           (f"{VARIATIONAL}::test_continuous_loss_is_the_continuous_bound",)),
    Mutant("objectives/continuous.py", "(1 - path.t_min) * path.clock.rate", "path.clock.rate",
           "integral over all of [0, 1]",
           (f"{VARIATIONAL}::test_continuous_loss_is_denoising_weighted_by_likelihood",)),
    Mutant("objectives/hybrid.py", "replace(said, residual=said.residual.detach())", "said",
           "the bound moves the mean", (f"{LEARNED_VARIANCE}::test_the_bound_does_not_move_the_mean",)),
    Mutant("objectives/hybrid.py", "self.vlb_weight * chain.steps", "self.vlb_weight",
           "a level of the published bound not counted for all",
           (f"{LEARNED_VARIANCE}::test_the_bound_does_not_move_the_mean",)),
    Mutant("solvers/euler_maruyama.py", "0.5 * (1 + noise_scale**2)", "0.5 * (1 + noise_scale)",
           "η for η² in the drift", (f"{STOCHASTIC}::test_explicit_euler_maruyama_is_the_textbook_step",)),
    Mutant("solvers/euler_maruyama.py", "(duration * rate).sqrt()", "duration * rate.sqrt()",
           "dt for √dt", laws("EulerMaruyama-weak order with a wrong reference")),
    Mutant("solvers/sde_dpm_solver.py", "excess + 0.5 * slope", "excess + slope",
           "answers carried to the end of the step, not its middle",
           laws("SDEDPMSolver-weak order with a wrong reference")),
    Mutant("solvers/sde_dpm_solver.py", "ratio.to(y) * dynamics.past[0].value", "dynamics.past[0].value",
           "what is carried forward is no martingale", laws("SDEDPMSolver-weak order with a wrong reference")),
    Mutant("solvers/churned.py", "gain.to(y) * here.deviation(y)", "here.deviation(y)",
           "churn without the signal's decay", laws("ChurnedHeun-gaussian law is exact")),
    Mutant("solvers/churned.py", "y, t = noised(here, path.at(back), y,", "y = noised(here, path.at(back), y,",
           "the flow starts from before the churn", laws("ChurnedHeun-gaussian law is exact")),
    Mutant("solvers/langevin.py", "spread = (2 * moved).sqrt()", "spread = moved.sqrt()",
           "√ε for √2ε in the Langevin noise", laws("PredictorCorrector-left alone it keeps the law")),
    Mutant("solvers/langevin.py", "-torch.expm1(-2 * rate)", "-torch.expm1(-rate)",
           "noise of half the decay", laws("AnnealedLangevin-gaussian law is exact")),
    Mutant("solvers/langevin.py", "variance.sqrt() * point.amplitude / received", "point.amplitude / received",
           "the pull of the data in the wrong coordinates", laws("AnnealedLangevin-left alone it keeps the law")),
    Mutant("solvers/annealed_langevin.py", "(1 - sizes) ** (2 * corrections)", "(1 - sizes) ** corrections",
           "amplitude for variance in the step-size rule",
           (f"{STOCHASTIC}::test_the_size_that_keeps_noise_is_the_best_by_recursion",)),
    Mutant("solvers/torch_sde.py", "pull = -(1 + share) *", "pull = -2 *",
           "the drift of full stirring with less noise",
           (f"{STOCHASTIC}::test_the_law_is_the_same_however_fast_modes_are_stirred",)),
    Mutant("solvers/torch_sde.py", "drift = self.length * (pull.to(z) * residual - 0.5 * stirred.to(z) * modes)",
           "drift = self.length * (pull.to(z) * residual + 0.5 * stirred.to(z) * modes)",
           "sign of the mean reversion", (f"{STOCHASTIC}::test_many_steps_reach_the_mixtures_moments",)),
    Mutant("solvers/torch_sde.py", "for seed in entropies(noise)]", "for seed in entropies(noise)[:1] * len(z)]",
           "one Brownian path for a whole batch", (f"{STOCHASTIC}::test_a_sample_is_the_same_in_any_batch",)),
    Mutant("denoisers/calibration.py", "path.basis.symmetrise(torch.where", "(torch.where",
           "k and −k calibrated apart", ("tests/unit/test_calibration.py::test_calibration_is_the_mean_square_error",)),
    Mutant("denoisers/calibration.py", "total / len(clean) / expected", "(total / len(clean)).sqrt() / expected",
           "error for squared error", ("tests/unit/test_calibration.py::test_calibration_is_the_mean_square_error",)),
    Mutant("solvers/sample.py", 'self.condition[members.start : members.stop]', 'self.condition[: len(members)]',
           "every chunk hears the first conditions",
           (f"{LOOP}::test_a_condition_reaches_its_sample_through_every_rule",)),
    Mutant("solvers/memory.py", "each = max(_peak(model, 2, condition, dtype, device) - one, 0)", "each = 0",
           "memory taken not to grow with samples", (f"{LOOP}::test_a_chunk_keeps_to_the_memory_limit",)),
    Mutant("solvers/trajectory.py", "(self._step - 1) % self._every", "self._step % self._every",
           "states one step off", (f"{LOOP}::test_a_trajectory_is_what_the_callback_sees",)),
    Mutant("parts.py", 'intact = about["digest"] == digest_of(tensors)', "intact = True",
           "damaged parts believed", (f"{SCORING}::test_a_damaged_part_is_computed_again",)),
    Mutant("parts.py", 'if about.get("source") == source else None', "",
           "parts of other data used",
           (f"{SCORING}::test_parts_are_used_for_the_same_model_data_and_settings_only",)),
    Mutant("scoring.py", "first=first, **settings", "first=0, **settings",
           "probes keyed by the place in the part", (f"{SCORING}::test_a_field_has_the_same_score_in_any_chunk",)),
    Mutant("scoring.py", 'seed, "dequantise", first + i', 'seed, "dequantise", i',
           "noise repeated in each part", (f"{SCORING}::test_bits_per_dimension_of_quantised_data",)),
    Mutant("importance.py", "log_prob.detach().double() - 0.5 * variance",
           "log_prob.detach().double() + 0.5 * variance", "sign of the trace noise's bias",
           (f"{IMPORTANCE}::test_noise_of_the_log_density_is_taken_out_of_the_mean",)),
    Mutant("importance.py", "odds = math.log(len(law) / len(model))", "odds = math.log(len(model) / len(law))",
           "Bennett's odds upside down", (f"{IMPORTANCE}::test_bennett_weighs_unequal_numbers",)),
    Mutant("importance.py", "(n - 1 - rank) * ascending", "(n - rank) * ascending",
           "a proposal that meets itself", (f"{IMPORTANCE}::test_acceptance_is_that_of_a_metropolis_chain",)),
    Mutant("jackknife.py", "return math.sqrt((len(without) - 1) * float", "return math.sqrt(float",
           "jackknife without its factor", (f"{IMPORTANCE}::test_jackknife_of_a_mean_is_its_standard_error",)),
    Mutant("pareto_tail.py", "shape = torch.log1p(-theta.unsqueeze(1) * x).mean(1)",
           "shape = torch.log1p(theta.unsqueeze(1) * x).mean(1)", "sign in the tail's shape",
           (f"{IMPORTANCE}::test_tail_shape_is_that_of_pareto_weights",)),
    Mutant("evaluation/reweighting.py", "shift = self.model.log_det", "shift = -self.model.log_det",
           "the normaliser's determinant the wrong way",
           (f"{IMPORTANCE}::test_a_gaussian_model_is_weighed_as_the_closed_forms_say",)),
    Mutant("processes/lattice_phi4.py", "local = ((1 - 2 * self.coupling) * phi2",
           "local = ((1 - self.coupling) * phi2", "half the quartic's counterterm",
           (f"{LATTICE}::test_small_lattices_agree_with_quadrature",)),
    Mutant("solvers/ddim.py", "(back.variance * dynamics.path.reference.support).sqrt()",
           "(back.variance * dynamics.path.reference.support)", "variance for its root in DDIM",
           laws("DDIM-weak order with a wrong reference")),
    Mutant("solvers/dpm_solver.py", "bend = 2 * step * (slope - earlier)", "bend = step * (slope - earlier)",
           "the published 3M: half the second derivative",
           (f"{DETERMINISTIC}::test_third_order_is_exact_for_parabolas_of_log_snr",)),
    Mutant("solvers/dpm_solver.py", "if self.order == 3 and len(dynamics.past) == 2:",
           "if self.order == 9 and len(dynamics.past) == 2:", "a first step of first order",
           laws("DPMSolver-order with a wrong reference")),
    Mutant("solvers/adams.py", "usable = usable & (_size", "usable = usable | (_size",
           "nodes of modes that stood still", (f"{DETERMINISTIC}::test_a_mode_that_stood_still_uses_fewer_nodes",)),
    Mutant("solvers/whitened_adams.py", "z = z - dynamics.past[-1].moved + self._corrected(rate, past)", "z = z",
           "no corrector", laws("WhitenedAdams-order on a mixture")),
    Mutant("solvers/whitened_adams.py", "if self.order > 3 and len(past) == 2:",
           "if self.order > 9 and len(past) == 2:", "no second correction of the first step",
           laws("WhitenedAdams-order with a wrong reference")),
    Mutant("solvers/adaptive_ode.py", ".clamp(self.range[1], self.range[0])", "", "evaluations beyond t_min",
           ("tests/unit/test_adaptive_ode.py::test_without_an_event_it_stops_at_t_min",)),
    Mutant("solvers/phase_space_ddim.py", "rate = 0.5 * block.noise[0]", "rate = 1.0 * block.noise[0]",
           "twice the score of the pair",
           ("tests/unit/test_phase_space_ddim.py::test_data_in_one_point_is_exact_in_one_step",)),
    Mutant("solvers/noise_grids.py", "log_spectrum + 2 * point.log_gain.real - noise.log()",
           "log_spectrum + point.log_gain.real - noise.log()", "gain for gain² in the SNR",
           (f"{GRIDS}::test_variance_preserving_has_equal_steps_of_its_log_snr",)),
    Mutant("solvers/angle_grid.py", "-point.time * point.pull_rate * point.posterior_variance.sqrt()",
           "-point.time * point.pull_rate * point.posterior_variance", "variance for its root in the angle",
           (f"{GRIDS}::test_steps_turn_by_equal_angles",)),
    Mutant("solvers/automatic_grid.py", "(turn / scale) ** (order + 1)", "(turn / scale) ** order",
           "global for local order", (f"{GRIDS}::test_automatic_steps_have_equal_errors",)),
    Mutant("solvers/automatic_grid.py", "math.comb(n, i) * found", "found", "Leibniz' rule without its coefficients",
           (f"{GRIDS}::test_the_model_flow_is_differentiated",)),
    Mutant("solvers/calibrated_grid.py", "place[i + o] - place[i]", "place[i + 1] - place[i]",
           "divided differences of neighbours",
           (f"{GRIDS}::test_divided_differences_of_a_polynomial_are_its_derivative",)),
    Mutant("solvers/calibrated_grid.py", "0.5 * slope * (now", "-0.5 * slope * (now",
           "sign of the second order of pilots", (f"{GRIDS}::test_pilots_follow_the_flow_to_second_order",)),
    Mutant("solvers/calibrated_grid.py", "densities).flip(0), own", "densities), own",
           "the density backwards", (f"{GRIDS}::test_calibration_lowers_the_error_on_other_starts",)),
    Mutant("likelihood.py", "ends.log_terminal(latent) + ends.constant", "ends.log_terminal(latent) - ends.constant",
           "sign of all determinants", laws("Heat-gaussian likelihood is exact")),
    Mutant("multistep.py", "product * (0.5 * WEIGHTS)", "product * WEIGHTS",
           "Gauss' weights of an interval of length 2",
           (f"{INTEGRATE}::test_adams_is_exact_where_f_is_a_polynomial_of_its_order",)),
    Mutant("integrate.py", "taken = error <= 1  # false where it is not a number",
           "taken = (error <= 1).all().expand_as(error)", "one verdict for a batch",
           (f"{INTEGRATE}::test_a_row_is_the_same_in_any_company",)),
    Mutant("transport.py", "return speed.to(state).unsqueeze(1) * torch", "return torch", "dlog τ for the angle",
           (MIXTURE,)),
    Mutant("trace/estimator.py", "z, d * e, graph) / d", "z, d * e, graph)", "balanced on one side only",
           ("tests/unit/test_traces.py::test_balanced_products_see_a_symmetric_jacobian",)),
    Mutant("estimate.py", "error / blocks.sqrt()", "error / blocks", "error of the second stage falls as 1/K",
           ("tests/unit/test_traces.py::test_two_stages_reach_the_target_and_cover",)),
    Mutant("decoding.py", "of_latent.unsqueeze(1) - divergence.cpu()", "of_latent.unsqueeze(1) + divergence.cpu()",
           "sign of the divergence on the way back", ("tests/unit/test_decoding.py::test_there_and_back",)),
    Mutant("flow_ends.py", "condition[rows.to(condition.device)]", "condition[: len(rows)]",
           "fields hear other fields' conditions",
           ("tests/unit/test_likelihood_per_field.py::test_every_field_keeps_its_own_condition",)),
    Mutant("quantised.py", "scored.log_prob + volume", "scored.log_prob", "the cell's volume forgotten",
           ("tests/unit/test_quantised.py::test_the_bound_is_below_the_discrete_law_and_closes",)),
    # ---- other networks, and what may be read from a file
    Mutant("networks/positions.py", 'turn = n if word == "periodic" else 2 * n', "turn = 2 * n",
           "a periodic axis counted in half turns",
           (f"{TRANSFORMER}::test_shifts_by_patches_along_periodic_axes_commute_with_the_network",)),
    Mutant("networks/positions.py", "a * cos - b * sin", "a * cos + b * sin", "rotation that is no rotation",
           (f"{TRANSFORMER}::test_rotary_products_see_differences_of_position_alone",)),
    Mutant("networks/fitting.py", "(x.shape[axis] - n) // 2", "0", "cells cropped from the wrong side",
           (f"{TRANSFORMER}::test_added_cells_are_those_beyond_the_boundary",)),
    Mutant("networks/transformer.py", "order = (0, 1 + d, *(axis for a in range(d) for axis in (1 + a, 2 + d + a)))",
           "order = (0, 1 + d, *(axis for a in range(d) for axis in (2 + d + a, 1 + a)))", "patches torn up",
           (f"{TRANSFORMER}::test_a_token_is_the_cells_of_its_patch",)),
    Mutant("networks/transformer.py", "h = h + self.walls()", "h = h + 0 * self.walls()", "walls that nobody feels",
           (f"{TRANSFORMER}::test_walls_are_felt_and_a_periodic_axis_is_the_same_everywhere",
            f"{TRANSFORMER}::test_every_parameter_learns_once_the_gates_have_left_zero")),
    Mutant("networks/backbones.py", "nn.init.ones_(self.gain)", "pass", "a product of two zeros, which never learns",
           (f"{BACKBONES}::test_a_module_that_starts_at_zero_is_not_shut_for_ever",)),
    Mutant("networks/conventions.py", "return module(x, TIMESTEPS * time)\n\n\nclass Diffusers",
           "return module(x, time)\n\n\nclass Diffusers", "a network that counts to 1,000 is told times below 1",
           (f"{BACKBONES}::test_times_arrive_as_the_convention_says",)),
    Mutant("trust.py", "and not _may_define(files[-1], cls)", "and not cls", "a script is run to see what is in it",
           (f"{NETWORK_SETTINGS}::test_a_script_of_ones_own_is_not_run_by_mistake",)),
    Mutant("trust.py", "elif file.is_relative_to(Path.cwd()):", "elif file:", "a file anywhere on the disk is run",
           (f"{NETWORK_SETTINGS}::test_a_class_that_came_with_a_model_is_not_run",)),
    Mutant("trust.py", "for place in (model, *around)", "for place in (model,)", "code beside a model run",
           (f"{NETWORK_SETTINGS}::test_a_class_that_came_with_a_model_is_not_run",)),
    Mutant("trust.py", "if _is_imported(path, file):", 'if sys.modules.get(path.removesuffix(".py")):',
           "a file taken for an imported module of its name",
           ("tests/unit/test_trust.py::test_a_package_is_not_hidden_by_one_that_is_imported",)),
    Mutant("trust.py", "or any(_is_pythons(each) for each in files)", "", "Python's own tests run",
           ("tests/unit/test_trust.py::test_the_standard_library_is_refused_by_name_and_by_place",)),
    Mutant("trust.py", 'file.name == "__init__.py"', "True", "a package's scripts run",
           ("tests/unit/test_trust.py::test_what_is_no_class_of_this_machine_is_not_run",)),
    Mutant("trust.py", 'require_plain(each, f"{name}[{i}]")', "pass", "paths in lists",
           ("tests/unit/test_trust.py::test_places_and_objects_are_not",)),
    Mutant("trust.py", "() if here.is_relative_to(model.parent) else", "() if model.is_relative_to(here) else",
           "code beside a model below the current folder run",
           (f"{NETWORK_SETTINGS}::test_a_class_that_came_with_a_model_is_not_run",)),
    Mutant("networks/checkpointing.py", "transformed or not", "not", "checkpoints under torch.func",
           (f"{UNET_SPEED}::test_checkpointing_gives_way_to_the_transforms_of_torch_func",)),
    Mutant("model.py", "return with_guidance(self.denoiser, scale)", "return self.denoiser",
           "guidance that guides nothing",
           (f"{NETWORK_SETTINGS}::test_guidance_reaches_samples_likelihoods_and_bounds",)),
    Mutant("description.py", "isinstance(value, type) and issubclass(value, clocks.Clock)", "callable(value)",
           "anything callable for a clock", (f"{NETWORK_SETTINGS}::test_only_a_clock_is_a_clock",)),
    Mutant("training/power_profile.py", "return (1 - 1 / steps) ** (exponent + 1)",
           "return (1 - 1 / steps) ** exponent", "a power profile forgets one power too slowly",
           ("tests/unit/test_training_ema.py::test_stored_profiles_are_the_exact_averages_of_a_known_path",)),
    Mutant("training/power_profile.py", "[1.0, 7.0, 16.0 - inverse, 12.0 - inverse]",
           "[1.0, 7.0, 16.0 - inverse, 12.0]", "the exponent of another width",
           ("tests/unit/test_training_ema.py::test_the_width_is_the_standard_deviation_of_the_profile",)),
    Mutant("training/step.py", "one[0].sum() * (self.company.count / settings.batch_size)",
           "one[0].mean() / settings.accumulate", "unequal parts weigh alike",
           ("tests/unit/test_training_computing.py::test_accumulated_parts_have_the_gradient_of_the_whole",)),
    Mutant("training/step.py", "settings.batch_size, rows)", "settings.batch_size)",
           "every part has the numbers of the first rows",
           ("tests/unit/test_training_computing.py::test_accumulated_parts_have_the_gradient_of_the_whole",)),
    Mutant("training/validation.py", "return found / (torch.bincount(levels, minlength=count) * expected)",
           "return found / (len(fields) / count * expected * 2)", "twice the Wiener filter's error is expected",
           ("tests/unit/test_training_validation.py::"
            "test_the_exact_denoiser_of_gaussian_fields_scores_one_at_every_level",)),
    # data with missing cells, and files
    Mutant("kriging_channel.py", "return self._filled(known, -step)", "return self._filled(known, step)",
           "missing cells pushed away from the observed ones", (KRIGING,)),
    Mutant("kriging_channel.py", "drawn = prior + self.mean(known) - self.mean(torch.where(self.observed, prior, 0.0))",
           "drawn = self.mean(known)", "draws without a spread", (KRIGING,)),
    Mutant("kriging_channel.py", "log_det = 2 * self.cholesky.diagonal().log().sum()\n        return -0.5 * (whole",
           "log_det = self.cholesky.diagonal().log().sum()\n        return -0.5 * (whole",
           "half of a log-determinant", (KRIGING,)),
    Mutant("cell_kernel.py", "(i + j + 1) % size", "(i + j) % size", "walls that mirror about the centre of a cell",
           ("tests/unit/test_cell_kernel.py",)),
    Mutant("masked_solve.py", "return x - self._at_coast(", "return x + self._at_coast(",
           "directions pushed onto the coast's cells", ("tests/unit/test_masked_determinant.py",)),
    Mutant("masked_determinant.py", "crossing = torch.where(missing, 0.0, times(basis, log_precision, probes))",
           "crossing = times(basis, log_precision, probes)", "a determinant's own trace counted twice",
           ("tests/unit/test_masked_determinant.py",)),
    Mutant("observed_likelihood.py", "score(filled[k::draws]) for k in range(draws)",
           "score(filled[k::draws], seed=k) for k in range(draws)", "probes of their own for each draw of a field",
           ("tests/unit/test_observed_likelihood.py",)),
    Mutant("kriging.py", "return 0.5 * math.sqrt(sum(", "return math.sqrt(sum(",
           "the error of a determinant for that of its half", ("tests/unit/test_masked_determinant.py",)),
    Mutant("scoring.py", 'settings = {"draws": DRAWS, **settings}', "pass",
           "a chunk without holes scored as whole fields", ("tests/end_to_end/test_missing_cells.py",)),
    Mutant("masked_fit.py", "/ freedom) + variance", "/ freedom)", "a spectrum of expected modes alone",
           ("tests/unit/test_masked_fit.py",)),
    Mutant("observed_likelihood.py", "relative.logsumexp(1) - math.log(draws)", "relative.logsumexp(1)",
           "a sum over draws for their mean", ("tests/unit/test_observed_likelihood.py",)),
    Mutant("observed_likelihood.py", "log_volume = -counts * log_gain", "log_volume = counts * log_gain",
           "the wrong volume of noised cells", ("tests/unit/test_observed_likelihood.py",)),
    Mutant("filling.py", "known.numpy().tobytes() + mask", "mask", "the same draw in every field of a mask",
           ("tests/unit/test_filling.py",)),
    Mutant("data/amplification.py", "-(-n // chunk)", "n // chunk", "chunks at the edge that are not counted",
           ("tests/unit/test_inspect.py",)),
    Mutant("data/formats/mapped.py", "for match in self._matches(name):", "for match in self._matches(name)[:1]:",
           "the times of the first run are those of all",
           ("tests/unit/test_format_traps.py::test_times_that_runs_have_of_their_own",)),
    Mutant("data/formats/mapped.py", "tuple(map(counted, names))", "tuple(names)",
           "an axis that a file calls t is one of the grid",
           ("tests/unit/test_format_traps.py::test_a_label_t_is_the_time_and_of_several_clocks_none_is_guessed",)),
    Mutant("data/joined_array.py", 'side="right"', 'side="left"', "a frame of the file before",
           ("tests/unit/test_joined_files.py::test_every_part_of_a_joined_array",)),
    Mutant("data/file_order.py", "key=lambda file: natural(file.name)", "key=lambda file: file.name",
           "step 10 before step 2",
           ("tests/unit/test_joined_traps.py::test_files_of_a_folder_are_in_the_order_of_their_numbers",)),
    Mutant("data/file_order.py", 'order = np.argsort(numbers, kind="stable")', "order = range(len(numbers))",
           "time 0.5 before time 0.25",
           ("tests/unit/test_joined_traps.py::test_files_are_in_the_order_of_their_last_number",)),
    Mutant("data/file_order.py", "if tells_no_time and len(steps) and", "if False and",
           "a missing file closes up the times of those that follow",
           ("tests/unit/test_joined_traps.py::test_a_missing_file_is_told_where_files_do_not_tell_their_times",)),
    Mutant("data/formats/starred.py", "if rows == 0 and own[0] == TIME:", "if False:",
           "runs of unequal length read as one",
           ("tests/unit/test_joined_traps.py::test_runs_of_unequal_length_are_no_single_run",)),
    Mutant("data/formats/starred.py", "if not count or [", "if True or [",
           "fields, times and numbers of different frames side by side",
           ("tests/unit/test_joined_traps.py::test_what_is_stacked_is_of_the_same_frames",)),
    Mutant("data/formats/assembly.py", "if own == (TIME, TRAJECTORY) else", "if False else",
           "numbers by time and run joined along the runs",
           ("tests/unit/test_joined_traps.py::test_numbers_with_time_first",)),
    Mutant("data/formats/matlab.py", "values.transpose(0, *range(values.ndim - 1, 0, -1))", "values.T",
           "times of several runs of a MATLAB file with runs and frames exchanged",
           ("tests/unit/test_format_traps.py::test_times_of_each_run_of_a_matlab_file",)),
    Mutant("data/decoded.py", '("u", "false"): "i"', '("u", "no"): "i"', "signed bytes read without their sign",
           ("tests/unit/test_format_traps.py::test_integers_whose_sign_an_attribute_gives_or_takes",)),
    Mutant("data/containment.py", "if Path(other).resolve() != beside or", "if",
           "values read from a file where the program runs, not beside the data",
           ("tests/unit/test_repack_traps.py::"
            "test_values_in_a_file_of_their_own_are_not_looked_for_where_the_program_runs",)),
    Mutant("data/formats/field_axes.py", "for dim in one.dims if not _role(dim, variables)}",
           "for dim in one.dims if not role(dim)}", "a static field dropped beside times that units tell",
           ("tests/unit/test_format_traps.py"
            "::test_a_field_without_an_axis_of_time_or_levels_is_one_however_this_axis_is_known",)),
    Mutant("data/formats/conventions.py", "(values.T, told[::-1]) if told == (TIME, TRAJECTORY)",
           "(values, told[::-1]) if told == (TIME, TRAJECTORY)", "as many runs as frames, and their numbers exchanged",
           ("tests/unit/test_format_traps.py::test_variables_along_another_axis_than_the_one_they_are_named_for",)),
    Mutant("data/hdf5_copy.py", "for key in _pieces(old):", "for key in [*_pieces(old)][:-1]:",
           "the last piece of a file not copied", ("tests/unit/test_repack.py",)),
    Mutant("data/asked.py", "marks is not None and math.isfinite(own)", "marks is not None",
           "frames with a NaN taken for looked at", ("tests/unit/test_handles.py", "tests/unit/test_fieldset.py")),
    Mutant("data/file_map.py", "time.perf_counter_ns() if is_young else 0", "0",
           "what is kept of a file outlives a second write within a tick", ("tests/unit/test_changed_files.py",)),
    Mutant("data/ahead.py", "self._issued[0] == rows", "True",
           "the next batch given for another one", ("tests/unit/test_ahead.py",)),
    Mutant("data/formats/pdearena.py", "np.where(has_both_ends[:, None],", "np.where(False,",
           "PDEArena's frames too far apart", ("tests/unit/test_meaning_of_files.py",)),
    Mutant("data/formats/pdebench.py", '"Nu" in file.attrs and "rho" not in', '"Nu" in file.attrs and "rho" in',
           "the velocity of Burgers' equation mirrored as a scalar", ("tests/unit/test_meaning_of_files.py",)),
    Mutant("data/formats/pdebench.py", '"Vx": 0, "Vy": 1', '"Vx": 1, "Vy": 0',
           "velocities along each other's axes", ("tests/unit/test_meaning_of_files.py",)),
    Mutant("data/axis_ends.py", "seen and all(one.repeats for one in seen)", "any(one.repeats for one in seen)",
           "a periodic axis suspected for one field that repeats", ("tests/unit/test_meaning_of_files.py",)),
    Mutant("data/turned_names.py", "if mirrored and any(turn.determinant < 0 for turn in turns):", "if False:",
           "a vorticity mirrored as a scalar without a word", ("tests/unit/test_meaning_of_files.py",)),
    Mutant("data/flow_sense.py", "found.append(", "str(",
           "a flow described along wrong axes without a word", ("tests/unit/test_meaning_of_files.py",)),
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


def run(
    folder: Path, tests: Sequence[str], stop: bool = True, limit: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Pytest on the copy in `folder`, for at most `limit` seconds."""
    environment = {
        **os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    # -P-less `python -m pytest` puts the working directory first on the path: it must be the copy's.
    options = ["-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
    command = [sys.executable, "-m", "pytest", *options, *(["-x"] if stop else []), *[str(ROOT / t) for t in tests]]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=limit, check=False
    )


def verdict(mutant: Mutant) -> tuple[str, float]:
    """ "killed", "survived", "endless" (over 20 minutes) or "broken" (they could not run), and its seconds."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        applied(mutant, copied(Path(name)))
        try:
            code = run(Path(name), mutant.tests, limit=1200).returncode
            word = {0: "survived", 1: "killed"}.get(code, "broken")
        except subprocess.TimeoutExpired:
            word = "endless"
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
    killed = verdicts.count("killed") + verdicts.count("endless")
    print(f"{killed} of {len(chosen)} planted errors killed in {time.monotonic() - begin:.0f} s")
    return 0 if killed == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
