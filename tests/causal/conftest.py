"""Every provider of causal convolutions that runs here."""

import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

import convext
from convext.causal import native
from convext.providers.cpu import library

sys.path.insert(0, str(Path(__file__).parent))

HAS_CUDA = torch.cuda.is_available()
NO_LIBRARY = library.unavailable()
ISAS = ["cpu"] if NO_LIBRARY else [f"cpu {isa}" for isa in library.ISAS if torch.ops.convext_cpu.supports(isa)]


@pytest.fixture(params=["aten", *ISAS, "triton"])
def provider(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The provider that is asked for: on a CPU with each instruction set. Where there is a GPU, tensors are made on it,
    but for the kernels for CPUs."""
    name, _, isa = request.param.partition(" ")
    if name == "cpu" and NO_LIBRARY:
        pytest.skip(NO_LIBRARY)
    if name == "triton" and not HAS_CUDA and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("tensors are on the CPU, and Triton is not interpreted")
    if isa:
        monkeypatch.setattr(native, "isa", lambda: isa)
    place = torch.device("cuda") if HAS_CUDA and name != "cpu" else nullcontext()
    with convext.backend(name), place:
        yield name
