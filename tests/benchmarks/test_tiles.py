"""The tiles that are timed one by one: each is what its launches are made of, and nothing is left behind."""

from itertools import islice

import pytest
import torch

from convext.benchmarks.tuning import tiles
from convext.problem import OPERANDS, ConvProblem, layout
from convext.triton_kernels.stencil import plan


def drawn(problem: ConvProblem) -> list[torch.Tensor]:
    like = torch.empty((), dtype=problem.dtype, device="meta")
    return [layout.empty(problem.shape(role), problem.channels_last, like) for role in OPERANDS[problem.face]]


@pytest.mark.parametrize("kernel", tiles.CANDIDATES)
def test_tiles_differ_in_what_they_launch(kernel: str) -> None:
    """On a GPU of compute capability 9.0 that is nowhere: of a layer's candidates, many are legal and no two alike."""
    name, problem = next((n, p) for n, p in tiles.problems(kernel, 90) if p.face == "fprop" and p.channels_last)
    made = set()
    for tile, settings in islice(tiles.candidates(kernel, problem), 1, 40):
        with tiles.replaced(settings):
            try:
                launched, _ = tiles.launches(kernel, problem, *drawn(problem))
            except ValueError:  # no room for this one
                continue
        made.add((tile, repr([(one.programs, one.constants, one.warps, one.stages) for one in launched])))
    assert len(made) >= 8, name
    assert len({launched for _, launched in made}) >= 0.5 * len(made)  # strips of more rows than there are are alike


def test_nothing_stays_replaced() -> None:
    before = plan.TILES
    with tiles.replaced([(plan, "TILES", {})]):
        assert plan.TILES == {}
    assert plan.TILES is before


def test_without_a_gpu_nothing_is_timed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert tiles.main([]) == 0
    assert "no CUDA device" in capsys.readouterr().out
