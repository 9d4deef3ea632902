r"""The bridge: y_s given y_t and the clean y_0, s < t.

Both y_s and y_t = Φ y_s + √Σ ε are Gaussian given y_0. With m the gains and S the variances from the clean field on,
S_t = |Φ|²S_s + Σ, Bayes' rule gives

    mean = m_s (Σ/S_t) y_0 + Φ̄ (S_s/S_t) y_t,    variance β̃ = S_s Σ/S_t.

Any noise σ² = η²β̃ with 0 ≤ η ≤ 1 leaves the law of y_s given y_0 as it is, if the rest of S_s comes from the noise
that is in y_t already:

    mean = m_s y_0 + R̄ √((S_s − σ²)/S_t) (y_t − m_t y_0),    R = Φ/|Φ|.

η = 1 is Bayes' rule, η = 0 draws nothing. With p = Σ/S_t and q = |Φ|²S_s/S_t = 1 − p, the weight of m_s y_0 is
1 − √(q(1 − η²p)) = p(1 + η²q)/(1 + √(q(1 − η²p))), in which nothing cancels.

Source: Ho, Jain and Abbeel (2020), eq. 6 and 7, per mode; Song, Meng and Ermon (2021), eq. 7 and 16, for η.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from physdiff.basis import Basis
from physdiff.process import LinearProcess


@dataclass(frozen=True)
class Bridge:
    """A Gaussian law of y_s in modes, given y_0 and y_t.

    Attributes:
        basis: The basis of the modes.
        on_clean: Symbol that acts on y_0; real or complex.
        on_noisy: Symbol that acts on y_t.
        variance: η²β̃, of y_s around its mean.
        upper_variance: Σ, the noise of the forward transition: β_t of a chain's step. Not below β̃ where S_t ≥ S_s.
    """

    basis: Basis
    on_clean: Tensor
    on_noisy: Tensor
    variance: Tensor
    upper_variance: Tensor

    def mean(self, clean: Tensor, noisy: Tensor) -> Tensor:
        """E[y_s | y_0, y_t], modes of shape (batch, channels, *grid)."""
        device = noisy.device
        return self.basis.apply(self.on_clean.to(device), clean) + self.basis.apply(self.on_noisy.to(device), noisy)


def bridge(process: LinearProcess, earlier: Tensor, later: Tensor, stochasticity: float = 1.0) -> Bridge:
    """The law of y at physical time `earlier`, given y at `later` and y_0.

    Args:
        process: Any linear process; its clock is not used.
        earlier: Physical time of y_s, shape () or (batch, 1, ..., 1); 0 is the clean field.
        later: Physical time of y_t, above `earlier`.
        stochasticity: η ∈ [0, 1]; 1 is the posterior.
    """
    zero = torch.zeros((), dtype=torch.float64)
    log_gain = process.log_gain(later, earlier)
    before, after = process.noise_variance(earlier), process.noise_variance(later)
    # From the clean field on, all noise was received, the start's too.
    received = torch.where(earlier == 0, after, process.variance(later, earlier))
    noisy = after > 0
    whole = torch.where(noisy, after, 1.0)
    new = torch.where(noisy, received / whole, 1.0)  # a mode without noise is known from y_0
    old = torch.exp(2 * log_gain.real) * before / whole
    eta = stochasticity**2
    left = (1 - eta) + eta * old
    weight = new * (1 + eta * old) / (1 + torch.sqrt(old * left))
    carried = torch.sqrt(before / whole * left)
    if log_gain.is_complex():
        carried = torch.polar(carried.expand(log_gain.shape), -log_gain.imag)
    return Bridge(
        process.basis,
        on_clean=torch.exp(process.log_gain(earlier, zero)) * weight,
        on_noisy=carried,
        variance=eta * before * new,
        upper_variance=received,
    )
