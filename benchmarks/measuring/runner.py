"""Runs cases in another process, and hands the rows on.

All contenders of a case share the process, so operands are drawn, the oracle is computed and cuDNN's algorithms are
searched once, and ratios compare samples of the same rounds. torch's own paths are checked first, before anything of
ours has run on the case's tensors. What raises is a failure in its row. So is what hangs, or takes the process down as
an illegal access on a GPU does: the process is ended, and the case is measured again, torch's too, in a new one without
that contender, whose provider is charged with the time that this took and given up where it adds up. Where the process
is lost in something of torch's, ours may have damaged it: torch's is tried once more, without what of ours had run.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from convext.benchmarks.cases.case import WORK, Case, Work
from convext.benchmarks.cases.layers import Layer
from convext.benchmarks.measuring.gate import cudnn_benchmark
from convext.benchmarks.measuring.measure import blank, measure
from convext.benchmarks.measuring.providers import is_torchs
from convext.benchmarks.reporting.results import Row
from convext.commands.isolated import ALLOWANCE, LostError, Say, Worker
from convext.measuring.allocator import keep_freed_memory
from convext.problem.roofline import Peaks

PATIENCE = 20.0  # seconds

# What is measured on a CPU: calls of up to about CALL_SECONDS, of up to IMAGES_ON_CPU images while these need no more
# than EASE of that, at a rate that torch reaches there in most of what it does; SLOW of it with groups, and where fewer
# than LANES channels leave its vectors empty, as much less.
CALL_SECONDS, CPU_FLOPS, IMAGES_ON_CPU, EASE, SLOW, LANES = 0.05, 4e10, 8, 0.1, 0.15, 16
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
        seconds: of sampling in each case.
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
        return cls(device, CALL_SECONDS * CPU_FLOPS, 1e8, torch.float32, seconds=0.1, minutes=3.5)

    def fit(self, layer: Layer) -> Layer:
        """The layer as it is measured: on a GPU as it was seen, on a CPU with as many images as people ask it for."""
        if self.device == "cuda":
            return layer.fit(self.flops, self.bytes)
        rate = SLOW if layer.groups > 1 else min(1, min(layer.weight[:2]) / LANES)
        return layer.fit(rate * self.flops, self.bytes, IMAGES_ON_CPU, EASE)

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
    """What the process is asked for; it answers with the names of what it tries, and with a row."""

    case: Case
    peaks: Peaks
    seconds: float
    compiled: bool
    without: Mapping[str, str]


def _serve(request: _Request, say: Say) -> None:
    """Measures a case."""
    case = request.case
    if case.device == "cpu":
        torch.set_num_threads(1)  # threads that wait for one another make timings of a shared machine worthless
        keep_freed_memory()
    with cudnn_benchmark(True):
        say(measure(case, request.peaks, request.seconds, request.compiled, request.without, say))


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
    """The process of a run, and how much time each kernel has cost by hanging or ending it."""

    def __init__(self, plan: Plan, peaks: Peaks, compiled: bool, patience: float) -> None:
        self._plan, self._peaks, self._compiled = plan, peaks, compiled
        self._worker = Worker(_serve, patience, bounded=plan.device == "cpu")
        self._lost: defaultdict[str, float] = defaultdict(float)  # seconds, by provider

    def row(self, case: Case) -> Row:
        """Measures a case, begun again where its process was lost; the failures in the row say what is missing."""
        without = {name: GIVEN_UP.format(lost) for name, lost in self._lost.items() if lost > ALLOWANCE}
        tried_again: set[str] = set()
        while True:
            request = _Request(case, self._peaks, self._plan.seconds, self._compiled, without)
            row, begin, told = blank(case, self._peaks), time.monotonic(), ["(start)"]
            try:
                for message in self._worker.ask(request):
                    if isinstance(message, Row):
                        row = message
                    else:
                        told.append(message)
                return row
            except LostError as error:
                at, named = told[-1], [name for name in told if not name.startswith("(")]
                if at in named and not is_torchs(at):
                    self._lost[at.rpartition("/")[0]] += time.monotonic() - begin
                    without[at] = str(error)
                elif at not in tried_again:
                    tried_again.add(at)
                    without |= {name: f"not timed: {at} was lost beside it" for name in named if not is_torchs(name)}
                elif at in named:
                    without[at] = str(error)
                else:  # there is no name to leave out: it would end in the same way again
                    row.failures = {"case": f"{error}, at {at}", **{n: why for n, why in without.items() if "/" in n}}
                    return row

    def close(self) -> None:
        self._worker.close()
