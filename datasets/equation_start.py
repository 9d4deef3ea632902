"""Where runs of an equation start: each variable at a mean, a number or an expression, and a Gaussian random field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from physdiff.basis import SpectralBasis
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid

from .by_variable import by_name, positive
from .expressions import FUNCTIONS, checked
from .py_pde_solver import Equation

_SMOOTHNESS = 2.5  # of the Matérn field that runs start from; its slopes are continuous


@dataclass(frozen=True)
class Start:
    """The law of the fields of a run at time 0.

    Attributes:
        means: Expression of each variable's mean.
        amplitudes: Standard deviation of each variable's random part.
        lengths: Its correlation length.
        laws: Of the random parts, where there are any.
    """

    means: Mapping[str, str]
    amplitudes: Mapping[str, float]
    lengths: Mapping[str, float]
    laws: Mapping[str, GaussianField]

    @classmethod
    def of(
        cls, grid: Grid, rhs: Mapping[str, str], names: Mapping[str, Any], mean: Any, amplitude: Any, length: Any
    ) -> Start:
        """As the settings of the recipe say it.

        Args:
            grid: Where fields live.
            rhs: Right hand side of each variable.
            names: Names that a mean may hold, by what they are.
            mean: A number or an expression of all variables, or one for each by name.
            amplitude: A number, or one for each variable by name.
            length: The same.

        Raises:
            ValueError: a mean is no expression, a number is out of range, or a name is that of no variable.
        """
        means = {
            name: checked(f"mean of '{name}'", text, names, FUNCTIONS)
            for name, text in by_name("mean", mean, rhs, 0.0).items()
        }
        amplitudes = positive("amplitude", by_name("amplitude", amplitude, rhs, 0.0), may_be_zero=True)
        lengths = positive("length", by_name("length", length, rhs, 1.0))
        laws = {
            name: GaussianField.matern(SpectralBasis(grid), lengths[name], _SMOOTHNESS, amplitudes[name])
            for name in rhs
            if amplitudes[name]
        }
        return cls(means, amplitudes, lengths, laws)

    def draw(self, equation: Equation, constants: Mapping[str, float], generator: np.random.Generator) -> np.ndarray:
        """Fields of one run, shape (variables, *grid), float64."""
        fields = np.stack([equation.field(text, constants) for text in self.means.values()])
        for place, name in enumerate(self.means):
            # Drawn for every variable, so that an amplitude of 0 leaves the others what they are.
            source = torch.Generator().manual_seed(int(generator.integers(2**63)))
            if name in self.laws:
                fields[place] += self.laws[name].sample(1, source)[0, 0].double().numpy()
        return fields

    def __str__(self) -> str:
        return "; ".join(f"{name}: {text}{self._random_part(name)}" for name, text in self.means.items())

    def _random_part(self, name: str) -> str:
        if not self.amplitudes[name]:
            return ""
        return (
            f", and a Gaussian field of standard deviation {self.amplitudes[name]:g} and correlation length "
            f"{self.lengths[name]:g}"
        )
