"""What the table's answers cost beside the best ones, on problems that it was not made from.

    python -m convext.benchmarks.tuning.regret [--threads 1] [--problems 200] [--seed 1]

    regret = time of what `auto` takes / time of the fastest record - 1

All records that take a problem are timed in turns in one process (`tuning.cpu`), torch's own among them. The fastest of
several is partly the luckiest, so the regret's lower end, of its 95% interval, is told beside it.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass
from itertools import islice

import torch

from convext.benchmarks.tuning.cpu import PLAN, contenders, scattered
from convext.choice import registry
from convext.measuring.allocator import keep_freed_memory
from convext.measuring.ratios import Ratio, speedup
from convext.measuring.sampling import clock_of, interleaved
from convext.problem import ConvProblem


@dataclass(frozen=True)
class Regret:
    """What `auto` takes for a problem, and what was fastest.

    Attributes:
        lost: how many times as fast as what was taken the fastest is.
        to_torch: how many times as fast as torch's what was taken is.
    """

    problem: ConvProblem
    taken: str
    best: str
    lost: Ratio
    to_torch: Ratio

    def __str__(self) -> str:
        return f"{self.lost} {self.taken} for {self.best}: {self.problem}"


def regret(problem: ConvProblem) -> Regret:
    """Times every record that takes a problem."""
    samples = interleaved(contenders(problem), clock_of(torch.device("cpu")), PLAN)
    taken = registry.choose(problem).name
    best = min(samples, key=lambda name: statistics.median(samples[name]))
    lost = speedup(samples[taken], samples[best])
    return Regret(problem, taken, best, lost, speedup(samples[registry.ATEN.name], samples[taken]))


def main() -> None:
    """Prints the median, the 95th percentile and the largest regret, with the problems of the largest."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1, help="0 is the table's own")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    found = [regret(problem) for problem in islice(scattered(args.seed), args.problems)]
    found.sort(key=lambda one: one.lost.value)
    for one in found[-10:]:
        print(one)
    for what, values in (
        ("regret", [one.lost.value - 1 for one in found]),
        ("its lower end", [one.lost.low - 1 for one in found]),
    ):
        values.sort()
        at = {name: values[round(share * (len(values) - 1))] for name, share in (("median", 0.5), ("95%", 0.95))}
        print(f"{what}: " + ", ".join(f"{name} {value:.1%}" for name, value in at.items()) + f", most {values[-1]:.1%}")
    ours = [one for one in found if one.taken != registry.ATEN.name]
    print(f"{len(ours)} of {len(found)} problems are not torch's; {sum(o.to_torch.high < 0.97 for o in ours)} of these "
          f"are slower than torch's, with the whole interval under 0.97x; geometric mean "
          f"{statistics.geometric_mean([o.to_torch.value for o in ours] or [1.0]):.2f}x")  # fmt: skip


if __name__ == "__main__":
    main()
