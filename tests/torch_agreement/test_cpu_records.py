"""torch's own sample inputs through the records for CPUs, by name: torch's answer, or a refusal with every reason."""

import pytest
import torch
from roads import FLOATS
from test_opinfo import NAMES, OPS, channels_last, run
from torch import Tensor

import convext
from convext.choice import registry

RECORDS = {
    provider: [kernel.name for kernel in registry.kernels() if kernel.provider == provider]
    for provider in ("cpu", "plain")
}

FEW = 8  # results: how much torch errs in fewer is luck, and says little of how much one may

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


def refused(provider: str, call) -> str | None:
    """What `call` says where the provider refuses; None where it computes."""
    try:
        with convext.backend(provider):
            call()
    except ValueError as refusal:
        return str(refusal)
    return None


@pytest.mark.parametrize("order", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("provider", RECORDS)
def test_samples_agree_with_torch_or_are_refused(provider, name, dtype, order, agrees, wide):
    if provider == "cpu" and (reason := registry.library.unavailable()):
        pytest.skip(reason)
    op, ours, taken = OPS[name], getattr(convext.functional, name), 0
    for sample in op.sample_inputs("cpu", dtype, requires_grad=False):
        tensors = (sample.input, *sample.args)
        if order == "channels_last":
            tensors = tuple(map(channels_last, tensors))
        results = []
        said = refused(provider, lambda: results.append(run(ours, tensors, sample.kwargs, True)))  # noqa: B023
        if said is not None:
            assert f"backend {provider!r} does not take" in said
            assert "that only torch's own function understands" in said or all(
                f"\n  {record}: " in said for record in RECORDS[provider]
            )
            continue
        taken += 1
        expected, oracle = (
            run(op.op, operands, sample.kwargs, True) for operands in (tensors, tuple(map(wide, tensors)))
        )
        (actual, gradients), (output, torchs), (exact, exacts) = results[0], expected, oracle
        for mine, theirs, exactly in ((actual, output, exact), *zip(gradients, torchs, exacts, strict=True)):
            if theirs.numel() < FEW and dtype is not torch.float64:
                torch.testing.assert_close(mine, theirs)
            else:
                agrees(mine, theirs, exactly)
    if provider == "cpu":
        assert taken >= 3, "most samples have few channels in a group"


@pytest.mark.parametrize("provider", RECORDS)
def test_what_no_record_takes_is_refused_with_every_reason(provider):
    x, w = torch.randn(1, 9, 6, 6), torch.randn(9, 9, 3, 3)
    said = refused(provider, lambda: convext.functional.conv2d(x, w, stride=2))
    assert "ConvProblem(face='fprop', n=1, c=9" in said
    expected = {
        "cpu": ["groups must be the channels of x, 9, but got groups=1", "but got 9 of x and 9 of y"],
        "plain": ["a stride of 1, but got (2, 2)", "dilation=(1, 1)", "computes dgrad, not fprop", "not torch.float32"],
    }
    if provider == "plain" or registry.library.unavailable() is None:
        assert all(reason in said for reason in expected[provider])
    assert isinstance(convext.functional.conv2d(x, w, stride=2), Tensor)
