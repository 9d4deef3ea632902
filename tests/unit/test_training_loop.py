"""Training: keyed randomness, the optimiser against torch's own, resuming bit by bit, and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from physdiff.randomness import RowDraws
from physdiff.training import (
    TrainSettings,
    batch_indices,
    complete_checkpoints,
    keyed_generator,
    load_ema,
    read_checkpoint,
    read_metrics,
    train,
)

# A second thread only waits at tensors of this size, and ten times longer on a busy machine.
torch.set_num_threads(1)

SETTINGS = TrainSettings(
    steps=24, batch_size=5, warmup_steps=3, weight_decay=0.01, log_every=5, checkpoint_every=4,
    validate_every=9, validation_batch=3, seed=7,
)  # fmt: skip


class Toy(nn.Module):
    """Small, with all that can go wrong in resuming: dropout, a buffer that moves, a frozen parameter."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first, self.last = nn.Conv1d(1, 4, 3, padding=1), nn.Conv1d(4, 1, 3, padding=1)
            self.norm, self.dropout = nn.BatchNorm1d(4), nn.Dropout(0.2)
            self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.dropout(torch.tanh(self.norm(self.first(x))))) * self.frozen


def denoising(module: nn.Module, x: Tensor, draws: RowDraws) -> Tensor:
    noise = draws.normal(*x.shape[1:], dtype=torch.float32)
    return (module(x + 0.3 * noise) - x).square().mean((1, 2))


def fields(n: int, seed: int) -> Tensor:
    phase = 6.28 * torch.rand(n, 1, 1, generator=torch.Generator().manual_seed(seed))
    return torch.sin(phase + torch.arange(8) * torch.pi / 4)


DATA, HELD_OUT = fields(12, 0), fields(7, 1)


def launch(folder: Path, settings: TrainSettings = SETTINGS, **kwargs: Any) -> Any:
    arguments = {"module": Toy(), "objective": denoising, "data": DATA, "validation": HELD_OUT, "progress": False}
    return train(settings=settings, folder=folder, **{**arguments, **kwargs})


def end_state(folder: Path) -> dict[str, Any]:
    """All that a run leaves on disk, but for the clock."""
    newest = complete_checkpoints(folder)[-1]
    state = json.loads((newest / "state.json").read_text())
    del state["tally"]["seconds"], state["digests"]["state"]
    files = {path.name: path.read_bytes() for path in sorted(newest.glob("*.safetensors"))}
    metrics = [{**record, "seconds": 0} for record in read_metrics(folder / "metrics.jsonl")]
    return {"name": newest.name, "state": state, "metrics": metrics, **files}


def test_keyed_generators_repeat_and_differ_in_every_key() -> None:
    keys: list[tuple[Any, ...]] = [
        (0, "a", 1), (1, "a", 1), (0, "b", 1), (0, "a", 2), (0, "a", "1"), (0, "a1"), (0,),
    ]  # fmt: skip
    draws = [torch.randn(4, generator=keyed_generator(*k)) for k in keys]
    for i, (key, drawn) in enumerate(zip(keys, draws, strict=True)):
        assert torch.equal(torch.randn(4, generator=keyed_generator(*key)), drawn)
        assert not any(torch.equal(drawn, other) for other in draws[:i])


@pytest.mark.parametrize(("n", "batch_size"), [(10, 4), (7, 7), (3, 8), (1, 2), (12, 5)])
def test_batches_read_one_permutation_after_the_other(n: int, batch_size: int) -> None:
    stream = torch.cat([batch_indices(n, batch_size, step, seed=3) for step in range(3 * n)])
    epochs = stream.reshape(-1, n)
    assert torch.equal(epochs.sort(dim=1).values, torch.arange(n).expand_as(epochs))
    assert n == 1 or not torch.equal(epochs[0], epochs[1])
    assert n == 1 or not torch.equal(stream[:n], batch_indices(n, n, 0, seed=4))


def test_global_random_state_is_neither_used_nor_changed(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        for seed, name in enumerate("ab"):
            torch.manual_seed(seed)
            before = torch.random.get_rng_state()
            launch(tmp_path / name)
            assert torch.equal(torch.random.get_rng_state(), before)
    assert end_state(tmp_path / "a") == end_state(tmp_path / "b")


def test_global_draws_are_keyed_by_the_step(tmp_path: Path) -> None:
    drawn: list[float] = []

    def loss(module: nn.Module, x: Tensor, draws: RowDraws) -> Tensor:
        drawn.append(float(torch.rand(())))
        return denoising(module, x, draws)

    launch(tmp_path, objective=loss, validation=None)
    assert len(set(drawn)) == SETTINGS.steps


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_weights_are_those_of_a_plain_loop_with_torchs_own_schedulers(tmp_path: Path, schedule: Any) -> None:
    settings = replace(SETTINGS, schedule=schedule, gradient_clip=0.1, ema_decay=0.3)
    module = Toy().requires_grad_()
    module.dropout.p = 0.0
    result = launch(tmp_path, settings, module=module)

    plain = Toy().requires_grad_()
    plain.dropout.p = 0.0
    # Fused as well: before a norm the bias of a convolution has rounding for a gradient, and AdamW enlarges it.
    optimiser = torch.optim.AdamW(plain.parameters(), lr=settings.learning_rate, weight_decay=0.01, fused=True)
    rising = torch.optim.lr_scheduler.LinearLR(optimiser, 1 / 3, 1.0, total_iters=2)
    then: dict[str, torch.optim.lr_scheduler.LRScheduler] = {
        "cosine": torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.steps - 3),
        "constant": torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0),
    }
    scheduler = torch.optim.lr_scheduler.SequentialLR(optimiser, [rising, then[schedule]], milestones=[3])
    rates: list[float] = []
    averaged: dict[str, Tensor] = {}
    for step in range(settings.steps):
        optimiser.zero_grad()
        batch = DATA[batch_indices(len(DATA), 5, step, seed=7)]
        denoising(plain, batch, RowDraws(keyed_generator(7, "train", step), 5)).mean().backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.1)
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
        decay = 0.0 if step == 0 else min(0.3, (1 + step) / (10 + step))
        for name, p in plain.named_parameters():
            averaged[name] = decay * averaged.get(name, torch.zeros(())) + (1 - decay) * p.detach()
    for name, p in plain.named_parameters():
        torch.testing.assert_close(module.get_parameter(name), p, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(result.ema.get_parameter(name).data, averaged[name], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(result.ema.norm.running_mean, plain.norm.running_mean, rtol=1e-5, atol=1e-7)
    assert [settings.learning_rate_at(step) for step in range(settings.steps)] == pytest.approx(rates, rel=1e-9)


def test_average_decays_as_told_once_it_is_old(tmp_path: Path) -> None:
    launch(tmp_path, replace(SETTINGS, checkpoint_every=1, keep_checkpoints=24, ema_decay=0.2))
    states = [read_checkpoint(path) for path in complete_checkpoints(tmp_path)]
    expected = states[0].weights["first.weight"]
    for n, state in enumerate(states[1:], start=1):
        decay = min(0.2, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * state.weights["first.weight"]
        torch.testing.assert_close(state.ema["first.weight"], expected, rtol=1e-5, atol=1e-7)
    assert (states[-1].ema["first.weight"] - states[-1].weights["first.weight"]).abs().amax() > 0


def test_loss_falls_and_validation_is_that_of_the_averaged_weights(tmp_path: Path) -> None:
    settings = replace(SETTINGS, steps=300, learning_rate=0.02, validate_every=150, ema_decay=0.9)
    seen: list[dict[str, float]] = []
    result = launch(tmp_path, settings, data=fields(64, 2), on_log=seen.append)
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert seen == records
    assert records[-1]["loss"] < 0.3 * records[0]["loss"]
    validated = {record["step"]: record["validation_loss"] for record in records if "validation_loss" in record}
    assert list(validated) == [150, 300]
    # Doing nothing would leave the noise's variance.
    assert validated[300] < 0.3**2

    module = Toy().eval()
    module.load_state_dict(load_ema(tmp_path))
    draws = [RowDraws(keyed_generator(7, "validation", start), min(3, 7 - start)) for start in range(0, 7, 3)]
    losses = [denoising(module, batch, rows) for batch, rows in zip(HELD_OUT.split(3), draws, strict=True)]
    assert float(torch.cat(losses).mean().detach()) == pytest.approx(result.validation_loss, rel=1e-6)


def test_logged_loss_is_the_mean_since_the_last_log(tmp_path: Path) -> None:
    launch(tmp_path / "fine", replace(SETTINGS, log_every=1))
    launch(tmp_path / "coarse", replace(SETTINGS, validate_every=100))
    fine = [record["loss"] for record in read_metrics(tmp_path / "fine" / "metrics.jsonl")]
    coarse = read_metrics(tmp_path / "coarse" / "metrics.jsonl")
    assert [record["step"] for record in coarse] == [5, 10, 15, 20, 24]
    for record, start in zip(coarse, range(0, 24, 5), strict=True):
        part = fine[start : int(record["step"])]
        assert record["loss"] == pytest.approx(sum(part) / len(part), rel=1e-12)


def test_modes_are_as_before_and_the_average_is_frozen(tmp_path: Path) -> None:
    module = Toy().eval()
    result = launch(tmp_path, module=module)
    assert not module.training and not result.ema.training
    assert not any(p.requires_grad for p in result.ema.parameters())
    assert module.first.weight.requires_grad and not module.frozen.requires_grad


def test_a_loss_may_differentiate_by_its_inputs_in_validation(tmp_path: Path) -> None:
    def slope(module: nn.Module, x: Tensor, draws: RowDraws) -> Tensor:
        x = x.detach().requires_grad_()
        return torch.autograd.grad(module(x).sum(), x, create_graph=True)[0].square().mean((1, 2))

    assert launch(tmp_path, objective=slope).validation_loss > 0


def killed_at(step: int) -> Callable[[nn.Module, Tensor, RowDraws], Tensor]:
    """The same loss, until it is called in training for the given time."""
    calls = 0

    def loss(module: nn.Module, x: Tensor, draws: RowDraws) -> Tensor:
        nonlocal calls
        calls += module.training
        if calls > step:
            raise KeyboardInterrupt
        return denoising(module, x, draws)

    return loss


@pytest.mark.parametrize("kills", [(1,), (4,), (7,), (11, 2, 9), (23,)])
def test_resumed_run_ends_in_the_same_bits(tmp_path: Path, kills: tuple[int, ...]) -> None:
    launch(tmp_path / "whole")
    for i, kill in enumerate(kills):
        with pytest.raises(KeyboardInterrupt):
            launch(tmp_path / "parts", objective=killed_at(kill), module=Toy(seed=i))
    # The weights that a resumed run is launched with do not count.
    result = launch(tmp_path / "parts", module=Toy(seed=0 if kills == (1,) else 99))
    assert end_state(tmp_path / "parts") == end_state(tmp_path / "whole")
    assert result.resumed_from == {(1,): None, (4,): 4, (7,): 4, (11, 2, 9): 16, (23,): 20}[kills]


def test_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first = launch(tmp_path)
    before = end_state(tmp_path)
    again = launch(tmp_path, objective=killed_at(0), module=Toy(seed=5))
    assert end_state(tmp_path) == before
    assert (again.steps, again.resumed_from, again.validation_loss) == (24, 24, first.validation_loss)
    assert torch.equal(again.ema.get_parameter("first.weight"), first.ema.get_parameter("first.weight"))


def test_constant_schedule_can_be_prolonged(tmp_path: Path) -> None:
    long = replace(SETTINGS, schedule="constant")
    launch(tmp_path / "whole", long)
    launch(tmp_path / "parts", replace(long, steps=13, checkpoint_every=5))
    launch(tmp_path / "parts", long)
    whole, parts = end_state(tmp_path / "whole"), end_state(tmp_path / "parts")
    for name in ("weights.safetensors", "ema.safetensors", "optimiser.safetensors"):
        assert parts[name] == whole[name]
    with pytest.raises(ValueError, match="which has done 24 steps, to 20"):
        launch(tmp_path / "parts", replace(long, steps=20))


def test_only_the_newest_checkpoints_stay_and_litter_goes(tmp_path: Path) -> None:
    litter = tmp_path / "checkpoints" / ".partial-step-00000004"
    litter.mkdir(parents=True)
    (litter / "weights.safetensors").write_bytes(b"half")
    launch(tmp_path, replace(SETTINGS, keep_checkpoints=3))
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000016", "step-00000020", "step-00000024"]
    assert sorted(path.name for path in (tmp_path / "checkpoints" / names[0]).iterdir()) == [
        "ema.safetensors", "extra.safetensors", "optimiser.safetensors", "state.json", "weights.safetensors",
    ]  # fmt: skip


def test_half_a_last_line_of_the_log_is_dropped_and_no_other(tmp_path: Path) -> None:
    launch(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        launch(tmp_path / "parts", objective=killed_at(11))
    with (tmp_path / "parts" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 11, "lo')
    assert [record["step"] for record in read_metrics(tmp_path / "parts" / "metrics.jsonl")] == [5, 9, 10]
    launch(tmp_path / "parts")
    assert end_state(tmp_path / "parts") == end_state(tmp_path / "whole")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"line 2 of .*metrics.jsonl is not JSON"):
        read_metrics(tmp_path / "metrics.jsonl")


@pytest.mark.parametrize("name", ["weights.safetensors", "ema.safetensors", "optimiser.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_damaged_checkpoint_is_refused_by_name(tmp_path: Path, name: str, damage: str) -> None:
    launch(tmp_path)
    path = complete_checkpoints(tmp_path)[-1] / name
    content = bytearray(path.read_bytes())
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        # A quote of the JSON header, or one bit of a weight.
        position = content.index(b'"') if name == "state.json" else len(content) - 3
        content[position] ^= 16
        path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} is missing or damaged .*Delete .*step-00000024 to go on"):
        launch(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"settings": replace(SETTINGS, learning_rate=1e-3)}, r"learning_rate was 0\.002 and is now 0\.001"),
        ({"settings": replace(SETTINGS, steps=48)}, "steps was 24 and is now 48"),
        ({"settings": replace(SETTINGS, gradient_clip=None)}, r"gradient_clip was 1\.0 and is now None"),
        ({"signature": "64 (x)"}, r"signature was 32 \(x\) and is now 64 \(x\)"),
        ({"data": fields(13, 0)}, r"data was float32 \(12, 1, 8\), digest \w+ and is now float32 \(13, 1, 8\)"),
        (
            {"module": nn.Sequential(nn.Conv1d(1, 1, 3, padding=1))},
            r"parameter '0\.weight' was absent and is now float32 \(1, 1, 3\)",
        ),
        ({"module": Toy().double()}, r"parameter 'frozen' was float32 \(1,\) and is now float64 \(1,\)"),
    ],
)
def test_another_run_is_not_continued(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    launch(tmp_path, signature="32 (x)")
    before = end_state(tmp_path)
    with pytest.raises(ValueError, match=r"cannot continue .*step-00000024: " + message):
        launch(tmp_path, **{"signature": "32 (x)", **arguments})
    assert end_state(tmp_path) == before


def test_checkpoint_holds_tied_weights_and_plain_settings(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    module[1].weight = module[0].weight
    launch(tmp_path, module=module)
    newest = complete_checkpoints(tmp_path)[-1]
    weights = safetensors.torch.load_file(newest / "weights.safetensors")
    assert torch.equal(weights["0.weight"], weights["1.weight"])
    assert json.loads((newest / "state.json").read_text())["settings"] == json.loads(json.dumps(asdict(SETTINGS)))


def test_divergence_is_an_error_that_names_step_rows_and_checkpoint(tmp_path: Path) -> None:
    rows = batch_indices(12, 5, 1, seed=7)
    bad = next(int(row) for row in rows if row not in batch_indices(12, 5, 0, seed=7))
    data = DATA.clone()
    data[bad] = torch.inf

    def poisoned(module: nn.Module, x: Tensor, draws: RowDraws) -> Tensor:
        # The norm would spread the infinity over the batch.
        return denoising(module, x.nan_to_num(posinf=0), draws) + 0 * x.sum((1, 2))

    with pytest.raises(FloatingPointError) as caught:
        launch(tmp_path / "a", objective=poisoned, data=data)
    expected = f"step 1: the loss of rows [{bad}] is not finite, in the batch of rows {rows.tolist()}; there is"
    assert expected in str(caught.value)

    def steep(module: nn.Module, x: Tensor, draws: RowDraws) -> Tensor:
        losses = denoising(module, x, draws)
        return torch.sqrt(losses - losses.detach()) if complete_checkpoints(tmp_path / "b") else losses

    with pytest.raises(FloatingPointError, match=r"step 4: the gradient is not finite.*step-00000004"):
        launch(tmp_path / "b", objective=steep)
    assert all(torch.isfinite(value).all() for value in load_ema(tmp_path / "b").values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be at least 1; got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1; got 0"),
        ({"keep_checkpoints": 0}, "keep_checkpoints must be at least 1; got 0"),
        ({"warmup_steps": 24}, r"warmup_steps must be in \[0, steps = 24\); got 24"),
        ({"learning_rate": -1.0}, r"learning_rate must be positive and finite; got -1\.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive and finite; got nan"),
        ({"weight_decay": -0.1}, r"weight_decay must be at least 0 and finite; got -0\.1"),
        ({"gradient_clip": 0.0}, r"gradient_clip must be positive and finite, or None; got 0\.0"),
        ({"ema_decay": 1.0}, r"ema_decay must be in \[0, 1\); got 1\.0"),
        ({"schedule": "cosin"}, "unknown schedule 'cosin'; it is one of cosine, constant"),
    ],
)
def test_unfit_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SETTINGS, **change)


def test_unfit_data_losses_and_modules_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="n = 0, batch_size = 4, step = 0"):
        batch_indices(0, 4, 0, seed=0)
    with pytest.raises(ValueError, match=r"shape \(n, channels, \*grid\) with n >= 1; got \(0, 1, 8\)"):
        launch(tmp_path, data=DATA[:0])
    with pytest.raises(ValueError, match=r"shape \(m, 1, 8\) with m >= 1.*got \(7, 1, 4\)"):
        launch(tmp_path, validation=HELD_OUT[..., :4])
    with pytest.raises(ValueError, match=r"one number per sample, shape \(5,\); got \(\)"):
        launch(tmp_path, objective=lambda *arguments: denoising(*arguments).mean())
    with pytest.raises(ValueError, match="no parameter to train"):
        launch(tmp_path, module=Toy().requires_grad_(False))
    with pytest.raises(ValueError, match="there is no checkpoint in"):
        load_ema(tmp_path / "nowhere")
