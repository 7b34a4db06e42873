"""Which convolution: one index equation, one trilinear form, three faces.

    i = o * stride + t * dilation - pad            (input index, output index, tap)
    T(x, w, y) = sum over n, k, c, o, t of  x[n, c, i] * w[k, c, t] * y[n, k, o]

A convolution operator leaves one of the three tensors open:

    fprop  leaves y open: convolution
    dgrad  leaves x open: its input gradient, and transposed convolution
    wgrad  leaves w open: its weight gradient

Each face takes the spatial size of the tensor that it leaves open, and the padding at the *beginning* of
each axis. Indices outside a tensor read zeros, so symmetric, asymmetric, causal and strided-'same' padding and
`output_padding` are all this one case. The names of the faces are those of cuDNN and CUTLASS.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch

from convext.problem.symbols import holds

Face = Literal["fprop", "dgrad", "wgrad"]
FACES: tuple[Face, ...] = ("fprop", "dgrad", "wgrad")
Ints = Sequence[int]

# How the products of float32 are formed on CUDA: float32 throughout, 10-bit mantissas, or three TF32 products.
PRECISIONS = ("ieee", "tf32", "tf32x3")

# The two tensors a face reads, in the order of its arguments, and the one that it leaves open.
OPERANDS: dict[Face, tuple[str, str]] = {"fprop": ("x", "w"), "dgrad": ("y", "w"), "wgrad": ("x", "y")}
OPEN: dict[Face, str] = {"fprop": "y", "dgrad": "x", "wgrad": "w"}
FACE_OPENING: dict[str, Face] = {role: face for face, role in OPEN.items()}


def output_size(input: Ints, kernel: Ints, stride: Ints, begin: Ints, end: Ints, dilation: Ints) -> tuple[int, ...]:
    """Spatial size of a convolution's output, `floor((I + begin + end - d(k-1) - 1) / s) + 1` on each axis.

    `begin` and `end` are the zeros before and after each axis, in elements. Negative where the kernel does not
    fit the padded input.
    """
    return tuple(
        (i + b + e - d * (k - 1) - 1) // s + 1
        for i, k, s, b, e, d in zip(input, kernel, stride, begin, end, dilation, strict=True)
    )


def transposed_size(
    input: Ints, kernel: Ints, stride: Ints, begin: Ints, end: Ints, dilation: Ints, output_padding: Ints
) -> tuple[int, ...]:
    """Spatial size of a transposed convolution's output, `(I-1)s - begin - end + d(k-1) + output_padding + 1`."""
    return tuple(
        (i - 1) * s - b - e + d * (k - 1) + extra + 1
        for i, k, s, b, e, d, extra in zip(input, kernel, stride, begin, end, dilation, output_padding, strict=True)
    )


def open_shape(face: Face, a: Ints, b: Ints, size: Ints, groups: int) -> tuple[int, ...]:
    """Shape of the tensor that `face` leaves open, from the shapes of its two operands and its spatial size.

    Raises RuntimeError where ranks or channels of the operands do not fit together.
    """
    rank = len(size)
    if len(a) != rank + 2 or len(b) != rank + 2:
        raise RuntimeError(
            f"{face}: expected two tensors of {rank + 2} dimensions for a size of {rank} axes, "
            f"but got shapes {list(a)} and {list(b)}"
        )
    if groups < 1:
        raise RuntimeError(f"{face}: expected groups to be positive, but got groups={groups}")
    if face == "wgrad":
        if a[0] != b[0]:
            raise RuntimeError(f"wgrad: expected one batch size, but got x {list(a)} and y {list(b)}")
        if a[1] % groups or b[1] % groups:
            raise RuntimeError(
                f"wgrad: expected channels divisible by groups={groups}, but got x {list(a)} and y {list(b)}"
            )
        return (b[1], a[1] // groups, *size)
    if b[0] % groups:
        raise RuntimeError(
            f"Given groups={groups}, expected weight to be divisible by {groups} at dimension 0, "
            f"but got weight of size {list(b)} instead"
        )
    expected = b[1] * groups if face == "fprop" else b[0]
    if a[1] != expected:
        raise RuntimeError(
            f"Given groups={groups}, weight of size {list(b)}, expected {OPERANDS[face][0]}{list(a)} "
            f"to have {expected} channels, but got {a[1]} channels instead"
        )
    return (a[0], b[0] if face == "fprop" else b[1] * groups, *size)


def check_geometry(size: Ints, stride: Ints, pad: Ints, dilation: Ints) -> None:
    """Raises RuntimeError for a stride, padding, dilation or size that no convolution has."""
    rank = len(size)
    for name, value in (("stride", stride), ("padding", pad), ("dilation", dilation)):
        if len(value) != rank:
            raise RuntimeError(f"expected {name} to be a list of {rank} values, but got {list(value)}")
    if any(s < 1 for s in stride):
        raise RuntimeError(f"non-positive stride is not supported, but got {list(stride)}")
    if any(p < 0 for p in pad):
        raise RuntimeError(f"negative padding is not supported, but got {list(pad)}")
    if any(d < 1 for d in dilation):
        raise RuntimeError(f"dilation should be greater than zero, but got {list(dilation)}")
    if any(holds(s < 0) for s in size):
        raise RuntimeError(f"expected sizes of at least 0, but got {list(size)}")


@dataclass(frozen=True)
class ConvProblem:
    """One face of one convolution: everything that decides which kernel computes it, and how fast it could be.

    Attributes:
        face: "fprop", "dgrad" or "wgrad".
        n, c, k, groups: batch, channels of x, channels of y, groups.
        input, kernel, output: spatial sizes of x, w and y.
        stride, pad, dilation: one value for each axis; `pad` is the zeros before the axis.
        dtype: of both operands and of the result.
        channels_last: the result's memory format: channels innermost (NLC, NHWC, NDHWC), else outermost.
        device: "cpu", "cuda", ...
        arch: compute capability times ten on CUDA (90 for Hopper), else 0.
        precision: how float32 products are formed: "ieee", "tf32" or "tf32x3".
    """

    face: Face
    n: int
    c: int
    k: int
    groups: int
    input: tuple[int, ...]
    kernel: tuple[int, ...]
    output: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]
    dtype: torch.dtype
    channels_last: bool = False
    device: str = "cpu"
    arch: int = 0
    precision: str = "ieee"

    @classmethod
    def of(
        cls,
        face: Face,
        a: Ints,
        b: Ints,
        size: Ints,
        stride: Ints,
        pad: Ints,
        dilation: Ints,
        groups: int,
        dtype: torch.dtype,
        channels_last: bool = False,
        device: str = "cpu",
        arch: int = 0,
        precision: str = "ieee",
    ) -> ConvProblem:
        """The problem that a face's arguments describe: `a`, `b` are its operands' shapes, `size` the open tensor's.

        Raises RuntimeError, with the numbers, where these do not describe a convolution.
        """
        if dtype.is_complex:
            raise RuntimeError(f"{face}: expected real tensors, but got {dtype}")
        result = open_shape(face, a, b, size, groups)
        check_geometry(size, stride, pad, dilation)
        shape = dict(zip((*OPERANDS[face], OPEN[face]), (a, b, result), strict=True))
        x, w, y = (tuple(shape[role]) for role in "xwy")
        return cls(
            face, x[0], x[1], y[1], groups, x[2:], w[2:], y[2:], tuple(stride), tuple(pad), tuple(dilation),
            dtype, channels_last, device, arch, precision,
        )  # fmt: skip

    @property
    def rank(self) -> int:
        """Number of spatial axes: 1, 2 or 3."""
        return len(self.input)

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (self.n, self.c, *self.input)

    @property
    def w_shape(self) -> tuple[int, ...]:
        return (self.k, self.c // self.groups, *self.kernel)

    @property
    def y_shape(self) -> tuple[int, ...]:
        return (self.n, self.k, *self.output)

    def shape(self, role: str) -> tuple[int, ...]:
        """Shape of "x", "w" or "y"."""
        return {"x": self.x_shape, "w": self.w_shape, "y": self.y_shape}[role]

    @property
    def open_shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        return self.shape(OPEN[self.face])

    @cached_property
    def taps(self) -> int:
        """Number of kernel positions."""
        return math.prod(self.kernel)

    @cached_property
    def end(self) -> tuple[int, ...]:
        """Zeros read after each axis by the last output; negative where trailing input is never read."""
        return tuple(
            (o - 1) * s + d * (k - 1) + 1 - p - i
            for i, k, o, s, p, d in zip(
                self.input, self.kernel, self.output, self.stride, self.pad, self.dilation, strict=True
            )
        )

    @cached_property
    def symmetric(self) -> bool:
        """Whether torch's own symmetric `padding` gives exactly this output size."""
        return self.output == output_size(self.input, self.kernel, self.stride, self.pad, self.pad, self.dilation)

    @cached_property
    def empty(self) -> bool:
        """Whether a tensor of the problem has no elements, so that nothing is to be multiplied."""
        return 0 in self.x_shape or 0 in self.w_shape or 0 in self.y_shape

    @cached_property
    def flops(self) -> int:
        """Multiplications and additions, 2 for each term of the form, counted as torch counts them."""
        return 2 * self.n * self.k * math.prod(self.output) * (self.c // self.groups) * self.taps

    @cached_property
    def ideal_bytes(self) -> int:
        """Bytes moved when each of the three tensors crosses the memory bus once."""
        return (math.prod(self.x_shape) + math.prod(self.w_shape) + math.prod(self.y_shape)) * self.dtype.itemsize

    @property
    def family(self) -> str:
        """One of "depthwise", "pointwise", "grouped", "dilated" and "dense": which kernels may take it.

        Depthwise is `groups == c`, with any channel multiplier; pointwise is one tap; dilated has a step of more
        than one between the taps of an axis. A transposed convolution is the dgrad of its family.
        """
        if self.groups > 1:
            return "depthwise" if self.groups == self.c else "grouped"
        if self.taps == 1:
            return "pointwise"
        if any(d > 1 and k > 1 for d, k in zip(self.dilation, self.kernel, strict=True)):
            return "dilated"
        return "dense"
