"""Samples of several calls that take turns in one process: what slows a round slows all of it.

round 1:  A A A | B B B      round 2:  B B B | A A A      ...
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
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


def turns(names: Sequence[str], round: int) -> list[str]:
    """`names` in the order of a round. In twice as many rounds as names each follows each other one as often, since it
    finds what that left in the caches (designs balanced for residual effects, E. J. Williams, 1949).

        A B D C      B C A D      C D B A      D A C B
    """
    count = len(names)
    zigzag = [(step + 1) // 2 * (1 if step % 2 else -1) for step in range(count)]  # 0, 1, -1, 2, ..
    order = [names[(place + round) % count] for place in zigzag]
    return order[::-1] if count % 2 and round // count % 2 else order


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
        for name in turns(names, i):
            samples[name].append(elapsed(name, repeats[name]))
    return samples
