"""convext.convert(model, sample=x, measure=True), by a clock that the layers themselves put forward."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

import convext
from convext.measuring import worth

SECOND = 1.0


class Clock:
    """Time passes only where a convolution runs: as `costs` says for (convext's or not, its output channels)."""

    def __init__(self):
        self.now, self.costs = 0.0, {}

    def __call__(self):
        return self.now

    def work(self, layer):
        whose = "convext" if type(layer).__module__.startswith("convext") else "torch"
        self.now += self.costs.get((whose, layer.out_channels), SECOND)


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(worth, "clock_of", lambda device: made)
    for kind in (nn.Conv2d, convext.Conv2d):

        def forward(layer, input, run=kind.forward):
            made.work(layer)
            return run(layer, input)

        monkeypatch.setattr(kind, "forward", forward)
    return made


def model():
    """Two equal layers, one of another width, and one that is not reached."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Dropout(0.5), nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.Conv2d(4, 5, 1),
    )  # fmt: skip
    net[6].spare = nn.Conv2d(2, 2, 1)
    return net


X = torch.randn(2, 3, 6, 6)


def kinds(net):
    return [type(layer).__module__.partition(".")[0] for layer in net if isinstance(layer, nn.Conv2d)]


def test_converts_what_is_faster_and_says_what_was_measured(clock):
    clock.costs = {("convext", 4): 0.5}
    net = model().eval()
    assert convext.convert(net, sample=X, measure=True) is net
    assert kinds(net) == ["convext", "convext", "convext", "torch"]
    said = convext.report(net)
    assert said.converted == ["0", "3", "5"]
    assert list(said.gains) == ["0", "3", "5", "6"]
    assert [said.gains[name].forward.value for name in said.gains] == [2.0, 2.0, 2.0, 1.0]
    assert said.whole.forward.value == pytest.approx(4 / 2.5)
    assert said.whole.step is said.gains["0"].step is None
    assert said.left_alone == {
        "6": "torch's is as fast: forward 1.00x (1.00 to 1.00)",
        "6.spare": "not measured: the sample does not reach it",
    }
    assert str(said).splitlines()[1:3] == [
        "  the whole model, with them and without: forward 1.60x (1.60 to 1.60)",
        "  0: converted, forward 2.00x (2.00 to 2.00)",
    ]
    assert said.changes[0][2].why == "measured as it runs in its model: forward 2.00x (2.00 to 2.00)"


@pytest.mark.parametrize(("cost", "converted"), [(1 / 1.03, True), (1 / 1.01, False), (1.0, False), (2.0, False)])
def test_two_percent_are_worth_it(clock, cost, converted):
    clock.costs = {("convext", 5): cost}
    net = convext.convert(model(), sample=X, measure=True)
    assert kinds(net) == ["torch", "torch", "torch", "convext" if converted else "torch"]


def test_in_training_mode_the_step_counts(clock):
    net = convext.convert(model(), sample=X, measure=True)
    gains = convext.report(net).gains
    assert all(gain.decisive is gain.step for gain in gains.values())
    assert convext.report(net).whole is None
    net.requires_grad_(False)
    convext.convert(net, sample=X, measure=True)
    assert all(gain.step is None for gain in convext.report(net).gains.values())


def test_a_model_that_is_no_faster_gets_its_layers_back(clock):
    """Layers may win by themselves and lose together: what lies between them gets slower."""
    clock.costs = {("convext", 4): 0.5}

    class Between(nn.Module):
        def forward(self, x):
            clock.now += 5.0 if type(net[0]) is convext.Conv2d else 0.0
            return x

    net = nn.Sequential(nn.Conv2d(3, 4, 1), Between()).eval()
    convext.convert(net, sample=X, measure=True)
    said = convext.report(net)
    assert type(net[0]) is nn.Conv2d
    assert said.converted == []
    assert said.left_alone["0"] == (
        "put back, for the whole model was no faster (forward 0.18x (0.18 to 0.18)): forward 2.00x (2.00 to 2.00)"
    )


@pytest.mark.parametrize("training", [False, True])
def test_nothing_but_the_layers_changes(clock, training):
    clock.costs = {("convext", 4): 0.5}
    net = model().train(training)
    net(X).sum().backward()
    state, gradients = copy.deepcopy(net.state_dict()), [p.grad for p in net.parameters()]
    values, random = copy.deepcopy(gradients), torch.get_rng_state()
    convext.convert(net, sample=X, measure=True)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(
        torch.equal(before, after) for before, after in zip(state.values(), net.state_dict().values(), strict=True)
    )
    assert all(p.grad is before for p, before in zip(net.parameters(), gradients, strict=True))
    assert all(v is None or torch.equal(v, g) for v, g in zip(values, gradients, strict=True))
    assert net.training is training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("runs", [0, 1, 2, 3, 7])
def test_an_interruption_leaves_the_model_as_it_was(clock, runs, training):
    """While calls are noted (0 runs of the model before it), and while the whole is timed, with our layers in."""
    clock.costs = {("convext", 4): 0.5}
    net, left = model().train(training), [runs]

    def interrupt(module, inputs, output):
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1

    net.register_forward_hook(interrupt)
    before, state = [vars(m).keys() for m in net.modules()], copy.deepcopy(net.state_dict())
    with pytest.raises(KeyboardInterrupt):
        convext.convert(net, sample=X, measure=True)
    assert kinds(net) == ["torch"] * 4
    assert [vars(m).keys() for m in net.modules()] == before
    assert all(torch.equal(old, new) for old, new in zip(state.values(), net.state_dict().values(), strict=True))
    assert not any(layer._forward_hooks for layer in net)


def test_an_interruption_while_a_layer_is_timed(clock, monkeypatch):
    calls = []

    def forward(layer, input):
        calls.append(layer)
        raise KeyboardInterrupt

    monkeypatch.setattr(convext.Conv2d, "forward", forward)
    net = model()
    with pytest.raises(KeyboardInterrupt):
        convext.convert(net, sample=X, measure=True)
    assert len(calls) == 1
    assert kinds(net) == ["torch"] * 4


@pytest.mark.parametrize("rounds", [9, 10])  # after which ours, or torch's, were in last
def test_the_same_measurements_give_the_same_model(clock, rounds, monkeypatch):
    monkeypatch.setattr(worth, "MODEL", replace(worth.MODEL, fewest=rounds))
    clock.costs = {("convext", 4): 0.75, ("torch", 5): 1.25}  # exact sums, at any time
    nets = [convext.convert(model(), sample=X, measure=True) for _ in range(2)]
    assert kinds(nets[0]) == kinds(nets[1]) == ["convext"] * 4
    assert convext.report(nets[0]).gains == convext.report(nets[1]).gains


# Samples of torch's and of ours: a fifth faster in the median, which may be chance; surely faster; slower.
CHANCE = [1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.5], [1.8, 0.9, 1.8, 0.9, 1.8, 0.9, 1.8, 0.9, 1.25]
SURE, SLOWER = ([2.0] * 9, [1.0] * 9), ([1.0] * 9, [1.1] * 9)


@pytest.mark.parametrize(
    ("rounds", "asked", "faster"),
    [([SURE], 1, True), ([SLOWER], 1, False), ([CHANCE, SURE, SURE], 2, True), ([CHANCE] * 4, 3, False)],
)
def test_a_model_that_may_be_faster_is_timed_for_longer(rounds, asked, faster, monkeypatch):
    left = list(rounds)
    monkeypatch.setattr(worth, "interleaved", lambda *_: dict(zip(("torch", "convext"), left.pop(0), strict=True)))
    gain = worth.Sampled(model().eval(), (X,)).gain(lambda whose: None)
    assert len(rounds) - len(left) == asked
    assert (gain.decisive.low > 1) is faster


def test_revert_and_copies(clock):
    clock.costs = {("convext", 4): 0.5}
    net = model()
    before = [vars(m).keys() for m in net.modules()]
    other = convext.convert(net, False, sample=(X,), measure=True)
    assert kinds(net) == ["torch"] * 4
    said = str(convext.report(other))
    for copied in (copy.deepcopy(other), pickle.loads(pickle.dumps(other)), other):
        assert str(convext.report(copied)) == said
        assert [vars(m).keys() for m in convext.revert(copied).modules()] == before
        assert convext.report(copied).left_alone == {}
    assert kinds(convext.convert(other)) == ["convext"] * 4


def test_layers_that_are_alike_are_timed_once(clock, monkeypatch):
    timed = []
    gain = worth._gain
    monkeypatch.setattr(worth, "_gain", lambda layer, calls: (timed.append(layer), gain(layer, calls))[1])
    net = model().eval()
    convext.convert(net, sample=X, measure=True)
    assert timed == [net[0], net[3], net[6]]


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"convert\(model, sample=x, measure=True\)"):
        convext.convert(model(), measure=True)
    with pytest.raises(ValueError, match="no tensor that it returns has a gradient"):
        convext.convert(nn.Sequential(model(), Detached()), sample=X, measure=True)


class Detached(nn.Module):
    def forward(self, x):
        return {"x": x.detach()}


# ---------------------------------------------------------------------------------- a layer as it runs in its model


class Pieces(nn.Module):
    """A layer that reads every second channel, twice, one that reads a constant image, and one under autocast."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(4, 4, 3), nn.Conv1d(4, 6, 1), nn.Conv2d(8, 8, 1)
        self.up = nn.ConvTranspose2d(8, 2, 2, 2)

    def forward(self, x, *, scale=1):
        y = torch.cat([self.first(x[:, ::2]), self.first(x[:, ::2])], 1)
        self.second(x[:1, :4, 0].expand(3, -1, -1).detach())
        with torch.autocast("cpu", torch.bfloat16):
            y = self.third(y * scale)
        return self.up(y.float(), output_size=[8, 8]).permute(0, 2, 3, 1)


def test_what_layers_read_is_noted_and_drawn_again():
    net, x = Pieces(), torch.randn(2, 8, 6, 6).to(memory_format=torch.channels_last)
    layers = dict(net.named_children())
    with worth._noting(layers) as noted:
        torch.autograd.grad(net(x).square().sum(), list(net.first.parameters()))
    assert [len(noted[name]) for name in layers] == [2, 1, 1, 1]
    (first,) = noted["first"][0].arguments
    assert (first.shape, first.strides, first.requires_grad) == ((2, 4, 6, 6), x[:, ::2].stride(), False)
    drawn = first.draw()
    assert drawn.stride() == x[:, ::2].stride()
    assert noted["first"][1].gradient.strides[1] == 1  # a slice of channels-last
    assert noted["first"][1].gradient.shape == (2, 4, 4, 4)
    (second,) = noted["second"][0].arguments
    assert second.strides[0] == second.draw().stride(0) == 0
    assert noted["second"][0].gradient is None
    assert noted["third"][0].autocast == ("cpu", torch.bfloat16, True)
    assert noted["first"][0].autocast[2] is False
    assert noted["up"][0].keywords == {"output_size": [8, 8]}


@pytest.mark.parametrize("training", [False, True])
def test_such_layers_are_timed(training):
    net, x = Pieces().train(training), torch.randn(2, 8, 6, 6).to(memory_format=torch.channels_last)
    gains = convext.report(convext.convert(net, sample=x, measure=True)).gains
    assert list(gains) == ["first", "second", "third", "up"]
    assert [gain.step is not None for gain in gains.values()] == [training, False, training, training]
    assert all(gain.decisive.value > 0 for gain in gains.values())


class Halved(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) / 2


@pytest.mark.parametrize("training", [False, True])
def test_subclasses_and_parametrized_layers_are_measured(training):
    """For real: a weight norm is part of each forward, a spectral norm's buffers stay what they are."""
    norms = nn.utils.parametrizations
    net = nn.Sequential(Halved(3, 4, 1), norms.weight_norm(nn.Conv2d(4, 4, 1)), norms.spectral_norm(nn.Conv2d(4, 4, 1)))
    net.train(training)
    kinds_before, state = [type(layer) for layer in net], copy.deepcopy(net.state_dict())
    said = convext.report(convext.convert(net, sample=X, measure=True))
    assert list(said.gains) == ["0", "1", "2"]
    assert all((gain.step is None) == (not training) for gain in said.gains.values())
    assert all(torch.equal(t, state[name]) for name, t in net.state_dict().items())
    assert [type(layer) for layer in convext.revert(net)] == kinds_before


def test_the_report_says_once_what_holds_for_many(clock):
    net = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(5))).eval()
    said = convext.report(convext.convert(net, sample=X, measure=True))
    assert str(said).splitlines()[1:] == ["  0, 1, 2 and 2 more: torch's is as fast: 1.00x to 1.00x"]
