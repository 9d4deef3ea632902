r"""Gaussian random fields that are diagonal in a basis, N(μ, U diag(c) Uᵀ): one class, four uses.

The *reference* law fitted to data; a process's terminal law; an exact oracle; the prior of linear-Gaussian
conditioning. Modes with c = 0 are outside the *support*: a mean-free or band-limited field has them. The density is
one on the support, and a field with energy outside it is refused rather than given a density of zero.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from physdiff import spectra
from physdiff.basis import Basis

if TYPE_CHECKING:
    from physdiff.process import LinearProcess


class GaussianField:
    """A Gaussian law of fields.

    Args:
        basis: Where it is diagonal.
        mean: μ in modes, shape (channels, *grid).
        spectrum: c ≥ 0, variance per mode, shape (channels, *grid); equal on {k, −k}.
        floor: Variance per mode below which data counts as rounding, shape (channels,); only for messages and
            for the tolerance of `deviation`.

    Raises:
        ValueError: shapes do not match the grid, or the spectrum is negative, not finite or not symmetric.
    """

    def __init__(self, basis: Basis, mean: Tensor, spectrum: Tensor, floor: Tensor | None = None) -> None:
        shape = tuple(spectrum.shape)
        if shape[1:] != basis.grid.shape or tuple(mean.shape) != shape:
            raise ValueError(
                f"mean and spectrum must have the shape (channels, {', '.join(map(str, basis.grid.shape))}); "
                f"got {tuple(mean.shape)} and {shape}."
            )
        self.basis = basis
        self.mean = mean.to(torch.float64)
        self.spectrum = spectrum.to(torch.float64)
        self.floor = torch.zeros(shape[0], dtype=torch.float64) if floor is None else floor.to(torch.float64)
        if not bool(torch.isfinite(self.spectrum).all()) or bool((self.spectrum < 0).any()):
            raise ValueError("a spectrum must be finite and ≥ 0 in every mode.")
        if not torch.allclose(self.spectrum, basis.symmetrise(self.spectrum), rtol=1e-9, atol=0):
            raise ValueError("a spectrum must be equal at k and −k; use basis.symmetrise(spectrum).")

    # ---- laws with a name

    @classmethod
    def fit(
        cls,
        fields: Tensor,
        basis: Basis,
        noise_level: float | None = None,
        homogeneous: bool = False,
        rounding: Tensor | None = None,
    ) -> GaussianField:
        """The law with the data's mean and its variance per mode, tied over {k, −k}.

        Args:
            fields: Data, shape (n, channels, *grid), n ≥ 2.
            basis: The basis of the law.
            noise_level: Standard deviation per cell of what counts as noise of the data; modes below it leave the
                support. None: only its rounding.
            rounding: Standard deviation per cell of the data's rounding, shape (channels,), where it is not that of
                `fields` itself: subtracting a mean leaves the rounding of what was stored.
            homogeneous: Whether the statistics are the same everywhere along periodic axes: the mean is then constant
                along them.

        Raises:
            ValueError: fewer than two fields, the wrong grid, or no variance at all.
        """
        if fields.ndim != 2 + basis.grid.ndim or tuple(fields.shape[2:]) != basis.grid.shape:
            raise ValueError(
                f"fields must have the shape (n, channels, {', '.join(map(str, basis.grid.shape))}); "
                f"got {tuple(fields.shape)}."
            )
        if len(fields) < 2:
            raise ValueError(f"a spectrum needs at least 2 fields; got {len(fields)}.")
        modes = basis.forward(fields.to(torch.float64))
        mean = modes.mean(0)
        if rounding is None:
            rounding = torch.finfo(fields.dtype).eps * fields.to(torch.float64).square().mean((0, *basis.axes)).sqrt()
        power = (modes - mean).square().mean(0)
        return cls.from_moments(basis, mean, power, len(fields), noise_level, homogeneous, rounding)

    @classmethod
    def from_moments(
        cls,
        basis: Basis,
        mean: Tensor,
        power: Tensor,
        n: int,
        noise_level: float | None = None,
        homogeneous: bool = False,
        rounding: Tensor | None = None,
    ) -> GaussianField:
        """The same law from the moments of n fields' modes, which a pass over the data leaves.

        Args:
            basis: The basis of the law.
            mean: Mean of each mode, shape (channels, *grid).
            power: Mean squared deviation of each mode from it (the sum divided by n), shape (channels, *grid).
            n: Number of fields, at least 2.
            noise_level: As for `fit`.
            homogeneous: As for `fit`.
            rounding: As for `fit`; none when not given.

        Raises:
            ValueError: fewer than two fields, or no variance at all.
        """
        if n < 2:
            raise ValueError(f"a spectrum needs at least 2 fields; got {n}.")
        mean, power = mean.to(torch.float64), power.to(torch.float64)
        if homogeneous:
            # A mean that is known to vanish costs no degree of freedom, and what was found of it is power.
            estimated = basis.constant_along_periodic
            variance = torch.where(estimated, power * (n / (n - 1)), power + mean.square())
            mean = torch.where(estimated, mean, 0.0)
        else:
            variance = power * (n / (n - 1))
        spectrum = basis.symmetrise(variance)
        if rounding is None:
            rounding = torch.zeros(len(spectrum), dtype=torch.float64)
        over_grid = tuple(range(1, spectrum.ndim))
        floor = rounding.to(torch.float64).clamp(min=noise_level or 0.0).square()
        alive = (spectrum > floor.reshape(-1, *[1] * basis.grid.ndim)) & basis.resolved
        if not bool(alive.any(over_grid).all() if over_grid else alive.all()):
            raise ValueError("a channel of the data does not vary: no mode has a variance above its floor.")
        return cls(basis, mean, torch.where(alive, spectrum, 0.0), floor)

    @classmethod
    def centred(cls, basis: Basis, spectrum: Tensor, channels: int = 1) -> GaussianField:
        """Zero mean and one spectrum, shape (*grid), for all channels."""
        spectrum = spectrum.expand(channels, *basis.grid.shape)
        return cls(basis, torch.zeros_like(spectrum), spectrum.clone())

    @classmethod
    def white(cls, basis: Basis, channels: int = 1, standard_deviation: float = 1.0) -> GaussianField:
        """Independent cells."""
        variance = torch.full(basis.grid.shape, standard_deviation**2, dtype=torch.float64)
        return cls.centred(basis, variance, channels)

    @classmethod
    def matern(
        cls, basis: Basis, correlation_length: float, smoothness: float = 1.0, standard_deviation: float = 1.0,
        channels: int = 1,
    ) -> GaussianField:  # fmt: skip
        """A Matérn field; see `physdiff.spectra.matern_spectrum`."""
        c = spectra.matern_spectrum(basis, correlation_length, smoothness, standard_deviation)
        return cls.centred(basis, c * basis.resolved, channels)

    @classmethod
    def power_law(
        cls, basis: Basis, exponent: float, standard_deviation: float = 1.0, channels: int = 1
    ) -> GaussianField:
        """Variance per mode ∝ |k|^−exponent without a mean; see `physdiff.spectra.power_law_spectrum`."""
        c = spectra.power_law_spectrum(basis, exponent, standard_deviation) * basis.resolved
        return cls.centred(basis, c * standard_deviation**2 / c.mean(), channels)

    # ---- what it is

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.spectrum.shape[0]

    @cached_property
    def support(self) -> Tensor:
        """Modes that vary, shape (channels, *grid), bool."""
        return self.spectrum > 0

    @cached_property
    def n_support(self) -> int:
        """Degrees of freedom."""
        return int(self.support.sum())

    def at(self, process: LinearProcess, t: float) -> GaussianField:
        """This law carried through a process to time t ∈ [0, 1]; modes outside the support receive no noise."""
        kernel = process.kernel(torch.tensor(t, dtype=torch.float64))
        mean = self.basis.apply(kernel.gain, self.mean)
        carried = torch.exp(2 * kernel.log_gain.real) * self.spectrum + kernel.variance
        return GaussianField(self.basis, mean, torch.where(self.support, carried, 0.0), self.floor)

    # ---- what it does

    def sample(self, n: int, generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
        """Fields, shape (n, channels, *grid), float64, on a device; the numbers are drawn where the generator is."""
        noise = torch.randn(
            (n, *self.spectrum.shape), generator=generator, dtype=torch.float64, device=generator.device
        ).to(device)
        return self.basis.inverse(self.mean.to(device) + self.spectrum.sqrt().to(device) * noise)

    def deviation(self, x: Tensor) -> Tensor:
        """Modes of x − μ on the support, shape as x, float64.

        Raises:
            ValueError: x is not on the grid, holds a value that is not finite, or has energy outside the support.
        """
        check_fields(x, self.channels, self.basis)
        modes = self.basis.forward(x.to(torch.float64)) - self.mean.to(x.device)
        support = self.support.to(x.device)
        outside = torch.where(support, 0.0, modes).square()
        if bool(outside.any()):
            scale = modes.square().mean() + self.mean.square().mean().to(x.device)
            rounding = 1e4 * torch.finfo(x.dtype).eps ** 2 * scale
            allowed = torch.clamp(100 * self.floor.to(x.device), min=float(rounding))  # below rounding none can be seen
            worst = outside.amax(tuple(range(2, outside.ndim)))
            if bool((worst > allowed).any()):
                i, c = (int(j) for j in (worst > allowed).nonzero()[0])
                raise ValueError(
                    f"field {i}, channel {c} has energy outside the support of the law: a mode without variance "
                    f"deviates from the mean by {float(worst[i, c].sqrt()):.3g} "
                    f"(allowed {float(allowed[c].sqrt()):.3g})."
                )
        return torch.where(support, modes, 0.0)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density on the support in nats, shape (n,), of fields of shape (n, channels, *grid)."""
        return self.log_prob_of_deviation(self.deviation(x))

    def log_prob_of_deviation(self, modes: Tensor) -> Tensor:
        """Log-density of modes of x − μ that lie on the support, shape (n, channels, *grid) to (n,)."""
        c, support = self.spectrum.to(modes.device), self.support.to(modes.device)
        terms = torch.where(support, modes.square() / torch.where(support, c, 1.0), 0.0).flatten(1).sum(1)
        return -0.5 * (terms + self.log_det + self.n_support * math.log(2 * math.pi))

    @cached_property
    def log_det(self) -> float:
        """log det of the covariance on the support."""
        return float(torch.log(self.spectrum[self.support]).sum())

    def kl(self, other: GaussianField) -> float:
        """KL(self ‖ other) in nats; infinite if the supports differ."""
        if not torch.equal(self.support, other.support):
            return math.inf
        on = self.support
        ratio = self.spectrum[on] / other.spectrum[on]
        shift = (self.mean - other.mean)[on].square() / other.spectrum[on]
        return 0.5 * float((ratio - 1 - torch.log(ratio) + shift).sum())


def check_fields(x: Tensor, channels: int, basis: Basis) -> None:
    """Raise unless x has the shape (n, channels, *grid) and is finite everywhere."""
    if x.ndim != 2 + basis.grid.ndim or tuple(x.shape[1:]) != (channels, *basis.grid.shape):
        raise ValueError(
            f"fields must have the shape (n, {channels}, {', '.join(map(str, basis.grid.shape))}) on the grid "
            f"{basis.grid.describe()}; got {tuple(x.shape)}."
        )
    finite = torch.isfinite(x)
    if not bool(finite.all()):
        first = tuple(int(j) for j in (~finite).nonzero()[0])
        raise ValueError(f"fields hold {int((~finite).sum())} values that are not finite, the first at index {first}.")
