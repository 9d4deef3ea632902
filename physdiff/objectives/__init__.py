"""What training minimises."""

from physdiff.objectives.denoising import DenoisingLoss

__all__ = ["DenoisingLoss"]
