"""Compressions by name: those of every HDF5, and the faster ones of hdf5plugin."""

from __future__ import annotations

import importlib
from typing import Any

BUILT_IN: dict[str, dict[str, Any]] = {
    "none": {},
    "gzip": {"compression": "gzip", "compression_opts": 4, "shuffle": True},
    "lzf": {"compression": "lzf", "shuffle": True},
}
# Bytes are shuffled within Blosc, several threads at once.
PLUGIN = {"lz4": "lz4", "zstd": "zstd"}


def packing(name: str) -> dict[str, Any]:
    """What `h5py.Group.create_dataset` is told for a compression.

    Raises:
        ValueError: there is none of that name, or hdf5plugin is needed and not installed.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    if name not in PLUGIN:
        raise ValueError(f"compression must be one of {', '.join((*BUILT_IN, *PLUGIN))}; got '{name}'.")
    if not plugin_is_there():
        raise ValueError(
            f"compression '{name}' needs the package hdf5plugin (pip install 'physdiff[hdf5plugin]'); gzip does not."
        )
    plugin = importlib.import_module("hdf5plugin")
    return dict(plugin.Blosc2(cname=PLUGIN[name], clevel=5, filters=plugin.Blosc2.SHUFFLE))


def plugin_is_there() -> bool:
    """Whether hdf5plugin is installed; its filters are then known to HDF5 in this process."""
    try:
        importlib.import_module("hdf5plugin")
    except ImportError:
        return False
    return True
