"""The kernels of causal convolutions, as Triton compiles them, on the emulated GPU, against float64.

A sample that turns with the commit; with EMULATOR_ALL=1 everything.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import commits
import pytest
import torch
from cases import ARCHITECTURES
from gpu_emulator import library
from gpu_emulator.triton_device import emulated
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

sys.path.insert(0, str(Path(__file__).parents[3] / "causal"))

from causal_problems import assert_near, check, draw, oracle, seq_idx_of, whole

from convext.causal import choice, triton_calls
from convext.causal_conv1d import causal_conv1d_update

F32, F64, F16, BF16 = torch.float32, torch.float64, torch.float16, torch.bfloat16


@dataclass(frozen=True)
class Problem:
    """Two rows, or one that is packed; 19 channels, so that vectors do not fit, or 32."""

    x: torch.dtype = F32
    w: torch.dtype = F32
    channels: int = 19
    width: int = 4
    dilation: int = 1
    lengths: tuple[int, ...] = (37,)  # of the sequences of a row
    packed: bool = False
    states: bool = False
    activation: str | None = "silu"


PROBLEMS = {
    "float32": Problem(),
    "bfloat16, in vectors": Problem(BF16, F32, 32, lengths=(40,), states=True),
    "float16": Problem(F16, F16, activation="gelu"),
    "float64": Problem(F64, F64, activation="silu", states=True),
    "float64, gelu": Problem(F64, F32, activation="gelu"),
    "relu": Problem(activation="relu", width=3),
    "one tap": Problem(width=1, activation=None),
    "eight taps": Problem(width=8, states=True, lengths=(33,)),
    "dilated": Problem(BF16, BF16, 32, 3, 5, lengths=(40,)),
    "one element": Problem(lengths=(1,), states=True),
    "short sequences": Problem(lengths=(1, 2, 3, 1, 8, 2), states=True),
    "short sequences, in vectors": Problem(BF16, F32, 32, lengths=(1, 2, 3, 1, 7, 2)),
    "packed": Problem(lengths=(1, 2, 3, 1, 0, 8, 2), packed=True, states=True),
    "packed, in vectors": Problem(BF16, F32, 32, lengths=(20, 3, 0, 17), packed=True),
}
LAYOUTS = ("length", "channels")


def sample(cases: list[tuple], count: int) -> list[tuple]:
    """So many of them, other ones with another commit."""
    if os.environ.get("EMULATOR_ALL"):
        return cases
    return sorted(cases, key=lambda case: hashlib.sha256(f"{commits.number()} {case}".encode()).digest())[:count]


@contextmanager
def causal_emulated(arch: int) -> Iterator[None]:
    """The emulated device, with causal convolutions told that CPU tensors lie on it."""
    before = library.launches()
    with (
        emulated(arch),
        mock.patch.object(choice, "provider", return_value="triton"),
        mock.patch.object(triton_calls, "_arch", return_value=arch),
    ):
        yield
    assert library.launches() > before


@pytest.mark.parametrize(
    ("arch", "layout", "name"), sample(list(itertools.product(ARCHITECTURES, LAYOUTS, PROBLEMS)), 12)
)
def test_values_states_and_gradients(arch: int, layout: str, name: str) -> None:
    p, length = PROBLEMS[name], sum(PROBLEMS[name].lengths)
    batch, rows = (1, len(p.lengths)) if p.packed else (2, 2)
    x, w, bias, states = draw(batch, p.channels, length, p.width, p.x, p.w, p.dilation, rows)
    lengths = [list(p.lengths)] * batch
    where = {}
    if p.packed:
        where["cu_seqlens"] = torch.tensor([0, *p.lengths]).cumsum(0)
    elif len(p.lengths) > 1:
        lengths[1] = lengths[1][:-1]  # padding follows
        where["seq_idx"] = seq_idx_of(lengths, length)
    with causal_emulated(arch):
        check(
            x, w, bias, states if p.states else None, lengths, layout=layout, activation=p.activation,
            dilation=p.dilation, residual=torch.randn_like(x), **where,
        )  # fmt: skip


STEPS = {"float32": (F32, False), "bfloat16": (BF16, False), "a ring": (F32, True), "a ring of bfloat16": (BF16, True)}


@pytest.mark.parametrize(("arch", "layout", "name"), sample(list(itertools.product(ARCHITECTURES, LAYOUTS, STEPS)), 4))
def test_steps(arch: int, layout: str, name: str) -> None:
    """One element, then two at once, from rows of a cache; the other rows, and those of padding, stay."""
    dtype, ring = STEPS[name]
    x, w, bias, _ = draw(3, 70, 3, 4, dtype, F32)
    cache = torch.randn(5, 70, 6).to(dtype)
    if layout == "channels":
        cache = cache.transpose(1, 2).contiguous().transpose(1, 2)
    rows, seen = torch.tensor([4, -1, 0]), torch.tensor([6, 0, 13]) if ring else None
    before, results = cache.clone(), []
    with causal_emulated(arch):
        for begin, end in ((0, 1), (1, 3)):
            at = seen + begin if ring else None
            results.append(causal_conv1d_update(x[:, :, begin:end], cache, w, bias, "silu", at, rows))
    y = torch.cat(results, 2)
    states = torch.stack([_last(before[row], count if ring else None) for row, count in ((4, 6), (0, 13))])
    exact, _ = oracle(x[[0, 2]], w, bias, states[:, :, -3:], lengths=whole(2, 3), activation="silu")
    assert_near(y[[0, 2]], exact, dtype, 32)
    assert torch.equal(y[1], torch.zeros_like(y[1]))
    for i, (row, count) in enumerate(((4, 9), (0, 16))):
        moved = _last(cache[row], count if ring else None)
        assert torch.equal(moved, torch.cat([states[i], x[2 * i]], 1)[:, 3:])
    assert torch.equal(cache[1:4], before[1:4])


def _last(state: Tensor, seen: int | None) -> Tensor:
    """The elements of a state in their order; of a ring, given how many were seen."""
    return state if seen is None else state.roll(-seen, 1)
