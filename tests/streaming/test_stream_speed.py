"""What one more sample costs: elements that torch's operators read and write, counted; and the time of a WaveNet."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from causal_networks import TorchWaveNet, padded
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import convext


class Touched(TorchDispatchMode):
    """Counts the elements of what operators take and return, where it is more than a view."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.elements += sum(t.numel() for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor))
        return result


def touched(model: nn.Module, chunk: int, steps: int = 3) -> list[int]:
    """Elements of each step, in the middle of a signal."""
    stream, counts = convext.streaming(model), []
    with torch.no_grad():
        stream.step(torch.randn(1, 8, 30))
        stream.step(torch.randn(1, 8, chunk))
        for _ in range(steps):
            with Touched() as mode:
                stream.step(torch.randn(1, 8, chunk))
            counts.append(mode.elements)
    return counts


@pytest.mark.parametrize("chunk", [1, 4])
@pytest.mark.parametrize("groups", [1, 8])
def test_a_step_does_not_read_what_it_does_not_need(chunk: int, groups: int) -> None:
    """As many elements for taps 500 apart as for 4: nothing of the history between them is touched."""
    near, far = (touched(padded(8, 3, d=d, groups=groups), chunk) for d in (4, 500))
    assert set(far) == set(near)
    assert far[0] < 4000


def fastest(function: Callable[[], Any], rounds: int) -> float:
    """Seconds of this thread's processor time, the best of `rounds`."""
    times = []
    for _ in range(rounds):
        begin = time.thread_time()
        function()
        times.append(time.thread_time() - begin)
    return min(times)


def test_a_sample_of_wavenet_is_a_small_part_of_its_receptive_field() -> None:
    """Two orders of magnitude on an idle machine; a busy one takes caches away from both."""
    model = TorchWaveNet(64, 30, 10).eval()
    stream = convext.streaming(model)
    sample, field = torch.randn(1, 64, 1), torch.randn(1, 64, 3070)
    with torch.inference_mode():
        stream.step(field)
        stream.step(sample)  # makes the views of the rings
        ratios = [fastest(lambda: model(field), 1) / fastest(lambda: stream.step(sample), 50) for _ in range(3)]
    assert max(ratios) > 30
