"""Log-densities with their own error bars: what a likelihood returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from physdiff.estimate import student_interval

Scored = Literal["field", "noised", "state"]


@dataclass(frozen=True)
class LogLikelihood:
    """Log-densities with their own error bars.

    Attributes:
        log_prob: In nats, shape (n,).
        log_prob_reference: Of the same states under the Gaussian reference, in nats, shape (n,), exact.
        standard_error: Of the trace estimate, shape (n,): 0 for the exact trace, nan where there is nothing to
            estimate it from.
        probes: Products with the Jacobian for each field, the most of any; 0 for the exact trace.
        evaluations: Denoiser evaluations per field, the most of any.
        n_support: Degrees of freedom: modes that vary.
        t_min: Time at which the density is taken.
        scored: "field": of x itself, its state m·x read as noiseless; "noised": of x with the process's noise of
            t_min added; "state": of states at t_min that the caller made.
        latent: Whitened terminal states, shape (n, channels, *grid).
        roundtrip_error: Root mean square over modes of z(t_min) − z'(t_min) after integrating forth and back, shape
            (n,); None if it was not asked for.
        gaussian_bias: Nats by which scoring a field without its noise lowers the reference's mean log-density; 0
            unless scored is "field".
        terminal_mismatch: Upper bound in nats of the divergence between the true terminal law and the reference; 0
            where the terminal law was given.
        evaluations_per_field: Denoiser evaluations, shape (n,).
        probes_per_field: Products with the Jacobian, shape (n,).
        degrees_of_freedom: Of the standard error; 0 where there is none.
        target_reached: Whether the standard error is at most the one asked for, shape (n,); None if none was.
    """

    log_prob: Tensor
    log_prob_reference: Tensor
    standard_error: Tensor
    probes: int
    evaluations: int
    n_support: int
    t_min: float
    scored: Scored
    latent: Tensor
    roundtrip_error: Tensor | None
    gaussian_bias: float
    terminal_mismatch: float
    evaluations_per_field: Tensor
    probes_per_field: Tensor
    degrees_of_freedom: int
    target_reached: Tensor | None = None

    @property
    def per_dimension(self) -> Tensor:
        """Nats per degree of freedom, shape (n,)."""
        return self.log_prob / self.n_support

    @property
    def relative_to_reference(self) -> Tensor:
        """log of the density relative to the Gaussian reference, shape (n,): what the non-Gaussian part explains."""
        return self.log_prob - self.log_prob_reference

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Confidence interval of the trace estimate, by Student's t.

        Raises:
            ValueError: a single probe has no error bar.
        """
        return student_interval(self.log_prob, self.standard_error, self.probes, self.degrees_of_freedom, level)
