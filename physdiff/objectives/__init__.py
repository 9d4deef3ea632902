"""What training minimises."""

from physdiff.objectives.denoising import DenoisingLoss
from physdiff.objectives.transition import TransitionLoss

__all__ = ["DenoisingLoss", "TransitionLoss"]
