"""Interleaved timing: every contender takes one sample in every round, so that none is favoured by clocks or heat.
What is far slower than the best drops out after a few rounds: it would take most of the time.

    round 1:  A A A | B B B | C C C      round 2:  B B B | C C C | A A A      ...

On CUDA a sample lies between two events on the stream. A kernel that waits goes in first, so that the sample's calls
are queued before the device gets to them, and the host's own time is not measured. On the CPU a sample is wall time:
the processor time of this thread would leave out threads that a kernel starts. What else the machine does falls on all
contenders of a round alike, and the ratios are those of rounds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping

import torch

from convext.measuring.sampling import turns

Call = Callable[[int], object]  # takes the number of the call, which picks its buffers

SAMPLE_SECONDS = {"cuda": 100e-6, "cpu": 1e-3}  # at least: well above the resolution of events and clocks
RESOLUTION = {"cuda": 0.5e-6, "cpu": 1e-7}  # seconds: what a clock may not tell from nothing counts as this much
MIN_ROUNDS, MAX_ROUNDS = 7, 30
FEW_ROUNDS, SLOW = 3, 30  # rounds are enough where MIN_ROUNDS would take SLOW times as long as was asked for
HOPELESS = 4  # and for what takes so many times as long as the fastest that it is held to
MAX_CALLS = 50  # in a sample: what the driver queues without making the host wait
CYCLES_PER_SECOND = 2e9  # of the waiting kernel, at least as many as the clock has
FIRST_GUESS, LONGEST_WAIT = 100e-6, 0.1  # seconds: for the host to queue one call, and for all calls of a sample
MARGIN = 2  # times as long as the host took for its last sample is enough for the next, almost always


def interleaved(
    calls: Mapping[str, Call],
    device: str,
    seconds: float,
    begin: Callable[[str], object] = lambda name: None,
    held_to: Collection[str] = (),
) -> dict[str, list[float]]:
    """Seconds a call, one sample a round for each of `calls`, the first rounds first.

    Args:
        calls: what to time; each has been called before, so that nothing is compiled or tuned here.
        device: "cuda" or "cpu".
        seconds: about how long to go on. At least MIN_ROUNDS rounds are taken, of slow calls FEW_ROUNDS, and at most
            MAX_ROUNDS.
        begin: is told whose sample is next.
        held_to: those of `calls` that the others compete with. What takes HOPELESS times as long as the fastest of them
            is in the first FEW_ROUNDS alone.
    """
    clock = _CudaClock if device == "cuda" else _CpuClock
    clocks = {name: clock(call) for name, call in calls.items()}

    def once(name: str) -> float:
        begin(name)
        return max(clocks[name].elapsed(0, 1), RESOLUTION[device])

    estimates = {name: once(name) for name in calls}
    limit = HOPELESS * min((estimates[name] for name in held_to), default=math.inf)
    for name in calls:
        if estimates[name] > limit and name not in held_to:  # or something else was in its way
            estimates[name] = min(estimates[name], once(name))
    hopeless = {name for name in calls if estimates[name] > limit and name not in held_to}
    repeats = _repeats(estimates, SAMPLE_SECONDS[device])
    samples: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    start = time.monotonic()
    for i in range(MAX_ROUNDS):
        spent = time.monotonic() - start
        if i >= (MIN_ROUNDS if spent < SLOW * seconds else FEW_ROUNDS) and spent > seconds:
            break
        for name in turns(names, i):
            if i >= FEW_ROUNDS and name in hopeless:
                continue
            begin(name)
            elapsed = clocks[name].elapsed(i * repeats[name], repeats[name])
            samples[name].append(max(elapsed, RESOLUTION[device]) / repeats[name])
    return samples


def _repeats(estimates: Mapping[str, float], seconds: float) -> dict[str, int]:
    """Calls of a sample. As many for all that compete: the first ones find what others left in a processor's caches.

    What takes HOPELESS times as long as the fastest makes fewer, about `seconds` of them.
    """
    fastest = min(estimates.values(), default=0.0)

    def calls(each: float) -> int:
        return max(1, min(MAX_CALLS, round(seconds / (each if each > HOPELESS * fastest else fastest))))

    return {name: calls(each) for name, each in estimates.items()}


class _CpuClock:
    """Times calls of one contender by the wall clock."""

    def __init__(self, call: Call) -> None:
        self.call = call

    def elapsed(self, first: int, repeat: int) -> float:
        begin = time.perf_counter()
        for i in range(first, first + repeat):
            self.call(i)
        return time.perf_counter() - begin


class _CudaClock:
    """Times calls of one contender by events, and remembers how long its host needs to queue one."""

    def __init__(self, call: Call) -> None:
        self.call, self.host = call, FIRST_GUESS

    def elapsed(self, first: int, repeat: int) -> float:
        """Seconds. Taken again with a longer wait where the device caught up with the host."""
        while True:
            wait = min(MARGIN * self.host * (1 + repeat), LONGEST_WAIT)
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            torch.cuda._sleep(int(wait * CYCLES_PER_SECOND))
            start = time.perf_counter()
            begin.record()
            for i in range(first, first + repeat):
                self.call(i)
            end.record()
            host = (time.perf_counter() - start) / (1 + repeat)
            queued_in_time = not begin.query()  # the wait was not over when the last call was in the queue
            self.host = host if queued_in_time else max(host, 2 * self.host)
            torch.cuda.synchronize()
            if queued_in_time or wait == LONGEST_WAIT:
                return begin.elapsed_time(end) / 1000


def cache_bytes(device: str) -> int:
    """Size of the last-level cache that timed buffers have to be rotated past, in bytes."""
    if device == "cuda":
        return torch.cuda.get_device_properties("cuda").L2_cache_size
    return 0


def copies_past_cache(bytes_per_call: int, cache: int) -> int:
    """How many sets of buffers make a call find none of its own in a cache of `cache` bytes, twice over; at most 64."""
    return max(1, min(64, 1 + 2 * cache // max(1, bytes_per_call)))
