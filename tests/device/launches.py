"""Launches what `check` and the benchmark launch, on the libcuda that is here: every N-th of the distinct launches.

python tests/device/launches.py N [FIRST]
"""

from __future__ import annotations

import collections
import resource
import sys

from convext.benchmarks.cases.layers import anchor_layers, model_layers
from convext.benchmarks.first_light.warm import calls_of, calls_of_check, compile_launch, distinct, launches, warm
from convext.benchmarks.measuring.runner import Plan
from convext.choice import plugins

plugins.load()


def main(every: int, first: int = 0, processes: int = 0) -> int:
    """Prints what was refused, and how long compiling took; returns 1 where something was refused."""
    cases = Plan.of("cuda").cases([*model_layers(), *anchor_layers()])
    jobs = distinct([*calls_of_check(90), *calls_of(cases, 90)])
    if processes:
        print(f"{warm(jobs[first::every], processes, 600.0)} compiled")
        return 0
    refused, seconds = 0, collections.defaultdict(list)
    for job in jobs[first::every]:
        launch = launches(job.call)[job.index]
        begin = _cpu()
        try:
            compile_launch(launch)
            seconds[job.call.kernel].append(_cpu() - begin)
            launch.launch()
        except Exception as error:
            refused += 1
            print(f"{job.call}: {type(error).__name__}: {error}")
    done = [second for each in seconds.values() for second in each]
    for kernel, each in sorted(seconds.items()):
        print(f"{kernel}: {len(each)} launches, {sum(each) / len(each):.2f} s of processor time to compile each")
    print(f"{len(done)} of {len(jobs)} launches, {sum(done):.0f} s of processor time to compile, {refused} refused")
    return int(refused > 0)


def _cpu() -> float:
    """Processor time of this process and those that it has waited for: ptxas and gcc."""
    own, theirs = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + theirs.ru_utime + theirs.ru_stime


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
