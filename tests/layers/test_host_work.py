"""Where a call is torch's, a layer of ours does little more than torch.nn's: counted in function calls, not in time."""

import sys
from collections.abc import Callable

import pytest
import torch

import convext

LAYERS = {
    "pointwise": ("Conv2d", {"kernel_size": 1}),
    "depthwise": ("Conv2d", {"kernel_size": 3, "padding": 1, "groups": 8}),
    "strided": ("Conv3d", {"kernel_size": 2, "stride": 2}),
    "1-D": ("Conv1d", {"kernel_size": 3, "padding": 1}),
    "transposed": ("ConvTranspose2d", {"kernel_size": 2, "stride": 2}),
}


def calls(run: Callable[[], object]) -> list[str]:
    """Names of the functions, Python's and C's, that are called."""
    names = []

    def note(frame, event, argument):
        if event in ("call", "c_call"):
            names.append(frame.f_code.co_name if event == "call" else argument.__name__)

    run()  # what is cached at a first call
    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    return names


@pytest.mark.skipif(sys.gettrace() is not None, reason="a tracer, as coverage's, would be counted")
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize(("kind", "arguments"), LAYERS.values(), ids=LAYERS)
def test_few_calls_more_than_torchs(kind, arguments, trained):
    """What takes the time is cold code: with ten calls more, tiny layers take 4 to 9% longer."""
    x = torch.randn(2, 8, *[6] * int(kind[-2]), requires_grad=trained)
    ours, theirs = (getattr(module, kind)(8, 8, **arguments) for module in (convext, torch.nn))
    mine, others = calls(lambda: ours(x)), calls(lambda: theirs(x))
    assert "conv_transpose2d" in others or any(name.startswith("conv") for name in others)
    assert len(mine) <= len(others) + 10, f"ours: {mine}\ntorch's: {others}"
