"""The compiled library: what it depends on, where it loads, and what is said where it is not there."""

import subprocess
from pathlib import Path

import pytest
import torch

from convext.providers.cpu import library

ROOT = Path(__file__).parents[2]


def symbols(path: Path, *options: str) -> list[str]:
    listing = subprocess.run(["nm", *options, path], capture_output=True, text=True, check=True)
    return [line.split()[-1].partition("@")[0] for line in listing.stdout.splitlines()]


def test_imports_the_stable_abi_alone(isa):
    """C functions of the stable ABI; nothing of Python, nothing of ATen's or c10's C++."""
    imported = symbols(library.LIBRARY, "-D", "--undefined-only")
    assert "torch_parallel_for" in imported
    assert [name for name in imported if name.startswith(("Py", "_Py")) or "2at" in name or "3c10" in name] == []
    own = [name for name in imported if "torch" in name]
    assert [name for name in own if not name.startswith(("aoti_torch_", "torch_"))] == []


def test_kernel_files_include_no_standard_header():
    """An inline function that two instruction sets share could be linked from the wider one."""
    sources = [path for path in (ROOT / "csrc" / "cpu").rglob("*") if path.suffix in (".h", ".cpp")]
    assert len(sources) > 20
    for source in sources:
        included = [line.split()[1] for line in source.read_text().splitlines() if line.startswith("#include")]
        if source.name not in ("library.cpp", "host.h", "arguments.h", "atrous.h", "branches.h"):  # of the host
            assert {name for name in included if name.startswith("<")} <= {"<stdint.h>"}, source.name


def test_avx512_is_used_where_it_was_measured(isa, monkeypatch):
    supported = [name for name in library.ISAS if torch.ops.convext_cpu.supports(name)]
    library.isa.cache_clear()
    monkeypatch.setattr(library, "WIDE_IS_MEASURED", ())
    assert library.isa() == library.isa(channels_last=True) == next(name for name in supported if name != "avx512")
    library.isa.cache_clear()
    monkeypatch.setattr(library, "WIDE_IS_MEASURED", (torch.ops.convext_cpu.vendor(),))
    assert library.isa() == supported[0]
    assert library.isa(channels_last=True) != "avx512"
    library.isa.cache_clear()


@pytest.mark.parametrize("content", [None, "not a library"])
def test_says_why_it_is_not_there(monkeypatch, tmp_path, content):
    path = tmp_path / "_cpu.abi3.so"
    if content:
        path.write_text(content)
    monkeypatch.setattr(library, "LIBRARY", path)
    library.unavailable.cache_clear()
    try:
        expected = "do not load: " if content else "were not built (_cpu.abi3.so is missing): with a C++ compiler"
        assert expected in library.unavailable()
    finally:
        library.unavailable.cache_clear()
