"""The model's forward, read node by node, becomes the program of a step: one Python function of the chunks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from convext.streams.place import Place
from convext.streams.rules import RULES, module, unknown
from convext.streams.signals import Constant, Several, Signal, samples
from convext.streams.stages import Stage
from convext.streams.tracing import needed, traced, word

_KNOWN_SIGNALS = (Signal, Several)


@dataclass(frozen=True)
class Program:
    """What one step computes.

    Args:
        run: chunks -> what the model returns, by `graph`.
        inputs: the forward's arguments that are chunks, with their number of axes.
        stages: what remembers something, by name.
    """

    run: Callable[..., Any]
    graph: fx.Graph
    inputs: dict[str, int]
    stages: dict[str, Stage]


def read(model: nn.Module) -> Program:
    """Raises ValueError where the model cannot run as a stream, with the layer and the reason."""
    graph, tensors = traced(model)
    reader = _Reader(model, tensors)
    for node in needed(graph):
        reader.known[node] = reader.read(node)
    return reader.program()


class _Reader:
    def __init__(self, model: nn.Module, tensors: dict[str, Any]) -> None:
        self.model, self.tensors = model, tensors
        self.graph = fx.Graph()
        self.stages: dict[str, Stage] = {}
        self.known: dict[fx.Node, Any] = {}
        self.inputs: dict[str, int] = {}

    def read(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return self._input(node)
        if node.op == "get_attr":
            return self._attribute(str(node.target))
        args: Any = fx.node.map_arg(node.args, self.known.__getitem__)
        kwargs: Any = fx.node.map_arg(node.kwargs, self.known.__getitem__)
        if node.op == "output":
            return self._output(args[0])
        place = Place(node, args, kwargs, self.graph, self.stages)
        if not any(isinstance(self.known[n], _KNOWN_SIGNALS) for n in node.all_input_nodes):
            return self._constant(place)
        if node.op == "call_module":
            path = str(node.target)
            return module(place, self.model.get_submodule(path), path, *args, **kwargs)
        called = word(node)
        if called == "getattr":
            return self._property(place, args[0], args[1])
        rule = RULES.get(called) if node.op == "call_method" or _is_torchs(node.target) else None
        if rule is None:
            return unknown(place, called)
        try:
            return rule(place, *args, **kwargs)
        except TypeError as error:
            place.refuse(f"calls {called} in a way that is not known to leave time alone: {error}")

    def _input(self, node: fx.Node) -> Signal:
        """Chunks are [N, C, n]; what an embedding reads is [N, n]."""
        name = str(node.target)
        self.inputs[name] = 2 if any(word(user) in ("embedding", "one_hot") for user in node.users) else 3
        return Signal(dims=self.inputs[name], node=self.graph.placeholder(name))

    def _attribute(self, path: str) -> Constant:
        if path in self.tensors:
            value = self.tensors[path]
            return Constant(value, self.graph.call_function(_Kept(value).get))
        owner_path, _, name = path.rpartition(".")
        owner = self.model.get_submodule(owner_path)
        return Constant(getattr(owner, name), self.graph.call_function(Attribute(owner, name).get))

    def _constant(self, place: Place) -> Constant:
        """What is computed from parameters alone, at every step: they may change."""
        node = place.same()

        def value(known: Any) -> Any:
            return known.value if isinstance(known, Constant) else known

        with torch.no_grad():
            args: Any = fx.node.map_aggregate(place.args, value)
            kwargs: Any = fx.node.map_aggregate(place.kwargs, value)
            if node.op == "call_method":
                return Constant(getattr(args[0], str(node.target))(*args[1:], **kwargs), node)
            return Constant(node.target(*args, **kwargs), node)  # type: ignore[operator]

    def _property(self, place: Place, of: Any, name: str) -> Constant:
        if name not in ("dtype", "device"):
            unknown(place, name)
        return Constant(None, place.same())

    def _output(self, returned: Any) -> None:
        def node_of(known: Any) -> Any:
            if isinstance(known, Signal) and known.tail:
                raise ValueError(
                    f"the output ends with {samples(known.tail)} that depend on the padding behind the signal, by "
                    f"{known.tail_of}: cut them off, as in y[..., :-{known.tail}], or pad the beginning alone"
                )
            return getattr(known, "node", known)

        self.graph.output(fx.node.map_aggregate(returned, node_of))

    def program(self) -> Program:
        compiled = fx.GraphModule(nn.Module(), self.graph)
        return Program(compiled.forward, self.graph, self.inputs, self.stages)


class Attribute:
    """A parameter or buffer, as it is at each step."""

    def __init__(self, owner: nn.Module, name: str) -> None:
        self.owner, self.name, self.parameters = owner, name, owner._parameters

    def get(self) -> Any:
        """Not by `owner.name`, which costs as much as a small product, where it is a plain parameter."""
        value = self.parameters.get(self.name)
        return getattr(self.owner, self.name) if value is None else value


class _Kept:
    def __init__(self, value: Any) -> None:
        self.value = value

    def get(self) -> Any:
        return self.value


def _is_torchs(function: Any) -> bool:
    """Whether a function is torch's, convext's or Python's, so that its name says what it does."""
    home = (getattr(function, "__module__", None) or "torch").partition(".")[0]
    return home in ("torch", "convext", "_operator", "builtins")
