"""A causal model, chunk by chunk: what users hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from convext.conversion.reasons import must_be_a_module
from convext.streams.native import Direct, direct
from convext.streams.program import read


def streaming(model: nn.Module) -> Stream:
    """A stream of `model`: `step(chunk)` returns what the whole signal would give there, as soon as it is known.

    The forward is traced by torch.fx; every operation in it has to be known to leave the future alone:
    docs/streaming.md lists them. The model is not modified and its parameters are shared: what they become counts from
    the next step on. Other layers in their places, or another forward, need a new stream.

    Args:
        model: of signals [N, C, L] (or [N, L] of numbers, where an embedding reads them), in evaluation mode where it
            has batch norms or dropout. Arguments of its forward that have defaults keep these.

    Raises:
        TypeError: `model` is no module.
        ValueError: it looks ahead, mixes the whole of time, or can't be traced: with the layer's name, and by how many
            samples it looks ahead.
    """
    must_be_a_module("streaming", model)
    return Stream(model)


class Stream:
    """One signal, or a batch of them, on its way through a model; made by `convext.streaming`.

        stream = convext.streaming(model)
        y = stream.step(chunk)       # any number of samples, also one or none
        stream.reset()               # the next chunk is a signal's first

    The outputs of all steps, one after the other, are what the model returns of all chunks, one after the other, up to
    rounding. Under strides a step may return fewer, or no samples; the state keeps the phase.

    Gradients flow within a chunk where they are recorded, and end at its beginning: the state carries none (truncated
    backpropagation through time). For inference, step in `torch.inference_mode()` or `torch.no_grad()`, which is also
    quicker.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._program = read(model)
        self._kinds: list[_Kind] = []  # of the chunks; none before the first
        self._direct: Direct | None = None

    def step(self, *chunks: Tensor) -> Any:
        """What the model returns for the next samples.

        Args:
            chunks: [N, C, n] for each argument of the model's forward that has no default, all of one n >= 0.
                Batch, channels, dtype and device are those of the first chunk, until `reset()`.

        Raises:
            TypeError: another number of chunks than the forward has arguments.
            RuntimeError: shapes or dtypes that do not fit, with the numbers.
            ValueError: a batch norm or dropout is in training mode.
        """
        kinds = [(x.shape[:-1], x.dtype, x.device) for x in chunks]
        if kinds != self._kinds or len(chunks) > 1:
            self._check(chunks, kinds)
        if self._direct is not None:
            if self._direct.takes(chunks):
                return self._direct(chunks)
            self._direct.hand_back()
        if self._kinds:
            return self._program.run(*chunks)
        try:
            y = self._program.run(*chunks)
        except BaseException:
            self.reset()  # nothing has begun
            raise
        self._begin(kinds)
        return y

    def _begin(self, kinds: list[_Kind]) -> None:
        self._kinds, self._direct = kinds, direct(self._program, kinds)

    def reset(self) -> None:
        """Forgets the signal: zeros, or what the model pads with, are before the next chunk."""
        self._kinds, self._direct = [], None
        for stage in self._program.stages.values():
            stage.reset()

    @property
    def state(self) -> dict[str, Tensor]:
        """What is remembered of the signal so far, as copies: `stream.state = state` goes on from there.

        Keys are a layer's name and what it is: "net.0.past" [N, C, samples], the oldest first; "net.3.wait", an int64;
        "chunk.x" [N, C, 0] for what a chunk is like. It can be saved, changed in batch, moved to another device or
        dtype with the model, and given to another stream of the same model. It is empty before the first chunk.

        Raises, when set:
            RuntimeError: keys or lengths of another model's.
        """
        if not self._kinds:
            return {}
        if self._direct is not None:
            self._direct.hand_back()
        chunks = {
            f"chunk.{name}": torch.empty(*shape, 0, dtype=dtype, device=device)
            for name, (shape, dtype, device) in zip(self._program.inputs, self._kinds, strict=True)
        }
        stages = self._program.stages
        return chunks | {f"{name}.{key}": value for name in stages for key, value in stages[name].state().items()}

    @state.setter
    def state(self, state: Mapping[str, Tensor]) -> None:
        stages, inputs = self._program.stages, self._program.inputs
        keys = {f"{name}.{key}" for name in stages for key in stages[name].keys} | {f"chunk.{name}" for name in inputs}
        if state and set(state) != keys:
            missing, unexpected = sorted(keys - set(state)), sorted(set(state) - keys)
            raise RuntimeError(f"this is no state of {self!r}: missing keys {missing}, unexpected keys {unexpected}")
        self.reset()
        if state:
            for name, stage in stages.items():
                stage.load({key: state[f"{name}.{key}"] for key in stage.keys})
            like = [state[f"chunk.{name}"] for name in inputs]
            self._begin([(x.shape[:-1], x.dtype, x.device) for x in like])

    def _check(self, chunks: tuple[Tensor, ...], kinds: list[_Kind]) -> None:
        inputs = self._program.inputs
        if len(chunks) != len(inputs):
            raise TypeError(f"expected {len(inputs)} chunks ({', '.join(inputs)}), but got {len(chunks)}")
        for (name, dims), chunk in zip(inputs.items(), chunks, strict=True):
            if chunk.dim() != dims:
                wanted = "[N, C, n]" if dims == 3 else "[N, n]"
                raise RuntimeError(f"expected {name} to be a chunk {wanted}, but got {list(chunk.shape)}")
        lengths = [chunk.shape[-1] for chunk in chunks]
        if len(set(lengths)) > 1:
            raise RuntimeError(f"expected chunks of one length, but got {' and '.join(map(str, lengths))} samples")
        for name, kind, before in zip(inputs, kinds, self._kinds, strict=False):
            if kind != before:
                raise RuntimeError(
                    f"expected {name} to be a chunk {_said(before)}, as the first was, but got {_said(kind)}: "
                    "reset() begins a new signal"
                )

    def __reduce__(self) -> Any:
        """Copies and pickles are streams of their own, which go on from here: of this model, or of its deep copy."""
        return _resumed, (self.model, self.state)

    def __repr__(self) -> str:
        return f"<stream of {type(self.model).__name__}, states: {len(self._program.stages)}>"


def _resumed(model: nn.Module, state: dict[str, Tensor]) -> Stream:
    stream = Stream(model)
    stream.state = state
    return stream


_Kind = tuple[torch.Size, torch.dtype, torch.device]


def _said(kind: _Kind) -> str:
    shape, dtype, device = kind
    return f"[{', '.join(map(str, shape))}, n] {dtype} on {device}"
