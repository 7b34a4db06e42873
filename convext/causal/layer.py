"""A layer with the arguments and the state_dict of flash-linear-attention's `ShortConvolution`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from convext.causal.arguments import check_shape
from convext.causal.sequences import final_states
from convext.problem.epilogue import activation_named


class ShortConvolution(nn.Conv1d):
    """A depthwise causal convolution of sequences [batch, length, channels], and their states.

    Parameters, random draws and state_dict are those of `torch.nn.Conv1d(hidden_size, hidden_size, kernel_size,
    groups=hidden_size)`.

    Args:
        hidden_size: channels.
        kernel_size: taps.
        bias: whether to learn one.
        activation: None, "silu" or "swish", "gelu", "relu".
        backend: taken and left aside: `convext.backend` says what computes.
        device, dtype: of the parameters.
        kwargs: what flash-linear-attention takes beside these, left aside.

    Raises:
        ValueError: an unknown activation.
    """

    def __init__(
        self,
        hidden_size: int,
        kernel_size: int,
        bias: bool = False,
        activation: str | None = "silu",
        backend: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        activation_named(activation)
        super().__init__(
            hidden_size, hidden_size, kernel_size, padding=kernel_size - 1, groups=hidden_size, bias=bias,
            device=device, dtype=dtype,
        )  # fmt: skip
        self.hidden_size = hidden_size
        self.activation = activation

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        residual: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Tensor | None = None,
        output_final_state: bool = False,
        cu_seqlens: Tensor | None = None,
        chunk_indices: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """y and the final states.

        Args:
            x: [batch, length, channels]; it is not changed.
            residual: of x's shape, added behind the activation.
            mask: [batch, length]: x counts where it is not zero.
            cache: [sequences, channels, kernel_size], the last elements before x. Where no gradients are recorded, one
                element of each sequence updates it in place; everything else leaves it as it is.
            output_final_state: whether to return the last elements, as a cache.
            cu_seqlens: [sequences + 1]: x packs sequences in a batch of 1.
            chunk_indices, kwargs: what flash-linear-attention takes beside these, left aside.

        Returns:
            (y of x's shape, [sequences, channels, kernel_size] or None).

        Raises:
            ValueError: `mask` and `cu_seqlens` together.
            RuntimeError: as `causal_conv1d_fn`.
        """
        from convext import causal_conv1d as C

        if x.dim() != 3:
            raise RuntimeError(f"expected x of shape [batch, length, channels], but got {list(x.shape)}")
        if cache is not None:
            sequences = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
            check_shape(cache, "cache", (sequences, x.shape[2], self.kernel_size[0]))
        if mask is not None:
            if cu_seqlens is not None:
                raise ValueError("mask and cu_seqlens cannot be given at the same time")
            check_shape(mask, "mask", x.shape[:2])
            x = x * mask.unsqueeze(-1).to(x.dtype)
        if cache is not None and not torch.is_grad_enabled() and _one_each(x, cu_seqlens):
            return self.step(x, residual, cache, output_final_state)
        channels_first = x.transpose(1, 2)
        y = C.causal_conv1d_fn(
            channels_first,
            self.weight.squeeze(1),
            self.bias,
            initial_states=None if cache is None else cache[:, :, 1:],
            activation=self.activation,
            residual=None if residual is None else residual.transpose(1, 2),
            cu_seqlens=cu_seqlens,
        )
        states = None
        if output_final_state:
            states = final_states(channels_first, self.kernel_size[0], cache, None, cu_seqlens)
        return y.transpose(1, 2), states

    def step(
        self, x: Tensor, residual: Tensor | None, cache: Tensor | None, output_final_state: bool = False,
        cu_seqlens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """One element of each sequence: the cache, by default zeros, is updated in place. Shapes as in `forward`."""
        from convext import causal_conv1d as C

        elements = x.reshape(-1, x.shape[-1])
        if cache is None:
            cache = x.new_zeros(*elements.shape, self.kernel_size[0])
        y = C.causal_conv1d_update(elements, cache, self.weight.squeeze(1), self.bias, self.activation).view(x.shape)
        return y if residual is None else y + residual, cache if output_final_state else None

    @property
    def state_size(self) -> int:
        """Elements of a sequence's cache."""
        return self.hidden_size * self.kernel_size[0]

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, activation={self.activation}"


def _one_each(x: Tensor, cu_seqlens: Tensor | None) -> bool:
    """Whether each sequence of x [batch, length, channels] has one element."""
    if cu_seqlens is None:
        return x.shape[1] == 1
    return x.shape[0] * x.shape[1] == cu_seqlens.shape[0] - 1 and bool((cu_seqlens.diff() == 1).all())
