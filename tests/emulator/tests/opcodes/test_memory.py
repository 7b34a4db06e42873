"""Loads, stores and cp.async, in each space and width."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from gpu_emulator.library import set_arch
from gpu_emulator.modules import Function
from single import LETTER, program, result, run

U8, U16, U32, U64 = np.uint8, np.uint16, np.uint32, np.uint64
SHARED_AT = "mov.u32 %r30, memory; mad.lo.s32 %r31, %t0, {bytes}, %r30;"

# ld.shared.b16 ld.shared.b32 ld.shared.b64 ld.shared.f32 ld.shared.v2.b16 ld.shared.v2.b32 ld.shared.v2.b64
# ld.shared.v2.f32 ld.shared.v4.b16 ld.shared.v4.b32 ld.shared.v4.f32, and st.shared of b16 b32 b64 f32 u16 u32 v2.b16
# v2.b32 v2.b64 v4.b16 v4.b32; ld.global of b16 b32 b64 f32 u16 u32 v2.b32 v2.b64 v2.f32 v2.u32 v4.b32 v4.f32 v4.u16
# v4.u32 and st.global of b16 b32 b64 f32 u16 v2.b32 v2.b64 v4.b32; st.global.wb of u16 u32 v2.u32 v4.u32; st.f32 ld.f32
# ld.u16: every pair below, as "ld{space}{vector}.{type}".
SHAPES = [(vector, kind) for vector in ("", ".v2", ".v4") for kind in ("b16", "u16", "b32", "u32", "f32", "b64")]
SHAPES.remove((".v4", "b64"))  # 32 bytes: no such access


SPACES = {"shared": ".shared", "cta": ".shared::cta", "global": ".global", "wb": ".global.wb", "generic": ""}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize(("vector", "kind"), SHAPES)
def test_there_and_back(vector: str, kind: str, space: str) -> None:
    """Lane l writes `count` elements; lane l reads those of lane 31 - l, the bytes at their place."""
    size, count = int(kind[1:]) // 8, int(vector[2:] or 1)
    letter = LETTER[size]
    names = [f"%{letter}{20 + i}" for i in range(count)]
    sources = ", ".join(names)
    listed = f"{{{sources}}}" if vector else sources
    back = listed.replace(f"%{letter}2", f"%{letter}4")
    stride = size * count
    define = {2: "cvt.u16.u32 {}, %r19;", 4: "mov.b32 {}, %r19;", 8: "cvt.u64.u32 {}, %r19;"}[size]
    body = "".join(f"mad.lo.s32 %r19, %t0, 100, {i}; {define.format(name)}" for i, name in enumerate(names))
    load = space.removesuffix(".wb")
    body += f"""
      ld.param.b64 %d30, [buffer]; mul.wide.u32 %d31, %t0, {stride};
      sub.s32 %r32, 31, %t0; mul.wide.u32 %d32, %r32, {stride};
      mov.u64 %d33, memory;
    """
    base = "%d33" if space.startswith(".shared") else "%d30"
    body += f"add.s64 %d34, {base}, %d31; add.s64 %d35, {base}, %d32;"
    body += f"st{space}{vector}.{kind} [%d34], {listed}; bar.sync 0; ld{load}{vector}.{kind} {back}, [%d35];"
    body += "ld.param.b64 %d36, [out];" + "".join(
        f"mad.wide.u32 %d37, %t0, {stride}, %d36; st.global.b{8 * size} [%d37+{i * size}], {name};"
        for i, name in enumerate(n.replace(f"%{letter}2", f"%{letter}4") for n in names)
    )
    kernel = program("mov.u32 %t0, %tid.x;" + body + "ret;", ".param .u64 buffer, .param .u64 out")
    set_arch(90)
    dtype = {2: U16, 4: U32, 8: U64}[size]
    buffer = np.zeros(32 * count + 2, dtype)
    buffer = buffer[(-buffer.ctypes.data % 16) // size :] if buffer.ctypes.data % 16 else buffer
    out = np.zeros((32, count), dtype)
    Function(kernel)(buffer, out, shared=1024)
    np.testing.assert_array_equal(out, (100 * np.arange(31, -1, -1)[:, None] + np.arange(count)).astype(dtype))
    if not space.startswith(".shared"):
        expected = (100 * np.arange(32)[:, None] + np.arange(count)).astype(dtype)
        np.testing.assert_array_equal(buffer[: 32 * count].reshape(32, count), expected)


def test_narrow_types_in_wide_registers() -> None:
    """ld.s16 extends the sign, ld.u8 zeros; st.b8 writes the lowest byte."""
    body = SHARED_AT.format(bytes=4) + """
      st.shared.b32 [%r31], %r0; ld.shared.s16 %r40, [%r31]; ld.shared.u16 %r41, [%r31+2]; ld.shared.s8 %r42, [%r31];
      ld.shared.u8 %r43, [%r31+3];
      st.shared.b8 [%r31+1], %r0; ld.shared.b32 %r44, [%r31];
    """  # fmt: skip
    found = run(body, (np.full(32, 0xFEDCBA98, U32),), tuple((f"%r{i}", U32) for i in range(40, 45)))
    assert [int(v[0]) for v in found] == [0xFFFFBA98, 0xFEDC, 0xFFFFFF98, 0xFE, 0xFEDC9898]


def test_parameters() -> None:
    """ld.param.b32 .s32 .u32 .u8 .b64 .u64 .v2.u32, at their offsets with their alignments, and through an address."""
    parameters = ".param .u8 a, .param .u32 b, .param .u64 c, .param .align 8 .b8 d[16], .param .u64 out"
    body = """
      ld.param.u8 %r1, [a]; ld.param.b32 %r2, [b]; ld.param.s32 %r3, [b]; ld.param.u32 %r4, [b]; ld.param.b64 %d1, [c];
      ld.param.u64 %d2, [c]; ld.param.v2.u32 {%r5, %r6}, [d+8];
      mov.b64 %d3, d; ld.param.u32 %r7, [%d3+4]; cvta.param.u64 %d4, %d3; ld.u32 %r8, [%d4];
      cvt.u32.u64 %r9, %d1; cvt.u32.u64 %r10, %d2; ld.param.u64 %d5, [out];
    """
    body += "".join(f"st.global.b32 [%d5+{4 * (i - 1)}], %r{i};" for i in range(1, 11)) + "ret;"
    values = np.arange(10, 14, dtype=U32)
    out = np.zeros(10, U32)
    structure = (ctypes.c_uint32 * 4)(*values.tolist())
    function = Function(program(body, parameters))
    function(ctypes.c_uint8(200), ctypes.c_uint32(7), ctypes.c_uint64(99), structure, out, threads=(1, 1, 1))
    assert out.tolist() == [200, 7, 7, 7, 12, 13, 11, 10, 99, 99]


COPY = """
  ld.param.b64 %d30, [p0]; mad.wide.u32 %d31, %t0, {bytes}, %d30; {at}
  {copy}
  cp.async.commit_group; cp.async.wait_group 0; ld.shared.b32 %r40, [%r31]; ld.shared.b32 %r41, [%r31+{last}];
"""


@pytest.mark.parametrize(("cache", "size"), [("ca", 4), ("ca", 8), ("ca", 16), ("cg", 16)])
@pytest.mark.parametrize("read", [None, 0, "all"])
def test_copies(cache: str, size: int, read: object) -> None:
    """cp.async.ca.shared.global and cp.async.cg.shared.global: what is not read is zero."""
    source = np.arange(1, 32 * size // 4 + 3, dtype=U32)
    source = source[(-source.ctypes.data % 16) // 4 :][: 32 * size // 4]
    ignored = "" if read is None else f", {0 if read == 0 else size}"
    copy = f"cp.async.{cache}.shared.global [%r31], [%d31], {size}{ignored};"
    body = COPY.format(bytes=size, at=SHARED_AT.format(bytes=size), copy=copy, last=size - 4)
    body = "mov.u32 %t0, %tid.x;" + body + "".join(
        f"ld.param.b64 %d40, [p{i}]; mad.wide.u32 %d40, %t0, 4, %d40; st.global.b32 [%d40], %r{39 + i};" for i in (1, 2)
    )  # fmt: skip
    first, last = np.zeros(32, U32), np.zeros(32, U32)
    Function(program(body, ".param .u64 p0, .param .u64 p1, .param .u64 p2"))(source, first, last, shared=512)
    wanted = source.reshape(32, -1) * (read != 0)
    np.testing.assert_array_equal(first, wanted[:, 0])
    np.testing.assert_array_equal(last, wanted[:, -1])


def test_groups_of_copies_land_in_order() -> None:
    """cp.async.wait_group 1 waits for all but the last group; wait_all for all, committed or not."""
    body = SHARED_AT.format(bytes=8) + """
      ld.param.b64 %d30, [p0]; mad.wide.u32 %d31, %t0, 4, %d30;
      cp.async.ca.shared.global [%r31], [%d31], 4; cp.async.commit_group;
      cp.async.ca.shared.global [%r31+4], [%d31], 4; cp.async.commit_group;
      cp.async.wait_group 1; ld.shared.b32 %r40, [%r31];
      cp.async.wait_all; ld.shared.b32 %r41, [%r31+4]; add.s32 %r42, %r40, %r41;
    """  # fmt: skip
    values = np.arange(32, dtype=U32)
    np.testing.assert_array_equal(result(body, (values,), "%r42", U32), 2 * values)


def test_static_shared_memory() -> None:
    """Static variables come first, aligned; the dynamic part follows."""
    text = """
.version 8.7
.target sm_80
.address_size 64
.shared .align 4 .b8 small[6];
.shared .align 16 .b8 large[32];
.extern .shared .align 16 .b8 rest[];
.visible .entry kernel(.param .u64 out) {
  .reg .b32 %r<9>; .reg .b64 %d<3>;
  mov.u32 %r1, small; mov.u32 %r2, large; mov.u32 %r3, rest; st.shared.u32 [large+28], %r3;
  ld.shared.u32 %r4, [large+28];
  ld.param.u64 %d1, [out];
  st.global.u32 [%d1], %r1; st.global.u32 [%d1+4], %r2; st.global.u32 [%d1+8], %r3; st.global.u32 [%d1+12], %r4;
  ret;
}
"""
    out = np.zeros(4, U32)
    Function(text)(out, threads=(1, 1, 1), shared=16)
    places = out.tolist()
    assert {place % 16 for place in places[1:]} == {0}
    assert sorted(places[:2])[0] == 0
    assert places[2] == places[3] >= 38
