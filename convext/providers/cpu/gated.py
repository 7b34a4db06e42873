"""A WaveNet's gated block by the compiled kernels for CPUs (csrc/cpu/gated/): one pass, in blocks of time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from convext.providers.cpu import library

MOST = 384  # channels that were measured to win: at 512 it is 1.1 times as fast as oneDNN's products, and less


def why_not(tensors: Sequence[Tensor | None]) -> str | None:
    """Why the kernels do not take x, weight, bias, mix, mix_bias and total, in one sentence, or None."""
    x, weight, *_ = given = [t for t in tensors if t is not None]
    if others := [t for t in given if t.dtype != torch.float32 or t.device.type != "cpu"]:
        return f"takes float32 tensors on the CPU, but one is {others[0].dtype} on {others[0].device}"
    if reason := library.unavailable():
        return reason
    if torch.ops.convext_cpu.vendor() not in library.WIDE_IS_MEASURED:
        return f"was measured on processors of {', '.join(library.WIDE_IS_MEASURED)} alone"
    if max(x.shape[1], weight.shape[0] // 2) > MOST:
        return f"takes up to {MOST} channels, but got {x.shape[1]}, and {weight.shape[0] // 2} of gates"
    return None


def run(tensors: Sequence[Tensor | None], dilation: int) -> tuple[Tensor, Tensor]:
    """(x + z, z or total + z), dense, of tensors that `why_not` takes; those that are not dense are copied."""
    dense: list[Any] = [None if t is None else t.contiguous() for t in tensors]
    following, skip = torch.empty_like(dense[0]), torch.empty_like(dense[0])
    torch.ops.convext_cpu.gated.default(library.isa(), following, skip, *dense, dilation)
    return following, skip
