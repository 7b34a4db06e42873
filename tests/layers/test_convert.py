"""convext.convert: in place, in a copy, reverted, its report, and what it leaves alone."""

import copy
import gc
import io
import pickle
import weakref

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import parametrize, prune

import convext


def model(device="cpu"):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(4, 2, 2, 2))
    ).to(device)


class Functional(nn.Conv2d):
    def forward(self, input):
        return 2 * nn.functional.conv2d(input, self.weight, self.bias)


def test_in_place(device, backend):
    net, x = model(device), torch.randn(2, 3, 4, 4, device=device)
    expected, parameters = net(x), list(net.parameters())
    assert convext.convert(net) is net
    report = convext.report(net)
    assert report.converted == ["0", "2.1"]
    assert report.left_alone == {}
    assert type(net[0]) is convext.Conv2d
    assert type(net[2][1]) is convext.ConvTranspose2d
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    torch.testing.assert_close(net(x), expected)


def test_the_report_is_a_log_of_changes():
    net = model()
    report = convext.report(convext.convert(net))
    assert [(name, module) for name, module, _ in report.changes] == [("0", net[0]), ("2.1", net[2][1])]
    assert [(c.before, c.after) for _, _, c in report.changes] == [
        (nn.Conv2d, convext.Conv2d),
        (nn.ConvTranspose2d, convext.ConvTranspose2d),
    ]
    assert all(change.why for _, _, change in report.changes)
    assert str(report) == "2 layers converted, 0 left alone"
    assert str(net).count("convext.Conv") == 2


def test_the_report_names_what_convert_has_not_been_asked_to_swap():
    said = convext.report(model())
    assert said.torchs == ["0", "2.1"]
    assert str(said).splitlines()[1] == "  0, 2.1: torch's: convext.convert(model) swaps them"


def test_a_sample_that_would_be_ignored_is_refused():
    net = model()
    with pytest.raises(ValueError, match="a sample is for measuring: "):
        convext.convert(net, sample=torch.randn(2, 3, 4, 4))
    assert convext.report(net).converted == []


def test_a_converted_model_keeps_its_state_dict():
    net = model()
    before = net.state_dict()
    after = convext.convert(net).state_dict()
    assert before.keys() == after.keys()
    assert model().load_state_dict(after)


def test_revert(device):
    net = model(device)
    convext.convert(net)
    for _ in range(2):
        assert convext.revert(net) is net
        assert [type(m) for m in net.modules()] == [type(m) for m in model().modules()]
        assert [vars(m).keys() for m in net.modules()] == [vars(m).keys() for m in model().modules()]
        assert convext.report(net).converted == []


def test_the_old_undo_names_the_new():
    with pytest.raises(RuntimeError, match=r"call convext\.revert\(model\)"):
        convext.report(convext.convert(model())).undo()


def test_a_part_is_reverted_alone():
    net = convext.convert(model())
    convext.revert(net[2])
    assert type(net[2][1]) is nn.ConvTranspose2d
    assert convext.report(net).converted == ["0"]
    convext.revert(net)
    assert type(net[0]) is nn.Conv2d


def test_a_part_and_then_the_whole():
    net = model()
    convext.convert(net[2])
    convext.convert(net)
    assert convext.report(net).converted == ["0", "2.1"]
    convext.revert(net)
    assert [type(m) for m in net.modules()] == [type(m) for m in model().modules()]


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m)), None])
def test_a_copy_of_a_converted_model_is_converted_and_can_be_reverted(copied):
    net = convext.convert(model())
    if copied is None:
        saved = io.BytesIO()
        torch.save(net, saved)
        saved.seek(0)
        other = torch.load(saved, weights_only=False)
    else:
        other = copied(net)
    assert convext.report(other).converted == ["0", "2.1"]
    convext.revert(other)
    assert type(other[0]) is nn.Conv2d
    assert type(other[2][1]) is nn.ConvTranspose2d
    assert type(net[0]) is (nn.Conv2d if copied is copy.copy else convext.Conv2d)  # a shallow copy shares its layers


def test_a_shallow_copy_of_a_layer_computes_with_its_own_weight():
    """Also what replicas of DataParallel are."""
    layer = convext.convert(nn.ConvTranspose2d(2, 3, 3))
    other = layer._replicate_for_data_parallel()
    other.weight, other.bias = layer.weight * 2, layer.bias
    x = torch.randn(1, 2, 4, 4)
    torch.testing.assert_close(other(x), nn.functional.conv_transpose2d(x, layer.weight * 2, layer.bias))


def test_the_log_keeps_nothing_alive():
    net = convext.convert(model())
    layer, whole = weakref.ref(net[0]), weakref.ref(net)
    net[0] = nn.Identity()
    assert layer() is None
    del net
    gc.collect()
    assert whole() is None


# ------------------------------------------------------------------------------------- reverted after surgery


def wrapped(net):
    net[0] = checkpoint_wrapper(net[0])


def removed(net):
    net[0] = nn.Identity()


def deleted(net):
    del net[0]


def moved(net):
    net.add_module("tail", net[0])
    net[0] = nn.Identity()


def normed(net):
    nn.utils.parametrizations.weight_norm(net[0])


def parametrized_twice(net):
    parametrize.register_parametrization(net[0], "weight", nn.Tanh())
    parametrize.register_parametrization(net[0], "bias", nn.Tanh())


def pruned(net):
    prune.l1_unstructured(net[0], "weight", 0.5)


def sharded(net):
    """As FSDP2 does: a class made on the spot, in front of the layer's own."""
    net[0].__class__ = type("FSDPConv2d", (Marker, type(net[0])), {})


class Marker:
    pass


@pytest.mark.parametrize(
    "surgery", [wrapped, removed, deleted, moved, normed, parametrized_twice, pruned, sharded], ids=lambda f: f.__name__
)
def test_revert_after(surgery):
    net, x = convext.convert(model()), torch.randn(1, 3, 4, 4)
    layer, other = net[0], net[2][1]
    surgery(net)
    expected = layer(x)
    convext.revert(net)
    assert not any(kind.__module__.startswith("convext") for part in (layer, other) for kind in type(part).__mro__)
    torch.testing.assert_close(layer(x), expected)
    assert isinstance(layer, Marker) == (surgery is sharded)


def test_parametrizations_are_removed_from_a_reverted_layer():
    layer = convext.convert(nn.Conv2d(3, 4, 3))
    parametrize.register_parametrization(layer, "weight", nn.Tanh())
    convext.revert(layer)
    assert parametrize.is_parametrized(layer)
    parametrize.remove_parametrizations(layer, "weight")
    assert type(layer) is nn.Conv2d


def test_fully_shard_and_back():
    dist = torch.distributed
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("this torch has no gloo")
    fsdp = pytest.importorskip("torch.distributed.fsdp", reason="this torch has no FSDP2")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
        net, x = convext.convert(model().eval()), torch.randn(1, 3, 4, 4)
        expected = model_output(net, x)
        fsdp.fully_shard(net[0], mesh=mesh)
        assert convext.report(net).converted == ["0", "2.1"]
        torch.testing.assert_close(model_output(net, x), expected)
        convext.revert(net)
        assert isinstance(net[0], fsdp.FSDPModule)
        assert not isinstance(net[0], convext.Conv2d)
        torch.testing.assert_close(model_output(net, x), expected)
    finally:
        dist.destroy_process_group()


def model_output(net, x):
    with torch.no_grad():
        return net(x)


# ------------------------------------------------------------------------------------------------- in a copy


def test_a_copy_shares_parameters_and_buffers(device):
    net = model(device)
    other = convext.convert(net, inplace=False)
    assert other is not net
    assert type(net[0]) is nn.Conv2d
    assert type(other[0]) is convext.Conv2d
    for ours, theirs in ((other.parameters(), net.parameters()), (other.buffers(), net.buffers())):
        assert all(a is b for a, b in zip(ours, theirs, strict=True))
    other(torch.randn(2, 3, 4, 4, device=device)).sum().backward()
    assert net[0].weight.grad is not None
    convext.revert(other)
    assert type(other[0]) is nn.Conv2d


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
        lambda layer: prune.random_structured(layer, "weight", 0.5, dim=0),
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_a_copy_of_layers_with_computed_weights(make, warm):
    net, x = nn.Sequential(make(nn.Conv2d(3, 4, 3))).eval(), torch.randn(1, 3, 6, 6)
    if warm:
        net(x)
    other = convext.convert(net, inplace=False)
    torch.testing.assert_close(other(x), net(x))
    for a, b in zip(other.parameters(), net.parameters(), strict=True):
        assert a is b


def test_a_copy_of_a_module_with_cached_tensors():
    net = model()
    net.cache = {"last": [net[0].weight * 2]}
    other = convext.convert(net, inplace=False)
    assert other.cache is not net.cache
    assert other.cache["last"][0] is net.cache["last"][0]


# --------------------------------------------------------------------------------------- what stays as it was


def test_a_convolution_itself():
    layer = nn.Conv1d(2, 3, 3)
    assert type(convext.convert(layer)) is convext.Conv1d
    assert type(convext.convert(nn.Conv3d(2, 3, 3), inplace=False)) is convext.Conv3d


def test_a_shared_layer_stays_shared(device):
    layer = nn.Conv2d(2, 2, 3, padding=1)
    net = nn.Sequential(layer, nn.ReLU(), layer).to(device)
    for inplace in (False, True):
        converted = convext.convert(net, inplace)
        assert converted[0] is converted[2]
        assert type(converted[0]) is convext.Conv2d
        assert convext.report(converted).converted == ["0"]


def test_hooks_modes_and_freezing_survive(device):
    net, seen = model(device).eval(), []
    net[0].register_forward_hook(lambda module, args, output: seen.append(type(module)))
    net[0].weight.requires_grad_(False)
    convext.convert(net)(torch.randn(1, 3, 4, 4, device=device))
    assert seen == [convext.Conv2d]
    assert not net[0].training
    assert not net[0].weight.requires_grad


EDITS = [
    ("zeros", {"padding": 2}),
    ("zeros", {"padding": (2, 0)}),
    ("zeros", {"padding": "same"}),
    ("zeros", {"stride": 2}),
    ("zeros", {"stride": 1, "dilation": 2, "padding": (2, 2)}),
    ("zeros", {"padding_mode": "circular"}),
    ("zeros", {"padding": 2, "padding_mode": "circular"}),
    ("zeros", {"groups": 1}),
    ("circular", {"padding": 1}),
    ("circular", {"padding": "valid"}),
    ("circular", {"padding_mode": "zeros"}),
    ("circular", {"padding_mode": "reflect", "stride": (2, 1)}),
    ("reflect", {"padding": (2, 2), "dilation": (2, 2)}),
    ("circular", {"_reversed_padding_repeated_twice": [1, 1, 0, 0]}),
]


@pytest.mark.parametrize(("mode", "edits"), EDITS, ids=str)
def test_attributes_edited_afterwards_mean_what_they_mean_to_torch(mode, edits, device, backend):
    theirs = nn.Conv2d(3, 4, 3, padding=1, padding_mode=mode, device=device)
    ours, x = convext.convert(copy.deepcopy(theirs)), torch.randn(1, 3, 8, 8, device=device)
    for name, value in edits.items():
        setattr(theirs, name, value)
        setattr(ours, name, value)
    torch.testing.assert_close(ours(x), theirs(x))


# ------------------------------------------------------------------------------------------------ left alone


def patched(name):
    layer = nn.ConvTranspose2d(3, 4, 3) if name == "forward" else nn.Conv2d(3, 4, 3)
    before = getattr(layer, name)
    setattr(layer, name, lambda *arguments: 2 * before(*arguments))
    return layer


LEFT = {
    "a subclass that calls functions": (lambda: Functional(3, 4, 3), "Functional calls conv2d itself"),
    "lazy": (lambda: nn.LazyConv2d(4, 3), "LazyConv2d has no shape yet"),
    "patched forward": (lambda: patched("forward"), "its forward was replaced on this layer"),
    "patched _conv_forward": (lambda: patched("_conv_forward"), "its _conv_forward was replaced on this layer"),
    "scripted": (lambda: torch.jit.script(nn.Conv2d(3, 4, 3)), "Conv2d is compiled by TorchScript"),
    "traced": (lambda: torch.jit.trace(nn.Conv2d(3, 4, 3), torch.randn(1, 3, 6, 6)), "compiled by TorchScript"),
    "frozen": (
        lambda: torch.jit.freeze(torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3)).eval())),
        "1 convolutions are compiled",
    ),
    "a graph of functions": (
        lambda: torch.fx.symbolic_trace(nn.Conv2d(3, 4, 3)),
        "1 convolutions are calls of functions",
    ),
}


@pytest.mark.parametrize(("make", "reason"), LEFT.values(), ids=LEFT)
@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_left_alone_with_a_reason(make, reason):
    net = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), make())
    x = torch.randn(1, 3, 6, 6)
    before = type(net[1])
    if before is not nn.LazyConv2d:
        expected = net(x)
    report = convext.report(convext.convert(net))
    assert type(net[1]) is before
    assert report.converted == ["0"]
    assert reason in report.left_alone["1"]
    assert str(report).splitlines()[0] == "1 layer converted, 1 left alone"
    assert str(report).splitlines()[1:] == [f"  1: {report.left_alone['1']}"]
    if before is not nn.LazyConv2d:
        torch.testing.assert_close(net(x), expected)


def test_a_model_that_is_itself_left_alone():
    report = convext.report(convext.convert(Functional(3, 4, 3)))
    assert str(report).splitlines()[1].startswith("  the model: ")


@pytest.mark.parametrize("name", ["Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d"])
def test_quantized_convolutions_are_named(name):
    quantized = pytest.importorskip("torch.ao.nn.quantized", reason="this torch has no eager quantization")
    try:
        net = nn.Sequential(getattr(quantized, name)(4, 4, 3))
    except RuntimeError as error:
        pytest.skip(f"this machine has no quantized {name}: {error}")
    assert "quantized" in convext.report(convext.convert(net)).left_alone["0"]


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_inside_a_scripted_model_every_convolution_is_named():
    assert list(convext.report(convext.convert(torch.jit.script(model()))).left_alone) == ["0", "2.1"]


class CallsAndHolds(nn.Module):
    """A layer, and a convolution of its own in a branch."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)
        self.weight = nn.Parameter(torch.randn(3, 3, 3, 3))

    def forward(self, x: torch.Tensor, twice: bool):
        x = self.layer(x)
        if twice:
            x = nn.functional.conv2d(x, self.weight)
        return x


def test_a_scripted_module_is_named_for_what_it_calls_itself():
    left = convext.report(convext.convert(torch.jit.script(CallsAndHolds()))).left_alone
    assert left[""] == "1 convolutions are compiled into it by TorchScript: convert first"
    assert left["layer"].startswith("Conv2d is compiled by TorchScript")


def test_a_lazy_layer_after_its_first_call():
    net = nn.Sequential(nn.LazyConv2d(4, 3))
    net(torch.randn(1, 3, 6, 6))
    assert convext.report(convext.convert(net)).converted == ["0"]


def test_converted_twice():
    net = convext.convert(convext.convert(model()))
    report = convext.report(net)
    assert report.converted == ["0", "2.1"]
    assert report.left_alone == {}
    convext.revert(net)
    assert type(net[0]) is nn.Conv2d


def test_revert_leaves_layers_that_were_convexts_already():
    net = nn.Sequential(convext.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3))
    convext.revert(convext.convert(net))
    assert [type(layer) for layer in net] == [convext.Conv2d, nn.Conv2d]


def test_a_layer_that_is_patched_afterwards_keeps_its_patch():
    layer = convext.convert(nn.Conv2d(3, 4, 3))
    before, x = layer.forward, torch.randn(1, 3, 6, 6)
    layer.forward = lambda input: 2 * before(input)
    torch.testing.assert_close(layer(x), 2 * nn.functional.conv2d(x, layer.weight, layer.bias))
