"""Activations that a convolution can take in, as modules, functions and methods of torch call them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from convext.problem.epilogue import Epilogue

# ------------------------------------------------------------------------------- what a call of each of torch's means


def _plain(name: str) -> Callable[..., Epilogue]:
    return lambda inplace=False: Epilogue(name)


def _gelu(approximate: str = "none") -> Epilogue:
    return Epilogue("gelu" if approximate == "none" else "gelu_tanh")


def _leaky_relu(negative_slope: float = 0.01, inplace: bool = False) -> Epilogue:
    return Epilogue("leaky_relu", (float(negative_slope),))


def _relu6(inplace: bool = False) -> Epilogue:
    return Epilogue("clamp", (0.0, 6.0))


def _hardtanh(min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Epilogue:
    return Epilogue("clamp", (float(min_val), float(max_val)))


def _clamp(min: float, max: float) -> Epilogue:
    return Epilogue("clamp", (float(min), float(max)))


_MODULES: dict[type[nn.Module], Callable[[Any], Epilogue]] = {
    nn.ReLU: lambda m: Epilogue("relu"),
    nn.ReLU6: lambda m: _relu6(),
    nn.LeakyReLU: lambda m: _leaky_relu(m.negative_slope),
    nn.Hardtanh: lambda m: _hardtanh(m.min_val, m.max_val),
    nn.SiLU: lambda m: Epilogue("silu"),
    nn.Hardswish: lambda m: Epilogue("hardswish"),
    nn.Hardsigmoid: lambda m: Epilogue("hardsigmoid"),
    nn.GELU: lambda m: _gelu(m.approximate),
    nn.Sigmoid: lambda m: Epilogue("sigmoid"),
    nn.Tanh: lambda m: Epilogue("tanh"),
}

_BUILDERS = {
    "relu": _plain("relu"),
    "silu": _plain("silu"),
    "hardswish": _plain("hardswish"),
    "hardsigmoid": _plain("hardsigmoid"),
    "sigmoid": _plain("sigmoid"),
    "tanh": _plain("tanh"),
    "relu6": _relu6,
    "leaky_relu": _leaky_relu,
    "hardtanh": _hardtanh,
    "gelu": _gelu,
    "clamp": _clamp,
}
_METHODS = {name + end: _BUILDERS[name] for name in ("relu", "sigmoid", "tanh", "clamp") for end in ("", "_")}
_FUNCTIONS = {
    getattr(home, name + end): build
    for name, build in _BUILDERS.items()
    for home in (torch, F)
    for end in ("", "_")
    if hasattr(home, name + end)
}


def of_module(module: nn.Module) -> Epilogue | None:
    """What `module` does to each element, if it is one of torch's activations and nobody watches it."""
    make = _MODULES.get(type(module))
    return None if make is None or is_watched(module) else make(module)


def of_node(node: fx.Node, modules: dict[str, nn.Module]) -> Epilogue | None:
    """The activation that `node` calls; None for any other call."""
    if node.op == "call_module":
        return of_module(modules[str(node.target)])
    table: dict[Any, Callable[..., Epilogue]] = {"call_function": _FUNCTIONS, "call_method": _METHODS}.get(node.op, {})  # type: ignore[assignment]
    build = table.get(node.target)
    if build is None or not node.args:
        return None
    try:
        return build(*node.args[1:], **node.kwargs)
    except TypeError:  # a bound of clamp left out, or a tensor that is computed: no epilogue
        return None


def is_watched(module: nn.Module) -> bool:
    """Whether someone's hook has to see what goes in or comes out."""
    return bool(module._forward_hooks or module._forward_pre_hooks)
