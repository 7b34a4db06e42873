"""What the kernels became: registers, spills, memory accesses and instructions an output, without a GPU.

    python -m convext.benchmarks.inspect            compiles every specimen and writes results/inspect.json
    python -m convext.benchmarks.inspect --check    compiles, and compares with the committed file

`--family stencil` and `--arch 90` restrict either to some rows.

A module of kernels takes part by being listed in FAMILIES and exporting

    def specimens(arch: int) -> Iterator[Specimen]      (Specimen and Launch: convext.triton_kernels.launch)

with one specimen for each kernel x tile that it would run on compute capability `arch` / 10: a launch with its tensors
on "meta", made by the function that makes the real ones. Triton compiles it for that architecture, and the figures are
read from the machine code by the disassembler that comes with Triton. `figures_of_cubin` reads any other cubin, nvcc's
too.

`--check` fails where a kernel spills more than in the committed file, where ptxas reports serialised tensor-core
instructions (C75xx) that it did not before, or where the instructions an output grew by more than 15%. Triton's version
decides much of this, so the file names the one it is from.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from convext.triton_kernels.launch import Launch, Specimen

FAMILIES = tuple(f"convext.triton_kernels.{name}" for name in ("stencil", "pointwise", "igemm", "grouped"))
ARCHITECTURES = (80, 90, 120)
RESULTS = Path(__file__).parent / "results" / "inspect.json"
GROWTH = 1.15

# Opcodes that the table counts, with their widths: memory, barriers, and arithmetic. Loops are ranked by the latter.
ARITHMETIC = ("FFMA", "FFMA2", "FMUL", "FADD", "HFMA2", "DFMA", "HMMA", "HGMMA", "DMMA", "UTCHMMA")
MEMORY = ("LDG", "STG", "LDS", "STS", "LDSM", "STSM", "LDL", "STL", "LDGSTS", "UTMALDG", "UTMASTG", "SHFL", "BAR")
COUNTED = (*MEMORY, *ARITHMETIC)
Instruction = tuple[str, str]  # opcode, and the whole text


@dataclass(frozen=True)
class Figures:
    """What machine code says about one kernel.

    Attributes:
        registers: of a thread.
        shared: bytes of a block.
        spills: bytes of a thread's stack.
        instructions: that the kernel consists of.
        loop: of these, in its hottest loop; 0 where it has none.
        per_output: instructions that the threads of a block execute, over the outputs of a block.
        opcodes: how often each of COUNTED stands in the kernel.
        warnings: codes of what ptxas says about serialised instructions.
    """

    registers: int
    shared: int
    spills: int
    instructions: int
    loop: int
    per_output: float
    opcodes: dict[str, int]
    warnings: tuple[str, ...] = ()


# ------------------------------------------------------------------------------------------------ machine code


def _tool(name: str) -> str:
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

        text, usage = output(_tool("nvdisasm"), "-c"), output(_tool("cuobjdump"), "-res-usage")
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


def figures_of_cubin(cubin: bytes, threads: int, outputs: float, trips: int, shared: int | None = None) -> Figures:
    """Figures of a kernel, from its machine code.

    Args:
        cubin: of one kernel, whoever compiled it.
        threads: of a block.
        outputs: results that a block writes.
        trips: of its hottest loop. ptxas may unroll that: then it is counted with its copies, and so too often.
        shared: bytes of dynamic shared memory; None: what the cubin says.
    """
    instructions, labels, registers, static, stack = disassemble(cubin)
    loop = hottest_loop(instructions, labels)
    issued = len(instructions) + len(loop) * (trips - 1 if loop else 0)
    counts = collections.Counter(opcode for opcode, _ in instructions if opcode.split(".")[0] in COUNTED)
    return Figures(
        registers, static if shared is None else shared, stack, len(instructions), len(loop),
        round(issued * threads / outputs, 2), dict(sorted(counts.items())),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------ Triton


def _signature(launch: Launch) -> tuple[dict[str, Any], dict[tuple[int, ...], Any], dict[tuple[int, ...], Any]]:
    """(types, constants, divisibility) of a launch's arguments, specialised as Triton does when it launches."""
    from triton.runtime.jit import mangle_type

    constants: dict[tuple[int, ...], Any] = {}
    hints: dict[tuple[int, ...], Any] = {}

    def type_of(value: Any, path: tuple[int, ...]) -> Any:
        if isinstance(value, tuple):
            return tuple(type_of(element, (*path, i)) for i, element in enumerate(value))
        if value is None or (isinstance(value, int) and value == 1):
            constants[path] = value
            return "constexpr"
        if isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0):
            hints[path] = [["tt.divisibility", 16]]
        return mangle_type(value)

    names = launch.kernel.arg_names  # type: ignore[attr-defined]
    types = {name: type_of(value, (i,)) for i, (name, value) in enumerate(zip(names, launch.arguments, strict=False))}
    for name, value in launch.constants.items():
        types[name] = "constexpr"
        constants[(names.index(name),)] = value
    return {name: types[name] for name in names}, constants, hints


def inspect(specimen: Specimen, arch: int) -> Figures:
    """Compiles a specimen for compute capability `arch` / 10, and reads what became of it."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    launch = specimen.launch
    types, constants, hints = _signature(launch)
    compiled = triton.compile(
        ASTSource(launch.kernel, signature=types, constexprs=constants, attrs=hints),
        target=GPUTarget("cuda", arch, 32),
        options={"num_warps": launch.warps, "num_stages": launch.stages},
    )
    # A producer warp beside the kernel's own, where the compiler adds one, waits most of the time.
    found = figures_of_cubin(
        compiled.asm["cubin"], 32 * launch.warps, specimen.outputs, specimen.trips, compiled.metadata.shared
    )
    return replace(found, warnings=_warnings(compiled.asm["ptx"], arch))


def _warnings(ptx: str, arch: int) -> tuple[str, ...]:
    """The codes of ptxas' C75xx remarks: it serialised asynchronous tensor-core instructions."""
    if "wgmma" not in ptx and "tcgen05" not in ptx:
        return ()
    target = re.search(r"^\.target (\w+)", ptx, re.MULTILINE)
    assert target is not None
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        ptxas = _tool("ptxas-blackwell" if arch >= 100 else "ptxas")
        command = [ptxas, "-v", f"--gpu-name={target[1]}", file.name, "-o", os.devnull]
        said = subprocess.run(command, capture_output=True, text=True, check=True)
    return tuple(sorted(set(re.findall(r"C75\d\d", said.stdout + said.stderr))))


# ------------------------------------------------------------------------------------------------------- table


@cache
def _specimens(family: str, arch: int) -> list[Specimen]:
    return list(importlib.import_module(family).specimens(arch))


def _row(family: str, arch: int, index: int) -> tuple[str, str, Figures]:
    specimen = _specimens(family, arch)[index]
    return f"sm_{arch}", specimen.name, inspect(specimen, arch)


def table(families: Sequence[str] = FAMILIES, architectures: Sequence[int] = ARCHITECTURES) -> dict[str, Any]:
    """Figures of every specimen: {"triton": version, "kernels": {"sm_90": {name: figures}}}."""
    import triton

    work = [(f, arch, i) for f in families for arch in architectures for i in range(len(_specimens(f, arch)))]
    kernels: dict[str, dict[str, Any]] = {f"sm_{arch}": {} for arch in architectures}
    with ProcessPoolExecutor() as pool:
        for where, name, figures in pool.map(_row, *zip(*work, strict=True)):
            assert name not in kernels[where], f"two specimens are called {name!r}"
            kernels[where][name] = asdict(figures)
    return {"triton": triton.__version__, "kernels": kernels}


def complaints(found: dict[str, Any], committed: dict[str, Any]) -> list[str]:
    """What `--check` holds against `found`, one line each."""
    lines = []
    for where, kernels in found["kernels"].items():
        before = committed["kernels"].get(where, {})
        for name in sorted(kernels.keys() | before.keys()):
            if name not in kernels or name not in before:
                lines.append(f"{where} {name}: only in the {'table' if name in before else 'code'}: write it anew")
                continue
            now, then = kernels[name], before[name]
            if now["spills"] > then["spills"]:
                lines.append(f"{where} {name}: spills {now['spills']} bytes a thread, {then['spills']} before")
            if set(now["warnings"]) - set(then["warnings"]):
                lines.append(f"{where} {name}: ptxas says {', '.join(now['warnings'])}")
            if now["per_output"] > GROWTH * then["per_output"]:
                lines.append(f"{where} {name}: {now['per_output']} instructions an output, {then['per_output']} before")
    return lines


def part(whole: dict[str, Any], families: Sequence[str], architectures: Sequence[int]) -> dict[str, Any]:
    """The rows of a table that belong to some families, by the first word of their names, and architectures."""
    words = tuple(family.rpartition(".")[2] + "." for family in families)
    kernels = {
        where: {name: row for name, row in whole["kernels"].get(where, {}).items() if name.startswith(words)}
        for where in (f"sm_{arch}" for arch in architectures)
    }
    return {**whole, "kernels": kernels}


def merged(whole: dict[str, Any], found: dict[str, Any], families: Sequence[str]) -> dict[str, Any]:
    """`whole` with the rows of `families` on the architectures of `found` replaced by those of `found`."""
    kernels = dict(whole["kernels"])
    for where, rows in found["kernels"].items():
        gone = part(whole, families, [int(where.removeprefix("sm_"))])["kernels"][where]
        kernels[where] = {**{name: row for name, row in kernels.get(where, {}).items() if name not in gone}, **rows}
    return {"triton": found["triton"], "kernels": kernels}


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
    committed = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"triton": "", "kernels": {}}
    found = table(families, architectures)
    if not options.check:
        RESULTS.write_text(_json(merged(committed, found, families)))
        return 0
    lines = complaints(found, part(committed, families, architectures))
    print("\n".join(lines) or "as committed, or better")
    return 1 if lines else 0


def _json(found: dict[str, Any]) -> str:
    """One line a kernel, so that a difference is one line too."""
    blocks = []
    for where, kernels in found["kernels"].items():
        rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(kernels[name])}" for name in sorted(kernels))
        blocks.append(f' "{where}": {{\n{rows}\n }}')
    return '{"triton": ' + json.dumps(found["triton"]) + ',\n"kernels": {\n' + ",\n".join(blocks) + "\n}}\n"


if __name__ == "__main__":
    sys.exit(main())
