"""PyTorch's own sample inputs and error inputs for its six convolution functions, run through convext.functional.

They ship inside torch, as `torch.testing._internal`'s OpInfo database: what PyTorch tests its own functions with.
"""

import re

import pytest
import torch
from roads import roads
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db

import convext

NAMES = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
OPS = {op.name.removeprefix("nn.functional."): op for op in op_db if op.name.removeprefix("nn.functional.") in NAMES}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# torch's CPU kernels drop channels last in 1-D, which has no name for it, and in transposed 3-D; convext's keep it.
KEPT_BY_CONVEXT = ("conv1d", "conv_transpose1d", "conv_transpose3d")
CASES = [
    pytest.param(
        backend,
        name,
        dtype,
        order,
        id=f"{name}-{str(dtype).removeprefix('torch.')}-{order}-{backend}",
        marks=[pytest.mark.long] if backend == "triton" else [],
    )
    for name in NAMES
    for dtype in sorted(OPS[name].supported_dtypes(DEVICE), key=str)
    for backend in roads(name, dtype)
    for order in ("contiguous", "channels_last")
    if DEVICE == "cuda" or (backend, order) != ("triton", "channels_last")  # the interpreter's time
]

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


def test_every_function_is_in_the_database():
    assert set(OPS) == set(NAMES)


def channels_last(value):
    """`value` with channels innermost where it is a tensor of a batch, a channel and spatial axes."""
    if isinstance(value, Tensor) and value.dim() > 2:
        return value.detach().movedim(1, -1).contiguous().movedim(-1, 1).requires_grad_(value.requires_grad)
    return value


def run(function, tensors, keywords, differentiable):
    """The output, and the gradients of the operands for an upstream gradient that is all different numbers."""
    leaves = [t.detach().requires_grad_(differentiable) if isinstance(t, Tensor) else t for t in tensors]
    output = function(*leaves, **keywords)
    wanted = [t for t in leaves if isinstance(t, Tensor)]
    if not differentiable or output.numel() == 0:
        return output.detach(), ()
    upstream = torch.linspace(-1, 1, output.numel(), device=output.device).view(output.shape).to(output.dtype)
    return output.detach(), torch.autograd.grad(output, wanted, upstream)


@pytest.mark.parametrize(("backend", "name", "dtype", "order"), CASES, indirect=["backend"])
def test_samples_agree_with_torch(backend, name, dtype, order, device, agrees, same_order, wide):
    op, ours = OPS[name], getattr(convext.functional, name)
    differentiable = dtype in op.supported_backward_dtypes(device)
    samples = list(op.sample_inputs(device, dtype, requires_grad=False))
    assert samples
    for sample in samples:
        tensors = (sample.input, *sample.args)
        if order == "channels_last":
            tensors = tuple(map(channels_last, tensors))
        before = [t.clone() if isinstance(t, Tensor) else t for t in tensors]
        actual, actual_grads = run(ours, tensors, sample.kwargs, differentiable)
        expected, expected_grads = run(op.op, tensors, sample.kwargs, differentiable)
        oracle, oracle_grads = run(op.op, tuple(map(wide, tensors)), sample.kwargs, differentiable)
        agrees(actual, expected, oracle)
        if order == "contiguous" or name not in KEPT_BY_CONVEXT:
            same_order(actual, expected)
        for three in zip(actual_grads, expected_grads, oracle_grads, strict=True):
            agrees(*three)
        assert all(torch.equal(t, b) for t, b in zip(tensors, before, strict=True) if isinstance(t, Tensor))


def numbers(caught: pytest.ExceptionInfo) -> set[str]:
    return set(re.findall(r"\b\d+\b", str(caught.value)))


ERRORS = [
    (backend, name)
    for name in NAMES
    if OPS[name].error_inputs_func is not None
    for backend in roads(name, torch.float64)
]


@pytest.mark.parametrize(("backend", "name"), ERRORS, indirect=["backend"])
def test_error_inputs_raise_what_torch_raises(backend, name, device):
    op, ours = OPS[name], getattr(convext.functional, name)
    errors = list(op.error_inputs(device))
    assert errors
    for error in errors:
        sample = error.sample_input
        with pytest.raises(error.error_type) as theirs:
            op.op(sample.input, *sample.args, **sample.kwargs)
        if "not supported for strided convolutions" in str(theirs.value):  # convext supports it
            size = [-(-i // sample.kwargs["stride"]) for i in sample.input.shape[2:]]
            assert list(ours(sample.input, *sample.args, **sample.kwargs).shape[2:]) == size
            continue
        with pytest.raises(error.error_type, match=f"(?i){error.error_regex}") as caught:
            ours(sample.input, *sample.args, **sample.kwargs)
        assert caught.type is theirs.type
        assert numbers(theirs) <= numbers(caught)
