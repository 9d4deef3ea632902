"""Log-densities of held-out fields, each beside a surrogate that has its power in every mode and none of its structure.

The Gaussian reference gives a field and its surrogate the very same density, so whatever separates them is structure
that the trained model has learnt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

ARRAYS = (
    "log_prob", "standard_error", "surrogate_log_prob", "surrogate_standard_error", "reference_log_prob",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class HeldOutLikelihood:
    """Log-densities in nats, shape (n,) each, and how they were computed.

    Attributes:
        log_prob: Of held-out fields under the trained model.
        standard_error: Of the trace estimate in `log_prob`; 0 for an exact trace.
        surrogate_log_prob: Of each field's phase-scrambled surrogate under the trained model.
        surrogate_standard_error: Of the trace estimate in `surrogate_log_prob`.
        reference_log_prob: Under the Gaussian reference; equal for field and surrogate.
        probes: Hutchinson probes per field; 0 for the exact trace.
        evaluations: Network evaluations per field.
        t_min: Time at which the density is taken.
        scored: What is scored: "field", "noised" or "state"; see `physdiff.likelihood`.
        gaussian_bias: Nats by which scoring a field without its noise lowers the reference's mean log-density.
        terminal_mismatch: Upper bound in nats of what the terminal law still remembers.
        n_support: Degrees of freedom; divides "per dimension".
        noise_level: Standard deviation per cell of what counts as noise of the data; None: its rounding.

    Raises:
        ValueError: the arrays are not all of one shape (n,), n ≥ 1, or n_support is not positive.
    """

    log_prob: np.ndarray
    standard_error: np.ndarray
    surrogate_log_prob: np.ndarray
    surrogate_standard_error: np.ndarray
    reference_log_prob: np.ndarray
    probes: int
    evaluations: int
    t_min: float
    scored: str
    gaussian_bias: float
    terminal_mismatch: float
    n_support: int
    noise_level: float | None = None

    def __post_init__(self) -> None:
        for name in ARRAYS:
            object.__setattr__(self, name, np.asarray(getattr(self, name)))
        shapes = {name: getattr(self, name).shape for name in ARRAYS}
        if len(set(shapes.values())) != 1 or len(self.log_prob.shape) != 1 or len(self.log_prob) == 0:
            raise ValueError(f"log-densities need one number per field; got shapes {shapes}.")
        if self.n_support < 1:
            raise ValueError(f"a density needs at least one degree of freedom; got n_support = {self.n_support}.")

    def __len__(self) -> int:
        """Number of held-out fields."""
        return len(self.log_prob)

    @property
    def gain(self) -> np.ndarray:
        """Log-density of each field over the Gaussian reference's, nats per dimension, shape (n,)."""
        return (self.log_prob - self.reference_log_prob) / self.n_support

    @property
    def surrogate_gain(self) -> np.ndarray:
        """The same for each field's surrogate, nats per dimension, shape (n,)."""
        return (self.surrogate_log_prob - self.reference_log_prob) / self.n_support

    @property
    def mean_gain(self) -> float:
        """Mean of `gain` over fields."""
        return float(self.gain.mean())

    @property
    def mean_gain_error(self) -> float:
        """Standard error of `mean_gain`, over fields; the trace estimate's noise is part of their spread."""
        return float(self.gain.std(ddof=1)) / math.sqrt(len(self)) if len(self) > 1 else math.nan

    @property
    def wins(self) -> int:
        """Number of fields that are denser than their surrogate."""
        return int((self.log_prob > self.surrogate_log_prob).sum())

    @cached_property
    def gap_in_errors(self) -> np.ndarray:
        """Field minus surrogate, in standard errors of the two trace estimates together, shape (n,).

        Infinite for an exact trace, nan for a single probe.
        """
        gap = self.log_prob - self.surrogate_log_prob
        error = np.hypot(self.standard_error, self.surrogate_standard_error)
        exact = np.where(gap == 0, 0.0, np.copysign(np.inf, gap))
        return np.where(error == 0, exact, gap / np.where(error == 0, 1.0, error))

    def split(self) -> tuple[dict[str, np.ndarray], dict[str, int | float | str | None]]:
        """Arrays and plain values, from which `HeldOutLikelihood(**arrays, **values)` is this again."""
        names = [f.name for f in fields(self)]
        return (
            {name: getattr(self, name) for name in ARRAYS},
            {name: getattr(self, name) for name in names if name not in ARRAYS},
        )
