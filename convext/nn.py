"""Drop-in layers: subclasses of torch.nn's six, with the same constructor, parameters, random draws and state_dict.

Beyond torch, `padding` of the convolutions takes (begin, end) for each axis, "same" with a stride, and, in 1-D,
"causal": see `convext.functional`. Our kernels read the input where it lies; torch's operator, and any `padding_mode`
other than zeros, get a padded copy of it, as from torch.

What other tools see of a layer:

    torch.jit.script        torch's own convolution, after a padded copy where torch does not have the padding
    torch.fx                a leaf, as torch.nn's layers are; a subclass of yours is traced through
    eager quantization      torch.nn's layer: a layer that is given a `qconfig` gives itself back first
    graph quantization      a RuntimeError that names the remedy
    print(model)            `convext.Conv2d(..)`, and of a converted layer of your own class `convext.Yours(..)`
"""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor
from torch.jit import is_scripting
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize

from convext import functional as F
from convext.functional.geometry import Size
from convext.functional.padding import Padding, is_torchs, pad_sides, resolve_padding, unknown_word
from convext.functional.whose import is_plainly_torchs

# torch's long signatures are written out here, in functional/ and in layers.py, on purpose: an editor, help() and a
# type checker show what is written, and what is written differs (order, defaults, what a name fixes).

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
Device = torch.device | str | int | None

_ARGUMENTS = {
    "in_channels": "channels of the input, C.",
    "out_channels": "channels of the output, K.",
    "kernel_size": "taps on each axis: one number for all axes, or one each.",
    "stride": "positions from one output to the next, on each axis.",
    "padding": """what is put around the input: a number for all sides; one for each axis; (begin, end) for an axis, as
        in ((1, 2), 0); "valid", nothing; "same", as much as gives ceil(size / stride) outputs; in 1-D "causal", all of
        it before the signal, so that no output sees its future.""",
    "dilation": "positions from one tap to the next, on each axis.",
    "groups": "convolutions side by side, each of C / groups and K / groups channels; divides both.",
    "bias": "whether each channel of the output has a number of its own added, which is learned.",
    "padding_mode": 'what padding consists of: "zeros", "reflect", "replicate" or "circular".',
    "device": "where the parameters are.",
    "dtype": "of what type they are.",
    "output_padding": "positions added at the end of each axis, to say which of `stride` possible sizes is meant.",
    "multiplier": "filters for each channel.",
    "mid_channels": "channels between the layers; those of the output where it is None.",
}
Init = TypeVar("Init", bound=Callable[..., None])


def tells(**of_its_own: str) -> Callable[[Init], Init]:
    """Gives a layer's constructor a text that says what each argument is: from the table, or as given here.

    The signatures are written out, for they differ; what their names mean does not.
    """

    def tell(init: Init) -> Init:
        texts = {**_ARGUMENTS, **of_its_own}
        names = [name for name in inspect.signature(init).parameters if name != "self"]
        lines = [f"    {name}: {texts[name]}" for name in names]
        init.__doc__ = "\n".join(["Args:", *lines, "", "Raises ValueError where these make no layer, as torch.nn's."])
        return init

    return tell


class _DropIn(_ConvNd):
    """What all six share: how they look to tools that know torch.nn's layers by name or by exact type."""

    __jit_unused_properties__ = ("qconfig",)

    _rank: int
    _function: Callable[..., Tensor]  # of convext.functional
    _torchs: Callable[..., Tensor]  # torch's own

    def _get_name(self) -> str:
        """The layer's name in print(model): ours with the package, which torch.nn's lack."""
        name = super()._get_name()
        return f"convext.{name}" if _is_ours(type(self)) or CHANGE in vars(self) else name

    @property
    def qconfig(self) -> Any:
        """What eager quantization (torch.ao.quantization) is to do with this layer; None leaves it in floating point.

        That replaces the layer, and knows torch.nn's by exact type: set to anything but None, the layer becomes
        torch.nn's.

        Raises:
            RuntimeError: set on a layer that torch.nn does not have.
        """
        if "qconfig" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute 'qconfig'")
        return self.__dict__["qconfig"]

    @qconfig.setter
    def qconfig(self, value: Any) -> None:
        if value is not None:
            give_back(self)
        self.__dict__["qconfig"] = value

    @qconfig.deleter
    def qconfig(self) -> None:
        self.__dict__.pop("qconfig", None)

    def _is_leaf_for(self, input: Any) -> bool:
        """Whether torch.fx, tracing this call, records the layer as one node, as it does torch.nn's.

        Not where the layer itself is what is traced, nor in a subclass of yours, whose forward may do more, nor by a
        tracer that looks into layers (`convext.streams.tracing`).

        Raises:
            RuntimeError: traced for quantization.
        """
        if not isinstance(input, torch.fx.Proxy):
            return False
        if type(input.tracer).__module__.startswith("torch.ao."):
            raise RuntimeError(
                "torch.ao.quantization's graph mode looks for torch.nn's own layers: call convext.revert(model) first"
            )
        looks_inside = getattr(input.tracer, "looks_into_layers", False)
        return _is_ours(type(self)) and getattr(input.tracer, "root", self) is not self and not looks_inside

    def _leaf(self, input: Any, *rest: Any) -> Any:
        """The node of a call of this layer."""
        return input.tracer.create_proxy("call_module", input.tracer.path_of_module(self), (input, *rest), {})


def _is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "convext"


class _Convolution(_DropIn):
    """What the three convolutions share, placed before torch's class in their bases."""

    @tells()
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if isinstance(padding, str) and (wrong := unknown_word(padding, self._rank)):
            raise ValueError(wrong)
        ours = not is_torchs(padding, stride, self._rank)
        torchs: Any = super()  # the constructor of torch.nn.Conv1d, Conv2d or Conv3d
        torchs.__init__(
            in_channels, out_channels, kernel_size, stride, 0 if ours else padding,
            dilation, groups, bias, padding_mode, device, dtype,
        )  # fmt: skip
        if ours:
            self.padding: Any = padding if isinstance(padding, str) else _pairs(padding, self._rank)

    def forward(self, input: Tensor) -> Tensor:
        """The convolution of `input`, [N, C, *size] or [C, *size]."""
        if is_scripting():
            return self._scripted(input, self.weight, self.bias)
        else:
            if type(input) is not Tensor and self._is_leaf_for(input):
                return self._leaf(input)
            found: Any = self._parameters.get  # not by `__getattr__`, which takes half a microsecond for each
            weight, bias = found("weight"), found("bias")
            if weight is None:  # a parametrization has it, or a hook
                weight = self.weight
            if bias is None:
                bias = self.bias
            return self._conv_forward(input, weight, bias)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if is_scripting():
            return self._scripted(input, weight, bias)
        else:
            stride, padding, dilation, groups = self.stride, self.padding, self.dilation, self.groups
            if self.padding_mode != "zeros":
                around = self._reversed_padding_repeated_twice
                geometry = (self.kernel_size, stride, dilation)
                input, padding = padded(input, padding, around, self.padding_mode, *geometry), 0
            elif is_plainly_torchs("fprop", input, weight, stride, padding, 0, dilation, groups):
                return self._torchs(input, weight, bias, stride, padding, dilation, groups)
            return self._function(input, weight, bias, stride, padding, dilation, groups)

    def _scripted(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What torch.jit.script compiles: torch's convolution, of a padded copy where torch lacks the padding."""
        rank = len(self.kernel_size)
        stride, dilation = _as_list(self.stride), _as_list(self.dilation)  # type: ignore[arg-type]
        pads = _as_list(self._reversed_padding_repeated_twice)
        zeros = [0] * rank
        padding = zeros
        if isinstance(self.padding, str):
            size = input.shape[input.dim() - rank :]
            pads = _pads_of_word(self.padding, size, _as_list(self.kernel_size), stride, dilation)  # type: ignore[arg-type]
        elif isinstance(self.padding, int):
            pads, padding = (zeros, [self.padding] * rank) if self.padding_mode == "zeros" else (pads, zeros)
        elif isinstance(self.padding[0], int) and self.padding_mode == "zeros":
            pads, padding = zeros, _as_list(self.padding)
        elif not isinstance(self.padding[0], int):
            pads = zeros[:0]
            for begin_and_end in self.padding:  # unrolled, for its length is known
                pads = [begin_and_end[0], begin_and_end[1]] + pads  # noqa: RUF005  TorchScript has no star
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        x = torch.nn.functional.pad(input, pads, mode) if max(pads) > 0 or min(pads) < 0 else input
        unbatched = x.dim() == rank + 1
        if unbatched:
            x = x.unsqueeze(0)
        y = torch.convolution(x, weight, bias, stride, padding, dilation, False, zeros, self.groups)
        return y.squeeze(0) if unbatched else y


def _as_list(values: list[int]) -> list[int]:
    """What TorchScript makes a list of, be it a tuple."""
    return values


def _pads_of_word(word: str, size: list[int], kernel: list[int], stride: list[int], dilation: list[int]) -> list[int]:
    """`resolve_padding` of a word in TorchScript, in the order of `torch.nn.functional.pad`."""
    pads: list[int] = []
    for i in range(len(size) - 1, -1, -1):
        reach, total, begin = dilation[i] * (kernel[i] - 1), 0, 0
        if word == "causal":
            total, begin = reach, reach
        elif word == "same":
            outputs = (size[i] + stride[i] - 1) // stride[i]
            total = max((outputs - 1) * stride[i] + reach + 1 - size[i], 0)
            begin = total // 2
        pads += [begin, total - begin]
    return pads


@torch.fx.wrap
def padded(
    input: Tensor, padding: Any, around: list[int], mode: str,
    kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...],
) -> Tensor:  # fmt: skip
    """A padded copy of `input`, for a padding mode that is not zeros.

    As in torch, `around` (the layer's `_reversed_padding_repeated_twice`) is what counts. A padding that torch does not
    have is resolved here.
    """
    rank = len(kernel)
    if is_torchs(padding, stride, rank) or input.dim() <= rank:
        return torch.nn.functional.pad(input, around, mode)
    pads = padding if isinstance(padding, str) else _pairs(padding, rank)
    return pad_sides(input, resolve_padding(pads, input.shape[-rank:], kernel, stride, dilation), mode)


def _pairs(padding: Any, rank: int) -> tuple[tuple[int, int], ...]:
    """(before, after) for each axis. Raises ValueError where `padding` does not have `rank` axes."""
    pairs = tuple(tuple(p) if isinstance(p, tuple | list) else (p, p) for p in padding)
    if len(pairs) != rank or any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"expected padding to have a number or a (begin, end) for each of {rank} axes, got {padding}")
    return cast("tuple[tuple[int, int], ...]", pairs)


class Conv1d(_Convolution, torch.nn.Conv1d):
    """`torch.nn.Conv1d`: [N, C, L] or [C, L] -> [N, K, O] or [K, O], O = floor((L + pads - d(k-1) - 1) / s) + 1.

    Beyond torch: `padding` takes ((begin, end),), "same" with any stride, and "causal".
    """

    _rank = 1
    _function = staticmethod(F.conv1d)
    _torchs = staticmethod(torch.conv1d)


class Conv2d(_Convolution, torch.nn.Conv2d):
    """`torch.nn.Conv2d`: [N, C, H, W] or [C, H, W] -> [N, K, OH, OW] or [K, OH, OW].

    Beyond torch: `padding` takes ((top, bottom), (left, right)) and "same" with any stride.
    """

    _rank = 2
    _function = staticmethod(F.conv2d)
    _torchs = staticmethod(torch.conv2d)


class Conv3d(_Convolution, torch.nn.Conv3d):
    """`torch.nn.Conv3d`: [N, C, D, H, W] or [C, D, H, W] -> [N, K, OD, OH, OW] or [K, OD, OH, OW].

    Beyond torch: `padding` takes (begin, end) for each axis and "same" with any stride.
    """

    _rank = 3
    _function = staticmethod(F.conv3d)
    _torchs = staticmethod(torch.conv3d)


class _TransposedConvolution(_DropIn, _ConvTransposeNd):
    """What the three transposed convolutions share, placed before torch's class in their bases."""

    @tells(
        in_channels="channels of the input, K.",
        out_channels="channels of the output, C.",
        stride="positions of the output from one input to the next, on each axis.",
        padding="positions cut off both ends of each axis of the output: one number for all axes, or one each.",
        padding_mode='"zeros".',
    )
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        padding_mode: Literal["zeros"] = "zeros",
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        torchs: Any = super()  # the constructor of torch.nn.ConvTranspose1d, 2d or 3d
        torchs.__init__(
            in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation,
            padding_mode, device, dtype,
        )  # fmt: skip

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """The input gradient of a convolution; `output_size` resolves which of `stride` sizes is meant."""
        if is_scripting():
            return self._scripted(input, output_size)
        else:
            rank = self._rank
            if self.padding_mode != "zeros":
                raise ValueError(f"Only `zeros` padding mode is supported for ConvTranspose{rank}d")
            if type(input) is not Tensor and self._is_leaf_for(input):
                return self._leaf(input, output_size)
            found: Any = self._parameters.get  # as for a convolution
            weight, bias = found("weight"), found("bias")
            if weight is None:
                weight = self.weight
            if bias is None:
                bias = self.bias
            stride, padding, dilation, groups = self.stride, self.padding, self.dilation, self.groups
            extra: Any = self.output_padding
            if output_size is not None or type(extra) is not tuple:
                extra = self._output_padding(input, output_size, stride, padding, self.kernel_size, rank, dilation)  # type: ignore[arg-type]
            if is_plainly_torchs("dgrad", input, weight, stride, padding, extra, dilation, groups):
                return self._torchs(input, weight, bias, stride, padding, extra, groups, dilation)
            return self._function(input, weight, bias, stride, padding, tuple(extra), groups, dilation)

    def _scripted(self, input: Tensor, output_size: list[int] | None) -> Tensor:
        """What torch.jit.script compiles: torch's transposed convolution."""
        rank = len(self.kernel_size)
        stride, dilation = _as_list(self.stride), _as_list(self.dilation)  # type: ignore[arg-type]
        padding, kernel = _as_list(self.padding), _as_list(self.kernel_size)  # type: ignore[arg-type]
        extra = self._output_padding(input, output_size, stride, padding, kernel, rank, dilation)
        unbatched = input.dim() == rank + 1
        y = input.unsqueeze(0) if unbatched else input
        x = torch.convolution(y, self.weight, self.bias, stride, padding, dilation, True, extra, self.groups)
        return x.squeeze(0) if unbatched else x


class ConvTranspose1d(_TransposedConvolution, torch.nn.ConvTranspose1d):
    """`torch.nn.ConvTranspose1d`: [N, K, O] -> [N, C, L], L = (O-1)s - 2 pad + d(k-1) + output_padding + 1."""

    _rank = 1
    _function = staticmethod(F.conv_transpose1d)
    _torchs = staticmethod(torch.conv_transpose1d)


class ConvTranspose2d(_TransposedConvolution, torch.nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d`: [N, K, OH, OW] -> [N, C, H, W]."""

    _rank = 2
    _function = staticmethod(F.conv_transpose2d)
    _torchs = staticmethod(torch.conv_transpose2d)


class ConvTranspose3d(_TransposedConvolution, torch.nn.ConvTranspose3d):
    """`torch.nn.ConvTranspose3d`: [N, K, OD, OH, OW] -> [N, C, D, H, W]."""

    _rank = 3
    _function = staticmethod(F.conv_transpose3d)
    _torchs = staticmethod(torch.conv_transpose3d)


OURS: dict[type[torch.nn.Module], type[_DropIn]] = {
    torch.nn.Conv1d: Conv1d,
    torch.nn.Conv2d: Conv2d,
    torch.nn.Conv3d: Conv3d,
    torch.nn.ConvTranspose1d: ConvTranspose1d,
    torch.nn.ConvTranspose2d: ConvTranspose2d,
    torch.nn.ConvTranspose3d: ConvTranspose3d,
}
TORCHS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {ours: torchs for torchs, ours in OURS.items()}


# In the `__dict__` of a layer that `convext.convert` changed: its `Change`. Underscores keep TorchScript away from it.
CHANGE = "__convext_change__"
# In that of a layer that `convext.fuse` moved: where it lies now and where it lay, both seen from the same module.
MOVED = "__convext_moved__"
_ORIGIN = "__convext_origin__"


def drop_in(kind: type[torch.nn.Module]) -> type[torch.nn.Module]:
    """The class that a layer of class `kind` gets where it is converted: `kind` is torch.nn's, or a subclass of it.

        torch.nn.Conv3d              convext.Conv3d
        Yours(torch.nn.Conv3d)       Yours(Yours, convext.Conv3d)

    Names of the second are looked up in Yours, in ours, and in torch.nn's: it is an instance of Yours and keeps all
    that Yours overrides, and what that leaves to torch.nn, also through `super()`, is ours.
    """
    return OURS.get(kind) or _both(cast(Any, kind))


@cache
def _both(kind: Any) -> type[torch.nn.Module]:
    """A subclass of `kind` and of ours; one for all layers of that class."""
    ours = next(OURS[base] for base in kind.__mro__ if base in OURS)

    def reduce(self: Any, protocol: Any) -> Any:
        """Pickles and copies name the class that has a name, of which this one is made anew."""
        make, arguments, *rest = kind.__reduce_ex__(self, protocol)
        return (_drop_in_of, (kind,), *rest) if arguments[0] is both else (make, arguments, *rest)

    own = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    both: type[torch.nn.Module] = type(kind)(kind.__name__, (kind, ours), {**own, "__reduce_ex__": reduce})
    return both


def _drop_in_of(kind: type[torch.nn.Module]) -> torch.nn.Module:
    """An empty layer, for pickle to fill."""
    both: Any = drop_in(kind)
    return cast(torch.nn.Module, both.__new__(both))


def without_parametrizations(kind: type) -> type:
    """The class of which torch.nn.utils.parametrize made `kind` for one layer, or `kind` itself."""
    while kind.__module__ == parametrize.__name__:
        kind = kind.__bases__[0]
    return kind


def with_base(kind: type, old: type, new: type) -> type:
    """`kind` with `old` replaced by `new` among its ancestors: parametrizations and FSDP subclass a layer's class.

    Undone, it is the same class again, unless parametrizations were added or removed in between.
    """
    if kind is old:
        return new
    if old not in kind.__mro__ or kind in TORCHS:
        return kind
    bases = tuple(with_base(base, old, new) for base in kind.__bases__)
    origin = vars(kind).get(_ORIGIN)
    if origin is not None and origin.__bases__ == bases and _own(origin) == _own(kind):
        return cast(type, origin)
    return type(kind)(kind.__name__, bases, {**_own(kind), _ORIGIN: kind})


def _own(kind: type) -> dict[str, Any]:
    return {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__", _ORIGIN)}


def give_back(layer: Any) -> None:
    """Makes one of the six layers torch.nn's, and a converted layer what it was, in place.

    Raises:
        RuntimeError: torch.nn does not have this layer.
    """
    if type(layer) not in TORCHS and CHANGE in vars(layer):
        change = vars(layer)[CHANGE]
        layer.__class__ = with_base(type(layer), change.after, change.before)
        return
    known = layer.transposed or is_torchs(layer.padding, layer.stride, layer._rank)
    if type(layer) not in TORCHS or not known:
        raise RuntimeError(
            f"eager quantization replaces torch.nn's own layers, and {layer} is none: set its qconfig to None, and it "
            "stays in floating point"
        )
    layer.__class__ = TORCHS[type(layer)]
