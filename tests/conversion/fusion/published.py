"""Small networks with the patterns of published ones, and what each of their convolutions takes in."""

import torch
import torch.nn.functional as F
from fusible import norm
from torch import nn


def layers(inner, outer, kernel=1, act=None, **settings):
    """conv -> norm -> act, which torchvision calls ConvNormActivation."""
    padding = settings.pop("padding", settings.get("dilation", 1) * (kernel // 2))
    conv = nn.Conv2d(inner, outer, kernel, padding=padding, bias=False, **settings)
    return nn.Sequential(conv, norm(nn.BatchNorm2d, outer), *([] if act is None else [act]))


class SqueezeExcite(nn.Module):
    """x times a number a channel, of its means."""

    def __init__(self, channels, squeezed, act, scale):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)
        self.act, self.scale = act, scale

    def forward(self, x):
        return x * self.scale(self.fc2(self.act(self.fc1(self.pool(x)))))


class RegNet(nn.Module):
    """Y blocks (arXiv:2003.13678): 1 x 1, groups of 3 x 3, squeeze-excite, 1 x 1, and a sum before the last ReLU."""

    def __init__(self, channels, outer, stride, squeezes):
        super().__init__()
        self.a, self.b = (
            layers(channels, outer, 1, nn.ReLU(True)),
            layers(outer, outer, 3, nn.ReLU(True), stride=stride, groups=outer // 8),
        )
        self.se = SqueezeExcite(outer, 4, nn.ReLU(), nn.Sigmoid()) if squeezes else nn.Identity()
        self.c, self.act = layers(outer, outer), nn.ReLU(True)
        self.proj = None if (channels, stride) == (outer, 1) else layers(channels, outer, stride=stride)

    def forward(self, x):
        y = self.c(self.se(self.b(self.a(x))))
        return self.act((x if self.proj is None else self.proj(x)) + y)


class Bottleneck(nn.Module):
    """ResNeXt's (arXiv:1611.05431)."""

    def __init__(self, channels, width, groups, stride=1):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 1, bias=False), norm(nn.BatchNorm2d, width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False)
        self.bn2, self.bn3 = norm(nn.BatchNorm2d, width), norm(nn.BatchNorm2d, 2 * width)
        self.conv3, self.relu = nn.Conv2d(width, 2 * width, 1, bias=False), nn.ReLU(inplace=True)
        self.downsample = None if channels == 2 * width else layers(channels, 2 * width, stride=stride)

    def forward(self, x):
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class DeepLab(nn.Module):
    """A backbone's last layers, ASPP and the head of DeepLabV3 (arXiv:1706.05587), as large as the image."""

    def __init__(self):
        super().__init__()
        self.backbone = layers(3, 16, 3, nn.Hardswish(), stride=2)
        rates = [layers(16, 8, 3, nn.ReLU(), dilation=d) for d in (2, 4)]
        self.convs = nn.ModuleList([layers(16, 8, 1, nn.ReLU()), *rates])
        self.pooling = nn.Sequential(nn.AdaptiveAvgPool2d(1), *layers(16, 8, 1, nn.ReLU()))
        self.project = nn.Sequential(*layers(32, 8, 1, nn.ReLU()), nn.Dropout(0.5))
        self.head = nn.Sequential(*layers(8, 8, 3, nn.ReLU()), nn.Conv2d(8, 5, 1))

    def forward(self, x):
        size = x.shape[-2:]
        x = self.backbone(x)
        pooled = F.interpolate(self.pooling(x), size=x.shape[-2:], mode="bilinear", align_corners=False)
        y = self.project(torch.cat([*(conv(x) for conv in self.convs), pooled], dim=1))
        return {"out": F.interpolate(self.head(y), size=size, mode="bilinear", align_corners=False)}


def double(inner, outer):
    return nn.Sequential(*layers(inner, outer, 3, nn.ReLU(True)), *layers(outer, outer, 3, nn.ReLU(True)))


class UNet(nn.Module):
    """arXiv:1505.04597, padded: down by maxima, up by transposed convolutions, beside what was there before."""

    def __init__(self, channels=8):
        super().__init__()
        c = channels
        self.down = nn.ModuleList([double(3, c), double(c, 2 * c), double(2 * c, 4 * c)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(4 * c, 2 * c, 2, 2), nn.ConvTranspose2d(2 * c, c, 2, 2)])
        self.beside = nn.ModuleList([double(4 * c, 2 * c), double(2 * c, c)])
        self.head = nn.Conv2d(c, 2, 1)

    def forward(self, x):
        kept = []
        for down in self.down:
            kept.append(down(F.max_pool2d(kept[-1], 2) if kept else x))
        x = kept.pop()
        for up, beside in zip(self.up, self.beside, strict=True):
            x = beside(torch.cat([up(x), kept.pop()], 1))
        return self.head(x)


class MobileV3(nn.Module):
    """A block of MobileNetV3 (arXiv:1905.02244) and EfficientNet: squeeze-excite before the last product."""

    def __init__(self, channels, wide, act, scale):
        super().__init__()
        self.expand, self.depthwise = layers(channels, wide, 1, act), layers(wide, wide, 5, act, groups=wide)
        self.se, self.project = SqueezeExcite(wide, 4, nn.ReLU(), scale), layers(wide, channels)

    def forward(self, x):
        return self.project(self.se(self.depthwise(self.expand(x)))) + x


class ConvNeXt(nn.Module):
    """A block (arXiv:2201.03545) of which the depthwise layer alone is a convolution."""

    def __init__(self, channels):
        super().__init__()
        self.dwconv, self.norm = nn.Conv2d(channels, channels, 7, padding=3, groups=channels), nn.LayerNorm(channels)
        self.pwconv1, self.pwconv2 = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.rand(channels, 1, 1))

    def forward(self, x):
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        return self.gamma * self.pwconv2(F.gelu(self.pwconv1(y))).permute(0, 3, 1, 2) + x


act, whole, plain = "conv + norm + relu", "conv + norm + residual + relu", "conv + norm"
SQUEEZE = {"se.fc1": "conv + relu", "se.fc2": "conv + sigmoid"}

# What builds a network, its input's shape, and what its layers take in: of two that are added, the one that runs first
# takes the sum.
NETWORKS = {
    "RegNetX": (lambda: RegNet(16, 16, 1, False), (16, 9, 9), {"a.0": act, "b.0": act, "c.0": whole}),
    "RegNetY": (lambda: RegNet(16, 16, 1, True), (16, 9, 9), {"a.0": act, "b.0": act, "c.0": whole, **SQUEEZE}),
    "RegNetY, stride 2": (
        lambda: RegNet(16, 24, 2, True), (16, 9, 9),
        {"a.0": act, "b.0": act, "c.0": whole, **SQUEEZE, "proj.0": plain},
    ),
    "ResNeXt": (
        lambda: nn.Sequential(Bottleneck(16, 16, 4, 2), Bottleneck(32, 16, 4)), (16, 9, 9),
        {"0.conv1": act, "0.conv2": act, "0.conv3": whole, "0.downsample.0": plain}
        | {"1.conv1": act, "1.conv2": act, "1.conv3": whole},
    ),
    "DeepLabV3": (
        DeepLab, (3, 24, 24),
        dict.fromkeys(["convs.0.0", "convs.1.0", "convs.2.0", "pooling.1", "project.0", "head.0"], act)
        | {"backbone.0": "conv + norm + hardswish", "head.3": "conv"},
    ),
    "U-Net": (
        UNet, (3, 16, 24),
        dict.fromkeys([f"down.{i}.{j}" for i in range(3) for j in (0, 3)], act)
        | dict.fromkeys([f"beside.{i}.{j}" for i in range(2) for j in (0, 3)], act)
        | {"up.0": "conv", "up.1": "conv", "head": "conv"},
    ),
    "MobileNetV3": (
        lambda: MobileV3(16, 32, nn.Hardswish(), nn.Hardsigmoid()), (16, 9, 9),
        dict.fromkeys(["expand.0", "depthwise.0"], "conv + norm + hardswish")
        | {"se.fc1": "conv + relu", "se.fc2": "conv + hardsigmoid", "project.0": "conv + norm + residual"},
    ),
    "EfficientNet": (
        lambda: MobileV3(16, 32, nn.SiLU(), nn.Sigmoid()), (16, 9, 9),
        dict.fromkeys(["expand.0", "depthwise.0"], "conv + norm + silu")
        | {**SQUEEZE, "project.0": "conv + norm + residual"},
    ),
    "ConvNeXt": (lambda: ConvNeXt(16), (16, 9, 9), {"dwconv": "conv"}),
}  # fmt: skip
