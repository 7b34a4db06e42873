"""Building blocks of convolutional networks, on the package's own layers; docs/blocks.md shows each with its numbers.

Every block keeps the spatial size, at any size and for odd and even kernels. All but the two nets also take, as
convolutions do, the unbatched [C, *size].
"""

from convext.blocks.anti_aliased import AntiAliasedDilated
from convext.blocks.anti_gridding import AntiGriddingBlock
from convext.blocks.aspp import ASPP, EfficientASPP
from convext.blocks.gradual_dilation import GradualDilation
from convext.blocks.hybrid import HybridBlock
from convext.blocks.multi_scale import MultiScaleExtractor
from convext.blocks.network_in_network import NetworkInNetwork
from convext.blocks.segmentation_head import SegmentationHead
from convext.blocks.segmentation_net import DilatedSegNet, MobileDilatedSeg
from convext.blocks.separable_dilated import SeparableDilatedConv, SeparableDilatedConv1d
from convext.blocks.wavenet import WaveNetBlock, WaveNetStack

__all__ = [
    "ASPP",
    "AntiAliasedDilated",
    "AntiGriddingBlock",
    "DilatedSegNet",
    "EfficientASPP",
    "GradualDilation",
    "HybridBlock",
    "MobileDilatedSeg",
    "MultiScaleExtractor",
    "NetworkInNetwork",
    "SegmentationHead",
    "SeparableDilatedConv",
    "SeparableDilatedConv1d",
    "WaveNetBlock",
    "WaveNetStack",
]
