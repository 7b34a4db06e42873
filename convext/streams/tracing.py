"""A model's forward as a graph of functions, by torch.fx, which looks into layers: down to functions and weights."""

from __future__ import annotations

import inspect
from typing import Any

from torch import fx, nn

from convext.nn import without_parametrizations

# What asks for its training mode, or for the shapes of its input, when it runs: stays one node.
_WHOLE = ("batchnorm", "instancenorm", "dropout", "rnn", "transformer", "flatten")
_MODULES = tuple(f"torch.nn.modules.{name}" for name in _WHOLE)


class _Tracer(fx.Tracer):
    looks_into_layers = True  # read by convext's own layers
    proxy_buffer_attributes = True
    failed = ""  # the innermost layer that could not be traced

    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        kind = without_parametrizations(type(module))
        return kind is nn.MultiheadAttention or kind.__module__ in _MODULES

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        """Arguments with defaults keep these. (`concrete_args` would flatten what the forward returns.)"""
        function, arguments = super().create_args_for_root(root_fn, is_module)
        defaults = {
            name: p.default for name, p in inspect.signature(root_fn).parameters.items() if p.default is not p.empty
        }
        names = inspect.unwrap(root_fn).__code__.co_varnames
        return function, [defaults.get(name, given) for name, given in zip(names, arguments, strict=False)]

    def call_module(self, module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:  # type: ignore[override]
        try:
            return super().call_module(module, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or f"layer {self.path_of_module(module)!r}"
            raise


def traced(model: nn.Module) -> tuple[fx.Graph, dict[str, Any]]:
    """The graph of `model`'s forward, and the tensors that it makes itself; arguments with defaults keep these.

    Raises:
        ValueError: its forward asks for values or shapes, and does not always compute the same.
    """
    attributes = {module: dict(vars(module)) for module in model.modules()}
    tracer = _Tracer()
    try:
        graph = tracer.trace(model)
        return graph, {name: value for name, value in vars(model).items() if name not in attributes[model]}
    except Exception as error:
        raise ValueError(
            f"{tracer.failed or type(model).__name__} could not be traced by torch.fx, so what it does over time is "
            f"not known: {error}"
        ) from error
    finally:  # a hook or a forward that keeps something would have kept torch.fx's proxies
        for module, before in attributes.items():
            vars(module).clear()
            vars(module).update(before)


def needed(graph: fx.Graph) -> list[fx.Node]:
    """The nodes on which the output depends, in order, and those that write into a tensor, whoever reads it later."""
    seen = {node for node in graph.nodes if node.op == "output" or writes(node)}
    pending = list(seen)
    while pending:
        for node in pending.pop().all_input_nodes:
            if node not in seen:
                seen.add(node)
                pending.append(node)
    return [node for node in graph.nodes if node in seen]


def writes(node: fx.Node) -> bool:
    """Whether a call writes into one of its operands."""
    called = word(node)
    in_place = called.endswith("_") and not called.endswith("__") and called not in ("and_", "or_", "not_")
    operators = ("iadd", "isub", "imul", "itruediv", "ipow")
    return node.op.startswith("call") and (
        in_place or called in operators or "out" in node.kwargs or bool(node.kwargs.get("inplace"))
    )


def where(node: fx.Node) -> str:
    """The layer that a node belongs to, as users name it: 'net.3', or '' for the model's own forward."""
    stack: dict[str, Any] = node.meta.get("nn_module_stack") or {}
    return list(stack.values())[-1][0] if stack else ""


def layer(node: fx.Node) -> str:
    """The layer in an error: with its class, or what the model's own forward calls."""
    path = where(node)
    if node.op == "call_module" and not path:
        path = str(node.target)
    return f"layer {path!r}" if path else f"{word(node)!r} in the model's own forward"


def word(node: fx.Node) -> str:
    """What a node calls, in one word: "conv1d", "add", "flip"."""
    return str(node.target) if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
