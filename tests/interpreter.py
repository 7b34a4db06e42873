"""Triton's interpreter as the tests run it: rounding as the hardware does, without what takes time and says nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import triton.language as tl
from triton._utils import validate_block_shape
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter

# Whether integers overflow is asked of every sum and product, in int64, which is most of an interpreter's time; the
# answer is read in debug mode alone.
interpreter.interpreter_builder.options = replace(interpreter.interpreter_builder.options, sanitize_overflow=False)

_numbers = cache(interpreter._get_np_dtype)


def _numpy_dtype(of: Any) -> np.dtype[Any]:
    """Triton's own makes the table that it reads at each call."""
    return np.dtype(np.uint64) if isinstance(of.scalar, tl.pointer_type) else _numbers(of.scalar)


interpreter._get_np_dtype = _numpy_dtype


@cache
def _sizes(shape: tuple[int, ...]) -> tuple[tl.tuple, int]:
    """The sizes of a block as Triton's types hold them, and their product."""
    return tl.tuple(shape), validate_block_shape(shape)


@cache
def _constants(shape: tuple[int, ...]) -> tuple[tl.tuple, tl.constexpr]:
    """The same as its tensors hold them."""
    return tl.tuple([tl.constexpr(size) for size in shape]), tl.constexpr(math.prod(shape))


def _block_type(self: tl.block_type, element_ty: tl.dtype, shape: Any) -> None:
    """Triton's own, made for each operation of a kernel anew, makes a type for each number."""
    sizes = tuple(size.value if isinstance(size, tl.constexpr) else size for size in shape)
    if not sizes:
        raise TypeError("0d block_type is forbidden")
    self.element_ty, (self.shape, self.numel) = element_ty, _sizes(sizes)
    self.name = f"<{sizes}, {element_ty}>"


def _tensor(self: tl.tensor, handle: interpreter.TensorHandle, type: tl.dtype) -> None:
    """The same of Triton's own for the result of each operation."""
    self.handle, self.type, self.dtype = handle, type, type.scalar
    self.shape, self.numel = _constants(tuple(type.shape) if type.is_block() else ())


tl.block_type.__init__ = _block_type
tl.tensor.__init__ = _tensor


_checked, _broadcast = TritonSemantic.binary_op_type_checking_impl, TritonSemantic.broadcast_impl_value
_AS_THEY_ARE = {id(t) for t in (tl.float32, tl.float64, tl.int1, tl.int32, tl.int64)}  # two of one are not promoted


def _binary_operands(self: TritonSemantic, a: Any, b: Any, *how: Any, **also: Any) -> tuple[tl.tensor, tl.tensor]:
    """Triton's own, which asks thirty questions, where two of one type are what they are to be."""
    if type(a) is type(b) is tl.tensor and a.dtype is b.dtype and id(a.dtype) in _AS_THEY_ARE:
        return self.broadcast_impl_value(a, b)
    return _checked(self, a, b, *how, **also)


def _alike(self: TritonSemantic, a: tl.tensor, b: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Triton's own compares sizes one by one: blocks of equal sizes share them, see `_block_type`."""
    if type(a.type) is type(b.type) is tl.block_type and a.type.shape is b.type.shape:
        return a, b
    return _broadcast(self, a, b)


TritonSemantic.binary_op_type_checking_impl = _binary_operands
TritonSemantic.broadcast_impl_value = _alike


def _widened(handle: interpreter.TensorHandle) -> np.ndarray:
    """The numbers in a handle: bfloat16 is stored as its 16 bits, which are the upper half of a float32."""
    if handle.dtype.scalar == tl.bfloat16:
        return (handle.data.astype(np.uint32) << 16).view(np.float32)
    return handle.data


def _bfloat16_bits(data: np.ndarray) -> np.ndarray:
    """float32 to the bits of bfloat16, rounded to nearest even as the hardware does; NaN stays NaN."""
    bits = np.ascontiguousarray(data, dtype=np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(data), np.uint16(0x7FC0), rounded)


_cast = interpreter.InterpreterBuilder.cast_impl


def _cast_impl(
    self: interpreter.InterpreterBuilder, src: interpreter.TensorHandle, dst_type: Any
) -> interpreter.TensorHandle:
    """Casts as Triton's own, which truncates to bfloat16, but rounds."""
    source, to = src.dtype.scalar, dst_type.scalar
    if tl.bfloat16 not in (source, to) or source == to:
        return _cast(self, src, dst_type)
    data = _widened(src)
    data = _bfloat16_bits(data) if to == tl.bfloat16 else data.astype(_numpy_dtype(dst_type))
    return interpreter.TensorHandle(data, to)


def _create_dot(
    self: interpreter.InterpreterBuilder,
    a: interpreter.TensorHandle,
    b: interpreter.TensorHandle,
    d: interpreter.TensorHandle,
    *_: Any,
) -> interpreter.TensorHandle:
    """A product of numbers; Triton's own multiplies the bits of bfloat16."""
    product = np.matmul(_widened(a).astype(d.data.dtype), _widened(b).astype(d.data.dtype))
    return interpreter.TensorHandle(product + d.data, d.dtype.scalar)


interpreter.InterpreterBuilder.cast_impl = _cast_impl
interpreter.InterpreterBuilder.create_dot = _create_dot

_patching_call = interpreter.InterpretedFunction.__call__


def _call(self: interpreter.InterpretedFunction, *args: Any, **kwargs: Any) -> Any:
    """A call from one kernel function to another. Triton's own patches triton.language anew each time."""
    if self.fn.__globals__.get("tl") is tl:
        return self.rewrite()(*args, **kwargs)
    return _patching_call(self, *args, **kwargs)


interpreter.InterpretedFunction.__call__ = _call
