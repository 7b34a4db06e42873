"""Feature extractors for the segmentation nets: a small one of our own, or torchvision's or timm's where installed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torch import nn

from convext.layers import DepthwiseSeparableConv2d
from convext.nn import Conv2d


class SmallBackbone(nn.Sequential):
    """Three strides of 2, then a dilated layer: [N, 3, H, W] -> [N, 4C, ceil(H/8), ceil(W/8)].

    Receptive field 47. `separable` replaces all but the first convolution by depthwise-separable ones.
    """

    def __init__(self, channels: int = 32, separable: bool = False) -> None:
        layers: list[nn.Module] = []
        plan = [(3, channels, 2, 1), (channels, 2 * channels, 2, 1), (2 * channels, 4 * channels, 2, 1)]
        for a, b, stride, dilation in [*plan, (4 * channels, 4 * channels, 1, 2)]:
            conv: Any = DepthwiseSeparableConv2d if separable and a > 3 else Conv2d
            layers += [conv(a, b, 3, stride, padding="same", dilation=dilation), nn.BatchNorm2d(b), nn.ReLU()]
        super().__init__(*layers)
        self.out_channels = 4 * channels


class _LastOf(nn.Module):
    """The last of the feature maps that a timm model returns."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input: Any) -> Any:
        return self.model(input)[-1]


def make(name: str) -> tuple[nn.Module, int]:
    """The backbone called `name` with untrained weights, and the number of its channels.

    Args:
        name: "small" or "small-separable"; "resnet50" or "mobilenet_v3_large" (torchvision); "timm:NAME" for any timm
            model with features_only and output_stride 8.

    Raises:
        ImportError: the package that has it is not installed.
        ValueError: no such backbone.
    """
    if name in ("small", "small-separable"):
        small = SmallBackbone(separable=name == "small-separable")
        return small, small.out_channels
    if name.startswith("timm:"):
        timm = _imported("timm", name)
        model = timm.create_model(name.removeprefix("timm:"), features_only=True, output_stride=8)
        return _LastOf(model), model.feature_info.channels()[-1]
    if name == "resnet50":
        resnet = _imported("torchvision.models", name).resnet50(replace_stride_with_dilation=[False, True, True])
        return nn.Sequential(*list(resnet.children())[:-2]), 2048  # without the pooling and the classifier
    if name == "mobilenet_v3_large":
        return _imported("torchvision.models", name).mobilenet_v3_large(dilated=True).features, 960
    raise ValueError(f"no backbone {name!r}: small, small-separable, resnet50, mobilenet_v3_large or timm:NAME")


def _imported(module: str, name: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(f"backbone {name!r} is {package}'s: pip install {package}, or use 'small'") from error
