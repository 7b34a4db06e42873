"""Layers that take DTensors: torch.nn's, each with the part of the result that its rank owns.

A layer is swapped by giving the module a class of these, as `convext.convert` does: parameters, hooks and state_dict
stay what they were. With a plain tensor it computes what it computed before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, Shard

from convext.choice import settings
from convext.distributed import geometry
from convext.distributed.convolution import convolve
from convext.distributed.placement import everywhere, own, parameter, part, whole, without_sums
from convext.distributed.plans import Plan


@dataclass(frozen=True)
class Place:
    """Where a layer is.

    Attributes:
        name: in its model.
        plans: one for each axis of the mesh.
        axes: the names of the axes of the mesh.
    """

    name: str
    plans: tuple[Plan, ...]
    axes: tuple[str, ...]


class Sharded(nn.Module):
    """What these layers share, placed before torch.nn's class in their bases."""

    place: Place

    def forward(self, input: Tensor, *rest: Any) -> Tensor:
        """The layer's result; of a DTensor a DTensor, sharded as it is."""
        if not isinstance(input, DTensor):
            return super().forward(input, *rest)  # type: ignore[no-any-return]
        self._refuse_gathered(input)
        try:
            return self.on_shards(input, *rest)
        except (RuntimeError, ValueError) as error:
            if f"layer {self.place.name!r}" in str(error):
                raise
            raise type(error)(f"layer {self.place.name!r}: {error}") from error

    def on_shards(self, input: DTensor, *rest: Any) -> Tensor:
        """The result of a DTensor."""
        raise NotImplementedError

    def _refuse_gathered(self, input: DTensor) -> None:
        for axis, (plan, found) in enumerate(zip(self.place.plans, input.placements, strict=True)):
            planned = plan.placement(input.dim())
            if isinstance(planned, Shard) and planned.dim > 1 < input.shape[planned.dim] and found.is_replicate():
                raise RuntimeError(
                    f"layer {self.place.name!r}: expected an input that is sharded along mesh axis "
                    f"{self.place.axes[axis]!r}, but got {list(input.shape)} on each of its ranks: something before "
                    "this layer gathered it, as torch's functions do that DTensor has no rule for; use layers for them"
                )


class Convolution(Sharded):
    """A convolution, transposed or not, with any `padding_mode`."""

    def on_shards(self, input: DTensor, output_size: Any = None) -> Tensor:
        layer: Any = self
        rank = layer.weight.dim() - 2
        if input.dim() != rank + 2:
            raise RuntimeError(f"expected [N, C, *{rank} axes of space], but got an input of shape {list(input.shape)}")
        if output_size is not None:
            raise RuntimeError("output_size is not supported: give the layer its output_padding")
        g = geometry.of_layer(self, input.shape)
        return convolve(
            g.face, input, parameter(layer.weight), parameter(layer.bias), g.size, g.stride, g.pad, g.dilation,
            g.groups, settings.BACKEND, g.mode, self.place.name,
        )  # fmt: skip


class Linear(Sharded):
    """`torch.nn.Linear`, of all channels and a share of the rest."""

    def on_shards(self, input: DTensor) -> Tensor:
        layer: Any = self
        if input.dim() > 2 and any(p.is_shard(input.dim() - 1) for p in input.placements):
            raise RuntimeError(f"expected an input whose last axis is on one rank, but got {input.placements}")
        input = with_all_channels(without_sums(input))
        weight, bias = (None if t is None else whole_parameter(t, input) for t in (layer.weight, layer.bias))
        y = nn.functional.linear(own(input), weight, bias)  # type: ignore[arg-type]
        return whole(y, input.device_mesh, input.placements, (*input.shape[:-1], y.shape[-1]))


class PReLU(Sharded):
    """`torch.nn.PReLU`, whose weight is one, or one a channel."""

    def on_shards(self, input: DTensor) -> Tensor:
        layer: Any = self
        input = with_all_channels(without_sums(input))
        y = nn.functional.prelu(own(input), whole_parameter(layer.weight, input))
        return whole(y, input.device_mesh, input.placements, input.shape)


class Flatten(Sharded):
    """`torch.nn.Flatten`, of what is not sharded along an axis of space that is flattened."""

    def on_shards(self, input: DTensor) -> Tensor:
        layer: Any = self
        first, last = (dim % input.dim() for dim in (layer.start_dim, layer.end_dim))
        if any(isinstance(p, Shard) and max(2, first) <= p.dim <= last for p in input.placements):
            raise RuntimeError(f"expected axes {first} to {last} of the input on one rank, but got {input.placements}")
        return with_all_channels(without_sums(input)).flatten(first, last)


def is_by_channels(input: DTensor) -> bool:
    """Whether channels are shared out."""
    return any(p.is_shard(1) for p in input.placements)


def with_all_channels(input: DTensor) -> DTensor:
    """`input` with its channels gathered."""
    return input.redistribute(input.device_mesh, [Replicate() if p.is_shard(1) else p for p in input.placements])


def whole_parameter(t: Tensor, input: DTensor) -> Tensor:
    """A parameter, whole on this rank. Its gradient is a sum over ranks that have shares of the input."""
    placements = [Replicate()] * input.device_mesh.ndim
    return part(everywhere(parameter(t), input.device_mesh), placements, [p.is_shard() for p in input.placements])
