"""Batch, group and instance norms of DTensors: their sums go over the ranks that share what is summed.

batch norm      sums over images and space
group norm      sums over a group's channels and space
instance norm   a group norm with a group for each channel
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, Shard

from convext.distributed.layers.reductions import summed
from convext.distributed.layers.sharded import Sharded, is_by_channels
from convext.distributed.placement import everywhere, own, parameter, part, whole, without_sums


class _Norm(Sharded):
    def on_shards(self, input: DTensor) -> Tensor:
        input = without_sums(input)
        y = self.normalized(own(input), input)
        return whole(y, input.device_mesh, input.placements, input.shape)

    def normalized(self, x: Tensor, of: DTensor) -> Tensor:
        """This rank's part of the result, from its part of the input."""
        raise NotImplementedError

    def channels(self, t: Tensor | None, of: DTensor) -> Tensor | None:
        """One value for each of this rank's channels: of a weight, a bias or a statistic."""
        if t is None:
            return None
        placements = [Shard(0) if p.is_shard(1) else Replicate() for p in of.placements]
        shares = [p.is_shard() and not p.is_shard(1) for p in of.placements]
        return part(everywhere(parameter(t), of.device_mesh), placements, shares)


class BatchNorm(_Norm):
    """`torch.nn.BatchNorm1d`, 2d and 3d. In training: statistics of the whole batch, two sums over the ranks."""

    def normalized(self, x: Tensor, of: DTensor) -> Tensor:
        layer: Any = self
        weight, bias = self.channels(layer.weight, of), self.channels(layer.bias, of)
        mean, variance = (self.channels(t, of) for t in (layer.running_mean, layer.running_var))
        if mean is not None and not self.training:
            return nn.functional.batch_norm(x, mean, variance, weight, bias, False, 0.0, layer.eps)
        count = of.shape[0] * math.prod(of.shape[2:])
        if count < 2 and self.training:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {of.shape}")
        dims = [0, *range(2, x.dim())]
        over = [axis for axis, p in enumerate(of.placements) if p.is_shard() and not p.is_shard(1)]
        centred, found_mean, found_variance = _centred(x, dims, count, of, over, self.place.name)
        if mean is not None:
            self._remember(found_mean, found_variance * (count / (count - 1)), of)
        return _scaled(centred, found_variance, layer.eps, weight, bias).to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, of: DTensor) -> None:
        layer: Any = self
        layer.num_batches_tracked.add_(1)
        share = 1 / float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
        lies = [Shard(0) if p.is_shard(1) else Replicate() for p in of.placements]
        for running, seen in ((layer.running_mean, mean), (layer.running_var, variance)):
            kept = everywhere(running, of.device_mesh)
            new = whole(seen.flatten().to(kept.dtype), of.device_mesh, lies, kept.shape)
            kept.to_local().lerp_(new.redistribute(of.device_mesh, kept.placements).to_local(), share)


class GroupNorm(_Norm):
    """`torch.nn.GroupNorm`, and `InstanceNorm1d`, 2d and 3d without running statistics."""

    def normalized(self, x: Tensor, of: DTensor) -> Tensor:
        layer: Any = self
        groups = getattr(layer, "num_groups", of.shape[1])
        size = of.shape[1] // groups
        if is_by_channels(of) and x.shape[1] % size:
            raise RuntimeError(f"expected whole groups on each rank, but got {groups} groups as {of.placements}")
        over = [axis for axis, p in enumerate(of.placements) if isinstance(p, Shard) and p.dim > 1]
        grouped = x.unflatten(1, (x.shape[1] // size, size))
        count = size * math.prod(of.shape[2:])
        centred, _, variance = _centred(grouped, list(range(2, grouped.dim())), count, of, over, self.place.name)
        y = _scaled(centred, variance, layer.eps, None, None).flatten(1, 2)
        weight, bias = self.channels(layer.weight, of), self.channels(layer.bias, of)
        return _scaled(y, None, 0.0, weight, bias).to(x.dtype)


def _centred(
    x: Tensor, dims: list[int], count: int, of: DTensor, over: list[int], name: str
) -> tuple[Tensor, Tensor, Tensor]:
    """x - mean, mean and variance; the two in one value for each remaining index, `x` at least in float32."""
    x = x if x.dtype is torch.float64 else x.float()
    mean = summed(x.sum(dims, keepdim=True), of.device_mesh, over, name) / count
    centred = x - mean
    variance = summed(centred.square().sum(dims, keepdim=True), of.device_mesh, over, name) / count
    return centred, mean, variance


def _scaled(x: Tensor, variance: Tensor | None, eps: float, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """x / sqrt(variance + eps) * weight + bias, with weight and bias by channels."""
    shape = (-1, *[1] * (x.dim() - 2))
    scale = None if variance is None else (variance + eps).rsqrt()
    if weight is not None:
        scale = weight.view(shape) if scale is None else scale * weight.view(shape)
    x = x if scale is None else x * scale
    return x if bias is None else x + bias.view(shape)
