"""What exactness costs: transforms by matrix and by FFT, and the Gaussian part beside one call of the network.

Every comparison is of calls that alternate in one run, and a number is the median of the ratios of neighbours: what
else the machine does falls on both alike.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from physdiff import Denoiser, GaussianField, Grid, ReferencePath, SpectralBasis, basis, fit_clock
from physdiff.networks import UNet
from physdiff.process import LinearProcess
from physdiff.registry import processes

Call = Callable[[], object]

SIZES = (16, 32, 64, 96, 128, 192, 256, 384, 512, 1024)
# Cells of a stack of lines: as many as a cube of 64 along each axis has.
STACKED = 2**18


def measure() -> str:
    """The report, in Markdown."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    parts = [
        "# Transforms and the exact part\n",
        "`python -m experiments.benchmarks transforms` (`make bench`) writes this page.\n",
        f"Machine: {machine()}.\n",
        _by_size(),
        _beside_the_network(),
    ]
    return "\n".join(parts)


def machine() -> str:
    """What the numbers depend on."""
    return (
        f"{platform.machine()}, {os.cpu_count()} cores of which {torch.get_num_threads()} used, no accelerator; "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def ratios(calls: dict[str, Call], repeats: int) -> tuple[dict[str, float], dict[str, float]]:
    """Median seconds of each call, and its median ratio to the first call of the same round."""
    for call in calls.values():
        call()
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - start)
    first = taken[next(iter(calls))]
    seconds = {name: statistics.median(values) for name, values in taken.items()}
    to_first = {
        name: statistics.median(a / b for a, b in zip(values, first, strict=True)) for name, values in taken.items()
    }
    return seconds, to_first


@contextmanager
def matrices_up_to(limit: int):
    """Within the block, walls of up to `limit` cells are transformed by a matrix."""
    kept, basis.MATRIX_LIMIT = basis.MATRIX_LIMIT, limit
    try:
        yield
    finally:
        basis.MATRIX_LIMIT = kept


def _by_size() -> str:
    rows = []
    for n in SIZES:
        cells = [str(n)]
        for boundary in ("neumann", "dirichlet"):
            square, line = SpectralBasis(Grid((n, n), 1.0, boundary)), SpectralBasis(Grid(n, 1.0, boundary))
            for spectral, batch in ((square, 1), (line, STACKED // n)):
                cells.append(_matrix_to_fft(spectral, batch))
        rows.append(" | ".join(cells))
    return _table(
        "Time of the matrix product divided by that of the FFT, float64, axes of n cells with walls, to modes and "
        "back. Below 1 the matrix is faster. A square is one field of n x n cells, transformed along both axes; "
        f"lines are {STACKED:,} cells in all, as many as in a cube of 64 along each axis. The code takes the matrix "
        f"for n up to {basis.MATRIX_LIMIT}.",
        ["n", "cosine, square", "cosine, lines", "sine, square", "sine, lines"],
        rows,
    )


def _matrix_to_fft(spectral: SpectralBasis, batch: int) -> str:
    shape = (batch, *spectral.grid.shape)
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def there_and_back(limit: int) -> Call:
        def call() -> Tensor:
            with matrices_up_to(limit):
                return spectral.inverse(spectral.forward(x))

        return call

    calls = {"fft": there_and_back(0), "matrix": there_and_back(10**9)}
    _, to_first = ratios(calls, repeats=11 if x.numel() > 10**6 else 31)
    return f"{to_first['matrix']:.2f}"


@dataclass(frozen=True)
class Setting:
    """A field and the network that is asked about it.

    Attributes:
        grid: Where the field lives.
        width: Features of the network's finest level.
        process: Name of the physics.
    """

    grid: Grid
    width: int
    process: str

    def __str__(self) -> str:
        cells = "x".join(map(str, self.grid.shape))
        return f"{self.process}, {cells} {self.grid.boundary[0]}, width {self.width}"


SETTINGS = (
    Setting(Grid((256, 256), 1.0, "periodic"), 32, "Heat"),
    Setting(Grid((256, 256), 1.0, "neumann"), 32, "Heat"),
    Setting(Grid((256, 256), 1.0, "periodic"), 32, "Matern"),
    Setting(Grid((256, 256), 1.0, "periodic"), 32, "DampedWave"),
    Setting(Grid((256, 256), 1.0, "periodic"), 32, "AdvectionDiffusion"),
    Setting(Grid((64, 64, 64), 1.0, "periodic"), 16, "Heat"),
    Setting(Grid((64, 64, 64), 1.0, "neumann"), 16, "Heat"),
    Setting(Grid((64, 64, 64), 1.0, "periodic"), 16, "AdvectionDiffusion"),
)


class _Echo(nn.Module):
    """A network of no cost, in the precision of the real one."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, time: Tensor, condition: Tensor | None = None) -> Tensor:
        return x


def _path(process: LinearProcess) -> ReferencePath:
    reference = GaussianField.matern(process.basis, max(process.basis.grid.extent) / 8)
    return ReferencePath(fit_clock(process, reference), reference)


def _beside_the_network() -> str:
    rows = []
    for setting in SETTINGS:
        spectral = SpectralBasis(setting.grid)
        path = _path(processes.classes()[setting.process](spectral))
        network = UNet(setting.grid, 1, width=setting.width)
        exact = Denoiser(_Echo(), path, mode_scaling=0.5)
        t = torch.tensor(0.5, dtype=torch.float64)
        clean = path.reference.sample(1, torch.Generator().manual_seed(0))
        y = path.at(t).noised(spectral.forward(clean), torch.Generator().manual_seed(1))
        field, times = clean.float(), t.float().expand(1)

        def gaussian_part(exact: Denoiser = exact, y: Tensor = y, t: Tensor = t) -> Tensor:
            return exact.residual(y, t)

        def coefficients(exact: Denoiser = exact, path: ReferencePath = path, t: Tensor = t) -> object:
            point = path.at(t)
            return point.mean, point.variance, exact.output_scale(point)

        def transforms(spectral: SpectralBasis = spectral, y: Tensor = y) -> Tensor:
            return spectral.forward(spectral.inverse(y).float().double())

        def network_call(network: UNet = network, field: Tensor = field, times: Tensor = times) -> Tensor:
            return network(field, times)

        calls: dict[str, Call] = {
            "network": network_call, "exact": gaussian_part, "coefficients": coefficients, "transforms": transforms,
        }  # fmt: skip
        with torch.no_grad():
            seconds, share = ratios(calls, repeats=11)
        cells = [
            str(setting), f"{1e3 * seconds['network']:.0f} ms", f"{1e3 * seconds['exact']:.1f} ms",
            *(f"{100 * share[name]:.1f} %" for name in ("exact", "coefficients", "transforms")),
        ]  # fmt: skip
        rows.append(" | ".join(cells))
    return _table(
        "`Denoiser.residual` with a network of no cost, beside one evaluation of the U-Net (float32, batch 1, no "
        "gradients). Coefficients are those of the path at one time (float64); transforms are one to the field and one "
        "back (float64); what remains is multiplying by them.",
        ["setting", "U-Net", "exact part", "exact/U-Net", "coefficients/U-Net", "transforms/U-Net"],
        rows,
    )


def _table(caption: str, head: list[str], rows: list[str]) -> str:
    rule = "|".join(["---"] * len(head))
    return "\n".join([caption + "\n", f"| {' | '.join(head)} |", f"|{rule}|", *(f"| {row} |" for row in rows), ""])
