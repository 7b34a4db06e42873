"""Functions of each sample by itself: activations, sums, products with parameters; norms in evaluation mode."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from convext.streams.place import Place
from convext.streams.rules.table import rule
from convext.streams.rules.whole import unknown
from convext.streams.signals import Constant, Signal
from convext.streams.tracing import writes

_ARITHMETIC = """
    add sub rsub mul truediv div true_divide floor_divide floordiv mod remainder pow neg pos abs sign
    iadd isub imul itruediv add_ sub_ mul_ div_ neg_ addcmul addcdiv lerp maximum minimum fmod
    eq ne lt le gt ge and_ or_ xor invert logical_and logical_or logical_not where masked_fill isnan isfinite
    exp exp_ expm1 log log1p log2 log10 sqrt rsqrt reciprocal square sin cos tan asin acos atan atan2 sinh cosh erf
    round floor ceil trunc clamp clamp_ clamp_min clamp_max nan_to_num zeros_like ones_like full_like
"""
_ACTIVATIONS = """
    tanh tanh_ sigmoid sigmoid_ relu relu_ relu6 leaky_relu leaky_relu_ elu elu_ selu selu_ celu celu_ gelu silu mish
    softplus softsign hardtanh hardtanh_ hardsigmoid hardswish logsigmoid log_sigmoid tanhshrink hardshrink softshrink
    threshold threshold_
"""
_COPIES = "clone detach to float double half bfloat16 long int bool type type_as"


@rule(*_ARITHMETIC.split(), *_ACTIVATIONS.split(), *_COPIES.split())
def each(at: Place, *arguments: Any, **named: Any) -> Signal:
    """Signals are aligned first; a parameter must not have a value of its own for each sample."""
    operands = [*arguments, *named.values()]
    joint, instead = at.together([x for x in operands if isinstance(x, Signal)])
    if instead and writes(at.node):
        at.refuse("writes into a signal that has to wait for another one: use y = x + z, not x += z")
    for constant in operands:
        if isinstance(constant, Constant) and isinstance(constant.value, torch.Tensor):
            _must_not_vary(at, constant.value, joint)
            joint = replace(joint, dims=max(joint.dims, constant.value.dim()))
    return replace(joint, node=at.same(instead))


def _must_not_vary(at: Place, value: torch.Tensor, x: Signal) -> None:
    if value.dim() >= -x.axis and value.shape[x.axis] != 1:
        at.refuse(f"has a tensor {list(value.shape)} of {value.shape[x.axis]} positions in time: no signal is longer")


@rule("contiguous")
def contiguous(at: Place, input: Signal) -> Signal:
    """A copy where the model makes one: a cut that a chunk doesn't need would leave nothing to copy."""
    if any(map(writes, at.node.graph.nodes)):
        return replace(input, node=at.call(torch.clone, input.node))
    return replace(input, node=at.same())


@rule("prelu")
def prelu(at: Place, input: Signal, weight: Constant) -> Signal:
    if input.front == 1 and weight.value.numel() > 1:
        at.refuse(f"has {weight.value.numel()} slopes along axis 1, which is time here")
    return replace(input, node=at.same())


@rule("dropout", "alpha_dropout", "feature_dropout", "dropout1d")
def dropout(at: Place, input: Signal, p: float = 0.5, training: bool = True, inplace: bool = False) -> Signal:
    if training:
        at.refuse("draws at random in training mode: call model.eval() first")
    return replace(input, node=at.same())


_BATCH_NORM, _DROPOUT = nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd


def module(at: Place, layer: nn.Module, path: str, input: Any = None, *rest: Any, **named: Any) -> Any:
    """A layer that torch.fx didn't look into."""
    if not isinstance(layer, _BATCH_NORM | _DROPOUT) or not isinstance(input, Signal):
        return unknown(at, type(layer).__name__)
    if isinstance(layer, _BATCH_NORM):
        if layer.running_mean is None:
            at.mixes("without running statistics its mean and variance are of the whole signal")
        if input.front == 1:
            at.refuse("has a mean for each position of axis 1, which is time here")
    checked = _InEval(layer, path)
    checked.check()
    return replace(input, node=at.call(checked.step, input.node))


class _InEval:
    """A batch norm or dropout: a function of each sample only in evaluation mode, which may change between steps."""

    def __init__(self, layer: nn.Module, path: str) -> None:
        self.layer, self.path = layer, path

    def check(self) -> None:
        if self.layer.training:
            why = "draws at random in training mode"
            if isinstance(self.layer, _BATCH_NORM):
                why = "mixes the whole of time: in training mode its mean and variance are of the batch"
            raise ValueError(f"layer {self.path!r} {why}: call model.eval() first")

    def step(self, x: torch.Tensor) -> torch.Tensor:
        self.check()
        return self.layer(x)
