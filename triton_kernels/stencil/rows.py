"""A row of columns in registers: what the stencil kernels load, multiply and store.

A lane owns a few neighbouring columns of a row. In registers a row is a tuple with one tensor for each column, so that
which columns a tap joins is known at compile time. In memory it is read and written in chunks of V elements, 16 bytes
where the tensor allows:

    NCHW, V = 8        chunk -1         chunk 0         chunk 1        a lane: 8 columns of one channel
                    [ ...... h ] [ c c c c c c c c ] [ h ...... ]      (h: the halo that the taps reach into)
    NHWC, V = 1     each column is a chunk                             a lane: the columns, for a vector of channels

Columns are counted from the lane's first. `ROW = (S, D, P, R, K)` is the index equation along the row, of a gather of
output columns b from input columns e through K taps t, with one of S and R equal to one:

    R * e = b * S + t * D - P
"""

from __future__ import annotations

import triton
import triton.language as tl

from convext.triton_kernels.epilogue import activate, plus
from convext.triton_kernels.index import inside


@triton.constexpr_function
def reached(WIDTH, ROW):
    """The input columns that WIDTH output columns read."""
    S, D, P, R, K = ROW
    scaled = {b * S + t * D - P for b in range(WIDTH) for t in range(K)}
    return {e // R for e in scaled if e % R == 0}


@triton.constexpr_function
def first_chunk(V, WIDTH, ROW):
    """The first chunk that an output column reads."""
    return min(reached(WIDTH, ROW), default=0) // V


@triton.constexpr_function
def end_chunk(V, WIDTH, ROW):
    """One past the last chunk that an output column reads."""
    return max(reached(WIDTH, ROW), default=-1) // V + 1


@triton.constexpr_function
def chunk_needed(chunk, V, WIDTH, ROW):
    """Whether an output column reads the chunk. Between the taps of a dilated row there are some that none reads."""
    return any(e // V == chunk for e in reached(WIDTH, ROW))


@triton.constexpr_function
def source_column(b, t, V, WIDTH, ROW):
    """Where `load_row`'s result holds the input column that joins output column b through tap t; -1: none does."""
    S, D, P, R, _ = ROW
    e, rest = divmod(b * S + t * D - P, R)
    return -1 if rest else e - first_chunk(V, WIDTH, ROW) * V


@triton.jit
def _split(v, V: tl.constexpr):
    """[B, V] -> V tensors [B]. A chunk lies in one thread, so that this costs no instruction."""
    if V == 1:
        return (v.reshape(v.shape[0]),)
    else:
        low, high = tl.split(v.reshape(v.shape[0], 2, V // 2).permute(0, 2, 1))
        return _split(low, V // 2) + _split(high, V // 2)


@triton.jit
def _join(columns, V: tl.constexpr):
    """V tensors [B] -> [B, V]: the inverse of `_split`."""
    if V == 1:
        return columns[0].expand_dims(1)
    else:
        low = _join(columns[: V // 2], V // 2)
        high = _join(columns[V // 2 :], V // 2)
        return tl.join(low, high).permute(0, 2, 1).reshape(low.shape[0], V)


@triton.jit
def load_row(
    pointers, first, mask, size, stride,
    V: tl.constexpr, WIDTH: tl.constexpr, ROW: tl.constexpr, WHOLE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The input columns of WIDTH output columns: a tuple of ACC tensors, from the first column of the first chunk on.

    Args:
        pointers: where each lane's column 0 lies in this row, inside the tensor or not.
        first: the index of that column.
        mask: the lanes whose row lies inside the tensor; others read zeros, as columns outside do.
        size, stride: of the axis of columns.
        WHOLE: whether `size` and `first` are multiples of V, so that chunks lie inside or outside as a whole.
    """
    columns = ()
    for k in tl.static_range(first_chunk(V, WIDTH, ROW), end_chunk(V, WIDTH, ROW)):
        if chunk_needed(k, V, WIDTH, ROW):
            columns += _load_chunk(pointers, first, mask, size, stride, k * V, V, WHOLE, ACC)
        else:
            columns += (0.0,) * V
    return columns


@triton.jit
def _load_chunk(
    pointers, first, mask, size, stride, START: tl.constexpr, V: tl.constexpr, WHOLE: tl.constexpr, ACC: tl.constexpr
):
    if V == 1:
        return (tl.load(pointers + START * stride, mask=mask & inside(first + START, size), other=0.0).to(ACC),)
    else:
        e = START + tl.arange(0, V)[None, :]
        if WHOLE:
            mask = (mask & inside(first + START, size))[:, None]
        else:
            mask = mask[:, None] & inside(first[:, None] + e, size)
        return _split(tl.load(pointers[:, None] + e * stride, mask=mask, other=0.0).to(ACC), V)


@triton.jit
def _stored(mask, first, size, k, e, WHOLE: tl.constexpr):
    """Which elements of the chunk at columns e, of which k is the first, lie inside."""
    if WHOLE:
        return (mask & (first + k < size))[:, None]
    else:
        return mask[:, None] & (first[:, None] + e < size)


@triton.jit
def store_row(
    pointers, first, mask, size, stride, columns, added,
    V: tl.constexpr, WIDTH: tl.constexpr, WHOLE: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """Activates WIDTH neighbouring columns, adds a residual and stores them. Arguments as those of `load_row`.

    Args:
        added: where each lane's column 0 lies in the residual, which has the result's strides; or None.
    """
    for k in tl.static_range(0, WIDTH, V):
        if V == 1:
            value = activate(columns[k], ACTIVATION)
            if added is not None:
                value = plus(value, added + k * stride, mask & (first + k < size))
            tl.store(pointers + k * stride, value.to(pointers.dtype.element_ty), mask=mask & (first + k < size))
        else:
            e = k + tl.arange(0, V)[None, :]
            chunk = activate(_join(columns[k : k + V], V), ACTIVATION)
            if added is not None:
                chunk = plus(chunk, added[:, None] + e * stride, _stored(mask, first, size, k, e, WHOLE))
            chunk = chunk.to(pointers.dtype.element_ty)
            tl.store(pointers[:, None] + e * stride, chunk, mask=_stored(mask, first, size, k, e, WHOLE))
