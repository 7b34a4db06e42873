"""Whole networks as they answer: by `convext.fuse`, by torch as it is, with norms folded, and compiled.

    python -m convext.benchmarks.fusing mobilenet_v3_large efficientnet_b0 --batch 1 8 --compiled --minutes 10

One thread of the CPU, by its own time. "folded" is torch's own `torch.fx.experimental.optimization.fuse`, which folds
batch norms; "cl" is channels last; "compiled" is torch.compile with Inductor's freezing, which folds, fuses and lays
weights out. Freed memory stays with the process. All take turns in it, and a speed is that of convext.fuse's to theirs,
with its 95% interval.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import convext
from convext.benchmarks.measuring.networks import Network, builders
from convext.benchmarks.reporting.results import commit, device_name
from convext.benchmarks.reporting.stats import Spread
from convext.benchmarks.reporting.table import Cell, microseconds, show
from convext.commands.arguments import count, positive
from convext.measuring.allocator import keep_freed_memory
from convext.measuring.ratios import Ratio, speedup
from convext.measuring.sampling import Plan, clock_of, interleaved

PLAN = Plan(sample=5e-3, fewest=9, most=31, enough=10.0)


def contenders(network: Network, x: Tensor, compiled: bool) -> dict[str, Callable[[], Tensor]]:
    """By name: a call of the network on `x`. The first is convext.fuse's."""
    from torch.fx.experimental.optimization import fuse as fold

    model = network.build().eval()
    folded = fold(model)
    models: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {"fuse": (convext.fuse(model, x), x)}
    for name, each in (("torch", model), ("folded", folded)):
        models[name] = each, x
        for layout, form in network.formats.items():
            if layout == "cl":
                twin = copy.deepcopy(each).to(memory_format=form)  # type: ignore[call-overload]
                models[f"{name} cl"] = twin, x.to(memory_format=form)
    if compiled:
        torch._inductor.config.freezing = True
        models["compiled"] = torch.compile(model), x
    return {name: lambda each=each, x=x: each(x) for name, (each, x) in models.items()}  # type: ignore[misc]


def compare(network: Network, batch: int, compiled: bool) -> tuple[dict[str, float], dict[str, Ratio]]:
    """Median seconds of each contender, and how many times as fast as each the fused one is."""
    calls = contenders(network, torch.randn(batch, *network.shape), compiled)
    with torch.no_grad():
        samples = interleaved(calls, clock_of(torch.device("cpu")), PLAN)
    medians = {name: Spread.of(times).median for name, times in samples.items()}
    return medians, {name: speedup(times, samples["fuse"]) for name, times in samples.items() if name != "fuse"}


def main() -> None:
    found = {name.rpartition(" ")[2]: network for name, network in builders().items()}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", choices=sorted(found), metavar="NETWORK", help=", ".join(sorted(found)))
    parser.add_argument("--batch", type=count, nargs="+", default=[1])
    parser.add_argument("--compiled", action="store_true", help="also torch.compile's: a minute a network")
    parser.add_argument("--minutes", type=positive, help="begin no network after these")
    parser.add_argument(
        "--out", type=Path, help="a JSON file for what was measured, after what a run like this one left there"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(0)
    body, rows, begin = [], list[dict[str, Any]](), time.monotonic()
    left = [(name, batch) for name in args.networks for batch in args.batch]
    while left and (args.minutes is None or not rows or time.monotonic() < begin + 60 * args.minutes):
        name, batch = left.pop(0)
        medians, ratios = compare(found[name], batch, args.compiled)
        body.append([Cell(f"{name} {batch}"), Cell(microseconds(medians["fuse"] * 1e6))])
        body[-1] += [Cell(f"{ratio.value:.2f}x", ratio.verdict) for ratio in ratios.values()]
        rows.append({
            "network": name, "batch": batch, "seconds": medians,
            "speed": {other: [ratio.value, ratio.low, ratio.high] for other, ratio in ratios.items()},
        })  # fmt: skip
    if left:
        names = ", ".join(f"{name} {batch}" for name, batch in left)
        print(f"{len(left)} of {len(left) + len(rows)} were not begun (--minutes gives more time): {names}")
    show(("network, batch", "fuse", *(f"to {other}" for other in ratios)), body, "convext.fuse's speed, one thread")
    if args.out is not None:
        _write(args.out, rows)


def _write(out: Path, rows: list[dict[str, Any]]) -> None:
    """Rows of one machine, torch and commit are of one file."""
    run = {"device": device_name("cpu"), "torch": torch.__version__, "commit": commit(), "threads": 1}
    before = json.loads(out.read_text()) if out.exists() else {}
    rows = before["rows"] + rows if before.get("run") == run else rows
    out.write_text(json.dumps({"run": run, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
