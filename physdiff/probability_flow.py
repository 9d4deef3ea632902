r"""The probability flow of a model in whitened coordinates, and its divergence from the same call of the network.

J = ∂(dz/dlog τ)/∂z. Under a linear process the posterior covariance C of the clean modes gives, up to the diagonal
part of the Wiener filter,

    J = −½ τ diag(n m/(S√V)) C diag(m√V/S),        D J D⁻¹ symmetric for D = √(V/n).

Products are taken with D J D⁻¹: the trace is the same, and of all diagonal D that which makes a matrix symmetric gives
its entries the least sum of squares, and Hutchinson's probes the least variance. In z itself modes whose variances
differ by a factor v would count (√v + 1/√v)²/4 times as much.
"""

from __future__ import annotations

import torch
from torch import Tensor

from physdiff.condition import Given
from physdiff.denoisers.reverse_model import ReverseModel, per_row
from physdiff.path import ReferencePath
from physdiff.trace import TraceEstimator


class ProbabilityFlow:
    """dz/dlog τ of some fields, with the divergence if it is wanted.

    Args:
        denoiser: The model.
        condition: Of these fields, shape (n, ...).
        estimator: Of the divergence; None where it is not wanted.
        probes: Of these fields, from the estimator.
        graph: Whether the result is to be differentiated.
    """

    def __init__(
        self,
        denoiser: ReverseModel,
        condition: Given | None,
        estimator: TraceEstimator | None = None,
        probes: Tensor | None = None,
        graph: bool = False,
    ) -> None:
        self.denoiser = denoiser
        self.condition = condition
        self.estimator = estimator
        self.probes = probes
        self.graph = graph

    @property
    def columns(self) -> int:
        """Estimates of the divergence that are integrated."""
        return 0 if self.estimator is None else self.estimator.columns

    def __call__(self, log_time: Tensor, z: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Velocity and divergence.

        Args:
            log_time: log τ, shape () or (m,).
            z: Whitened modes, shape (m, channels, *grid).
            rows: Which of the fields they are, shape (m,); all in order when not given.

        Returns:
            dz/dlog τ, shape as z, and its divergence, shape (m, columns).
        """
        time = log_time.detach().to("cpu", torch.float64).exp()
        condition = self.condition if rows is None or self.condition is None else self.condition[rows.cpu()]
        if self.estimator is None or self.probes is None:
            with torch.set_grad_enabled(self.graph):
                v = self.denoiser.velocity(z, time, condition)
            return v, z.new_zeros((len(z), 0))
        probes = self.probes if rows is None else self.probes[rows]
        return self.estimator.along(
            lambda z: self.denoiser.velocity(z, time, condition), z, probes, self.denoiser.path.reference.support,
            self._balance(time, z), self.graph,
        )  # fmt: skip

    def _balance(self, time: Tensor, z: Tensor) -> Tensor:
        """D > 0, broadcasts against z; 1 under a simulated process, whose reaction has no such symmetry."""
        path = self.denoiser.path
        if not isinstance(path, ReferencePath) or self.estimator is None or self.estimator.probe_count == 0:
            return z.new_ones(())
        point = path.at_time(per_row(time, z))
        noise = path.process.noise_spectrum(point.time)
        known = path.reference.support & (noise > 0)  # where no noise comes in, no residual moves the mode
        return torch.where(known, (point.variance / torch.where(known, noise, 1.0)).sqrt(), 1.0).to(z)
