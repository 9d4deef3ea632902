"""What an axis is by the name that a file gives it: runs, times, levels, or an axis of the grid."""

from __future__ import annotations

from collections.abc import Iterable

from physdiff.data.source import TIME, TRAJECTORY

COMPONENT = "component"
_RUNS = (
    "trajectory", "trajectories", "traj", "sample", "samples", "run", "runs", "member", "members", "realization",
    "realisation", "realizations", "realisations", "ensemble", "ensemble_member", "ens", "number", "simulation",
    "simulations", "batch",
)  # fmt: skip
# A forecast has two: when it began and how far it looks ahead; neither is an axis of the grid.
_TIMES = (
    "time", "t", "times", "valid_time", "date", "dates", "step", "lead", "lead_time", "leadtime",
    "prediction_timedelta", "forecast_period", "init_time", "forecast_reference_time", "sim_time", "timestep",
    "timesteps", "time_step", "frame", "frames",
)  # fmt: skip
_LEVELS = ("level", "pressure_level", "plev", "isobaricinhpa")
_CHANNELS = (COMPONENT, "channel", "channels", "variable", "variables")


def role(name: str) -> str:
    """`trajectory`, `time`, `component`, or "" for an axis of the grid."""
    low = name.lower()
    for words, known in ((_RUNS, TRAJECTORY), (_TIMES, TIME), (_LEVELS, COMPONENT), (_CHANNELS, COMPONENT)):
        if low in words:
            return known
    return ""


def counted(name: str) -> str:
    """A file's name for an axis, with ours for that of runs and that of times."""
    known = role(name)
    return known if known in (TRAJECTORY, TIME) else name


def check_said(source: str, dims: Iterable[str]) -> None:
    """Check names that a layout gives: another word for runs or times would be an axis of the grid without a word.

    Raises:
        ValueError: there is one; the name to write is told.
    """
    for name in dims:
        known = counted(name)
        if known != name:
            raise ValueError(
                f"{source}: dims= (--data.layout.dims) names an axis '{name}'; write '{known}' if it counts "
                f"{'runs' if known == TRAJECTORY else 'the frames of a run'}, or give an axis of the grid another name."
            )
