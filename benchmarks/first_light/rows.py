"""A step of first light that compares rows: each is printed as soon as it is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch

Row = TypeVar("Row")
SECONDS = 0.5  # of each row


def print_each(rows: Iterable[Row], compare: Callable[[Row, tuple[str, int, str], float], tuple[str, float]]) -> int:
    """Prints the line that `compare(row, machine, seconds)` gives of each row; nothing where there is no GPU.

    Returns:
        1 where one errs more than twice as much as what it is compared with, else 0.
    """
    if not torch.cuda.is_available():
        print("torch sees no CUDA device: nothing is timed")
        return 0
    major, minor = torch.cuda.get_device_capability()
    failed = False
    for row in rows:
        line, error = compare(row, ("cuda", 10 * major + minor, "ieee"), SECONDS)
        print(line, flush=True)
        failed |= error > 2
    return int(failed)
