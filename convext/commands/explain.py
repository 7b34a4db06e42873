"""Why a convolution runs on the kernel it runs on: every kernel's answer, the ideal time, and the hidden copies."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from convext import nn
from convext.choice import branches, gpu_table, registry, separable, settings
from convext.commands import arguments
from convext.conversion.fusion import Fused, Separable, chosen, onednn
from convext.functional import whose
from convext.functional.geometry import conv_geometry, conv_transpose_geometry
from convext.operators.placed import PLACED
from convext.problem import FACES, OPEN, OPERANDS, ConvProblem, Face, Ints, roofline
from convext.problem.branches import BranchesProblem
from convext.problem.epilogue import IDENTITY
from convext.problem.layout import is_channels_last
from convext.problem.separable import SeparableProblem
from convext.providers import aten


def explain(what: ConvProblem | torch.nn.Module, input: Tensor | Ints | None = None, arch: int | None = None) -> str:
    """Says which kernel computes a convolution and its gradients under the current backend, and why.

    Args:
        what: one face of a convolution, or a layer (torch's or convext's), or one that `convext.fuse` made, or a
            ModuleList of parallel layers of one input, such as a block's `branches`.
        input: the layer's input, or its shape. For a DTensor: what its ranks exchange, and the largest problem of one.
        arch: explain as on a CUDA device of this compute capability times ten (90: Hopper), present or not.

    Returns:
        For the forward and each gradient: the sizes, the ideal bytes, FLOPs and time, which kernels take it and which
        of them `convext.backend` chooses, with the hidden copies they would make, and why the others do not. For a
        layer also whether a backward pass computes both gradients in one call, and on a CPU whether what the kernels
        save is worth the way to them; for a fused one, which is for inference, the forward alone, and the passes over
        its result that its epilogue saves; for parallel layers the forward of each, and what computes them in one call.

    Raises:
        ValueError: a layer without its input, or an input that it does not take.
    """
    if isinstance(what, ConvProblem):
        return _explain(what)
    if input is None:
        raise ValueError("explain needs the layer's input, or its shape")
    if isinstance(what, Fused):
        return _explain_fused(what, input, arch)
    if isinstance(what, Separable):
        return _explain_separable(what, input, arch)
    if isinstance(what, torch.nn.ModuleList):
        return _explain_branches(what, input, arch)
    if type(input) in PLACED:
        return _explain_placed(what, input)
    problems = problems_of(what, input, arch)
    transposed = problems[0].face == "dgrad"
    faces = [_explain(problem, transposed) for problem in problems]
    whole = [_gradients(problems), *_whole_call(problems)]
    return "\n\n".join([*_padded_copy(what, problems[0]), *faces, *whole])


def _explain_fused(layer: Any, input: Tensor | Ints, arch: int | None) -> str:
    """The convolution, and what its way saves: a pass is a read or a write of all of the result."""
    forward = problems_of(layer.conv, input, arch)[0]
    parts = ["residual"] * layer.adds + [str(layer.epilogue)] * (layer.epilogue.name != IDENTITY)  # in this order
    moved = 2 * len(parts) * math.prod(forward.open_shape) * forward.dtype.itemsize
    saved = f"{2 * len(parts)} passes over the result, {moved / 1e6:,.2f} MB"
    by = _finished_by(layer, forward)
    told = (
        f"in torch's operators, after the store: {saved}" if by is None else f"by {by}, before the store: saves {saved}"
    )
    return f"{_explain(forward)}\n  epilogue: {', '.join(parts) or 'nothing'}, {told}"


def _explain_separable(pair: Any, input: Tensor | Ints, arch: int | None) -> str:
    """Both layers, and what each kernel that computes them in one pass says to that."""
    first = problems_of(pair.first.conv, input, arch)[0]
    second = problems_of(pair.second.conv, first.open_shape, arch)[0]
    second = replace(second, channels_last=first.channels_last)
    problem = SeparableProblem(first, second, pair.first.epilogue, pair.second.epilogue, pair.second.adds)
    layers = _explain_fused(pair.first, input, arch), _explain_fused(pair.second, first.open_shape, arch)
    return "\n\n".join([*layers, f"in one pass or two: {pair.way}, as was timed\n{separable.told(problem)}"])


def _explain_branches(layers: torch.nn.ModuleList, input: Tensor | Ints, arch: int | None) -> str:
    """The forward of each layer, and what each kernel that computes them in one call says to that."""
    parts = tuple(problems_of(layer, input, arch)[0] for layer in layers)
    if len({(part.output, part.stride, part.groups) for part in parts}) != 1:
        raise ValueError(
            "expected parallel layers of one stride, number of groups and size of the result, "
            f"but got sizes {', '.join(_sizes(part.output) for part in parts)}"
        )
    last = any(part.channels_last for part in parts)
    problem = BranchesProblem(tuple(replace(part, channels_last=last) for part in parts))
    return "\n\n".join([*map(_explain, problem.parts), f"in one call, or one by one\n{branches.told(problem)}"])


def _finished_by(layer: Any, forward: ConvProblem) -> str | None:
    """What computes a fused layer's epilogue before it stores the result, if anything does."""
    if not chosen.goes_first(forward.device):
        if layer.way == "conv" or (layer.way == "onednn" and not onednn.finishes(layer.conv, layer.adds)):
            return None
        return repr(layer.way)
    try:
        kernel = registry.choose(forward, settings.BACKEND)
    except ValueError:
        return None
    return kernel.name if layer.takes_chosen and kernel.activated is not None else None


def _explain_placed(layer: torch.nn.Module, input: Any) -> str:
    """Of an input that lies on several ranks. The module that knows it imports what has made such an input."""
    from convext.distributed import explanation

    told = explanation.explain(layer, input.shape, input.device_mesh, explanation.plans_of(input), input.dtype)
    forward = explanation.largest(layer, input)
    problems = [forward, *(replace(forward, face=face) for face in FACES if face != forward.face)]
    return "\n\n".join([told, *(_explain(problem, forward.face == "dgrad") for problem in problems)])


def problems_of(layer: Any, input: Tensor | Ints, arch: int | None = None) -> list[ConvProblem]:
    """The forward of a convolution layer and its two gradients, the forward first.

    With a `padding_mode` other than zeros, x is the padded copy that the layer convolves without padding.

    Raises:
        ValueError: `layer` is no convolution, or does not take an input of this shape.
    """
    if not isinstance(layer, torch.nn.modules.conv._ConvNd):
        raise ValueError(f"expected a convolution layer, one of a model's at a time, but got {type(layer).__name__}")
    x = input if isinstance(input, Tensor) else layer.weight.new_empty(1).expand(tuple(input))
    rank, w = layer.weight.dim() - 2, layer.weight
    shape: Ints = x.shape
    padding: Any = layer.padding
    if _pads_a_copy(layer):
        shape, padding = _padded_shape(layer, x, rank), 0
    common = (shape, w.shape, None, layer.stride, padding)
    if layer.transposed:
        extra = layer.output_padding
        geometry = conv_transpose_geometry(*common, extra, layer.dilation, layer.groups, rank)
    else:
        geometry = conv_geometry(*common, layer.dilation, layer.groups, rank)
    if geometry is None:
        raise ValueError(f"{layer} does not take an input of shape {list(x.shape)}")
    shape = shape if x.dim() == rank + 2 else (1, *shape)
    on_cuda = arch is not None or x.is_cuda
    forward = ConvProblem.of(
        "dgrad" if layer.transposed else "fprop", shape, w.shape, *geometry, x.dtype,
        channels_last=is_channels_last(x) or is_channels_last(w),
        device="cuda" if on_cuda else x.device.type,
        arch=arch or (registry.arch(x.device) if on_cuda else 0),
        precision=settings.fp32_precision() if on_cuda and x.dtype is torch.float32 else "ieee",
    )  # fmt: skip
    return [forward, *(replace(forward, face=face) for face in FACES if face != forward.face)]


def _whole_call(problems: list[ConvProblem]) -> list[str]:
    """Whether a call on a CPU goes to the kernels above: what they save has to be more than the way to them costs."""
    forward = problems[0]
    gains = registry.cpu_gains(forward) if forward.device == "cpu" and settings.BACKEND == "auto" else {}
    if not gains:
        return []
    if not whose.gains_of(forward):
        return ["a layer's call is torch.nn's all the same: undilated, of one group and in float32 nobody looks"]
    saved = ", ".join(f"{gains[p.face]:,.0f} us in {p.face}" for p in problems if p.face in gains)
    calls: dict[str, tuple[Face, ...]] = {"a forward alone": (forward.face,), "with both gradients": FACES}
    answers = (f"{what}: {'as above' if whose.pays(forward, faces) else 'torch.nn'}" for what, faces in calls.items())
    return [
        f"a call saves about {saved}; the way to our kernels costs {whose.FORWARD:.0f} us, "
        f"{whose.FORWARD + whose.BACKWARD:.0f} with a backward pass\n  {'; '.join(answers)}"
    ]


def _pads_a_copy(layer: Any) -> bool:
    return not layer.transposed and layer.padding_mode != "zeros"


def _padded_shape(layer: Any, x: Tensor, rank: int) -> Ints:
    """The shape of the copy, by padding a tensor without memory."""
    geometry = (layer.kernel_size, layer.stride, layer.dilation)
    around = layer._reversed_padding_repeated_twice
    try:
        return tuple(nn.padded(x.to("meta"), layer.padding, around, layer.padding_mode, *geometry).shape)
    except (RuntimeError, NotImplementedError) as error:
        raise ValueError(f"{layer} does not take an input of shape {list(x.shape)}: {error}") from error


def _padded_copy(layer: Any, forward: ConvProblem) -> list[str]:
    if not _pads_a_copy(layer):
        return []
    copied = math.prod(forward.x_shape) * forward.dtype.itemsize
    return [f"padding_mode {layer.padding_mode!r}: x is a padded copy, {copied:,} bytes, convolved without padding"]


def _explain(p: ConvProblem, transposed: bool = False) -> str:
    """The text about one face of a convolution, in the words of the layer that it belongs to."""
    where = f"{p.device} sm_{p.arch}" if p.arch else p.device
    layout = "channels last" if p.channels_last else "channels first"
    kind = f"{'transposed ' if transposed else ''}{p.family}"
    padding = f"pad {_sizes(p.pad)} before and {_sizes(p.end)} after"
    lines = [
        f"{_work(p.face, transposed)} ({p.face}) of a {kind} {p.rank}-D convolution: {_tensors(p, transposed)}",
        f"  stride {_sizes(p.stride)}, {padding}{' its output' if transposed else ''}, "
        f"dilation {_sizes(p.dilation)}, groups {p.groups}, {_dtype(p)}, {layout}, on {where}",
        f"  ideal: {p.ideal_bytes / 1e6:,.2f} MB, {p.flops / 1e9:,.2f} GFLOP{_ideal_time(p)}",
    ]
    try:
        chosen = registry.choose(p, settings.BACKEND).name
    except ValueError:
        chosen = "none"
        lines.append(f"  no kernel of backend {settings.BACKEND!r} takes it")
    lines += _answers(p, chosen)
    lines += _measured_on_cpu(p) if p.device == "cpu" else _measured(p)
    return "\n".join(lines)


_WORK = {"fprop": "forward", "dgrad": "input gradient", "wgrad": "weight gradient"}
_REVERSED: dict[Face, Face] = {"fprop": "dgrad", "dgrad": "fprop", "wgrad": "wgrad"}


def _work(face: Face, transposed: bool) -> str:
    """What a face is to its layer: the forward of a transposed one is the input gradient of the other kind."""
    return _WORK[_REVERSED[face] if transposed else face]


def _tensors(p: ConvProblem, transposed: bool) -> str:
    """What is read and computed, in the layer's names: `input 1x8x16x16, weight 8x1x3x3 -> output 1x8x16x16`."""
    names = {"x": "output", "y": "input", "w": "weight"} if transposed else {"x": "input", "y": "output", "w": "weight"}
    forward = _work(p.face, transposed) == "forward"

    def tensor(role: str) -> str:
        is_gradient = not forward and (role == OPEN[p.face] or names[role] == "output")
        return f"{names[role]}{' gradient' if is_gradient else ''} {_sizes(p.shape(role))}"

    return f"{', '.join(map(tensor, OPERANDS[p.face]))} -> {tensor(OPEN[p.face])}"


def _answers(p: ConvProblem, chosen: str) -> list[str]:
    """Those that take it, in order, the chosen one marked; then those that do not, by their reason."""
    taken, refused = [], dict[str, list[str]]()
    for kernel in registry.kernels():
        reason = registry.refusal(kernel, p)
        if reason is None:
            copies = "".join(f"; {copy}" for copy in kernel.copies(p))
            taken.append(f"  {'->' if kernel.name == chosen else '  '} {kernel.name}: takes it{copies}")
        else:
            refused.setdefault(reason, []).append(kernel.name)
    lines = [f"     no: {', '.join(names)}: {reason}" for reason, names in refused.items()]
    if p.device != "cuda" and any("on cuda" in reason for reason in refused):
        lines.append("     (as on a GPU of compute capability 9.0: explain with --arch 90, or arch=90)")
    return taken + lines


def _measured(p: ConvProblem) -> list[str]:
    """The row of the GPU's table that decided, or why ATen goes first without one."""
    measured = gpu_table.nearest(p)
    if measured is not None:
        return [f"  measured near here: {measured.kernel}, {measured.ratio:.2f} times as fast as torch's best"]
    best = registry.cudnns_best(p) if p.device == "cuda" else None
    return [f"  ATen goes first: {best}"] if best else []


def _measured_on_cpu(p: ConvProblem) -> list[str]:
    """The rows of the tables that decided, or that none did."""
    if wrong := aten.fault(p):
        return [f"  ATen goes last: {wrong}"]
    found = registry.fastest_on_cpu(p)
    if found is None:
        nothing, threads = "  nothing was measured near here to be faster than ATen", torch.get_num_threads()
        alone = registry.fastest_on_cpu(p, threads=1)
        return [nothing if alone is None else f"{nothing} with {threads} threads; {alone[0]} was with one"]
    name, rows = found
    return [
        f"  measured near here: {name}, {row.ratios[name][0]:.2f} times as fast as torch (at least "
        f"{row.ratios[name][1]:.2f}) on {row.machine} with {row.threads} thread{'s' if row.threads > 1 else ''}"
        for row in rows
    ]


def _gradients(problems: Sequence[ConvProblem]) -> str:
    """Whether one kernel computes both gradients of a layer's forward together: the faces that the others are not."""
    forward, first, second = problems
    try:
        both = None if forward.face != "fprop" else registry.choose_both(first, second, settings.BACKEND)
    except ValueError:
        both = None
    if both is None:
        return "both gradients: one after the other"
    return f"both gradients: together, by {registry.choose(first, settings.BACKEND).name}"


def _ideal_time(p: ConvProblem) -> str:
    peaks = roofline.H100 if p.arch == 90 else roofline.known_peaks() if p.device == "cuda" else None
    if peaks is None:
        return ""
    return f": {roofline.ideal_seconds(p, peaks) * 1e6:,.1f} us on {peaks.name}, bound by {roofline.bound(p, peaks)}"


def _sizes(values: Sequence[int]) -> str:
    return "x".join(map(str, values))


def _dtype(p: ConvProblem) -> str:
    name = str(p.dtype).removeprefix("torch.")
    return f"{name} ({p.precision} products)" if p.dtype is torch.float32 and p.device == "cuda" else name


# ---------------------------------------------------------------------------------------------- command line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describes one convolution layer and its input."""
    parser.add_argument(
        "--input", required=True, type=arguments.count, nargs="+", metavar="N", help="shape of the input: N C *spatial"
    )
    parser.add_argument("--out-channels", type=arguments.count, required=True, metavar="K")
    each: dict[str, Any] = {"nargs": "+", "help": "one value, or one an axis"}
    parser.add_argument("--kernel-size", required=True, type=arguments.count, metavar="K", **each)
    parser.add_argument("--stride", default=[1], type=arguments.count, metavar="S", **each)
    parser.add_argument("--padding", default=[0], type=arguments.count_or_zero, metavar="P", **each)
    parser.add_argument("--dilation", default=[1], type=arguments.count, metavar="D", **each)
    parser.add_argument("--output-padding", type=arguments.count_or_zero, metavar="P", **each)
    parser.add_argument("--groups", type=arguments.count, default=1, metavar="G")
    parser.add_argument("--transposed", action="store_true", help="a transposed convolution")
    parser.add_argument("--channels-last", action="store_true", help="channels innermost: NLC, NHWC, NDHWC")
    parser.add_argument("--dtype", default="float32", choices=["float64", "float32", "float16", "bfloat16"])
    parser.add_argument(
        "--arch", type=arguments.capability, metavar="SM",
        help="explain as on this compute capability times ten (90: Hopper), default: this machine",
    )  # fmt: skip


def main(args: argparse.Namespace) -> int:
    """Prints the explanation of the layer that the arguments describe."""
    rank = len(args.input) - 2
    if rank not in (1, 2, 3):
        args.refuse(f"--input takes N, C and 1 to 3 spatial sizes, but got {args.input}")
    if args.output_padding and not args.transposed:
        args.refuse("--output-padding is a transposed convolution's: add --transposed")
    try:
        layer, x = _layer(args, rank), _input(args)
        arch = args.arch or (registry.arch(torch.device("cuda")) if torch.cuda.is_available() else None)
        print(explain(layer, x, arch))
    except ValueError as error:
        args.refuse(str(error))
    return 0


def _layer(args: argparse.Namespace, rank: int) -> torch.nn.Module:
    """The layer, without memory."""
    each = {}
    for name in ("kernel_size", "stride", "padding", "dilation", "output_padding"):
        value = getattr(args, name)
        if value is not None:
            if len(value) not in (1, rank):
                raise ValueError(f"--{name.replace('_', '-')} takes 1 or {rank} values, but got {value}")
            each[name] = tuple(value * rank if len(value) == 1 else value)
    kind: Any = getattr(nn, f"ConvTranspose{rank}d" if args.transposed else f"Conv{rank}d")
    dtype = getattr(torch, args.dtype)
    return kind(args.input[1], args.out_channels, groups=args.groups, device="meta", dtype=dtype, **each)


def _input(args: argparse.Namespace) -> Tensor:
    """The input, of which no element is written: memory that nobody touches is not taken."""
    n, c, *space = args.input
    dtype = getattr(torch, args.dtype)
    if args.channels_last:
        return torch.empty(n, *space, c, dtype=dtype).movedim(-1, 1)
    return torch.empty(args.input, dtype=dtype)
