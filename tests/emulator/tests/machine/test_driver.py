"""Bad input: the error that a driver would give, with the numbers; and the process lives."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from gpu_emulator import library
from gpu_emulator.library import CudaError, set_arch
from gpu_emulator.modules import Function
from single import program, result

OK = program("ld.param.b64 %d1, [data]; mov.u32 %r1, 5; st.global.b32 [%d1], %r1; ret;", ".param .u64 data", "sm_80")


@pytest.fixture(autouse=True)
def _on_90() -> None:
    set_arch(90)


def refused(text: str, words: str, code: int = 218) -> None:
    with pytest.raises(CudaError, match=words) as caught:
        Function(text)
    assert caught.value.code == code
    data = np.zeros(4, np.uint32)
    Function(OK)(data)
    assert data[0] == 5


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("frobnicate.b32 %r1, %r2;", r"the opcode frobnicate\.b32 is not emulated: nothing begins with frobnicate"),
        ("add.sat.s32 %r1, %r2, %r3;", r"the opcode add\.sat\.s32 is not emulated: the modifier \.sat is not known"),
        ("add.ftz.f32 %r1, %r2, %r3;", r"modifier \.ftz is not known"),
        ("add.q32 %r1, %r2, %r3;", r"\.q32 is no type"),
        ("atom.global.add.u32 %r1, [%d1], 1;", r"the opcode atom\.global\.add\.u32 is not emulated"),
        ("add.s32 %r1, %r2;", r"it has 2 operands"),
        ("add.s32 %r1, %r2, %d3;", r"%d3 has 64 bits"),
        ("add.s32 %r1, %r2, %x;", r"%x is not known"),
        ("mov.u32 %r1, %clock;", r"%clock is not known"),
        ("ld.global.b32 %r1, %d1;", r"an address was expected"),
        ("ld.param.b32 %r1, [data+6];", r"it reads beyond its parameter"),
        ("bra NOWHERE;", r"no label NOWHERE"),
        (".texref x;", r"the directive is not emulated"),
        (".local .align 1 .b8 stack[2]; mov.b64 %d1, stack;", r"stack is not known"),
        (".local .b32 x; ld.local.b32 %r1, [x];", r"the opcode ld\.local\.b32 is not emulated"),
        ("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%r1,%r2,%r3,%r4}, {%r1}, {%r1,%r2}, {%r1,%r2,%r3,%r4};",
         r"\.s8 are not known here"),
        ("cvt.rz.f16.f32 %h1, %r1;", r"not emulated"),
        ("wgmma.mma_async.sync.aligned.m64n12k16.f32.bf16.bf16 {%r1}, %d1, %d2, %p1, 1, 1, 0, 0;",
         r"its shape is not known"),
        ("ld.volatile.global.b32 %r1, [%d1];", r"modifier \.volatile"),
    ],
)  # fmt: skip
def test_unknown_opcodes(statement: str, words: str) -> None:
    """Refused by name when the module is loaded, never guessed."""
    refused(program(statement, ".param .u64 data"), words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (".version 8.0\n.target sm_80\n.visible .entry kernel() { mov.u32", "the text ends in"),
        (".version 8.0\n.target sm_80\n.visible .entry kernel() { ret;", "does not end"),
        (".version 8.0\n.target sm_80\n.visible .entry kernel(.param .nothing a) { ret; }", "no type in the parameter"),
        (".version 8.0\n.target sm_80\n.func f() { ret; }", "functions are not emulated"),
        (".version 8.0\n.target sm_80\n/* never ends", "a comment that does not end"),
        ("nonsense;", "not a directive of a module"),
    ],
)
def test_malformed_text(text: str, words: str) -> None:
    refused(text, words)


def test_a_stack_that_nothing_uses() -> None:
    """Triton 3.8 declares one in a few kernels, and leaves it alone."""
    text = OK.replace(".reg .pred", ".local .align 1 .b8 __local_depot0[2]; .reg .b64 %SP; .reg .pred")
    data = np.zeros(4, np.uint32)
    Function(text)(data)
    assert data[0] == 5


def test_targets() -> None:
    refused(program("ret;", "", "sm_100"), "PTX for sm_100 does not run on compute capability 9.0", 209)
    refused(program("ret;", "", "sm_120a"), "sm_120a", 209)
    set_arch(80)
    refused(program("ret;", "", "sm_90a"), "PTX for sm_90a does not run on compute capability 8.0", 209)
    with pytest.raises(CudaError, match=r"no device of compute capability 7\.5"):
        set_arch(75)


def test_modules() -> None:
    with pytest.raises(CudaError, match="the module has no kernel other"):
        Function(OK, "other")
    handle = ctypes.c_void_p()
    assert library.load().cuModuleLoadData(ctypes.byref(handle), b"\x7fELF" + bytes(60)) == 200


def launch(words: str, code: int, *arguments: object, text: str = OK, **kwargs: object) -> None:
    with pytest.raises(CudaError, match=words) as caught:
        Function(text)(*arguments, **kwargs)  # type: ignore[arg-type]
    assert caught.value.code == code


def test_launches() -> None:
    data = np.zeros(4, np.uint32)
    launch(r"a grid of \(0, 1, 1\)", 1, data, grid=(0, 1, 1))
    launch(r"a grid of \(2147483648, 1, 1\)", 1, data, grid=(2**31, 1, 1))
    launch(r"a grid of \(1, 65536, 1\)", 1, data, grid=(1, 65536, 1))
    launch(r"a block of \(1025, 1, 1\) threads", 1, data, threads=(1025, 1, 1))
    launch(r"a block of \(1, 1, 65\)", 1, data, threads=(1, 1, 65))
    launch(r"kernel takes 1 arguments, and argument 1 is missing", 1)
    launch(r"49153 bytes of dynamic shared memory, 49152 are allowed", 1, data, shared=49153)
    launch(
        r"232449 bytes of dynamic shared memory: a block of kernel may have 232448",
        1,
        data,
        shared=232449,
        limit=232449,
    )
    Function(OK)(data, shared=232448, limit=232448)
    text = OK.replace(".param .u64 data)", ".param .u64 data)\n.reqntid 64").replace("{\n", "{\n", 1)
    launch(r"a block of 32 threads, compiled for 64", 1, data, text=text)


def test_packed_arguments() -> None:
    """CU_LAUNCH_PARAM_BUFFER: as many bytes as the kernel takes."""
    function, data = Function(OK), np.zeros(4, np.uint32)
    driver = library.load()
    driver.emulator_forget()
    driver.emulator_tell(data.ctypes.data, data.ctypes.data + data.nbytes, b"data", 0)
    packed, size = ctypes.c_uint64(data.ctypes.data), ctypes.c_size_t(8)
    extra = (ctypes.c_void_p * 5)(1, ctypes.addressof(packed), 2, ctypes.addressof(size), None)
    one = (1, 1, 1)
    assert driver.cuLaunchKernel(function.handle, *one, *one, 0, None, None, extra) == 0
    assert data[0] == 5
    size.value = 4
    with pytest.raises(CudaError, match="takes 8 bytes of arguments, and got 4"):
        library.check(driver.cuLaunchKernel(function.handle, *one, *one, 0, None, None, extra))


def test_memory_of_the_driver() -> None:
    """cuMemAlloc's memory is the device's; a freed one is not."""
    driver, pointer = library.load(), ctypes.c_uint64()
    library.check(driver.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(16)))
    address = ctypes.c_uint64(pointer.value)
    Function(OK)(address)
    found = ctypes.c_uint32()
    library.check(driver.cuMemcpyDtoH_v2(ctypes.byref(found), pointer, ctypes.c_size_t(4)))
    assert found.value == 5
    library.check(driver.cuMemFree_v2(pointer))
    launch(r"out of bounds", 700, address)
    assert driver.cuMemFree_v2(pointer) == 1


@pytest.mark.parametrize(
    ("arch", "name", "shared", "multiprocessors"),
    [(80, b"A100", 166912, 108), (90, b"H100", 232448, 132), (120, b"RTX 5090", 101376, 170)],
)
def test_attributes(arch: int, name: bytes, shared: int, multiprocessors: int) -> None:
    set_arch(arch)
    driver, value = library.load(), ctypes.c_int()
    text = ctypes.create_string_buffer(64)
    library.check(driver.cuDeviceGetName(text, 64, 0))
    assert name in text.value
    expected = {
        97: shared,
        16: multiprocessors,
        75: arch // 10,
        76: arch % 10,
        10: 32,
        12: 65536,
        1: 1024,
        5: 2**31 - 1,
    }
    for attribute, wanted in expected.items():
        library.check(driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, 0))
        assert value.value == wanted
    assert driver.cuDeviceGetAttribute(ctypes.byref(value), 9999, 0) == 1
    assert driver.cuDeviceGet(ctypes.byref(value), 1) == 101


def test_what_has_run_is_counted() -> None:
    before, launches = library.executed(), library.launches()
    result("brkpt: mul.lo.s32 %r40, %t0, 3;", (), "%r40", np.uint32, threads=(64, 1, 1))
    after = library.executed()
    assert after["mul.lo.s32"] - before.get("mul.lo.s32", 0) == 2  # once a warp
    assert library.launches() == launches + 1
