"""The launches that are compiled offline: every kernel with every tile that it could run with."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterable

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

from convext.benchmarks.inspect.specimens import ARCHITECTURES
from convext.triton_kernels.banded import tiles as banded_tiles
from convext.triton_kernels.grouped import tiles as grouped_tiles
from convext.triton_kernels.igemm import tiles as igemm_tiles
from convext.triton_kernels.pointwise import tiles as pointwise_tiles
from convext.triton_kernels.separable import tiles as separable_tiles
from convext.triton_kernels.stencil import plan as stencil_plan
from convext.triton_kernels.tiles import known

GATHERS, WEIGHTS = ("fprop", "dgrad"), ("wgrad",)


def pairs(faces: Iterable[str], tiles: Iterable[object]) -> set[tuple[str, object]]:
    return set(itertools.product(faces, tiles))


def of_tables(family: str, arch: int) -> set[tuple[str, object]]:
    """(face, tile) of everything in a family's tables; faces that share a kernel count as one of them."""
    match family:
        case "stencil":
            tiles = stencil_plan.TILES[known(stencil_plan.TILES, arch)]
            narrow = [tile for tile in tiles if not tile.channels or tile.columns <= stencil_plan.STRIDED]
            return pairs(("fprop",), tiles) | pairs(("wgrad",), narrow)
        case "pointwise":
            rows = pointwise_tiles.TILES[known(pointwise_tiles.TILES, arch)].values()
            return pairs(GATHERS + WEIGHTS, itertools.chain(*rows))
        case "igemm":
            rows = igemm_tiles.TILES[known(igemm_tiles.TILES, arch)].values()
            boxes = igemm_tiles.BOX_TILES[known(igemm_tiles.BOX_TILES, arch)] if arch >= 90 else ()
            pointers = itertools.chain(*rows, igemm_tiles.SCALAR_TILES)
            return pairs(GATHERS + WEIGHTS, pointers) | pairs(GATHERS, boxes)
        case "separable":
            rows = separable_tiles.TILES[known(separable_tiles.TILES, arch)].values()
            return pairs(("fprop",), itertools.chain(*rows))
    tables = (banded_tiles if family == "banded" else grouped_tiles).TILES
    table = tables[known(tables, arch)]
    found = set()
    for kind, tiles in table.items():
        found |= pairs(WEIGHTS if "weight" in kind else ("fprop",), tiles)
    return found


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("family", ["stencil", "banded", "pointwise", "igemm", "grouped", "separable"])
def test_every_tile_of_the_tables_is_compiled(family: str, arch: int) -> None:
    module = importlib.import_module(f"convext.triton_kernels.{family}.specimens")
    compiled = {(s.name.removeprefix(f"{family}.").split()[0], s.tile) for s in module.specimens(arch)}
    assert of_tables(family, arch) - compiled == set()
