"""The tolerance rule: a kernel may err at most twice as much as torch's own operator in that dtype, plus a floor.

    max |ours - float64| <= 2 * max |torch's - float64| + floor

Both errors are measured on the same operands. Fixed tolerances do not work: torch's own bfloat16 error grows from
0.06 to 1.0 as the channels grow from 8 to 2048. The floor, two units in the last place of the largest result,
covers the cases that torch happens to get exactly right. For float64 itself, float64 is computed with more bits.

Where float32 may be multiplied in TF32, torch may all the same not do so: cuDNN's heuristics decide, and for small
problems mostly take float32 throughout. A result in TF32 is then measured by what TF32 costs at least, rounding every
operand once. So there the rule is

    max |ours - float64| <= 2 * max(max |torch's - float64|, max |rounded - float64|) + floor

where `rounded` is float64's result from operands rounded to TF32.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from convext.choice import registry, settings
from convext.commands import arguments
from convext.commands.isolated import ALLOWANCE, LostError, Say, Worker, abandon, one_line
from convext.problem import FACES, OPERANDS, ConvProblem, output_size, reference
from convext.problem.layout import dense
from convext.providers import aten


@dataclass(frozen=True)
class Agreement:
    """How far a result is from float64, and how far it may be, in the unit of the result.

    Attributes:
        error: of the result.
        yardstick: the error that it may have twice: that of torch's result or of rounded operands.
        whose: "torch's" or "TF32's", whichever `yardstick` is.
        floor: what it may err in any case.
    """

    error: float
    yardstick: float
    whose: str
    floor: float

    @property
    def bound(self) -> float:
        return 2 * self.yardstick + self.floor

    @property
    def ok(self) -> bool:
        return self.error <= self.bound  # False for NaN

    def __str__(self) -> str:
        return (
            f"error {self.error:.3g} {'<=' if self.ok else '> '} {self.bound:.3g} "
            f"= 2 * {self.yardstick:.3g} ({self.whose}) + {self.floor:.3g}"
        )


@dataclass(frozen=True)
class Exact:
    """What a result is measured against.

    Attributes:
        result: in float64.
        rounding: how far from it the result from operands rounded to TF32 is; 0 where none may be rounded.
    """

    result: Tensor
    rounding: float

    @classmethod
    def of(
        cls,
        problem: ConvProblem,
        a: Tensor,
        b: Tensor,
        bias: Tensor | None,
        compute: Callable[[ConvProblem, Tensor, Tensor, Tensor | None], Tensor] | None = None,
    ) -> Exact:
        """Of these operands, by `compute` in float64; by default by the reference."""
        compute = compute or _oracle
        result, rounding = compute(problem, a, b, bias), 0.0
        if problem.precision == "tf32" and problem.dtype is torch.float32 and result.numel():
            rounding = _distance(compute(problem, nearest_tf32(a), nearest_tf32(b), bias), result)
        return cls(result, rounding)


def nearest_tf32(t: Tensor) -> Tensor:
    """Finite float32 numbers at the nearest ones of TF32; of two as near, the one farther from zero.

        m * 2^e, 1 <= |m| < 2    ->    sign(m) * floor(|m| * 2^10 + 1/2) * 2^(e - 10)

    As cvt.rna.tf32.f32 does: half a unit is added to the bits, of which TF32's last is followed by 13 more.
    """
    return ((t.view(torch.int32) + (1 << 12)) & -(1 << 13)).view(torch.float32)


def agreement(
    problem: ConvProblem,
    a: Tensor,
    b: Tensor,
    bias: Tensor | None,
    result: Tensor,
    exact: Exact | None = None,
    torchs: float | None = None,
) -> Agreement:
    """Measures `result` against float64 by the tolerance rule.

    Args:
        problem: what was computed.
        a, b, bias: the operands that it was computed from.
        result: what came out.
        exact, torchs: what it is measured against, and torch's own error, where they are already at hand.

    Raises:
        AssertionError: shape, dtype or memory format of `result` are not the problem's.
    """
    assert_described(problem, result)
    exact = Exact.of(problem, a, b, bias) if exact is None else exact
    if result.numel() == 0:
        return Agreement(0.0, 0.0, "torch's", 0.0)
    torchs = torch_error(problem, a, b, bias, exact) if torchs is None else torchs
    yardstick, whose = (exact.rounding, "TF32's") if exact.rounding > torchs else (torchs, "torch's")
    floor = 2 * torch.finfo(problem.dtype).eps * exact.result.abs().max().item()
    return Agreement(_distance(result, exact.result), yardstick, whose, floor)


def torch_error(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None, exact: Exact) -> float:
    """How far torch's own result of these operands is from what is exact; 0 where there is none."""
    return _distance(aten.run(problem, a, b, bias), exact.result) if exact.result.numel() else 0.0


def assert_described(problem: ConvProblem, result: Tensor) -> None:
    """Raises AssertionError where shape, dtype or memory format of `result` are not the problem's."""
    assert result.shape == problem.open_shape, f"shape {tuple(result.shape)}, expected {problem.open_shape}"
    assert result.dtype == problem.dtype, f"dtype {result.dtype}, expected {problem.dtype}"
    innermost = "channels last" if problem.channels_last else "channels first"
    in_order = result.movedim(1, -1) if problem.channels_last else result
    assert in_order.is_contiguous(), f"strides {result.stride()} of shape {tuple(result.shape)}, expected {innermost}"


def _oracle(problem: ConvProblem, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """The result in float64; of float64, with errors 2**-20 as large, else torch's would be held to themselves.

    The leading 20 bits' products have 40, of which 4096 are added without rounding (Ozaki's splitting). The other
    products are 2**-20 as large, and so are their rounding errors.
    """
    if problem.dtype is not torch.float64 or not a.numel() or not b.numel():
        return reference.compute(problem, a, b, bias)
    leading_a, leading_b = _leading(a), _leading(b)
    rest = reference.compute(problem, leading_a, b - leading_b, bias) + reference.compute(problem, a - leading_a, b)
    return reference.compute(problem, leading_a, leading_b) + rest


def _leading(t: Tensor, bits: int = 20) -> Tensor:
    """`t` rounded to this many bits of its largest element."""
    unit = torch.ldexp(t.new_ones(()), torch.frexp(t.abs().max()).exponent - bits)
    return (t / unit).round() * unit


def _distance(result: Tensor, oracle: Tensor) -> float:
    return (result.double() - oracle).abs().max().item()


def operands(problem: ConvProblem, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Standard normal operands for `problem`, dense in its memory format, drawn on its device."""

    def draw(role: str) -> Tensor:
        shape = problem.shape(role)
        t = torch.randn(shape, generator=generator, device=problem.device).to(problem.dtype)
        return dense(t, problem.channels_last)

    first, second = OPERANDS[problem.face]
    return draw(first), draw(second)


# ---------------------------------------------------------------------------------------------- command line

# (channels of x, channels of y, groups, input, kernel, stride, pad, dilation), odd on purpose
_SMALL = (
    (5, 5, 5, (37,), (4,), (1,), (3,), (1,)),  # depthwise 1-D
    (6, 12, 6, (9, 11), (3, 3), (1, 1), (1, 1), (1, 1)),  # depthwise 2-D, two outputs a channel
    (3, 3, 3, (6, 8), (5, 5), (1, 1), (2, 2), (1, 1)),  # depthwise 2-D, many taps
    (3, 3, 3, (5, 6, 7), (3, 3, 3), (1, 2, 1), (1, 1, 1), (1, 1, 1)),  # depthwise 3-D
    (17, 19, 1, (7, 9), (1, 1), (1, 1), (0, 0), (1, 1)),  # pointwise
    (12, 8, 4, (9, 7), (3, 3), (1, 1), (1, 1), (1, 1)),  # grouped
    (9, 7, 1, (13, 12), (3, 3), (1, 1), (2, 2), (2, 2)),  # dilated
    (5, 6, 1, (9, 8), (3, 4), (2, 2), (1, 1), (1, 1)),  # strided: transposed by its dgrad
)


def small_problems(device: str, arch: int | None = None) -> Iterator[ConvProblem]:
    """A few small problems of every family, face, dtype and layout, on `device`, for its architecture or `arch`."""
    on_cuda = device == "cuda"
    if arch is None:
        arch = registry.arch(torch.device("cuda", torch.cuda.current_device())) if on_cuda else 0
    for c, k, groups, input, kernel, stride, pad, dilation in _SMALL:
        output = output_size(input, kernel, stride, pad, pad, dilation)
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
            precision = settings.fp32_precision() if on_cuda and dtype is torch.float32 else "ieee"
            for face in FACES:
                for channels_last in (False, True):
                    yield ConvProblem(
                        face, 2, c, k, groups, input, kernel, output, stride, pad, dilation,
                        dtype, channels_last, device, arch, precision,
                    )  # fmt: skip


AT_ONCE = 4  # processes: starting one takes seconds, and one that hangs is not to keep the others waiting


@dataclass(frozen=True)
class _Begun:
    """A message: this problem is tried now."""

    index: int
    problem: str


@dataclass(frozen=True)
class _Checked:
    """A message: how many results of a problem agree, and a line for each other one."""

    agreed: int
    failures: list[str]


@dataclass(frozen=True)
class _Refused:
    """A message, the last one: why some problems were left out, or None."""

    reason: str | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `check`."""
    parser.add_argument(
        "--backend", type=arguments.backend, default="auto", help="a provider or a kernel; default: all of them"
    )
    parser.add_argument(
        "--patience",
        type=arguments.positive,
        default=20.0,
        metavar="SECONDS",
        help="kill a kernel that hangs (default: %(default)s)",
    )


def main(args: argparse.Namespace) -> int:
    """Runs every kernel on every small problem it takes; prints a line a kernel. Fails if one disagrees or none ran.

    Each kernel has a process of its own, so that one that hangs or takes its process down costs no other's results. A
    kernel that is named in full runs in this process, under whatever debugger it has.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    interpreted = " (Triton interpreted)" if device == "cpu" and os.environ.get("TRITON_INTERPRET") == "1" else ""
    in_tf32 = device == "cuda" and settings.fp32_precision() == "tf32"
    theirs = "torch's error (in float32, or that of operands rounded to TF32)" if in_tf32 else "torch's error"
    print(f"on {device}{interpreted}, against float64: error <= 2 * {theirs} + 2 units in the last place", flush=True)
    if args.backend in [kernel.name for kernel in registry.kernels()]:
        tally = _Tally(args.backend)
        _serve((args.backend, device, 0), tally.hear)
        return _status([tally.close()])
    kernels = [k.name for k in registry.kernels() if args.backend in ("auto", k.provider)]
    kernels.sort(key=lambda name: not name.startswith("cuda."))  # nothing but a GPU can run these
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        tallies = list(pool.map(lambda name: _check_apart(name, device, args.patience), kernels))
    except KeyboardInterrupt:
        abandon()
    return _status(tallies)


def _status(tallies: list[_Tally]) -> int:
    """1 where a result disagreed, or none was computed."""
    if not any(tally.agreed + tally.failed for tally in tallies):
        print("nothing was checked: no kernel ran", flush=True)
        return 1
    return int(any(tally.failed for tally in tallies))


def _check_apart(name: str, device: str, patience: float) -> _Tally:
    """Checks one kernel in another process, and goes on behind a problem that took it down."""
    tally, lost = _Tally(name), 0.0
    if reason := registry.unavailable(name.partition(".")[0], next(small_problems(device))):
        return tally.close(reason)
    worker = Worker(_serve, patience, bounded=device == "cpu")
    try:
        while lost <= ALLOWANCE:
            begin, at = time.monotonic(), tally.at
            try:
                for message in worker.ask((name, device, at.index + 1)):
                    tally.hear(message)
                return tally.close()
            except LostError as error:
                lost += time.monotonic() - begin
                tally.fail(str(error))
            if tally.at == at:
                break  # it would get no further the next time
        return tally.close(f"given up after {lost:.0f} s")
    finally:
        worker.close()


class _Tally:
    """Prints what comes of a kernel's problems, failures at once, and a line at the end."""

    def __init__(self, kernel: str) -> None:
        self.kernel, self.agreed, self.failed = kernel, 0, 0
        self.at = _Begun(-1, "its first problem")
        self.reason: str | None = None

    def hear(self, message: _Begun | _Checked | _Refused) -> None:
        """Takes in a message of `_serve`."""
        if isinstance(message, _Begun):
            self.at = message
        elif isinstance(message, _Refused):
            self.reason = message.reason
        else:
            self.agreed += message.agreed
            for failure in message.failures:
                self.fail(failure)

    def fail(self, how: str) -> None:
        """One result is wrong or missing."""
        self.failed += 1
        _say(f"  {self.kernel} on {self.at.problem}: {how}")

    def close(self, reason: str | None = None) -> _Tally:
        """Prints the sum, and why there are not more of them."""
        reason = reason or self.reason
        results = self.agreed + self.failed
        if results or not reason:
            _say(f"{self.kernel}: {self.agreed} of {results} results agree" + (f" ({reason})" if reason else ""))
        else:
            _say(f"{self.kernel}: not run: {reason}")
        return self


def _say(line: str) -> None:
    """Prints a line in one piece, whatever other threads print."""
    print(f"{line}\n", end="", flush=True)


def _serve(request: tuple[str, str, int], say: Say) -> None:
    """Runs the kernel of a name on the small problems of a device, from one of them on."""
    name, device, first = request
    if device == "cpu":
        torch.set_num_threads(1)  # tensors are tiny: threads that wait for one another take eight times as long
    kernel = next(kernel for kernel in registry.kernels() if kernel.name == name)
    reason = None
    for index, problem in enumerate(small_problems(device)):
        reason = reason or registry.unavailable(kernel.provider, problem) or _misread(kernel, problem)
        if index < first or registry.refusal(kernel, problem) is not None or _misread(kernel, problem):
            continue
        say(_Begun(index, str(problem)))
        say(_check(kernel, problem))
        if device == "cuda":
            torch.cuda.synchronize()  # raises where the device is lost, and with it this process
    say(_Refused(reason))


def _check(kernel: registry.Kernel, problem: ConvProblem) -> _Checked:
    """Never raises: what a kernel raises is a failure of this problem."""
    agreed: list[Agreement] = []
    failures = []
    try:
        agreed.append(_check_face(kernel, problem))
        agreed.extend(_check_both(kernel, problem))
    except Exception as error:
        failures.append(one_line(error))
    failures += [str(each) for each in agreed if not each.ok]
    return _Checked(sum(each.ok for each in agreed), failures)


def _misread(kernel: registry.Kernel, problem: ConvProblem) -> str | None:
    """What keeps Triton's interpreter from computing a problem that the GPU computes."""
    if kernel.provider == "triton" and problem.device != "cuda" and problem.dtype is torch.bfloat16:
        return "but for bfloat16, whose bits Triton's interpreter multiplies"
    return None


def _check_face(kernel: registry.Kernel, problem: ConvProblem) -> Agreement:
    a, b = operands(problem)
    return agreement(problem, a, b, None, kernel.run(problem, a, b, None))


def _check_both(kernel: registry.Kernel, problem: ConvProblem) -> Iterator[Agreement]:
    """For a dgrad that the kernel computes together with its wgrad: how both agree."""
    if problem.face != "dgrad" or kernel.both is None or kernel.both.why_not(problem) is not None:
        return
    wgrad = replace(problem, face="wgrad")
    y, w = operands(problem)
    x, _ = operands(wgrad)
    by_x, by_w = kernel.both.run(problem, y, w, x)
    yield agreement(problem, y, w, None, by_x)
    yield agreement(wgrad, x, y, None, dense(by_w, problem.channels_last))
