"""Fields on disk and in memory: formats, inspection, normalisation."""

from physdiff.data.fields import FieldData, load_fields
from physdiff.data.inspect import inspect
from physdiff.data.normalise import Standardise

__all__ = ["FieldData", "Standardise", "inspect", "load_fields"]
