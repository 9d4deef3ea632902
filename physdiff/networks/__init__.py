"""Networks: plain modules from a field and a time to a field. They know no diffusion process."""

from physdiff.networks.embedding import TimeEmbedding
from physdiff.networks.padding import Convolution, pad
from physdiff.networks.unet import UNet

__all__ = ["Convolution", "TimeEmbedding", "UNet", "pad"]
