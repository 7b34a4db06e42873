"""The program of a step, node by node, as instructions on values in an arena; None where a node has none.

A value is a row of channels for each column, a sample of one of the batch. Rows of buffers end on whole vectors, which
instructions read and write; a view of some channels is read only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, NoReturn

from torch import fx

from convext.streams.program import Attribute, Program
from convext.streams.stages import Windows
from convext.streams.tracing import word

VECTOR = 16  # float32 in the widest vector

_SUMS = {
    "add": "add", "add_": "add", "iadd": "add", "sub": "subtract", "sub_": "subtract", "isub": "subtract",
    "mul": "multiply", "mul_": "multiply", "imul": "multiply",
}  # fmt: skip
_ACTIVATIONS = ("relu", "silu", "gelu", "hardswish", "hardsigmoid", "sigmoid", "tanh", "leaky_relu")


class NoInstructionError(Exception):
    """A node that has no instruction."""


@dataclass(frozen=True)
class Value:
    """Where the `channels` of each column lie in the arena, `row` floats apart; `whole`: all of a buffer."""

    offset: int
    row: int
    channels: int
    whole: bool = True


@dataclass(frozen=True)
class Instruction:
    """What csrc/cpu/streams/program.h calls so, by names: parameters are read anew at each step."""

    operation: str
    result: Value
    a: Value | None = None
    b: Value | None = None
    scalars: tuple[float, float] = (0.0, 0.0)
    activation: str = "identity"
    stage: Windows | None = None
    weight: Attribute | None = None
    bias: Attribute | None = None


@dataclass
class Lowered:
    """All of a step.

    Args:
        columns: rows of each value.
        size: floats of the arena.
        inputs, outputs: values of the chunks, and of what is returned.
        returned: what the model returns, with numbers of outputs in the place of tensors.
    """

    columns: int
    size: int = 0
    instructions: list[Instruction] = field(default_factory=list)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    returned: Any = None


def lowered(program: Program, columns: int, channels: list[int]) -> Lowered | None:
    """`channels`: of each chunk. None where torch has to run the step."""
    try:
        return _Lowering(columns, channels).read(program.graph)
    except NoInstructionError:
        return None


class _Lowering:
    def __init__(self, columns: int, channels: list[int]) -> None:
        self.step = Lowered(columns)
        self.channels = iter(channels)
        self.known: dict[fx.Node, Any] = {}

    def read(self, graph: fx.Graph) -> Lowered:
        for node in graph.nodes:
            args: Any = fx.node.map_arg(node.args, self.known.__getitem__)
            kwargs: Any = fx.node.map_arg(node.kwargs, self.known.__getitem__)
            self.known[node] = self._node(node, args, kwargs)
        return self.step

    def _node(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        if node.op == "placeholder":
            self.step.inputs.append(self._buffer(next(self.channels)))
            return self.step.inputs[-1]
        if node.op == "output":
            self.step.returned = fx.node.map_aggregate(args[0], self._output)
            return None
        owner = getattr(node.target, "__self__", None)
        if isinstance(owner, Attribute):
            return owner
        if isinstance(owner, Windows):
            return self._convolve(owner, *args)
        called = word(node)
        for names, lower in self._RULES:
            if called.rstrip("_") in names or called in names:
                try:
                    return lower(self, called, *args, **kwargs)
                except TypeError as error:  # arguments that the rule does not know
                    raise NoInstructionError(called) from error
        _refuse(called)

    # -------------------------------------------------------------------------------------------- places and results

    def _buffer(self, channels: int) -> Value:
        row = -(-channels // VECTOR) * VECTOR
        value = Value(self.step.size, row, channels)
        self.step.size += row * self.step.columns
        return value

    def _written(self, called: str, a: Value, inplace: bool = False) -> Value:
        """Where the result goes: over `a`, if that is what the model does."""
        if not (inplace or called.endswith("_") or called.startswith("i")):
            return self._buffer(a.channels)
        return _need(a, a.whole)

    def _do(self, operation: str, result: Value, a: Value | None = None, b: Value | None = None, **more: Any) -> Value:
        self.step.instructions.append(Instruction(operation, result, a, b, **more))
        return result

    def _output(self, known: Any) -> Any:
        self.step.outputs.append(_need(known))
        return len(self.step.outputs) - 1

    # ---------------------------------------------------------------------------------------------------------- rules

    def _convolve(self, stage: Windows, input: Any, weight: Any = None, bias: Any = None) -> Value:
        if not isinstance(weight, Attribute) or not isinstance(bias, Attribute | None):
            _refuse("operands that are computed")
        x, w = _need(input), weight.get()
        if stage.groups is None or stage.stride > 1 or stage.first_wait or w.shape[1] * stage.groups != x.channels:
            _refuse("windows")
        return self._do("convolve", self._buffer(w.shape[0]), x, stage=stage, weight=weight, bias=bias)

    def _sum(self, called: str, a: Any, b: Any) -> Value:
        operation = _SUMS[called]
        if isinstance(a, Value) and isinstance(b, Value):
            _need(a, a.channels == b.channels)
            return self._do(operation, self._written(called, a), a, b)
        if isinstance(a, Value) and isinstance(b, Real):
            return self._do(operation, self._written(called, a), a, scalars=(float(b), 0.0))
        if isinstance(b, Value) and isinstance(a, Real):
            return self._do(operation, self._buffer(b.channels), None, b, scalars=(float(a), 0.0))
        _refuse(called)

    def _activation(
        self, called: str, input: Any, *given: Any, negative_slope: float = 0.01, inplace: bool = False,
        approximate: str = "none",
    ) -> Value:  # fmt: skip
        name, a = called.rstrip("_"), _need(input)
        if given:
            negative_slope, inplace = (*given, inplace)[:2] if name == "leaky_relu" else _refuse(called)
        if approximate == "tanh":
            name = "gelu_tanh"
        result, slope = self._written(called, a, inplace), float(negative_slope)
        return self._do("activate", result, a, activation=name, scalars=(slope, 0.0))

    def _fill(self, called: str, input: Any) -> Value:
        return self._do("fill", self._buffer(_need(input).channels), scalars=(float(called == "ones_like"), 0.0))

    def _chunk(self, called: str, input: Any, chunks: int, dim: int = 0) -> list[Value]:
        a = _need(input)
        return self._split(called, a, -(-a.channels // chunks), dim)

    def _split(self, called: str, input: Any, split_size_or_sections: Any, dim: int = 0) -> list[Value]:
        a, sizes = _need(input, dim in (1, -2)), split_size_or_sections
        if isinstance(sizes, int):
            sizes = [min(sizes, a.channels - begin) for begin in range(0, a.channels, sizes)]
        begins = [sum(sizes[:i]) for i in range(len(sizes))]
        return [Value(a.offset + begin, a.row, size, False) for begin, size in zip(begins, sizes, strict=True)]

    def _item(self, called: str, input: Any, index: Any) -> Any:
        return input[index] if isinstance(input, list) and isinstance(index, int) else _refuse(called)

    def _same(self, called: str, input: Any) -> Value:
        return _need(input)

    _RULES: tuple[tuple[tuple[str, ...], Callable[..., Any]], ...] = (
        (tuple(_SUMS), _sum),
        (_ACTIVATIONS, _activation),
        (("zeros_like", "ones_like"), _fill),
        (("chunk",), _chunk),
        (("split",), _split),
        (("getitem",), _item),
        (("contiguous",), _same),
    )


def _need(value: Any, holds: bool = True) -> Value:
    return value if isinstance(value, Value) and holds else _refuse("operand")


def _refuse(what: str) -> NoReturn:
    raise NoInstructionError(what)
