"""Parallel branches in one call: when that is taken, and that nobody can tell from results, layers or checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import convext
from convext import blocks
from convext.blocks import parallel
from convext.choice import remembered
from convext.layers import DilatedConv2d
from convext.providers.cpu import branches, library

pytestmark = pytest.mark.skipif(library.unavailable() is not None, reason=f"{library.unavailable()}")
Make = Callable[[], nn.Module]
BLOCKS: dict[str, tuple[Make, int]] = {
    "ASPP": (lambda: blocks.ASPP(3, 4, (2, 3)), 3),
    "EfficientASPP": (lambda: blocks.EfficientASPP(3, 8, (2, 3)), 3),
    "MultiScaleExtractor": (lambda: blocks.MultiScaleExtractor(3, 4, (1, 2, 4)), 3),
    "HybridBlock": (lambda: blocks.HybridBlock(5), 5),
}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """One element for each call of the kernel, which is taken as if it had been measured to be faster anywhere."""
    made: list[int] = []
    run = branches.run
    monkeypatch.setattr(branches, "run", lambda *arguments: (made.append(1), run(*arguments))[1])
    monkeypatch.setattr(branches, "slower", lambda problem: None)
    monkeypatch.setattr(parallel, "_TRAINED", 0)
    monkeypatch.setattr(branches, "LEAST_CHANNELS", 1)
    remembered.forget()
    yield made
    remembered.forget()


def torchs(layer: Any, x: Tensor) -> Tensor:
    pad = [(k - 1) * d // 2 for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
    return F.conv2d(x, layer.weight, layer.bias, 1, pad, layer.dilation)


def expected(model: Any, x: Tensor) -> Tensor:
    """The block in torch's functions."""
    if isinstance(model, blocks.HybridBlock):
        return torch.cat([torchs(model.dense, x), torchs(model.dilated, x)], 1)
    if isinstance(model, blocks.EfficientASPP):
        x = torchs(model.reduce, x)
        return torchs(model.expand, torch.cat([torchs(branch, x) for branch in model.branches], 1))
    maps = [torchs(branch, x) for branch in model.branches]
    if isinstance(model, blocks.ASPP):
        maps.append(torchs(model.pooled, x.mean((2, 3), keepdim=True)).expand_as(maps[0]))
    return torch.cat(maps, 1)


def agree(y: Tensor, model: nn.Module, x: Tensor) -> None:
    exact = expected(copy.deepcopy(model).double(), x.double())
    allowed = 2 * (expected(model, x) - exact).abs().max() + 2 * torch.finfo(x.dtype).eps * exact.abs().max()
    assert (y - exact).abs().max() <= allowed


@pytest.mark.parametrize("name", BLOCKS)
def test_the_blocks_are_what_they_were(name: str, calls: list[int]) -> None:
    """In one call, with gradients and without; names of parameters are those of the layers."""
    make, channels = BLOCKS[name]
    model, x = make(), torch.randn(2, channels, 9, 8)
    agree(model(x).detach(), model, x)
    with torch.no_grad():
        agree(model(x), model, x)
        agree(model(x.contiguous(memory_format=torch.channels_last)), model, x)
    assert len(calls) == 3
    found, wanted = (
        torch.autograd.grad(f.square().sum(), [*model.parameters()]) for f in (model(x), expected(model, x))
    )
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    names = {".".join(key.split(".")[:-1]) for key in model.state_dict()}
    assert names == {name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}


def hooked(model: Any) -> None:
    model.branches[1].register_forward_hook(lambda *_: None)


def hooked_before(model: Any) -> None:
    model.branches[1].register_forward_pre_hook(lambda *_: None)


def patched(model: Any) -> None:
    model.branches[1].forward = model.branches[1].forward


def wrapped(model: Any) -> None:
    model.branches[1] = nn.Sequential(model.branches[1])


def torchs_own(model: Any) -> None:
    model.branches[1] = nn.Conv2d(3, 4, 3, padding=2, dilation=2)


def circular(model: Any) -> None:
    model.branches[1] = DilatedConv2d(3, 4, 3, 2, padding_mode="circular")


def of_my_own(model: Any) -> None:
    class Mine(DilatedConv2d):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    model.branches[1] = Mine(3, 4, 3, 2)


def pruned(model: Any) -> None:
    """Its weight is not what the layer says."""
    layer = model.branches[1]
    layer.weight, layer.bias = nn.Parameter(layer.weight[:3].detach()), nn.Parameter(layer.bias[:3].detach())


@pytest.mark.parametrize(
    ("change", "taken"),
    [
        (None, 1), (hooked, 0), (hooked_before, 0), (patched, 0), (wrapped, 0), (torchs_own, 0), (circular, 0),
        (of_my_own, 0), (pruned, 0),
    ],
)  # fmt: skip
def test_layers_that_run_as_modules(change: Callable[[Any], None] | None, taken: int, calls: list[int]) -> None:
    model, x = blocks.MultiScaleExtractor(3, 4, (1, 2, 4)), torch.randn(2, 3, 9, 8)
    if change:
        change(model)
    with torch.no_grad():
        y = model(x)
        assert len(calls) == taken
        torch.testing.assert_close(y, torch.cat([branch(x) for branch in model.branches], 1))


def test_a_hook_sees_what_its_layer_makes(calls: list[int]) -> None:
    model, x, seen = blocks.MultiScaleExtractor(3, 4, (1, 2)), torch.randn(2, 3, 9, 8), []
    handle = model.branches[1].register_forward_hook(lambda layer, arguments, result: seen.append(result))
    y = model(x)
    torch.testing.assert_close(y[:, 4:], seen[0])
    handle.remove()
    handle = nn.modules.module.register_module_forward_hook(lambda layer, *_: seen.append(layer))
    try:
        model(x)
    finally:
        handle.remove()
    assert [layer for layer in seen if isinstance(layer, DilatedConv2d)] == [*model.branches]
    assert not calls


def test_a_parametrized_weight_is_what_is_used(calls: list[int]) -> None:
    model, x = blocks.MultiScaleExtractor(3, 4, (1, 2)), torch.randn(2, 3, 9, 8)
    weight_norm(model.branches[0])
    with torch.no_grad():
        model.branches[0].parametrizations.weight.original0.mul_(3)
    agree(model(x).detach(), model, x)
    assert len(calls) == 1


def test_small_layers_are_trained_one_by_one(calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """And those whose input is channels last: the way back in Python would cost more than one call saves."""
    model, x = blocks.MultiScaleExtractor(3, 4, (1, 2)), torch.randn(2, 3, 9, 8)
    model(x.contiguous(memory_format=torch.channels_last))
    products = 2 * 9 * 8 * 2 * 4 * 3 * 3 * 3
    monkeypatch.setattr(parallel, "_TRAINED", products + 1)
    model(x)
    assert not calls
    monkeypatch.setattr(parallel, "_TRAINED", products)
    model(x)
    assert len(calls) == 1


def test_layers_without_a_branch(calls: list[int]) -> None:
    with pytest.raises((RuntimeError, ValueError), match=r"non-empty"):
        blocks.MultiScaleExtractor(3, 4, ())(torch.randn(2, 3, 9, 8))


def by_name(model: nn.Module, x: Tensor) -> Any:
    with torch.no_grad(), convext.backend("aten"):
        return model(x)


def under_autocast(model: nn.Module, x: Tensor) -> Any:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert model(x).dtype == torch.bfloat16
    return None


def compiled(model: nn.Module, x: Tensor) -> Any:
    torch._dynamo.reset()
    with torch.no_grad():
        return torch.compile(model, backend="eager", fullgraph=True)(x)


def exported(model: nn.Module, x: Tensor) -> Any:
    graph = torch.export.export(model, (x,)).module()
    assert not any("convext" in str(node.target) for node in graph.graph.nodes)
    with torch.no_grad():
        return graph(x)


def scripted(model: nn.Module, x: Tensor) -> Any:
    with torch.no_grad():
        return torch.jit.script(model)(x)


def traced(model: nn.Module, x: Tensor) -> Any:
    with torch.no_grad():
        return torch.fx.symbolic_trace(model)(x)


def recorded(model: nn.Module, x: Tensor) -> Any:
    with torch.no_grad():
        return torch.jit.trace(model, x, check_trace=False)(x)


def mapped(model: nn.Module, x: Tensor) -> Any:
    with torch.no_grad():
        return torch.vmap(lambda one: model(one[None])[0])(x)


def unbatched(model: nn.Module, x: Tensor) -> Any:
    with torch.no_grad():
        return torch.stack([model(one) for one in x])


@pytest.mark.parametrize(
    "way",
    [by_name, under_autocast, compiled, exported, scripted, traced, recorded, mapped, unbatched],
    ids=lambda f: f.__name__,
)
def test_where_somebody_looks_the_layers_run(way: Callable[[nn.Module, Tensor], Any], calls: list[int]) -> None:
    model, x = blocks.MultiScaleExtractor(3, 4, (1, 2, 4)), torch.randn(2, 3, 9, 8)
    y = way(model, x)
    assert not calls
    if y is not None:
        agree(y, model, x)


@pytest.mark.parametrize(
    ("layers", "x"),
    [
        ([DilatedConv2d(3, 4, 3, 1), DilatedConv2d(3, 4, 3, 1, stride=2)], torch.zeros(1, 3, 8, 8)),
        ([DilatedConv2d(3, 4, 3, 1), DilatedConv2d(4, 4, 3, 1)], torch.zeros(1, 3, 8, 8)),
        ([DilatedConv2d(3, 4, 3, 1)], torch.zeros(1, 3, 8, 8, dtype=torch.float64)),
    ],
)
def test_what_does_not_fit_gets_torchs_words(layers: list[nn.Module], x: Tensor, calls: list[int]) -> None:
    model = blocks.MultiScaleExtractor(3, 4, (1,))
    model.branches = nn.ModuleList(layers)
    with pytest.raises(RuntimeError) as found:
        model(x)
    with pytest.raises(RuntimeError) as wanted:
        torch.cat([layer(x) for layer in layers], 1)
    assert str(found.value) == str(wanted.value)
    assert not calls


def test_the_other_tools_see_the_layers(calls: list[int]) -> None:
    """lint, convert, fuse and measuring hook into layers, or trace through them."""
    model, x = blocks.MultiScaleExtractor(3, 4, (1, 2)).eval(), torch.randn(2, 3, 9, 8)
    before = {type(layer) for layer in model.branches}
    assert convext.lint(model, x) == []
    assert {type(layer) for layer in convext.convert(model).branches} == before
    fused = convext.fuse(model, x)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), expected(model, x), rtol=1e-4, atol=1e-5)


def test_explained() -> None:
    model = blocks.MultiScaleExtractor(3, 4, (1, 2, 4))
    text = convext.explain(model.branches, (1, 3, 64, 64))
    assert text.count("forward (fprop)") == 3
    assert "in one call, or one by one\n  cpu.branches: " in text.split("\n\n")[-1]
    model.branches[1] = DilatedConv2d(3, 4, 3, 2, stride=2)
    with pytest.raises(ValueError, match=r"one stride, number of groups and size .* but got sizes 64x64, 32x32, 64x64"):
        convext.explain(model.branches, (1, 3, 64, 64))
