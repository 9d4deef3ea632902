"""Laws of a log-density: of Gaussian data it is the closed form, which a dense covariance in cells gives as well."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch.distributions import MultivariateNormal

from physdiff.denoisers import GaussianDenoiser
from physdiff.gaussian import GaussianField
from physdiff.laws.cases import ProcessCase, as_time, tilted
from physdiff.laws.law import Measurement, law
from physdiff.laws.remembered import is_solved, remembered
from physdiff.likelihood import log_likelihood
from physdiff.path import ReferencePath
from physdiff.process import LinearProcess

EXACT = 1e-10  # nats per degree of freedom, of the reference's own data
LIMIT = 1e-5  # of other data, whose residual is integrated
# Steps of the fourth-order rule, tried in turn until right physics keeps the limit by a factor 10: each doubling wins
# up to a factor 16. The error of wrong physics stays, about a nat, and is not pursued.
STEPS = (32, 64, 128, 256, 512)
ENOUGH_FOR_MOST = 128


def _few_cells(case: ProcessCase) -> bool:
    """One or a few cases of a process; one alone where every coefficient is a quadrature."""
    size, boundary = case.process.basis.grid.size, case.process.basis.grid.boundary
    return case.is_default and (size <= 8 if is_solved(type(case.process)) else size == 8 and boundary == ("periodic",))


@law("process", _few_cells, follows=True)
def gaussian_likelihood_is_exact(case: ProcessCase) -> Iterator[Measurement]:
    """The log-likelihood of Gaussian data is that of the dense normal distribution.

    Of the reference's own data to rounding; of other Gaussian data, whose residual is integrated, to the tolerance of
    the integration. If the first breaks, variance or log_gain is not that of the fields; if only the second does,
    drift_symbol and noise_spectrum are not the rates of log_gain and variance.
    """
    process, shape = remembered(case.process), case.process.basis.grid.shape
    path = ReferencePath(process, case.reference, case.path.t_min)
    generator = torch.Generator().manual_seed(8)
    own = _dense(case.reference, process, path.t_min)
    x = _drawn(own, 4, generator).reshape(4, 1, *shape)
    found = log_likelihood(GaussianDenoiser(path), x, scored="state", method="rk4", steps=1).log_prob
    exact = float((found - own.log_prob(x.flatten(1))).abs().max()) / path.reference.n_support
    yield Measurement("nats per degree of freedom, the reference's data", exact, EXACT)
    data = tilted(case.reference)
    other, end = _dense(data, process, path.t_min), data.at(process, 1.0)
    x = _drawn(other, 2, generator).reshape(2, 1, *shape)
    error = math.inf
    for steps in STEPS:
        found = log_likelihood(
            GaussianDenoiser(path, data), x, scored="state", method="rk4", steps=steps,
            terminal=lambda modes: end.log_prob_of_deviation(modes - end.mean),
        ).log_prob  # fmt: skip
        coarser, error = error, float((found - other.log_prob(x.flatten(1))).abs().max()) / path.reference.n_support
        falls = steps < ENOUGH_FOR_MOST or error < coarser / 2
        if error <= LIMIT / 10 or not falls:
            break
    reading = f"{exact:.1e} nats per degree of freedom (must be ≤ {EXACT:g}), other data {error:.1e} (≤ {LIMIT:g})"
    yield Measurement("nats per degree of freedom, other data", error, LIMIT, reading=reading)


def _dense(law_of_data: GaussianField, process: LinearProcess, t: float) -> MultivariateNormal:
    """The law of the cells at t, by matrices."""
    basis, kernel = process.basis, process.kernel(as_time(t))
    size, u = basis.grid.size, basis.dense()
    eye = torch.eye(size, dtype=torch.float64).reshape(size, *basis.grid.shape)
    gain = basis.inverse(basis.apply(kernel.gain, basis.forward(eye))).reshape(size, size).T
    clean = u @ torch.diag(law_of_data.spectrum.flatten()) @ u.T
    noise = u @ torch.diag(kernel.variance.expand(basis.grid.shape).flatten()) @ u.T
    mean = gain @ basis.inverse(law_of_data.mean).flatten()
    return MultivariateNormal(mean, gain @ clean @ gain.T + noise)


def _drawn(dense: MultivariateNormal, n: int, generator: torch.Generator) -> torch.Tensor:
    white = torch.randn((n, len(dense.mean)), generator=generator, dtype=torch.float64)
    return dense.mean + white @ dense.scale_tril.T
