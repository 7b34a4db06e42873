"""Compiles Triton's kernels in several processes before anything is timed: alone, one core would do it case by case.

    python -m convext.benchmarks.first_light.warm [--jobs 16]   for `check` and for the whole benchmark
    python -m convext.benchmarks.first_light.warm --count       how many compilations that are, for an H100

The launches come from tensors on "meta", so nothing is allocated and nothing runs: a kernel and its launcher are
compiled just as a first call does it, and Triton keeps both on disk, where the process that measures finds them.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from convext.benchmarks.cases.case import LAYOUTS, Case
from convext.benchmarks.cases.layers import anchor_layers, model_layers
from convext.benchmarks.measuring.providers import competing
from convext.choice import registry, settings
from convext.choice.registry import Kernel
from convext.commands import check
from convext.commands.isolated import LostError, Say, Worker, abandon, one_line
from convext.problem import OPERANDS, ConvProblem, layout

if TYPE_CHECKING:
    from convext.triton_kernels.launch import Launch

PATIENCE = 60.0  # seconds of one compilation
HOPPER = 90


@dataclass(frozen=True)
class Call:
    """A call of a Triton kernel: by its name, because a process is to make the launches anew."""

    kernel: str
    problem: ConvProblem
    biased: bool


@dataclass(frozen=True)
class Job:
    """One launch of a call, by its place among the call's."""

    call: Call
    index: int


# ----------------------------------------------------------------------------------------------- what is to be compiled


def calls_of_check(arch: int) -> Iterator[Call]:
    """What `python -m convext check` calls on a GPU of compute capability `arch` / 10."""
    for problem in check.small_problems("cuda", arch):
        taking = (kernel for kernel in registry.kernels() if registry.refusal(kernel, problem) is None)
        yield from _calls(taking, problem, biased=False)


def calls_of(cases: Iterable[Case], arch: int) -> Iterator[Call]:
    """What measuring cases calls. The forward of a step adds the layer's bias."""
    for case in cases:
        precision = settings.fp32_precision() if case.dtype is torch.float32 else "ieee"
        for face in case.faces:
            for layout_name in LAYOUTS:
                problem = case.layer.problem(face, case.dtype, layout_name == "cl", "cuda", arch, precision)
                biased = case.work == "step" and case.layer.bias and face == case.layer.forward
                yield from _calls(competing(problem), problem, biased)


def _calls(kernels: Iterable[Kernel], problem: ConvProblem, biased: bool) -> Iterator[Call]:
    for kernel in kernels:
        if kernel.provider == "triton":
            yield Call(kernel.name, problem, biased)


def launches(call: Call) -> list[Launch]:
    """What a call launches, on tensors that are nowhere."""
    from convext.triton_kernels.launch import collecting

    problem = call.problem
    (kernel,) = (kernel for kernel in registry.kernels() if kernel.name == call.kernel)
    like = torch.empty((), dtype=problem.dtype, device="meta")
    a, b = (layout.empty(problem.shape(role), problem.channels_last, like) for role in OPERANDS[problem.face])
    bias = like.new_empty(problem.open_shape[1]) if call.biased else None
    with collecting() as collected:
        kernel.run(problem, a, b, bias)
    return collected


def distinct(calls: Iterable[Call]) -> list[Job]:
    """One job for each compilation that the calls need, in the order of the calls."""
    from convext.benchmarks.inspect.triton import signature

    jobs: dict[str, Job] = {}
    for call in dict.fromkeys(calls):
        for index, launch in enumerate(launches(call)):
            key = (launch.kernel.__name__, signature(launch), launch.warps, launch.stages)
            jobs.setdefault(repr(key), Job(call, index))
    return list(jobs.values())


# --------------------------------------------------------------------------------------------------------- compiling


def compile_launch(launch: Launch) -> Any:
    """Compiles a launch's kernel and its launcher for the current device, and runs nothing."""
    from triton.runtime import driver

    compiled = launch.kernel.warmup(  # type: ignore[attr-defined]
        *launch.arguments, **launch.constants, num_warps=launch.warps, num_stages=launch.stages,
        grid=(launch.programs,),
    )  # fmt: skip
    driver.active.launcher_cls(compiled.src, compiled.metadata)  # in C, on Triton 3.6 a file for each signature
    return compiled


def _serve(job: Job, say: Say) -> None:
    try:
        compile_launch(launches(job.call)[job.index])
    except Exception as error:  # it will raise again, and be reported, when it is checked or measured
        say(one_line(error))


def warm(jobs: Sequence[Job], processes: int, seconds: float) -> int:
    """Compiles in `processes` processes, in order, and begins nothing after `seconds`.

    A compilation that fails, hangs or takes its process down is printed, and is that kernel's affair when it is called.

    Returns:
        How many were done.
    """
    end, todo = time.monotonic() + seconds, iter(jobs)

    def work(_: int) -> int:
        worker, done = Worker(_serve, PATIENCE), 0
        try:
            for job in todo:  # the threads share it: each job goes to one of them
                if time.monotonic() > end:
                    break
                try:
                    failures = [*worker.ask(job)]
                except LostError as error:
                    failures = [str(error)]
                for failure in failures:
                    print(f"{job.call.kernel} on {job.call.problem}: {failure}", file=sys.stderr)
                done += 1
        finally:
            worker.close()
        return done

    try:
        return sum(ThreadPoolExecutor(processes).map(work, range(processes)))
    except KeyboardInterrupt:
        abandon()


def main(arguments: Sequence[str] | None = None) -> int:
    """Compiles what `check` and the benchmark call, or counts it; returns 0."""
    from convext.benchmarks.measuring.runner import Plan

    parser = argparse.ArgumentParser(
        prog="python -m convext.benchmarks.first_light.warm", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count(), metavar="N", help="processes (default: %(default)s)"
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="begin nothing after this (default: %(default)s)")
    parser.add_argument("--count", action="store_true", help="only count, for compute capability 9.0")
    options = parser.parse_args(arguments)
    if not options.count and not torch.cuda.is_available():
        print("torch sees no CUDA device: nothing is compiled")
        return 0
    arch = HOPPER if options.count else registry.arch(torch.device("cuda", torch.cuda.current_device()))
    plan = Plan.of("cuda", memory=80e9 if options.count else None)
    checked = distinct(calls_of_check(arch))
    jobs = distinct([*calls_of_check(arch), *calls_of(plan.cases([*model_layers(), *anchor_layers()]), arch)])
    print(
        f"{len(checked)} compilations for check, {len(jobs) - len(checked)} more for the benchmark:", _by_kernel(jobs)
    )
    if not options.count:
        begin = time.monotonic()
        done = warm(jobs, options.jobs, 60 * options.minutes)
        print(f"{done} of {len(jobs)} done by {options.jobs} processes in {time.monotonic() - begin:.0f} s")
    return 0


def _by_kernel(jobs: Sequence[Job]) -> str:
    return ", ".join(f"{name} {count}" for name, count in Counter(job.call.kernel for job in jobs).items())


if __name__ == "__main__":
    sys.exit(main())
