"""Causal convolutions against transformers' slow path, in torch, on this machine's CPU.

    python -m convext.benchmarks.measuring.causal [--threads 1]

Interleaved in one process: in every round each contender takes one sample, in turns, and the shortest of each counts.
With one thread a sample is processor time, so that others on the machine matter little; with more it is the clock's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from convext.causal_conv1d import causal_conv1d_fn, causal_conv1d_update

SHAPES = ((1, 1536, 512), (1, 2048, 2048), (4, 1536, 2048), (1, 2560, 4096), (4, 2560, 512))
WIDTH = 4
ROUNDS = 7
Call = Callable[[], object]


def slow_path(x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
    """What a model computes without the package."""
    padded = F.conv1d(x, w.unsqueeze(1), bias, padding=w.shape[1] - 1, groups=w.shape[0])
    return F.silu(padded[..., : x.shape[2]])


def slow_step(x: Tensor, state: Tensor, w: Tensor, bias: Tensor) -> Tensor:
    """The same from token to token: a step of transformers' Mamba."""
    window = torch.cat([state, x], dim=-1)
    state.copy_(window[:, :, -state.shape[2] :])
    return F.silu(F.conv1d(window, w.unsqueeze(1), bias, groups=w.shape[0])[:, :, -x.shape[2] :])


def shortest(calls: list[Call], threads: int, repeats: int = 1) -> list[float]:
    """Seconds of each call, the shortest of ROUNDS samples."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    samples: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    for _ in range(ROUNDS):
        for call, own in zip(calls, samples, strict=True):
            begin = clock()
            for _ in range(repeats):
                call()
            own.append((clock() - begin) / repeats)
    return [min(own) for own in samples]


def training(function: Callable[..., Tensor], tensors: list[Tensor], grad: Tensor) -> Call:
    """A forward and a backward pass."""
    return lambda: torch.autograd.grad(function(*tensors), tensors, grad)


def rows(threads: int) -> list[str]:
    """A line for each problem: milliseconds of the slow path and of ours, and how many times faster ours is."""
    lines = []
    for dtype in (torch.float32, torch.bfloat16):
        for innermost in ("positions", "channels"):
            for batch, channels, length in SHAPES:
                x = torch.randn(batch, channels, length).to(dtype)
                x = x if innermost == "positions" else x.transpose(1, 2).contiguous().transpose(1, 2)
                leaves = [
                    t.to(dtype).requires_grad_() for t in (x, torch.randn(channels, WIDTH), torch.randn(channels))
                ]
                values, grad = [t.detach() for t in leaves], torch.randn_like(x)
                contenders = slow_path, lambda x, w, b: causal_conv1d_fn(x, w, b, activation="silu")
                forward = shortest([lambda f=f, v=values: f(*v) for f in contenders], threads)  # type: ignore[misc]
                both = shortest([training(f, leaves, grad) for f in contenders], threads)
                what = f"{str(dtype)[6:]}, {innermost} innermost, {batch} x {channels} x {length}"
                lines.append(f"| {what} | {_cells(forward, 1e3)} | {_cells(both, 1e3)} |")
    return lines


@torch.no_grad()
def steps(threads: int) -> list[str]:
    """The same, in microseconds, for a token."""
    lines = []
    for dtype in (torch.float32, torch.bfloat16):
        for batch, channels in ((1, 1536), (1, 2560), (4, 1536), (4, 2560)):
            shapes = ((batch, channels, 1), (batch, channels, WIDTH), (channels, WIDTH), (channels,))
            x, state, w, bias = (torch.randn(shape).to(dtype) for shape in shapes)
            calls: list[Call] = [
                partial(slow_step, x, state, w, bias),
                partial(causal_conv1d_update, x, state, w, bias, "silu"),
            ]
            lines.append(f"| {str(dtype)[6:]}, {batch} x {channels} | {_cells(shortest(calls, threads, 200), 1e6)} |")
    return lines


def _cells(seconds: list[float], unit: float) -> str:
    slow, ours = seconds
    return f"{slow * unit:.2f} | {ours * unit:.2f} | {slow / ours:.1f}x"


def main() -> None:
    what = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m convext.benchmarks.measuring.causal", description=what)
    parser.add_argument("--threads", type=int, default=1)
    threads = parser.parse_args().threads
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    print("| | forward: torch, ms | ours | | forward and backward: torch, ms | ours | |")
    print("| --- | --- | --- | --- | --- | --- | --- |", *rows(threads), sep="\n")
    print("\n| | a token: torch, us | ours | |\n| --- | --- | --- | --- |", *steps(threads), sep="\n")


if __name__ == "__main__":
    main()
