"""A process that remembers its solution: for one solved by quadrature, which is asked for the same few times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from physdiff.process import LinearProcess


@dataclass(frozen=True, eq=False)
class Remembered(LinearProcess):
    """Another process, with gain and variance computed once for each pair of times of shape ().

    Attributes:
        process: The other process.
    """

    process: LinearProcess
    _known: dict[Any, Tensor] = field(default_factory=dict)

    def __getattribute__(self, name: str) -> Any:
        # What a class declares of itself is that of the other process.
        if name in ("starts_clean", "forgets", "refines", "amplitude_exponent", "start_variance"):
            return getattr(self.process, name)
        return super().__getattribute__(name)

    def drift_symbol(self, time: Tensor) -> Tensor:
        return self.process.drift_symbol(time)

    def noise_spectrum(self, time: Tensor) -> Tensor:
        return self.process.noise_spectrum(time)

    def log_gain(self, time: Tensor, since: Tensor) -> Tensor:
        return self._once(self.process.log_gain, time, since)

    def variance(self, time: Tensor, since: Tensor) -> Tensor:
        return self._once(self.process.variance, time, since)

    def _once(self, moment: Callable[[Tensor, Tensor], Tensor], time: Tensor, since: Tensor) -> Tensor:
        if time.ndim or since.ndim:
            return moment(time, since)
        key = (moment.__name__, float(time), float(since))
        if key not in self._known:
            self._known[key] = moment(time, since)
        return self._known[key]


def remembered(process: LinearProcess) -> LinearProcess:
    """A process with its solution remembered, if it is not in closed form."""
    if is_solved(type(process)) or isinstance(process, Remembered):
        return process
    return Remembered(process.basis, process, clock=process.clock)


def is_solved(cls: type[LinearProcess]) -> bool:
    """Whether the variance is in closed form."""
    return cls.variance is not LinearProcess.variance
