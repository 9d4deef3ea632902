r"""Log-densities of the observed cells of fields under a model of whole fields, the Gaussian part in closed form.

With the missing cells drawn from the reference given the observed ones, x̂ = (x_O, x_M), x_M ~ p_ref(x_M | x_O),

    log p(x_O) = log p_ref(x_O) + log E exp{ log p(x̂) − log p_ref(x̂) },

because p_ref(x̂) = p_ref(x_O) p_ref(x_M | x_O). The first term is in closed form (`Kriging`), exact but for the
determinant of large masks, an estimate with an error bar. The braces are what the likelihood of whole fields calls
`relative_to_reference`: 0 for an untrained model, whose observed cells then have their density by the first term alone,
in one draw. Otherwise the logarithm of the mean over K draws is, in expectation, a lower bound that rises to log p(x_O)
with K.

All draws of a field are scored with the same probes. With probes of their own, their errors σε would enter the mean of
exponentials and raise the bound by as much as σ²/2, so that it was none.

Source: Burda, Grosse and Salakhutdinov (2016), eq. 8, with the reference as their recognition model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from physdiff.gaussian import GaussianField
from physdiff.kriging import Kriging, by_mask
from physdiff.path import ReferencePath
from physdiff.randomness import SampleNoise, keyed_generator
from physdiff.scored import LogLikelihood


@dataclass(frozen=True)
class ObservedLikelihood:
    """Log-densities of observed cells.

    Attributes:
        log_prob: Lower bound in expectation, in nats, shape (n,); where the model is its reference, as exact as
            `log_prob_reference`.
        log_prob_reference: Of the same cells under the reference, shape (n,); exact but for `reference_error`.
        standard_error: Of `log_prob`, by the trace estimates and by `reference_error`, shape (n,): at most, as if the
            errors of a field's draws were the same.
        reference_error: Standard error of `log_prob_reference`, where its determinant is an estimate, shape (n,): one
            number for all fields of a mask, that a mean over them does not lessen. 0 where it is exact.
        n_observed: Observed cells of each field, all channels together, shape (n,).
        effective_draws: Of each field's draws as many as count, 1/Σ w², shape (n,).
        draws: Draws a field, K.
        whole: What the likelihood of the whole fields told, field by field and draw by draw.
    """

    log_prob: Tensor
    log_prob_reference: Tensor
    standard_error: Tensor
    reference_error: Tensor
    n_observed: Tensor
    effective_draws: Tensor
    draws: int
    whole: LogLikelihood

    @property
    def relative_to_reference(self) -> Tensor:
        """Nats over the reference, shape (n,)."""
        return self.log_prob - self.log_prob_reference

    @property
    def per_dimension(self) -> Tensor:
        """Nats per observed cell, shape (n,)."""
        return self.log_prob / self.n_observed


def observed_log_likelihood(
    path: ReferencePath,
    x: Tensor,
    observed: Tensor,
    score: Callable[[Tensor], LogLikelihood],
    *,
    draws: int = 4,
    noised: bool = False,
    seed: int = 0,
    first: int = 0,
) -> ObservedLikelihood:
    """Log-density of the observed cells of each field.

    Args:
        path: Of the model.
        x: Fields in the model's units, shape (n, channels, *grid); what stands in missing cells is not looked at.
        observed: Which cells are known, shape as x, bool.
        score: The likelihood of whole fields, shape (n, channels, *grid), with the same random numbers at each call, of
            which there is one a draw; they are to be scored as "field".
        draws: K, at least 1.
        noised: Whether the process's noise of t_min is added to the observed cells, and what is scored is with it.
        seed: Draws and noise of field i are those of (seed, first + i).
        first: Number of the first field, where x is a part of more.

    Raises:
        ValueError: shapes do not fit, a field has no observed cell; `noised` under a process whose first noise is not
            the same in every cell.
    """
    if observed.shape != x.shape or observed.dtype != torch.bool:
        raise ValueError(
            f"the observed cells have the shape of the fields, {tuple(x.shape)}, bool; got {tuple(observed.shape)}, "
            f"{observed.dtype}."
        )
    if draws < 1:
        raise ValueError(f"draws must be at least 1; got {draws}.")
    law = law_of_fields(path)
    known = torch.where(observed, x.to(torch.float64), 0.0)
    n, shape = len(x), tuple(x.shape[1:])
    log_volume = torch.zeros(n, dtype=torch.float64)
    counts = observed.flatten(1).sum(1)
    if noised:
        scale, log_gain = white_noise_of(path)
        seeds = [keyed_generator(seed, "likelihood", first + i).initial_seed() for i in range(n)]
        known = known + torch.where(observed, scale * SampleNoise(seeds, "t_min")(shape), 0.0)
        log_volume = -counts * log_gain  # of the state m·x, as for whole fields
    seeds = [
        keyed_generator(seed, "missing cells", first + i, k).initial_seed() for i in range(n) for k in range(draws)
    ]
    noise = SampleNoise(seeds, "fill")(shape)
    filled = torch.empty((n * draws, *shape), dtype=torch.float64)
    reference, reference_error = torch.empty(n, dtype=torch.float64), torch.empty(n, dtype=torch.float64)
    for mask, rows in by_mask(observed):
        krige = Kriging(law, mask)
        reference[rows], reference_error[rows] = krige.log_prob(known[rows]), krige.log_prob_error()
        of = (rows.unsqueeze(1) * draws + torch.arange(draws)).flatten()
        filled[of] = krige.draw(known[rows].repeat_interleave(draws, 0), noise[of])
    whole = _by_field([score(filled[k::draws]) for k in range(draws)])
    relative = whole.relative_to_reference.detach().cpu().reshape(n, draws)
    weights = relative.softmax(1)
    gain = relative.logsumexp(1) - math.log(draws)
    error = (weights * whole.standard_error.detach().cpu().reshape(n, draws)).sum(1)
    return ObservedLikelihood(
        log_prob=reference + gain + log_volume,
        log_prob_reference=reference + log_volume,
        standard_error=torch.hypot(error.double(), reference_error),
        reference_error=reference_error,
        n_observed=counts,
        effective_draws=1 / weights.square().sum(1),
        draws=draws,
        whole=whole,
    )


def _by_field(draws: list[LogLikelihood]) -> LogLikelihood:
    """Likelihoods of one draw of each field after the other, as of all draws of a field after the other."""
    of_rows = {
        f.name: torch.stack([getattr(one, f.name) for one in draws], 1).flatten(0, 1)
        for f in fields(LogLikelihood)
        if isinstance(getattr(draws[0], f.name), Tensor)
    }
    most = {name: max(getattr(one, name) for one in draws) for name in ("probes", "evaluations")}
    return replace(draws[0], **of_rows, **most)


def law_of_fields(path: ReferencePath) -> GaussianField:
    """The reference as the likelihood of fields sees it, m⁻¹ of its law at t_min."""
    point, reference = path.at(path.t_min), path.reference
    spectrum = torch.where(reference.support, point.variance * torch.exp(-2 * point.log_gain.real), 0.0)
    return GaussianField(path.basis, reference.mean, spectrum.expand_as(reference.spectrum), reference.floor)


def white_noise_of(path: ReferencePath) -> tuple[float, float]:
    """Standard deviation per cell of the noise of t_min in units of the field, √S/m, and log m.

    Raises:
        ValueError: they differ between modes.
    """
    point = path.at(path.t_min)
    log_gain = point.log_gain.expand(path.reference.spectrum.shape)[path.reference.support]
    noise = point.noise_variance.expand(path.reference.spectrum.shape)[path.reference.support]
    spread = [float(v.max() - v.min()) for v in (log_gain.real, log_gain.imag if log_gain.is_complex() else noise * 0)]
    if max(spread) > 1e-9 or float(noise.max()) > (1 + 1e-9) * float(noise.min()):
        raise ValueError(
            f"under {type(path.process).__name__} the first noise differs between modes, so observed cells cannot be "
            "noised without the missing ones; score them as they are, with scored='field'."
        )
    return float(noise[0].sqrt() * torch.exp(-log_gain.real[0])), float(log_gain.real[0])
