"""Who competes in a case: convext's kernel records, torch's own paths, and other packages' kernels.

A contender is ready to run: `call(tensors)` takes x, w and y in its layout and returns the results of the case's faces.
torch's are the baselines; the best of them is what a row compares with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import convext
from convext.benchmarks.cases.case import LAYOUTS, Case, Tensors
from convext.benchmarks.cases.layers import Layer
from convext.benchmarks.measuring import torch_calls
from convext.benchmarks.measuring.others import others
from convext.choice import registry
from convext.choice.registry import Kernel, choose, refusal
from convext.functional import whose
from convext.operators import convolve
from convext.problem import OPERANDS, ConvProblem
from convext.problem.layout import dense

Results = tuple[Tensor, ...]
FEW_CHANNELS = 4  # of a group, where the smallest block of a product of matrices, 16 x 16, is a sixteenth full at most


@dataclass(frozen=True)
class Contender:
    """One way to compute a case.

    Attributes:
        provider: "triton.depthwise", "torch.eager", ...
        layout: the order of its operands, "nc" or "cl".
        call: computes the faces of the case.
    """

    provider: str
    layout: str
    call: Callable[[Tensors], Results]

    @property
    def name(self) -> str:
        return f"{self.provider}/{self.layout}"


def is_baseline(name: str) -> bool:
    """Whether a contender is one of those that rows compare with."""
    return name.startswith("torch.")


def is_torchs(name: str) -> bool:
    """Whether what a contender runs is torch's own, whoever calls it."""
    return is_baseline(name) or name.rpartition("/")[0] == registry.ATEN.name


def contenders(case: Case, compiled: bool = False, weights: Tensors | None = None) -> Iterator[Contender]:
    """Everything that takes the case: baselines first.

    Args:
        case: what is timed.
        compiled: torch.compile's paths too, and other packages' that tune themselves; each takes seconds.
        weights: "w" and "bias" of a step's layers.
    """
    if case.work == "step":
        yield from _steps(case, compiled, weights or {})
        return
    eager = torch_calls.face(case)
    for layout_name in LAYOUTS:
        yield Contender("torch.eager", layout_name, _single(eager))
        if compiled:
            for mode in ("default", "max-autotune-no-cudagraphs"):
                fast = torch.compile(eager, mode=mode, dynamic=False)
                yield Contender(f"torch.compile.{mode}", layout_name, _single(fast))
    if compiled:
        yield from _shift(case)
    for layout_name in LAYOUTS:
        for kernel in kernels(case, layout_name):
            yield Contender(kernel.name, layout_name, _kernel_call(case, kernel, layout_name))
    for provider, layout_name, call in others(case, compiled):
        yield Contender(provider, layout_name, _single(call))


def _single(compute: Callable[[Tensors], Tensor]) -> Callable[[Tensors], Results]:
    """A contender's call that computes one face."""
    return lambda t: (compute(t),)


def kernels(case: Case, layout_name: str) -> list[Kernel]:
    """The kernel records that are timed on the case's face. Off CUDA without the GPU's kernels, emulated there."""
    assert case.work != "step"
    problem = case.problem(case.work, layout_name)
    emulated = () if case.device == "cuda" else ("triton", "cuda")
    return [k for k in competing(problem) if k.provider not in emulated]


def competing(problem: ConvProblem) -> list[Kernel]:
    """The kernel records that take a problem, without implicit GEMMs where nearly all that they multiply are zeros.

    On an H200 depthwise forwards took them 30 to 80 times as long as torch, and groups of four channels eight times.
    One that "auto" runs all the same competes.
    """
    taking = [kernel for kernel in registry.kernels() if refusal(kernel, problem) is None]
    if max(problem.c, problem.k) > FEW_CHANNELS * problem.groups:
        return taking
    return [kernel for kernel in taking if not kernel.name.endswith(".igemm") or kernel is choose(problem)]


def chosen(case: Case, layout_name: str) -> str:
    """The name of what "auto" runs: a kernel for a face, the layer as a whole for a step.

    A layer's forward is torch's on a CPU where a kernel of ours saves less than the way to it costs.
    """
    if case.work == "step":
        return "convext"
    if case.device == "cpu" and case.work == case.layer.forward and not is_ours(case, layout_name):
        return registry.ATEN.name
    return choose(case.problem(case.work, layout_name)).name


def is_ours(case: Case, layout_name: str) -> bool:
    """Whether "auto" takes a face of the case from torch; on a CPU that has to be worth it in a layer's whole call."""
    forward = case.layer.forward
    if case.device == "cpu" and forward in case.faces:
        return whose.pays(case.problem(forward, layout_name), case.faces)
    return any(choose(case.problem(face, layout_name)) is not registry.ATEN for face in case.faces)


def _kernel_call(case: Case, kernel: Kernel, layout_name: str) -> Callable[[Tensors], Results]:
    """The public operator with this kernel named, as a user would call it; off CUDA, ATEN as "auto" runs it."""
    face = case.work
    assert face != "step"
    if case.device != "cuda" and kernel is registry.ATEN:
        if face == case.layer.forward:
            return _forward_call(case)
        if not whose.gains_of(case.problem(face, layout_name)):
            return _single(torch_calls.face(case))  # the layer is torch's, and so is its backward pass
    first, second = OPERANDS[face]
    problem, layer = case.problem(face), case.layer
    size = problem.open_shape[2:]

    def call(t: Tensors) -> Results:
        return (
            convolve(
                face, t[first], t[second], None, size, layer.stride, layer.begin, layer.dilation, layer.groups,
                kernel.name,
            ),
        )  # fmt: skip

    return call


def _forward_call(case: Case) -> Callable[[Tensors], Results]:
    """The layer's forward as its module calls it under "auto": off CUDA by torch's own function."""
    layer = case.layer
    rank = len(layer.stride)
    if layer.transposed:
        transpose = getattr(convext.functional, f"conv_transpose{rank}d")
        tail = (None, layer.stride, layer.begin, layer.output_padding, layer.groups, layer.dilation)
        return lambda t: (transpose(t["y"], t["w"], *tail),)
    convolve = getattr(convext.functional, f"conv{rank}d")
    padding = layer.begin if layer.begin == layer.end else tuple(zip(layer.begin, layer.end, strict=True))
    return lambda t: (convolve(t["x"], t["w"], None, layer.stride, padding, layer.dilation, layer.groups),)


def _shift(case: Case) -> Iterator[Contender]:
    """What compiles well for a short depthwise convolution in 1-D: a sum of shifted products."""
    layer = case.layer
    taps = layer.weight[-1]
    short = len(layer.stride) == 1 and layer.family == "depthwise" and taps <= 8
    if not short or case.work != "fprop" or layer.stride != (1,) or layer.weight[0] != layer.groups:
        return
    length, (begin,), (end,), (dilation,) = layer.output[-1], layer.begin, layer.end, layer.dilation

    def shift_multiply_add(x: Tensor, w: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(x, (begin, end))
        terms = [w[:, 0, i, None] * padded[..., i * dilation : i * dilation + length] for i in range(taps)]
        return sum(terms[1:], terms[0])

    fast = torch.compile(shift_multiply_add, dynamic=False)
    for layout_name in LAYOUTS:
        yield Contender("torch.shift", layout_name, lambda t: (fast(t["x"], t["w"]),))


# ----------------------------------------------------------------------------------------------- training step


def convext_module(layer: Layer, dtype: torch.dtype, device: str) -> torch.nn.Module:
    """The layer as convext's module."""
    rank = len(layer.stride)
    name = f"ConvTranspose{rank}d" if layer.transposed else f"Conv{rank}d"
    settings: dict[str, Any] = {
        "kernel_size": layer.weight[2:], "stride": layer.stride, "dilation": layer.dilation,
        "groups": layer.groups, "bias": layer.bias, "dtype": dtype, "device": device,
    }  # fmt: skip
    if layer.transposed:
        settings |= {"padding": layer.begin, "output_padding": layer.output_padding}
    elif layer.begin == layer.end:
        settings |= {"padding": layer.begin}
    else:
        settings |= {"padding": tuple(zip(layer.begin, layer.end, strict=True))}
    return getattr(convext, name)(layer.input[1], layer.output[1], **settings)


def _steps(case: Case, compiled: bool, weights: Tensors) -> Iterator[Contender]:
    builders: list[tuple[str, Callable[..., torch.nn.Module], str | None]] = [
        ("torch.eager", torch_calls.module, None),
        ("convext", convext_module, None),
    ]
    if compiled:
        builders.insert(1, ("torch.compile.default", torch_calls.module, "default"))
    for provider, build, mode in builders:
        for layout_name in LAYOUTS:
            layer = build(case.layer, case.dtype, case.device)
            parameters = _set(layer, weights, layout_name)
            run = layer if mode is None else torch.compile(layer, mode=mode, dynamic=False)
            yield Contender(provider, layout_name, _step_call(case, run, parameters))


def _set(module: torch.nn.Module, weights: Tensors, layout_name: str) -> list[Tensor]:
    """Gives a layer the common weights, in its layout, and returns its weight and bias."""
    (convolution,) = (m for m in module.modules() if hasattr(m, "weight"))
    convolution.weight = torch.nn.Parameter(dense(weights["w"], layout_name == "cl"))
    parameters: list[Tensor] = [convolution.weight]
    if convolution.bias is not None:
        convolution.bias = torch.nn.Parameter(weights["bias"])
        parameters.append(convolution.bias)
    return parameters


def _step_call(case: Case, layer: Callable[[Tensor], Tensor], parameters: list[Tensor]) -> Callable[[Tensors], Results]:
    """Forward and backward: the tensors that fprop, dgrad and wgrad leave open, in this order."""
    input_role, output_role = ("y", "x") if case.layer.transposed else ("x", "y")

    def call(t: Tensors) -> Results:
        with torch.enable_grad():
            input = t[input_role].detach().requires_grad_()
            output = layer(input)
            gradient, weight, *_ = torch.autograd.grad(output, [input, *parameters], t[output_role])
        output = output.detach()
        fprop, dgrad = (gradient, output) if case.layer.transposed else (output, gradient)
        return fprop, dgrad, weight

    return call
