"""Why a convolution stays torch's, in a sentence that also says what helps.

Sentences speak of a class, not of one layer, so that a report can say once what holds for fifty layers.
"""

from __future__ import annotations

from typing import Any

import torch

from convext.conversion.calls import FUNCTIONS, called_by, comes_back
from convext.nn import OURS, without_parametrizations

_NAMES = {kind.__name__ for kind in OURS}
_CONVOLUTIONS = {"convolution", "_convolution", *FUNCTIONS.values()}
_EVERYWHERE = "run the model in `with convext.everywhere():`"


def must_be_a_module(function: str, model: object) -> None:
    """Raises TypeError for what is no module."""
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"convext.{function} takes a torch.nn.Module, but got {type(model).__name__}: {model!r:.60}")


def is_torchs(module: torch.nn.Module) -> bool:
    """Whether `module` is one of torch.nn's six layers, or of a subclass of one, and not convext's."""
    return isinstance(module, tuple(OURS)) and not _is_ours(module)


def _is_ours(module: torch.nn.Module) -> bool:
    return any(base.__module__.partition(".")[0] == "convext" for base in type(module).__mro__)


def why_left_alone(module: torch.nn.Module) -> str | None:
    """Why a convolution is not swapped; None for what is no convolution, is convext's already, or can be swapped."""
    kind = without_parametrizations(type(module))
    name = f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(module, torch.jit.ScriptModule):
        return _why_compiled(module)
    if isinstance(module, torch.fx.GraphModule):
        return _why_functions(module)
    if _is_ours(module):
        return None
    if "_ConvNd" not in {base.__name__ for base in kind.__mro__}:
        return _why_called(name, kind)
    if not isinstance(module, torch.nn.modules.conv._ConvNd):
        return f"{name} is quantized: its weights are not floating point"
    if isinstance(module, torch.nn.modules.lazy.LazyModuleMixin):
        return f"{kind.__name__} has no shape yet: run the model once, then convert"
    if name.startswith("torch.ao.") or getattr(module, "qconfig", None) is not None:
        return (
            f"{name} is prepared for quantization, which finds torch's layers by their type: convert a model that is "
            "not quantized"
        )
    patched = [name for name in ("forward", "_conv_forward") if name in vars(module)]
    if patched:
        return f"its {patched[0]} was replaced on this layer, and would run instead: convert first"
    return _why_overridden(name, kind)


def _why_overridden(name: str, kind: type) -> str | None:
    """The reason of a class whose forward does not come back to torch's; None of one whose forward does."""
    root = next((base for base in kind.__mro__ if base in OURS), None)
    if root is None:
        return _why_called(name, kind) or f"{name} is a convolution of its own, and none of torch.nn's six"
    above = kind.__mro__[: kind.__mro__.index(root)]
    own = [vars(base)[method] for base in above for method in ("forward", "_conv_forward") if method in vars(base)]
    if (called := _why_called(name, kind)) is not None:
        return called
    if own and not any(map(comes_back, own)):
        return f"{name} has a forward of its own, which does not call torch.nn's: nothing of ours would run"
    return None


def _why_called(name: str, kind: type) -> str | None:
    """The reason of a module that calls torch's convolutions itself."""
    called = called_by(kind)
    return f"{name} calls {' and '.join(called)} itself: {_EVERYWHERE}" if called else None


def _why_compiled(module: torch.jit.ScriptModule) -> str | None:
    """The reason of what TorchScript compiled: a convolution, or a frozen module that has swallowed some."""
    name = getattr(module, "original_name", "")
    if name in _NAMES:
        return f"{name} is compiled by TorchScript: convert first, then script or trace"
    if not hasattr(module, "graph"):
        return None
    graph: Any = module.graph  # of its own forward: what it calls of its children is theirs
    count = sum(len(graph.findAllNodes(f"aten::{name}", True)) for name in _CONVOLUTIONS)
    return f"{count} convolutions are compiled into it by TorchScript: convert first" if count else None


def _why_functions(module: torch.fx.GraphModule) -> str | None:
    """The reason of a traced graph that calls torch's functions."""
    called = [node.target for node in module.graph.nodes if node.op == "call_function"]
    names = [getattr(target, "__name__", "") for target in called if "convext" not in str(target)]
    count = sum(name.partition(".")[0] in _CONVOLUTIONS for name in names)
    return (
        f"{count} convolutions are calls of functions in its graph: convert first, then trace, or {_EVERYWHERE}"
        if count
        else None
    )
