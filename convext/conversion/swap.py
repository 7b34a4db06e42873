"""Swap a model's convolutions for convext's, in place or in a copy, and back.

A layer is swapped by giving the module its new class. Parameters, buffers, hooks, training mode and every reference to
the module stay what they were, so nothing can be lost, and undoing it is as exact. (An instance's own `forward`, which
would leave `type(layer)` alone, is bound to that instance: the replicas of DataParallel and copies by `copy.copy` would
compute with the first one's weights.) `convext.nn.drop_in` says which class: a layer of a subclass stays one.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from convext.conversion.log import GAIN, WHOLE, Change, fusion_of
from convext.conversion.reasons import is_torchs, must_be_a_module, why_left_alone
from convext.measuring.worth import WORTH, Sampled
from convext.nn import CHANGE, with_base, without_parametrizations

# What was changed under each module that `convert` was given, for layers that have left the model since.
_CHANGED: weakref.WeakKeyDictionary[torch.nn.Module, weakref.WeakSet[torch.nn.Module]] = weakref.WeakKeyDictionary()


def convert(
    model: torch.nn.Module, inplace: bool = True, *, sample: Any = None, measure: bool = False
) -> torch.nn.Module:
    """Swaps `torch.nn`'s convolutions in `model` for convext's.

    Those of subclasses too, where their forward is torch.nn's or comes back to it, and under parametrizations: weight
    norm, spectral norm and whatever else computes a weight. A layer stays an instance of its class, with its
    parameters, state_dict, hooks and parametrizations. What calls torch's convolutions itself is left alone:
    `convext.everywhere` is for that.

    Args:
        model: any module, a convolution itself included.
        inplace: swap in `model`; else in a copy that shares its tensors: parameters, buffers and what is cached.
        measure: swap only what is faster on this machine. Each layer is timed against torch's as it runs in this model
            (in the memory format that reaches it, on as many threads), its forward, and where the model is in training
            mode its whole step. Those are swapped of which the lower end of the ratio's 95% interval is at least 1.02.
            Then the model itself is timed with them and without; where it is not faster, they are put back. The model
            runs some dozens of times; its parameters, gradients, buffers and random generators stay what they are,
            and an interruption leaves all layers as they were.
        sample: what `model` is called with, for `measure`: a tensor, or a tuple of arguments.

    Returns:
        The converted model. `convext.report(model)` says what was swapped and what was left alone, and why, with what
        was measured; `convext.revert(model)` puts everything back.

    Raises:
        TypeError: `model` is no module.
        ValueError: to measure without a sample, a sample without measuring, or to measure a model in training mode
            that returns nothing with a gradient.
    """
    must_be_a_module("convert", model)
    if measure != (sample is not None):
        why = "what is measured has to run" if measure else "a sample is for measuring"
        raise ValueError(f"{why}: convext.convert(model, sample=x, measure=True)")
    if not inplace:
        model = copy.deepcopy(model, {id(t): t for t in tensors_of(model)})
    layers = {
        name: module for name, module in model.named_modules() if is_torchs(module) and why_left_alone(module) is None
    }
    if measure:
        _convert_what_is_faster(model, layers, sample if isinstance(sample, tuple) else (sample,))
    else:
        for module in layers.values():
            _swap(module, "its forward is torch.nn's")
    _CHANGED.setdefault(model, weakref.WeakSet()).update(m for m in model.modules() if {CHANGE, GAIN} & vars(m).keys())
    return model


def _swap(module: torch.nn.Module, why: str) -> None:
    change = Change(without_parametrizations(type(module)), why)
    module.__dict__[CHANGE] = change
    module.__class__ = with_base(type(module), change.before, change.after)


def _convert_what_is_faster(
    model: torch.nn.Module, layers: dict[str, torch.nn.Module], arguments: tuple[Any, ...]
) -> None:
    """Swaps those of `layers` that are worth it, unless the whole model is no faster for it."""
    sampled = Sampled(model, arguments)
    gains = sampled.gains(layers)
    worth = {layers[name]: gain for name, gain in gains.items() if gain.decisive.low >= WORTH}

    def put_in(whose: str) -> None:
        for layer, gain in worth.items():
            _put_back(layer)
            if whose == "convext":
                _swap(layer, f"measured as it runs in its model: {gain}")

    kept, whole = False, None
    try:
        whole = sampled.gain(put_in) if worth else None
        kept = whole is not None and whole.decisive.low > 1
    finally:
        put_in("convext" if kept else "torch")
    model.__dict__[WHOLE] = whole
    for name, gain in gains.items():
        layers[name].__dict__[GAIN] = gain


def revert(model: torch.nn.Module) -> torch.nn.Module:
    """Puts back everything that `convert` changed in `model`, and returns it; of a fused model, what it was made from.

    Layers count, not names: those that were moved, wrapped, sharded or parametrized since are put back, and those that
    have left the model since `convert(model)`.

    Raises:
        TypeError: `model` is no module.
    """
    must_be_a_module("revert", model)
    if (fusion := fusion_of(model)) is not None:
        return fusion.model  # type: ignore[no-any-return]
    changed = dict.fromkeys([*model.modules(), *_CHANGED.pop(model, ())])
    model.__dict__.pop(WHOLE, None)
    for module in changed:
        module.__dict__.pop(GAIN, None)
        _put_back(module)
    return model


def _put_back(module: torch.nn.Module) -> None:
    change = module.__dict__.pop(CHANGE, None)
    if change is not None:
        module.__class__ = with_base(type(module), change.after, change.before)


def tensors_of(model: torch.nn.Module) -> Iterator[Tensor]:
    """Every tensor that a module of `model` holds, also where it is an attribute, or in containers of one.

    A weight that pruning or weight norm has computed is such an attribute; deepcopy refuses it, for it is no leaf.
    """
    pending: list[Any] = [vars(module) for module in model.modules()]
    seen: set[int] = set()
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict):
            pending.extend(value.values())
        elif isinstance(value, list | tuple | set):
            pending.extend(value)
