"""How far a long measurement of a model is, on standard error."""

from __future__ import annotations

import sys
from time import monotonic
from typing import Any

import torch
from torch import Tensor, nn

SILENT = 2.0  # seconds: what is over by then says nothing
_EVERY = 10.0  # seconds between lines in a file; a terminal's one line changes in place


class Progress:
    """Counts calls of a model's convolutions, forward and backward, and says how many of about `total` are done."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._done = what, total, 0
        self._start = self._said = monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        if self._said > self._start and sys.stderr.isatty():
            print(file=sys.stderr)

    def watch(self, model: nn.Module) -> None:
        """Counts the calls of this model from now on."""

        def hook(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            self._step()
            if output.requires_grad:
                output.register_hook(self._step)

        for module in model.modules():
            if isinstance(module, torch.nn.modules.conv._ConvNd):
                module.register_forward_hook(hook)

    def _step(self, gradient: Tensor | None = None) -> None:
        self._done += 1
        if self._done == 1:
            self._first = monotonic()
        now, terminal = monotonic(), sys.stderr.isatty()
        if now - self._start < SILENT or (not terminal and self._said > self._start and now - self._said < _EVERY):
            return
        self._said = now
        total = max(self._total, self._done)
        text = f"{self._what}: {self._done} of about {total} calls of layers"
        if self._done > total // 10 + 1:
            text += f", {(now - self._first) / (self._done - 1) * (total - self._done):.0f} s left"
        print(f"\r{text:<79}" if terminal else text, end="" if terminal else "\n", file=sys.stderr, flush=True)
