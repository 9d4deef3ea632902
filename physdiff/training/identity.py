"""What makes two launches the same run, so that the second may continue the first."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from physdiff.data.rows import Rows
from physdiff.training.settings import FREE_SETTINGS, TrainSettings


def run_identity(module: nn.Module, data: Rows, settings: TrainSettings, signature: str) -> dict[str, Any]:
    """Plain values that must not change in the middle of a run.

    Args:
        module: What is trained; the name, type and shape of each of its parameters and buffers count.
        data: What it is trained on; its content and its order count, not how it is kept.
        settings: All count but those in `settings.FREE_SETTINGS`, and `steps` while the schedule is constant.
        signature: Whatever else the caller wants to hold fixed, in one line: the grid, the process.
    """
    return {
        "signature": signature,
        "data": data.digest + (f", visited {data.order.name}" if data.order.name else ""),
        "parameters": {name: _shape(tensor) for name, tensor in module.state_dict().items()},
        "settings": json.loads(json.dumps(asdict(settings))),  # as a checkpoint gives them back: tuples are lists
    }


def require_same_run(stored: dict[str, Any], current: dict[str, Any], checkpoint: Path) -> None:
    """Compare the identity in a checkpoint with that of this launch.

    Raises:
        ValueError: they differ; the first difference is named, with both values.
    """

    def require_same(name: str, was: Any, now: Any) -> None:
        if was != now:
            raise ValueError(
                f"cannot continue {checkpoint}: {name} was {was} and is now {now}; "
                "change it back, or train in another folder."
            )

    was, now = (_parts(state.get("signature", "")) for state in (stored, current))
    for name in dict.fromkeys((*now, *was)):
        require_same(name, was.get(name, "absent"), now.get(name, "absent"))
    require_same("data", stored.get("data"), current["data"])
    for part in ("parameters", "settings"):
        was, now = stored.get(part, {}), current[part]
        for name in dict.fromkeys((*now, *was)):
            if part == "parameters" or not _is_free(name, was, now):
                label = f"parameter '{name}'" if part == "parameters" else name
                require_same(label, was.get(name, "absent"), now.get(name, "absent"))


def _parts(signature: str) -> dict[str, Any]:
    """A signature by its parts, if it is a JSON object; else in one piece."""
    try:
        found = json.loads(signature)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"signature": signature}


def _is_free(setting: str, was: dict[str, Any], now: dict[str, Any]) -> bool:
    # With a constant rate no step depends on how many will follow, so a run may be prolonged.
    prolonged = setting == "steps" and was.get("schedule") == now["schedule"] == "constant"
    return setting in FREE_SETTINGS or prolonged


def _shape(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
