"""How a step computes: parts of a batch against the whole, bfloat16 in the network alone, compiled, channels last."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from physdiff.condition import Condition
from physdiff.grid import Grid
from physdiff.networks import UNet
from physdiff.randomness import RowDraws
from physdiff.training import TrainSettings, complete_checkpoints, read_checkpoint, read_metrics, train
from physdiff.training.augment import shift_at_random
from physdiff.training.computing import computing_as

SETTINGS = TrainSettings(steps=8, batch_size=7, log_every=1, seed=2)
GRID = Grid((6, 5))
DATA = torch.randn(9, 1, 6, 5, generator=torch.Generator().manual_seed(0))


class Owner(nn.Module):
    """A module with a network in it, and what is not the network's."""

    def __init__(self) -> None:
        super().__init__()
        self.network = UNet(GRID, 1, width=4, multipliers=(1, 2), seed=1)
        self.scale = nn.Parameter(torch.ones(1))
        self.seen: list[torch.dtype] = []


def loss(module: Owner, x: Tensor, draws: RowDraws) -> Tensor:
    t = draws.uniform().to(x)
    noisy = x + t.reshape(-1, 1, 1, 1) * draws.normal(*x.shape[1:], dtype=x.dtype)
    out = module.network(noisy, t) * module.scale
    module.seen.append(out.dtype)
    return (out - x).square().mean((1, 2, 3))


def launch(folder: Path, settings: TrainSettings = SETTINGS, **kwargs: Any) -> tuple[Owner, Any]:
    module = Owner()
    result = train(module, kwargs.pop("objective", loss), DATA, None, settings, folder, progress=False, **kwargs)
    return module, result


def launch_long(folder: Path, settings: TrainSettings = SETTINGS, objective: Any = loss) -> None:
    """The same in float64: AdamW turns the rounding of gradients near zero, of which a new network has many, into
    steps of any size up to the learning rate."""
    train(Owner().double(), objective, DATA.double(), None, settings, folder, progress=False)


def largest_difference(a: Path, b: Path) -> float:
    """Of the weights, relative to the largest of each tensor."""
    one, other = (read_checkpoint(complete_checkpoints(folder)[-1]).weights for folder in (a, b))
    return max(float((one[n] - other[n]).abs().max() / one[n].abs().max().clamp(min=1e-3)) for n in one)


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_accumulated_parts_have_the_gradient_of_the_whole(tmp_path: Path, parts: int) -> None:
    """Of unequal sizes too: 7 rows in 2 or 3 parts."""
    launch_long(tmp_path / "whole")
    launch_long(tmp_path / "parts", replace(SETTINGS, accumulate=parts))
    off = largest_difference(tmp_path / "whole", tmp_path / "parts")
    print(f"{parts} parts: weights off by {off:.1e}")
    assert off < 1e-8
    whole, split = (read_metrics(tmp_path / which / "metrics.jsonl") for which in ("whole", "parts"))
    for key in ("loss", "gradient_norm"):
        assert [r[key] for r in split] == pytest.approx([r[key] for r in whole], rel=1e-10)


def test_only_the_network_is_short_and_its_weights_are_not(tmp_path: Path) -> None:
    inside: list[torch.dtype] = []
    module = Owner()
    handle = module.network.lift.register_forward_hook(lambda *call: inside.append(call[2].dtype))

    def watched(told: Owner, x: Tensor, draws: RowDraws) -> Tensor:
        weights = told.network.lift
        assert all(p.dtype == torch.float32 for p in weights.parameters())
        return loss(told, x, draws)

    short = replace(SETTINGS, precision="bfloat16")
    result = train(module, watched, DATA, DATA[:3], short, tmp_path / "short", progress=False)
    handle.remove()
    trained = inside[: SETTINGS.steps]
    assert trained == [torch.bfloat16] * SETTINGS.steps  # in training; the averaged copy is validated in float32
    assert inside[SETTINGS.steps :] == [torch.float32] * (len(inside) - SETTINGS.steps) != []
    assert set(module.seen) == {torch.float32}
    stored = read_checkpoint(complete_checkpoints(tmp_path / "short")[-1])
    for part in (stored.weights, stored.ema, stored.optimiser):
        assert {x.dtype for x in part.values()} == {torch.float32}
    assert {p.dtype for p in result.ema.parameters()} == {torch.float32}
    assert "forward" not in vars(module.network)
    launch(tmp_path / "long")
    losses = [[r["loss"] for r in read_metrics(tmp_path / which / "metrics.jsonl")] for which in ("short", "long")]
    # 8 bits of mantissa, in the activations alone.
    assert losses[0] == pytest.approx(losses[1], rel=0.03) and losses[0] != losses[1]


@pytest.mark.parametrize("change", [{"precision": "bfloat16"}, {"channels_last": True}])
def test_a_copy_of_a_network_in_training_has_its_own_weights(change: dict[str, Any]) -> None:
    """As the copy on which it is found out whether DDP must look for idle parameters."""
    owner, x, t = Owner(), DATA, torch.zeros(9)
    with computing_as(owner, replace(SETTINGS, **change)):
        copy = deepcopy(owner)
        copy.network(x, t).sum().backward()
        assert all(p.grad is not None for p in copy.network.parameters())
        assert all(p.grad is None for p in owner.network.parameters())
    assert "forward" not in vars(owner.network)


def test_channels_last_changes_the_layout_and_not_the_run(tmp_path: Path) -> None:
    launch_long(tmp_path / "plain")
    seen: list[bool] = []

    def watched(module: Owner, x: Tensor, draws: RowDraws) -> Tensor:
        weights = [p for p in module.network.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
        seen.append(all(w.is_contiguous(memory_format=torch.channels_last) for w in weights) and len(weights) > 0)
        return loss(module, x, draws)

    launch_long(tmp_path / "last", replace(SETTINGS, channels_last=True), objective=watched)
    assert all(seen)
    off = largest_difference(tmp_path / "plain", tmp_path / "last")
    print(f"weights off by {off:.1e}")
    assert off < 1e-8


@pytest.mark.slow
def test_a_compiled_network_trains_the_same_run(tmp_path: Path) -> None:
    """On an odd axis too, where the compiler's gradient of a pool that counts cells beyond the edge is wrong."""
    compiled: list[bool] = []

    def watched(module: Owner, x: Tensor, draws: RowDraws) -> Tensor:
        compiled.append(module.network._compiled_call_impl is not None)
        return loss(module, x, draws)

    launch_long(tmp_path / "False", objective=watched)
    launch_long(tmp_path / "True", replace(SETTINGS, compile=True), watched)
    assert compiled == [False] * 8 + [True] * 8
    off = largest_difference(tmp_path / "False", tmp_path / "True")
    print(f"weights off by {off:.1e}")
    assert off < 1e-8


def test_conditions_and_augmentation_go_with_their_rows(tmp_path: Path) -> None:
    """Each row brings its own number and a copy of itself; shifts move the field and its condition alike."""
    numbers = torch.arange(9, dtype=torch.float32).reshape(9, 1)
    condition = Condition(fields=DATA.clone(), scalars=numbers)
    rows: list[int] = []

    def told(module: Owner, x: Tensor, draws: RowDraws, given: Condition | None = None) -> Tensor:
        assert given is not None and given.fields is not None and given.scalars is not None
        assert torch.equal(given.fields, x)
        which = given.scalars.flatten().long()
        torch.testing.assert_close(x.sort(dim=-1).values.sum((1, 2)), DATA[which].sort(-1).values.sum((1, 2)))
        rows.extend(which.tolist() if module.training else [])
        moved.append(not torch.equal(x, DATA[which]))
        return loss(module, x, draws)

    moved: list[bool] = []

    def augment(x: Tensor, draws: RowDraws, given: Any) -> Any:
        return shift_at_random(GRID, x, draws, given)

    settings = replace(SETTINGS, steps=9, accumulate=2)
    module = Owner()
    train(
        module, told, DATA, DATA[:4], settings, tmp_path, progress=False,
        condition=condition, validation_condition=condition[slice(0, 4)], augment=augment,
    )  # fmt: skip
    assert sorted(rows) == sorted(7 * list(range(9)))  # seven epochs of nine
    assert sum(moved) >= 18 and not any(moved[18:])  # validation fields stay where they are
    with pytest.raises(ValueError, match=r"data was .* condition .* and is now"):
        train(Owner(), loss, DATA, None, settings, tmp_path, progress=False)
    for unfit, message in (
        (condition[slice(0, 3)], "the training condition needs one row a field, or one for all: 9 or 1; got 3"),
        ({"scalars": numbers}, r"the training condition is a Condition\(.*\), or a tensor of fields; got a dict"),
    ):
        with pytest.raises(ValueError, match=message):
            train(Owner(), told, DATA, None, settings, tmp_path, progress=False, condition=unfit)  # pyright: ignore
    with pytest.raises(ValueError, match="the training fields have a condition: give that of the validation fields"):
        train(Owner(), told, DATA, DATA[:4], settings, tmp_path, progress=False, condition=condition)


def test_shifts_are_the_same_rows_in_any_split() -> None:
    generator = torch.Generator
    whole, _ = shift_at_random(GRID, DATA, RowDraws(generator().manual_seed(1), 9))
    first, _ = shift_at_random(GRID, DATA[:4], RowDraws(generator().manual_seed(1), 9, slice(0, 4)))
    last, _ = shift_at_random(GRID, DATA[4:], RowDraws(generator().manual_seed(1), 9, slice(4, 9)))
    assert torch.equal(torch.cat([first, last]), whole)


class Tracked:
    def __init__(self) -> None:
        self.steps: list[int] = []
        self.closed = 0

    def log(self, step: int, record: dict[str, Any]) -> None:
        assert record["step"] == step
        self.steps.append(step)

    def close(self) -> None:
        self.closed += 1


def test_trackers_and_drawings_are_called_when_due(tmp_path: Path) -> None:
    tracker, drawn = Tracked(), []

    def draw(module: nn.Module, step: int, folder: Path) -> None:
        assert not module.training and folder == tmp_path
        torch.rand(3)  # global numbers are its own affair
        drawn.append((step, module.get_parameter("scale").detach().clone()))

    settings = replace(SETTINGS, log_every=3, sample_every=4)
    launch(tmp_path, settings, trackers=[tracker], draw=draw)
    assert tracker.steps == [3, 6, 8] and tracker.closed == 1
    assert [step for step, _ in drawn] == [4, 8]
    assert torch.equal(drawn[-1][1], read_checkpoint(complete_checkpoints(tmp_path)[-1]).ema["scale"])
    launch(tmp_path / "without", replace(SETTINGS, log_every=3))
    assert largest_difference(tmp_path, tmp_path / "without") == 0


def test_a_tracker_is_closed_when_training_fails(tmp_path: Path) -> None:
    tracker = Tracked()

    def failing(module: Owner, x: Tensor, draws: RowDraws) -> Tensor:
        return loss(module, x, draws) / 0

    with pytest.raises(FloatingPointError):
        launch(tmp_path, objective=failing, trackers=[tracker])
    assert tracker.closed == 1
