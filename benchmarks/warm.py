"""Compiles Triton's kernels before anything is timed, in several processes: alone, one core would do it case by case.

Triton keeps what it compiled on disk, so the process that measures later finds everything there.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Sequence

import torch

from convext.benchmarks.case import Case, ordered
from convext.benchmarks.providers import contenders


def warm(cases: Sequence[Case], processes: int, seconds: float) -> int:
    """Calls every contender of every face once, in `processes` processes. Steps consist of the same kernels.

    Returns:
        How many cases were done when `seconds` were over.
    """
    faces = [case for case in cases if case.work != "step"]
    end, done = time.monotonic() + seconds, 0
    with (
        multiprocessing.get_context("spawn").Pool(processes) as pool,
        contextlib.suppress(multiprocessing.TimeoutError),
    ):
        results = pool.imap_unordered(compile_kernels, faces)
        for _ in faces:
            results.next(timeout=max(0.0, end - time.monotonic()))
            done += 1
    return done


def compile_kernels(case: Case) -> None:
    """Calls convext's contenders of a case. One that raises will do so again, and be reported, when it is measured."""
    tensors = case.draw()
    with torch.no_grad():
        for contender in contenders(case):
            if not contender.baseline:
                with contextlib.suppress(Exception):
                    contender.call(ordered(tensors, contender.layout))
