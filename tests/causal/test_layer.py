"""convext.ShortConvolution: torch.nn.Conv1d's parameters, and what flash-linear-attention's layer does with them."""

import pytest
import torch
from causal_problems import ACTIVATIONS, oracle

import convext


def exact(layer, x, states=None, lengths=None, packed=False):
    lengths = lengths or [[x.shape[1]]] * x.shape[0]
    y, _ = oracle(
        x.transpose(1, 2), layer.weight[:, 0], layer.bias, states, lengths=lengths, activation=layer.activation,
        packed=packed,
    )  # fmt: skip
    return y.transpose(1, 2).to(x.dtype)


def test_parameters_are_those_of_a_depthwise_conv1d():
    torch.manual_seed(1)
    ours = convext.ShortConvolution(6, 4, bias=True)
    torch.manual_seed(1)
    theirs = torch.nn.Conv1d(6, 6, 4, groups=6, padding=3)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
    assert isinstance(ours, torch.nn.Conv1d)
    assert ours.state_size == 24
    assert "activation=silu" in repr(ours)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_values(activation, bias):
    layer = convext.ShortConvolution(6, 4, bias=bias, activation=activation)
    x, residual = torch.randn(2, 9, 6), torch.randn(2, 9, 6)
    y, state = layer(x, residual)
    torch.testing.assert_close(y, exact(layer, x) + residual)
    assert state is None


def test_a_prompt_then_tokens():
    layer = convext.ShortConvolution(6, 4)
    x = torch.randn(2, 20, 6)
    with torch.no_grad():
        first, cache = layer(x[:, :7], output_final_state=True)
        assert torch.equal(cache, x[:, 3:7].transpose(1, 2))
        second, cache = layer(x[:, 7:15], cache=cache, output_final_state=True)
        assert torch.equal(cache, x[:, 11:15].transpose(1, 2))
        tokens, given = [], cache
        for i in range(15, 20):
            y, cache = layer(x[:, i : i + 1], cache=cache, output_final_state=True)
            tokens.append(y)
        assert cache is given
    torch.testing.assert_close(torch.cat([first, second, *tokens], 1), exact(layer, x))


def test_a_first_element_alone():
    layer = convext.ShortConvolution(6, 4)
    x = torch.randn(2, 1, 6)
    y, cache = layer(x, output_final_state=True)
    torch.testing.assert_close(y, exact(layer, x))
    assert torch.equal(cache, torch.cat([torch.zeros(2, 6, 3), x.transpose(1, 2)], 2))


def test_packed_sequences_go_on_from_their_caches():
    layer = convext.ShortConvolution(6, 4, bias=True)
    lengths, x = [3, 1, 7], torch.randn(1, 11, 6)
    cache, cu_seqlens = torch.randn(3, 6, 4), torch.tensor([0, 3, 4, 11])
    y, after = layer(x, cache=cache, output_final_state=True, cu_seqlens=cu_seqlens)
    torch.testing.assert_close(y, exact(layer, x, cache[:, :, 1:], [lengths], packed=True))
    assert torch.equal(after[1], torch.cat([cache[1, :, 1:], x[0, 3:4].t()], 1))
    assert torch.equal(after[2], x[0, 7:11].t())


def test_a_step_of_packed_sequences():
    layer = convext.ShortConvolution(6, 4)
    x, cache = torch.randn(1, 3, 6), torch.randn(3, 6, 4)
    before = cache.clone()
    with torch.no_grad():
        y, _ = layer(x, cache=cache, cu_seqlens=torch.tensor([0, 1, 2, 3]))
    torch.testing.assert_close(y, exact(layer, x, before[:, :, 1:], [[1, 1, 1]], packed=True))
    assert torch.equal(cache[:, :, -1], x[0])


def test_as_many_elements_as_sequences_are_no_step():
    """Where one sequence is empty, and another has two."""
    layer = convext.ShortConvolution(6, 4)
    x, cache = torch.randn(1, 2, 6), torch.randn(2, 6, 4)
    before = cache.clone()
    with torch.no_grad():
        y, after = layer(x, cache=cache, output_final_state=True, cu_seqlens=torch.tensor([0, 0, 2]))
    torch.testing.assert_close(y, exact(layer, x, before[:, :, 1:], [[0, 2]], packed=True))
    assert torch.equal(cache, before)
    assert torch.equal(after, torch.stack([before[0], torch.cat([before[1, :, 2:], x[0].t()], 1)]))


def test_a_step_that_is_learned_from_leaves_its_cache():
    layer = convext.ShortConvolution(6, 4)
    x, cache = torch.randn(2, 1, 6), torch.randn(2, 6, 4, requires_grad=True)
    before = cache.detach().clone()
    y, after = layer(x, cache=cache, output_final_state=True)
    (by_cache,) = torch.autograd.grad(y.sum() + after.square().sum(), cache)
    leaf = before.clone().requires_grad_()
    moved = torch.cat([leaf[:, :, 1:], x.transpose(1, 2)], 2)
    (expected,) = torch.autograd.grad(exact(layer, x, leaf[:, :, 1:]).sum() + moved.square().sum(), leaf)
    torch.testing.assert_close(by_cache, expected)
    assert torch.equal(cache, before)


def test_a_step_by_itself():
    layer = convext.ShortConvolution(6, 4, bias=True)
    x, residual, cache = torch.randn(2, 1, 6), torch.randn(2, 1, 6), torch.randn(2, 6, 4)
    expected = exact(layer, x, cache[:, :, 1:].clone()) + residual
    y, returned = layer.step(x, residual, cache)
    torch.testing.assert_close(y, expected)
    assert returned is None
    assert torch.equal(cache[:, :, -1], x[:, 0])
    y, cache = layer.step(x, None, None, output_final_state=True)
    torch.testing.assert_close(y, exact(layer, x))
    assert torch.equal(cache, torch.cat([torch.zeros(2, 6, 3), x.transpose(1, 2)], 2))


def test_a_mask_hides_and_changes_nothing():
    layer = convext.ShortConvolution(6, 4)
    x, mask = torch.randn(2, 9, 6), torch.ones(2, 9).long()
    mask[0, :4] = 0
    before = x.clone()
    y, _ = layer(x, mask=mask)
    torch.testing.assert_close(y[0], exact(layer, x[:1].masked_fill(mask[:1, :, None] == 0, 0))[0])
    assert torch.equal(x, before)
    with pytest.raises(ValueError, match="mask and cu_seqlens"):
        layer(x[:1], mask=mask[:1], cu_seqlens=torch.tensor([0, 9]))


def test_gradients_reach_everything():
    layer = convext.ShortConvolution(6, 4, bias=True).double()
    tensors = torch.randn(2, 5, 6).double(), torch.randn(2, 5, 6).double(), torch.randn(2, 6, 4).double()
    tensors = tuple(t.requires_grad_() for t in tensors)
    assert torch.autograd.gradcheck(lambda x, r, c: layer(x, r, cache=c, output_final_state=True), tensors)


def test_an_unknown_activation_is_named():
    with pytest.raises(ValueError, match="'mish'"):
        convext.ShortConvolution(6, 4, activation="mish")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"x": torch.zeros(5, 6)}, r"x of shape \[batch, length, channels\], but got \[5, 6\]"),
        ({"cache": torch.zeros(2, 6, 3)}, r"cache of shape \[2, 6, 4\], but got \[2, 6, 3\]"),
        ({"mask": torch.ones(2, 4)}, r"mask of shape \[2, 5\], but got \[2, 4\]"),
    ],
)
def test_mistakes_are_named(arguments, words):
    with pytest.raises(RuntimeError, match=words):
        convext.ShortConvolution(6, 4)(**{"x": torch.zeros(2, 5, 6), **arguments})
