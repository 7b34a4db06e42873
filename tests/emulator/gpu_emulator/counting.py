"""What kernels ask of memory and tensor cores, counted while they run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from gpu_emulator.library import executed, load, numbers


@dataclass
class Counts:
    """Of the launches within `counting`, summed.

    Global memory: `requests` are instructions of a warp; each asks for `sectors` of 32 bytes and uses some distinct
    `bytes` of them. Shared memory: a `wavefront` serves one word of each of the 32 banks; `least` are those that a
    request's distinct words fill. `cp.async` is a load and a store to shared memory, `ldmatrix`, `stmatrix` count with
    the others.
    """

    blocks: int = 0
    load_requests: int = 0
    load_sectors: int = 0
    load_bytes: int = 0
    store_requests: int = 0
    store_sectors: int = 0
    store_bytes: int = 0
    tile_requests: int = 0  # boxes that TMA brings
    tile_sectors: int = 0
    tile_bytes: int = 0
    sectors_from_l2: int = 0  # those that each block reads, once: as if its L1 kept them all
    shared_load_requests: int = 0
    shared_load_wavefronts: int = 0
    shared_load_least: int = 0
    shared_store_requests: int = 0
    shared_store_wavefronts: int = 0
    shared_store_least: int = 0
    tensor_multiply_adds: int = 0
    opcodes: dict[str, int] = field(default_factory=dict)  # instructions of warps, by name


@contextmanager
def counting(most_blocks: int = 0) -> Iterator[Counts]:
    """Fills its Counts at the end.

    Args:
        most_blocks: of each launch so many blocks run, chosen by the seed, and the others write nothing; 0: all run.
    """
    before, counts = executed(), Counts()
    load().emulator_count(most_blocks)
    try:
        yield counts
    finally:
        vars(counts).update(numbers(load().emulator_counted))
        counts.opcodes = {name: n - before.get(name, 0) for name, n in executed().items() if n > before.get(name, 0)}
