"""A forward that torch never returns from, on CPUs with bfloat16: ours computes it, whatever was measured."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

import convext
from convext.choice import cpu_table, registry, remembered
from convext.problem import ConvProblem
from convext.providers.cpu import library

HANGS = ConvProblem.of(
    "fprop", (1, 16, 48, 48), (16, 1, 17, 17), (48, 48), (1, 1), (8, 8), (1, 1), 16, torch.bfloat16, True
)


@pytest.fixture
def nothing_measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(cpu_table, "fastest", lambda problem, threads: ())
    remembered.forget()
    yield
    remembered.forget()


needs_library = pytest.mark.skipif(library.unavailable() is not None, reason=str(library.unavailable()))


@needs_library
@pytest.mark.usefixtures("nothing_measured")
def test_torchs_forward_goes_last_where_it_hangs() -> None:
    assert registry.choose(HANGS).name == "cpu.stencil"
    for change in ({"c": 24, "k": 24, "groups": 24}, {"channels_last": False}, {"dtype": torch.float32},
                   {"kernel": (13, 13), "pad": (6, 6)}, {"face": "wgrad"}):  # fmt: skip
        assert registry.choose(replace(HANGS, **change)) is registry.ATEN


@needs_library
def test_explain_says_why() -> None:
    x = torch.zeros(1, 16, 48, 48, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    layer = convext.Conv2d(16, 16, 17, padding=8, groups=16, dtype=torch.bfloat16)
    assert "ATen goes last" in str(convext.explain(layer, x))


LAYER = """
import torch, convext

layer = convext.Conv2d(16, 16, 17, padding=8, groups=16, dtype=torch.bfloat16)
x = torch.randn(1, 16, 48, 48).bfloat16().contiguous(memory_format=torch.channels_last)
y = layer(x)
expected = torch.conv2d(x.double(), layer.weight.double(), layer.bias.double(), padding=8, groups=16)
torch.testing.assert_close(y.double(), expected, rtol=2**-8, atol=2**-8)
y.sum().backward()
"""


@needs_library
def test_a_layer_returns() -> None:
    """In a process of its own: if not, it is ended."""
    subprocess.run([sys.executable, "-c", LAYER], check=True, timeout=100)
