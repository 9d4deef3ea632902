"""Fields on disk and in memory: formats, what a sample is, splits, statistics, normalisation, loaders."""

from physdiff.data.duplicates import duplicates
from physdiff.data.fields import FieldData, load, load_fields, open_fields
from physdiff.data.fieldset import FieldSet
from physdiff.data.formats import open_source, source_of
from physdiff.data.inspect import inspect
from physdiff.data.layout import Layout
from physdiff.data.normalise import Log, Normaliser, PerVariable, Power, Robust, Standardise
from physdiff.data.repack import repack
from physdiff.data.samples import Samples
from physdiff.data.selection import Selection
from physdiff.data.splits import Split, open_splits
from physdiff.data.statistics import Statistics
from physdiff.data.statistics_file import statistics_of
from physdiff.data.torch_dataset import EpochSampler, FieldDataset

__all__ = [
    "EpochSampler", "FieldData", "FieldDataset", "FieldSet", "Layout", "Log", "Normaliser", "PerVariable", "Power",
    "Robust", "Samples", "Selection", "Split", "Standardise", "Statistics", "duplicates", "inspect", "load",
    "load_fields", "open_fields", "open_source", "open_splits", "repack", "source_of", "statistics_of",
]  # fmt: skip
