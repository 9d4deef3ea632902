"""Physical units to and from numbers of order 1, invertible and with their determinant; one kind for each channel."""

from physdiff.data.normalise.affine import Robust, Standardise
from physdiff.data.normalise.by_kind import KINDS, kinds_of, normaliser_from_dict
from physdiff.data.normalise.curved import Curved, Log, Power
from physdiff.data.normalise.normaliser import Normaliser, log_det
from physdiff.data.normalise.per_variable import PerVariable
from physdiff.data.normalise.precision import in_physical_units

__all__ = [
    "KINDS", "Curved", "Log", "Normaliser", "PerVariable", "Power", "Robust", "Standardise", "in_physical_units",
    "kinds_of", "log_det", "normaliser_from_dict",
]  # fmt: skip
