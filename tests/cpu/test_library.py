"""The compiled library: what it depends on, where it loads, and what is said where it is not there."""

import platform
import subprocess
from pathlib import Path

import pytest
import torch

from convext.commands import check
from convext.problem import ConvProblem
from convext.providers.cpu import library, native

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


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="other processors name it otherwise")
def test_what_is_asked_for_ahead_is_in_the_library(isa):
    """A compiler leaves out a call of a function that only prefetches: it has no effect that it knows of."""
    code = subprocess.run(["objdump", "--disassemble", library.LIBRARY], capture_output=True, text=True, check=True)
    asking = [function for function in code.stdout.split("\n\n") if "ask_ahead" in function.partition("\n")[0]]
    for mangled in ("3cpu7generic", "3cpu4avx2", "3cpu6avx512"):
        own = [function for function in asking if mangled in function.partition("\n")[0]]
        assert len(own) >= 3
        assert all("\tprefetch" in function for function in own)


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
    assert library.isa() == library.isa(narrow=True) == next(name for name in supported if name != "avx512")
    library.isa.cache_clear()
    monkeypatch.setattr(library, "WIDE_IS_MEASURED", (torch.ops.convext_cpu.vendor(),))
    assert library.isa() == supported[0]
    assert library.isa(narrow=True) != "avx512"
    library.isa.cache_clear()


@pytest.mark.parametrize("zen5", [False, True])
@pytest.mark.parametrize(
    ("face", "groups", "channels", "channels_last", "wide"),
    [
        ("fprop", 16, 1, True, True),  # in place
        ("dgrad", 15, 1, True, False),  # in place with vectors of 8
        ("wgrad", 15, 1, True, False),
        ("fprop", 15, 1, False, True),
        ("fprop", 8, 3, False, True),
        ("wgrad", 8, 3, False, False),
        ("wgrad", 8, 3, True, False),
        ("dgrad", 1, 3, True, "zen5"),
    ],
)
def test_avx512_is_used_on_the_ways_on_which_it_won(
    monkeypatch, zen5, face, groups, channels, channels_last, wide
) -> None:
    monkeypatch.setattr(library, "isa", lambda narrow=False: "avx2" if narrow else "avx512")
    monkeypatch.setattr(library, "has_wide_units", lambda: zen5)
    names: list[str] = []
    monkeypatch.setattr(native, "convolve", lambda isa, *_: names.append(isa))
    c = groups * channels
    p = ConvProblem(
        face, 1, c, c, groups, (6,), (3,), (6,), (1,), (1,), (1,), torch.float32, channels_last=channels_last
    )  # fmt: skip
    native.run(p, *check.operands(p), None)
    assert names == ["avx512" if (zen5 if wide == "zen5" else wide) else "avx2"]


@pytest.mark.parametrize(("machine", "family", "name"), [
    ("amd-avx512", 26, "amd-avx512-zen5"), ("amd-avx512", 25, "amd-avx512"), ("amd-avx2", 26, "amd-avx2"),
    ("intel-avx512", 26, "intel-avx512"),
])  # fmt: skip
def test_a_zen_5_has_tables_of_its_own(monkeypatch, machine, family, name) -> None:
    monkeypatch.setattr(library, "machine", lambda: machine)
    monkeypatch.setattr(library, "_family", lambda: family)
    assert library.measured_as() == name


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
