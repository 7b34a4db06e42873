"""Swap a model's convolutions for convext's, in place or in a copy, and back.

A layer is swapped by giving the module its new class. Parameters, buffers, hooks, training mode and every reference to
the module stay what they were, so nothing can be lost, and undoing it is as exact. (An instance's own `forward`, which
would leave `type(layer)` alone, is bound to that instance: the replicas of DataParallel and copies by `copy.copy` would
compute with the first one's weights.)

The log of what was changed lives with what it describes: each changed module carries its `Change` in its `__dict__`,
so a deepcopy, a pickle, a part or a wrapped part of a converted model has its report, and can be reverted. Measurements
lie there too, that of the whole model in its outermost module. None of it is in the state_dict.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor

from convext.measuring.worth import WORTH, Gain, Sampled
from convext.nn import OURS, TORCHS

# The leading underscores also keep TorchScript away from these.
_KEY, _GAIN, _WHOLE = "__convext_change__", "__convext_gain__", "__convext_whole_gain__"

# What was changed under each module that `convert` was given, for layers that have left the model since.
_CHANGED: weakref.WeakKeyDictionary[torch.nn.Module, weakref.WeakSet[torch.nn.Module]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Change:
    """One change of one module.

    Attributes:
        before, after: the module's class.
        why: the reason for it.
    """

    before: type[torch.nn.Module]
    after: type[torch.nn.Module]
    why: str


@dataclass(frozen=True)
class Report:
    """What `convert` changed in a model, as it stands now, and what it left alone.

    Attributes:
        changes: (name of the module, the module, its change), in the model's order.
        left_alone: names of convolutions that are not convext's and that `convert` does not swap, with the reason.
        gains: what was measured of layers, by name, where `convert` measured: of those that were left alone as well.
        whole: the same of the whole model; None where it was not measured, or nothing in it was worth converting.
    """

    changes: list[tuple[str, torch.nn.Module, Change]] = field(default_factory=list)
    left_alone: dict[str, str] = field(default_factory=dict)
    gains: dict[str, Gain] = field(default_factory=dict)
    whole: Gain | None = None

    @property
    def converted(self) -> list[str]:
        """Names of the layers that were swapped."""
        return [name for name, _, _ in self.changes]

    def undo(self) -> NoReturn:
        """Raises RuntimeError: `convext.revert` puts a model back."""
        raise RuntimeError("a report does not hold the model: call convext.revert(model)")

    def __str__(self) -> str:
        lines = [f"{len(self.changes)} layers converted, {len(self.left_alone)} left alone"]
        if self.whole is not None:
            lines.append(f"  the whole model, with them and without: {self.whole}")
        lines += [f"  {name}: converted, {self.gains[name]}" for name in self.converted if name in self.gains]
        return "\n".join(lines + [f"  {name or 'the model'}: {reason}" for name, reason in self.left_alone.items()])


def convert(
    model: torch.nn.Module, inplace: bool = True, *, sample: Any = None, measure: bool = False
) -> torch.nn.Module:
    """Swaps `torch.nn`'s convolutions in `model` for convext's.

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
        ValueError: to measure without a sample, or a model in training mode that returns nothing with a gradient.
    """
    if measure and sample is None:
        raise ValueError("what is measured has to run: convext.convert(model, sample=x, measure=True)")
    if not inplace:
        model = copy.deepcopy(model, {id(t): t for t in _tensors(model)})
    layers = {
        name: module
        for name, module in model.named_modules()
        if type(module) in OURS and _why_left_alone(module) is None
    }
    if measure:
        _convert_what_is_faster(model, layers, sample if isinstance(sample, tuple) else (sample,))
    else:
        for module in layers.values():
            _swap(module, "torch.nn's layer, with its own forward")
    _CHANGED.setdefault(model, weakref.WeakSet()).update(m for m in model.modules() if {_KEY, _GAIN} & vars(m).keys())
    return model


def _swap(module: torch.nn.Module, why: str) -> None:
    change = Change(type(module), OURS[type(module)], why)
    module.__dict__[_KEY] = change
    module.__class__ = change.after


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
    model.__dict__[_WHOLE] = whole
    for name, gain in gains.items():
        layers[name].__dict__[_GAIN] = gain


def report(model: torch.nn.Module) -> Report:
    """What `convert` changed in `model`, as it stands now, and which convolutions it leaves alone, with the reason."""
    said = Report(whole=model.__dict__.get(_WHOLE))
    for name, module in model.named_modules():
        change = module.__dict__.get(_KEY)
        if change is not None and isinstance(module, change.after):
            said.changes.append((name, module, change))
        elif (reason := _why_left_alone(module) or _why_not_worth_it(module, model)) is not None:
            said.left_alone[name] = reason
        if (gain := module.__dict__.get(_GAIN)) is not None:
            said.gains[name] = gain
    return said


def revert(model: torch.nn.Module) -> torch.nn.Module:
    """Puts back everything that `convert` changed in `model`, and returns it.

    Layers count, not names: those that were moved, wrapped, sharded or parametrized since are put back, and those that
    have left the model since `convert(model)`.
    """
    changed = dict.fromkeys([*model.modules(), *_CHANGED.pop(model, ())])
    model.__dict__.pop(_WHOLE, None)
    for module in changed:
        module.__dict__.pop(_GAIN, None)
        _put_back(module)
    return model


def _put_back(module: torch.nn.Module) -> None:
    change = module.__dict__.pop(_KEY, None)
    if change is not None:
        module.__class__ = _with_base(type(module), change.after, change.before)


def _with_base(kind: type, old: type, new: type) -> type:
    """`kind` with `old` replaced by `new` among its ancestors: parametrizations and FSDP subclass a layer's class."""
    if kind is old:
        return new
    if old not in kind.__mro__ or kind in TORCHS:
        return kind
    bases = tuple(_with_base(base, old, new) for base in kind.__bases__)
    own = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
    return type(kind)(kind.__name__, bases, own)


def _tensors(model: torch.nn.Module) -> Iterator[Tensor]:
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


_NAMES = {kind.__name__ for kind in OURS}
_FUNCTIONS = {"convolution", "_convolution", *(name.lower().replace("transpose", "_transpose") for name in _NAMES)}


def _why_left_alone(module: torch.nn.Module) -> str | None:
    """Why a convolution is not swapped; None for what is no convolution, is convext's already, or can be swapped."""
    kind = type(module)
    if isinstance(module, torch.jit.ScriptModule):
        return _why_compiled(module)
    if isinstance(module, torch.fx.GraphModule):
        return _why_functions(module)
    if isinstance(module, tuple(TORCHS)) or "_ConvNd" not in {base.__name__ for base in kind.__mro__}:
        return None
    if not isinstance(module, torch.nn.modules.conv._ConvNd):
        return f"{kind.__module__}.{kind.__qualname__} is quantized: its weights are not floating point"
    if isinstance(module, torch.nn.modules.lazy.LazyModuleMixin):
        return f"{kind.__name__} has no shape yet: run the model once, then convert"
    if torch.nn.utils.parametrize.is_parametrized(module):
        return f"{kind.__name__} is parametrized: its class is made for its parametrization"
    if kind not in OURS:
        return f"{kind.__module__}.{kind.__qualname__} is a subclass, whose forward may be its own"
    patched = [name for name in ("forward", "_conv_forward") if name in vars(module)]
    return f"its {patched[0]} was replaced on this layer, and would run instead: convert first" if patched else None


def _why_not_worth_it(module: torch.nn.Module, model: torch.nn.Module) -> str | None:
    """What was measured of a layer that could be swapped, and was not; None where nothing was."""
    if type(module) not in OURS or _WHOLE not in model.__dict__:
        return None
    gain = module.__dict__.get(_GAIN)
    if gain is None:
        return "not measured: the sample does not reach it"
    if gain.decisive.low < WORTH:
        return f"torch's is as fast: {gain}"
    return f"put back, for the whole model was no faster ({model.__dict__[_WHOLE]}): {gain}"


def _why_compiled(module: torch.jit.ScriptModule) -> str | None:
    """The reason of what TorchScript compiled: a convolution, or a frozen module that has swallowed some."""
    name = getattr(module, "original_name", "")
    if name in _NAMES:
        return f"{name} is compiled by TorchScript: convert first, then script or trace"
    if not hasattr(module, "graph"):
        return None
    graph: Any = module.graph  # of its own forward: what it calls of its children is theirs
    count = sum(len(graph.findAllNodes(f"aten::{name}", True)) for name in _FUNCTIONS)
    return f"{count} convolutions are compiled into it by TorchScript: convert first" if count else None


def _why_functions(module: torch.fx.GraphModule) -> str | None:
    """The reason of a traced graph that calls torch's functions."""
    called = [node.target for node in module.graph.nodes if node.op == "call_function"]
    names = [getattr(target, "__name__", "") for target in called if "convext" not in str(target)]
    count = sum(name.partition(".")[0] in _FUNCTIONS for name in names)
    return f"{count} convolutions are calls of functions in its graph: convert first, then trace" if count else None
