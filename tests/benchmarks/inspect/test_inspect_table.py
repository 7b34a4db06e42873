"""The committed table of machine code: whose source it is, and that it holds what the kernels' design promises."""

import json
import os
import re
import subprocess
import sys
from typing import Any

import commits
import pytest

from convext.benchmarks.inspect.sass import GROWTH, widest
from convext.benchmarks.inspect.show import occupancy
from convext.benchmarks.inspect.specimens import ARCHITECTURES, FAMILIES, read

TABLE = read()
ROWS = [(where, name, row) for where, rows in TABLE["kernels"].items() for name, row in rows.items()]


def rows(pattern: str, *where: str) -> list[tuple[str, dict[str, Any]]]:
    """("sm_90 name", figures) of the kernels whose names match, on some architectures or on all."""
    found = [(f"{a} {name}", row) for a, name, row in ROWS if re.search(pattern, name) and (not where or a in where)]
    assert found, pattern
    return found


def kinds(row: dict[str, Any]) -> set[str]:
    return {opcode.split(".")[0] for opcode in row["opcodes"]}


# ------------------------------------------------------------------------------------------- of this source

COMPILED = """
import json, sys
import triton
from dataclasses import asdict
from convext.benchmarks.inspect.specimens import FAMILIES, ARCHITECTURES, _specimens, inspect, read, stale, table
committed = read()
same = committed["triton"] == triton.__version__
wanted, arch = json.loads(sys.argv[1]), int(sys.argv[2])
lines = stale(table(committed, FAMILIES, [arch], compiling=False), committed) if same else []
names = {f"sm_{arch}": sorted(s.name for f in FAMILIES for s in _specimens(f, arch)) for arch in ARCHITECTURES}
sample = [s for f in FAMILIES for s in _specimens(f, 90) if s.name in wanted]
print(json.dumps([same, lines, names, {} if lines else {s.name: asdict(inspect(s, 90)) for s in sample}]))
"""
SPECIMENS = (
    "stencil.fprop 3x3 bfloat16 NCHW",
    "stencil.wgrad 3x3 bfloat16 NHWC",
    "stencil.fprop causal 4 bfloat16 NCHW",
    "pointwise.fprop bfloat16 ieee NHWC 128x128",
    "pointwise.wgrad bfloat16 ieee NHWC 128x128",
    "igemm.fprop bfloat16 ieee boxes 128x128 of 128 bytes",
    "igemm.dgrad bfloat16 ieee NHWC 128x128 of 128 bytes",
    "igemm.wgrad bfloat16 ieee NHWC 128x128 of 128 bytes",
    "grouped.fprop 8 to 8 channels stride 1 bfloat16 ieee NHWC",
)
TURN = commits.number() % 3  # other rows for each commit
SAMPLE = SPECIMENS[TURN::3]


@pytest.mark.long
def test_the_table_is_of_this_source(tmp_path: Any) -> None:
    """Every row's name, an architecture's fingerprints, and the figures of a sample, compiled without Triton's cache.

    Under another Triton than the table's, fingerprints and figures are others: there the rows are the same, and the
    sample spills nothing either.
    """
    pytest.importorskip("triton", reason="Triton is not installed")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-c", COMPILED, json.dumps(SAMPLE), str(ARCHITECTURES[TURN])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    same, lines, names, sample = json.loads(done.stdout)
    assert lines == [], "python -m convext.benchmarks.inspect writes it anew"
    assert names == {where: sorted(kernels) for where, kernels in TABLE["kernels"].items()}
    assert sample.keys() == set(SAMPLE)
    for name, row in sample.items():
        committed = {key: value for key, value in TABLE["kernels"]["sm_90"][name].items() if key != "fingerprint"}
        assert row == committed if same else (row["spills"], row["warnings"]) == (0, []), name


def test_every_family_is_there_for_every_architecture() -> None:
    assert list(TABLE["kernels"]) == [f"sm_{arch}" for arch in ARCHITECTURES]
    for names in TABLE["kernels"].values():
        assert {name.split(".")[0] for name in names} == {family.split(".")[-1] for family in FAMILIES}


# ------------------------------------------------------------------------------------------------- registers


def test_nothing_spills() -> None:
    assert [name for name, row in rows("") if row["spills"]] == []


def test_no_tensor_core_instructions_are_serialised() -> None:
    assert [(name, row["warnings"]) for name, row in rows("") if row["warnings"]] == []


def test_a_multiprocessor_holds_a_block() -> None:
    """Registers and shared memory: tiles that an architecture has no room for are not in its tables."""
    too_large = [n for n, r in rows("") if occupancy(n.split()[0], r["threads"], r["registers"], r["shared"]) < 1]
    assert too_large == []


# -------------------------------------------------------------------------------------- tensor cores, accesses


def test_products_run_on_tensor_cores() -> None:
    for name, row in rows(
        r"^(pointwise|igemm|grouped|separable).* (bfloat16 ieee|float32 tf32|float32 tf32x3) |^banded"
    ):
        assert kinds(row) & {"HMMA", "HGMMA"}, name


def test_float64_runs_on_tensor_cores_where_there_are_some() -> None:
    for name, row in rows(r"^(pointwise|igemm|grouped).* float64 ", "sm_80", "sm_90"):
        assert "DMMA" in kinds(row), name


def test_hopper_multiplies_from_shared_memory() -> None:
    """WGMMA takes 64 rows: where a tile has them, operands of 16 bits never pass through registers.

    The smallest band has 32: one row of windows.
    """
    for name, row in rows(r"^igemm.* boxes |^banded(?!\.wgrad 5x5 on 1x28x28)", "sm_90"):
        assert "HGMMA" in kinds(row), name
    for name, row in rows(r"^pointwise.* bfloat16 ieee NHWC (64|128)x", "sm_90"):
        assert "HGMMA" in kinds(row), name


def test_boxes_come_by_tma() -> None:
    for name, row in rows(r"^igemm.* boxes ", "sm_90", "sm_120"):
        assert any(opcode.startswith("UTMALDG") for opcode in row["opcodes"]), name


# Long windows, which leave a lane registers for fewer columns: 1, 2 or 4 of 2 bytes.
NARROW = {r"[df]\w+ 64x1 multiplier 2": 16, r"wgrad 13x5": 32, r"dgrad 9x9 multiplier 2": 64, r"\w+ 87 dilation 2": 64}


def test_stencils_move_16_bytes_at_a_time() -> None:
    """NCHW without a stride, but for rows of 14 pixels and less, of which the second begins at no multiple of 16.

    A stride has 4 columns a lane, of a dgrad times the stride in y; NHWC 2 channels.
    """
    for name, row in rows(rf"^stencil\.(?!.* on (1x1|2x2|7x7|14x14) |{'|'.join(NARROW)}).* NCHW$"):
        bits = 64 if "stride 2" in name else 128
        assert widest(row["opcodes"], "LDG") == bits, name
        if "wgrad" not in name:
            assert widest(row["opcodes"], "STG") == (128 if "dgrad" in name else bits), name
    for window, bits in NARROW.items():
        for name, row in rows(rf"^stencil\.{window} bfloat16 NCHW$"):
            assert widest(row["opcodes"], "LDG") == bits, name
    for name, row in rows(r"^stencil\.[df]\w+ (3x3|3x3 stride 2|3x3 dilation 4|causal 4) \w+ NHWC$"):
        bits = {"bfloat16": 32, "float32": 64, "float64": 128}[name.split()[-2]]
        assert widest(row["opcodes"], "LDG") == widest(row["opcodes"], "STG") == bits, name


def test_channel_multipliers_exchange_nothing() -> None:
    """x and y are laid out alike although y has two channels for each of x: nothing passes through shared memory."""
    for name, row in rows(r"^stencil\.(fprop|dgrad) .* multiplier 2 "):
        assert not kinds(row) & {"STS", "LDS", "BAR"}, name


# ----------------------------------------------------------------------------------- instructions an output

# The design's figures. Of stencils: instructions an output while a lane slides.
DESIGN = {
    "stencil.fprop 3x3 bfloat16 NCHW": 14,
    "stencil.fprop 5x5 bfloat16 NCHW": 32,
    "stencil.fprop 7x7 bfloat16 NCHW": 56,
    "stencil.fprop 3x3 bfloat16 NHWC": 16.5,
    "stencil.fprop 5x5 bfloat16 NHWC": 36,
    "stencil.fprop 7x7 bfloat16 NHWC": 70,
    "stencil.fprop causal 4 bfloat16 NCHW": 20,
    "stencil.fprop causal 4 bfloat16 NHWC": 20,
}


@pytest.mark.parametrize("name", DESIGN)
def test_stencils_cost_what_they_were_designed_to(name: str) -> None:
    for where, row in rows(f"^{re.escape(name)}$"):
        assert 0.5 * DESIGN[name] < row["per_step"] < GROWTH * DESIGN[name], where


@pytest.mark.parametrize(("size", "design"), [(7, 21), (13, 30), (31, 42)])
def test_banded_products_cost_what_they_were_designed_to(size: int, design: float) -> None:
    """All of a block's instructions, over its outputs, in the best of the tiles."""
    found = rows(rf"^banded\.fprop {size}x{size} on 32x64x64 bfloat16", "sm_90")
    assert 0.5 * design < min(row["per_output"] for _, row in found) < GROWTH * design


def test_three_tf32_products_cost_what_they_were_designed_to() -> None:
    """0.22 instructions a multiply-add, where a step is 128 x 128 x 32."""
    ((_, row),) = rows(r"^igemm\.fprop float32 tf32x3 NHWC 128x128 of 128 bytes", "sm_90")
    assert row["loop"] * row["threads"] < GROWTH * 0.22 * 128 * 128 * 32


def test_packed_groups_cost_what_they_were_designed_to() -> None:
    """27 instructions an output at most where TMA brings in boxes and WGMMA takes them from there."""
    for name, row in rows(r"^grouped\.(fprop|dgrad) (4 to 4|8 to 8) .* stride 1 bfloat16 ieee NHWC", "sm_90"):
        assert 0 < row["per_step"] < GROWTH * 27, name


def test_an_element_between_two_convolutions_costs_what_it_was_designed_to() -> None:
    """33 instructions of t's 3x3 taps and of its part in the product, where nothing but bounds follow."""
    channels, pixels = 64, 64  # of a step
    for name, row in rows(r"^separable\.fprop 3x3 256 to 256 on 28x28 ", "sm_90"):
        assert 0 < row["loop"] * row["threads"] < GROWTH * 33 * channels * pixels, name


def test_pairs_of_convolutions_move_16_bytes_at_a_time() -> None:
    for name, row in rows(r"^separable\.fprop 3x3 192 to \d+ on 56x56 silu \+ residual bfloat16 "):
        assert widest(row["opcodes"], "LDG") == widest(row["opcodes"], "STG") == 128, name


def test_a_step_of_an_implicit_product_costs_what_it_was_designed_to() -> None:
    """128 instructions at most where TMA brings in boxes, and 255 where every pixel has its pointer and its mask."""
    for name, row in rows(r"^igemm.* bfloat16 ieee boxes ", "sm_90"):
        assert 0 < row["loop"] < GROWTH * 128, name
    for name, row in rows(r"^igemm.* bfloat16 ieee NHWC ", "sm_90"):
        assert 0 < row["loop"] < GROWTH * 255, name
