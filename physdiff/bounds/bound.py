"""A variational bound, term by term, with its own error bars."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor


@dataclass(frozen=True)
class Bound:
    """Lower bounds on the log-density of fields, estimated without bias from draws of the forward process.

    Attributes:
        terms: What each term takes from the bound, in nats, shape (n, 1 + steps): of the prior at t = 1, of the
            transitions between `times` in their order, and of the decoder, the last transition to the clean field.
        term_errors: Standard errors of the terms, shape (n, 1 + steps): nan for a single draw.
        standard_error: Of the bound, shape (n,): nan for a single draw.
        log_prob_reference: Of the clean fields under the Gaussian reference, in nats, shape (n,), exact.
        times: Decreasing from 1 to 0, shape (steps + 1,).
        draws: Number of draws of each state.
        evaluations: Model evaluations per field.
        n_support: Degrees of freedom: modes that vary.
    """

    terms: Tensor
    term_errors: Tensor
    standard_error: Tensor
    log_prob_reference: Tensor
    times: Tensor
    draws: int
    evaluations: int
    n_support: int

    @classmethod
    def of_draws(
        cls, exact: Tensor, sampled: Tensor, log_prob_reference: Tensor, times: Tensor, evaluations: int, n_support: int
    ) -> Bound:
        """From the exact part of each term, shape (n, 1 + steps), and the sampled rest, (n, draws, 1 + steps)."""
        draws = sampled.shape[1]
        spread = sampled if draws > 1 else torch.full_like(sampled, math.nan).expand(-1, 2, -1)
        return cls(
            terms=exact + sampled.mean(1),
            term_errors=spread.std(1) / math.sqrt(draws),
            standard_error=spread.sum(2).std(1) / math.sqrt(draws),
            log_prob_reference=log_prob_reference,
            times=times,
            draws=draws,
            evaluations=evaluations,
            n_support=n_support,
        )

    @property
    def bound(self) -> Tensor:
        """In nats, shape (n,): not above the log-density, up to the standard error."""
        return -self.terms.sum(1)

    @property
    def prior(self) -> Tensor:
        """KL in nats between the field's own law at t = 1 and the prior, shape (n,), exact for a linear process."""
        return self.terms[:, 0]

    @property
    def transitions(self) -> Tensor:
        """In nats, shape (n, steps − 1)."""
        return self.terms[:, 1:-1]

    @property
    def decoder(self) -> Tensor:
        """Minus the expected log-density of the clean field given the last state, in nats, shape (n,)."""
        return self.terms[:, -1]

    @property
    def per_dimension(self) -> Tensor:
        """Nats per degree of freedom, shape (n,)."""
        return self.bound / self.n_support

    @property
    def relative_to_reference(self) -> Tensor:
        """The bound less the log-density under the Gaussian reference, shape (n,)."""
        return self.bound - self.log_prob_reference

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Confidence interval of the bound's estimate: Student's t with `draws` − 1 degrees of freedom."""
        if self.draws == 1:
            raise ValueError("a single draw has no error bar; use draws=2 or more.")
        factor = float(stats.t.ppf(0.5 + level / 2, self.draws - 1))
        return self.bound - factor * self.standard_error, self.bound + factor * self.standard_error
