"""A convolution with what follows it: norms of all kinds, every spelling of an activation, both ways to the result."""

import copy
import importlib
import itertools

import pytest
import torch
import torch.nn.functional as F
from fusible import assert_by_the_rule, exact
from torch import nn

import convext
from convext.choice import remembered
from convext.conversion.fusion import Fused, Separable, epilogues, onednn
from convext.conversion.fusion.separable import TOGETHER
from convext.providers.onednn import dtypes

CONVOLUTIONS = {
    "1-D": (nn.Conv1d(4, 6, 3, padding=1, groups=2), (2, 4, 7)),
    "2-D": (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), dilation=(1, 2)), (2, 4, 7, 8)),
    "3-D": (nn.Conv3d(4, 6, 2, bias=False), (2, 4, 3, 4, 5)),
    "depthwise": (nn.Conv2d(4, 8, 3, padding=1, groups=4, bias=False), (2, 4, 5, 6)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (2, 4, 5, 6)),
    "transposed 1-D": (nn.ConvTranspose1d(4, 6, 2, bias=False), (2, 4, 5)),
    "reflected": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (2, 4, 5, 6)),
    "same": (nn.Conv2d(4, 6, 2, padding="same"), (2, 4, 5, 6)),
    "ours": (convext.Conv2d(4, 6, 3, padding=((2, 0), (1, 0))), (2, 4, 5, 6)),
}
NORMS = {3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def trained(layer):
    with torch.no_grad():
        for name, t in layer.state_dict().items():
            if t.is_floating_point():
                t.uniform_(0.5, 2) if name in ("running_var", "weight") else t.normal_()
    return layer


class Functional(nn.Module):
    """A norm of one's own."""

    def __init__(self, channels):
        super().__init__()
        self.mean, self.var = nn.Buffer(torch.randn(channels)), nn.Buffer(torch.rand(channels) + 0.5)
        self.weight, self.bias = nn.Parameter(torch.randn(channels)), nn.Parameter(torch.randn(channels))

    def forward(self, x):
        torch._assert(x.ndim == 4, f"expected 4 axes, got {x.ndim}")
        return F.batch_norm(x, self.mean, self.var, self.weight, bias=self.bias, training=self.training, eps=1e-3)


def layers(fused):
    return [m for m in fused.modules() if isinstance(m, Fused)]


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("which", CONVOLUTIONS)
def test_a_norm_after(which, affine):
    conv, shape = CONVOLUTIONS[which]
    norm = NORMS[len(shape)](conv.out_channels, affine=affine, eps=1e-3)
    net, x = nn.Sequential(copy.deepcopy(conv), trained(norm)).eval().double(), torch.randn(shape).double()
    fused = convext.fuse(net, x)
    assert len(list(fused.children())) == 1
    torch.testing.assert_close(fused(x), net(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_norm_before_what_pads_nothing(rank, groups):
    conv = [nn.Conv1d, nn.Conv2d, nn.Conv3d][rank - 1](4, 8, 2, groups=groups, bias=groups == 2)
    net = nn.Sequential(trained(NORMS[rank + 2](4)), conv).eval().double()
    x = torch.randn(2, 4, *[5] * rank).double()
    fused = convext.fuse(net, x)
    assert len(list(fused.children())) == 1
    torch.testing.assert_close(fused(x), net(x), rtol=1e-12, atol=1e-12)


def test_a_norm_by_a_function_and_one_without_statistics():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), Functional(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)
    )
    net, x = net.eval().double(), torch.randn(2, 3, 6, 6).double()
    fused = convext.fuse(net, x)
    assert [line.split(": ")[1] for line in convext.report(fused).fusion.layers] == ["conv + norm", "conv"]
    torch.testing.assert_close(fused(x), net(x), rtol=1e-12, atol=1e-12)


def test_a_norm_by_the_batch_stays():
    class Batch(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.mean, self.var = nn.Conv2d(3, 4, 1), nn.Buffer(torch.zeros(4)), nn.Buffer(torch.ones(4))

        def forward(self, x):
            return F.batch_norm(self.conv(x), self.mean, self.var, None, None, True)

    net, x = Batch().eval(), torch.randn(2, 3, 6, 6)
    fused = convext.fuse(net, x)
    assert convext.report(fused).fusion.layers == ("conv: conv",)
    torch.testing.assert_close(fused(x), F.batch_norm(net.conv(x), None, None, training=True), rtol=1e-4, atol=1e-4)


def test_a_norm_that_still_learns_stays():
    net, x = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval(), torch.randn(2, 3, 6, 6)
    net[1].train()
    before = copy.deepcopy(net[1].state_dict())
    fused = convext.fuse(net, x)
    assert convext.report(fused).fusion.layers == ("0: conv",)
    assert all(torch.equal(t, before[name]) for name, t in net[1].state_dict().items())
    fused(x)
    assert net[1].num_batches_tracked == before["num_batches_tracked"] + 1


# ------------------------------------------------------------------------------------------------------- activations


class Applied(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


ACTIVATIONS = {
    "relu": [nn.ReLU(), nn.ReLU(inplace=True), F.relu, torch.relu, torch.relu_],
    "relu by a method": [lambda x: x.relu(), lambda x: x.relu_(), lambda x: F.relu(x, inplace=True)],
    "clamp(0.0, 6.0)": [nn.ReLU6(), F.relu6, lambda x: torch.clamp(x, 0, 6), lambda x: x.clamp(min=0, max=6)],
    "clamp(0.0, 6.0) in place": [lambda x: x.clamp_(0, 6), lambda x: F.hardtanh(x, 0, 6, inplace=True)],
    "clamp(-1.0, 1.0)": [nn.Hardtanh(), F.hardtanh],
    "clamp(-0.5, 2.0)": [nn.Hardtanh(-0.5, 2.0), lambda x: F.hardtanh(x, max_val=2.0, min_val=-0.5)],
    "leaky_relu(0.01,)": [nn.LeakyReLU(), F.leaky_relu],
    "leaky_relu(0.2,)": [nn.LeakyReLU(0.2, inplace=True), lambda x: F.leaky_relu(x, 0.2)],
    "silu": [nn.SiLU(), F.silu, lambda x: F.silu(x, inplace=True)],
    "hardswish": [nn.Hardswish(), F.hardswish],
    "hardsigmoid": [nn.Hardsigmoid(), F.hardsigmoid],
    "gelu": [nn.GELU(), F.gelu, lambda x: F.gelu(x, approximate="none")],
    "gelu_tanh": [nn.GELU(approximate="tanh"), lambda x: F.gelu(x, approximate="tanh")],
    "sigmoid": [nn.Sigmoid(), torch.sigmoid, torch.sigmoid_, lambda x: x.sigmoid()],
    "tanh": [nn.Tanh(), torch.tanh, F.tanh, lambda x: x.tanh_()],
}
SPELLINGS = [(name, i) for name, spellings in ACTIVATIONS.items() for i in range(len(spellings))]


@pytest.mark.parametrize(("name", "i"), SPELLINGS)
def test_every_spelling_of_an_activation(name, i):
    activation = ACTIVATIONS[name][i]
    after = activation if isinstance(activation, nn.Module) else Applied(activation)
    conv, x = nn.Conv2d(3, 5, 3, padding=1), 4 * torch.randn(2, 3, 6, 7)
    net = nn.Sequential(conv, after).eval()
    fused = convext.fuse(net, x)
    assert [line.split(": ")[1] for line in convext.report(fused).fusion.layers] == [
        f"conv + {name.split(' by')[0].split(' in')[0]}"
    ]
    assert len(list(fused.graph.nodes)) == 3  # x, the layer, the result
    with torch.no_grad():
        oracle, torchs = exact(conv, x, None, after), net(x)
        for layer, way in itertools.product(layers(fused), ("onednn", "conv")):
            layer.way = way
            assert_by_the_rule(fused(x), torchs, oracle)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("rank", [2, 3])
def test_both_ways(rank, groups, channels_last, dtype):
    conv = [nn.Conv2d, nn.Conv3d][rank - 2](8, 16, 3, stride=2, padding=2, dilation=2, groups=groups).eval()
    x = torch.randn(2, 8, *(7, 9, 6)[:rank]).to(dtype)
    if channels_last:
        x = x.to(memory_format=[torch.channels_last, torch.channels_last_3d][rank - 2])
    residual = torch.randn(conv(x.float()).shape).to(dtype)
    conv = conv.to(dtype)
    with torch.no_grad():
        for adds, name in itertools.product((None, residual), ("identity", "relu", "silu")):
            epilogue = epilogues.Epilogue(name)
            torchs = epilogue(conv(x) if adds is None else conv(x) + adds)
            layer = Fused(conv, epilogue, adds is not None)
            assert layer.way == ("conv" if adds is not None and name == "silu" else "onednn")
            for way in {layer.way, "conv"}:
                layer.way = way
                assert_by_the_rule(layer(x, adds), torchs, exact(conv, x, adds, epilogue))


def fused(way="onednn", adds=False):
    layer = Fused(nn.Conv2d(3, 4, 3).requires_grad_(False), epilogues.Epilogue("relu"), adds)
    layer.way = way
    return layer


@pytest.fixture
def ran(monkeypatch):
    """How often torch's fused operator ran."""
    runs, run = [], onednn.Packed.run
    monkeypatch.setattr(onednn.Packed, "run", lambda self, *call: (runs.append(1), run(self, *call))[1])
    return runs


def test_when_torchs_fused_operator_runs(ran):
    layer, x = fused(), torch.randn(2, 3, 5, 6)
    layer(x)
    assert len(ran) == 1
    layer(x.clone().requires_grad_())  # a gradient is asked for
    layer(x.double().float().expand(2, 3, 5, 6)[0])  # no batch
    with convext.backend("aten"):
        layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype is torch.bfloat16
    with torch.backends.mkldnn.flags(enabled=False):
        layer(x)
    assert torch.vmap(layer)(x[:, None]).shape == (2, 1, 4, 3, 4)
    layer(x[:0])
    assert len(ran) == 1
    with torch.inference_mode():
        layer(x)
    assert len(ran) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_when_torchs_operator_adds(groups, dtype, ran):
    """To the results of groups in float32 alone, and there it is another pass."""
    conv = nn.Conv2d(4, 4, 3, padding=1, groups=groups).requires_grad_(False).to(dtype)
    layer, (x, residual) = Fused(conv, epilogues.Epilogue("relu"), True), torch.randn(2, 2, 4, 5, 6).to(dtype)
    assert_by_the_rule(layer(x, residual), F.relu(conv(x) + residual), exact(conv, x, residual, F.relu))
    one_pass = onednn.finishes(conv, adds=True)
    assert one_pass == (groups == 1 and dtype in dtypes())
    assert len(ran) == (one_pass or dtype in dtypes() & {torch.float32})


@pytest.mark.skipif(torch.bfloat16 not in dtypes(), reason="oneDNN computes in float32 alone on this processor")
def test_a_sum_in_one_pass_is_rounded_once():
    """Where a residual all but cancels a result, what would be lost in storing that is seen."""
    conv = nn.Conv2d(8, 8, 3, padding=1, bias=False).requires_grad_(False).bfloat16()
    x = torch.randn(2, 8, 9, 9).bfloat16()
    residual = -conv(x)  # what rounding the result loses is all that is left
    left = exact(conv, x, residual, F.relu)
    result = Fused(conv, epilogues.Epilogue("relu"), True)(x, residual).double()
    assert left.max() > 0
    assert (result - left).abs().max() <= 2**-6 * left.max()
    assert (F.relu(conv(x) + residual) == 0).all()


ORDERS = {
    "sum first": lambda y, x: F.relu(y + x),
    "sum first, the other way round": lambda y, x: F.relu(x + y),
    "activation first": lambda y, x: F.relu(y) + x,
    "activation first, the other way round": lambda y, x: x + F.relu(y),
}
KINDS = {
    "dense": nn.Conv2d(40, 40, 3, padding=1),
    "pointwise": nn.Conv2d(40, 40, 1),
    "grouped": nn.Conv2d(40, 40, 3, padding=1, groups=4),
    "depthwise": nn.Conv2d(40, 40, 3, padding=1, groups=40),
    "depthwise, pointwise": nn.Sequential(nn.Conv2d(40, 40, 3, padding=1, groups=40), nn.Conv2d(40, 40, 1)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ORDERS)
def test_a_sum_is_before_an_activation_or_after_it(order, kind, dtype):
    """Whichever way a layer goes; and where it lies in one layer with another."""
    net = Followed(copy.deepcopy(KINDS[kind]), lambda conv, x: ORDERS[order](conv(x), x)).eval().to(dtype)
    x = torch.randn(2, 40, 6, 7).to(dtype, memory_format=torch.channels_last)  # which one pass over both asks for
    twin = copy.deepcopy(net).double()
    fused = convext.fuse(net, x)
    taken = convext.report(fused).fusion.layers[-1].partition(": ")[2].partition(",")[0]
    assert taken == ("conv + residual + relu" if order.startswith("sum") else "conv + relu")
    with torch.no_grad():
        oracle, torchs = twin(x.double()), net(x)
        for way in ("onednn", "conv", "stencil", "pointwise"):
            for layer in layers(fused):
                layer.way = way if way in layer.ways else layer.way
            assert_by_the_rule(fused(x), torchs, oracle)
        for pair in (m for m in fused.modules() if isinstance(m, Separable)):
            pair.way = TOGETHER
            assert_by_the_rule(fused(x), torchs, oracle)


@pytest.mark.parametrize("way", ["onednn", "conv"])
def test_mistakes_are_torchs(way):
    for x in (torch.randn(1, 2, 5, 5), torch.randn(1, 3, 2, 5), torch.randn(1, 3, 5, 5).bfloat16(), torch.randn(3)):
        with pytest.raises(RuntimeError) as ours:
            fused(way)(x)
        with pytest.raises(RuntimeError) as torchs:
            nn.Conv2d(3, 4, 3)(x)
        assert str(ours.value) == str(torchs.value)


@pytest.mark.parametrize("name", ["relu", "silu", "hardswish", "gelu", "sigmoid", "tanh"])
def test_gradients(name):
    layer = Fused(nn.Conv2d(3, 4, 3).double().requires_grad_(False), epilogues.Epilogue(name), True)
    x, residual = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((1, 3, 4, 5), (1, 4, 2, 3))
    )
    assert torch.autograd.gradcheck(layer, (x, residual))
    assert torch.autograd.gradcheck(layer, (x, residual.detach()))


@pytest.mark.parametrize("way", ["onednn", "conv"])
@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 3, 4), (5, 1, 4, 3, 4)])
def test_a_residual_that_broadcasts(way, shape):
    layer, x, residual = fused(way, adds=True), torch.randn(1, 3, 5, 6), torch.randn(shape)
    torch.testing.assert_close(layer(x, residual), F.relu(layer.conv(x) + residual))


@pytest.mark.parametrize("way", ["onednn", "conv"])
def test_operands_are_not_modified(way):
    layer, x, residual = fused(way, adds=True), torch.randn(2, 3, 5, 6), torch.randn(2, 4, 3, 4)
    before = x.clone(), residual.clone(), layer.conv.weight.clone()
    layer(x, residual)
    assert all(torch.equal(a, b) for a, b in zip(before, (x, residual, layer.conv.weight), strict=True))


@pytest.mark.parametrize("change", ["in place", "another", "float16 and back", ".data"])
def test_a_weight_that_changes_is_laid_out_anew(change):
    layer, x = fused(), torch.randn(2, 3, 5, 6)
    layer(x)
    if change == "in place":
        with torch.no_grad():
            layer.conv.weight.mul_(3)
    elif change == "another":
        layer.conv.weight = nn.Parameter(torch.randn(4, 3, 3, 3), requires_grad=False)
    elif change == ".data":
        layer.conv.weight.data = torch.randn(4, 3, 3, 3)
    else:
        layer.half().float()
    torch.testing.assert_close(layer(x), F.relu(F.conv2d(x, layer.conv.weight, layer.conv.bias)))


def test_nan_stays_where_torch_computes():
    layer, x = fused("conv"), torch.full((1, 3, 3, 3), torch.nan)
    assert layer(x).isnan().all()


CHOSEN = {
    "stencil": (nn.Conv2d(8, 8, 3, padding=1, groups=8), (2, 8, 6, 8)),
    "pointwise": (nn.Conv2d(8, 8, 1), (2, 8, 6, 8)),
    "grouped": (nn.Conv2d(8, 8, 3, padding="same", groups=2, bias=False), (2, 8, 6, 8)),
    "igemm": (nn.ConvTranspose2d(4, 4, 3, padding=1), (2, 4, 3, 4)),
}
AFTER = {
    "silu": lambda conv, x: F.silu(conv(x)),
    "relu6": lambda conv, x: F.relu6(conv(x)),
    "a sum": lambda conv, x: conv(x) + x,
    "a broadcast sum": lambda conv, x: conv(x) + x[:1],
    "a sum, then silu": lambda conv, x: F.silu(conv(x) + x),
}


class Followed(nn.Module):
    def __init__(self, conv, after):
        super().__init__()
        self.conv, self.after = conv, after

    def forward(self, x):
        return self.after(self.conv, x)


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("family", CHOSEN)
def test_a_kernel_that_is_chosen_finishes_its_sums(family, after, device, monkeypatch):
    """As on a GPU, where "auto" chooses it: what follows is computed at the store, where the kernel can."""
    conv, shape = CHOSEN[family]
    memory_format = [torch.contiguous_format, torch.channels_last][list(AFTER).index(after) % 2]
    net = Followed(copy.deepcopy(conv), AFTER[after]).eval().to(device)
    x = torch.randn(shape, device=device).contiguous(memory_format=memory_format)
    fused = convext.fuse(net, x)
    record = importlib.import_module(f"convext.triton_kernels.{family}.record")
    calls = []
    monkeypatch.setattr(record, "run_activated", lambda *a, run=record.run_activated: calls.append(a[1]) or run(*a))
    remembered.forget()
    with convext.backend("triton"), torch.no_grad():
        results = [fused(x), fused(x)]  # what was launched first, and what is launched from memory
    for y in results:
        torch.testing.assert_close(y, net(x), rtol=1e-4, atol=1e-4)
        assert y.is_contiguous(memory_format=memory_format)
    assert len(calls) == (after in ("silu", "relu6", "a sum"))  # in others torch's operators follow
    leaf = x.clone().requires_grad_()
    with convext.backend("triton"):
        (found,) = torch.autograd.grad(fused(leaf).square().sum(), leaf)
    (expected,) = torch.autograd.grad(net(leaf).square().sum(), leaf)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_a_kernel_that_is_chosen_pads_with_zeros(device):
    """Another padding is a copy, which the layer makes: it goes by its own forward."""
    conv = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect", groups=4)
    net, x = Followed(conv, AFTER["silu"]).eval().to(device), torch.randn(2, 4, 5, 6, device=device)
    fused = convext.fuse(net, x)
    with convext.backend("triton"), torch.no_grad():
        torch.testing.assert_close(fused(x), net(x), rtol=1e-4, atol=1e-4)
