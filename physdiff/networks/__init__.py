"""Networks: plain modules from a field and a time to a field. They know no diffusion process."""

from physdiff.networks.backbones import Backbone
from physdiff.networks.cost import Cost, cost
from physdiff.networks.embedding import TimeEmbedding
from physdiff.networks.padding import Convolution, pad
from physdiff.networks.presets import PRESETS, preset
from physdiff.networks.transformer import DiffusionTransformer
from physdiff.networks.unet import UNet

__all__ = [
    "PRESETS", "Backbone", "Convolution", "Cost", "DiffusionTransformer", "TimeEmbedding", "UNet", "cost", "pad",
    "preset",
]  # fmt: skip
