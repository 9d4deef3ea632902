r"""What becomes of a log-density when the grid of one field is refined.

A field of continuous space has no density. Under a law with the covariance of a stochastic PDE, log p per cell goes to
−∞ or ∞ with the weakest mode. Relative to a Gaussian with that covariance there is a density where laws are equivalent:
a mixture of N(μ_j, c) with means in the Cameron-Martin space, Σ μ_jk²/c_k < ∞ (Kakutani; Feldman and Hájek).
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from physdiff.basis import SpectralBasis
from physdiff.clock_fit import fit_clock
from physdiff.denoisers import MixtureDenoiser
from physdiff.grid import Grid
from physdiff.likelihood import log_likelihood
from physdiff.path import ReferencePath
from physdiff.processes.heat import Heat

torch.set_num_threads(1)
SIZES = (16, 32, 64, 128)
FINEST = max(SIZES)
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def continuum() -> tuple[Tensor, Tensor, Tensor]:
    """Cosine coefficients of spectrum, means and one field on [0, 1], shapes (modes,), (3, modes), (modes,)."""
    g = torch.Generator().manual_seed(1)
    k = math.pi * torch.arange(FINEST, dtype=torch.float64)
    spectrum = (1 + (k / 5) ** 2) ** -1.5
    means = 3 * torch.randn(3, FINEST, generator=g, dtype=torch.float64) * (1 + (k / 5) ** 2) ** -1.75
    field = means[0] + spectrum.sqrt() * torch.randn(FINEST, generator=g, dtype=torch.float64)
    return spectrum, means, field


def on_cells(n: int) -> tuple[MixtureDenoiser, Tensor]:
    """The law and the field on n cells, under heat: a mode of unit norm is √n times the coefficient."""
    basis = SpectralBasis(Grid(n, 1.0, "neumann"))
    spectrum, means, field = continuum()
    c, mu, y = n * spectrum[:n].reshape(1, n), math.sqrt(n) * means[:, :n].reshape(3, 1, n), math.sqrt(n) * field[:n]
    spectra = c.expand(3, 1, n)
    reference = MixtureDenoiser.reference(basis, WEIGHTS, mu, spectra)
    path = ReferencePath(fit_clock(Heat(basis), reference), reference)
    return MixtureDenoiser(path, WEIGHTS, mu, spectra), basis.inverse(y.reshape(1, 1, n))


def test_relative_to_the_reference_converges_and_per_cell_does_not() -> None:
    relative, per_dimension, evaluations = [], [], []
    for n in SIZES:
        law, x = on_cells(n)
        found = log_likelihood(law, x, terminal=lambda y, law=law: law.log_prob(y, 1.0))
        # The closed form of the clean laws, of which t_min and the integration lose little.
        c = law.path.reference
        y = law.path.basis.forward(x)
        within = -0.5 * ((y - law.means).square() / law.spectra + (2 * math.pi * law.spectra).log()).flatten(1).sum(1)
        exact = torch.logsumexp(WEIGHTS.log() + within, 0) - c.log_prob_of_deviation(y - c.mean)
        error = float((found.relative_to_reference - exact).abs())
        print(
            f"{n:4d} cells: relative {float(found.relative_to_reference):+.4f} nats (exact {float(exact):+.4f}), per "
            f"dimension {float(found.per_dimension):+.3f}, {found.evaluations} evaluations, t_min {law.path.t_min:.3g}"
        )
        assert error < 3e-3
        relative.append(float(found.relative_to_reference))
        per_dimension.append(float(found.per_dimension))
        evaluations.append(found.evaluations)
    steps = [abs(b - a) for a, b in pairwise(relative)]
    assert abs(relative[-1]) > 0.5  # there is something to explain
    assert steps[2] < 0.7 * steps[1] < 0.7 * steps[0] and steps[2] < 0.1
    # −½ log c grows by ½·3·log 2 less ½ log 2 a doubling: by about 0.7 nats per cell, for ever.
    rises = [b - a for a, b in pairwise(per_dimension)]
    assert min(rises) > 0.2
    assert max(evaluations) < 1.5 * min(evaluations)
