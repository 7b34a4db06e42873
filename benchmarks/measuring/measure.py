"""Measures one case in this process: draw operands, check every contender, time those that agreed.

A contender that raises or is wrong is a failure in the row. One that takes the device or the process down is the affair
of `runner`, which has cases measured in another process and is told what is tried before it is.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch

from convext.benchmarks.cases.case import LAYOUTS, Case, Tensors, ordered
from convext.benchmarks.measuring import timing
from convext.benchmarks.measuring.gate import CHUNK_BYTES, IMAGES, Gate
from convext.benchmarks.measuring.providers import Contender, chosen, contenders, is_baseline, is_ours
from convext.benchmarks.reporting.results import Row
from convext.benchmarks.reporting.stats import Spread
from convext.commands.isolated import one_line
from convext.measuring.ratios import speedup
from convext.problem.roofline import Peaks

MICRO = 1e6


def blank(case: Case, peaks: Peaks) -> Row:
    """A case's row before anything is measured."""
    layer = case.layer
    return Row(
        layer=layer.id,
        name=layer.name,
        family=layer.family,
        work=case.work,
        dtype=str(case.dtype).removeprefix("torch."),
        transposed=layer.transposed,
        count=layer.count,
        layout=layer.layout,
        cut=layer.cut,
        checked=Gate(case, {}).checked,
        ideal=round(case.ideal_seconds(peaks) * MICRO, 3),
        bound=case.bound(peaks),
        chosen={name: chosen(case, name) for name in LAYOUTS},
        published=layer.published if case.work == layer.forward else "",
        ours=[name for name in LAYOUTS if is_ours(case, name)],
    )


def measure(
    case: Case,
    peaks: Peaks,
    seconds: float,
    compiled: bool = False,
    without: Mapping[str, str] = MappingProxyType({}),
    begin: Callable[[str], object] = lambda what: None,
) -> Row:
    """Checks and times everything that takes `case`.

    Args:
        case, peaks: what, against which limits.
        seconds: of sampling.
        compiled: torch.compile's paths too.
        without: why some contenders are left out, by name or by provider.
        begin: is told what is tried next, a contender's name or "(operands)", before each of its calls and samples.

    Raises:
        RuntimeError: the device is lost, by whatever was tried last.
    """
    row = blank(case, peaks)
    begin("(operands)")
    try:
        if compiled:
            torch.compiler.reset()  # the compiler gives up on a function after a few sizes
        assert_fits(case)
        with torch.no_grad():
            _measure(case, row, seconds, compiled, without, begin)
    except Exception as error:  # such as memory, of which a case asks for its operands first
        row.failures["case"] = one_line(error)
        _assert_alive(case)
    return row


def _assert_alive(case: Case) -> None:
    """Raises where a kernel took the device down: nothing that this process measured after it would be true."""
    if case.device == "cuda":
        torch.cuda.synchronize()


def _measure(
    case: Case, row: Row, seconds: float, compiled: bool, without: Mapping[str, str], begin: Callable[[str], object]
) -> None:
    layer = case.layer
    drawn = case.draw()
    weights = {"w": drawn["w"], "bias": drawn["w"].new_ones(layer.output[1])}
    buffers = Buffers(case, drawn)
    gate = Gate(case, buffers.firsts, weights["bias"] if layer.bias and case.work == "step" else None)
    passed: dict[str, timing.Call] = {}
    for contender in contenders(case, compiled, weights):
        if reason := without.get(contender.name) or without.get(contender.provider):
            row.failures[contender.name] = reason
            continue
        begin(contender.name)
        try:
            passed[contender.name] = admitted(gate, contender, buffers)
            if case.device == "cuda":
                row.memory[contender.name] = _peak_memory(contender, buffers)
            _assert_alive(case)  # now, while it is known whose calls these were
        except DisagreementError as error:
            row.failures[contender.name] = str(error)
        except Exception as error:  # compilers and other packages have classes of their own
            row.failures[contender.name] = one_line(error)
            passed.pop(contender.name, None)
            _assert_alive(case)
    _summarise(row, _timed(passed, case, row, seconds, begin))


def _timed(
    passed: dict[str, timing.Call], case: Case, row: Row, seconds: float, begin: Callable[[str], object]
) -> dict[str, list[float]]:
    """Samples of all of `passed`; taken again without one that raises here, though it did not before."""
    last = ""

    def told(name: str) -> None:
        nonlocal last
        last = name
        begin(name)

    while True:
        try:
            return timing.interleaved(passed, case.device, seconds, told, [*filter(is_baseline, passed)])
        except Exception as error:
            row.failures[last] = one_line(error)
            passed.pop(last)
            _assert_alive(case)


def needed(case: Case) -> int:
    """About how many bytes a case takes: operands and results in both layouts, and the float64 oracle's."""
    copies = timing.copies_past_cache(case.bytes, timing.cache_bytes(case.device))
    shares = IMAGES / max(case.layer.input[0], IMAGES)
    exact = 8 / case.dtype.itemsize * case.bytes
    oracle = min(exact, 2 * CHUNK_BYTES) if case.work in ("wgrad", "step") else exact * shares
    return round(len(LAYOUTS) * copies * 2 * case.bytes + 2 * oracle)


def assert_fits(case: Case) -> None:
    """Raises MemoryError where the device has not what a case takes: asking for it could end more than this case."""
    free = _free(case.device)
    if case.device == "cuda" and needed(case) > free:
        torch.cuda.empty_cache()  # of what the cases before it took
        free = _free(case.device)
    if needed(case) > free:
        raise MemoryError(f"takes about {needed(case) / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free")


def _free(device: str) -> int:
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


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

        for i, result in enumerate(kept):  # the first result of a set asks for memory; the next contender's finds some
            if result is None:
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
    torchs = [*filter(is_baseline, samples)]
    if not torchs:
        return
    row.baseline = min(torchs, key=lambda name: spreads[name].median)
    for name in samples:
        if name not in torchs:
            rounds = len(samples[name])  # fewer where it dropped out
            baseline = samples[row.baseline][:rounds]
            ratio = speedup(baseline, samples[name], seed=random.Random(row.layer).randrange(2**32))
            row.ratios[name] = [round(v, 4) for v in (ratio.value, ratio.low, ratio.high)]
