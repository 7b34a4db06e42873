"""torch.library.opcheck: schema, fake tensors, autograd registration and AOT dispatch, in every layout."""

import pytest
import torch
from geometries import GEOMETRIES, channels_last, operator, strided

LAYOUTS = {
    "contiguous": lambda a, b: (a, b),
    "channels_last": lambda a, b: (channels_last(a), channels_last(b)),
    "first channels_last": lambda a, b: (channels_last(a), b),
    "second channels_last": lambda a, b: (a, channels_last(b)),
    "slices": lambda a, b: (strided(a), strided(b)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("geometry", GEOMETRIES[::2], ids=lambda g: g.name, indirect=False)
def test_operators_in_every_layout(layout, geometry, face, device):
    a, b, bias = geometry.draw(face, device, torch.float32)
    a, b = (t.detach().requires_grad_() for t in LAYOUTS[layout](a, b))
    bias = None if bias is None else bias.requires_grad_()
    torch.library.opcheck(operator(face), (a, b, bias, *geometry.tail(face), "auto"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fake_results_have_the_strides_of_real_ones(layout, geometry, face, device):
    a, b, bias = geometry.draw(face, device, torch.float32)
    a, b = LAYOUTS[layout](a, b)
    arguments = (*geometry.tail(face), "auto")
    real = operator(face)(a, b, bias, *arguments)
    with torch._subclasses.FakeTensorMode() as mode:
        fakes = [t if t is None else mode.from_tensor(t) for t in (a, b, bias)]
        fake = operator(face)(*fakes, *arguments)
    assert (fake.shape, fake.dtype, fake.device) == (real.shape, real.dtype, real.device)
    same, axis = torch._prims_common.check_significant_strides(fake, real, only_cuda=False)  # of axes longer than 1
    assert same, f"axis {axis}: {fake.stride()}, {real.stride()}"
