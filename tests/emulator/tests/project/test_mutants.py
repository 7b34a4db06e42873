"""Each kind of mistake is noticed in a compiled kernel where it matters. tests/project/mutants.py plants many more."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from mutants import KINDS, case_named, mutants, outcome

pytestmark = pytest.mark.skipif(
    version("triton").startswith("3.6."),
    reason="Triton 3.6 leaves out a fence.proxy.async of its own: see README.md",
)
WGMMA = "sm_90 triton.igemm fprop bfloat16 ieee NHWC boxes dense in vectors"
CP_ASYNC = "sm_90 triton.banded fprop bfloat16 ieee NCHW depthwise 9x9"
SHUFFLES = "sm_80 triton.banded wgrad bfloat16 ieee NCHW depthwise 9x9"
ODD = "sm_80 triton.igemm wgrad float32 tf32x3 NCHW dense, odd and dilated"
WHERE = {
    "barrier deleted": CP_ASYNC,
    "cp.async waited for one group less": CP_ASYNC,
    "guard of a global store dropped": ODD,
    "guard of a global load dropped": SHUFFLES,
    "cp.async reads where it should not": ODD,
    "lane of a shuffle": SHUFFLES,
    "address of a shared store": ODD,
    "address of a shared load": SHUFFLES,
    "address of ldmatrix": SHUFFLES,
    "operands of a product exchanged": SHUFFLES,
    "proxy fence deleted": CP_ASYNC,
}


@pytest.mark.parametrize("kind", KINDS)
def test_kind_is_noticed(kind: str) -> None:
    case = case_named(WHERE.get(kind, WGMMA))
    assert outcome(case, None) == ""
    planted = [mutant for mutant in mutants(case) if mutant.kind == kind]
    assert planted, "no place for it in this kernel"
    assert any(outcome(case, mutant) for mutant in planted)
