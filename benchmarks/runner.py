"""Runs cases: draw operands, check every contender, time those that agreed, and hand the row on."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from convext.benchmarks import timing
from convext.benchmarks.case import LAYOUTS, WORK, Case, Tensors, Work, ordered
from convext.benchmarks.gate import Gate, cudnn_benchmark
from convext.benchmarks.layers import Layer
from convext.benchmarks.providers import Contender, chosen, contenders
from convext.benchmarks.results import Row
from convext.benchmarks.stats import Spread, speedup
from convext.roofline import Peaks

MICRO = 1e6


@dataclass(frozen=True)
class Plan:
    """What a device can take.

    Attributes:
        device: "cuda" or "cpu".
        flops, bytes: a layer that needs more a call is cut (`Layer.fit`).
        dtype: of layers whose table names none; of all layers on a CPU.
        seconds: of sampling for each case.
        minutes: no case begins after this; what is left out is listed.
    """

    device: str
    flops: float
    bytes: float
    dtype: torch.dtype
    seconds: float
    minutes: float

    @classmethod
    def of(cls, device: str) -> Plan:
        """The plan that fits `device`: minutes on a CPU, eight on a GPU."""
        if device == "cuda":
            memory = torch.cuda.get_device_properties("cuda").total_memory
            return cls(device, 1e15, memory / 5, torch.bfloat16, seconds=0.2, minutes=7.5)
        return cls(device, 5e7, 4e6, torch.float32, seconds=0.1, minutes=3.5)

    def cases(self, layers: Sequence[Layer], works: Sequence[Work] = WORK) -> list[Case]:
        """The cases of `layers`: forwards first, then gradients, then steps, and each time the families take turns.

        So wherever the run stops, every family has had about the same share.
        """
        turns: Counter[str] = Counter()
        ranked = []
        for layer in layers:
            fitted = layer.fit(self.flops, self.bytes)
            dtype = layer.dtype if layer.dtype and self.device == "cuda" else self.dtype
            for work in works:
                kind = 0 if work == layer.forward else 3 if work == "step" else 2 if work == "wgrad" else 1
                ranked.append(((kind, turns[layer.family]), Case(fitted, work, dtype, self.device)))
            turns[layer.family] += 1
        return [case for _, case in sorted(ranked, key=lambda item: item[0])]


def run(cases: Sequence[Case], plan: Plan, peaks: Peaks, compiled: bool = False) -> Iterator[Row]:
    """A row for each case, as it is done, until `plan.minutes` are over.

    Args:
        cases, plan, peaks: what, on what, against which limits.
        compiled: torch.compile's paths too.
    """
    begin = time.monotonic()
    with cudnn_benchmark(True):
        for case in cases:
            if time.monotonic() - begin > 60 * plan.minutes:
                return
            row = measure(case, plan, peaks, compiled)
            yield row
            if row.failures and case.device == "cuda":
                torch.cuda.synchronize()  # raises where a kernel took the device down: nothing after it would be true


def measure(case: Case, plan: Plan, peaks: Peaks, compiled: bool = False) -> Row:
    """Checks and times everything that takes `case`."""
    if compiled:
        torch.compiler.reset()  # the compiler gives up on a function after a few sizes
    layer = case.layer
    drawn = case.draw()
    weights = {"w": drawn["w"], "bias": drawn["w"].new_ones(layer.output[1])}
    buffers = Buffers(case, drawn)
    gate = Gate(case, buffers.firsts, weights["bias"] if layer.bias and case.work == "step" else None)
    row = Row(
        layer=layer.id,
        name=layer.name,
        family=layer.family,
        work=case.work,
        dtype=str(case.dtype).removeprefix("torch."),
        transposed=layer.transposed,
        count=layer.count,
        layout=layer.layout,
        cut=layer.cut,
        checked=gate.checked,
        ideal=round(case.ideal_seconds(peaks) * MICRO, 3),
        bound=case.bound(peaks),
        chosen={name: chosen(case, name) for name in LAYOUTS},
        published=layer.published if case.work == layer.forward else "",
    )
    passed: dict[str, timing.Call] = {}
    with torch.no_grad():
        for contender in contenders(case, compiled, weights):
            try:
                passed[contender.name] = admitted(gate, contender, buffers)
                if case.device == "cuda":
                    row.memory[contender.name] = _peak_memory(contender, buffers)
            except DisagreementError as error:
                row.failures[contender.name] = str(error)
            except Exception as error:  # compilers and other packages have classes of their own
                row.failures[contender.name] = f"{type(error).__name__}: {_first_line(error)}"
        samples = timing.interleaved(passed, case.device, plan.seconds)
    _summarise(row, samples)
    return row


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


class DisagreementError(Exception):
    """A result that is not float64's."""


class Buffers:
    """Copies of a case's tensors in both layouts, enough of them that no call finds its own in the cache."""

    def __init__(self, case: Case, drawn: Tensors) -> None:
        copies = timing.copies_past_cache(case.bytes, timing.cache_bytes(case.device))
        self.sets: dict[str, list[Tensors]] = {}
        for layout_name in LAYOUTS:
            first = ordered(drawn, layout_name)
            rest = [{role: t.clone() for role, t in first.items()} for _ in range(copies - 1)]
            self.sets[layout_name] = [first, *rest]
        self._kept: dict[str, list[object]] = {name: [None] * copies for name in LAYOUTS}

    @property
    def firsts(self) -> dict[str, Tensors]:
        """The tensors that the gate looks at, by layout."""
        return {name: sets[0] for name, sets in self.sets.items()}

    def rotating(self, contender: Contender) -> timing.Call:
        """Calls with one set after another.

        A result lives until its set's next turn, whoever has that, so that results rotate too.
        """
        sets, kept = self.sets[contender.layout], self._kept[contender.layout]

        def call(i: int) -> None:
            kept[i % len(sets)] = contender.call(sets[i % len(sets)])

        for i in range(len(sets)):  # the first call of each set may allocate
            call(i)
        return call


def admitted(gate: Gate, contender: Contender, buffers: Buffers) -> timing.Call:
    """Runs a contender past the gate, and returns what is to be timed.

    Raises:
        DisagreementError: its result is not float64's.
    """
    results = contender.call(buffers.firsts[contender.layout])  # compiles, and lets cuDNN pick its algorithm
    reason = gate.refusal(contender.layout, results)
    if reason is not None:
        raise DisagreementError(reason)
    del results
    return buffers.rotating(contender)


def _peak_memory(contender: Contender, buffers: Buffers) -> int:
    """Bytes on the GPU that a call needs at its peak, beyond its operands and results. It has been called before."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    results = contender.call(buffers.firsts[contender.layout])
    kept = torch.cuda.memory_allocated() - before
    del results
    return torch.cuda.max_memory_allocated() - before - kept


def _summarise(row: Row, samples: dict[str, list[float]]) -> None:
    """Fills in times, the baseline and the ratios to it."""
    spreads = {name: Spread.of(times) for name, times in samples.items()}
    row.times = {
        name: [round(v * MICRO, 3) for v in (s.median, s.p20, s.p80)] for name, s in spreads.items()
    }  # fmt: skip
    torchs = [name for name in samples if name.startswith("torch.")]
    if not torchs:
        return
    row.baseline = min(torchs, key=lambda name: spreads[name].median)
    for name in samples:
        if name not in torchs:
            ratio = speedup(samples[row.baseline], samples[name], seed=random.Random(row.layer).randrange(2**32))
            row.ratios[name] = [round(v, 4) for v in (ratio.value, ratio.low, ratio.high)]
