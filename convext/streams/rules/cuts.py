"""Parts of time and paddings: what comes before a signal, and what is cut off its ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

import torch
from torch import fx

from convext.streams.place import Place
from convext.streams.rules.axes import not_time
from convext.streams.rules.table import rule
from convext.streams.signals import Several, Signal
from convext.streams.tracing import layer, word, writes


@rule("getitem")
def getitem(at: Place, input: Any, index: Any) -> Any:
    if isinstance(input, Several):
        if isinstance(index, slice):
            node = at.same()
            return Several(replace(input.each, node=node), node)
        return replace(input.each, node=at.same())
    indices = index if isinstance(index, tuple) else (index,)
    if not all(i is None or i is Ellipsis or isinstance(i, int | slice) for i in indices):
        at.refuse("takes elements by tensors of indices: which samples these are is not known")
    return _sliced(at, input, indices)


def _sliced(at: Place, x: Signal, indices: tuple[Any, ...]) -> Signal:
    """x[a, b:c, None, .., d:e]: the slice of time cuts, the others go to the tensor as they are."""
    taken = sum(i is not None and i is not Ellipsis for i in indices)
    gap = indices.index(Ellipsis) if Ellipsis in indices else len(indices)
    full = [*indices[:gap], *[slice(None)] * (x.dims - taken), *indices[gap + 1 :]]
    axis, front, dims = 0, 0, 0
    cut: Any = slice(None)
    for place, i in enumerate(full):
        if i is not None and axis == x.front:
            cut, front, full[place] = i, dims, slice(None)
        axis += i is not None
        dims += not isinstance(i, int)
    if not isinstance(cut, slice) or cut.step not in (None, 1) or not _cuts_an_end(cut):
        at.refuse(f"takes {_said(cut)} of time, and only parts such as 2: and :-2 are known to stay aligned")
    begin, end = -(cut.start or 0), cut.stop or 0
    if (begin or end) and any(map(writes, at.node.users)):
        at.refuse("writes into a part of time")
    if any(i != slice(None) for i in full):
        x = replace(x.on_axis(front, dims), node=at.call(_getitem, x.node, tuple(full)))
    return at.shift(x, begin, end)


def _cuts_an_end(cut: slice) -> bool:
    """Whether it is a: or :-b or a:-b, with numbers."""
    begins = cut.start is None or (isinstance(cut.start, int) and cut.start >= 0)
    return begins and (cut.stop is None or (isinstance(cut.stop, int) and cut.stop < 0))


def _said(cut: Any) -> str:
    if not isinstance(cut, slice):
        return f"[{cut}]"
    return f"[{':'.join('' if part is None else str(part) for part in (cut.start, cut.stop, cut.step))}]"


def _getitem(x: torch.Tensor, index: tuple[Any, ...]) -> torch.Tensor:
    return x[index]


@rule("narrow")
def narrow(at: Place, input: Signal, dim: int, start: int, length: int) -> Signal:
    not_time(at, input, dim)
    return replace(input, node=at.same())


@rule("pad")
def pad(at: Place, input: Signal, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Signal:
    pairs = list(zip(pad[::2], pad[1::2], strict=True))  # the last axis first
    begin, end = pairs[-1 - input.axis] if len(pairs) >= -input.axis else (0, 0)
    if not (begin or end):
        return replace(input, node=at.same())
    if sum(1 for pair in pairs if any(pair)) > 1:
        at.refuse("pads time and another axis in one call: pad them one after the other")
    if mode != "constant":
        pads_with_the_signal(at, mode, max(begin, end))
    if begin > 0 and end >= 0 and not value and _convolved_at_once(at.node):
        return replace(input.shifted(0, end, layer(at.node))[0], owed=begin)
    padded = at.shift(input, begin, end, 0.0 if value is None else value)
    return padded if padded.node is not input.node else replace(padded, node=at.call(torch.clone, input.node))


def _convolved_at_once(node: fx.Node) -> bool:
    """Whether a convolution is all that reads a padded copy, and nothing is written before it does."""
    following = node.next
    while following.op == "get_attr":
        following = following.next
    return word(following) == "conv1d" and list(node.users) == [following] and following.args[0] is node


def pads_with_the_signal(at: Place, mode: str, count: int) -> NoReturn:
    if mode == "circular":
        at.mixes("it is padded in a circle, with samples of the signal's other end")
    if mode == "reflect":
        at.looks_ahead(count, "it is padded by a reflection of the signal's first samples")
    at.refuse(f"is padded by {mode!r}: a stream begins with a constant, such as zeros")
