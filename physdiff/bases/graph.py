r"""Nodes of a graph, and the eigenvectors of its Laplacian.

With symmetric weights w_ij ≥ 0 and volumes v_i of the nodes the Laplacian of values f is

    (−Δf)_i = (1/v_i) Σ_j w_ij (f_i − f_j).

v = 1 is the combinatorial Laplacian D − W; v = D, the degrees, the symmetric normalised one; v_i the volume of a cell
and w_ij = (area of the shared face)/(distance) that of finite volumes on any mesh. It is symmetric for the inner
product Σ v_i f_i g_i. A field therefore is x = √(v/v̄)·f, on which −Δ is the symmetric matrix

    L = v^{−1/2} (D − W) v^{−1/2} = U Λ Uᵀ,    Λ ≥ 0, and 0 once for each connected component.

With equal volumes a field is its values. What holds on a grid holds here: white noise is independent from node to node,
heat conducts along edges, a Matérn field has the spectrum (κ² + λ)^{−α}. Modes have no partner −k: no wave travels.

*Few modes of many nodes.* k < n eigenvectors A are completed by the block reflector Q = I − W M Wᵀ, W = A − E S, with
E the first k unit vectors, S signs and M = (I − A₁ᵀS)^{−1}, A₁ = EᵀA. From WᵀW = M^{−1} + M^{−T} it is orthogonal, and
Q E S = A; to apply it costs O(nk), and no n × n matrix is made. On the rest −Δ acts as its mean there,
(tr L − Σλ)/(n − k). The signs are those for which elimination of A₁ − S has no pivot below 1.

Source: Chung (1997), ch. 1, for graphs; Ballard et al. (2014), sec. 4, for the signs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy import sparse
from scipy.sparse import csgraph
from torch import Tensor

from physdiff.basis import Basis

# Dense eigendecompositions of more nodes take minutes and gigabytes on a CPU.
DENSE_LIMIT = 4096


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes joined by weighted edges.

    Attributes:
        adjacency: w, symmetric, ≥ 0, without self loops, shape (n, n), scipy sparse; 1/length² if volumes are 1.
        volumes: v of the nodes, shape (n,), positive. None for 1 (combinatorial Laplacian); `"degree"` for the degrees
            (symmetric normalised Laplacian, eigenvalues in [0, 2]).
        dimension: d of the space that the graph samples, for Matérn spectra: 2 for the mesh of a surface.

    Raises:
        ValueError: the matrix is no adjacency (the first offending edge is named), or a volume is not positive.
    """

    adjacency: sparse.csr_array
    volumes: np.ndarray
    dimension: float

    def __init__(self, adjacency: Any, volumes: Any = None, dimension: float = 1.0) -> None:
        weights = _checked(adjacency)
        n = len(weights.indptr) - 1
        if volumes is None:
            volumes = np.ones(n)
        elif isinstance(volumes, str):
            if volumes != "degree":
                raise ValueError(f"volumes of a graph are numbers or 'degree'; got '{volumes}'.")
            volumes = weights.sum(1)
        volumes = np.array(volumes, dtype=np.float64)
        if volumes.shape != (n,):
            raise ValueError(f"a graph of {n} nodes needs {n} volumes; got the shape {volumes.shape}.")
        bad = np.flatnonzero(~(np.isfinite(volumes) & (volumes > 0)))
        if len(bad):
            raise ValueError(f"volumes must be positive and finite; node {bad[0]} has {volumes[bad[0]]:g}.")
        if not dimension > 0:
            raise ValueError(f"the dimension of a graph must be positive; got {dimension}.")
        for name, value in (("adjacency", weights), ("volumes", volumes), ("dimension", float(dimension))):
            object.__setattr__(self, name, value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graph) and self._content == other._content

    def __hash__(self) -> int:
        return hash(self._content)

    @cached_property
    def _content(self) -> tuple[Any, ...]:
        w = self.adjacency
        parts = (w.indptr.astype(np.int64), w.indices.astype(np.int64), w.data, self.volumes)
        return (*(part.tobytes() for part in parts), self.dimension)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n,)."""
        return self.volumes.shape

    @property
    def ndim(self) -> int:
        """1: values are one list, whatever the dimension."""
        return 1

    @property
    def size(self) -> int:
        """Number of nodes."""
        return len(self.volumes)

    @property
    def dims(self) -> tuple[str, ...]:
        """("node",)."""
        return ("node",)

    @property
    def boundary(self) -> tuple[str, ...]:
        """("nodes",): nothing leaves a graph, and no wave travels along it."""
        return ("nodes",)

    @property
    def cell_volume(self) -> float:
        """v̄: mean volume of a node."""
        return float(self.volumes.mean())

    @property
    def extent(self) -> tuple[float, ...]:
        """Distance to the farthest node from one at the far end of the largest component; edges are √(v/w) long.

        1 for a graph without edges.
        """
        return (self._length,)

    @cached_property
    def _length(self) -> float:
        w = self.adjacency.tocoo()
        if w.nnz == 0:
            return 1.0
        lengths = np.sqrt(0.5 * (self.volumes[w.coords[0]] + self.volumes[w.coords[1]]) / w.data)
        edges = sparse.csr_array((lengths, w.coords), shape=w.shape)
        start = int(np.argmax(np.bincount(self.components)[self.components]))
        far = _farthest(edges, start)[0]
        return _farthest(edges, far)[1]

    @cached_property
    def components(self) -> np.ndarray:
        """Number of the connected component of each node, shape (n,)."""
        return csgraph.connected_components(self.adjacency, directed=False)[1]

    @cached_property
    def laplacian(self) -> sparse.csr_array:
        """L = v^{−1/2} (D − W) v^{−1/2}, shape (n, n), sparse."""
        root = sparse.diags_array(self.volumes**-0.5)
        degrees = sparse.diags_array(self.adjacency.sum(1))
        return sparse.csr_array(root @ (degrees - self.adjacency) @ root)

    def weigh(self, values: Tensor) -> Tensor:
        """Fields x = √(v/v̄)·f of values at the nodes, shape (..., n)."""
        return values * self._root_share.to(values)

    def unweigh(self, fields: Tensor) -> Tensor:
        """Values at the nodes of fields, shape (..., n)."""
        return fields / self._root_share.to(fields)

    @cached_property
    def _root_share(self) -> Tensor:
        return torch.from_numpy(np.sqrt(self.volumes / self.volumes.mean()))

    def resized(self, shape: tuple[int, ...]) -> Graph:
        """The first shape[0] nodes and the edges between them."""
        n = min(shape[0], self.size)
        return Graph(self.adjacency[:n][:, :n], self.volumes[:n], self.dimension)

    def describe(self) -> str:
        """One line for people: `12 nodes, 15 edges`."""
        unequal = "" if np.ptp(self.volumes) == 0 else f", volumes {self.volumes.min():.3g} to {self.volumes.max():.3g}"
        return f"{self.size} nodes, {self.adjacency.nnz // 2} edges{unequal}"


def _farthest(lengths: sparse.csr_array, start: int) -> tuple[int, float]:
    """The node that is farthest from another one of the same component, and its distance."""
    distance = csgraph.dijkstra(lengths, indices=start)
    distance[~np.isfinite(distance)] = -1.0  # other components
    return int(np.argmax(distance)), float(distance.max())


def _checked(adjacency: Any) -> sparse.csr_array:
    """The adjacency in canonical form: one entry an edge and direction, sorted, no zeros."""
    shape = np.shape(adjacency) if not sparse.issparse(adjacency) else adjacency.shape
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] == 0:
        raise ValueError(f"an adjacency is a square matrix of one row a node; got the shape {shape}.")
    weights = sparse.csr_array(adjacency, dtype=np.float64, copy=True)
    weights.sum_duplicates()
    weights.eliminate_zeros()
    entries = weights.tocoo()
    rows, columns = entries.coords

    def refuse(wrong: np.ndarray, why: str) -> None:
        if wrong.any():
            e = int(np.argmax(wrong))
            i, j = int(rows[e]), int(columns[e])
            raise ValueError(f"{why}; edge ({i}, {j}) has {entries.data[e]:g}, ({j}, {i}) has {weights[j, i]:g}.")

    refuse(~np.isfinite(entries.data), "weights of a graph must be finite")
    refuse(entries.data < 0, "weights of a graph must be ≥ 0")
    refuse(rows == columns, "a graph has no self loops: they do not enter its Laplacian")
    backward = np.asarray(weights.T.tocsr()[rows, columns]).ravel() if len(rows) else entries.data
    refuse(np.abs(entries.data - backward) > 1e-12 * np.abs(entries.data), "the weights of a graph must be symmetric")
    return sparse.csr_array(0.5 * (weights + weights.T))


class GraphBasis(Basis):
    """Eigenvectors of a graph's Laplacian (see the module's text).

    Args:
        graph: The nodes.
        eigenvalues: λ, shape (k,), k ≤ n; None to compute them all (n ≤ 4096).
        eigenvectors: Of L = v^{−1/2} (D − W) v^{−1/2}, orthonormal columns, shape (n, k), such as
            `scipy.sparse.linalg.eigsh(graph.laplacian, ...)` finds. With k < n the remaining modes are not `resolved`.

    Raises:
        ValueError: too many nodes to decompose, or the given vectors are not orthonormal eigenvectors (the worst is
            named).
    """

    grid: Graph

    def __init__(self, graph: Graph, eigenvalues: Any = None, eigenvectors: Any = None) -> None:
        self._given = eigenvectors is not None
        if (eigenvalues is None) != (eigenvectors is None):
            raise ValueError("a graph basis takes eigenvalues and eigenvectors together, or neither.")
        if eigenvectors is None:
            if graph.size > DENSE_LIMIT:
                raise ValueError(
                    f"a graph of {graph.size} nodes is too large for a dense eigendecomposition (at most "
                    f"{DENSE_LIMIT}); give the lowest eigenvalues and eigenvectors, e.g. of scipy.sparse.linalg.eigsh."
                )
            values, vectors = np.linalg.eigh(graph.laplacian.toarray())
        else:
            values, vectors = _checked_modes(graph, np.asarray(eigenvalues, float), np.asarray(eigenvectors, float))
        # A mode that is constant on every component has λ = 0 exactly; rounding there would be divided by.
        values = np.where(_constant_share(graph, vectors) > 0.5, 0.0, values)
        n, k = vectors.shape
        rest = max(float(graph.laplacian.diagonal().sum() - values.sum()), 0.0) / max(n - k, 1)
        super().__init__(graph, torch.arange(n) < k)
        self._laplacian = torch.from_numpy(np.concatenate([values, np.full(n - k, rest)]))
        self._factors: dict[tuple[torch.dtype, torch.device], tuple[Tensor, ...]] = {}
        self._exact = (torch.from_numpy(vectors),) if k == n else _reflector(vectors)

    def _matrices(self, x: Tensor) -> tuple[Tensor, ...]:
        key = (x.dtype, x.device)
        if key not in self._factors:
            self._factors[key] = tuple(factor.to(x) for factor in self._exact)
        return self._factors[key]

    def forward(self, x: Tensor) -> Tensor:
        if len(self._exact) == 1:
            return x @ self._matrices(x)[0]
        w, m, signs = self._matrices(x)
        return signs * (x - (x @ w) @ m @ w.T)

    def inverse(self, y: Tensor) -> Tensor:
        if len(self._exact) == 1:
            return y @ self._matrices(y)[0].T
        w, m, signs = self._matrices(y)
        y = signs * y
        return y - (y @ w) @ m.T @ w.T

    def reflect(self, y: Tensor) -> Tensor:
        return y

    @property
    def laplacian(self) -> Tensor:
        return self._laplacian

    @property
    def constant_along_periodic(self) -> Tensor:
        return torch.ones(self.grid.shape, dtype=torch.bool)

    def derivative(self, axis: int) -> Tensor:
        raise ValueError("a graph has no direction along which to differentiate; only its Laplacian is a symbol.")

    def on(self, grid: Graph) -> GraphBasis:
        return self if grid == self.grid else GraphBasis(grid)


def _checked_modes(graph: Graph, values: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    n = graph.size
    if (
        vectors.ndim != 2
        or vectors.shape[0] != n
        or not 1 <= vectors.shape[1] <= n
        or values.shape != vectors.shape[1:]
    ):
        raise ValueError(
            f"a graph of {n} nodes has eigenvectors of shape ({n}, k) and k eigenvalues, 1 ≤ k ≤ {n}; got "
            f"{vectors.shape} and {values.shape}."
        )
    defect = np.abs(vectors.T @ vectors - np.eye(vectors.shape[1]))
    if not defect.max() <= 1e-8:
        i, j = (int(a) for a in np.unravel_index(np.argmax(defect), defect.shape))
        raise ValueError(f"eigenvectors must be orthonormal: the product of {i} and {j} is off by {defect[i, j]:.2g}.")
    largest = max(2 * float(graph.laplacian.diagonal().max()), 1e-300)  # Gershgorin
    residual = np.linalg.norm(graph.laplacian @ vectors - vectors * values, axis=0) / largest
    if not residual.max() <= 1e-6:
        i = int(np.argmax(residual))
        raise ValueError(
            f"mode {i} is no eigenvector of the graph's Laplacian with the eigenvalue {values[i]:.6g}: the residual is "
            f"{residual[i]:.2g} of the largest eigenvalue."
        )
    return values, vectors


def _constant_share(graph: Graph, vectors: np.ndarray) -> np.ndarray:
    """Share of each vector's energy that is constant on the connected components, shape (k,)."""
    members = sparse.csr_array((np.sqrt(graph.volumes), (graph.components, np.arange(graph.size))))
    volumes = np.bincount(graph.components, weights=graph.volumes)
    return ((members @ vectors) ** 2 / volumes[:, None]).sum(0)


def _reflector(vectors: np.ndarray) -> tuple[Tensor, ...]:
    """W, M and signs with (I − W M Wᵀ) diag(signs) orthogonal, its first columns the vectors."""
    n, k = vectors.shape
    top, signs = vectors[:k].copy(), np.ones(n)
    for j in range(k):
        signs[j] = -1.0 if top[j, j] >= 0 else 1.0
        top[j, j] -= signs[j]
        top[j + 1 :, j] /= top[j, j]
        top[j + 1 :, j + 1 :] -= np.outer(top[j + 1 :, j], top[j, j + 1 :])
    w = vectors - np.eye(n, k) * signs[:k]
    m = np.linalg.inv(np.eye(k) - vectors[:k].T * signs[:k])
    return tuple(torch.from_numpy(np.ascontiguousarray(a)) for a in (w, m, signs))
