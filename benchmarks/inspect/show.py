"""The inspection's tables on the terminal: a line a kernel, and the blocks of it that share a multiprocessor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from convext.benchmarks.inspect.sass import products, widest
from convext.benchmarks.reporting.table import Cell, show


@dataclass(frozen=True)
class Multiprocessor:
    """What one holds at most: warps, blocks, and bytes of shared memory, of which each block reserves another 1,024."""

    warps: int
    blocks: int
    shared: int
    registers: int = 65_536


# From the table of technical specifications in NVIDIA's CUDA C++ programming guide.
MULTIPROCESSORS = {
    "sm_80": Multiprocessor(64, 32, 164 << 10),
    "sm_90": Multiprocessor(64, 32, 228 << 10),
    "sm_120": Multiprocessor(48, 24, 100 << 10),
}


def occupancy(where: str, threads: int, registers: int, shared: int) -> int:
    """Blocks that one multiprocessor holds at a time; 0 where it holds none.

    Args:
        where: "sm_90".
        threads: of a block, a multiple of 32.
        registers: of a thread. A warp takes a multiple of 256, and a quarter of the file serves a quarter of the warps.
        shared: bytes of a block.
    """
    has, warps = MULTIPROCESSORS[where], threads // 32
    of_a_warp = -(-max(registers, 1) * 32 // 256) * 256
    in_registers = has.registers // 4 // of_a_warp * 4 // warps
    return min(has.warps // warps, has.blocks, in_registers, has.shared // (shared + 1024))


HEADERS = ("kernel", "regs", "spills", "shared", "blocks", "load", "store", "tensor cores", "output", "step")


def show_triton(kernels: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Prints {"sm_90": {name: Figures' fields}}.

    Bytes of spills and of shared memory; blocks that a multiprocessor holds; bits of the widest access to global
    memory, or TMA; instructions an output, in all and in the hottest loop.
    """
    for where, rows in kernels.items():
        body = []
        for name, row in sorted(rows.items()):
            opcodes = row["opcodes"]
            blocks = occupancy(where, row["threads"], row["registers"], row["shared"])
            spills = Cell(f"{row['spills']}", "slower" if row["spills"] else "same")
            load = "TMA" if any(opcode.startswith("UTMALDG") for opcode in opcodes) else widest(opcodes, *LOADS)
            store = "TMA" if any(opcode.startswith("UTMASTG") for opcode in opcodes) else widest(opcodes, "STG")
            texts = (row["shared"], blocks, load, store, products(opcodes), row["per_output"], row["per_step"])
            body.append([Cell(name), Cell(str(row["registers"])), spills, *(Cell(str(text)) for text in texts)])
        show(HEADERS, body, f"Triton, {where}")


LOADS = ("LDG", "LDGSTS")


def show_cuda(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints {name: fields} of the CUDA library's kernels."""
    headers = tuple(next(iter(rows.values()), {}))
    body = [[Cell(name), *(Cell(str(row[field])) for field in headers)] for name, row in sorted(rows.items())]
    show(("kernel", *headers), body, "CUDA")
