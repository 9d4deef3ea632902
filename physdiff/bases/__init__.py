"""Bases beyond the box: nodes of a graph, and the sphere. Everything above `physdiff.basis` works on them unchanged."""

from physdiff.bases.graph import Graph, GraphBasis
from physdiff.bases.sphere import Sphere, SphereBasis

__all__ = ["Graph", "GraphBasis", "Sphere", "SphereBasis"]
