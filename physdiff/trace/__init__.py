"""Divergence of a velocity field: exactly, or by random probes that are fixed for the whole solve."""

from physdiff.trace.estimator import TraceEstimator
from physdiff.trace.exact import ExactTrace
from physdiff.trace.hutch_plus_plus import HutchPlusPlus
from physdiff.trace.hutchinson import Hutchinson

__all__ = ["ExactTrace", "HutchPlusPlus", "Hutchinson", "TraceEstimator"]
