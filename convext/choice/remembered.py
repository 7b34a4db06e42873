"""What remembers a choice between kernels, and forgets it when a kernel is registered or a table written."""

from __future__ import annotations

from collections.abc import Callable

FORGET: list[Callable[[], None]] = []


def forget() -> None:
    """Has every problem chosen for anew, at its next call."""
    for each in FORGET:
        each()
