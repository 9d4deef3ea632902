"""Training: the loop, its settings, checkpoints that survive kills, and keyed randomness."""

from physdiff.training.checkpoint import complete_checkpoints, load_ema, read_checkpoint
from physdiff.training.loop import TrainResult, train
from physdiff.training.metrics import read_metrics
from physdiff.training.randomness import batch_indices, keyed_generator
from physdiff.training.settings import TrainSettings

__all__ = [
    "TrainResult",
    "TrainSettings",
    "batch_indices",
    "complete_checkpoints",
    "keyed_generator",
    "load_ema",
    "read_checkpoint",
    "read_metrics",
    "train",
]
