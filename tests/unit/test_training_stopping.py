"""Early ends of a run: patience, time limit, signals; from the checkpoint of each it goes on in the same bits."""

from __future__ import annotations

import math
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from physdiff.randomness import RowDraws
from physdiff.training import TrainSettings, complete_checkpoints, read_checkpoint, read_metrics, train
from physdiff.training.loop import is_better
from physdiff.training.stopping import exit_code

SETTINGS = TrainSettings(
    steps=12, batch_size=3, log_every=4, checkpoint_every=5, validate_every=6, ema_widths=(0.05, 0.1), ema_every=3
)
DATA = torch.randn(9, 1, 6, generator=torch.Generator().manual_seed(0))


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(6))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen += 1
        return x * self.weight


def loss(module: nn.Module, x: Tensor, draws: RowDraws) -> Tensor:
    noise = draws.normal(*x.shape[1:], dtype=torch.float32)
    return (module(x + noise) - x).square().mean((1, 2))


def launch(folder: Path, settings: TrainSettings = SETTINGS, objective: Any = loss, **kwargs: Any) -> Any:
    return train(Line(), objective, DATA, DATA[:4], settings, folder, progress=False, **kwargs)


def at_call(number: int, act: Any) -> Any:
    """The same loss, which does something in its n-th call in training."""
    calls = 0

    def objective(module: nn.Module, x: Tensor, draws: RowDraws) -> Tensor:
        nonlocal calls
        calls += module.training
        if module.training and calls == number:
            act()
        return loss(module, x, draws)

    return objective


def tensors(folder: Path) -> dict[str, bytes]:
    newest = complete_checkpoints(folder)[-1]
    found = {f"{newest.name}/{path.name}": path.read_bytes() for path in sorted(newest.glob("*.safetensors"))}
    return found | {path.name: path.read_bytes() for path in sorted((folder / "profiles").glob("*"))}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_after_the_step_and_a_checkpoint(tmp_path: Path, number: signal.Signals) -> None:
    launch(tmp_path / "whole")
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    stopped = launch(tmp_path / "parts", objective=at_call(7, lambda: os.kill(os.getpid(), number)))
    assert (stopped.stopped, stopped.finished) == (number.name, False)
    assert stopped.steps in (7, 8)  # the step in which it came, or the one after
    assert read_checkpoint(complete_checkpoints(tmp_path / "parts")[-1]).step == stopped.steps
    assert {n: signal.getsignal(n) for n in before} == before
    done = launch(tmp_path / "parts")
    assert (done.resumed_from, done.stopped, done.finished) == (stopped.steps, None, True)
    assert tensors(tmp_path / "parts") == tensors(tmp_path / "whole")
    log, whole = (
        [{**r, "seconds": 0} for r in read_metrics(tmp_path / which / "metrics.jsonl")] for which in ("parts", "whole")
    )
    assert log == whole


def test_a_second_signal_acts_at_once(tmp_path: Path) -> None:
    def twice() -> None:
        # To this thread: two signals that another one takes before Python looks are one to it.
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        launch(tmp_path, objective=at_call(7, twice))
    assert read_checkpoint(complete_checkpoints(tmp_path)[-1]).step == 5


def test_exit_codes_are_those_of_the_shell() -> None:
    assert [exit_code(reason) for reason in ("SIGINT", "SIGTERM", "SIGUSR1")] == [130, 143, 138]
    assert [exit_code(reason) for reason in ("time limit", "patience", None)] == [0, 0, 0]


def test_the_time_limit_is_of_each_launch(tmp_path: Path) -> None:
    slow = replace(SETTINGS, time_limit=0.05)
    launch(tmp_path / "whole")
    launches = 0
    result = None
    while result is None or not result.finished:
        result = launch(tmp_path / "parts", slow, objective=at_call(1, lambda: time.sleep(0.06)))
        launches += 1
        assert result.finished or result.stopped == "time limit"
        assert launches < 13
    assert launches > 2
    assert tensors(tmp_path / "parts") == tensors(tmp_path / "whole")


@pytest.mark.parametrize(
    ("limit", "seconds"), [(90, 90.0), ("90", 90.0), ("0:01:30", 90.0), ("01:01:01", 3661.0), ("100:00:00", 3.6e5)]
)
def test_time_limits_are_seconds_or_a_clock(limit: float | str, seconds: float) -> None:
    assert TrainSettings(steps=1, time_limit=limit).seconds_allowed == seconds


@pytest.mark.parametrize("limit", ["1:60:00", "soon", 0, -5, "1:30", float("inf")])
def test_other_time_limits_are_refused(limit: float | str) -> None:
    with pytest.raises(ValueError, match="time_limit must be a positive number of seconds or 'HH:MM:SS'"):
        TrainSettings(steps=1, time_limit=limit)


def rising_from(step: int) -> Any:
    """A loss whose validation falls until a step and rises after it."""

    def objective(module: Any, x: Tensor, draws: RowDraws) -> Tensor:
        if module.training:
            return loss(module, x, draws)
        return (module.seen - step).abs() + 1.0 + 0 * x.sum((1, 2))

    return objective


def test_patience_ends_the_run_with_the_best_weights(tmp_path: Path) -> None:
    settings = replace(SETTINGS, steps=60, validate_every=2, patience=3, checkpoint_every=100)
    result = launch(tmp_path, settings, rising_from(10))
    assert (result.stopped, result.finished, result.steps) == ("patience", True, 16)
    assert result.validation_loss == 1.0 and float(result.ema.seen) == 10
    # The same command has nothing more to do, and the same answer.
    again = launch(tmp_path, settings, at_call(1, pytest.fail))
    assert (again.stopped, again.steps, again.validation_loss) == ("patience", 16, 1.0)
    assert torch.equal(again.ema.weight, result.ema.weight)
    # More patience goes on.
    more = launch(tmp_path, replace(settings, patience=5), rising_from(10))
    assert (more.resumed_from, more.steps) == (16, 20)
    # The last checkpoint is of the last step all the same.
    assert float(read_checkpoint(complete_checkpoints(tmp_path)[-1]).ema["seen"]) == 20


def test_small_improvements_do_not_count(tmp_path: Path) -> None:
    """From 31 down by 2 a validation: 29 is 6 % better, 27 is not 10 % better than 29 but 25 is, and so on."""
    settings = replace(SETTINGS, steps=60, validate_every=2, patience=2, min_improvement=0.1)
    assert launch(tmp_path / "a", settings, rising_from(30)).steps > 20
    strict = replace(settings, min_improvement=0.2)
    assert launch(tmp_path / "b", strict, rising_from(30)).steps == 6  # 29, then 27 and 25 are above 0.8 · 29


@pytest.mark.parametrize(
    ("score", "best", "margin", "better"),
    [
        (2.0, None, 0.1, True),
        (0.91, 1.0, 0.1, False),
        (0.89, 1.0, 0.1, True),
        (-1.09, -1.0, 0.1, False),  # the losses of score matching may lie below zero
        (-1.11, -1.0, 0.1, True),
        (-0.95, -1.0, 0.1, False),
        (math.nan, None, 0.0, False),
        (math.nan, 1.0, 0.0, False),
        (1.0, 1.0, 0.0, False),
    ],
)
def test_what_is_better_has_fallen_by_a_part_of_its_size(
    score: float, best: float | None, margin: float, better: bool
) -> None:
    assert is_better(score, best, margin) is better


def test_weights_of_a_best_that_patience_did_not_ask_for_are_not_taken_for_a_later_one(tmp_path: Path) -> None:
    """With patience to step 2, without to step 10, which is the best, and with it to the end."""
    patient, impatient = (replace(SETTINGS, steps=14, validate_every=2, patience=p) for p in (9, 0))
    for settings, call in ((patient, 3), (impatient, 11)):
        launch(tmp_path, settings, at_call_of(rising_from(10), call))
    result = launch(tmp_path, patient, rising_from(10))
    assert result.steps == 14 and float(result.ema.seen) == 14 and result.validation_loss == 5.0


def at_call_of(objective: Any, number: int) -> Any:
    """The same objective, interrupted by a signal in the n-th step."""

    def interrupted(module: Any, x: Tensor, draws: RowDraws) -> Tensor:
        if module.training and float(module.seen) == number - 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        return objective(module, x, draws)

    return interrupted


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accumulate": 0}, "accumulate must be at least 1"),
        ({"accumulate": 4}, "accumulate must be at most batch_size = 3, a part has a row; got 4"),
        ({"precision": "float16"}, "unknown precision 'float16'; it is one of float32, bfloat16"),
        ({"patience": -1}, "patience must be at least 0; got -1"),
        ({"sample_every": -1}, "sample_every must be at least 0; got -1"),
        ({"min_improvement": 1.0}, r"min_improvement must be in \[0, 1\); got 1.0"),
        ({"validation_levels": 0}, "validation_levels must be at least 1"),
        ({"ema_every": 0}, "ema_every must be at least 1"),
    ],
)
def test_unfit_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SETTINGS, **change)


def test_free_settings_may_change_in_the_middle_and_others_not(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        launch(tmp_path, objective=at_call(7, interrupt))
    free = {"time_limit": 100, "patience": 9, "accumulate": 3, "channels_last": True, "checkpoint_every": 2}
    assert launch(tmp_path, replace(SETTINGS, **free)).steps == 12
    for change in ({"precision": "bfloat16"}, {"ema_widths": (0.05, 0.2)}, {"validation_levels": 3}):
        with pytest.raises(ValueError, match=rf"{next(iter(change))} was .* and is now"):
            launch(tmp_path, replace(SETTINGS, **change))


def interrupt() -> None:
    raise KeyboardInterrupt
