"""`python -m convext bench`: what it can be asked for, and what it prints."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from convext.benchmarks.cases.case import WORK, Case
from convext.benchmarks.cases.layers import DTYPES, Layer, anchor_layers, model_layers
from convext.benchmarks.cases.sweep import SWEEPS, sweep_layers
from convext.benchmarks.first_light.warm import calls_of, distinct, warm
from convext.benchmarks.measuring.peaks import peaks_of
from convext.benchmarks.measuring.runner import PATIENCE, Plan, run
from convext.benchmarks.reporting import compare, table
from convext.benchmarks.reporting.results import Row, Writer, default_path, describe, gpu_state
from convext.choice.registry import arch
from convext.commands import arguments
from convext.problem.roofline import Peaks

OUT = Path("out")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `bench`. Without any it times all layers on the best device there is."""
    what = parser.add_argument_group("what is timed")
    what.add_argument("--layers", nargs="+", metavar="WORD", help="those with a word in their id, name or family")
    what.add_argument("--set", choices=["all", "models", "anchors"], help="real networks', or published (default: all)")
    what.add_argument("--sweep", choices=list(SWEEPS), help="a grid of sizes instead: fprop, or --work")
    what.add_argument("--work", nargs="+", choices=WORK, help="faces, and the training step (default: all)")
    what.add_argument("--dtype", choices=list(DTYPES), help="of all layers, whatever the tables say")
    what.add_argument("--compiled", action="store_true", help="torch.compile's paths, flag-gems too: seconds for each")
    what.add_argument("--device", type=arguments.device, metavar="{cpu,cuda}", help="default: cuda where there is one")
    what.add_argument(
        "--minutes", type=arguments.positive, help="begin no case after this (default: 3.5 on a CPU, 7.5 on a GPU)"
    )
    what.add_argument(
        "--patience", type=arguments.positive, metavar="SECONDS",
        help=f"kill what hangs in one check or sample (default: {PATIENCE})",
    )  # fmt: skip
    what.add_argument(
        "--warm", type=arguments.count, metavar="N", help="first compile, in N processes, for half of --minutes"
    )
    what.add_argument("--out", type=Path, help=f"folder for results and pictures (default: {OUT})")
    other = parser.add_argument_group("instead of timing layers").add_mutually_exclusive_group()
    other.add_argument(
        "--compare", nargs=2, type=arguments.existing, metavar=("BEFORE", "AFTER"), help="two results files"
    )
    other.add_argument(
        "--report", type=arguments.existing, metavar="RESULTS", help="page and pictures of a results file"
    )
    other.add_argument("--overhead", action="store_true", help="host time of a layer's call against torch.nn's")
    other.add_argument(
        "--networks", nargs="*", metavar="WORD",
        help="whole networks before and after convext.convert: all, or those with a word in their name",
    )  # fmt: skip
    parser.add_argument("--autocast", action="store_true", help="with --networks: in autocast regions in bfloat16")
    parser.add_argument(
        "--fail-below", type=arguments.positive, metavar="RATIO", help="with --compare: fail where speed fell below"
    )


def main(args: argparse.Namespace) -> int:
    """Does what the arguments ask for; returns 0, or 1 where a result disagreed or a comparison failed."""
    _refuse_what_is_not_read(args)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        if args.compare:
            before, after = args.compare
            return compare.main(before, after, args.fail_below)
        if args.report:
            from convext.benchmarks.reporting import report

            return report.main(args.report, args.out or OUT)
    except ValueError as error:
        args.refuse(str(error))
    except ModuleNotFoundError as error:
        args.refuse(f"{error}: pip install 'convext[plots]'")
    if args.overhead:
        from convext.benchmarks.measuring import overhead

        return overhead.main()
    if args.networks is not None:
        from convext.benchmarks.measuring import networks

        if not networks.named(args.networks):
            args.refuse(f"no network has one of {args.networks} in its name: {', '.join(networks.builders())}")
        return networks.main(device, args.minutes, args.networks, args.autocast)
    return _bench(args, device)


# What is read by a mode that times no layers; it would ignore the rest.
_READ = {
    "compare": {"fail_below"},
    "report": {"out"},
    "overhead": set[str](),
    "networks": {"device", "minutes", "autocast"},
}
_OF_LAYERS = ("layers", "set", "sweep", "work", "dtype", "compiled", "device", "minutes", "patience", "warm", "out")


def _refuse_what_is_not_read(args: argparse.Namespace) -> None:
    """Ends with a line where an option would be ignored."""
    mode = next((mode for mode in _READ if getattr(args, mode) not in (None, False)), None)
    if args.sweep and args.layers:
        args.refuse("--layers picks from the tables, --sweep times a grid of its own: give one of them")
    for name in (*_OF_LAYERS, "fail_below", "autocast"):
        if getattr(args, name) not in (None, False) and name not in (_READ[mode] if mode else _OF_LAYERS):
            option, readers = f"--{name.replace('_', '-')}", [other for other in _READ if name in _READ[other]]
            args.refuse(f"--{mode} does not read {option}" if mode else f"{option} is for --{readers[0]}")


def _bench(args: argparse.Namespace, device: str) -> int:
    if device == "cpu":
        torch.set_num_threads(1)  # as in the processes that measure
    plan, out = Plan.of(device), args.out or OUT
    if args.minutes is not None:
        plan = replace(plan, minutes=args.minutes)
    layers = sweep_layers(args.sweep) if args.sweep else _layers(args.set, args.layers)
    if args.dtype:
        plan = replace(plan, dtype=DTYPES[args.dtype])
        layers = [replace(layer, dtype=plan.dtype) for layer in layers]
    cases = plan.cases(layers, args.work or (("fprop",) if args.sweep else WORK))
    if not cases:
        args.refuse(f"no layer has one of {args.layers} in its id, name or family")
    peaks = peaks_of(device, {case.dtype for case in cases}, int(plan.bytes) if device == "cpu" else 2**30)
    path = default_path(out, device)
    if args.warm and plan.device == "cuda":  # on a CPU nothing is compiled
        jobs = distinct(calls_of(cases, arch(torch.device("cuda", torch.cuda.current_device()))))
        print(f"{warm(jobs, args.warm, 30 * plan.minutes)} of {len(jobs)} launches are compiled")
    rows, interrupted = _run(cases, plan, peaks, args, path)
    _show(rows, cases, plan, peaks)
    print(f"results: {path}")
    _report(path, out)
    if interrupted:
        print("interrupted: the results so far are written")
        return 130
    return 1 if table.failures(rows) else 0


def _layers(which: str, words: Sequence[str] | None) -> list[Layer]:
    layers = (model_layers() if which != "anchors" else []) + (anchor_layers() if which != "models" else [])
    if words is None:
        return layers
    return [
        layer
        for layer in layers
        if any(word == layer.id or word in layer.name or word == layer.family for word in words)
    ]


def _run(cases: list[Case], plan: Plan, peaks: Peaks, args: argparse.Namespace, path: Path) -> tuple[list[Row], bool]:
    """Measures, writing each row as it comes. The rows so far and whether Ctrl-C ended it."""
    rows: list[Row] = []
    begin = time.monotonic()
    interrupted = False
    with Writer(path, describe(plan.device, peaks)) as writer, table.Progress(len(cases), plan.minutes) as progress:
        try:
            for row in run(cases, plan, peaks, args.compiled, args.patience or PATIENCE):
                writer.row(row)
                rows.append(row)
                progress.step(f"{row.name} {row.work}")
                for line in table.failures([row]):
                    progress.say(line)
        except KeyboardInterrupt:
            interrupted = True
        else:
            left_out = [case.name for case in cases[len(rows) :]]
            state = gpu_state() if plan.device == "cuda" else {}
            writer.end({"seconds": round(time.monotonic() - begin, 1), "left_out": left_out, "gpu": state})
    return rows, interrupted


def _show(rows: list[Row], cases: list[Case], plan: Plan, peaks: Peaks) -> None:
    table.show(("layer", *table.COLUMNS), table.lines(rows), f"{peaks.name}: convext's speed relative to torch's")
    print(table.LEGEND)
    table.show(("family", *table.COLUMNS), table.families(rows), "speed relative to torch's")
    print(table.MEANS)
    if plan.device == "cpu":
        print(*table.whose(rows), sep="\n")
        print("Measured on a CPU: GPU kernels were not run. Batches and maps were cut as the table says. Where convext")
        print("ran torch's own kernels, what is missing to 1.00x is the call's own cost, and the machine's noise.")
    print(f"Ideal time: {peaks.source}: {peaks.bandwidth / 1e9:,.0f} GB/s,", _rates(peaks))
    if len(rows) < len(cases):
        print(f"{len(cases) - len(rows)} of {len(cases)} cases were not begun (--minutes gives more time)")
    failed = table.failures(rows)
    if failed:
        print(f"{len(failed)} results disagreed with float64, or raised, and were not timed:", *failed, sep="\n  ")


def _rates(peaks: Peaks) -> str:
    return ", ".join(f"{name} {rate / 1e12:,.3g} TFLOP/s" for name, rate in peaks.rates.items())


def _report(path: Path, out: Path) -> None:
    """The page and pictures, where matplotlib is installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        print("no pictures: pip install 'convext[plots]'")
        return
    from convext.benchmarks.reporting import report

    report.main(path, out)
