"""A WaveNet's gated block as one operator: forward, fake, autograd, vmap.

    convext::gated(x, weight, bias, mix, mix_bias, total, dilation, kernel) = x + z, total + z

    x ---+-- causal conv, dilated --+-- tanh ----+
         |                          +-- sigmoid -*-- product --+-- z --+-- + --- second
         +-----------------------------------------------------+ + --- first           total

On CPUs one kernel does all of it in one pass over time (`providers/cpu/gated.py`); elsewhere, and where a kernel is
asked for by name, `composed` is what runs: two convolutions of ours and torch's operators. Of the forward the operands
are kept alone: gates are computed again for derivatives.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from convext.operators.autograd import Below, by_operands, convolve, forward_mode, reverse_mode
from convext.operators.placed import PLACED
from convext.operators.plain import is_plain
from convext.operators.schema import GATED, LIBRARY
from convext.operators.vmap import as_torch_casts, face_rule
from convext.providers.cpu import gated as native

Pair = tuple[Tensor, Tensor]


def _causal(x: Tensor, weight: Tensor, dilation: int, kernel: str) -> tuple[Any, ...]:
    """The geometry of a convolution that keeps the length and reads the past."""
    return x.shape[2:], (1,), ((weight.shape[2] - 1) * dilation,), (dilation,), 1, kernel


def composed(
    x: Tensor, weight: Tensor, bias: Tensor | None, mix: Tensor, mix_bias: Tensor | None, total: Tensor | None,
    dilation: int, kernel: str,
) -> Pair:  # fmt: skip
    """The same by `convolve` and torch's operators; arguments as those of `gated`."""
    f, g = convolve("fprop", x, weight, bias, *_causal(x, weight, dilation, kernel)).chunk(2, 1)
    z = convolve("fprop", f.tanh() * g.sigmoid(), mix, mix_bias, *_causal(x, mix, 1, kernel))
    return x + z, z if total is None else total + z


# ---------------------------------------------------------------------------------------------------- forward, fake


def _check(
    x: Tensor, weight: Tensor, bias: Tensor | None, mix: Tensor, mix_bias: Tensor | None, total: Tensor | None,
    dilation: int, kernel: str,
) -> None:  # fmt: skip
    if x.dim() != 3 or weight.dim() != 3 or weight.shape[2] < 1 or dilation < 1:
        raise RuntimeError(
            f"gated: expected x [N, C, L], weight [2 * inner, C, k] of a tap or more and a dilation of at least 1, "
            f"but got {list(x.shape)}, {list(weight.shape)} and {dilation}"
        )
    channels, inner = x.shape[1], weight.shape[0] // 2
    for name, t, shape in (
        ("weight", weight, (2 * inner, channels, weight.shape[2])), ("bias", bias, (2 * inner,)),
        ("mix", mix, (channels, inner, 1)), ("mix_bias", mix_bias, (channels,)), ("total", total, x.shape),
    ):  # fmt: skip
        if t is not None and (t.shape != shape or t.dtype != x.dtype or t.device != x.device):
            raise RuntimeError(
                f"gated: expected {name} of shape {list(shape)}, {x.dtype} on {x.device}, "
                f"but got {list(t.shape)}, {t.dtype} on {t.device}"
            )


def _compute(*arguments: Any) -> Pair:
    """Below autograd: every road ends here."""
    _check(*arguments)
    *tensors, dilation, kernel = arguments
    if kernel == "auto" and native.why_not(tensors) is None:
        return native.run(tensors, dilation)
    first, second = composed(*arguments)
    return first.contiguous(), second.contiguous()


def _fake(x: Tensor, *arguments: Any) -> Pair:
    _check(x, *arguments)
    return x.new_empty(x.shape), x.new_empty(x.shape)


LIBRARY.impl("gated", _compute, "CompositeExplicitAutograd")
torch.library.register_fake("convext::gated", _fake, lib=LIBRARY)


# --------------------------------------------------------------------------------------------------------- autograd


class _Gated(torch.autograd.Function):
    """Keeps the operands, which the caller has anyway: the gates are four times as large as x."""

    @staticmethod
    def forward(ctx: Any, below: Below | None, *arguments: Any) -> Pair:
        x, weight, bias, mix, *_, ctx.dilation, ctx.kernel = arguments
        ctx.save_for_backward(x, weight, bias, mix)
        return _compute(*arguments) if below is None else cast(Pair, below(GATED, *arguments))

    @staticmethod
    def backward(ctx: Any, by_next: Tensor, by_skip: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mix = ctx.saved_tensors
        needs, by_z = ctx.needs_input_grad[1:], by_next + by_skip
        causal, pointwise = _causal(x, weight, ctx.dilation, ctx.kernel), _causal(x, mix, 1, ctx.kernel)
        f, g = convolve("fprop", x, weight, bias, *causal).chunk(2, 1)
        f, g = f.tanh(), g.sigmoid()
        shapes = (f.shape, mix.shape)
        by_gated, by_mix, by_mix_bias = by_operands("fprop", by_z, f * g, mix, shapes, pointwise, (True, *needs[3:5]))
        by_gated = cast(Tensor, by_gated)
        by_sums = torch.cat([by_gated * g * (1 - f * f), by_gated * f * g * (1 - g)], 1)
        shapes = (x.shape, weight.shape)
        by_x, by_weight, by_bias = by_operands("fprop", by_sums, x, weight, shapes, causal, needs[:3])
        by_x = None if by_x is None else by_next + by_x
        return None, by_x, by_weight, by_bias, by_mix, by_mix_bias, by_skip if needs[5] else None, None, None


def _autograd(keyset: Any, *arguments: Any) -> Pair:
    if forward_mode():
        return composed(*arguments)
    below = Below(keyset)
    if reverse_mode(*arguments[:6]):
        return cast(Pair, _Gated.apply(below, *arguments))  # type: ignore[no-untyped-call]
    return cast(Pair, below(GATED, *arguments))


LIBRARY.impl("gated", _autograd, "Autograd", with_keyset=True)


def gated(
    x: Tensor, weight: Tensor, bias: Tensor | None, mix: Tensor, mix_bias: Tensor | None = None,
    total: Tensor | None = None, dilation: int = 1, kernel: str = "auto",
) -> Pair:  # fmt: skip
    """`torch.ops.convext.gated`, past the dispatcher where that makes no difference but time.

    With f, g = the halves of a causal convolution of x, and z = mix * (tanh(f) * sigmoid(g)) + mix_bias: a block of
    van den Oord et al., arXiv 1609.03499.

    Args:
        x: [N, C, L], real; any strides, as all of these.
        weight, bias: of filter and gate, [2 * inner, C, k], and [2 * inner] or None.
        mix, mix_bias: [C, inner, 1], and [C] or None.
        total: the sum of the skips so far, as x; None for none.
        dilation: samples between taps. The (k - 1) * dilation zeros are before the signal alone.
        kernel: what `convext.backend` takes, which computes both convolutions; under "auto" one kernel may do it all.

    Returns:
        (x + z, z), and total + z in place of z where there is one; [N, C, L] both.

    Raises:
        RuntimeError: shapes, dtypes or devices that do not fit, with the numbers.
        ValueError: `kernel` names one that does not take the convolutions.
    """
    tensors = x, weight, bias, mix, mix_bias, total
    if not is_plain(*tensors):
        return cast(Pair, (composed if type(x) in PLACED else GATED)(*tensors, dilation, kernel))
    if reverse_mode(*tensors):
        return cast(Pair, _Gated.apply(None, *tensors, dilation, kernel))  # type: ignore[no-untyped-call]
    return _compute(*tensors, dilation, kernel)


# ------------------------------------------------------------------------------------------------------------- vmap


def _vmap(
    info: Any, in_dims: Any, x: Tensor, weight: Tensor, bias: Tensor | None, mix: Tensor, mix_bias: Tensor | None,
    total: Tensor | None, dilation: int, kernel: str,
) -> tuple[Pair, tuple[int, int]]:  # fmt: skip
    """The convolutions by their own rule; what is between them is element by element."""

    def in_front(t: Tensor, of: int) -> Tensor:
        return t.unsqueeze(0) if in_dims[of] is None else t.movedim(in_dims[of], 0)

    one_x, one_weight, one_mix = in_front(x, 0)[0], in_front(weight, 1)[0], in_front(mix, 3)[0]
    causal, pointwise = _causal(one_x, one_weight, dilation, kernel), _causal(one_x, one_mix, 1, kernel)
    f, g = face_rule("fprop", info, in_dims[:3], x, weight, bias, *causal)[0].chunk(2, 2)
    h = (f.tanh() * g.sigmoid()).expand(info.batch_size, -1, -1, -1)
    z, _ = face_rule("fprop", info, (0, *in_dims[3:5]), h, mix, mix_bias, *pointwise)
    return (in_front(x, 0) + z, z if total is None else in_front(total, 5) + z), (0, 0)


torch.library.register_vmap("convext::gated", as_torch_casts(_vmap), lib=LIBRARY)
