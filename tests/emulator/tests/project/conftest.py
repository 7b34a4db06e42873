"""Every opcode of a kernel that Triton makes here is listed, and so has a test of its own (tests/opcodes).

One that is not fails the whole run. A sample, which turns with the commit, only warns of it.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gpu_emulator import triton_device

_LIST = Path(__file__).parents[1] / "opcodes/opcodes.txt"
LISTED = {line.split()[0] for line in _LIST.read_text().splitlines() if not line.startswith("#")}
_STATEMENT = re.compile(r"^\s*(?:\{\s*)?(?:@!?%\w+\s+)?([a-z]\w*\.[\w.:]*)(?=\s|;)", re.MULTILINE)


@pytest.fixture(autouse=True)
def _opcodes_are_listed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    met: dict[str, str] = {}  # opcode: the first kernel that has it
    with_ptx = triton_device._with_ptx

    def noting(initialise: Any, rewrite: triton_device.Rewrite) -> Any:
        def noted(name: str, ptx: str) -> str:
            for opcode in _STATEMENT.findall(ptx):
                met.setdefault(opcode, name)
            return rewrite(name, ptx)

        return with_ptx(initialise, noted)

    monkeypatch.setattr(triton_device, "_with_ptx", noting)
    yield
    missing = {opcode: kernel for opcode, kernel in met.items() if opcode not in LISTED}
    said = f"not in {_LIST.name}, to be added there and tested: {missing}"
    if os.environ.get("EMULATOR_ALL"):
        assert not missing, said
    elif missing:
        warnings.warn(said, stacklevel=1)
