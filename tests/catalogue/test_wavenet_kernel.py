"""WaveNet's blocks in one pass over time: when that is taken, and that nobody can tell from results or layers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import convext
from convext.blocks import WaveNetStack
from convext.layers import CausalConv1d
from convext.providers.cpu import gated, library

pytestmark = pytest.mark.skipif(library.unavailable() is not None, reason=f"{library.unavailable()}")
LAYERS = 3


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One element for each block that the kernel computes; on processors of any make."""
    calls: list[int] = []
    run = gated.run
    monkeypatch.setattr(gated, "run", lambda *arguments: (calls.append(1), run(*arguments))[1])
    monkeypatch.setattr(library, "WIDE_IS_MEASURED", (torch.ops.convext_cpu.vendor(),))
    monkeypatch.setattr(library, "isa", lambda: "generic")
    return calls


def agree(y: Tensor, model: nn.Module, x: Tensor) -> None:
    exact = copy.deepcopy(model).double()(x.double())
    with torch.enable_grad():
        theirs = model(x).detach()
    allowed = 2 * (theirs - exact).abs().max() + 2 * torch.finfo(torch.float32).eps * exact.abs().max()
    assert (y - exact).abs().max() <= allowed


def observed(model: WaveNetStack) -> None:
    model.blocks[1].mix.register_forward_hook(lambda *_: None)


def widened(model: WaveNetStack) -> None:
    model.blocks[1].filter_and_gate = nn.Sequential(CausalConv1d(6, 12, 2))


def grouped(model: WaveNetStack) -> None:
    model.blocks[1].filter_and_gate = CausalConv1d(6, 12, 2, groups=2)


def parametrized(model: WaveNetStack) -> None:
    weight_norm(model.blocks[1].mix)


def patched(model: WaveNetStack) -> None:
    mix: Any = model.blocks[1].mix
    mix.forward = mix.forward


@pytest.mark.parametrize(
    ("change", "taken"),
    [(None, 3), (observed, 2), (widened, 2), (grouped, 2), (parametrized, 2), (patched, 2)],
)
def test_blocks_that_go_by_one_kernel(
    change: Callable[[WaveNetStack], None] | None, taken: int, passes: list[int]
) -> None:
    model, x = WaveNetStack(6, LAYERS, 2), torch.randn(2, 6, 33)
    if change:
        change(model)
    with torch.no_grad():
        y = model(x)
        assert len(passes) == taken
        agree(y, model, x)


def by_name(model: WaveNetStack, x: Tensor) -> Any:
    with torch.no_grad(), convext.backend("aten"):
        return model(x)


def under_autocast(model: WaveNetStack, x: Tensor) -> Any:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert model(x).dtype == torch.float32  # that of x, to which skips of bfloat16 are added
    return None


def compiled(model: WaveNetStack, x: Tensor) -> Any:
    with torch.no_grad():
        return torch.compile(model, backend="eager", fullgraph=True)(x)


def exported(model: WaveNetStack, x: Tensor) -> Any:
    graph = torch.export.export(model, (x,)).module()
    assert not any("gated" in str(node.target) for node in graph.graph.nodes)
    with torch.no_grad():
        return graph(x)


def scripted(model: WaveNetStack, x: Tensor) -> Any:
    with torch.no_grad():
        return torch.jit.script(model)(x)


def mapped(model: WaveNetStack, x: Tensor) -> Any:
    with torch.no_grad():
        return torch.vmap(lambda one: model(one[None])[0])(x)


def trained(model: WaveNetStack, x: Tensor) -> Any:
    y = model(x)
    assert y.requires_grad
    return y.detach()


@pytest.mark.parametrize("way", [by_name, under_autocast, compiled, exported, scripted, mapped, trained])
def test_where_somebody_looks_the_layers_run(way: Callable[[WaveNetStack, Tensor], Any], passes: list[int]) -> None:
    model, x = WaveNetStack(6, LAYERS, 2), torch.randn(2, 6, 33)
    y = way(model, x)
    assert not passes
    if y is not None:
        agree(y, model, x)


def test_a_frozen_stack_passes_gradients_by_its_layers(passes: list[int]) -> None:
    model, x = WaveNetStack(6, LAYERS, 2).requires_grad_(False), torch.randn(1, 6, 9, requires_grad=True)
    model(x).sum().backward()
    assert x.grad is not None
    assert not passes
    model(x.detach())
    assert len(passes) == LAYERS
