"""No opcode of the project's kernels is left without a test of its own.

opcodes.txt lists them. Whoever changes a kernel, or Triton, and meets an opcode that is refused, adds it to the
list, to the emulator and to a test.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
OPCODES = [line.split()[0] for line in (HERE / "opcodes.txt").read_text().splitlines() if not line.startswith("#")]
TESTS = "".join(path.read_text() for path in sorted(HERE.parent.rglob("test_*.py")) if path.name != Path(__file__).name)


def named(opcode: str) -> bool:
    """Whether a test file has the opcode, or the template from which a test makes it."""
    templates = {
        r"setp\..*": "setp.{name}.{kind}",
        r"wgmma\.mma_async.*": "wgmma.mma_async.sync.aligned.{shape}.f32.{kind}.{kind}",
        r"(ld|st)\.(global|shared|shared::cta)(\.wb)?(\.v[24])?\.[buf](16|32|64)": "SHAPES",
        r"(ld|st)\.[uf](16|32)": "SHAPES",
        r"ldmatrix\..*\.shared\.b16": "ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16",
        r"stmatrix\..*\.shared\.b16": "stmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16",
    }
    if re.search(re.escape(opcode) + r"(?![.\w])", TESTS):
        return True
    return any(re.fullmatch(pattern, opcode) and template in TESTS for pattern, template in templates.items())


@pytest.mark.parametrize("opcode", OPCODES)
def test_every_opcode_is_tested(opcode: str) -> None:
    assert named(opcode)
