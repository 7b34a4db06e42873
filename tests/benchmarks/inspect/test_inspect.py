"""What the offline inspection sees in machine code, and what it holds against it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from convext.benchmarks.inspect import cuda
from convext.benchmarks.inspect import specimens as command
from convext.benchmarks.inspect.sass import Figures, Instruction, hottest_loop, products, widest
from convext.benchmarks.inspect.show import occupancy
from convext.benchmarks.inspect.specimens import merged, part, stale, worse

FINE = {"fingerprint": "a", "spills": 0, "per_output": 10.0, "warnings": []}


def table(**kernels: dict[str, object]) -> dict[str, object]:
    return {"triton": "1", "kernels": {"sm_90": kernels}}


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"spills": 8}, "sm_90 k: spills 8 bytes a thread, 0 before"),
        ({"per_output": 11.6}, "sm_90 k: 11.6 instructions an output, 10.0 before"),
        ({"warnings": ["C7515"]}, "sm_90 k: ptxas says C7515"),
    ],
)
def test_what_is_worse(changed: dict[str, object], complaint: str) -> None:
    assert worse(table(k={**FINE, **changed}), table(k=FINE)) == [complaint]
    assert worse(table(k=FINE), table(k={**FINE, **changed})) == []


def test_what_is_stale() -> None:
    fine = table(k=FINE)
    assert stale(fine, fine) == []
    assert stale(table(k=FINE, new=FINE), fine) == ["sm_90 new: only in the code: write it anew"]
    assert stale(fine, table(k=FINE, old=FINE)) == ["sm_90 old: only in the table: write it anew"]
    assert stale(table(k={"fingerprint": "b"}), fine) == ["sm_90 k: compiled from another source: write it anew"]
    assert stale(fine, {**fine, "triton": "0"}) == ["the table is from Triton 0, and this is 1: write it anew"]


def test_only_what_changed_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = Figures(128, 32, 0, 0, 100, 10, per_output=1.0, per_step=0.5, opcodes={})
    monkeypatch.setattr(command, "_specimens", lambda family, arch: [None])
    monkeypatch.setattr(command, "fingerprint", lambda specimen, arch: "b")
    monkeypatch.setattr(command, "inspect", lambda specimen, arch: figures)
    same, changed = {"fingerprint": "b", "registers": 7}, {"fingerprint": "a", "registers": 7}
    assert command._row("k", 90, 0, same, compiling=True) is same
    for before in (changed, None):
        compiled = command._row("k", 90, 0, before, compiling=True)
        assert (compiled["fingerprint"], compiled["registers"]) == ("b", 32)
        assert command._row("k", 90, 0, before, compiling=False) == {"fingerprint": "b"}


def test_part_of_a_table_is_replaced_alone() -> None:
    families = ["convext.triton_kernels.k"]
    whole = {"triton": "1", "kernels": {"sm_80": {"k.a": 1}, "sm_90": {"k.a": 1, "k.gone": 1, "other.a": 1}}}
    assert part(whole, families, [90])["kernels"] == {"sm_90": {"k.a": 1, "k.gone": 1}}
    assert merged(whole, {"triton": "2", "kernels": {"sm_90": {"k.a": 2}}}, families) == {
        "triton": "2",
        "kernels": {"sm_80": {"k.a": 1}, "sm_90": {"other.a": 1, "k.a": 2}},
    }


def test_the_hottest_loop_is_the_inner_one_with_the_arithmetic() -> None:
    code: list[Instruction] = [
        ("MOV", "MOV R0, R1"),  # .L_outer
        ("LDG.E", "LDG.E R2, [R0]"),  # .L_copy
        ("BRA", "BRA `(.L_copy)"),
        ("FFMA", "FFMA R3, R2, R2, R3"),  # .L_inner
        ("BRA", "@P0 BRA `(.L_inner)"),
        ("BRA", "@P1 BRA `(.L_outer)"),
        ("EXIT", "EXIT"),
        ("BRA", "BRA `(.L_end)"),  # .L_end: padding
    ]
    labels = {".L_outer": 0, ".L_copy": 1, ".L_inner": 3, ".L_end": 7}
    assert hottest_loop(code, labels) == code[3:5]
    assert hottest_loop(code[6:], {".L_end": 1}) == []


def test_widths_and_products_are_read_from_opcodes() -> None:
    opcodes = {"LDG.E.U16": 8, "LDG.E": 2, "LDGSTS.E.BYPASS.128": 4, "STG.E.64": 1, "HMMA.16816.F32.BF16": 3, "HMMA": 1}
    assert widest(opcodes, "LDG", "LDGSTS") == 128
    assert widest(opcodes, "LDG") == 32
    assert widest({"LDG.E.U16.CONSTANT": 1}, "LDG") == 16
    assert widest(opcodes, "STG") == 64
    assert widest(opcodes, "STS") == 0
    assert products(opcodes) == "HMMA 4"
    assert products({"FFMA": 9}) == ""


@pytest.mark.parametrize(
    ("where", "threads", "registers", "shared", "blocks"),
    [
        ("sm_90", 256, 32, 0, 8),  # all 64 warps
        ("sm_90", 32, 16, 0, 32),  # as many blocks as there may be
        ("sm_90", 128, 64, 0, 8),  # 65,536 registers / (128 * 64)
        ("sm_90", 128, 168, 0, 3),  # one more register a thread than fits three blocks would be 170
        ("sm_90", 128, 169, 0, 2),  # counts as 176
        ("sm_90", 256, 255, 0, 1),
        ("sm_90", 128, 90, 98_304, 2),  # 228 KB / (96 + 1 KB)
        ("sm_90", 256, 64, 227 << 10, 1),  # what one block may have at most
        ("sm_80", 256, 64, 81 << 10, 2),  # 164 KB / (81 + 1 KB)
        ("sm_120", 128, 32, 0, 12),  # all 48 warps
        ("sm_120", 128, 64, (99 << 10) + 16, 0),  # more than one block may have
    ],
)
def test_occupancy(where: str, threads: int, registers: int, shared: int, blocks: int) -> None:
    """By the rules of NVIDIA's occupancy calculator."""
    assert occupancy(where, threads, registers, shared) == blocks


# ------------------------------------------------------------------------- compiled, in processes of their own


def python(program: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Runs a program where kernels are compiled, not interpreted as in this process."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-c", program], env={**environment, **more}, capture_output=True, text=True, check=True
    )


HELPER = """
import triton
import triton.language as tl

@triton.jit
def helper(x):
    return x {op} 2.0

@triton.jit
def kernel(x, y, B: tl.constexpr):
    {comment}
    i = tl.arange(0, B)
    tl.store(y + i, helper(tl.load(x + i)))
"""
PRINT_FINGERPRINT = """
import kernels, torch
from convext.benchmarks.inspect.triton import fingerprint
from convext.triton_kernels.launch import Launch, Specimen
x = torch.empty(64, device="meta")
launch = Launch(kernels.kernel, 1, (x, x), {"B": 64}, warps=WARPS)
print(fingerprint(Specimen("k", None, launch, 64), 90))
"""


def test_a_fingerprint_is_of_what_the_figures_depend_on(tmp_path: Path) -> None:
    """The same in every process and for every comment; another one where only a helper changed, or the launch."""
    pytest.importorskip("triton", reason="Triton is not installed")

    def printed(op: str = "*", comment: str = "# one", warps: int = 4) -> str:
        (tmp_path / "kernels.py").write_text(HELPER.format(op=op, comment=comment))
        paths = os.pathsep.join([str(tmp_path), *sys.path])
        program = PRINT_FINGERPRINT.replace("WARPS", str(warps))
        return python(program, PYTHONPATH=paths, PYTHONDONTWRITEBYTECODE="1").stdout.strip()

    first = printed()
    assert len(first) == 16
    assert printed(comment="# two\n    # lines") == first
    assert len({first, printed(op="+"), printed(warps=8)}) == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are interpreted where there is no GPU only")
def test_interpreted_kernels_are_refused() -> None:
    command = [sys.executable, "-m", "convext.benchmarks.inspect", "--check"]
    done = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "TRITON_INTERPRET=1 is set" in done.stderr


def test_what_follows_a_sum_is_no_part_of_its_step():
    """The most that is jumped over around a power of two without the store, of what a loop over rows has."""
    follows = [("BRA", "BRA .L9"), ("BRA", "BRA .L8"), ("MUFU.EX2", "MUFU.EX2 R0, R0"), ("FADD", "FADD R0, R0, R1")]
    loop = [("FFMA", "FFMA"), ("BRA", "BRA .L10"), *follows, ("STG", "STG"), ("BRA", "BRA .L0")]
    labels = {".L0": 0, ".L8": 5, ".L9": 6, ".L10": 7}
    bare, moved = cuda._bare(loop, labels)
    assert [opcode for opcode, _ in bare] == ["FFMA", "BRA", "BRA", "STG", "BRA"]
    assert moved == {".L0": 0, ".L8": 3, ".L9": 3, ".L10": 4}
    assert cuda._bare(bare, moved) == (bare, moved)
