"""The pitfalls of convolutional networks, found in a model as it runs: each with its numbers and the remedy.

gridding          dilations in a row leave holes in the receptive field
checkerboard      a transposed convolution gives some outputs more inputs than others
even kernel       a symmetric padding cannot keep the size under an even kernel
causal leak       a causal model reads its future
channel mismatch  a layer does not take the channels that it gets, as a rule from a concatenation
dead taps         a dilation so large that taps read padding only
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from convext.analysis.geometry import Coverage, dead_taps, overlap
from convext.analysis.progress import Progress
from convext.analysis.receptive import centre, probe
from convext.functional.padding import Pads, resolve_padding
from convext.nn import MOVED

# Stacks that are said to be free of gridding read 0.905 of their field or more (dilations 2, 3, 2, 3 read 19 of 21),
# stacks known for it 0.84 or less (1, 2, 9 read 21 of 25; 2, 2, 2, 2 read 9 of 17).
GRIDDING_BELOW = 0.9


@dataclass(frozen=True)
class Finding:
    """One pitfall: what it is called, the layer or layers, what was found in numbers, and what helps."""

    pitfall: str
    where: str
    numbers: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.pitfall} at {self.where}: {self.numbers}. Remedy: {self.remedy}."


def lint(model: nn.Module, sample: Tensor, causal: bool | None = None) -> list[Finding]:
    """Names the pitfalls of `model`, in the order of its layers. Empty where there are none.

    Runs the model once on `sample` in eval mode. Where two or more layers are dilated, gridding is measured too, at one
    output, the central one, which the finding names: by its gradient and as a rule one forward pass more, on a float64
    copy on the CPU. What takes more than two seconds says on standard error how far it is.

    Args:
        model: any module that takes `sample` alone. It is left as it was.
        sample: [N, C, *size], real, of the size that the model is meant for: dead taps depend on it.
        causal: whether no output may read its future, for signals [N, C, L]; None where a causal layer says so.

    Raises:
        TypeError: `model` is no module, or `sample` no tensor.
        Exception: what the model raises, unless this is one of the pitfalls.
    """
    if not isinstance(model, nn.Module) or not isinstance(sample, Tensor):
        found = f"{type(model).__name__} and {type(sample).__name__}"
        raise TypeError(f"convext.lint takes a torch.nn.Module and a tensor that it is called with, but got {found}")
    calls, crash = _run(model, sample)
    findings = [finding for call in calls for finding in _layer_findings(call)]
    if crash is None:
        findings += _gridding(model, sample, calls)
        findings += _causal_leak(model, sample, calls, causal)
    elif not any(finding.pitfall in ("channel mismatch", "even kernel") for finding in findings):
        raise crash
    return findings


# ---------------------------------------------------------------------------------- what the model does when it runs


@dataclass
class _Call:
    """One call of a convolution; `joined` are the channels of the parts, where its input was concatenated."""

    name: str
    layer: Any
    shape: tuple[int, ...]
    joined: list[int] = field(default_factory=list)

    @property
    def rank(self) -> int:
        return len(self.layer.kernel_size)

    @property
    def space(self) -> tuple[int, ...]:
        return self.shape[-self.rank :]

    @property
    def channels(self) -> int:
        return self.shape[-self.rank - 1]

    @property
    def pads(self) -> Pads:
        """(before, after) each axis, of a convolution."""
        p, m = self.layer.padding, self.layer
        pairs = p if isinstance(p, str) else tuple(q if isinstance(q, tuple) else (q, q) for q in p)
        return resolve_padding(pairs, self.space, m.kernel_size, m.stride, m.dilation)


class _Concatenations(TorchFunctionMode):
    """Keeps the sizes of the parts of every concatenation, by the size of the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: dict[int, list[int]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.cat, torch.concat, torch.concatenate):
            tensors = args[0] if args else kwargs["tensors"]
            for axis, whole in enumerate(result.shape):
                parts = [t.shape[axis] for t in tensors]
                if sum(parts) == whole and len(parts) > 1:
                    self.parts[whole] = parts
        return result


def _run(model: nn.Module, sample: Tensor) -> tuple[list[_Call], Exception | None]:
    """Every call of a convolution in one forward pass, and the exception that ended it, if one did."""
    calls: list[_Call] = []
    joins = _Concatenations()
    crash = None

    def record(name: str) -> Any:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            call = _Call(name, layer, tuple(inputs[0].shape))
            call.joined = joins.parts.get(call.channels, [])
            calls.append(call)

        return hook

    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.modules.conv._ConvNd)]
    hooks = [layer.register_forward_pre_hook(record(_named(layer, name))) for name, layer in layers]
    try:
        with torch.no_grad(), joins, _evaluating(model):
            model(sample)
    except Exception as error:
        crash = error
    finally:
        for hook in hooks:
            hook.remove()
    return calls, crash


def _named(layer: nn.Module, name: str) -> str:
    """Also of a fused model as in the model that it was made from."""
    lies, lay = vars(layer).get(MOVED, ("", ""))
    return name.removesuffix(lies) + lay or "the model"


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = [m for m in model.modules() if m.training]
    model.eval()
    try:
        yield
    finally:
        for m in training:
            m.training = True


# ----------------------------------------------------------------------------------------- one layer at a time


def _layer_findings(call: _Call) -> Iterator[Finding]:
    if call.channels != call.layer.in_channels:
        yield _channel_mismatch(call)
    elif call.layer.transposed:
        yield from _checkerboard(call)
    else:
        yield from _even_kernel(call)
        yield from _dead_taps(call)


def _channel_mismatch(call: _Call) -> Finding:
    parts = " + ".join(map(str, call.joined))
    return Finding(
        "channel mismatch", call.name,
        f"takes {call.layer.in_channels} channels and gets {parts + ' = ' if parts else ''}{call.channels}",
        f"in_channels={call.channels}, or branches that add up to {call.layer.in_channels}",
    )  # fmt: skip


def _checkerboard(call: _Call) -> Iterator[Finding]:
    layer = call.layer
    for axis, (k, s, d) in enumerate(zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)):
        counts = overlap(k, s, d)
        if len(set(counts)) > 1:
            yield Finding(
                "checkerboard", call.name,
                f"kernel {k}, stride {s} on axis {axis}: neighbouring outputs sum {', '.join(map(str, counts))} inputs",
                f"a kernel size that {s} divides, such as {-(-k // s) * s}, or interpolation and a convolution",
            )  # fmt: skip
            return


def _even_kernel(call: _Call) -> Iterator[Finding]:
    layer = call.layer
    for size, k, s, d, (begin, end) in zip(
        call.space, layer.kernel_size, layer.stride, layer.dilation, call.pads, strict=True
    ):
        change = begin + end - d * (k - 1)
        if s == 1 and begin == end > 0 and abs(change) == 1:
            yield Finding(
                "even kernel", call.name,
                f"kernel {k}, dilation {d}, padding {begin} on both sides turns size {size} into {size + change}",
                f"padding='same', or ({d * (k - 1) // 2}, {d * (k - 1) - d * (k - 1) // 2})",
            )  # fmt: skip
            return


def _dead_taps(call: _Call) -> Iterator[Finding]:
    layer = call.layer
    if layer.padding_mode != "zeros":
        return
    dead = [
        len(dead_taps(size, k, s, pads, d))
        for size, k, s, pads, d in zip(
            call.space, layer.kernel_size, layer.stride, call.pads, layer.dilation, strict=True
        )
    ]
    live = [k - n for k, n in zip(layer.kernel_size, dead, strict=True)]
    total, alive = (torch.Size(sizes).numel() for sizes in (layer.kernel_size, live))
    if 0 < alive < total:
        yield Finding(
            "dead taps", call.name,
            f"{total - alive} of {total} taps read only padding with dilation {_text(layer.dilation)} on a map of "
            f"{_text(call.space)}",
            f"a dilation below {_text(call.space)}, or a larger map",
        )  # fmt: skip


def _text(values: Sequence[int]) -> str:
    return "x".join(map(str, values))


# ------------------------------------------------------------------------------------------- the model as a whole


def _gridding(model: nn.Module, sample: Tensor, calls: Sequence[_Call]) -> Iterator[Finding]:
    """Holes in what the central output reads, where two or more dilated layers may have made them."""
    rank = sample.dim() - 2
    dilated = [
        [(c.name, c.layer.dilation[axis]) for c in calls if c.rank == rank and _spreads(c.layer, axis)]
        for axis in range(rank)
    ]
    if all(len(layers) < 2 for layers in dilated):
        return
    with Progress("convext.lint looks for gridding", 3 * len(calls)) as progress:
        found = centre(model, sample, progress.watch)
    for axis, layers in enumerate(dilated):
        read = found.field(axis)
        coverage = Coverage(int(read.sum()), len(read))
        if len(layers) > 1 and coverage.ratio < GRIDDING_BELOW:
            where = f" of output {', '.join(map(str, found.output))}" if found.output else ""
            yield Finding(
                "gridding", ", ".join(name for name, _ in layers),
                f"dilations {', '.join(str(d) for _, d in layers)} read {coverage} = {coverage.ratio:.4f} of the "
                f"receptive field{where} on axis {axis}",
                "dilations that fill each other's holes, such as 1, 2, 5, or a layer without dilation",
            )  # fmt: skip
            return


def _spreads(layer: Any, axis: int) -> bool:
    return bool(layer.kernel_size[axis] > 1 < layer.dilation[axis])


def _causal_leak(
    model: nn.Module, sample: Tensor, calls: Sequence[_Call], causal: bool | None
) -> Iterator[Finding]:  # fmt: skip
    """An output before the middle of the signal that reads an input from the middle on."""
    if sample.dim() != 3:
        return
    plain = [call for call in calls if call.rank == 1 and not call.layer.transposed]
    if causal is None:
        causal = any(begin > end == 0 for call in plain for begin, end in call.pads)
    if not causal:
        return
    length = sample.shape[-1]
    middle = length // 2
    (hit,) = probe(model, sample, -1)([slice(middle, length)])
    step = -(-length // len(hit))  # inputs from one output to the next
    early = [middle - o * step for o in range(len(hit)) if hit[o] and o * step < middle]
    if early:
        leaky = [call.name for call in plain if call.pads[0][1] > 0]
        yield Finding(
            "causal leak", ", ".join(leaky) or "the model",
            f"outputs read up to {max(early)} samples of their future",
            "padding='causal', which is dilation * (kernel_size - 1) zeros before the signal and none after",
        )  # fmt: skip
