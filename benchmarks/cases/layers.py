"""The layers that are timed: 67 of fifty real networks, with their counts, and 47 published shapes.

`layers/model_layers.json` was traced from the networks; `layers/anchor_layers.json` has the shapes that others
published times for. A transposed layer is a convolution read backwards, so its forward is the face `dgrad`:

    convolution    x = input,  y = output     forward fprop, input gradient dgrad
    transposed     y = input,  x = output     forward dgrad, input gradient fprop
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from convext.problem import ConvProblem, Face, output_size, transposed_size

FOLDER = Path(__file__).parent / "tables"
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Layer:
    """One convolution layer with the input it was seen with.

    Attributes:
        id: its number in the table, "A.." for a published shape.
        name: model and layer, or where the shape was published.
        family: depthwise, pointwise, grouped, dilated, transposed or dense.
        input, weight: shapes of the layer's own input [N, C, *I] and weight.
        stride, begin, end, dilation, output_padding: one value an axis; `begin` and `end` are the zeros around it.
        groups, transposed, bias: as in torch's layers.
        count: how many such layers the network has.
        dtype: what the shape was published for; None where any will do.
        layout: the memory format that the network had there: "nc" or "cl" (channels last).
        published: the time others report, in their words, or "".
        cut: what `fit` made smaller, in words, or "".
    """

    id: str
    name: str
    family: str
    input: tuple[int, ...]
    weight: tuple[int, ...]
    stride: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    dilation: tuple[int, ...]
    output_padding: tuple[int, ...]
    groups: int
    transposed: bool
    bias: bool = False
    count: int = 1
    dtype: torch.dtype | None = None
    layout: str = "nc"
    published: str = ""
    cut: str = ""

    @property
    def forward(self) -> Face:
        """The face that the layer's forward computes."""
        return "dgrad" if self.transposed else "fprop"

    @property
    def output(self) -> tuple[int, ...]:
        """Shape of the layer's output. Raises ValueError where the kernel does not fit the padded input."""
        geometry = (self.input[2:], self.weight[2:], self.stride, self.begin, self.end, self.dilation)
        if self.transposed:
            channels, size = self.weight[1] * self.groups, transposed_size(*geometry, self.output_padding)
        else:
            channels, size = self.weight[0], output_size(*geometry)
        if min(size) < 1:
            raise ValueError(f"layer {self.id}: input {self.input} gives an output of size {size}")
        return (self.input[0], channels, *size)

    def problem(
        self,
        face: Face,
        dtype: torch.dtype,
        channels_last: bool = False,
        device: str = "cpu",
        arch: int = 0,
        precision: str = "ieee",
    ) -> ConvProblem:
        """One face of the layer."""
        x, y = (self.output, self.input) if self.transposed else (self.input, self.output)
        return ConvProblem(
            face, x[0], x[1], y[1], self.groups, x[2:], self.weight[2:], y[2:], self.stride, self.begin, self.dilation,
            dtype, channels_last, device, arch, precision,
        )  # fmt: skip

    def fit(self, flops: float, bytes: float, images: int | None = None, ease: float = 1.0) -> Layer:
        """This layer within `flops` and `bytes` (in float32) a call: with fewer images, then with smaller maps.

        Channels, kernel, stride, dilation and padding stay, and no axis gets shorter than the kernel's reach, so it
        remains the same kind of work; what that leaves may still be above the limits.

        Args:
            flops, bytes: the limits of one image.
            images: how many there are at most.
            ease: more than one image keep to this share of the limits.
        """

        def share(layer: Layer) -> float:
            problem = layer.problem("fprop", torch.float32)
            return max(problem.flops / flops, problem.ideal_bytes / bytes)

        n, *rest = self.input
        layer = replace(self, input=(min(n, images or n), *rest))
        while share(layer) > (ease if layer.input[0] > 1 else 1):
            n, c, *size = layer.input
            floor = [max(8, d * (k - 1) + 1) for k, d in zip(self.weight[2:], self.dilation, strict=True)]
            longest = max((i for i, least in zip(size, floor, strict=True) if i // 2 >= least), default=None)
            if n > 1:
                layer = replace(layer, input=(max(1, min(n - 1, int(n * ease / share(layer)))), c, *size))
            elif longest is None:
                break
            else:
                halves = (i // 2 if i == longest and i // 2 >= f else i for i, f in zip(size, floor, strict=True))
                layer = replace(layer, input=(n, c, *halves))
        return replace(layer, cut=_difference(self.input, layer.input))


def _difference(whole: tuple[int, ...], cut: tuple[int, ...]) -> str:
    """ "n 64>2 map 56x56>28x28", or "" where nothing was cut."""
    parts = [f"n {whole[0]}>{cut[0]}"] if cut[0] != whole[0] else []
    if cut[2:] != whole[2:]:
        parts.append(f"map {'x'.join(map(str, whole[2:]))}>{'x'.join(map(str, cut[2:]))}")
    return " ".join(parts)


def model_layers() -> list[Layer]:
    """The layers of real networks. Zeros that a network pads with before the layer belong to the layer here."""
    return [_layer(row) for row in json.loads((FOLDER / "model_layers.json").read_text())]


def anchor_layers() -> list[Layer]:
    """The published shapes; a separable one is its depthwise and its pointwise layer."""
    return [layer for row in json.loads((FOLDER / "anchor_layers.json").read_text()) for layer in _parts(row)]


def _layer(row: dict[str, Any]) -> Layer:
    size, begin, end = row["input"][2:], row["padding"], row["padding"]
    if pads := (row.get("pre_pad") or {}).get("pads"):  # [begin, end] of each axis, the last axis first
        begin = [b + extra for b, extra in zip(begin, pads[-2::-2], strict=True)]
        end = [e + extra for e, extra in zip(end, pads[-1::-2], strict=True)]
        size = [i - b - e for i, b, e in zip(size, pads[-2::-2], pads[-1::-2], strict=True)]
    return Layer(
        id=str(row["id"]),
        name=f"{row['model']} {row['layer']}" if "model" in row else row["source"],
        family=row["family"],
        input=(*row["input"][:2], *size),
        weight=tuple(row["weight"]),
        stride=tuple(row["stride"]),
        begin=tuple(begin),
        end=tuple(end),
        dilation=tuple(row["dilation"]),
        output_padding=tuple(row["output_padding"]),
        groups=row["groups"],
        transposed=row["transposed"],
        bias=row.get("bias", False),
        count=row.get("count", 1),
        dtype=DTYPES.get(row.get("dtype", "")),
        layout="cl" if row.get("layout_seen") == "cl" else "nc",
        published=row.get("published", ""),
    )


def _parts(row: dict[str, Any]) -> Iterator[Layer]:
    if "pointwise_weight" not in row:
        yield _layer(row)
        return
    first = replace(_layer(row), id=f"{row['id']}-depthwise", family="depthwise")
    yield first
    rank = len(first.stride)
    zeros, ones = (0,) * rank, (1,) * rank
    yield replace(
        first, id=f"{row['id']}-pointwise", family="pointwise", input=first.output,
        weight=tuple(row["pointwise_weight"]), begin=zeros, end=zeros, dilation=ones, stride=ones, groups=1,
    )  # fmt: skip
