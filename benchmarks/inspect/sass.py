"""Reads machine code: registers, spills, memory accesses and instructions an output, whoever compiled it.

The disassembler comes with Triton, and needs no GPU.
"""

from __future__ import annotations

import collections
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass

# Opcodes that the table counts, with their widths: memory, barriers, and arithmetic. Loops are ranked by the latter.
PRODUCTS = ("HMMA", "HGMMA", "DMMA", "UTCHMMA")  # of tensor cores
ARITHMETIC = ("FFMA", "FFMA2", "FMUL", "FADD", "HFMA2", "DFMA", *PRODUCTS)
MEMORY = ("LDG", "STG", "LDS", "STS", "LDSM", "STSM", "LDL", "STL", "LDGSTS", "UTMALDG", "UTMASTG", "SHFL", "BAR")
COUNTED = (*MEMORY, *ARITHMETIC)
Instruction = tuple[str, str]  # opcode, and the whole text
GROWTH = 1.15  # of a figure, beyond which it is worse


@dataclass(frozen=True)
class Figures:
    """What machine code says about one kernel.

    Attributes:
        threads: of a block.
        registers: of a thread.
        shared: bytes of a block.
        spills: bytes of a thread's stack.
        instructions: that the kernel consists of.
        loop: of these, in its hottest loop; 0 where it has none.
        per_output: instructions that the threads of a block execute, over the outputs of a block.
        per_step: those of the hottest loop alone, without the trips that only fill a window: what an output costs a
            block that slides for long. All of them where the kernel has no loop.
        opcodes: how often each of COUNTED stands in the kernel.
        warnings: codes of what ptxas says about serialised instructions.
    """

    threads: int
    registers: int
    shared: int
    spills: int
    instructions: int
    loop: int
    per_output: float
    per_step: float
    opcodes: dict[str, int]
    warnings: tuple[str, ...] = ()


def tool(name: str) -> str:
    """A program of NVIDIA's that comes with Triton."""
    import triton

    return os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin", name)


def disassemble(cubin: bytes) -> tuple[list[Instruction], dict[str, int], int, int, int]:
    """Instructions, labels as indices among them, registers, bytes of shared memory and of stack."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()

        def output(*command: str) -> str:
            return subprocess.run([*command, file.name], capture_output=True, text=True, check=True).stdout

        text, usage = output(tool("nvdisasm"), "-c"), output(tool("cuobjdump"), "-res-usage")
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := re.match(r"\s*(\.L\w+):", line):
            labels[label[1]] = len(instructions)
        elif found := re.search(r"/\*[0-9a-f]{4,}\*/\s+(@\S+\s+)?(\S+)(.*?);", line):
            predicate, opcode, operands = found.groups()
            if opcode != "NOP" and predicate != "@!PT ":
                instructions.append((opcode, opcode + operands))
    numbers = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+)", usage)
    assert numbers is not None, usage
    registers, stack, shared = map(int, numbers.groups())
    return instructions, labels, registers, shared, stack


def hottest_loop(instructions: list[Instruction], labels: dict[str, int]) -> list[Instruction]:
    """The innermost loop with at least half of the arithmetic of the busiest one; empty where there is no loop."""
    bodies = []
    for at, (opcode, text) in enumerate(instructions):
        target = re.search(r"(\.L\w+)", text) if opcode.startswith("BRA") else None
        if target and labels.get(target[1], at) < at:  # backwards; a branch to itself is padding after the end
            bodies.append(instructions[labels[target[1]] : at + 1])
    bodies = [body for body in bodies if not any(opcode == "EXIT" for opcode, _ in body)]
    busiest = max((_arithmetic(body) for body in bodies), default=0)
    return min((body for body in bodies if 2 * _arithmetic(body) >= busiest), key=len, default=[])


def _arithmetic(body: list[Instruction]) -> int:
    return sum(opcode.split(".")[0] in ARITHMETIC for opcode, _ in body)


def figures_of_cubin(
    cubin: bytes, threads: int, outputs: float, trips: int, filling: int = 0, shared: int | None = None
) -> Figures:
    """Figures of a kernel, from its machine code.

    Args:
        cubin: of one kernel, whoever compiled it.
        threads: of a block.
        outputs: results that a block writes.
        trips: of its hottest loop. ptxas may unroll that: then it is counted with its copies, and so too often.
        filling: of these, those that complete no output.
        shared: bytes of dynamic shared memory; None: what the cubin says.
    """
    instructions, labels, registers, static, stack = disassemble(cubin)
    loop = hottest_loop(instructions, labels)
    issued = len(instructions) + len(loop) * (trips - 1 if loop else 0)
    counts = collections.Counter(opcode for opcode, _ in instructions if opcode.split(".")[0] in COUNTED)
    return Figures(
        threads, registers, static if shared is None else shared, stack, len(instructions), len(loop),
        per_output=round(issued * threads / outputs, 2),
        per_step=round((len(loop) * (trips - filling) if loop else issued) * threads / outputs, 2),
        opcodes=dict(sorted(counts.items())),
    )  # fmt: skip


def widest(opcodes: Mapping[str, int], *kinds: str) -> int:
    """Bits of the widest of the accesses of these kinds; 0 where there is none."""
    widths = [0]
    for opcode in opcodes:
        kind, *suffixes = opcode.split(".")
        if kind in kinds:
            bits = [int(suffix.lstrip("US")) for suffix in suffixes if suffix in ("U8", "U16", "64", "128")]
            widths.append(bits[0] if bits else 32)
    return max(widths)


def products(opcodes: Mapping[str, int]) -> str:
    """Which tensor-core instructions there are, and how many: "HGMMA 4"; empty where there are none."""
    counts: collections.Counter[str] = collections.Counter()
    for opcode, count in opcodes.items():
        if (kind := opcode.split(".")[0]) in PRODUCTS:
            counts[kind] += count
    return ", ".join(f"{kind} {count}" for kind, count in counts.items())
