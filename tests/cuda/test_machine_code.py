"""The compiled library's machine code: nothing spills, vectors are vectors, and the GEMMs are on tensor cores."""

import json
import re
from typing import Any

import pytest

from convext.providers.cuda import native

Table = dict[str, dict[str, Any]]

# Stencils whose vectors are below 16 bytes, {(kernel, tile, taps): bits for (float32, 16-bit elements)}. Vectors of 16
# bytes would leave no registers for the sums of all taps: WGRAD_MOST_SUMS in csrc/stencil/wgrad.cuh,
# BACKWARD_MOST_FLOATS in csrc/stencil/backward.cuh.
NARROW = {
    ("stencil_wgrad_kernel", "StridedTile", "1, 5, 5, 1, 1, 2"): (128, 64),
    ("stencil_wgrad_kernel", "StridedTile", "1, 7, 7, 1, 1, 3"): (64, 32),
    ("stencil_wgrad_kernel", "StridedTile", "3, 3, 3, 1, 1, 1"): (128, 64),
    ("stencil_backward_kernel", "StridedTile", "1, 3, 3, 1, 1, 1"): (128, 64),
    ("stencil_backward_kernel", "StridedTile", "1, 3, 3, 2, 1, 1"): (128, 64),
    ("stencil_backward_kernel", "StridedTile", "1, 3, 3, 1, 2, 2"): (128, 64),
    ("stencil_backward_kernel", "StridedTile", "1, 5, 5, 1, 1, 2"): (64, 32),
    ("stencil_backward_kernel", "StridedTile", "1, 7, 7, 1, 1, 3"): (64, 32),
    ("stencil_backward_kernel", "StridedTile", "3, 3, 3, 1, 1, 1"): (64, 32),
    ("stencil_backward_kernel", "RowTile", "1, 7, 7, 1, 1, 3"): (128, 64),
}


@pytest.fixture(scope="module")
def found() -> Table:
    if not native.LIBRARY.exists():
        pytest.skip("the CUDA library is not built here: it needs nvcc")
    pytest.importorskip("triton", reason="the disassembler comes with Triton")
    from convext.benchmarks.inspect import cuda as inspect_cuda

    return inspect_cuda.table()


@pytest.mark.long
def test_is_as_committed(found: Table) -> None:
    from convext.benchmarks.inspect import cuda as inspect_cuda

    assert inspect_cuda.complaints(found, json.loads(inspect_cuda.RESULTS.read_text())) == []


def test_nothing_spills(found: Table) -> None:
    assert {name: row["spills"] for name, row in found.items() if row["spills"]} == {}


def test_stencils_access_whole_vectors(found: Table) -> None:
    """Of 16 bytes, but for NARROW; tiles of single elements are for widths and strides that allow no vectors."""
    kernel = r"(stencil\w*_kernel)<(RowTile|StridedTile)<(\w+), Taps<([\d, ]+)>, \w+, (\d+)"
    tiles = {name: match.groups() for name in found if (match := re.match(kernel, name))}
    assert {groups[:2] for groups in tiles.values()} == {
        (kernel, tile)
        for kernel in ("stencil_kernel", "stencil_wgrad_kernel", "stencil_backward_kernel")
        for tile in ("RowTile", "StridedTile")
    }
    met = set()
    for name, (kernel, tile, dtype, taps, vector) in tiles.items():
        if vector == "1":
            continue
        met.add((kernel, tile, taps))
        of_float, of_16_bits = NARROW.get((kernel, tile, taps), (128, 128))
        bits = of_float if dtype == "float" else of_16_bits
        assert found[name]["load"] == bits, name
        if kernel != "stencil_wgrad_kernel":  # which stores float32 sums
            assert found[name]["store"] == bits, name
    assert met >= NARROW.keys()


def test_gemms_are_on_tensor_cores(found: Table) -> None:
    gemms = {name: row for name, row in found.items() if name.startswith("igemm_kernel")}
    assert gemms
    for name, row in gemms.items():
        assert row["mma"] > 0, name
        if name.endswith(", true>"):  # asynchronous copies of vectors
            assert row["load"] == 128, name


def test_blocks_of_all_kernels_fit(found: Table) -> None:
    assert {name for name, row in found.items() if row["blocks"] == 0} == set()
