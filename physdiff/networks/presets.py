"""Four sizes of the U-Net; what is not given here is the network's own default.

Each size is five to ten times as costly as the one before. `tiny` learns on two CPU cores, `small` on a good CPU or
any card, `base` on one card, `large` on a data-centre card. `physdiff networks` prints their parameters and their cost.

Attention is where a level is 8 to 16 cells wide for fields of 64 to 128: there it costs next to nothing.
"""

from __future__ import annotations

from typing import Any

from physdiff.grid import Grid
from physdiff.networks.unet import UNet
from physdiff.registry import nearest, spelled

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"width": 16, "multipliers": (1, 2, 2), "blocks": 1},
    "small": {"width": 32, "multipliers": (1, 2, 2, 4), "blocks": 2, "attention": (3,)},
    "base": {"width": 64, "multipliers": (1, 2, 4, 4), "blocks": 2, "attention": (3,)},
    "large": {"width": 128, "multipliers": (1, 2, 4, 4), "blocks": 3, "attention": (2, 3), "heads": 8},
}


def preset(name: str, grid: Grid, channels: int, **overrides: Any) -> UNet:
    """A U-Net of a named size.

    Args:
        name: "tiny", "small", "base" or "large".
        grid: Where the fields live.
        channels: Channels of the field.
        overrides: Arguments of `UNet` that take the place of the preset's, or come on top of them.

    Raises:
        ValueError: there is no such preset, or an argument is outside its range.
    """
    name = spelled(name, PRESETS)
    if name not in PRESETS:
        raise ValueError(f"there is no preset '{name}' of the U-Net. {nearest(name, PRESETS)}")
    return UNet(grid, channels, **{**PRESETS[name], **overrides})
