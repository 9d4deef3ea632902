"""What a model's network is built from: plain values, on the command line, in YAML and in a model's file.

    network: {preset: small, dropout: 0.1}                       a U-Net
    network: {kind: transformer, patch: 4}
    network: {kind: diffusers.UNet2DModel, arguments: {...}}     somebody else's module

One flat table, so that each setting is one option, `--network.width 64`. A setting that is not given is that of the
preset, and without one the kind's own; `resolved` fills them in, and that is what a model's file says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from torch import nn

from physdiff.grid import Grid
from physdiff.networks.backbones import Backbone
from physdiff.networks.presets import PRESETS as UNETS
from physdiff.networks.transformer import DiffusionTransformer
from physdiff.networks.unet import UNet
from physdiff.registry import nearest, spelled
from physdiff.trust import require_plain

CLASS = "module.Class"  # any other kind
# Settings of each kind, with the values that hold without a preset.
KINDS: dict[str, dict[str, Any]] = {
    "unet": {"width": 32, "multipliers": (1, 2, 2), "blocks": 1, "dropout": 0.0, "attention": (), "heads": 4,
             "checkpointing": False},
    "transformer": {"patch": 4, "width": 128, "depth": 6, "heads": 4, "dropout": 0.0, "checkpointing": False},
    CLASS: {"arguments": {}, "convention": None},
}  # fmt: skip
# The three larger ones are DiT-S, B and L.
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "tiny": {"width": 96, "depth": 4, "heads": 3},
    "small": {"width": 384, "depth": 12, "heads": 6},
    "base": {"width": 768, "depth": 12, "heads": 12},
    "large": {"width": 1024, "depth": 24, "heads": 16},
}
PRESETS: dict[str, Mapping[str, Mapping[str, Any]]] = {"unet": UNETS, "transformer": TRANSFORMERS}


@dataclass(frozen=True)
class NetworkSettings:
    """The network of a model. What is not given is that of the preset, or else of the kind.

    Attributes:
        width: Features of the U-Net's finest level, or of a token of the transformer; 32 and 128.
        multipliers: Features of each level of the U-Net in units of the width; as many levels. (1, 2, 2).
        blocks: Residual blocks of the U-Net per level; 1.
        dropout: Probability with which features are dropped in training; 0.
        seed: Seed of the initial weights.
        kind: "unet", "transformer", or any torch.nn.Module as `module.Class` (or `file.py:Class`), which is then called
            as `physdiff.networks.Backbone` tells.
        preset: Size, one of "tiny", "small", "base" and "large"; settings that are given beside it take precedence.
        attention: Levels of the U-Net with attention, 0 the finest; none.
        heads: Attention heads; 4.
        patch: Cells of the transformer's patch along each axis, one number for all or one each; 4.
        depth: Blocks of the transformer; 6.
        checkpointing: Whether training computes features again instead of keeping them: less memory, more time.
        condition_channels: Channels of fields on the same grid that the model is conditioned on.
        scalars: Numbers that it is conditioned on.
        classes: Number of classes, one of which it is conditioned on; 0 for none.
        extra_channels: Outputs beyond those of the field; a learned variance asks for its own.
        arguments: Arguments of a class, by name: numbers and words, no paths; numbers of channels are filled in.
        convention: How a class is called, where its package or signature does not tell.

    Raises:
        ValueError: a setting is of another kind, or a name is unknown.
    """

    width: int | None = None
    multipliers: tuple[int, ...] | None = None
    blocks: int | None = None
    dropout: float | None = None
    seed: int = 0
    kind: str = "unet"
    preset: str | None = None
    attention: tuple[int, ...] | None = None
    heads: int | None = None
    patch: int | tuple[int, ...] | None = None
    depth: int | None = None
    checkpointing: bool | None = None
    condition_channels: int = 0
    scalars: int = 0
    classes: int = 0
    extra_channels: int = 0
    arguments: dict[str, Any] | None = None
    convention: str | None = None

    def __post_init__(self) -> None:
        if self.class_path is None:
            object.__setattr__(self, "kind", spelled(self.kind, [k for k in KINDS if k != CLASS]))
        home = self._home
        if home not in KINDS:
            raise ValueError(
                f"network.kind '{self.kind}' is unknown. {nearest(self.kind, [k for k in KINDS if k != CLASS])} Any "
                "torch.nn.Module is named as module.Class."
            )
        if self.preset is not None:
            if home == CLASS:
                raise ValueError(
                    "network.preset is of the kinds unet and transformer; a class has network.arguments instead: where "
                    "config.yaml has a preset, say --network.preset null."
                )
            object.__setattr__(self, "preset", spelled(self.preset, PRESETS[home]))
            if self.preset not in PRESETS[home]:
                raise ValueError(f"network.preset '{self.preset}' is unknown. {nearest(self.preset, PRESETS[home])}")
        require_plain(self.arguments, "network.arguments")
        for f in fields(self):
            homes = [kind for kind, settings in KINDS.items() if f.name in settings]
            if homes and home not in homes and getattr(self, f.name) is not None:
                raise ValueError(
                    f"network.{f.name} is a setting of the kind {' or '.join(homes)}; this network is of the kind "
                    f"{self.kind}."
                )

    @property
    def class_path(self) -> str | None:
        """The class, of a network that is none of this package's kinds."""
        return self.kind if "." in self.kind or ":" in self.kind else None

    @property
    def _home(self) -> str:
        return self.kind if self.class_path is None else CLASS

    def resolved(self) -> NetworkSettings:
        """The same with every setting of its kind filled in."""
        home = self._home
        chosen = {**KINDS[home], **PRESETS.get(home, {}).get(self.preset or "", {})}
        return replace(self, **{k: v for k, v in chosen.items() if getattr(self, k) is None})

    def to_dict(self) -> dict[str, Any]:
        """Plain values from which `from_dict` makes these settings again, filled in."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self.resolved()).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NetworkSettings:
        """The inverse of `to_dict`; what an older version did not write keeps its default."""
        tuples = ("multipliers", "attention", "patch")
        plain: dict[str, Any] = {k: tuple(v) if k in tuples and isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain)


def build_network(
    grid: Grid, channels: int, settings: NetworkSettings, whitened_input: bool = False, extra_channels: int = 0
) -> nn.Module:
    """The network that settings describe; its output is zero.

    Args:
        grid: Where the fields live.
        channels: Channels of the field.
        settings: What is built.
        whitened_input: Whether its input is the field and a whitened copy of it.
        extra_channels: Outputs that a learned variance asks for.

    Raises:
        ValueError: a setting is outside its range; the class cannot be found, or is unfit.
    """
    whole = settings.resolved()
    if extra_channels and settings.extra_channels not in (0, extra_channels):
        raise ValueError(
            f"network.extra_channels is {settings.extra_channels}, and the learned variance needs {extra_channels}; "
            "leave it out."
        )
    shared: dict[str, Any] = {
        "condition_channels": whole.condition_channels, "scalars": whole.scalars, "classes": whole.classes,
        "extra_channels": extra_channels or whole.extra_channels, "seed": whole.seed,
        "input_channels": 2 * channels if whitened_input else channels,
    }  # fmt: skip
    own: dict[str, Any] = {name: getattr(whole, name) for name in KINDS[whole._home]}
    if whole.class_path is not None:
        return Backbone.of_class(grid, channels, whole.class_path, **own, **shared)
    return {"unet": UNet, "transformer": DiffusionTransformer}[whole.kind](grid, channels, **own, **shared)
