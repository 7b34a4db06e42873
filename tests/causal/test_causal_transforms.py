"""Derivatives of any order, torch.func, compilers, exporters, and what a call allocates."""

import pytest
import torch

import convext
from convext.causal_conv1d import causal_conv1d_fn, causal_conv1d_update
from convext.providers.cpu import library
from convext.tools import decompositions

CASES = {
    "a sequence a row": {},
    "states": {"states": (2, 3, 3)},
    "several sequences": {"seq_idx": torch.tensor([[0, 0, 1, 1, 1, -1], [4, 4, 4, 4, 5, 5]]), "states": (2, 3, 3)},
    "packed": {"cu_seqlens": torch.tensor([0, 2, 2, 6]), "states": (3, 3, 3)},
}


def function(case, activation="silu"):
    """(function of tensors that can be differentiated, these in float64)."""
    where = {k: v for k, v in CASES[case].items() if k != "states"}
    batch = 1 if "cu_seqlens" in where else 2
    shapes = [(batch, 3, 6), (3, 4), (3,), (batch, 3, 6)] + [s for k, s in CASES[case].items() if k == "states"]

    def call(x, w, bias, residual, states=None):
        return causal_conv1d_fn(
            x,
            w,
            bias,
            initial_states=states,
            residual=residual,
            activation=activation,
            return_final_states=True,
            **where,
        )

    return call, tuple(torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)


@pytest.mark.parametrize("activation", [None, "silu", "gelu"])
@pytest.mark.parametrize("case", CASES)
def test_first_and_second_derivatives(case, activation):
    call, tensors = function(case, activation)
    assert torch.autograd.gradcheck(call, tensors, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(call, tensors, check_fwd_over_rev=True, fast_mode=True)


def test_third_derivatives():
    call, (x, w, bias, residual) = function("a sequence a row")

    def third(convolve):
        value = convolve(x, w, bias, residual).pow(3).sum()
        for leaf in (x, w, x):
            (grad,) = torch.autograd.grad(value, leaf, create_graph=True)
            value = grad.sum()
        return grad

    def torchs(x, w, bias, residual):
        z = torch.nn.functional.conv1d(x, w[:, None], bias, padding=3, groups=3)[..., :6]
        return z * torch.sigmoid(z) + residual

    torch.testing.assert_close(third(lambda *t: call(*t)[0]), third(torchs))


@pytest.mark.parametrize("transform", ["grad", "jacrev", "jacfwd", "hessian", "vmap", "vmap of weights", "per sample"])
def test_torch_func(transform):
    torch.manual_seed(0)
    x, w = torch.randn(4, 2, 3, 6, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)

    def ours(x, w):
        return causal_conv1d_fn(x, w, activation="silu")

    def torchs(x, w):
        z = torch.nn.functional.conv1d(x, w[:, None], padding=3, groups=3)[..., :6]
        return z * torch.sigmoid(z)

    def apply(f):
        def loss(w, x=x[0]):
            return f(x, w).pow(2).sum()

        match transform:
            case "vmap":
                return torch.func.vmap(f, (0, None))(x, w)
            case "vmap of weights":
                return torch.func.vmap(f, (None, 0))(x[0], torch.stack([w, 2 * w]))
            case "per sample":
                return torch.func.vmap(torch.func.grad(loss), (None, 0))(w, x)
            case "jacrev" | "jacfwd":
                return getattr(torch.func, transform)(lambda w: f(x[0], w))(w)
            case _:
                return getattr(torch.func, transform)(loss)(w)

    torch.testing.assert_close(apply(ours), apply(torchs))


@pytest.mark.parametrize("case", CASES)
def test_compiled_whole(case):
    call, tensors = function(case)
    tensors = [t.detach().float().requires_grad_() for t in tensors]
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for a, b in zip(compiled(*tensors), call(*tensors), strict=True):
        torch.testing.assert_close(a, b)
    by = [torch.autograd.grad(sum(t.square().sum() for t in f(*tensors)), tensors) for f in (compiled, call)]
    for a, b in zip(*by, strict=True):
        torch.testing.assert_close(a, b)


def test_steps_compiled_whole():
    x, w = torch.randn(2, 5), torch.randn(5, 4)
    states = [torch.zeros(2, 5, 4) for _ in range(2)]
    step = torch.compile(lambda x, s: causal_conv1d_update(x, s, w, None, "silu"), fullgraph=True, backend="aot_eager")
    for _ in range(3):
        torch.testing.assert_close(step(x, states[0]), causal_conv1d_update(x, states[1], w, None, "silu"))
    assert torch.equal(*states)


def test_exported():
    layer = convext.ShortConvolution(5, 4)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x)[0]

    program = torch.export.export(Model(), (torch.randn(2, 7, 5),), dynamic_shapes=({1: torch.export.Dim("length")},))
    x = torch.randn(2, 12, 5)
    torch.testing.assert_close(program.module()(x), layer(x)[0])


def test_exported_for_those_who_know_torchs_operators_alone():
    layer = convext.ShortConvolution(5, 4)
    program = torch.export.export(layer, (torch.randn(2, 7, 5),)).run_decompositions(decompositions.TABLE)
    assert not [node for node in program.graph.nodes if "convext" in str(node.target)]
    x = torch.randn(2, 7, 5)
    torch.testing.assert_close(program.module()(x)[0], layer(x)[0])


@pytest.mark.parametrize("layout", ["length", "channels"])
def test_opcheck(provider, layout):
    x = torch.randn(2, 5, 6)
    x = (x if layout == "length" else x.transpose(1, 2).contiguous().transpose(1, 2)).requires_grad_()
    w, bias, states = (torch.randn(s, requires_grad=True) for s in ((5, 4), (5,), (2, 5, 3)))
    tail = (1, "silu", provider)
    torch.library.opcheck(torch.ops.convext.causal_conv1d.default, (x, w, bias, None, states, None, None, *tail))
    y = torch.randn_like(x)
    torch.library.opcheck(
        torch.ops.convext.causal_conv1d_backward.default,
        (y, x.detach(), w.detach(), bias.detach(), states.detach(), None, None, *tail),
    )
    torch.library.opcheck(
        torch.ops.convext.causal_conv1d_update.default,
        (torch.randn(2, 5), torch.randn(2, 5, 4), torch.randn(5, 4), None, None, None, *tail),
    )


def allocations(call):
    """(its result, the bytes of every tensor that was allocated meanwhile, inside operators too)."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        result = call()
    events = profile.profiler.kineto_results.events()
    return result, [e.nbytes() for e in events if e.name() == "[memory]" and e.nbytes() > 0]


@pytest.mark.skipif(library.unavailable() is not None, reason="torch's operators, which take its place, make copies")
@pytest.mark.parametrize("layout", ["length", "channels"])
def test_nothing_is_padded_transposed_or_concatenated(layout):
    """A forward makes y, a backward dx, a step y, and no other tensor of a size that counts."""
    x = torch.randn(1, 64, 512) if layout == "length" else torch.randn(1, 512, 64).transpose(1, 2)
    w, bias, states = torch.randn(64, 4, requires_grad=True), torch.randn(64, requires_grad=True), torch.randn(1, 64, 3)
    x.requires_grad_()
    y, forward = allocations(lambda: causal_conv1d_fn(x, w, bias, None, states, activation="silu"))
    assert [n for n in forward if n >= x.nbytes // 8] == [y.nbytes]
    grad = torch.randn_like(y)
    _, backward = allocations(lambda: torch.autograd.grad(y, (x, w, bias), grad))
    assert [n for n in backward if n >= x.nbytes // 8] == [x.nbytes]
    token, state = torch.randn(2, 4096), torch.randn(2, 4096, 4)
    w, bias = torch.randn(4096, 4), torch.randn(4096)
    _, step = allocations(lambda: causal_conv1d_update(token, state, w, bias, "silu"))
    assert step == [token.nbytes]


@pytest.mark.parametrize("rows", [1, 2])
def test_more_than_two_billion_elements_apart(rows):
    """Rows, or channels, of memory that is not touched in between."""
    far = 2**31 + 7
    x = (
        torch.empty(far + 64, dtype=torch.bfloat16)
        .as_strided((rows, 3 - rows, 9), (far, far, 1))
        .copy_(torch.randn(rows, 3 - rows, 9))
    )
    w = torch.randn(3 - rows, 4)
    z = torch.nn.functional.conv1d(x.double(), w.double().unsqueeze(1), padding=3, groups=3 - rows)[..., :9]
    y = causal_conv1d_fn(x, w, activation="silu")
    torch.testing.assert_close(y.double(), torch.nn.functional.silu(z), rtol=1e-2, atol=1e-2)


def test_autocast_leaves_float32_weights_alone():
    x, w = torch.randn(2, 5, 9).bfloat16(), torch.randn(5, 4)
    with torch.autocast("cpu", torch.bfloat16):
        y = causal_conv1d_fn(x, w, activation="silu")
    assert torch.equal(y, causal_conv1d_fn(x, w, activation="silu"))


def test_other_backends_refuse():
    for name in ("cuda", "triton.stencil"):
        with (
            convext.backend(name),
            pytest.raises(ValueError, match="has no causal convolution; triton, cpu, aten have"),
        ):
            causal_conv1d_fn(torch.randn(1, 2, 3), torch.randn(2, 4))
