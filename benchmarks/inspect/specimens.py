"""What the kernels became: registers, spills, memory accesses and instructions an output, without a GPU.

    python -m convext.benchmarks.inspect            compiles what changed, writes results/inspect.json, prints the table
    python -m convext.benchmarks.inspect --check    compiles nothing: says whether the file is of this source

`--family stencil` and `--arch 90` restrict either to some rows. Without them, both also look at the compiled CUDA
library, where there is one (cuda.py).

A module of Triton kernels takes part by being listed in FAMILIES and exporting

    def specimens(arch: int) -> Iterator[Specimen]      (Specimen and Launch: convext.triton_kernels.launch)

with one specimen for each kernel x tile that it would run on compute capability `arch` / 10: a launch with its tensors
on "meta", made by the function that makes the real ones. Triton compiles it for that architecture, and the figures are
read from the machine code (inspect_sass.py).

Each row carries the fingerprint of the source that it was compiled from (inspect_triton.py). CI compares these, so that
the committed figures are those of the committed kernels, and a slower kernel shows as a line of the file's difference.
Triton's version decides much of this, so the file names the one it is from; another one compiles everything anew.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convext.benchmarks.inspect.sass import GROWTH
from convext.benchmarks.inspect.show import show_cuda, show_triton
from convext.benchmarks.inspect.triton import fingerprint, inspect
from convext.providers.cuda import native

if TYPE_CHECKING:
    from convext.triton_kernels.launch import Specimen

NAMES = ("stencil", "banded", "pointwise", "igemm", "grouped", "separable", "causal", "passes")
FAMILIES = tuple(f"convext.triton_kernels.{name}" for name in NAMES)
ARCHITECTURES = (80, 90, 120)
RESULTS = Path(__file__).parents[1] / "results" / "inspect.json"

Row = dict[str, Any]  # the fields of Figures, and "fingerprint"
Table = dict[str, Any]  # {"triton": version, "kernels": {"sm_90": {name: Row}}}


@cache
def _specimens(family: str, arch: int) -> list[Specimen]:
    return list(importlib.import_module(f"{family}.specimens").specimens(arch))


def _row(family: str, arch: int, index: int, before: Row | None, compiling: bool) -> Row:
    """The row of one specimen: `before` where it is of this source, else compiled, or the fingerprint alone."""
    specimen = _specimens(family, arch)[index]
    now = fingerprint(specimen, arch)
    if before is not None and before["fingerprint"] == now:
        return before
    return {"fingerprint": now, **(asdict(inspect(specimen, arch)) if compiling else {})}


def table(committed: Table, families: Sequence[str], architectures: Sequence[int], compiling: bool = True) -> Table:
    """The table of these families and architectures, of which the rows that are not in `committed` are compiled.

    Without `compiling`, those consist of their fingerprint alone.
    """
    import triton

    rows = committed["kernels"] if committed["triton"] == triton.__version__ else {}
    kernels: dict[str, dict[str, Row]] = {f"sm_{arch}": {} for arch in architectures}
    work, names = [], []
    for family in families:
        for arch in architectures:
            for index, specimen in enumerate(_specimens(family, arch)):
                names.append((f"sm_{arch}", specimen.name))
                work.append((family, arch, index, rows.get(f"sm_{arch}", {}).get(specimen.name), compiling))
    assert len(set(names)) == len(names), "two specimens have one name"
    with ProcessPoolExecutor() as pool:
        for (where, name), row in zip(names, pool.map(_row, *zip(*work, strict=True)), strict=True):
            kernels[where][name] = row
    return {"triton": triton.__version__, "kernels": kernels}


def stale(found: Table, committed: Table) -> list[str]:
    """Where `committed` is not of the source that `found` is of, one line each."""
    if found["triton"] != committed["triton"]:
        return [f"the table is from Triton {committed['triton']}, and this is {found['triton']}: write it anew"]
    lines = []
    for where, now, then in _by_architecture(found, committed):
        lines += [f"{where} {name}: only in the code: write it anew" for name in sorted(now.keys() - then.keys())]
        lines += [f"{where} {name}: only in the table: write it anew" for name in sorted(then.keys() - now.keys())]
        for name in sorted(now.keys() & then.keys()):
            if now[name]["fingerprint"] != then[name]["fingerprint"]:
                lines.append(f"{where} {name}: compiled from another source: write it anew")
    return lines


def worse(found: Table, before: Table) -> list[str]:
    """Rows with more spills, with serialised tensor-core instructions, or with 15% more instructions an output."""
    lines = []
    for where, now_rows, then_rows in _by_architecture(found, before):
        for name in sorted(now_rows.keys() & then_rows.keys()):
            now, then = now_rows[name], then_rows[name]
            if now["spills"] > then["spills"]:
                lines.append(f"{where} {name}: spills {now['spills']} bytes a thread, {then['spills']} before")
            if set(now["warnings"]) - set(then["warnings"]):
                lines.append(f"{where} {name}: ptxas says {', '.join(now['warnings'])}")
            if now["per_output"] > GROWTH * then["per_output"]:
                lines.append(f"{where} {name}: {now['per_output']} instructions an output, {then['per_output']} before")
    return lines


def _by_architecture(found: Table, before: Table) -> list[tuple[str, dict[str, Row], dict[str, Row]]]:
    """(architecture, rows of `found`, rows of `before`) for those of `found`."""
    return [(where, rows, before["kernels"].get(where, {})) for where, rows in found["kernels"].items()]


def part(whole: Table, families: Sequence[str], architectures: Sequence[int]) -> Table:
    """The rows of a table that belong to some families, by the first word of their names, and architectures."""
    words = tuple(family.rpartition(".")[2] + "." for family in families)
    kernels = {
        where: {name: row for name, row in whole["kernels"].get(where, {}).items() if name.startswith(words)}
        for where in (f"sm_{arch}" for arch in architectures)
    }
    return {**whole, "kernels": kernels}


def merged(whole: Table, found: Table, families: Sequence[str]) -> Table:
    """`whole` with the rows of `families` on the architectures of `found` replaced by those of `found`."""
    kernels = dict(whole["kernels"])
    for where, rows in found["kernels"].items():
        gone = part(whole, families, [int(where.removeprefix("sm_"))])["kernels"][where]
        kernels[where] = {**{name: row for name, row in kernels.get(where, {}).items() if name not in gone}, **rows}
    return {"triton": found["triton"], "kernels": kernels}


def read() -> Table:
    """The committed table; an empty one where there is none."""
    table: Table = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"triton": "", "kernels": {}}
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    words = {family.rpartition(".")[2]: family for family in FAMILIES}
    parser = argparse.ArgumentParser(prog="python -m convext.benchmarks.inspect", description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help=f"compare with {RESULTS.name} instead of writing it")
    parser.add_argument("--family", action="append", choices=words, help="only these rows")
    parser.add_argument("--arch", action="append", type=int, choices=ARCHITECTURES, help="only these rows")
    options = parser.parse_args(arguments)
    if os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("TRITON_INTERPRET=1 is set: interpreted kernels are not compiled")
    families = [words[word] for word in options.family or words]
    architectures = options.arch or ARCHITECTURES
    committed = read()
    asked_for = part(committed, families, architectures)
    found = table(committed, families, architectures, compiling=not options.check)
    lines = stale(found, asked_for) if options.check else worse(found, asked_for)
    if not options.check:
        RESULTS.write_text(_json(merged(committed, found, families)))
        show_triton(found["kernels"])
    print("\n".join(lines) or "Triton: as committed, or better")
    failed = bool(options.check and lines)
    if options.family or options.arch:
        return int(failed)
    return int(_cuda(options.check) or failed)


def _cuda(check: bool) -> int:
    """The same for the CUDA library."""
    from convext.benchmarks.inspect import cuda as inspect_cuda

    if reason := native.unavailable():
        print(f"CUDA: not looked at: {reason}")
        return 0
    failed = inspect_cuda.main(["--check"] if check else [])
    if not check:
        show_cuda(json.loads(inspect_cuda.RESULTS.read_text()))
    return failed


def _json(found: Table) -> str:
    """One line a kernel, so that a difference is one line too."""
    blocks = []
    for where, kernels in sorted(found["kernels"].items(), key=lambda item: int(item[0].removeprefix("sm_"))):
        rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(kernels[name])}" for name in sorted(kernels))
        blocks.append(f' "{where}": {{\n{rows}\n }}')
    return '{"triton": ' + json.dumps(found["triton"]) + ',\n"kernels": {\n' + ",\n".join(blocks) + "\n}}\n"


if __name__ == "__main__":
    sys.exit(main())
