"""The table of docs/kernels.md: which kernel computes which face, of which families, dtypes and layouts.

It is read off the records. A grid of small problems is put to each kernel as on a Hopper GPU, or on the CPU that it is
for, and a cell lists what it takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import torch

from convext.choice import registry
from convext.problem import FACES, ConvProblem, output_size

# column entry: (dtype, how float32 products are formed)
_DTYPES = {
    "float64": (torch.float64, "ieee"),
    "float32": (torch.float32, "ieee"),
    "tf32": (torch.float32, "tf32"),
    "float16": (torch.float16, "ieee"),
    "bfloat16": (torch.bfloat16, "ieee"),
}
# family: (channels of x, channels of y, groups, kernel, dilation)
_FAMILIES = {
    "depthwise": (64, 64, 64, 3, 1),
    "large depthwise": (64, 64, 64, 9, 1),
    "pointwise": (64, 64, 1, 1, 1),
    "grouped": (64, 64, 8, 3, 1),
    "dilated": (64, 64, 1, 3, 2),
    "dense": (64, 64, 1, 3, 1),
}


def problems() -> Iterator[tuple[str, ConvProblem]]:
    """Every face x family x rank x stride x dtype x layout, of one small convolution each, with its family."""
    grid = product(FACES, _FAMILIES.items(), (1, 2, 3), (1, 2), _DTYPES.values(), (False, True))
    for face, (family, (c, k, groups, taps, dilation)), rank, stride, (dtype, precision), channels_last in grid:
        input, kernel, s, d = (16,) * rank, (taps,) * rank, (stride,) * rank, (dilation,) * rank
        pad = (dilation * (taps // 2),) * rank
        output = output_size(input, kernel, s, pad, pad, d)
        problem = ConvProblem(
            face, 2, c, k, groups, input, kernel, output, s, pad, d, dtype, channels_last, "cuda", 90, precision
        )
        yield family, problem


def markdown() -> str:
    """The table, in Markdown."""
    lines = ["| kernel | face | families | ranks | dtypes | layouts |", "| --- | --- | --- | --- | --- | --- |"]
    grid = list(problems())
    for kernel in registry.kernels():
        for face in kernel.faces:
            here = _on_cpu(grid) if kernel.provider in ("cpu", "plain") else grid
            taken = [(family, p) for family, p in here if p.face == face and kernel.why_not(p) is None]
            lines.append(f"| `{kernel.name}` | {face} | {' | '.join(_cells(taken))} |")
    return "\n".join(lines)


def _on_cpu(grid: list[tuple[str, ConvProblem]]) -> list[tuple[str, ConvProblem]]:
    """The same problems on a CPU, where float32 is float32 throughout."""
    return [(family, replace(p, device="cpu", arch=0)) for family, p in grid if p.precision == "ieee"]


def _cells(taken: list[tuple[str, ConvProblem]]) -> list[str]:
    def listed(values: list[str], order: list[str]) -> str:
        return "all" if set(values) == set(order) else ", ".join(v for v in order if v in values) or "none"

    names = {value: name for name, value in _DTYPES.items()}
    return [
        listed([family for family, _ in taken], list(_FAMILIES)),
        listed([f"{p.rank}-D" for _, p in taken], ["1-D", "2-D", "3-D"]),
        listed([names[p.dtype, p.precision] for _, p in taken], list(_DTYPES)),
        listed(["channels last" if p.channels_last else "channels first" for _, p in taken],
               ["channels first", "channels last"]),
    ]  # fmt: skip
