"""Network in network: a small perceptron at every pixel (Lin, Chen and Yan, arXiv 1312.4400)."""

from torch import nn

from convext.layers import PointwiseConv2d
from convext.nn import Conv2d


class NetworkInNetwork(nn.Sequential):
    """A 3x3 convolution and two 1x1, a ReLU after each.

    [N, C, H, W] -> [N, K, H, W]; 9CK + 2K^2 + 3K parameters; receptive field 3x3.
    """

    def __init__(self, in_channels: int = 3, out_channels: int = 64) -> None:
        super().__init__(
            Conv2d(in_channels, out_channels, 3, padding=1),
            nn.ReLU(),
            PointwiseConv2d(out_channels, out_channels),
            nn.ReLU(),
            PointwiseConv2d(out_channels, out_channels),
            nn.ReLU(),
        )
