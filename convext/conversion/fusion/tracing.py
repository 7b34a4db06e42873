"""Modules of which torch.fx makes a graph: the whole model, or as many of its parts as can be traced."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import fx, nn

CONTAINERS = (nn.ModuleList, nn.ModuleDict)  # of parts, without a forward


class _Tracer(fx.Tracer):
    """Layers stay layers: also convolutions of other packages, which may pad by sizes that a trace does not know."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.modules.conv._ConvNd) or super().is_leaf_module(m, module_qualified_name)


def is_a_part(module: nn.Module) -> bool:
    """Whether there is anything inside to trace: layers are not."""
    if isinstance(module, CONTAINERS):
        return True
    return next(module.children(), None) is not None and not _Tracer().is_leaf_module(module, "")


def traced(module: nn.Module, given: set[str]) -> fx.GraphModule | str:
    """`module` as a graph, which shares its layers; or why there is none, in a sentence.

    Arguments with a default are taken to be left out, but for those of `given`: the graph refuses any other value.
    """
    tracer = _Tracer()
    try:
        graph = tracer.trace(module, concrete_args=_defaults(module, given))
        return fx.GraphModule(tracer.root, graph, type(module).__name__)
    except Exception as error:  # whatever a forward does with a value that is none yet
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        return f"torch.fx cannot trace {type(module).__name__}: {said}"


def _defaults(module: nn.Module, given: set[str]) -> dict[str, Any] | None:
    parameters = inspect.signature(module.forward).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty and p.name not in given} or None


@contextmanager
def noting_arguments(model: nn.Module) -> Iterator[dict[nn.Module, set[str]]]:
    """Notes the names of the arguments that each module of `model` is called with, for as long as it is open."""
    given: dict[nn.Module, set[str]] = {}

    def note(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        names = list(inspect.signature(module.forward).parameters)
        given.setdefault(module, set()).update(names[: len(arguments)], keywords)

    handles = [module.register_forward_pre_hook(note, with_kwargs=True) for module in model.modules()]
    try:
        yield given
    finally:
        for handle in handles:
            handle.remove()
