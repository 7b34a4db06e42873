"""Measures the records for CPUs against torch on a grid of problems, and writes the table that `auto` reads.

    python -m convext.benchmarks.tuning.cpu [--threads 1] [--minutes 60]

Interleaved in one process: in every round each contender takes one sample, in turns. With one thread a sample is
processor time, so that others on the machine matter little; with more it is the clock's.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice, product

import torch

from convext.choice import cpu_table, registry
from convext.choice.cpu_table import Row
from convext.commands import check
from convext.measuring.allocator import keep_freed_memory
from convext.measuring.ratios import speedup
from convext.measuring.sampling import Plan, clock_of, interleaved
from convext.problem import FACES, ConvProblem, output_size
from convext.providers import aten
from convext.providers.cpu import library

ELEMENTS = 200_000  # of an input, about: 0.8 MB in float32
SCATTERED = 6000  # problems beside the grid
PLAN = Plan(sample=0.5e-3, fewest=5, most=15, enough=0.5)


def grid() -> Iterator[ConvProblem]:
    """The fprop of every problem that is measured: families x sizes, contiguous, float32."""
    for map, k in product((7, 10, 14, 20, 28, 40, 56, 80, 112), (3, 5, 7, 9, 13, 21, 31)):
        if k <= 1.5 * map:
            yield _problem((map, map), k)
    for map, k in product((14, 28, 56, 112), (3, 4, 5, 7)):
        yield _problem((map, map), k, stride=2)
    for map, k, d in product((14, 28, 56), (3, 5), (2, 4, 12)):
        yield _problem((map, map), k, dilation=d)
    for length, k in product((64, 128, 256, 512, 1024, 2048, 4096, 8192), (3, 4, 5, 7, 15, 31, 63)):
        yield _problem((length,), k)
        yield _problem((length,), k, causal=True)
    for length, d in product((256, 1024, 4096), (2, 4, 16, 64)):
        yield _problem((length,), 3, dilation=d)
        yield _problem((length,), 3, dilation=d, causal=True)
    for map, k in product((4, 7, 14, 28), (3, 5, 7)):
        if k <= 1.5 * map:
            yield _problem((map, map, map), k)
            yield _problem((map, map, map), k, stride=2)
    for channels in (2, 4, 8):
        for map, k in product((7, 14, 20, 28, 40, 56, 80), (3, 5)):
            yield _problem((map, map), k, channels=channels)
        for map in (14, 28, 56):
            yield _problem((map, map), 3, channels=channels, stride=2)
        for length, k in product((128, 512, 2048), (3, 7)):
            yield _problem((length,), k, channels=channels)
        for map in (7, 14, 28):
            yield _problem((map, map, map), 3, channels=channels)
    for map, d, channels in product((8, 12, 16, 20, 32), (2, 4, 6), (24, 64)):
        yield _problem((map, map, map), 3, channels=channels, groups=1, dilation=d)
    for map, d in product((16, 33, 65), (6, 12, 18)):
        yield _problem((map, map), 3, channels=128, groups=1, dilation=d)
    for rank, map in ((2, 7), (2, 14), (2, 28), (2, 56), (3, 4), (3, 8), (3, 14)):
        yield _problem((map * 2,) * rank, 2, channels=64, groups=1, stride=2, pad=0)
    for map, k in product((14, 28, 56), (1, 3)):
        yield _problem((map, map), k, channels=64, groups=1)


def wide() -> Iterator[ConvProblem]:
    """The fprop of dilated problems of many channels, float32: torch takes seconds where oneDNN has no bfloat16."""
    for map, d, channels in product((16, 33), (6, 12), (256, 512)):
        yield _problem((map, map), 3, channels=channels, groups=1, dilation=d)
    for d, channels in product((2, 8, 32), (64, 256)):
        yield _problem((1024,), 3, channels=channels, groups=1, dilation=d)
    for d in (2, 6):
        yield _problem((12, 12, 12), 3, channels=128, groups=1, dilation=d)


def volumes() -> Iterator[ConvProblem]:
    """The fprop of a volumetric network's layers for one image, float32: torch computes many by loops of its own."""
    sizes = ((4, 64), (8, 16), (8, 32), (8, 64), (12, 32), (16, 8), (16, 16), (16, 32), (16, 48), (16, 64), (24, 16),
             (24, 32), (32, 8), (32, 16), (32, 24), (32, 32), (48, 8), (64, 4))  # fmt: skip
    made = []
    for map, channels in sizes:
        made.append(_problem((map,) * 3, 3, channels=channels, groups=1))
        if map > 4:
            made.append(_problem((map,) * 3, 3, channels=channels, groups=1, stride=2))
            made.append(_problem((map,) * 3, 1, channels=channels, groups=1))
    for map, channels in ((8, 32), (16, 16), (24, 8), (32, 8)):
        made.append(_problem((map,) * 3, 5, channels=channels, groups=1))
    for map, (c, k) in product((16, 32, 48), ((1, 16), (1, 32), (2, 16), (4, 16), (4, 32), (16, 32), (32, 16))):
        made.append(replace(_problem((map,) * 3, 3, groups=1), c=c, k=k))
    yield from (problem for problem in made if problem.flops < 2**30)


def deep() -> Iterator[ConvProblem]:
    """The fprop of a network's first layers and of undilated ones of many channels, bfloat16: those under autocast."""
    for (k, stride), map, channels in product(((3, 2), (4, 4), (7, 2)), (64, 224), (16, 64)):
        made = _problem((map, map), k, channels=channels, groups=1, stride=stride, pad=0 if k == stride else None)
        yield replace(made, c=3, dtype=torch.bfloat16)
    for map, k, channels in product((7, 14, 28), (1, 3), (256, 512, 1024)):
        made = replace(_problem((map, map), k, channels=channels, groups=1), dtype=torch.bfloat16)
        if made.flops < 2**30:
            yield made


def _problem(
    input: tuple[int, ...], k: int, *, channels: int = 1, groups: int = 0, stride: int = 1, dilation: int = 1,
    pad: int | None = None, causal: bool = False,
) -> ConvProblem:  # fmt: skip
    """Groups of `channels` channels, as many as make ELEMENTS where `groups` is 0."""
    pixels = 1
    for size in input:
        pixels *= size
    groups = groups or max(16, min(1024, round(ELEMENTS / pixels / channels / 8) * 8))
    total = dilation * (k - 1)
    begin = total if causal else total // 2 if pad is None else pad
    end = 0 if causal else total - total // 2 if pad is None and stride == 1 else begin

    def each(value: int) -> tuple[int, ...]:
        return (value,) * len(input)

    output = output_size(input, each(k), each(stride), each(begin), each(end), each(dilation))
    return ConvProblem(
        "fprop", 1, channels * groups, channels * groups, groups, input, each(k), output, each(stride), each(begin),
        each(dilation), torch.float32,
    )  # fmt: skip


def scattered(seed: int) -> Iterator[ConvProblem]:
    """Problems without end, of any face, size, batch, format and dtype that calls of a few milliseconds have.

    A grid leaves gaps between its lines, and says nothing of what its lines hold constant: batches, channels, pads.
    """
    draw = random.Random(seed)

    def near(low: float, high: float) -> int:
        return round(low * (high / low) ** draw.random())  # any magnitude is as likely

    while True:
        rank = draw.choice((1, 2, 2, 2, 3))
        family = draw.choice(("depthwise",) * 6 + ("grouped",) * 3 + ("dense",))
        channels = {"depthwise": 1, "grouped": draw.choice((2, 3, 4, 6, 8)), "dense": near(16, 192)}[family]
        groups = 1 if family == "dense" else near(8, 768 / channels)
        map = near(*((64, 8192), (6, 128), (4, 40))[rank - 1])
        k = near(3, 31) if rank == 1 or draw.random() < 0.25 else draw.choice((2, 3, 3, 3, 4, 5, 7))
        stride = draw.choice((1, 1, 1, 2))
        dilation = draw.choice((1, 1, 1, 2, 3, 4, 6, 12)) if stride == 1 or rank > 1 else 1
        causal = rank == 1 and draw.random() < 0.4
        pad = None if draw.random() < 0.8 else 0
        if dilation * (k - 1) >= 1.5 * map or (pad == 0 and dilation * (k - 1) >= map):
            continue
        made = _problem(
            (map,) * rank, k, channels=channels, groups=groups, stride=stride, dilation=dilation, pad=pad, causal=causal
        )  # fmt: skip
        made = replace(
            made, n=near(1, 8), face=draw.choice(FACES), channels_last=draw.random() < 0.4,
            dtype=torch.float32 if draw.random() < 0.8 else torch.bfloat16,
        )  # fmt: skip
        if made.ideal_bytes < 16e6 and cpu_table.SMALLEST <= made.flops < 2**30 and not aten.fault(made):
            yield made


def problems() -> list[ConvProblem]:
    """Faces, memory formats and dtypes of the grid, in an order that is random and always the same, and others.

    Every other problem of the grid is measured in bfloat16 too.
    """
    found = list(islice(scattered(0), SCATTERED))
    for forward, face, channels_last in product((*wide(), *volumes(), *deep()), FACES, (False, True)):
        found.append(replace(forward, face=face, channels_last=channels_last))
    for i, forward in enumerate(grid()):
        for dtype in (torch.float32, torch.bfloat16) if i % 2 == 0 else (torch.float32,):
            for face, channels_last in product(FACES, (False, True)):
                found.append(replace(forward, face=face, dtype=dtype, channels_last=channels_last))
    found = [problem for problem in found if not aten.fault(problem)]
    random.Random(0).shuffle(found)
    return found


def contenders(problem: ConvProblem) -> dict[str, Callable[[], object]]:
    """torch's own operator, and every record for CPUs that takes the problem."""
    a, b = check.operands(problem)
    records = [k for k in registry.kernels() if k.provider in ("aten", "cpu", "plain")]
    taking = [k for k in records if registry.refusal(k, problem) is None]
    return {k.name: lambda k=k: k.run(problem, a, b, None) for k in taking}  # type: ignore[misc]


def row_of(problem: ConvProblem) -> Row | None:
    """One measured problem, or None where torch has no rival."""
    calls = contenders(problem)
    if len(calls) == 1:
        return None
    samples = interleaved(calls, clock_of(torch.device("cpu")), PLAN)
    ratios = {}
    for name in calls:
        if name != registry.ATEN.name:
            ratio = speedup(samples[registry.ATEN.name], samples[name])
            ratios[name] = (round(ratio.value, 3), round(ratio.low, 3))
    return Row(cpu_table.kind(problem), cpu_table.point(problem), ratios)


def main() -> None:
    """Writes convext/choice/tables/<machine>-<threads>.json."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60, help="begin no problem after this")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    keep_freed_memory()
    rows, begin, planned = [], time.monotonic(), problems()
    for problem in planned:
        if time.monotonic() - begin > 60 * args.minutes:
            break
        if (row := row_of(problem)) is not None:
            rows.append(row)
    path = cpu_table.FOLDER / f"{library.measured_as()}-{args.threads}.json"
    cpu_table.write(path, rows, _where(args.threads))
    print(f"{path}: {len(rows)} rows of {len(planned)} problems in {time.monotonic() - begin:.0f} s")


def _where(threads: int) -> dict[str, object]:
    model = ""
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            model = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "")
    return {
        "machine": library.measured_as(), "threads": threads, "processor": model or platform.processor(),
        "cores": os.cpu_count(), "torch": torch.__version__, "capability": torch.backends.cpu.get_cpu_capability(),
    }  # fmt: skip


if __name__ == "__main__":
    main()
