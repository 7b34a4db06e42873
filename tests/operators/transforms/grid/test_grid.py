"""Every transform of torch.func around every other, over every convolution: what torch.nn answers, convext answers.

A commit is judged on a sample in which every pair of factors occurs (`cases.pairs`), another one for each commit;
`make grid` runs every nesting (`cases.whole`). The convolutions are those of torch.nn.functional or of torch.nn's
layers; a case that torch itself does not take is not in the grid.
"""

import os
from collections.abc import Iterator

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from cases import Case, pairs_of, pairwise, seed, takeable_pairs, torch_takes, whole
from convolutions import CONVOLUTIONS
from runs import run
from torch import Tensor

import convext

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
    pytest.mark.filterwarnings("ignore:There is a performance drop because we have not yet implemented"),
]


@pytest.fixture(autouse=True)
def _no_level_is_left_open() -> Iterator[None]:
    """A forward-mode level that a failing case leaves open would fail every case after it."""
    yield
    while forward_ad._current_level >= 0:
        forward_ad.exit_dual_level()


CASES = list(whole(seed())) if os.environ.get("CONVEXT_GRID") == "whole" else pairwise(seed())


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[pytest.mark.long] if c.backend == "triton" else []) for c in CASES], ids=str
)
def test_as_torch(case: Case, device: str) -> None:
    convolution = CONVOLUTIONS[case.convolution]
    operands = convolution.draw(torch.float32 if case.mode == "autocast" else torch.float64, device)
    try:
        expected = run(case, convolution.torchs(case.call, operands["input"]), operands)
    except Exception as refusal:
        if case.mode != "compile":
            raise
        pytest.skip(f"torch {torch.__version__} itself does not compile it: {type(refusal).__name__}")
    assert all(t is not None and t.abs().max() > 1e-6 for t in expected.values()), "zeros would hide a lost derivative"
    try:
        with convext.backend(case.backend):
            actual = run(case, convolution.convexts(case.call, operands["input"]), operands)
    except ValueError as refusal:
        reasons = "cpu.stencil: is depthwise", "cpu.grouped: takes groups of 2 to 8 channels"
        if case.backend == "cpu" and all(reason in str(refusal) for reason in reasons):
            return  # a mapped axis has become channels, more of them than the kernels take
        raise
    exact = {role: t.double() for role, t in operands.items()}
    oracle = float64(case, exact) if case.mode == "autocast" else expected
    unit = units(case, exact, oracle) if case.mode == "autocast" else {}
    for name, theirs in expected.items():
        assert_agrees(case, name, actual[name], theirs, oracle[name], unit.get(name))


def float64(case: Case, operands: dict[str, Tensor]) -> dict[str, Tensor]:
    """torch's numbers of operands in float64: autocast leaves those as they are."""
    return run(case, CONVOLUTIONS[case.convolution].torchs(case.call, operands["input"]), operands)


def units(case: Case, operands: dict[str, Tensor], oracle: dict[str, Tensor], draws: int = 4) -> dict[str, float]:
    """How far operands that are half a unit of float16 off, as rounding may leave them, move each result.

    At least a unit of the result. A sum whose terms cancel moves by many of them; torch's own error of one number
    doesn't tell, since by chance it is next to nothing once in a while.
    """
    eps = torch.finfo(torch.float16).eps
    moved = [
        float64(case, {role: t * (1 + eps / 2 * torch.randn_like(t).sign()) for role, t in operands.items()})
        for _ in range(draws)
    ]
    return {
        name: max(eps * t.abs().max().item(), *((other[name] - t).abs().max().item() for other in moved))
        for name, t in oracle.items()
    }


def assert_agrees(
    case: Case, name: str, ours: Tensor | None, torchs: Tensor, oracle: Tensor, unit: float | None
) -> None:
    """float64: torch's number. Under autocast: an error of at most twice torch's, plus two units."""
    where = f"{name} of {case}, CONVEXT_GRID_SEED={seed()}"
    assert ours is not None, f"{where}: there is none"
    assert ours.dtype == torchs.dtype, where
    if unit is None:
        atol = 1e-11 * oracle.abs().max().item()
        torch.testing.assert_close(ours, torchs, rtol=1e-9, atol=atol, msg=lambda text: f"{where}: {text}")
        return
    error, torch_error = ((t.double() - oracle).abs().max().item() for t in (ours, torchs))
    bound = 2 * (torch_error + unit)
    assert error <= bound, f"{where}: error {error:.3g} > {bound:.3g}; torch's is {torch_error:.3g}"


def test_every_pair_that_torch_takes_is_in_the_sample() -> None:
    sample = pairwise(seed())
    assert all(map(torch_takes, sample))
    assert takeable_pairs() <= {pair for case in sample for pair in pairs_of(case)}
