"""Laws of variational bounds: exact on the reference's own data, below the log-density on other data, and closing."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch.distributions import MultivariateNormal

from physdiff.bounds import continuous_elbo, elbo
from physdiff.denoisers import GaussianDenoiser
from physdiff.laws.cases import ProcessCase, bimodal
from physdiff.laws.law import Measurement, law
from physdiff.laws.remembered import is_solved, remembered
from physdiff.path import ReferencePath

EXACT = 1e-10  # nats per degree of freedom
STEPS = (1, 2, 5, 50)
FIELDS, DRAWS = 64, 2
ERRORS = 4.5  # standard errors
DECODER = 0.02  # nats per degree of freedom, lost where the posterior of the clean field at t_min is not Gaussian


def _few_cells(case: ProcessCase) -> bool:
    """One or a few cases of a process; one alone where every coefficient is a quadrature."""
    size, boundary = case.process.basis.grid.size, case.process.basis.grid.boundary
    return case.is_default and (size <= 8 if is_solved(type(case.process)) else size == 8 and boundary == ("periodic",))


def _one_line(case: ProcessCase) -> bool:
    """A periodic line of 8 cells."""
    return case.is_default and case.process.basis.grid.size == 8 and case.process.basis.grid.boundary == ("periodic",)


@law("process", _few_cells, follows=True)
def gaussian_bound_is_the_log_density(case: ProcessCase) -> Iterator[Measurement]:
    """The variational bound of the reference's own chain is the log-density of the clean field, in any number of steps.

    Held to the dense normal distribution of the cells. If it breaks, log_gain and variance from one time to another do
    not compose, or noise_variance is not that of the fields.
    """
    process, law_of_data = remembered(case.process), case.reference
    denoiser = GaussianDenoiser(ReferencePath(process, law_of_data, case.path.t_min))
    u, spectrum = process.basis.dense(), law_of_data.spectrum.flatten()
    dense = MultivariateNormal(process.basis.inverse(law_of_data.mean).flatten(), u @ torch.diag(spectrum) @ u.T)
    white = torch.randn((3, len(spectrum)), generator=torch.Generator().manual_seed(14), dtype=torch.float64)
    cells = dense.mean + 1.5 * white @ dense.scale_tril.T
    x, exact = cells.reshape(3, 1, *process.basis.grid.shape), dense.log_prob(cells)
    found = {f"{steps} steps": elbo(denoiser, x, steps=steps, draws=1) for steps in STEPS}
    found["continuous"] = continuous_elbo(denoiser, x, strata=3, draws=1)
    for name, bound in found.items():
        error = float((bound.bound - exact).abs().max()) / len(spectrum)
        yield Measurement(f"nats per degree of freedom, {name}", error, EXACT)


@law("process", _one_line, follows=True)
def bound_is_below_the_log_density_and_closes(case: ProcessCase) -> Iterator[Measurement]:
    """With an exact denoiser the bound's mean over non-Gaussian data is below that of the log-density, and with many
    steps it lacks no more than the divergence of the terminal law.

    If it is above, a reverse kernel is not the law of the process; if it lacks more, noise_spectrum is not the rate of
    variance.
    """
    mixture = bimodal(remembered(case.process), case.reference, case.path.t_min)
    clean = mixture.sample_modes(FIELDS, torch.Generator().manual_seed(15))
    x, exact, size = mixture.path.basis.inverse(clean), mixture.log_prob(clean, 0.0), mixture.path.reference.n_support
    limit = continuous_elbo(mixture, x, strata=16, variance="learned", draws=DRAWS)
    for name, found in (("4 steps", elbo(mixture, x, steps=4, variance="learned", draws=DRAWS)), ("continuous", limit)):
        above = found.bound - exact
        error = float(above.std()) / math.sqrt(FIELDS)
        reading = f"{name}: {float(above.mean()):.3f} ± {error:.3f} nats above (must be ≤ {ERRORS} errors)"
        yield Measurement(f"above, in errors, {name}", float(above.mean()) / error, ERRORS, reading=reading)
    lacking = exact - limit.bound
    error = float(lacking.std()) / math.sqrt(FIELDS)
    allowed = mixture.path.terminal_mismatch + DECODER * size + ERRORS * error
    yield Measurement("nats that the continuous bound lacks", float(lacking.mean()), allowed)
