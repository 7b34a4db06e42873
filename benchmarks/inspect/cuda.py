"""What nvcc made of the CUDA kernels: registers, spills, occupancy, access widths and tensor-core instructions.

    python -m convext.benchmarks.inspect.cuda            reads the built library and writes results/inspect_cuda.json
    python -m convext.benchmarks.inspect.cuda --check    reads it, and compares with the committed file

`--check` fails where a kernel spills more than in the committed file, where one appeared or went, where its registers
grew by more than 15%, where its accesses to global memory became narrower, or where it lost its tensor-core
instructions.
"""

from __future__ import annotations

import argparse
import bisect
import collections
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from convext.benchmarks.inspect.sass import GROWTH, Instruction, hottest_loop, tool
from convext.benchmarks.inspect.show import occupancy
from convext.providers.cuda import native

RESULTS = Path(__file__).parents[1] / "results" / "inspect_cuda.json"
ARCHITECTURE = "sm_90a"
RESERVED = 1024  # bytes of shared memory that the system takes of every block; cuobjdump counts them
Table = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Kernel:
    """What machine code says about one kernel.

    Attributes:
        registers: of a thread.
        spills: bytes of a thread's stack.
        threads: of a block, at most.
        shared: bytes of static shared memory of a block.
        blocks: that a multiprocessor holds at a time, for `threads`, `registers` and `shared`; dynamic shared memory,
            which only a launch knows, may allow fewer.
        instructions: that the kernel consists of.
        load, store: bits of the widest access to global memory; cp.async counts as a load.
        mma: tensor-core instructions.
        per_step: of a stencil's loop over rows, instructions an element of the row that it completes, as a thread
            executes them where nothing follows its sums; None for other kernels, whose loops depend on the problem.
    """

    registers: int
    spills: int
    threads: int
    shared: int
    blocks: int
    instructions: int
    load: int
    store: int
    mma: int
    per_step: float | None


def _dump(library: Path, *options: str) -> str:
    command = [tool("cuobjdump"), *options, "-arch", ARCHITECTURE, str(library)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _names(mangled: Sequence[str]) -> dict[str, str]:
    """Kernel names as they stand in the sources, without namespaces and parameters."""
    plain = subprocess.run(["c++filt"], input="\n".join(mangled), capture_output=True, text=True, check=True).stdout
    shorten = re.compile(r"\((?:int|bool)\)|convext::|^void |__nv_|\(convext::.*\)$")
    return {old: shorten.sub("", new) for old, new in zip(mangled, plain.splitlines(), strict=True)}


def _functions(sass: str) -> Iterator[tuple[str, list[Instruction], dict[str, int]]]:
    """Each function's mangled name, instructions, and the targets of its branches as indices among them."""
    for part in sass.split("Function : ")[1:]:
        name, _, body = part.partition("\n")
        instructions: list[Instruction] = []
        labels: dict[str, int] = {}
        for line in re.finditer(r"/\*([0-9a-f]{4,})\*/\s+(@\S+\s+)?([A-Z][\w.]*)(.*?);", body):
            address, predicate, opcode, operands = line.groups()
            labels[f".L{int(address, 16):x}"] = len(instructions)
            if opcode != "NOP" and predicate != "@!PT ":
                instructions.append((opcode, opcode + operands.replace("0x", ".L")))
        yield name.strip(), instructions, labels


def _elements_of_a_step(kernel: str) -> int | None:
    """Elements that a thread of a stencil completes with each step down its rows; None for other kernels."""
    tile = re.match(
        r"stencil(?:_backward)?_kernel<(?:RowTile|StridedTile)<\w+, Taps<\d+, \d+, \d+, (\d+), \d+, \d+>, "
        r"(true|false|0|1), (\d+)(?:, (\d+))?>",
        kernel,
    )
    if tile is None:
        return None
    stride = int(tile[1]) if tile[2] in ("true", "1") else 1  # of a transposed stencil: rows that a step completes
    columns = int(tile[4]) if tile[4] else stride
    return int(tile[3]) * columns * stride


def _bare(instructions: list[Instruction], labels: dict[str, int]) -> tuple[list[Instruction], dict[str, int]]:
    """Without what follows a sum: the most that a branch jumps over around a power of two, but no store."""
    skipped = set[int]()
    for at, (opcode, _) in enumerate(instructions):
        if opcode == "MUFU.EX2" and at not in skipped:
            ends = ((i, labels.get(_target(text), i)) for i, (_, text) in enumerate(instructions[:at]))
            around = [range(i + 1, end) for i, end in ends if end > at]
            alone = [r for r in around if not any(instructions[i][0].startswith("STG") for i in r)]
            longest = max(alone, key=len, default=range(0))
            skipped.update(longest)
    kept = [i for i in range(len(instructions)) if i not in skipped]
    moved = {label: bisect.bisect_left(kept, i) for label, i in labels.items()}
    return [instructions[i] for i in kept], moved


def _target(text: str) -> str:
    found = re.search(r"\.L\w+", text) if text.startswith("BRA") else None
    return found[0] if found else ""


def _threads(elf: str) -> dict[str, int]:
    """Threads of each kernel's block, by mangled name: its launch bounds."""
    pattern = re.compile(r"(\S+)\n.*?EIATTR_MAX_THREADS\s+Format:\s+\w+\s+Value:\s+(\w+) (\w+) (\w+)", re.DOTALL)
    found = [pattern.match(part) for part in elf.split("\n.nv.info.")[1:]]
    return {bounds[1]: math.prod(int(size, 16) for size in bounds.groups()[1:]) for bounds in found if bounds}


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
    bodies = {name: (code, labels) for name, code, labels in _functions(_dump(library, "-sass"))}
    threads = _threads(_dump(library, "-elf"))
    names = _names(sorted(resources))
    rows: Table = {}
    for mangled, (registers, stack, shared) in resources.items():
        instructions, labels = bodies[mangled]
        opcodes = [opcode for opcode, _ in instructions]
        kinds = collections.Counter(opcode.partition(".")[0] for opcode in opcodes)
        static = shared - RESERVED
        blocks = occupancy(ARCHITECTURE.rstrip("a"), threads[mangled], registers, static)
        elements = _elements_of_a_step(names[mangled])
        loop = hottest_loop(*_bare(instructions, labels)) if elements else []
        per_step = round(len(loop) / elements, 2) if elements else None
        rows[names[mangled]] = asdict(
            Kernel(
                registers, stack, threads[mangled], static, blocks, len(opcodes),
                _width(opcodes, "LDG", "LDGSTS"), _width(opcodes, "STG"), kinds["HMMA"], per_step,
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
        prog="python -m convext.benchmarks.inspect.cuda", description=__doc__.split("\n")[0]
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
