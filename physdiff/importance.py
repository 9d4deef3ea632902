r"""Importance weights: what samples with a known density tell about a law that is known up to its constant.

With x ~ q and the law e^{−S}/Z wanted, w = e^{−S(x)}/q(x) has

    E_q[w] = Z,        E_q[w O] / E_q[w] = ⟨O⟩,        E_{e^{−S}/Z}[1/w] = 1/Z,

so samples of the model correct their own means, and those and samples of the law bound −log Z from both sides: by
Jensen's inequality −log mean w lies above it in the mean, log mean 1/w below. Bennett's ratio uses both at once, with
M = log(n_p/n_q) and σ(u) = 1/(1 + e^{−u}),

    n_q ⟨σ(log w − log Z + M)⟩_q = n_p ⟨σ(log Z − log w − M)⟩_p,

and has the smallest variance of all that do.

A log-density with noise of variance σ² (Hutchinson probes, unbiased) makes weights too large by e^{σ²/2} in the mean,
hence −log Z too small by σ²/2. Here σ²/2 is taken off each log-weight: weights are then right in the mean, and so is
every average of them. What the noise costs, a factor of about e^{−σ²} of the effective samples, stays; and where σ² is
itself estimated from K probes, σ⁴/(4(K − 1)) is left of the bias. An exact trace has neither.

Source: Kish (1965) for the effective number of samples; Bennett (1976), eqs. 7 to 12.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from scipy.optimize import brentq
from torch import Tensor

from physdiff.jackknife import Estimate, check_per_sample, jackknife, log_mean, spread, with_count
from physdiff.pareto_tail import tail_shape

LARGEST_SHARE = 0.1  # of the sum, above which one weight decides
HEAVY_TAIL = 0.7  # shape above which sums of weights converge too slowly to be of use (Vehtari et al., 2024)
LOUD_TRACE = 1.0  # nats of trace noise, at which about two thirds of the samples are lost


@dataclass(frozen=True, eq=False)
class ImportanceWeights:
    """Weights of a model's samples under another law; see `importance_weights`.

    Attributes:
        log_weights: −S − log q, without the bias of a noisy log q, in nats, shape (n,); −inf where the law has no
            density.
        trace_noise: Root mean square of the standard errors of log q, in nats; 0 if it is exact.
    """

    log_weights: Tensor
    trace_noise: float = 0.0

    def __len__(self) -> int:
        return len(self.log_weights)

    @cached_property
    def shares(self) -> Tensor:
        """Weights over their sum, shape (n,)."""
        return torch.softmax(self.log_weights, 0)

    @property
    def effective_samples(self) -> float:
        """(Σw)²/Σw², between 1 and n: how many samples of the law itself would be worth as much."""
        return float(1 / self.shares.square().sum())

    @property
    def largest_share(self) -> float:
        """Part of the sum that one sample carries."""
        return float(self.shares.max())

    @cached_property
    def tail_shape(self) -> float:
        """Shape k of the largest weights: moments of order below 1/k exist; below 0 the weights are bounded."""
        return tail_shape(self.shares)

    @cached_property
    def free_energy(self) -> Estimate:
        """−log Z in nats."""
        scaled, shift = _scaled(self.log_weights)
        found = jackknife(with_count(scaled), lambda sums: -log_mean(sums))
        return Estimate(found.value - shift, found.standard_error)

    @cached_property
    def acceptance(self) -> Estimate:
        """How often a Metropolis chain at rest, for which q proposes, would accept: E min(1, w'/w)."""
        n = len(self)
        ascending, order = self.shares.sort()
        rank = torch.arange(n, dtype=torch.float64)
        # Σ_{j≠i} min(w_i, w_j): those below i, and w_i for each one above.
        smaller = torch.empty_like(ascending)
        smaller[order] = ascending.cumsum(0) - ascending + (n - 1 - rank) * ascending
        without = (smaller.sum() - 2 * smaller) / ((n - 2) * (1 - self.shares))
        return Estimate(float(smaller.sum() / (n - 1)), spread(without) if n > 2 else math.inf)

    def mean(self, values: Tensor) -> Estimate:
        """Mean of an observable under the law, Σ w O/Σ w.

        Args:
            values: The observable of each sample, shape (n,).
        """
        check_per_sample("values", values, len(self))
        scaled, _ = _scaled(self.log_weights)
        return jackknife(torch.stack([scaled * values, scaled], 1), lambda s: s[..., 0] / s[..., 1])

    @property
    def warnings(self) -> list[str]:
        """What is wrong with the weights, as sentences; empty if they can be relied upon."""
        found = []
        if self.largest_share > LARGEST_SHARE:
            found.append(
                f"one of {len(self)} samples carries {100 * self.largest_share:.0f} % of the weight: the error bars "
                "are too small, and so may the estimates be."
            )
        if self.tail_shape > HEAVY_TAIL:
            found.append(
                f"the weights have a heavy tail (shape {self.tail_shape:.2f}, above {HEAVY_TAIL}): the model misses "
                "part of the law, and more samples will change the result."
            )
        if self.trace_noise > LOUD_TRACE:
            found.append(
                f"log-densities are uncertain by {self.trace_noise:.1f} nats, which costs most of the samples: take "
                "more probes, or the exact trace."
            )
        return found


def importance_weights(log_prob: Tensor, action: Tensor, standard_error: Tensor | None = None) -> ImportanceWeights:
    """Weights of samples whose density is known, under a law e^{−S}/Z.

    Args:
        log_prob: log q of each sample, in nats, shape (n,), n ≥ 2.
        action: S of each sample, shape (n,); inf where the law has no density.
        standard_error: Of each log_prob, in nats, shape (n,), if it is an unbiased estimate; see the module's text.

    Raises:
        ValueError: fewer than two samples, shapes differ, or a value is not finite.
    """
    log_weights, noise = _log_weights(log_prob, action, standard_error)
    if bool((log_weights == -math.inf).all()):
        raise ValueError("the action is infinite for every sample: the model never meets the law.")
    return ImportanceWeights(log_weights, noise)


def reverse_free_energy(
    log_prob: Tensor, action: Tensor, standard_error: Tensor | None = None, blocks: Tensor | None = None
) -> Estimate:
    """−log Z = log E[q e^{S}], from samples of the law itself.

    Args:
        log_prob: log q of each sample of the law, in nats, shape (n,).
        action: S of each, shape (n,).
        standard_error: Of each log_prob, if it is an estimate.
        blocks: Whole numbers that are equal for samples that may be correlated, such as one a chain, shape (n,).

    Raises:
        ValueError: as `importance_weights`.
    """
    scaled, shift = _scaled(_log_inverse_weights(log_prob, action, standard_error))
    found = jackknife(with_count(scaled), log_mean, blocks)
    return Estimate(found.value + shift, found.standard_error)


def bennett_free_energy(
    weights: ImportanceWeights,
    log_prob: Tensor,
    action: Tensor,
    standard_error: Tensor | None = None,
    blocks: Tensor | None = None,
) -> Estimate:
    """−log Z from samples of the model and of the law together, by Bennett's acceptance ratio.

    With a noisy log q it is unbiased to first order in σ² only, since its weights are not linear in e^{−S}/q.

    Args:
        weights: Of the model's samples.
        log_prob: log q of each sample of the law, in nats, shape (n,).
        action: S of each, shape (n,).
        standard_error: Of each log_prob, if it is an estimate.
        blocks: As in `reverse_free_energy`.

    Raises:
        ValueError: as `importance_weights`.
    """
    model, law = weights.log_weights, -_log_inverse_weights(log_prob, action, standard_error)
    odds = math.log(len(law) / len(model))

    def excess(log_z: float) -> float:
        return float(torch.sigmoid(model - log_z + odds).sum() - torch.sigmoid(log_z - law - odds).sum())

    ends = torch.cat([model[model.isfinite()], law])
    reach = abs(odds) + math.log(len(model) + len(law)) + 1
    log_z = float(brentq(excess, float(ends.min()) - reach, float(ends.max()) + reach, xtol=1e-10))  # type: ignore[arg-type]
    # At a fixed constant both means are plain ones, and the root does not move their ratio to first order.
    parts = (
        jackknife(with_count(torch.sigmoid(model - log_z + odds)), log_mean),
        jackknife(with_count(torch.sigmoid(log_z - law - odds)), log_mean, blocks),
    )
    return Estimate(-log_z, math.hypot(*(part.standard_error for part in parts)))


def _log_weights(log_prob: Tensor, action: Tensor, standard_error: Tensor | None) -> tuple[Tensor, float]:
    """−S − log q − σ²/2, and the root mean square of σ."""
    for name, x in (("log_prob", log_prob), ("action", action), ("standard_error", standard_error)):
        if x is None:
            continue
        check_per_sample(name, x, len(log_prob))
        bad = x.isnan() | ((x == -math.inf) if name == "action" else x.isinf())
        if bool(bad.any()):
            first = int(bad.nonzero()[0])
            raise ValueError(f"{name} must be finite; got {float(x[first])} for sample {first}.")
    if len(log_prob) < 2:
        raise ValueError(f"importance weights need at least 2 samples; got {len(log_prob)}.")
    variance = torch.zeros(()) if standard_error is None else standard_error.detach().double().square()
    found = -action.detach().double() - log_prob.detach().double() - 0.5 * variance
    return found, math.sqrt(float(variance.mean()))


def _log_inverse_weights(log_prob: Tensor, action: Tensor, standard_error: Tensor | None) -> Tensor:
    """log q + S − σ²/2 of samples of the law; the noise of log q enters with the other sign, its bias with the same."""
    if bool(torch.isinf(action).any()):
        raise ValueError("the action is infinite for a sample of the law: it is another law's sample.")
    found, _ = _log_weights(-log_prob, -action, standard_error)
    return found


def _scaled(logs: Tensor) -> tuple[Tensor, float]:
    """Exponentials relative to the largest, and the log of that."""
    top = float(logs.max())
    return torch.exp(logs - top), top
