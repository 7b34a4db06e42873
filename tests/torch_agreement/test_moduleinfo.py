"""PyTorch's own inputs for its six convolution layers, run through convext's.

They ship inside torch, as `torch.testing._internal`'s ModuleInfo database: what PyTorch tests its own layers with.
"""

import pytest
import torch
from roads import roads
from torch import Tensor
from torch.testing._internal.common_modules import module_db

import convext

NAMES = ("Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")
MODULES = {info.name.removeprefix("nn."): info for info in module_db if info.name.removeprefix("nn.") in NAMES}
CASES = [
    pytest.param(backend, name, dtype, id=f"{name}-{str(dtype).removeprefix('torch.')}-{backend}")
    for name in NAMES
    for dtype in MODULES[name].dtypes
    for backend in roads(name, dtype)
    if dtype is not torch.complex32  # its CPU kernels are missing from torch itself
]

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
    pytest.mark.filterwarnings("ignore:Complex modules are a new feature"),
]


def test_every_layer_is_in_the_database():
    assert set(MODULES) == set(NAMES)


def construct(cls, arguments, training):
    torch.manual_seed(0)
    return cls(*arguments.args, **arguments.kwargs).train(training)


def run(module, x):
    """The output, then the gradients of the input and of every parameter."""
    x = x.detach().requires_grad_()
    output = module(x)
    upstream = torch.linspace(-1, 1, output.numel(), device=output.device).view(output.shape).to(output.dtype)
    return output.detach(), *torch.autograd.grad(output, [x, *module.parameters()], upstream)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("backend", "name", "dtype"), CASES, indirect=["backend"])
def test_layers_agree_with_torch(backend, name, dtype, training, device, agrees, same_order, wide):
    info = MODULES[name]
    inputs = info.module_inputs_func(info, device=device, dtype=dtype, requires_grad=False, training=training)
    assert inputs
    for module_input in inputs:
        arguments, forward = module_input.constructor_input, module_input.forward_input
        ours, theirs, exact = (
            construct(cls, arguments, training) for cls in (getattr(convext, name), *[getattr(torch.nn, name)] * 2)
        )
        assert repr(ours) == f"convext.{theirs!r}"
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(a, b)
        (x,) = (t for t in forward.args if isinstance(t, Tensor))
        actual, expected = run(ours.to(device, dtype), x), run(theirs.to(device, dtype), x)
        oracle = run(exact.to(device, wide(x).dtype), wide(x))
        same_order(actual[0], expected[0])
        for three in zip(actual, expected, oracle, strict=True):
            agrees(*three)
