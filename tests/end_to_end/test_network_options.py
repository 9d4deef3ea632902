"""`physdiff train` with other networks, on the command line and in YAML: trained, found again, resumed, sampled."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Command  # pyright: ignore[reportMissingImports]

from physdiff import FieldModel

TRANSFORMER = ("--network.kind", "transformer", "--network.width", "8", "--network.heads", "2", "--network.depth", "1")
OWN = """
import torch

class Mine(torch.nn.Conv2d):
    def __init__(self, in_channels, out_channels, size=3):
        super().__init__(in_channels, out_channels, size, padding="same")

    def forward(self, x, t):
        return super().forward(x) * (1 + t.reshape(-1, 1, 1, 1))
"""


@pytest.fixture
def own(tiny: Path) -> Iterator[Path]:
    """The current folder, with a network of the user's in it; each test is a process of its own to it."""
    (tiny / "my_network.py").write_text(OWN)
    yield tiny
    sys.modules.pop("my_network", None)


@pytest.mark.parametrize(
    ("words", "network", "kind"),
    [
        ((*TRANSFORMER, "--network.patch", "[4,2]"), None, "DiffusionTransformer"),
        ((), {"kind": "transformer", "width": 8, "heads": 2, "depth": 1, "patch": 4}, "DiffusionTransformer"),
        (("--network.kind", "my_network.Mine", "--network.arguments.size", "1"), None, "Backbone"),
        ((), {"kind": "my_network.py:Mine", "arguments": {"size": 1}}, "Backbone"),
        (("--network.preset", "tiny", "--network.width", "4"), {}, "UNet"),
    ],
)  # fmt: skip
def test_a_network_is_named_trained_and_found_again(
    words: tuple[str, ...], network: dict[str, Any] | None, kind: str, own: Path, command: Command
) -> None:
    config = yaml.safe_load((own / "config.yaml").read_text())
    config["network"] = network or {}
    (own / "other.yaml").write_text(yaml.safe_dump(config))
    code, _, error = command("train", "other.yaml", "--run", "other", *words)
    assert code == 0, error
    stored = json.loads((own / "other" / "model" / "model.json").read_text())["network"]
    assert stored["arguments"] == {"size": 1} if kind == "Backbone" else stored["width"] in (4, 8)
    code, _, error = command("sample", "other", "--n", "1", "--steps", "1")
    assert code == 0, error
    assert type(FieldModel.load(own / "other").denoiser.network).__name__ == kind
    assert (own / "other" / "model" / "README.md").is_file()
    code, said, error = command("resume", "other")
    assert code == 0 and "continued from step 2" in said, (said, error)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--network.kind", "transfomer"), "network.kind 'transfomer' is unknown. Did you mean 'transformer'?"),
        (("--network.preset", "smal"), "network.preset 'smal' is unknown. Did you mean 'small'?"),
        (("--network.kind", "transformer"), "network.multipliers is a setting of the kind unet"),
        (("--network.pach", "4"), "there is no option 'network.pach'. Did you mean 'network.patch'?"),
        (("--network.kind", "os.system", "--network.width", "null", "--network.multipliers", "null"), "'system'"),
        (("--network.kind", "my_network.Mien", "--network.width", "null", "--network.multipliers", "null"), "'Mine'"),
        ((*TRANSFORMER, "--network.multipliers", "null", "--network.patch", "17"), "(16, 16); got 17"),
    ],
)  # fmt: skip
def test_a_network_that_cannot_be_is_one_line(
    words: tuple[str, ...], message: str, own: Path, command: Command
) -> None:
    code, _, error = command("train", "config.yaml", "--run", "other", *words)
    assert code == 2
    assert error.startswith("physdiff: error: ") and message in error and "Traceback" not in error, error
    assert not (own / "other" / "model").exists()


def test_a_class_path_in_yaml_is_told_how_it_is_named(own: Path, command: Command) -> None:
    config = yaml.safe_load((own / "config.yaml").read_text())
    config["network"] = {"class_path": "my_network.Mine", "init_args": {"size": 1}}
    (own / "other.yaml").write_text(yaml.safe_dump(config))
    code, _, error = command("train", "other.yaml", "--run", "other")
    assert code == 2 and "network.kind = my_network.Mine, with network.arguments" in error, error
