"""What is remembered: saved, set, reset, of several signals; and the model, which is shared and left as it is."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from causal_networks import Apply, Cut, TorchWaveNet, batch_norm, padded, residual, stepped, trimmed, upsampled
from torch import nn

import convext

C = 4


def network() -> nn.Module:
    """Something of every stage: a ring, a phase, what is held back, what waits for another."""
    frames = residual(padded(C, 4, s=2, wait=1), upsampled(C, 4, 2))
    shifts = nn.Sequential(nn.ConstantPad1d((3, 0), 1.0), Apply(lambda x: x[..., 2:-1]))
    return nn.Sequential(padded(C, 3, d=4), frames, shifts, trimmed(C, 2)).double()


def signal(length: int = 40, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, C, length, dtype=torch.float64)


def same(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("sizes", [(1,) * 17, (5, 0, 3, 9)])
def test_a_saved_state_goes_on(sizes) -> None:
    """From a file, in another stream of the same model; and the dict is nobody's but the user's."""
    model, x = network(), signal()
    stream = convext.streaming(model)
    before = torch.cat([stream.step(chunk) for chunk in x[..., :17].split(list(sizes), -1)], -1)
    file = io.BytesIO()
    torch.save(stream.state, file)
    file.seek(0)
    state = torch.load(file)
    kept = copy.deepcopy(state)
    stepped(stream, signal(), (1, 7))
    for other in (stream, convext.streaming(model)):
        other.state = given = copy.deepcopy(state)
        for tensor in (*given.values(), *other.state.values()):
            tensor.fill_(9)
        same(torch.cat([before, stepped(other, x[..., 17:], (1, 1, 4))], -1), model(x))
    assert all(torch.equal(state[key], kept[key]) for key in kept)
    assert "1.held.0" in state


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda stream: pickle.loads(pickle.dumps(stream))])
def test_a_copy_goes_on_by_itself(copied) -> None:
    model, x = nn.Sequential(padded(C, 3, d=4), trimmed(C, 2)).double(), signal()
    stream = convext.streaming(model)
    before = stepped(stream, x[..., :9], (1, 4))
    other = copied(stream)
    stepped(stream, signal(), (1, 5))
    same(torch.cat([before, stepped(other, x[..., 9:], (1, 1, 6))], -1), model(x))


def test_the_keys_say_what_is_remembered() -> None:
    model = nn.Sequential(padded(C, 3, d=4), padded(C, 4, s=2)).double()
    stream, x = convext.streaming(model), signal(11)
    assert stream.state == {}
    stepped(stream, x, (1, 2, 1))
    state = stream.state
    assert set(state) == {"chunk.input", "0.1.past", "1.1.past", "1.1.wait"}
    assert torch.equal(state["0.1.past"], x[..., 3:])
    assert state["chunk.input"].shape == (2, C, 0)
    assert int(state["1.1.wait"]) == 1
    stream.state = {}
    same(stream.step(x), model(x))


def test_a_state_of_one_of_a_batch() -> None:
    model, x = network(), signal(40, 3)
    stream = convext.streaming(model)
    before = stepped(stream, x[..., :15], (1, 4))
    stream.state = {key: value[1:2] if value.dim() else value for key, value in stream.state.items()}
    same(torch.cat([before[1:2], stream.step(x[1:2, :, 15:])], -1), model(x)[1:2])


def test_two_streams_of_one_model_side_by_side() -> None:
    model, x, z = network(), signal(), signal(batch=1)
    of_x, of_z, made = convext.streaming(model), convext.streaming(model), []
    for a, b in zip(x.split(3, -1), z.split(3, -1), strict=True):
        made.append((of_x.step(a), of_z.step(b)))
    same(torch.cat([y for y, _ in made], -1), model(x))
    same(torch.cat([y for _, y in made], -1), model(z))


def test_two_signals_through_one_stream() -> None:
    model, x, z = network(), signal(), signal()
    stream, states, made = convext.streaming(model), [{}, {}], [[], []]
    for chunks in zip(x.split(5, -1), z.split(5, -1), strict=True):
        for i in (0, 1):
            stream.state = states[i]
            made[i].append(stream.step(chunks[i]))
            states[i] = stream.state
    same(torch.cat(made[0], -1), model(x))
    same(torch.cat(made[1], -1), model(z))


def test_reset_begins_anew_with_another_batch_and_dtype() -> None:
    model, x = network(), signal()
    stream = convext.streaming(model)
    stepped(stream, signal(), (1, 9))
    stream.reset()
    same(stepped(stream, x[:1], (4, 1)), model(x[:1]))
    stream.reset()
    model.float()
    assert stream.step(x.float()).dtype == torch.float32


@pytest.mark.parametrize("how", ["in place", "data", "another parameter", "load_state_dict"])
@pytest.mark.parametrize("count", [1, 3])
def test_changed_weights_take_effect(how: str, count: int) -> None:
    """From the next step on, over the inputs of before: a layer remembers inputs, not what it made of them."""
    model = padded(C, 3).double()
    conv = model[1]
    stream, x = convext.streaming(model), signal(6 + count)
    stepped(stream, x[..., :6], (1, 1))
    if how == "in place":
        conv.weight.mul_(2)
    elif how == "data":
        conv.weight.data = torch.randn_like(conv.weight)
    elif how == "another parameter":
        conv.weight = nn.Parameter(torch.randn_like(conv.weight))
    else:
        conv.load_state_dict({key: value + 1 for key, value in conv.state_dict().items()})
    same(stream.step(x[..., 6:]), model(x)[..., 6:])


def test_the_model_stays_as_it_is() -> None:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.last, self.bias = padded(C, 3), None, nn.utils.weight_norm(nn.Conv1d(C, C, 1))

        def forward(self, x):
            self.last = x
            return self.bias(self.conv(x)) + torch.tensor([2.0], dtype=torch.float64)

    model = Keeps().double()
    parameters = dict(model.named_parameters())
    state = {key: value.clone() for key, value in model.state_dict().items()}
    attributes = {module: set(vars(module)) for module in model.modules()}
    stream, x = convext.streaming(model), signal()
    kept = x.clone()
    y = stepped(stream, x, (1, 5))
    assert model.last is None
    assert {module: set(vars(module)) for module in model.modules()} == attributes
    assert all(value is parameters[name] for name, value in model.named_parameters())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(x, kept)
    same(y, model(x))


def test_gradients_flow_within_a_chunk() -> None:
    """And end at its beginning: the gradient of a chunk is that of a signal whose past is a constant."""
    model, x = padded(C, 3).double(), signal(10)
    stream = convext.streaming(model)
    with torch.enable_grad():
        stream.step(x[..., :4])
        chunk = x[..., 4:].clone().requires_grad_()
        stream.step(chunk).square().sum().backward()
        ours = chunk.grad, model[1].weight.grad.clone()
        model.zero_grad()
        whole = x.clone().requires_grad_()
        model(whole)[..., 4:].square().sum().backward()
    same(ours[0], whole.grad[..., 4:])
    same(ours[1], model[1].weight.grad)
    assert not any(value.requires_grad for value in stream.state.values())


def test_what_is_held_back_carries_no_gradient() -> None:
    stream = convext.streaming(network())
    with torch.enable_grad():
        for chunk in signal(15).split([5, 1, 9], -1):
            stream.step(chunk).sum().backward()
            assert not any(value.requires_grad for value in stream.state.values())


def test_modes_may_change_between_steps() -> None:
    """Begun in inference mode, gone on with gradients, and back."""
    model, x = TorchWaveNet(C, 4, 4).double(), signal(40)
    stream, made = convext.streaming(model), []
    for i, chunk in enumerate(x.split([1, 1, 3, 1, 1, 9, 1, 1, 22], -1)):
        with torch.inference_mode(i % 3 == 0), torch.set_grad_enabled(i % 3 == 1):
            made.append(stream.step(chunk).detach().clone())
    same(torch.cat(made, -1), model(x))


def test_training_mode_is_asked_at_every_step() -> None:
    model = nn.Sequential(padded(C, 3), batch_norm(C)).double().eval()
    stream, x = convext.streaming(model), signal()
    stream.step(x)
    model.train()
    with pytest.raises(ValueError, match=r"layer '1' mixes the whole of time: in training mode .* call model.eval"):
        stream.step(x)
    model.eval()
    stream.reset()
    same(stream.step(x), model(x))


def test_a_first_step_that_fails_begins_nothing() -> None:
    model = nn.Sequential(padded(C, 3), Cut(0), nn.Conv1d(C, C, 1)).double()
    stream, x = convext.streaming(model), signal()
    with pytest.raises(RuntimeError, match="expected input"):
        stream.step(torch.randn(2, C + 1, 5, dtype=torch.float64))
    with pytest.raises(RuntimeError):  # of float32, behind the first layer's past
        stream.step(torch.randn(3, C, 5))
    assert stream.state == {}
    same(stream.step(x), model(x))


def test_a_state_that_was_just_set_can_be_read() -> None:
    """Also of layers that remember nothing."""
    model = nn.Sequential(padded(4, 3), nn.Conv1d(4, 4, 1))
    stream, another = convext.streaming(model), convext.streaming(model)
    stream.step(torch.randn(1, 4, 5))
    another.state = state = stream.state
    assert another.state.keys() == state.keys()
    for key in state:
        torch.testing.assert_close(another.state[key], state[key])
