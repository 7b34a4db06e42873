"""Kernel records, and the choice between them.

A kernel is a record: its name, the faces it computes, a function that says why it does not take a problem, and one
that runs it. Tests, benchmarks, the table of kernels and `explain` walk the same list. Adding a kernel is adding one
record to `KERNELS`.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any, cast

import torch
from torch import Tensor

from convext.choice import cpu_table, gpu_table, settings
from convext.choice.remembered import FORGET, forget
from convext.problem import FACES, ConvProblem, Face
from convext.problem.epilogue import Epilogue
from convext.providers import aten
from convext.providers.cpu import library
from convext.providers.cuda import native

WhyNot = Callable[[ConvProblem], "str | None"]
Run = Callable[[ConvProblem, Tensor, Tensor, "Tensor | None"], Tensor]
Copies = Callable[[ConvProblem], "list[str]"]
RunActivated = Callable[[ConvProblem, Epilogue, Tensor, Tensor, "Tensor | None", "Tensor | None"], Tensor]
BiasGradient = Callable[[ConvProblem, Tensor], Tensor]
RunBoth = Callable[[ConvProblem, Tensor, Tensor, Tensor], "tuple[Tensor, Tensor]"]


def no_copies(problem: ConvProblem) -> list[str]:
    """For kernels that read their operands where they lie."""
    return []


def summed(problem: ConvProblem, y: Tensor) -> Tensor:
    """The gradient by a bias that torch sums up."""
    return y.sum((0, *range(2, y.dim())))


@dataclass(frozen=True)
class Both:
    """What computes a convolution's dgrad and wgrad together, for less than one after the other costs.

    Attributes:
        why_not: None where it takes the dgrad, and with it the wgrad of the same convolution, else one sentence.
        run: `run(dgrad, y, w, x)` returns the gradients by x, in the format of the problem `dgrad`, and by w, dense.
    """

    why_not: WhyNot
    run: RunBoth


@dataclass(frozen=True)
class Kernel:
    """One way to compute some faces.

    Attributes:
        name: "provider.kernel"; the package's providers are "aten", "triton", "cuda", "cpu" and
            "plain" (torch's own operators, put together on a CPU).
        faces: the faces it computes.
        why_not: None where it takes a problem, else one sentence with the numbers in it.
        run: `run(problem, a, b, bias)` computes the open tensor of the problem, in the problem's memory format.
            `a` and `b` are the face's operands with any strides; `bias` has one value for each channel of the result.
        copies: the hidden copies that `run` would make, one sentence each.
        both: how it computes dgrad and wgrad together, if it can.
        repeats: whether `run`, and `both.run`, allocate, copy, and launch by what `convext.replay` watches alone, and
            all that as its operands lie, whatever they hold: then a second call does what the first was seen to do.
        activated: `activated(problem, epilogue, a, b, bias, residual)` computes `epilogue(result) + residual` of a
            problem that it takes, in the pass that stores the result, if it can. `residual`: any strides, or None.
        bias_gradient: `bias_gradient(wgrad, y)` sums the gradient by the output over all but its channels.
    """

    name: str
    faces: tuple[Face, ...]
    why_not: WhyNot
    run: Run
    copies: Copies = no_copies
    both: Both | None = None
    repeats: bool = False
    activated: RunActivated | None = None
    bias_gradient: BiasGradient = summed

    @property
    def provider(self) -> str:
        return self.name.partition(".")[0]


# Where a kernel lives, by its provider: `{}` is the rest of its name.
HOMES = {
    "triton": "convext.triton_kernels.{}.record",
    "cuda": "convext.providers.cuda.{}",
    "cpu": "convext.providers.cpu.{}",
    "plain": "convext.providers.plain.{}",
}


def _summed_by_triton(problem: ConvProblem, y: Tensor) -> Tensor:
    from convext.triton_kernels.passes import bias

    return bias.run(problem, y)


def _summed_by_cuda(problem: ConvProblem, y: Tensor) -> Tensor:
    from convext.providers.cuda import bias

    return bias.run(problem, y)


_SUMMED = {"triton": _summed_by_triton, "cuda": _summed_by_cuda}


def _lazy(name: str, *, both: bool = False, activated: bool = False, faces: tuple[Face, ...] = FACES) -> Kernel:
    """A record whose functions live in a module that is imported at their first use.

    They are its `why_not`, `run` and `copies`, where `both`, its `why_not_both` and `run_both`, and where `activated`,
    its `run_activated`.
    """
    provider, _, kernel = name.partition(".")
    module = HOMES[provider].format(kernel)

    def attribute(attr: str) -> Callable[..., object]:
        return lambda *args: getattr(importlib.import_module(module), attr)(*args)

    pair = Both(attribute("why_not_both"), attribute("run_both")) if both else None  # type: ignore[arg-type]
    why_not, run, copies = (cast(Any, attribute(function)) for function in ("why_not", "run", "copies"))
    also = cast(RunActivated, attribute("run_activated")) if activated else None
    return Kernel(
        name, faces, why_not, run, copies, pair, provider in _SUMMED, also, _SUMMED.get(provider, summed)
    )  # fmt: skip


ATEN = Kernel("aten.convolution", FACES, aten.why_not, aten.run, aten.copies, Both(aten.why_not_both, aten.run_both))

# In order of preference: the first that takes a problem is the one that "auto" runs.
KERNELS: list[Kernel] = [
    _lazy("triton.banded", activated=True),
    _lazy("triton.stencil", activated=True),
    _lazy("triton.pointwise", activated=True),
    _lazy("triton.grouped", activated=True),
    _lazy("triton.igemm", activated=True),
    _lazy("cuda.stencil", both=True, activated=True),
    _lazy("cuda.igemm", activated=True),
    _lazy("cpu.stencil", activated=True),
    _lazy("cpu.grouped", activated=True),
    _lazy("plain.swap", faces=("fprop", "dgrad")),
    _lazy("plain.taps"),
    _lazy("plain.shuffle", faces=("dgrad",)),
    _lazy("plain.widened"),
    ATEN,
]


def register(kernel: Kernel) -> None:
    """Adds a kernel of your own, which every command then explains, checks, times and compares.

    It runs where it is asked for by name, by `convext.backend`. On a GPU "auto" takes it where a table says that it is
    the fastest, or where none of the package's own kernels takes the problem. `CONVEXT_KERNELS=module` has the commands
    of `python -m convext`, and the processes that they start, import a module that calls this.

    Args:
        kernel: its record.

    Raises:
        ValueError: its name is not "provider.kernel" in lower case, or is taken, or it computes no face.
    """
    if not re.fullmatch(r"[a-z]\w*\.[a-z]\w*", kernel.name) or kernel.provider == "auto":
        raise ValueError(
            f'a kernel\'s name is "provider.kernel", in lower case and not of "auto", but got {kernel.name!r}'
        )
    if kernel.name in names():
        raise ValueError(f"there is a kernel {kernel.name!r}")
    if not kernel.faces or set(kernel.faces) - set(FACES):
        raise ValueError(f"{kernel.name}: faces are one or more of {', '.join(FACES)}, but got {kernel.faces}")
    KERNELS.insert(KERNELS.index(ATEN), kernel)
    forget()


@cache
def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def unavailable(provider: str, problem: ConvProblem) -> str | None:
    """Why `provider` cannot run on this machine and the problem's device at all, or None."""
    if provider in ("cpu", "plain") and problem.device != "cpu":
        return f"tensors are on {problem.device}; CPU kernels run on cpu"
    if provider == "cpu":
        return library.unavailable()
    if provider in ("triton", "cuda") and torch.version.hip is not None:
        return f"this torch is built for ROCm {torch.version.hip}; the kernels are written for NVIDIA GPUs"
    if provider == "cuda":
        return native.unavailable(problem.device)
    if provider == "triton":
        if not _installed("triton"):
            return "Triton is not installed: pip install triton"
        if problem.device != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
            return f"tensors are on {problem.device}; Triton kernels run on cuda, or anywhere under TRITON_INTERPRET=1"
    return None


@cache
def arch(device: torch.device) -> int:
    """Compute capability times ten of a CUDA device: 90 for Hopper."""
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def refusal(kernel: Kernel, problem: ConvProblem) -> str | None:
    """Why `kernel` does not take `problem`, in one sentence, or None where it does."""
    if problem.face not in kernel.faces:
        return f"computes {', '.join(kernel.faces)}, not {problem.face}"
    return unavailable(kernel.provider, problem) or kernel.why_not(problem)


def kernels() -> tuple[Kernel, ...]:
    """All kernel records, in order of preference."""
    return tuple(KERNELS)


def names() -> list[str]:
    """Everything that `convext.backend` takes."""
    return ["auto", *dict.fromkeys(k.provider for k in KERNELS), *(k.name for k in KERNELS)]


def check_backend(name: str) -> None:
    """Raises ValueError for a name that no provider or kernel has."""
    if name not in names():
        raise ValueError(f"backend must be one of {', '.join(names())}, but got {name!r}{_meant(name)}")


def _meant(name: str) -> str:
    """The question whether another name was meant, where one is near."""
    from difflib import get_close_matches

    near = get_close_matches(name.lower(), names(), 1)
    return f": did you mean {near[0]!r}?" if near else ""


def warn_of_a_misspelling() -> None:
    """Warns of a CONVEXT_BACKEND that is nearly the name of a kernel or provider, and is none.

    One that is like no name may be of a kernel that is registered later: if not, the first convolution raises.
    """
    name = settings.BACKEND
    if name not in names() and (meant := _meant(name)):
        warnings.warn(f"CONVEXT_BACKEND={name!r} is none of {', '.join(names())}{meant}", stacklevel=3)


def choose(problem: ConvProblem, backend: str = "auto") -> Kernel:
    """The kernel that computes `problem` under `backend`.

    "auto" takes what was measured to be fastest near this problem, else the first record in order of preference that
    does not refuse; off CUDA that is ATen, but for the faces that a record for CPUs was measured to compute faster.

    Raises:
        ValueError: `backend` names a provider or a kernel that refuses, with every reason.
    """
    check_backend(backend)
    if backend == "auto":
        return next(kernel for kernel in _preference(problem) if refusal(kernel, problem) is None)
    reasons = []
    for kernel in _in_order(problem):
        if backend in (kernel.name, kernel.provider):
            reason = refusal(kernel, problem)
            if reason is None:
                return kernel
            reasons.append(f"  {kernel.name}: {reason}")
    raise ValueError(f"backend {backend!r} does not take this problem\n  {problem}\n" + "\n".join(reasons))


def choose_both(dgrad: ConvProblem, wgrad: ConvProblem, backend: str = "auto") -> Both | None:
    """What computes both gradients of a convolution under `backend`: the kernel that is chosen for each, if it can.

    Raises:
        ValueError: as `choose`.
    """
    kernel = choose(dgrad, backend)
    if choose(wgrad, backend) is not kernel or kernel.both is None or kernel.both.why_not(dgrad) is not None:
        return None
    return kernel.both


@lru_cache(maxsize=8192)
def cpu_gains(problem: ConvProblem) -> Mapping[Face, float]:
    """The faces of a convolution on a CPU that "auto" takes from torch, given any one of them as `problem`.

    Also those that torch computes wrong (`aten.fault`), for which no saving is too small.

    With the microseconds that a call of each is expected to save, which may be less than the way to our kernels costs:
    then torch's own function is the better answer to the whole call. The number of threads is that of the first call
    for a problem.
    """
    gains: dict[Face, float] = {}
    for of_face in (replace(problem, face=face) for face in FACES):
        wrong = aten.fault(of_face)
        if choose(of_face) is ATEN and not wrong:
            continue
        best = None if wrong else fastest_on_cpu(of_face)
        gains[of_face.face] = math.inf if best is None else cpu_table.gain(of_face, *best, torch.get_num_threads())
    return gains


FORGET.append(cpu_gains.cache_clear)


def fastest_on_cpu(problem: ConvProblem, threads: int | None = None) -> tuple[str, tuple[cpu_table.Row, ...]] | None:
    """The record that was measured to be faster than torch near `problem`, and those rows of the tables, or None.

    With this number of threads, by default torch's.
    """
    if problem.device != "cpu":
        return None
    taking = {kernel.name for kernel in KERNELS if refusal(kernel, problem) is None}
    ranking = cpu_table.fastest(problem, threads or torch.get_num_threads())
    return next((found for found in ranking if found[0] in taking), None)


def _preference(problem: ConvProblem) -> list[Kernel]:
    """Every kernel, the one to try first in front."""
    if problem.device != "cuda":
        if aten.fault(problem):
            return [*(kernel for kernel in KERNELS if kernel.provider == "cpu"), ATEN]
        best = fastest_on_cpu(problem)
        return [*(kernel for kernel in KERNELS if best and kernel.name == best[0]), ATEN]
    kernels, measured = _in_order(problem), gpu_table.nearest(problem)
    if measured is not None:
        return [*(kernel for kernel in kernels if kernel.name == measured.kernel), *kernels]
    return kernels if cudnns_best(problem) is None else [ATEN, *kernels]


def _in_order(problem: ConvProblem) -> list[Kernel]:
    """KERNELS, with bands behind FMAs for kernels of fewer than 9 x 9 taps; in images in NCHW, of fewer than 7 x 7.

    There they were measured (H200, three layers of 7 x 7 taps): 61, 24 and 29 us against 81, 33 and 38.
    """
    fewest = 49 if problem.face != "wgrad" and not problem.channels_last else 81
    return sorted(KERNELS, key=lambda kernel: kernel.name == "triton.banded" and problem.taps < fewest)


def cudnns_best(problem: ConvProblem) -> str | None:
    """Why ATen goes first for a problem near which nothing was measured, or None where our kernels do.

    A strided dgrad is a transposed convolution, which cuDNN runs at 10 to 45% of the roofline: ours go first there.
    """
    if problem.rank != 2 or (problem.face == "dgrad" and max(problem.stride) > 1):
        return None
    return {
        "dense": "unmeasured here; published for dense 3x3: cuDNN 444 TFLOP/s, the best other 458, 3% more (H200)",
        "pointwise": "unmeasured here; published for 2-D pointwise: torch eager at 92% of the roofline (H100)",
    }.get(problem.family)
