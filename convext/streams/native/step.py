"""Steps of a stream by one call each: what is bound once, and what is looked at anew before each."""

from __future__ import annotations

from operator import getitem
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from convext.operators.plain import is_plain, is_plain_tensor
from convext.problem.epilogue import NAMES
from convext.providers.cpu import library
from convext.streams.native.lower import VECTOR, Instruction, Lowered, Value, lowered
from convext.streams.native.table import INSTRUCTION, OPERATIONS, PORT, PROGRAM, address, steps
from convext.streams.past import Past
from convext.streams.program import Attribute, Program

MOST = 16  # samples of a chunk: an arena for more is larger than what is near a core


def direct(program: Program, kinds: list[tuple[torch.Size, torch.dtype, torch.device]]) -> Direct | None:
    """The program for chunks like the first ones, from which its stages have begun; None where torch has to run it."""
    batches = {shape[0] for shape, _, _ in kinds}
    if (
        library.unavailable()
        or len(batches) != 1
        or any(len(shape) != 2 or dtype != torch.float32 or device.type != "cpu" for shape, dtype, device in kinds)
    ):
        return None
    batch = batches.pop()
    step = lowered(program, batch * MOST, [shape[1] for shape, _, _ in kinds])
    return None if step is None else Direct(step, batch)


class Direct:
    """One step as a table for the compiled library, with its arena and its windows.

    Rings belong to the stages, weights to the model: they are read, and rings written, where they lie.
    """

    def __init__(self, step: Lowered, batch: int) -> None:
        self._step, self._batch = step, batch
        self._arena = np.zeros(step.size + VECTOR, np.float32)  # a view at its end is read by whole vectors
        convolutions = [(i, one) for i, one in enumerate(step.instructions) if one.stage is not None]
        longest = max((one.a.channels * one.stage.taps for _, one in convolutions), default=0)  # type: ignore[union-attr]
        self._windows = np.zeros(longest * step.columns + VECTOR, np.float32)
        self._table = np.array([self._row(one) for one in step.instructions], INSTRUCTION)
        self._inputs = np.array([self._port(value) for value in step.inputs], PORT)
        self._outputs = np.array([self._port(value) for value in step.outputs], PORT)
        self._given, self._returned = ((ports["tensor"], ports["stride"]) for ports in (self._inputs, self._outputs))
        self._program = np.zeros(1, PROGRAM)
        self._program[0] = (
            address(self._table), len(self._table), address(self._inputs), len(self._inputs), address(self._outputs),
            len(self._outputs), batch, 0, address(self._windows),
        )  # fmt: skip
        self._at, self._samples = address(self._program), self._program["samples"]
        self._convolutions = convolutions
        rings: list[tuple[int, Any]] = [(i, one.stage.past) for i, one in convolutions if one.stage.reach]  # type: ignore[union-attr]
        self._pasts: list[Past] = [past for _, past in rings]
        self._with_rings = np.array([i for i, _ in rings], np.int64)
        self._table["ring"][self._with_rings] = [past.ring.data_ptr() for past in self._pasts]
        self._knows_oldest = False  # whether the table says which samples are the oldest, or the stages do
        self._parameters = _Parameters([p for _, one in convolutions for p in (one.weight, one.bias) if p is not None])
        self._addresses: list[int] = []

    def _row(self, one: Instruction) -> tuple[Any, ...]:
        """All but the addresses of weights and rings, and what is oldest there."""
        stage, window = one.stage, (1, 0, 1, 0, 1)
        if stage is not None:
            window = stage.groups, one.a.channels // stage.groups, stage.taps, 0, stage.dilation  # type: ignore[union-attr, assignment, operator]
        places = map(self._place, (one.result, one.a, one.b))
        operation, activation = OPERATIONS.index(one.operation), NAMES.index(one.activation)
        return operation, one.result.channels, *places, one.scalars, activation, 0, 0, *window, 0

    def _place(self, value: Value | None) -> tuple[int, int]:
        return (0, 0) if value is None else (address(self._arena) + 4 * value.offset, value.row)

    def _port(self, value: Value) -> tuple[Any, ...]:
        return self._place(value), value.channels, 0, (0, 0, 0)

    def takes(self, chunks: tuple[Tensor, ...]) -> bool:
        """Whether nobody wants to see this step: no gradients, transforms or modes, and parameters are as usual."""
        if not 0 < chunks[0].shape[-1] <= MOST or torch.is_grad_enabled() or not is_plain(*chunks):
            return False
        try:
            parameters = self._parameters()
        except (KeyError, AttributeError):  # a parametrization has taken its place
            return False
        if not all(map(Tensor.is_contiguous, parameters)):
            return False
        addresses = list(map(Tensor.data_ptr, parameters))
        return addresses == self._addresses or self._bind(parameters, addresses)

    def _bind(self, parameters: list[Tensor], addresses: list[int]) -> bool:
        if not all(is_plain_tensor(p) and p.dtype == torch.float32 and p.device.type == "cpu" for p in parameters):
            return False
        self._addresses, left = addresses, iter(zip(parameters, addresses, strict=True))
        for i, one in self._convolutions:
            shape = one.result.channels, one.a.channels // one.stage.groups, one.stage.taps  # type: ignore[union-attr, operator]
            for name, wanted, given in (("weight", shape, one.weight), ("bias", shape[:1], one.bias)):
                if given is None:
                    continue
                parameter, self._table[name][i] = next(left)
                if parameter.shape != wanted:
                    self._addresses = []
                    return False
        return True

    def __call__(self, chunks: tuple[Tensor, ...]) -> Any:
        """What the model returns for chunks that it `takes`."""
        count, step = chunks[0].shape[-1], self._step
        results = [torch.empty(self._batch, value.channels, count) for value in step.outputs]
        for (at, stride), tensors in ((self._given, chunks), (self._returned, results)):
            for i, t in enumerate(tensors):
                at[i], stride[i] = t.data_ptr(), t.stride()
        if not self._knows_oldest:
            self._table["oldest"][self._with_rings] = [past.oldest for past in self._pasts]
            self._knows_oldest = True
        self._samples[0] = count
        steps()(self._at)
        returned = step.returned
        return results[0] if type(returned) is int else tree_map(results.__getitem__, returned)

    def hand_back(self) -> None:
        """Tells the stages which samples are the oldest: before they are asked, or go on by themselves."""
        if self._knows_oldest:
            for past, oldest in zip(self._pasts, self._table["oldest"][self._with_rings].tolist(), strict=True):
                past.oldest = oldest
            self._knows_oldest = False


class _Parameters:
    """Parameters and buffers as they are now, in order: a parameter by one look into its owner's dict."""

    def __init__(self, attributes: list[Attribute]) -> None:
        self._names = [attribute.name for attribute in attributes]
        self._where = [
            one.owner._parameters if one.name in one.owner._parameters else _Attributes(one.owner) for one in attributes
        ]

    def __call__(self) -> list[Any]:
        """Raises KeyError or AttributeError where one is no more."""
        return list(map(getitem, self._where, self._names))


class _Attributes:
    """Of an object, in brackets."""

    def __init__(self, owner: Any) -> None:
        self._owner = owner

    def __getitem__(self, name: str) -> Any:
        return getattr(self._owner, name)
