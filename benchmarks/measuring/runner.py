"""Runs cases, each provider in a process of its own, and hands the rows on.

torch's own paths are measured first, in a process that nothing of ours can harm. The best of them is measured once more
in the process of every other provider, next to its kernels, so that a ratio compares samples of the same rounds. What
raises is a failure in its row. So is what hangs, or takes its process down as an illegal access on a GPU does: the
process is ended, and the case goes on in a new one without that contender.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from convext.benchmarks.cases.case import WORK, Case, Work
from convext.benchmarks.cases.layers import Layer
from convext.benchmarks.measuring.gate import cudnn_benchmark
from convext.benchmarks.measuring.measure import Part, blank, measure
from convext.benchmarks.measuring.providers import TORCH, processes
from convext.benchmarks.reporting.results import Row
from convext.commands.isolated import ALLOWANCE, LostError, Say, Worker
from convext.measuring.allocator import keep_freed_memory
from convext.problem.roofline import Peaks

PATIENCE = 20.0  # seconds

# What is measured on a CPU: calls of up to about CALL_SECONDS, of up to IMAGES_ON_CPU images while these need no more
# than EASE of that, at a rate that torch reaches there in most of what it does; SLOW of it with groups.
CALL_SECONDS, CPU_FLOPS, IMAGES_ON_CPU, EASE, SLOW = 0.05, 4e10, 8, 0.1, 0.15
FIRST, CHEAPER = 5, 0.6  # layers of each family that are measured first, and the share of its sizes that they are from
GIVEN_UP = "not run: it has cost {:.0f} s by hanging or ending its process"


@dataclass(frozen=True)
class Plan:
    """What a device can take.

    Attributes:
        device: "cuda" or "cpu".
        flops, bytes: a layer that needs more a call is cut (`Layer.fit`). On a CPU, where torch is slowest in families
            that it reads channel by channel, these have SLOW of the FLOPs.
        dtype: of layers whose table names none; of all layers on a CPU.
        seconds: of sampling in each process of a case.
        minutes: no case begins after this; what is left out is listed.
    """

    device: str
    flops: float
    bytes: float
    dtype: torch.dtype
    seconds: float
    minutes: float

    @classmethod
    def of(cls, device: str, memory: float | None = None) -> Plan:
        """The plan that fits `device`: minutes on a CPU, eight on a GPU with `memory` bytes or as many as are here."""
        if device == "cuda":
            memory = memory or torch.cuda.get_device_properties("cuda").total_memory
            return cls(device, 1e15, memory / 5, torch.bfloat16, seconds=0.1, minutes=7.5)
        return cls(device, CALL_SECONDS * CPU_FLOPS, 1e8, torch.float32, seconds=0.05, minutes=3.5)

    def fit(self, layer: Layer) -> Layer:
        """The layer as it is measured: on a GPU as it was seen, on a CPU with as many images as people ask it for."""
        if self.device == "cuda":
            return layer.fit(self.flops, self.bytes)
        flops = self.flops * (SLOW if layer.groups > 1 else 1)
        return layer.fit(flops, self.bytes, IMAGES_ON_CPU, EASE)

    def cases(self, layers: Sequence[Layer], works: Sequence[Work] = WORK) -> list[Case]:
        """The cases of `layers`, the families taking turns, so that wherever the run stops, each has had its share.

        On a GPU the forwards come first, then gradients, then steps. A CPU is slower than its minutes, and what is ours
        there are gradients above all: it does all of a layer before the next one, and first a few layers of each family
        that differ in size.
        """
        turns: Counter[str] = Counter()
        ranked = []
        for layer in self._in_order([self.fit(layer) for layer in layers]):
            dtype = layer.dtype if layer.dtype and self.device == "cuda" else self.dtype
            for work in works:
                kind = 0 if work == layer.forward else 3 if work == "step" else 2 if work == "wgrad" else 1
                turn = turns[layer.family]
                rank = (turn, kind) if self.device == "cpu" else (kind, turn)
                ranked.append((rank, Case(layer, work, dtype, self.device)))
            turns[layer.family] += 1
        return [case for _, case in sorted(ranked, key=lambda item: item[0])]

    def _in_order(self, layers: list[Layer]) -> list[Layer]:
        """On a CPU a sample of each family first: FIRST layers, evenly spread over the cheaper part of its sizes, those
        with their whole maps before others."""
        if self.device == "cuda":
            return layers
        first: list[Layer] = []
        for family in dict.fromkeys(layer.family for layer in layers):
            sizes = [layer for layer in layers if layer.family == family]
            sizes.sort(key=lambda layer: ("map" in layer.cut, layer.problem("fprop", self.dtype).flops))
            sizes = sizes[: max(FIRST, round(CHEAPER * len(sizes)))]
            first += [sizes[i * (len(sizes) - 1) // (FIRST - 1)] for i in range(FIRST)]
        return list(dict.fromkeys([*first, *layers]))


@dataclass(frozen=True)
class _Request:
    """What a process is asked for; it answers with the names of what it tries, and with a row."""

    case: Case
    peaks: Peaks
    seconds: float
    compiled: bool
    part: Part


def _serve(request: _Request, say: Say) -> None:
    """Measures a part of a case."""
    case, on_cuda = request.case, request.case.device == "cuda"
    if not on_cuda:
        torch.set_num_threads(1)  # threads that wait for one another make timings of a shared machine worthless
        keep_freed_memory()
    with cudnn_benchmark(True):
        say(measure(case, request.peaks, request.seconds, request.compiled, request.part, say))
    if on_cuda:
        torch.cuda.empty_cache()  # the other processes need it


def run(
    cases: Sequence[Case], plan: Plan, peaks: Peaks, compiled: bool = False, patience: float = PATIENCE
) -> Iterator[Row]:
    """A row for each case, as it is done, until `plan.minutes` are over.

    Args:
        cases, plan, peaks: what, on what, against which limits.
        compiled: torch.compile's paths too.
        patience: seconds that a contender's check, or one sample of its timing, may take.
    """
    begin = time.monotonic()
    crew = _Crew(plan, peaks, compiled, patience)
    try:
        for case in cases:
            if time.monotonic() - begin > 60 * plan.minutes:
                return
            yield crew.row(case)
    finally:
        crew.close()


class _Crew:
    """The processes of a run, and how much time each kernel has cost by hanging or ending them."""

    def __init__(self, plan: Plan, peaks: Peaks, compiled: bool, patience: float) -> None:
        self._plan, self._peaks, self._compiled, self._patience = plan, peaks, compiled, patience
        self._workers: dict[str, Worker] = {}
        self._lost: defaultdict[str, float] = defaultdict(float)  # seconds, by provider or process

    def row(self, case: Case) -> Row:
        """Measures a case; the failures in the row say what is missing."""
        row = blank(case, self._peaks)
        for process in processes(case, self._compiled):
            self._measure(case, process, row)
        return row

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()

    def _measure(self, case: Case, process: str, row: Row) -> None:
        """Adds what one process measures, begun again without each contender that takes it down."""
        without = {}
        if process != TORCH:  # without torch's times no other time is worth anything
            without = {name: GIVEN_UP.format(lost) for name, lost in self._lost.items() if lost > ALLOWANCE}
        if process in without:
            row.failures[process] = without[process]
            return
        while True:
            part = Part(process, row.baseline, without)
            request = _Request(case, self._peaks, self._plan.seconds, self._compiled, part)
            begin, at = time.monotonic(), "(start)"
            try:
                for message in self._worker(process).ask(request):
                    if isinstance(message, Row):
                        row.add(message)
                    else:
                        at = message
                return
            except LostError as error:
                named = not at.startswith("(") and at != row.baseline
                self._lost[at.rpartition("/")[0] if named else process] += time.monotonic() - begin
                if not named:  # there is no name to leave out: it would end in the same way again
                    row.failures |= {process: f"{error}, at {at}", **{n: why for n, why in without.items() if "/" in n}}
                    return
                without[at] = str(error)

    def _worker(self, process: str) -> Worker:
        if process not in self._workers:
            self._workers[process] = Worker(_serve, self._patience, bounded=self._plan.device == "cpu")
        return self._workers[process]
