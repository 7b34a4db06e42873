"""Samples of several calls that take turns in one process: what slows a round slows all of it.

round 1:  A A A | B B B      round 2:  B B B | A A A      ...
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Clock = Callable[[], float]
SHORTEST = 1e-6  # seconds: what a clock may not tell from nothing counts as this much


@dataclass(frozen=True)
class Plan:
    """How long to go on.

    Attributes:
        sample: seconds of a sample, about; short calls are repeated in it, up to 50 times.
        fewest, most: rounds.
        enough: seconds after which the fewest rounds are enough.
    """

    sample: float
    fewest: int
    most: int
    enough: float


def clock_of(device: torch.device) -> Clock:
    """Seconds, for work on `device`.

    With one thread that is processor time, so that others on the machine matter little; with more it is the clock's,
    and on an accelerator the clock's when all that was queued is done.
    """
    if device.type == "cpu":
        return time.thread_time if torch.get_num_threads() == 1 else time.perf_counter

    def when_done() -> float:
        torch.accelerator.synchronize(device)
        return time.perf_counter()

    return when_done


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    clock: Clock,
    plan: Plan,
    begin: Callable[[str], object] = lambda name: None,
) -> dict[str, list[float]]:
    """Seconds a call, one sample a round for each of `calls`; `begin` is told whose turn is next, and is not timed."""

    def elapsed(name: str, repeat: int) -> float:
        begin(name)
        start = clock()
        for _ in range(repeat):
            calls[name]()
        return max(clock() - start, SHORTEST) / repeat

    for name in calls:
        elapsed(name, 1)  # allocates, and tunes what is tuned at a first call
    repeats = {name: max(1, min(50, round(plan.sample / elapsed(name, 1)))) for name in calls}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    names, start = list(calls), clock()
    for i in range(plan.most):
        if i >= plan.fewest and clock() - start > plan.enough:
            break
        turn = i % len(names)
        for name in names[turn:] + names[:turn]:  # none always follows the same one
            samples[name].append(elapsed(name, repeats[name]))
    return samples
