"""convext.fuse: a copy of a model whose convolutions do what stands beside them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from convext.conversion.fusion.layer import OURS, Fused
from convext.conversion.fusion.rewriting import Taken, rewrite
from convext.conversion.fusion.separable import APART, TOGETHER, WAYS, Separable
from convext.conversion.fusion.tracing import CONTAINERS, is_a_part, noting_arguments, traced
from convext.conversion.log import Fusion, fusion_of, keep
from convext.conversion.reasons import must_be_a_module
from convext.conversion.swap import tensors_of
from convext.measuring.worth import Sampled, faster, fastest


def fuse(model: nn.Module, sample: Any) -> nn.Module:
    """A copy of `model` for inference, in which each convolution does what stands beside it.

        norm -> conv -> norm -> (+ residual) -> activation     is one layer, `convext.conversion.fusion.Fused`

    Batch norms by running statistics become part of a weight; sums and activations are computed before the result is
    stored, where a kernel can, and else in place. On a CPU that kernel is torch's fused operator, or for depthwise
    layers our own, with its weight laid out once. Each layer takes the way that is fastest on this machine, as `sample`
    meets it; so does each depthwise layer with the 1 x 1 layer right after it, which may be one
    pass. On a GPU it is the kernel that is chosen for the convolution: each of convext's in Triton can.

    Args:
        model: in eval mode; it is not modified. Convolutions are those of torch.nn, of convext and of subclasses, as
            `convext.convert` takes them. What torch.fx cannot trace keeps its forward; its parts are traced.
        sample: what `model` is called with: a tensor, or a tuple of arguments. The copy runs on it, and has to agree.

    Returns:
        The copy. `convext.report(it)` says what each convolution took in, and what was left alone and why;
        `convext.revert(it)` returns `model`. What is no convolution shares its tensors with it. Norms and
        weights are those of now: after training on, fuse again. Arguments of a traced forward that have a default,
        and that `sample` does not give, are taken to be left out.

    Raises:
        TypeError: `model` is no module, or `sample` a shape.
        ValueError: `model` is in training mode, has been fused already, or is on "meta".
        RuntimeError: the copy does not agree on `sample`: its forward does something that a trace does not show.

    Source: Jacob et al., arXiv 1712.05877, section 3.2, for folding norms.
    """
    must_be_a_module("fuse", model)
    if model.training:
        raise ValueError("to fuse is for inference, where a norm is a constant: call model.eval() first")
    if fusion_of(model) is not None:
        raise ValueError("the model is fused already: convext.revert(model) returns what it was made from")
    arguments = sample if isinstance(sample, tuple) else (sample,)
    _must_be_data(model, arguments)
    twin = copy.deepcopy(model, {id(t): t for t in tensors_of(model)})
    taken: list[Taken] = []
    left_alone: dict[str, str] = {}
    with torch.no_grad(), Sampled(model, arguments).kept():
        seed = torch.random.get_rng_state()
        with noting_arguments(twin) as given:
            expected = twin(*_copied(arguments))
        fused = _fused(twin, "", given, taken, left_alone)
        torch.random.set_rng_state(seed)
        _must_agree(fused(*_copied(arguments)), expected)
        _choose_ways(fused, arguments)
        _choose_together(fused, arguments)
    keep(fused, Fusion(model, tuple(map(str, taken)), left_alone))
    return fused


def _must_be_data(model: nn.Module, arguments: tuple[Any, ...]) -> None:
    """What runs is timed and compared: shapes and tensors without data are not enough."""
    if len(arguments) > 1 and all(isinstance(each, int) for each in arguments):
        raise TypeError(f"the sample is what the model is called with, as torch.randn{arguments}, but got {arguments}")
    if any(t.is_meta for t in (*tensors_of(model), *arguments) if isinstance(t, torch.Tensor)):
        raise ValueError(
            'the model or its sample is on "meta", and layers are timed: move them with to_empty(device=..)'
        )


def _fused(
    module: nn.Module, name: str, given: dict[nn.Module, set[str]], taken: list[Taken], left_alone: dict[str, str]
) -> nn.Module:
    """`module` as a graph with fused layers; itself, with its parts so, where there is no graph of it."""
    graph = None if isinstance(module, CONTAINERS) else traced(module, given.get(module, set()))
    if isinstance(graph, fx.GraphModule):
        inside, alone = rewrite(graph)
        taken += [replace(each, name=_join(name, each.name), before=_join(name, each.before)) for each in inside]
        left_alone.update({_join(name, each): reason for each, reason in alone.items()})
        return graph if inside else module
    if graph is not None:
        left_alone[name] = graph
    for part, child in list(module.named_children()):
        if is_a_part(child):
            setattr(module, part, _fused(child, _join(name, part), given, taken, left_alone))
    return module


def _join(name: str, part: str) -> str:
    return f"{name}.{part}" if name else part


def _copied(arguments: Any) -> Any:
    return pytree.tree_map_only(Tensor, lambda t: t.detach().clone(), arguments)


def _must_agree(results: Any, of_the_model: Any) -> None:
    """A trace that lost something is far from its model: farther than rounding leads, on a scale of its results."""
    found, expected = _tensors(results), _tensors(of_the_model)
    if len(found) != len(expected):
        raise RuntimeError(f"the fused model returns {len(found)} tensors, where the model returns {len(expected)}")
    for i, (f, e) in enumerate(zip(found, expected, strict=True)):
        if f.shape != e.shape or f.dtype != e.dtype:
            raise RuntimeError(
                f"result {i} of the fused model is {list(f.shape)} {f.dtype}, not {list(e.shape)} {e.dtype}"
            )
        if not e.is_floating_point() or e.numel() == 0:
            continue
        allowed = torch.finfo(e.dtype).eps ** 0.5 * e.abs().nan_to_num(0.0, 0.0).max().item()
        if not torch.isclose(f, e, rtol=0.0, atol=allowed, equal_nan=True).all():
            worst = (f - e).abs().max()
            raise RuntimeError(
                f"result {i} of the fused model differs by {worst:.3g} where {allowed:.3g} is rounding: its forward "
                "does what a trace does not show, a random number or a tensor that it keeps"
            )


def _tensors(tree: Any) -> list[Tensor]:
    return [t for t in pytree.tree_leaves(tree) if isinstance(t, Tensor)]


def _choose_ways(fused: nn.Module, arguments: tuple[Any, ...]) -> None:
    """Times the ways of each layer that has several, then the model: with each its own, or all alike.

    A layer by itself does not cost what it costs there, where it leaves the caches and its result's format to others.
    """
    layers = {name: m for name, m in fused.named_modules() if isinstance(m, Fused) and len(m.ways) > 1}

    def ways(layer: Any) -> dict[str, Callable[..., Tensor]]:
        return {way: _by(layer, way) for way in layer.ways}

    each_its_own = faster(fused, arguments, layers, ways)
    first = {name: layers[name].ways[0] for name in each_its_own}
    torchs = {name: first[name] if way in OURS else way for name, way in each_its_own.items()}
    plans = {"each": each_its_own, "each of torch's": torchs, "onednn": first, "conv": dict.fromkeys(first, "conv")}
    ours = {name: way for name in each_its_own for way in layers[name].ways if way in OURS}
    plans.update({f"{way} and ours": {**plans[way], **ours} for way in ("onednn", "conv")})

    def follow(plan: str) -> None:
        for name, way in plans[plan].items():
            layers[name].way = way

    if layers:
        follow(fastest(Sampled(fused, arguments), plans, follow))
    for layer in layers.values():
        layer.forget()


def _choose_together(fused: nn.Module, arguments: tuple[Any, ...]) -> None:
    """Times each depthwise layer and the pointwise one after it in one pass, then the model with what was faster so."""
    pairs = {name: m for name, m in fused.named_modules() if isinstance(m, Separable)}
    won = faster(fused, arguments, pairs, lambda pair: {way: _by(pair, way) for way in WAYS})
    plans = {"each": won, APART: dict.fromkeys(won, APART)}

    def follow(plan: str) -> None:
        for name, way in plans[plan].items():
            pairs[name].way = way

    if TOGETHER in won.values():
        follow(fastest(Sampled(fused, arguments), plans, follow))
    for pair in pairs.values():
        for layer in (pair, pair.first, pair.second):
            layer.forget()


def _by(layer: Any, way: str) -> Callable[..., Tensor]:
    twin = copy.copy(layer)
    twin.way = way
    return twin.forward  # type: ignore[no-any-return]
