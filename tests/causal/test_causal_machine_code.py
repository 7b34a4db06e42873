"""What the Triton kernels became, from the committed table: what they were designed for."""

import pytest

from convext.benchmarks.inspect.sass import widest
from convext.benchmarks.inspect.specimens import ARCHITECTURES, read

ROWS = {
    (where, name): row
    for where, rows in read()["kernels"].items()
    for name, row in rows.items()
    if name.startswith("causal.")
}


def test_nothing_spills():
    assert len(ROWS) == 8 * len(ARCHITECTURES)
    assert {key for key, row in ROWS.items() if row["spills"]} == set()


@pytest.mark.parametrize(("layout", "most"), [("BLC", 19), ("BCL", 28)])
def test_instructions_an_output(layout, most):
    """Four taps with SiLU, which takes 8 of them, in bfloat16."""
    assert ROWS["sm_90", f"causal.forward bfloat16 {layout}"]["per_output"] <= most


@pytest.mark.parametrize("kind", ["forward", "backward"])
@pytest.mark.parametrize("layout", ["BLC", "BCL"])
def test_activations_move_16_bytes_at_a_time(layout, kind):
    row = ROWS["sm_90", f"causal.{kind} bfloat16 {layout}"]
    least = 64 if (layout, kind) == ("BLC", "backward") else 128  # there a thread holds the sums of 4 channels
    assert widest(row["opcodes"], "LDG") >= least
    assert widest(row["opcodes"], "STG") >= least
