"""One node of a model's graph, as a rule meets it: its name for errors, and the program of a step to which it adds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

from torch import fx

from convext.streams.signals import Signal, rate, samples
from convext.streams.stages import Align, Shift, Stage
from convext.streams.tracing import layer, where, word


class Place:
    """Where a rule is applied.

    Args:
        node: of the model's graph.
        args, kwargs: its arguments: a Signal, Several or Constant for what a node computes.
        program: the graph of a step, to which the rule adds.
        stages: what remembers something there, by name.
    """

    def __init__(
        self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any], program: fx.Graph, stages: dict[str, Stage]
    ) -> None:
        self.node, self.args, self.kwargs = node, args, kwargs
        self.program, self.stages = program, stages

    def refuse(self, why: str) -> NoReturn:
        """Raises ValueError: the layer, and why it is that no stream can run the model."""
        raise ValueError(f"{layer(self.node)} {why}")

    def looks_ahead(self, count: int, why: str) -> NoReturn:
        self.refuse(f"looks {samples(count)} ahead: {why}")

    def mixes(self, what: str) -> NoReturn:
        self.refuse(f"mixes the whole of time: {what}")

    def name(self) -> str:
        """A name for what is remembered here: the layer's, with a number where it is not the first."""
        name = where(self.node) or word(self.node)
        same = sum(1 for known in self.stages if known.partition(":")[0] == name)
        return f"{name}:{same + 1}" if same else name

    def call(self, function: Callable[..., Any], *arguments: Any) -> fx.Node:
        """`function` in the program, of nodes and plain arguments."""
        return self.program.call_function(function, arguments)

    def remember(self, stage: Any, *arguments: Any) -> fx.Node:
        """The step of a new stage in the program."""
        self.stages[stage.name] = stage
        return self.call(stage.step, *arguments)

    def same(self, instead: dict[fx.Node | None, fx.Node] | None = None) -> fx.Node:
        """The model's own node in the program, with some operands in the place of others."""

        def operand(value: Any) -> Any:
            node = getattr(value, "node", None)
            return (instead or {}).get(node, node) if node is not None else value

        args, kwargs = fx.node.map_aggregate(self.args, operand), fx.node.map_aggregate(self.kwargs, operand)
        create = self.program.call_method if self.node.op == "call_method" else self.program.call_function
        return create(self.node.target, args, kwargs)  # type: ignore[arg-type]

    def shift(self, x: Signal, begin: int, end: int, value: float = 0.0) -> Signal:
        """`x` with samples put before it and behind it, or cut off where a number is below 0."""
        y, hold = x.shifted(begin, end, layer(self.node))
        if y.lead < 0:
            cut = f"{samples(-begin)} of its beginning" if begin < 0 else f"{samples(hold)} of its end"
            self.looks_ahead(-y.lead, f"it cuts off {cut}, which no padding before it makes up for")
        if begin or hold:
            return replace(y, node=self.remember(Shift(self.name(), begin, hold, x.axis, value), x.node))
        return y

    def together(self, signals: list[Signal]) -> tuple[Signal, dict[fx.Node | None, fx.Node]]:
        """What an operation on all of `signals` gives, and by which nodes it takes those that have to be held back."""
        first = signals[0]
        if len({x.axis for x in signals}) > 1:
            self.refuse(f"puts together signals with time on axis {' and on axis '.join(str(x.axis) for x in signals)}")
        joint = self._pace(signals)
        joint = replace(joint, dims=max(x.dims for x in signals), node=first.node)
        if all((x.pace, x.lead) == (first.pace, first.lead) for x in signals):
            return joint, {}
        aligned = self.remember(Align(self.name(), [x.axis for x in signals]), *(x.node for x in signals))
        return joint, {x.node: self.program.call_function(_item, (aligned, i)) for i, x in enumerate(signals)}

    def _pace(self, signals: list[Signal]) -> Signal:
        first = signals[0]
        rates = [rate(x.pace) for x in signals]
        lengths = [x.lead + x.tail for x in signals]
        if len(set(rates)) > 1:
            self.refuse(
                f"puts together signals with {' and '.join(str(r) for r in rates)} samples for each of the input"
            )
        if len(set(lengths)) > 1:
            self.refuse(
                f"puts together signals that are {' and '.join(map(str, lengths))} samples longer than the input"
            )
        if len({x.pace for x in signals}) == 1:
            lead = min(x.lead for x in signals)
            tail_of = next((x.tail_of for x in signals if x.tail_of), "")
            return replace(first, lead=lead, tail=lengths[0] - lead, tail_of=tail_of)
        if any(x.lead or x.tail for x in signals):
            self.refuse("puts together signals of different strides, of which one was padded: no stream aligns these")
        paces = {x.pace for x in signals}
        return replace(first, pace=(("least", *sorted(paces, key=str)),))


def _item(values: tuple[Any, ...], index: int) -> Any:
    return values[index]
