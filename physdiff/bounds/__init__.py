"""Variational bounds on the log-density of fields."""

from physdiff.bounds.bound import Bound
from physdiff.bounds.continuous import continuous_elbo
from physdiff.bounds.discrete import elbo
from physdiff.bounds.simulated import simulated_elbo

__all__ = ["Bound", "continuous_elbo", "elbo", "simulated_elbo"]
