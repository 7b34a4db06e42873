"""What nvcc made of the CUDA kernels: registers, spills, access widths and tensor-core instructions, without a GPU.

    python -m convext.benchmarks.inspect_cuda            reads the built library and writes results/inspect_cuda.json
    python -m convext.benchmarks.inspect_cuda --check    reads it, and compares with the committed file

`--check` fails where a kernel spills more than in the committed file, where one appeared or went, where its registers
grew by more than 15%, where its accesses to global memory became narrower, or where it lost its tensor-core
instructions.
"""

from __future__ import annotations

import argparse
import collections
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from convext import native
from convext.benchmarks.inspect_sass import GROWTH, tool

RESULTS = Path(__file__).parent / "results" / "inspect_cuda.json"
ARCHITECTURE = "sm_90a"
Table = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Kernel:
    """What machine code says about one kernel.

    Attributes:
        registers: of a thread.
        spills: bytes of a thread's stack.
        shared: bytes of static shared memory of a block.
        instructions: that the kernel consists of.
        load, store: bits of the widest access to global memory; cp.async counts as a load.
        mma: tensor-core instructions.
    """

    registers: int
    spills: int
    shared: int
    instructions: int
    load: int
    store: int
    mma: int


def _dump(library: Path, *options: str) -> str:
    command = [tool("cuobjdump"), *options, "-arch", ARCHITECTURE, str(library)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _names(mangled: Sequence[str]) -> dict[str, str]:
    """Kernel names as they stand in the sources, without namespaces and parameters."""
    plain = subprocess.run(["c++filt"], input="\n".join(mangled), capture_output=True, text=True, check=True).stdout
    shorten = re.compile(r"\((?:int|bool)\)|convext::|^void |__nv_|\(convext::.*\)$")
    return {old: shorten.sub("", new) for old, new in zip(mangled, plain.splitlines(), strict=True)}


def _functions(sass: str) -> Iterator[tuple[str, list[str]]]:
    """Each function's mangled name and opcodes."""
    for part in sass.split("Function : ")[1:]:
        name, _, body = part.partition("\n")
        found = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(@\S+\s+)?([A-Z][\w.]*)", body)
        yield name.strip(), [opcode for predicate, opcode in found if opcode != "NOP" and predicate != "@!PT "]


def _width(opcodes: Sequence[str], *kinds: str) -> int:
    """Bits of the widest of these accesses."""
    widths = [32]
    for opcode in opcodes:
        kind, *suffixes = opcode.split(".")
        if kind in kinds:
            widths += [int(suffix) for suffix in suffixes if suffix in ("64", "128")]
    return max(widths)


def table(library: Path = native.LIBRARY) -> Table:
    """Every kernel of the library, for ARCHITECTURE: {name: Kernel's fields}."""
    usage = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+)", _dump(library, "-res-usage"))
    resources = {name: [int(number) for number in numbers] for name, *numbers in usage}
    bodies = dict(_functions(_dump(library, "-sass")))
    names = _names(sorted(resources))
    rows: Table = {}
    for mangled, (registers, stack, shared) in resources.items():
        opcodes = bodies[mangled]
        kinds = collections.Counter(opcode.partition(".")[0] for opcode in opcodes)
        rows[names[mangled]] = asdict(
            Kernel(
                registers, stack, shared, len(opcodes), _width(opcodes, "LDG", "LDGSTS"), _width(opcodes, "STG"),
                kinds["HMMA"],
            )
        )  # fmt: skip
    return dict(sorted(rows.items()))


def complaints(found: Table, committed: Table) -> list[str]:
    """What `--check` holds against `found`, one line each."""
    lines = [f"{name}: not in both tables; write it anew" for name in sorted(found.keys() ^ committed.keys())]
    for name in found.keys() & committed.keys():
        now, then = found[name], committed[name]
        if now["spills"] > then["spills"]:
            lines.append(f"{name}: spills {now['spills']} bytes a thread, {then['spills']} before")
        if now["registers"] > GROWTH * then["registers"]:
            lines.append(f"{name}: {now['registers']} registers, {then['registers']} before")
        lines += [f"{name}: {key} {now[key]}, {then[key]} before" for key in ("load", "store") if now[key] < then[key]]
        if (now["mma"] == 0) != (then["mma"] == 0):
            lines.append(f"{name}: {now['mma']} tensor-core instructions, {then['mma']} before")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m convext.benchmarks.inspect_cuda", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--check", action="store_true", help=f"compare with {RESULTS.name} instead of writing it")
    options = parser.parse_args(arguments)
    if reason := native.unavailable():
        parser.error(reason)
    found = table()
    if options.check:
        lines = complaints(found, json.loads(RESULTS.read_text()))
        print("\n".join(lines) or "as committed, or better")
        return 1 if lines else 0
    rows = ",\n".join(f" {json.dumps(name)}: {json.dumps(row)}" for name, row in found.items())
    RESULTS.write_text(f"{{\n{rows}\n}}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
