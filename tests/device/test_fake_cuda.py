"""Triton's own driver launches our kernels on a libcuda that checks launches, and what is wrong is refused there."""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
import sys
from collections.abc import Callable
from ctypes import byref, c_char_p, c_int, c_uint, c_uint32, c_uint64, c_void_p
from pathlib import Path

import pytest
import room
import torch

pytestmark = pytest.mark.skipif(room.missing() is not None, reason=str(room.missing()))

# Three parameters: 8 bytes, 4 bytes, and a tensor map.
PTX = """
.version 8.0
.target sm_90
.address_size 64
.visible .entry kernel(.param .u64 pointer, .param .u32 number, .param .align 64 .b8 map[128]) .reqntid 128 { ret; }
"""


class Config(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = [
        *((name, c_uint) for name in ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z", "shared")),
        ("stream", c_void_p), ("attributes", c_void_p), ("number", c_uint),
    ]  # fmt: skip


class Cuda:
    """The library, with errors as exceptions."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))

    def __getattr__(self, name: str) -> Callable[..., None]:
        def call(*arguments: object) -> None:
            if getattr(self._library, name)(*arguments):
                text = c_char_p()
                self._library.cuGetErrorString(1, byref(text))
                raise RuntimeError(text.value.decode())

        return call


@pytest.fixture(scope="module")
def cuda() -> Cuda:
    return Cuda(room.build() / "libcuda.so.1")


@pytest.fixture(scope="module")
def function(cuda: Cuda, tmp_path_factory: pytest.TempPathFactory) -> c_void_p:
    import triton

    folder = tmp_path_factory.mktemp("cubin")
    (folder / "kernel.ptx").write_text(PTX)
    ptxas = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    subprocess.run([ptxas, "-arch=sm_90", folder / "kernel.ptx", "-o", folder / "kernel.cubin"], check=True)
    function.image = (folder / "kernel.cubin").read_bytes()  # it has to live as long as the module
    module, found = c_void_p(), c_void_p()
    cuda.cuModuleLoadData(byref(module), function.image)
    cuda.cuModuleGetFunction(byref(found), module, b"kernel")
    return found


def encoded(cuda: Cuda, sizes=(64, 7, 1, 2), strides=(128, 896, 896), box=(64, 4, 1, 2), swizzle=3, address=1 << 20):  # type: ignore[no-untyped-def]
    """A tensor map of bfloat16."""
    memory = ctypes.create_string_buffer(192)
    map = ctypes.addressof(memory) + -ctypes.addressof(memory) % 64
    cuda.cuTensorMapEncodeTiled(
        c_void_p(map), c_int(9), c_uint32(len(sizes)), c_void_p(address), (c_uint64 * len(sizes))(*sizes),
        (c_uint64 * len(strides))(*strides), (c_uint32 * len(box))(*box), (c_uint32 * len(box))(*[1] * len(box)),
        c_int(0), c_int(swizzle), c_int(0), c_int(0),
    )  # fmt: skip
    return memory, map


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"strides": (120, 896, 896)}, "axis 1 of a tensor map has a stride of 120 bytes"),
        ({"strides": (128, 0, 896)}, "axis 2 of a tensor map has a stride of 0 bytes"),
        (
            {"strides": (128, 128, 896)},
            "has size 1 and a stride of 128 bytes, after 7 times 128",
        ),
        ({"sizes": (64, 7, 0, 2)}, "axis 2 of a tensor map has size 0"),
        ({"box": (64, 512, 1, 2)}, "axis 1 of a box has size 512"),
        ({"box": (4, 4, 1, 2)}, "rows of 8 bytes"),
        ({"box": (128, 4, 1, 2)}, "rows of 256 bytes under swizzle 3"),
        ({"address": (1 << 20) + 8}, "no multiple of 16"),
    ],
)
def test_tensor_maps_that_break_a_rule_are_refused(cuda: Cuda, change: dict[str, object], reason: str) -> None:
    encoded(cuda)
    with pytest.raises(RuntimeError, match=reason):
        encoded(cuda, **change)


def launch(cuda: Cuda, function: c_void_p, map: int, **change: int) -> None:
    fields = {"grid_x": 5, "grid_y": 1, "grid_z": 1, "block_x": 128, "block_y": 1, "block_z": 1, "shared": 0} | change
    pointer, number = c_uint64(0x1122), c_uint32(77)
    parameters = (c_void_p * 3)(ctypes.addressof(pointer), ctypes.addressof(number), map)
    cuda.cuLaunchKernelEx(byref(Config(**fields)), function, parameters, None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"grid_x": 0}, "a grid of 0 x 1 x 1"),
        ({"grid_x": 1 << 31}, "a grid of 2147483648 x 1 x 1"),
        ({"grid_y": 65536}, "a grid of 5 x 65536 x 1"),
        ({"block_x": 2048}, "2048 threads in a block"),
        ({"block_x": 256}, "256 threads in a block, compiled for 128"),
        ({"shared": 49153}, "49153 bytes of shared memory, opted in to 49152"),
    ],
)
def test_launches_beyond_a_limit_are_refused(cuda: Cuda, function: c_void_p, change: dict, reason: str) -> None:
    _memory, map = encoded(cuda)
    launch(cuda, function, map)
    with pytest.raises(RuntimeError, match=reason):
        launch(cuda, function, map, **change)


def test_parameters_are_read_and_checked(cuda: Cuda, function: c_void_p, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    _memory, map = encoded(cuda)
    with pytest.raises(RuntimeError, match="no parameter 2 of 3"):
        launch(cuda, function, 0)
    blank = ctypes.create_string_buffer(128)
    with pytest.raises(RuntimeError, match="parameter 2 is no tensor map that was encoded"):
        launch(cuda, function, ctypes.addressof(blank))
    log = tmp_path / "log"
    monkeypatch.setenv("FAKE_CUDA_LOG", str(log))
    launch(cuda, function, map)
    (line,) = map_lines(log)
    assert (line["kernel"], line["grid"], line["threads"], line["shared"]) == ("kernel", [5, 1, 1], 128, 0)
    assert line["parameters"][:2] == ["2211000000000000", "4d000000"]
    assert len(line["parameters"][2]) == 256


def map_lines(log: Path) -> list[dict]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_shared_memory_beyond_the_device_is_refused(cuda: Cuda, function: c_void_p) -> None:
    cuda.cuFuncSetAttribute(function, c_int(8), c_int(232448))
    with pytest.raises(RuntimeError, match="232449 bytes of shared memory, of 232448"):
        cuda.cuFuncSetAttribute(function, c_int(8), c_int(232449))


def launches(cache: Path, *arguments: int, **environment: str) -> str:
    """What launches.py prints in the room."""
    done = subprocess.run(
        [sys.executable, room.HERE / "launches.py", *map(str, arguments)], capture_output=True, text=True, check=False,
        env=room.environment(room.build(), TRITON_CACHE_DIR=str(cache), **environment),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.long
@pytest.mark.skipif(torch.version.cuda is not None, reason="torch with CUDA asks more of a driver")
def test_our_launches_are_what_the_driver_takes(tmp_path: Path) -> None:
    """A few, as `check` and the benchmark launch them: what was compiled in other processes is all that they need."""
    cache, log = tmp_path / "cache", tmp_path / "log"
    said = launches(cache, 240, 7, 1)
    compiled = {path for path in cache.rglob("*") if path.suffix in (".cubin", ".so")}
    count = sum(path.suffix == ".cubin" for path in compiled)
    assert said == f"{count} compiled\n"
    printed = launches(cache, 240, 7, FAKE_CUDA_LOG=str(log))
    of = re.search(r"^(\d+) of (\d+) launches.* 0 refused", printed, re.MULTILINE)
    assert of is not None, printed
    assert int(of[1]) == count == len(range(7, int(of[2]), 240)) == len(map_lines(log)) > 4
    assert {path for path in cache.rglob("*") if path.suffix in (".cubin", ".so")} == compiled


@pytest.mark.skipif(torch.version.cuda is not None, reason="torch with CUDA asks more of a driver")
def test_launches_from_memory_are_the_same(tmp_path: Path) -> None:
    """Kernel, grid, threads, shared memory, every number; a profiler's hook sees each, launched by Triton's own way."""
    done = subprocess.run(
        [sys.executable, room.HERE / "replays.py"], capture_output=True, text=True, check=False,
        env=room.environment(room.build(), FAKE_CUDA_LOG=str(tmp_path / "log")),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *cases, by_tma = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(cases) == 3
    for case in cases:
        first, *later = case["calls"]
        assert len(first["launches"]) >= 3, case["name"]
        for call in later:
            assert [*map(but_addresses, call["launches"])] == [*map(but_addresses, first["launches"])], case["name"]
        found = [addresses_by_order(call["launches"], case["forward"]) for call in later]
        assert found == [found[1]] * 3, case["name"]  # the second is what Triton launched, for the hook
        names = [line["kernel"] for line in first["launches"]]
        assert [call["seen"] for call in case["calls"]] == [[], [], names, []], case["name"]
    maps = [[p for p in launch["parameters"] if len(p) == TENSOR_MAP] for launch in by_tma["launches"]]
    assert len(maps) == 6
    assert maps[0] == maps[2] == maps[4]
    assert maps[1] == maps[3] == maps[5]
    assert len(maps[0]) == len(maps[1]) == 1
    assert maps[0] != maps[1]


POINTER, TENSOR_MAP = 16, 256  # hexadecimal digits


def but_addresses(launch: dict) -> dict:
    """A launch without the bytes of its pointers. Tensor maps are of images that are the same in each call."""
    return launch | {"parameters": [len(p) if len(p) == POINTER else p for p in launch["parameters"]]}


def addresses_by_order(launches: list[dict], forward: int) -> list[list[int]]:
    """Who reads what whom wrote: each pointer of a pass as the number of others that came before its first."""
    passes = [[p for launch in part for p in launch["parameters"] if len(p) == POINTER]
              for part in (launches[:forward], launches[forward:])]  # fmt: skip
    return [[[*dict.fromkeys(pointers)].index(p) for p in pointers] for pointers in passes]
