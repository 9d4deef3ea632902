"""What the loop promises whatever the step rule: seeds, types, conditions, memory, and what it shows on the way."""

from __future__ import annotations

from functools import partial
from importlib import import_module

import pytest
import torch
from torch import Tensor
from tqdm import tqdm

from physdiff.basis import SpectralBasis
from physdiff.clock_fit import fit_clock
from physdiff.denoisers import Denoiser, MixtureDenoiser, PosteriorMean
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.laws.cases import bimodal, smooth_reference
from physdiff.networks.unet import UNet
from physdiff.path import ReferencePath
from physdiff.processes.advection_diffusion import AdvectionDiffusion
from physdiff.processes.heat import Heat
from physdiff.solvers import Euler, Solver, Trajectory, sample, solvers
from physdiff.solvers.memory import free_memory, in_words

EXAMPLES = [example for cls in solvers.classes().values() for example in cls.examples()]
# An adaptive stochastic rule takes a minute.
SLOW = [example for example in EXAMPLES if getattr(example, "tolerance", None) is not None]
REGISTERED = [pytest.param(x, marks=[pytest.mark.slow] if x in SLOW else [], id=str(x)) for x in EXAMPLES]
LIMIT = 10**8  # bytes
LOOP = import_module("physdiff.solvers.sample")  # its name in the package is the function's


class Plain(PosteriorMean):
    """A mixture's denoiser that answers in the state's type, as a network does; a condition scales its residual."""

    def __init__(self, mixture: MixtureDenoiser) -> None:
        super().__init__(mixture.path)
        self.mixture = mixture
        self.batches: list[int] = []

    def residual(self, modes: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        self.batches.append(len(modes))
        found = self.mixture.residual(modes.double(), t).to(modes)
        return found if condition is None else condition.to(modes).reshape(-1, *[1] * (modes.ndim - 1)) * found


class Greedy(Plain):
    """One that takes 8 MB a sample."""

    def residual(self, modes: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        taken = torch.zeros(len(modes), 10**6, dtype=torch.float64)
        return super().residual(modes, t, condition) + taken[0, 0]


class Small(Plain):
    """One on an accelerator that holds two samples."""

    holds = 2

    def residual(self, modes: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        if len(modes) > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().residual(modes, t, condition)


@pytest.fixture(scope="module")
def mixture() -> MixtureDenoiser:
    reference = smooth_reference(SpectralBasis(Grid((3, 4))))
    return bimodal(fit_clock(AdvectionDiffusion(reference.basis, 0.02, 0.4, (0.3, 0.2)), reference), reference, 0.05)


@pytest.mark.parametrize("solver", REGISTERED)
def test_a_sample_is_the_same_in_any_batch(mixture: MixtureDenoiser, solver: Solver) -> None:
    """To rounding; under a rule that measures its error over a batch, to its tolerance."""
    close = 1e-4 if solver.adaptive else 1e-12  # measured 2e-5, 5e-14
    whole = sample(mixture, 5, steps=5, solver=solver, seed=3, chunk=5)
    for n, chunk in ((5, 2), (3, 3), (1, 1)):
        found = sample(mixture, n, steps=5, solver=solver, seed=3, chunk=chunk)
        print(f"{solver}: off by {float((found - whole[:n]).abs().max()):.1e}")
        torch.testing.assert_close(found, whole[:n], rtol=0, atol=close)
    assert torch.equal(sample(mixture, 5, steps=5, solver=solver, seed=3, chunk=5), whole)
    assert float((sample(mixture, 5, steps=5, solver=solver, seed=4) - whole).abs().min()) > 1e-6
    assert float((whole[0] - whole[1]).abs().max()) > 0.1


@pytest.mark.parametrize("solver", REGISTERED)
def test_a_float32_state_gives_the_float64_sample(mixture: MixtureDenoiser, solver: Solver) -> None:
    """To rounding, times what the way back magnifies: it is not the coefficients that are rounded."""
    wide, narrow = (sample(Plain(mixture), 8, steps=16, solver=solver, dtype=d) for d in (torch.float64, torch.float32))
    assert wide.dtype == torch.float64 and narrow.dtype == torch.float32
    off = float((wide - narrow).abs().max()) / float(wide.std())
    print(f"{solver}: off by {off:.1e} standard deviations")
    assert 0 < off < (2e-4 if solver.adaptive else 3e-6)  # measured 6e-5, where steps may end elsewhere, and 9e-7


@pytest.mark.parametrize(("network_type", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 0.04)], ids=str)
def test_a_network_of_another_type_serves_a_float64_state(network_type: torch.dtype, tolerance: float) -> None:
    model = of_network(torch.float64)
    wanted = sample(model, 3, steps=6)
    found = sample(of_network(network_type), 3, steps=6)
    off = float((found - wanted).abs().max()) / float(wanted.std())
    print(f"{network_type}: off by {off:.1e} standard deviations")
    assert found.dtype == torch.float64
    assert 0 < off < tolerance


def of_network(dtype: torch.dtype) -> Denoiser:
    """A denoiser by a U-Net with random weights, of a field of 8² cells."""
    reference = GaussianField.power_law(SpectralBasis(Grid((8, 8))), 2.0)
    path = ReferencePath(fit_clock(Heat(reference.basis), reference), reference)
    network = UNet(path.basis.grid, 1, width=8, multipliers=(1, 2), seed=0)
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        if not parameter.any():  # the output, which starts at zero
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return Denoiser(network.to(dtype).eval(), path, 1.0)


@pytest.mark.parametrize("solver", REGISTERED)
def test_a_condition_reaches_its_sample_through_every_rule(mixture: MixtureDenoiser, solver: Solver) -> None:
    model, strengths = Plain(mixture), torch.tensor([0.2, 1.0, 0.2, 1.0, 0.2])
    each = sample(model, 5, steps=4, solver=solver, condition=strengths, chunk=3)
    weak, full = (sample(model, 5, steps=4, solver=solver, condition=torch.tensor([s])) for s in (0.2, 1.0))
    close = 1e-3 if solver.adaptive else 1e-12
    torch.testing.assert_close(each[::2], weak[::2], rtol=0, atol=close)
    torch.testing.assert_close(each[1::2], full[1::2], rtol=0, atol=close)
    assert float((weak - full).abs().max()) > 1e-2
    torch.testing.assert_close(full, sample(model, 5, steps=4, solver=solver), rtol=0, atol=1e-12)


def test_a_chunk_keeps_to_the_memory_limit(mixture: MixtureDenoiser) -> None:
    """A model that is known to take 8 MB a sample, under a limit of 100 MB: 12 at most, and not far fewer."""
    model, plain = Greedy(mixture), sample(mixture, 30, steps=2)
    for settings in ({"memory_limit": LIMIT}, {"memory_limit": LIMIT, "chunk": "auto"}):
        model.batches.clear()
        torch.testing.assert_close(sample(model, 30, steps=2, **settings), plain, rtol=0, atol=1e-12)
        print(f"chunks of {sorted(set(model.batches))}")
        assert 6 <= max(model.batches) <= 12
    model.batches.clear()
    sample(model, 3, steps=2, memory_limit=LIMIT, chunk=2)
    assert max(model.batches) == 2
    model.batches.clear()
    sample(model, 10, steps=1, memory_limit=LIMIT)
    assert 5 in model.batches and 8 not in model.batches  # two halves, not a full one and a rest
    with pytest.raises(ValueError, match=r"one sample takes about \d+ MB of memory; the limit is 1 MB"):
        sample(model, 1, memory_limit=10**6)


def test_free_memory_is_the_limit_of_auto(mixture: MixtureDenoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 10**6 < free_memory(torch.device("cpu")) < 10**14
    model = Greedy(mixture)
    monkeypatch.setattr("physdiff.solvers.memory.free_memory", lambda device: LIMIT)
    sample(model, 30, steps=1, chunk="auto")
    assert 6 <= max(model.batches) <= 12
    monkeypatch.setattr("physdiff.solvers.memory.free_memory", lambda device: 1000)
    with pytest.raises(ValueError, match=r"one sample takes about \d+ MB of memory; free are 1 kB"):
        sample(model, 1, chunk="auto")
    with pytest.raises(ValueError, match="free memory of this system's meta is not known: give memory_limit"):
        free_memory(torch.device("meta"))
    assert [in_words(x) for x in (12, 3_500, 20 * 10**6, 2 * 10**9)] == ["12 bytes", "3.5 kB", "20 MB", "2 GB"]


def test_where_memory_runs_out_half_as_many_are_tried(mixture: MixtureDenoiser) -> None:
    model, trajectory = Small(mixture), Trajectory(mixture.path.basis)
    with pytest.warns(UserWarning, match="9 samples did not fit into memory together; going on with 4"):
        found = sample(model, 9, steps=3, callback=trajectory)
    torch.testing.assert_close(found, sample(mixture, 9, steps=3), rtol=0, atol=1e-12)
    assert trajectory.fields.shape == (4, 9, 1, 3, 4) and torch.equal(trajectory.fields[-1], found)
    model.holds = 0
    with pytest.warns(UserWarning), pytest.raises(MemoryError, match=r"one sample of shape \(1, 3, 4\) does not fit"):
        sample(model, 2)


@pytest.mark.parametrize(("every", "kept"), [(1, [0, 1, 2, 3, 4, 5, 6, 7]), (3, [0, 3, 6, 7]), (9, [0, 7])])
def test_a_trajectory_is_what_the_callback_sees(mixture: MixtureDenoiser, every: int, kept: list[int]) -> None:
    states: list[tuple[float, Tensor]] = []
    sample(mixture, 4, steps=7, chunk=4, callback=lambda t, y: states.append((float(t), mixture.path.basis.inverse(y))))
    trajectory = Trajectory(mixture.path.basis, every)
    found = sample(mixture, 4, steps=7, chunk=3, callback=trajectory)
    assert trajectory.times.tolist() == [[1.0, *(t for t, _ in states)][i] for i in kept]
    assert trajectory.fields.shape == (len(kept), 4, 1, 3, 4)
    assert torch.equal(trajectory.fields[-1], found)
    for i, fields in zip(kept[1:], trajectory.fields[1:], strict=True):
        torch.testing.assert_close(fields, states[i - 1][1], rtol=0, atol=1e-12)
    start = mixture.path.at(1.0).whiten(mixture.path.basis.forward(trajectory.fields[0]))
    assert abs(float(start.square().mean()) - 1) < 5 * (2 / start.numel()) ** 0.5  # white noise


def test_a_trajectory_is_of_one_run(mixture: MixtureDenoiser) -> None:
    """Samples on other times are no further chunk; samples on the same times are."""
    for every, steps in ((1, 6), (2, 6), (1, 2), (9, 5)):
        trajectory = Trajectory(mixture.path.basis, every)
        first = sample(mixture, 2, steps=4, callback=trajectory)
        with pytest.raises(ValueError, match=r"this trajectory is of a run on other times.*take a new Trajectory"):
            sample(mixture, 3, steps=steps, callback=trajectory)
        assert torch.equal(trajectory.fields[-1], first)
    more = sample(mixture, 3, steps=4, seed=1, callback=trajectory)
    assert torch.equal(trajectory.fields[-1], torch.cat([first, more]))


def test_the_bar_counts_the_steps_of_all_samples(
    mixture: MixtureDenoiser, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LOOP, "tqdm", partial(tqdm, mininterval=0))
    sample(mixture, 5, steps=4, chunk=2, progress=True)
    with pytest.warns(UserWarning):
        sample(Small(mixture), 3, steps=9, progress=True)
    said = capsys.readouterr().err
    assert "20/20" in said and "27/27" in said
    assert not said.rstrip().endswith(("20/20", "27/27"))  # and goes away


def test_the_bar_starts_a_failed_chunk_again(mixture: MixtureDenoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a chunk's steps done when memory runs out: the bar ends at the whole all the same."""
    bars: list[tqdm] = []  # pyright: ignore[reportMissingTypeArgument]
    monkeypatch.setattr(LOOP, "tqdm", lambda **k: bars.append(tqdm(**k)) or bars[-1])
    model, whole = Small(mixture), Plain.residual
    monkeypatch.setattr(model, "residual", lambda y, t, c=None: (whole if t > 0.9 else Small.residual)(model, y, t, c))
    with pytest.warns(UserWarning):
        sample(model, 4, steps=5, solver=Euler(), progress=True)
    assert bars[0].n == bars[0].total == 20


def test_what_is_refused(mixture: MixtureDenoiser) -> None:
    for arguments, words in (
        ({"chunk": 2.5}, "n and chunk must be whole numbers, at least 1; got n = 2, chunk = 2.5"),
        ({"steps": 2.5}, "a sample needs a whole number of steps, at least 1; got 2.5"),
        ({"chunk": "all"}, "chunk must be a number of samples or 'auto'; got 'all'"),
        ({"dtype": torch.float16}, "dtype must be torch.float64 or torch.float32, of the state; got torch.float16"),
        ({"memory_limit": 0}, "memory_limit must be a positive whole number of bytes; got 0"),
        ({"memory_limit": -5}, "memory_limit must be a positive whole number of bytes; got -5"),
        ({"memory_limit": 1.5}, "memory_limit must be a positive whole number of bytes; got 1.5"),
        ({"condition": torch.zeros(3, 2)}, "shape (2, ...) or (1, ...); got (3, 2)"),
        ({"condition": torch.zeros(())}, "shape (2, ...) or (1, ...); got ()"),
    ):
        with pytest.raises(ValueError) as error:
            sample(mixture, 2, **arguments)  # pyright: ignore[reportArgumentType]
        assert words in str(error.value)
    with pytest.raises(ValueError, match=r"n and chunk must be whole numbers, at least 1; got n = 2\.5"):
        sample(mixture, 2.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="k at least 1; got 0"):
        Trajectory(mixture.path.basis, 0)
    with pytest.raises(ValueError, match="nothing is recorded yet"):
        _ = Trajectory(mixture.path.basis).times
