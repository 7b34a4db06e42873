"""What the offline inspection sees in machine code, and what it holds against it."""

import json
import os
import subprocess
import sys

import pytest
import torch

from convext.benchmarks.inspect import Instruction, complaints, hottest_loop, merged, part

FINE = {"spills": 0, "per_output": 10.0, "warnings": []}


def table(**kernels: dict[str, object]) -> dict[str, object]:
    return {"triton": "", "kernels": {"sm_90": kernels}}


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"spills": 8}, "sm_90 k: spills 8 bytes a thread, 0 before"),
        ({"per_output": 11.6}, "sm_90 k: 11.6 instructions an output, 10.0 before"),
        ({"warnings": ["C7515"]}, "sm_90 k: ptxas says C7515"),
    ],
)
def test_what_fails_the_check(changed: dict[str, object], complaint: str) -> None:
    assert complaints(table(k={**FINE, **changed}), table(k=FINE)) == [complaint]
    assert complaints(table(k=FINE), table(k={**FINE, **changed})) == []


def test_a_kernel_that_only_one_side_has() -> None:
    assert complaints(table(k=FINE, new=FINE), table(k=FINE)) == ["sm_90 new: only in the code: write it anew"]
    assert complaints(table(k=FINE), table(k=FINE, old=FINE)) == ["sm_90 old: only in the table: write it anew"]


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


def test_a_depthwise_kernel_moves_16_bytes_at_a_time() -> None:
    """Compiled for Hopper in a process of its own, since kernels are interpreted in this one."""
    pytest.importorskip("triton", reason="Triton is not installed")
    program = """
import json
from dataclasses import asdict
from convext.benchmarks.inspect import inspect
from convext.triton_kernels import stencil
(found,) = (s for s in stencil.specimens(90) if s.name == "stencil.fprop causal 4 bfloat16 NCHW")
print(json.dumps(asdict(inspect(found, 90))))
"""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout)
    assert figures["spills"] == 0
    assert figures["opcodes"]["LDG.E.128"] == figures["opcodes"]["STG.E.128"] == 1
    # 8 outputs a thread; kernels written by hand for this layout take about 20 instructions for each.
    assert 0 < figures["per_output"] < 25


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are interpreted where there is no GPU only")
def test_interpreted_kernels_are_refused() -> None:
    command = [sys.executable, "-m", "convext.benchmarks.inspect", "--check"]
    done = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "TRITON_INTERPRET=1 is set" in done.stderr
