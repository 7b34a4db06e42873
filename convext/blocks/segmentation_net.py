"""Semantic segmentation: backbone, dilated context, classifier, and logits of the input's size."""

from __future__ import annotations

from torch import Tensor, nn

from convext.blocks import backbone
from convext.blocks.aspp import ASPP, EfficientASPP
from convext.layers import PointwiseConv2d
from convext.nn import Conv2d


class _SegmentationNet(nn.Module):
    """Backbone -> context -> classifier -> bilinear upsampling: [N, 3, H, W] -> [N, classes, H, W]."""

    def __init__(self, features: nn.Module, context: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.backbone, self.context, self.classifier = features, context, classifier

    def forward(self, input: Tensor) -> Tensor:
        logits = self.classifier(self.context(self.backbone(input)))
        return nn.functional.interpolate(logits, size=input.shape[-2:], mode="bilinear", align_corners=False)


class DilatedSegNet(_SegmentationNet):
    """DeepLab's shape: backbone, ASPP, a 3x3 convolution, a 1x1 classifier (Chen et al., arXiv 1706.05587).

    [N, 3, H, W] -> [N, classes, H, W]; receptive field: everything, by ASPP's mean.

    The backbone is `backbone.make`'s, with untrained weights; torchvision's ResNet has no `.features`, and stops here
    before its pooling. The logits are upsampled to the input's size.
    """

    def __init__(self, classes: int = 21, backbone_name: str = "small", channels: int = 256) -> None:
        features, width = backbone.make(backbone_name)
        context = ASPP(width, channels)
        classifier = nn.Sequential(
            Conv2d(context.out_channels, channels, 3, padding=1), nn.ReLU(), PointwiseConv2d(channels, classes)
        )
        super().__init__(features, context, classifier)


class MobileDilatedSeg(_SegmentationNet):
    """A separable backbone, EfficientASPP with rates 3, 6, 9, and a 1x1 classifier.

    [N, 3, H, W] -> [N, classes, H, W]; 19 classes are Cityscapes', VOC has 21.

    The context takes as many channels as the backbone says it gives: MobileNetV3's large model ends at 960, the small
    one at 576.
    """

    def __init__(self, classes: int = 19, backbone_name: str = "small-separable", channels: int = 128) -> None:
        features, width = backbone.make(backbone_name)
        context = nn.Sequential(EfficientASPP(width, channels, rates=(3, 6, 9)), nn.ReLU())
        super().__init__(features, context, PointwiseConv2d(channels, classes))
