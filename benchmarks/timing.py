"""Interleaved timing: every contender takes one sample in every round, so that none is favoured by clocks or heat.

    round 1:  [wait] A A A | B B B | C C C      round 2:  [wait] B B B | C C C | A A A      ...

On CUDA a sample lies between two events on the stream. A kernel that waits goes in first, so that all of a round is
queued before the device gets to it, and the host's own time is not measured. On the CPU, where the benchmark runs on
one thread, a sample is the processor time of that thread: what the clock would say if nothing else ran.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch

Call = Callable[[int], object]  # takes the number of the call, which picks its buffers

SAMPLE_SECONDS = {"cuda": 200e-6, "cpu": 1e-3}  # at least: well above the resolution of events and clocks
MIN_ROUNDS, MAX_ROUNDS = 5, 30
WAIT_CYCLES = 20_000_000  # about 10 ms: longer than the host takes to queue a round


def interleaved(calls: Mapping[str, Call], device: str, seconds: float) -> dict[str, list[float]]:
    """Seconds a call, one sample a round for each of `calls`.

    Args:
        calls: what to time; each has been called before, so that nothing is compiled or tuned here.
        device: "cuda" or "cpu".
        seconds: about how long to go on. At least MIN_ROUNDS rounds are taken, at most MAX_ROUNDS.
    """
    take = _cuda_round if device == "cuda" else _cpu_round
    estimate = take({name: (call, 1) for name, call in calls.items()}, 0)
    batch = SAMPLE_SECONDS[device]
    plan = {name: (call, max(1, min(1000, round(batch / estimate[name])))) for name, call in calls.items()}
    a_round = sum(estimate[name] * repeat for name, (_, repeat) in plan.items())
    rounds = int(min(MAX_ROUNDS, max(MIN_ROUNDS, seconds / a_round)))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(rounds):
        for name, sample in take(_rotated(plan, i), i).items():
            samples[name].append(sample)
    return samples


def _rotated(plan: dict[str, tuple[Call, int]], by: int) -> dict[str, tuple[Call, int]]:
    """The same plan, begun with another contender: none always follows the same one."""
    items = list(plan.items())
    return dict(items[by % len(items) :] + items[: by % len(items)])


def _cpu_round(plan: Mapping[str, tuple[Call, int]], number: int) -> dict[str, float]:
    result = {}
    for name, (call, repeat) in plan.items():
        begin = time.thread_time()
        for i in range(repeat):
            call(number * repeat + i)
        result[name] = (time.thread_time() - begin) / repeat
    return result


def _cuda_round(plan: Mapping[str, tuple[Call, int]], number: int) -> dict[str, float]:
    events = {name: [torch.cuda.Event(enable_timing=True) for _ in range(2)] for name in plan}
    torch.cuda.synchronize()
    torch.cuda._sleep(WAIT_CYCLES)
    for name, (call, repeat) in plan.items():
        events[name][0].record()
        for i in range(repeat):
            call(number * repeat + i)
        events[name][1].record()
    torch.cuda.synchronize()
    return {name: events[name][0].elapsed_time(events[name][1]) / 1000 / plan[name][1] for name in plan}


def cache_bytes(device: str) -> int:
    """Size of the last-level cache that timed buffers have to be rotated past, in bytes."""
    if device == "cuda":
        return torch.cuda.get_device_properties("cuda").L2_cache_size
    return 0


def copies_past_cache(bytes_per_call: int, cache: int) -> int:
    """How many sets of buffers make a call find none of its own in a cache of `cache` bytes, twice over; at most 64."""
    return max(1, min(64, 1 + 2 * cache // max(1, bytes_per_call)))
