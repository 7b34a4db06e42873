"""A graph's convolutions, each with what it takes in: the norm before or after it, a sum, an activation.

    norm -> conv -> norm -> (+ residual) -> activation

Whatever is between two of these is read by the next one alone, and nobody watches it with a hook: else it stays.
"""

from __future__ import annotations

import copy
import inspect
import operator
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from convext.conversion.fusion import epilogues, norms, onednn, separable
from convext.conversion.fusion.layer import Fused
from convext.conversion.fusion.separable import Separable
from convext.conversion.reasons import is_torchs, why_left_alone
from convext.nn import MOVED, drop_in, with_base
from convext.problem.epilogue import Epilogue

_ADDS = (operator.add, operator.iadd, torch.add, "add", "add_")
_IN_PLACE = (operator.iadd, "add_")
_QUESTIONS = (getattr, operator.eq, "dim", "size")
_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_DROPS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout)
_DROPS_LAYERS = "torchvision.ops.stochastic_depth", "stochastic_depth"  # a function that no trace looks into


@dataclass(frozen=True)
class Taken:
    """What one convolution took in."""

    name: str
    parts: tuple[str, ...]
    before: str = ""  # the depthwise layer whose result this one multiplies,
    pair: Separable | None = None  # and both, which may be one pass

    def __str__(self) -> str:
        one_pass = self.pair is not None and self.pair.way == separable.TOGETHER
        return f"{self.name}: {' + '.join(self.parts)}{f', in one pass with {self.before}' * one_pass}"


def rewrite(module: fx.GraphModule) -> tuple[list[Taken], dict[str, str]]:
    """Puts a `Fused` layer where a convolution is, in `module`; says what each took in, and why others did not."""
    _without_nothing(module)
    calls = Counter(str(node.target) for node in module.graph.nodes if node.op == "call_module")
    read = {str(node.target).rpartition(".")[0] for node in module.graph.nodes if node.op == "get_attr"}
    taken, left_alone = [], {}
    for node in list(module.graph.nodes):
        name = str(node.target)
        conv = module.get_submodule(name) if node.op == "call_module" else None
        if not isinstance(conv, nn.modules.conv._ConvNd):
            continue
        reason = _why_not(node, conv, calls[name], name in read)
        if reason is None:
            taken.append(_fuse(node, conv, module))
        else:
            left_alone[name] = reason
    taken = [_after_a_depthwise(each, module) for each in taken]
    for layer in taken:
        _tell_where_it_lay(layer, module)
    _without_what_nobody_reads(module)
    module.graph.lint()
    module.delete_all_unused_submodules()
    module.recompile()
    for each in module.modules():
        if type(each) is nn.Module:  # made to hold others
            each.training = module.training
    return taken, left_alone


def _why_not(node: fx.Node, conv: nn.Module, calls: int, read: bool) -> str | None:
    if len(node.args) != 1 or node.kwargs:
        return "it is called with more than its input"
    if read:
        return "the model reads its weight or bias itself"
    if calls > 1:
        return f"it is called {calls} times, and each call would want a weight of its own"
    if nn.utils.parametrize.is_parametrized(conv):
        return "its weight is computed in each call: torch.nn.utils.parametrize.remove_parametrizations first"
    if epilogues.is_watched(conv):
        return "it has hooks, which see its result"
    return why_left_alone(conv)


def _without_nothing(module: fx.GraphModule) -> None:
    """Takes out what does nothing to an inference, and would stand between a convolution and its norm."""
    for node in list(module.graph.nodes):
        if _does_nothing(node, module):
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
        elif node.target is torch._assert and _is_of_axes(node.args[0]):
            module.graph.erase_node(node)
    _without_what_nobody_reads(module)


def _does_nothing(node: fx.Node, module: fx.GraphModule) -> bool:
    """Whether `node` returns its first argument, as what drops at random does where nothing is trained."""
    if not node.args:
        return False
    if node.op == "call_module":
        layer = module.get_submodule(str(node.target))
        return type(layer) in _NOTHING and not layer.training and not epilogues.is_watched(layer)
    function: Any = node.target
    if node.op != "call_function" or (function not in _DROPS and _home(function) != _DROPS_LAYERS):
        return False
    given = inspect.signature(function).bind(*node.args, **node.kwargs)
    given.apply_defaults()
    return given.arguments["training"] is False


def _home(function: Any) -> tuple[str, str]:
    return getattr(function, "__module__", ""), getattr(function, "__name__", "")


def _is_of_axes(asked: Any) -> bool:
    """Whether a tensor is asked for its number of axes, as norms do: a convolution says that itself."""
    number = asked.args[0] if isinstance(asked, fx.Node) and asked.target is operator.eq else None
    if not isinstance(number, fx.Node):
        return False
    return number.target == "dim" or (number.target is getattr and number.args[1] == "ndim")


def _without_what_nobody_reads(module: fx.GraphModule) -> None:
    """Takes out questions and tensors that are read no more: they would count as readers of what they ask."""
    for node in reversed(list(module.graph.nodes)):
        if not node.users and (node.op == "get_attr" or node.target in _QUESTIONS):
            module.graph.erase_node(node)


def _fuse(node: fx.Node, conv: Any, module: fx.GraphModule) -> Taken:
    """Makes `node` a call of a fused layer, which does what its neighbours did."""
    name, parts, conv = str(node.target), ["conv"], _owned(conv)
    parts[:0] = _norm_before(node, conv, module)
    parts += _norm_after(node, conv, module)
    residual = _residual(node)
    if residual is not None:
        total = next(iter(node.users))
        parts.append("residual")
        _move_to(node, total)
        node.args = (node.args[0], residual)
        _give(node, total, module)
    epilogue = Epilogue()
    user = _only_user(node)
    if (
        user is not None
        and (found := epilogues.of_node(user, dict(module.named_modules()))) is not None
        and user.args[0] is node
    ):
        epilogue = found
        parts.append(str(epilogue))
        _give(node, user, module)
    fused = Fused(conv, epilogue, residual is not None).eval()
    if "onednn" in fused.ways and conv.weight.is_cpu:
        onednn.lay_out(conv)
    module.add_submodule(name, fused)
    return Taken(name, tuple(parts))


def _after_a_depthwise(taken: Taken, module: fx.GraphModule) -> Taken:
    """Makes one module of the fused layer of that name and the depthwise one that stands right before it, if any."""
    node = next(n for n in module.graph.nodes if n.op == "call_module" and n.target == taken.name)
    before = node.args[0]
    if not isinstance(before, fx.Node) or before.op != "call_module" or before.next is not node:
        return taken
    first, second = (module.get_submodule(str(n.target)) for n in (before, node))
    if not isinstance(first, Fused) or _only_user(before) is not node or before in node.args[1:]:
        return taken
    if not separable.takes(first, second):  # type: ignore[arg-type]
        return taken
    pair = Separable(first, second).eval()  # type: ignore[arg-type]
    module.add_submodule(taken.name, pair)
    node.replace_input_with(before, before.args[0])  # type: ignore[arg-type]
    module.graph.erase_node(before)
    return replace(taken, before=str(before.target), pair=pair)


def _tell_where_it_lay(taken: Taken, module: fx.GraphModule) -> None:
    """Convolutions lie in the layers that took their places; who names them, as `convext.lint`, names those."""
    if taken.pair is None:
        lay = {f"{taken.name}.conv": taken.name}
    else:
        lay = {f"{taken.name}.first.conv": taken.before, f"{taken.name}.second.conv": taken.name}
    for lies, name in lay.items():
        module.get_submodule(lies).__dict__[MOVED] = lies, name


def _owned(conv: Any) -> Any:
    """A layer of ours with the tensors of `conv`, whose weight may be set."""
    ours = copy.copy(conv)
    ours._parameters = {
        name: None if p is None else nn.Parameter(p.detach(), requires_grad=False)
        for name, p in conv._parameters.items()
    }
    if is_torchs(ours):
        ours.__class__ = with_base(type(ours), type(ours), drop_in(type(ours)))
    return ours


def _norm_before(node: fx.Node, conv: Any, module: fx.GraphModule) -> list[str]:
    before = node.args[0]
    if conv.transposed or conv.padding_mode != "zeros" or conv.padding not in ("valid", (0,) * len(conv.stride)):
        return []
    if not isinstance(before, fx.Node) or len(before.users) != 1 or (affine := norms.of_node(before, module)) is None:
        return []
    affine.before(conv)
    node.replace_input_with(before, before.args[0])  # type: ignore[arg-type]
    module.graph.erase_node(before)
    return ["norm before"]


def _norm_after(node: fx.Node, conv: Any, module: fx.GraphModule) -> list[str]:
    user = _only_user(node)
    if user is None or user.args[:1] != (node,) or (affine := norms.of_node(user, module)) is None:
        return []
    affine.after(conv)
    _give(node, user, module)
    return ["norm"]


def _residual(node: fx.Node) -> fx.Node | None:
    """What is added to `node`'s result, and to nothing else of it."""
    user = _only_user(node)
    if user is None or user.target not in _ADDS or len(user.args) != 2 or user.kwargs:
        return None
    first, second = user.args
    other = second if first is node else first
    if not isinstance(other, fx.Node) or other is node:
        return None
    written_over = user.target in _IN_PLACE and first is other
    return None if written_over and len(other.users) > 1 else other


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _give(node: fx.Node, absorbed: fx.Node, module: fx.GraphModule) -> None:
    """`node` returns what `absorbed` did."""
    absorbed.replace_all_uses_with(node, delete_user_cb=lambda user: user is not node)
    module.graph.erase_node(absorbed)


def _move_to(node: fx.Node, place: fx.Node) -> None:
    """`node` runs where `place` does: what it now reads is known there."""
    place.prepend(node)
