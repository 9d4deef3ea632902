"""Graphs: known spectra, heat by the matrix exponential, few modes of many nodes, likelihoods, errors at the door."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import fft, linalg, sparse
from scipy.sparse.linalg import eigsh, expm_multiply
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from physdiff import laws
from physdiff.bases import Graph, GraphBasis
from physdiff.basis import SpectralBasis
from physdiff.clock import LinearClock
from physdiff.clock_fit import fit_clock
from physdiff.denoisers import Denoiser, GaussianDenoiser
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.laws.cases import GRAPHS, bimodal, smooth_reference
from physdiff.likelihood import log_likelihood
from physdiff.path import ReferencePath
from physdiff.processes.heat import Heat
from physdiff.processes.matern import Matern
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.solvers import sample

torch.set_num_threads(1)


def path_graph(n: int, weight: float = 1.0, closed: bool = False) -> Graph:
    i = np.arange(n if closed else n - 1)
    j = (i + 1) % n
    weights = np.full(2 * len(i), weight)
    return Graph(sparse.coo_array((weights, (np.r_[i, j], np.r_[j, i])), shape=(n, n)))


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- known graphs


@pytest.mark.parametrize("n", [7, 12])
def test_a_ring_has_the_spectrum_of_periodic_second_differences(n: int) -> None:
    wanted = np.sort(2 - 2 * np.cos(2 * np.pi * np.arange(n) / n))
    np.testing.assert_allclose(GraphBasis(path_graph(n, closed=True)).laplacian.numpy(), wanted, atol=1e-14)


def test_a_path_is_an_insulated_axis() -> None:
    n = 11
    basis, x = GraphBasis(path_graph(n)), normals(3, n)
    np.testing.assert_allclose(basis.laplacian.numpy(), 2 - 2 * np.cos(np.pi * np.arange(n) / n), atol=1e-14)
    # No two eigenvalues are equal, so the modes are those of the DCT-II up to their sign.
    wanted = fft.dct(x.numpy(), type=2, norm="ortho", axis=1)
    np.testing.assert_allclose(basis.forward(x).abs().numpy(), np.abs(wanted), atol=1e-13)


def test_a_chain_of_cells_has_the_matern_spectrum_of_a_fine_grid() -> None:
    n, length = 128, 2.0
    h = length / n
    graph = path_graph(n, weight=1 / h)  # face/distance, and volumes h: finite volumes in one dimension
    chain = GraphBasis(Graph(graph.adjacency, volumes=np.full(n, h)))
    box = SpectralBasis(Grid(n, length, "neumann"))
    assert chain.grid.extent[0] == pytest.approx(length - h)
    assert chain.grid.cell_volume == pytest.approx(box.grid.cell_volume)
    ours, theirs = (GaussianField.matern(basis, 0.5).spectrum[0, :8] for basis in (chain, box))
    # Second differences have λ(1 − (kh)²/12): (7π/128)²/12 = 0.25 % at the eighth mode, to the power 1.5.
    torch.testing.assert_close(ours, theirs, rtol=4e-3, atol=0)


def test_a_mesh_of_a_surface_has_the_matern_spectrum_of_the_plane() -> None:
    n, h = 24, 2.0 / 24
    line = path_graph(n).adjacency  # square cells: face over distance is 1, the volume h²
    graph = Graph(sparse.kron(line, np.eye(n)) + sparse.kron(np.eye(n), line), np.full(n * n, h * h), dimension=2.0)
    ours, theirs = (
        GaussianField.matern(basis, 0.5).spectrum[0].flatten().sort(descending=True).values[:8]
        for basis in (GraphBasis(graph), SpectralBasis(Grid((n, n), 2.0, "neumann")))
    )
    # λ(1 − (kh)²/12) with kh ≤ 3π/24 is 1.3 % low, to the power 2.
    torch.testing.assert_close(ours, theirs, rtol=0.027, atol=0)


def test_the_normalised_laplacian_is_that_of_the_degrees() -> None:
    graph = GRAPHS[1]
    degrees = graph.adjacency.sum(1)
    np.testing.assert_array_equal(graph.volumes, degrees)
    root = np.diag(degrees**-0.5)
    wanted = np.linalg.eigvalsh(np.eye(5) - root @ graph.adjacency.toarray() @ root)
    np.testing.assert_allclose(GraphBasis(graph).laplacian.numpy(), wanted, atol=1e-14)
    assert wanted.max() <= 2


def test_lone_nodes_and_components_have_their_own_constants() -> None:
    basis = GraphBasis(GRAPHS[2])  # a path of four, and a lone node
    assert int((basis.laplacian == 0).sum()) == 2
    assert GRAPHS[2].extent == (3.0,)
    assert GraphBasis(Graph(sparse.coo_array((3, 3)))).laplacian.tolist() == [0.0, 0.0, 0.0]


# ---- physics


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda g: g.describe())
def test_heat_is_the_matrix_exponential(graph: Graph) -> None:
    basis, f = GraphBasis(graph), normals(4, graph.size)
    process = Heat(basis, 0.3, 0.7, clock=LinearClock(2.0))
    kernel = process.kernel(torch.tensor(1.0, dtype=torch.float64))
    moved = graph.unweigh(basis.inverse(basis.apply(kernel.gain, basis.forward(graph.weigh(f)))))
    degrees = sparse.diags_array(graph.adjacency.sum(1))
    conduct = sparse.csc_array(sparse.diags_array(1 / graph.volumes) @ (degrees - graph.adjacency))
    wanted = expm_multiply(-0.3 * 2.0 * conduct, f.numpy().T).T
    np.testing.assert_allclose(moved.numpy(), wanted, atol=1e-13)


@pytest.mark.parametrize("cls", [VariancePreserving, Heat, Matern], ids=lambda c: c.__name__)
def test_check_examines_a_process_on_a_graph(cls: type) -> None:
    report = laws.check(cls(GraphBasis(GRAPHS[0])))
    print(report)
    assert report.passed and len({f.law for f in report.findings}) >= 10
    assert all("GraphBasis" in f.case for f in report.findings)


def test_samples_of_gaussian_data_have_its_covariance() -> None:
    basis = GraphBasis(GRAPHS[0])
    law = smooth_reference(basis)
    path = ReferencePath(fit_clock(Heat(basis), law), law)
    n = 4000
    y = basis.forward(sample(GaussianDenoiser(path), n, steps=1, chunk=n))[:, 0] - law.mean[0]
    whitened = y / law.spectrum[0].sqrt()
    z = (whitened.T @ whitened / n - torch.eye(7)) * np.sqrt(n) / (1 + torch.eye(7)).sqrt()
    print(f"largest |z| of {n} samples' covariances {float(z.abs().max()):.2f}")
    assert float(z.abs().max()) < 5


# ---- likelihoods


class Untrained(nn.Module):
    """A network as it is made: parameters, and an output of zero."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.last * x


def test_untrained_likelihood_is_the_dense_normal() -> None:
    graph = GRAPHS[0]
    basis = GraphBasis(graph)
    law = smooth_reference(basis)
    process = fit_clock(Heat(basis, 0.3, 0.7), law)
    path = ReferencePath(process, law, t_min=0.2)
    x = law.sample(5, torch.Generator().manual_seed(0))
    found = log_likelihood(Denoiser(Untrained(), path), x, scored="state").log_prob
    # Mean and covariance in cells by the matrix exponential; the noise's by van Loan's block exponential.
    time = float(process.physical_time(torch.tensor(0.2, dtype=torch.float64)))
    conduct, u, n = 0.3 * graph.laplacian.toarray(), basis.dense().numpy(), graph.size
    noise = 0.7**2 / graph.cell_volume * np.eye(n)
    block = linalg.expm(time * np.block([[-conduct, noise], [np.zeros((n, n)), conduct]]))
    decay = block[:n, :n]
    covariance = decay @ u @ np.diag(law.spectrum[0].numpy()) @ u.T @ decay.T + block[:n, n:] @ decay.T
    dense = MultivariateNormal(torch.from_numpy(decay @ u @ law.mean[0].numpy()), torch.from_numpy(covariance))
    error = float((found - dense.log_prob(x[:, 0])).abs().max()) / n
    print(f"largest error {error:.1e} nats per dimension")
    assert error < 1e-8


@pytest.mark.parametrize("cls", [VariancePreserving, Heat, Matern], ids=lambda c: c.__name__)
def test_mixture_likelihood_is_the_truth(cls: type) -> None:
    basis = GraphBasis(GRAPHS[0])
    law = smooth_reference(basis)
    mixture = bimodal(fit_clock(cls(basis), law), law, 0.1)
    y = mixture.path.at(0.1).noised(mixture.sample_modes(6, torch.Generator().manual_seed(1)), torch.Generator())
    result = log_likelihood(
        mixture, basis.inverse(y), scored="state", rtol=1e-8, atol=1e-8, terminal=lambda z: mixture.log_prob(z, 1.0)
    )
    truth, gaussian = mixture.log_prob(y, 0.1), result.log_prob_reference
    error = float((result.log_prob - truth).abs().max()) / 7
    print(
        f"error {error:.1e} nats per dimension; of the reference alone {float((gaussian - truth).abs().max()) / 7:.2f}"
    )
    assert error < 1e-6 < 0.05 < float((gaussian - truth).abs().max()) / 7


# ---- few modes of many nodes


def test_few_modes_of_many_nodes_need_no_dense_matrix() -> None:
    n, k = 6000, 12
    graph = path_graph(n)
    with pytest.raises(ValueError, match="6000 nodes is too large for a dense eigendecomposition"):
        GraphBasis(graph)
    values, vectors = eigsh(graph.laplacian, k, sigma=-1e-4)
    basis = GraphBasis(graph, values, vectors)
    x, coefficients = normals(2, n), normals(3, k)
    torch.testing.assert_close(basis.inverse(basis.forward(x)), x, atol=1e-12, rtol=0)
    torch.testing.assert_close(basis.forward(x).norm(dim=1), x.norm(dim=1), rtol=1e-12, atol=0)
    resolved = coefficients @ torch.from_numpy(vectors).T
    modes = basis.forward(resolved)
    torch.testing.assert_close(modes[:, :k], coefficients, atol=1e-11, rtol=0)
    assert float(modes[:, k:].abs().max()) < 1e-11
    torch.testing.assert_close(basis.limit(resolved[:2] + x - basis.limit(x)), resolved[:2], atol=1e-11, rtol=0)
    trace = float(basis.laplacian.sum())
    assert trace == pytest.approx(graph.laplacian.diagonal().sum(), rel=1e-12)


def test_given_modes_may_be_unit_vectors() -> None:
    # Lone nodes first: the given vectors are columns of the identity already, and the wrong signs would be singular.
    graph = Graph(edges((3, 4, 1.0), (4, 3, 1.0), (4, 5, 2.0), (5, 4, 2.0), n=6))
    for vectors in (np.eye(6, 3), -np.eye(6, 3), np.eye(6, 3) * [1, -1, 1]):
        u = GraphBasis(graph, np.zeros(3), vectors).dense()
        torch.testing.assert_close(u.T @ u, torch.eye(6, dtype=torch.float64), atol=1e-14, rtol=0)
        torch.testing.assert_close(u[:, :3], torch.from_numpy(vectors), atol=1e-14, rtol=0)


def test_energy_beyond_the_given_modes_is_refused() -> None:
    whole = GraphBasis(GRAPHS[0])
    basis = GraphBasis(GRAPHS[0], whole.laplacian[:3], whole.dense()[:, :3])
    law = GaussianField.centred(basis, basis.resolved / (1 + basis.laplacian))
    x = normals(2, 1, 7)
    with pytest.raises(ValueError, match="energy outside the support"):
        law.log_prob(x)
    path = ReferencePath(fit_clock(VariancePreserving(basis), law), law)
    result = log_likelihood(Denoiser(Untrained(), path), basis.limit(x))
    assert result.n_support == 3
    y = basis.forward(x)[:, 0, :3]
    wanted = MultivariateNormal(torch.zeros(3, dtype=torch.float64), torch.diag(law.spectrum[0, :3])).log_prob(y)
    torch.testing.assert_close(law.log_prob(basis.limit(x)), wanted, rtol=1e-12, atol=1e-12)


# ---- errors at the door


def edges(*entries: tuple[int, int, float], n: int = 3) -> sparse.coo_array:
    rows, columns, weights = zip(*entries, strict=True)
    return sparse.coo_array((weights, (rows, columns)), shape=(n, n))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Graph(np.ones((2, 3))), "a square matrix of one row a node; got the shape (2, 3)"),
        (lambda: Graph(edges((0, 1, 1.0), (1, 0, 2.0))), "must be symmetric; edge (0, 1) has 1, (1, 0) has 2"),
        (lambda: Graph(edges((2, 1, 4.0))), "must be symmetric; edge (2, 1) has 4, (1, 2) has 0"),
        (lambda: Graph(edges((0, 1, -1.0), (1, 0, -1.0))), "must be ≥ 0; edge (0, 1) has -1"),
        (lambda: Graph(edges((1, 1, 1.0))), "no self loops: they do not enter its Laplacian; edge (1, 1) has 1"),
        (lambda: Graph(edges((0, 1, np.nan), (1, 0, np.nan))), "must be finite; edge (0, 1) has nan"),
        (lambda: Graph(edges((0, 1, 1.0), (1, 0, 1.0)), "degree"), "node 2 has 0"),
        (lambda: Graph(edges((0, 1, 1.0), (1, 0, 1.0)), "area"), "numbers or 'degree'; got 'area'"),
        (lambda: Graph(edges((0, 1, 1.0), (1, 0, 1.0)), [1.0]), "3 nodes needs 3 volumes; got the shape (1,)"),
        (lambda: GraphBasis(path_graph(3), np.zeros(1)), "together, or neither"),
        (lambda: GraphBasis(path_graph(3), np.zeros(2), np.eye(3)), "got (3, 3) and (2,)"),
        (lambda: GraphBasis(path_graph(3), np.zeros(1), np.ones((3, 1))), "the product of 0 and 0 is off by 2"),
        (lambda: GraphBasis(path_graph(3), np.ones(1), np.eye(3, 1)), "mode 0 is no eigenvector"),
        (lambda: GraphBasis(path_graph(3)).derivative(0), "no direction along which to differentiate"),
    ],
)
def test_what_is_no_graph_is_refused(make, words: str) -> None:
    with pytest.raises(ValueError) as error:
        make()
    assert words in str(error.value)


def test_graphs_are_equal_by_content() -> None:
    graph = path_graph(5)
    again = Graph(graph.adjacency.tocoo())
    assert graph == again and hash(graph) == hash(again)
    assert graph != path_graph(5, weight=2.0) and graph != Graph(graph.adjacency, "degree")
    basis = GraphBasis(graph)
    with pytest.raises(ValueError, match="must share one basis"):
        ReferencePath(
            VariancePreserving(basis, clock=LinearClock(5.0)), smooth_reference(GraphBasis(path_graph(5, 2.0)))
        )
    assert basis.on(again) is basis


def test_float32_keeps_its_dtype() -> None:
    basis, x = GraphBasis(GRAPHS[0]), normals(2, 7).float()
    assert basis.forward(x).dtype == torch.float32
    torch.testing.assert_close(basis.inverse(basis.forward(x)), x)
