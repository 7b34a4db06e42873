"""What convext's layers are worth to a model on this machine: each layer timed by itself, as it runs in the model.

The model runs once on a sample, and each of its convolutions notes what it is called with: shapes, strides, dtypes,
autocast, and the strides of the gradient that comes back. Then each is timed on random tensors that lie in memory as
those did, torch's forward and ours taking turns. Layers that are alike are timed once.

A model in training mode is measured as it trains, forward and backward; one in eval mode as it answers, without a
graph. Parameters, buffers, gradients and the state of the random generators are afterwards what they were.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from convext.measuring.ratios import Ratio, speedup
from convext.measuring.sampling import Plan, clock_of, interleaved
from convext.nn import drop_in, with_base, without_parametrizations

WORTH = 1.02  # the lower end of a layer's interval, to convert it
LAYER = Plan(sample=1e-3, fewest=7, most=25, enough=0.3)
MODEL = Plan(sample=5e-3, fewest=9, most=31, enough=8.0)
TIMES = 3  # that this is done for a whole model which seems to be faster, while that may be chance


@dataclass(frozen=True)
class Gain:
    """How many times as fast as torch's a layer of ours is, or a model with our layers as without.

    Attributes:
        forward: the forward without a graph; None where it was not timed.
        step: forward and backward; None where no gradient is computed.
    """

    forward: Ratio | None
    step: Ratio | None

    @property
    def decisive(self) -> Ratio:
        """What counts: the step where gradients are computed, else the forward."""
        ratio = self.step or self.forward
        assert ratio is not None
        return ratio

    def __str__(self) -> str:
        parts = [("forward", self.forward), ("step", self.step)]
        return ", ".join(f"{name} {ratio}" for name, ratio in parts if ratio is not None)


# ------------------------------------------------------------------------------------------------- what a layer reads


@dataclass(frozen=True)
class _Lie:
    """How a tensor lies in memory."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    requires_grad: bool

    @classmethod
    def of(cls, t: Tensor) -> _Lie:
        return cls(tuple(t.shape), t.stride(), t.dtype, t.device, t.requires_grad)

    def draw(self) -> Tensor:
        """Random numbers that lie so, also where the tensor is part of a larger one, or repeats one row."""
        last = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        whole = torch.randn(max(last, 0) + 1, dtype=self.dtype, device=self.device)
        return whole.as_strided(self.shape, self.strides).requires_grad_(self.requires_grad)


@dataclass
class _Call:
    """One call of a layer: its arguments, tensors as they lie, and autocast's state."""

    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    autocast: tuple[str, torch.dtype, bool]
    gradient: _Lie | None = None  # of the result's gradient, where one came back

    def key(self) -> str:
        return repr((self.arguments, self.keywords, self.autocast, self.gradient))


def _lies(tree: Any) -> Any:
    return pytree.tree_map_only(Tensor, _Lie.of, tree)


def _drawn(tree: Any) -> Any:
    return pytree.tree_map_only(_Lie, _Lie.draw, tree)


@contextmanager
def _noting(layers: Mapping[str, torch.nn.Module]) -> Iterator[dict[str, list[_Call]]]:
    """Notes every call of `layers` for as long as it is open."""
    noted: dict[str, list[_Call]] = {name: [] for name in layers}

    def hook_of(name: str) -> Callable[..., None]:
        def hook(layer: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], result: Tensor) -> None:
            kind = result.device.type
            autocast = (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
            call = _Call(_lies(arguments), _lies(keywords), autocast)
            noted[name].append(call)
            if result.requires_grad:
                result.register_hook(lambda gradient: setattr(call, "gradient", _Lie.of(gradient)))

        return hook

    handles = [layer.register_forward_hook(hook_of(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        yield noted
    finally:
        for handle in handles:
            handle.remove()


# ---------------------------------------------------------------------------------------------------- timing a layer


def _gain(layer: torch.nn.Module, calls: list[_Call]) -> Gain:
    """Times one layer against its twin of ours, on tensors like those of `calls`."""
    contenders = {"torch": layer.forward, "convext": _twin(layer).forward}
    parametrized = torch.nn.utils.parametrize.is_parametrized(layer)  # its weight is computed in each forward
    leaves = layer.parameters() if parametrized else (layer.weight, layer.bias)
    weights = [p for p in leaves if isinstance(p, Tensor) and p.requires_grad]
    operands = [(call, _drawn(call.arguments), _drawn(call.keywords), _drawn(call.gradient)) for call in calls]

    def forward(run: Callable[..., Tensor]) -> None:
        with torch.no_grad():
            for call, arguments, keywords, _ in operands:
                with _autocast(call):
                    run(*arguments, **keywords)

    def step(run: Callable[..., Tensor]) -> None:
        for call, arguments, keywords, gradient in operands:
            with torch.enable_grad(), _autocast(call):
                result = run(*arguments, **keywords)
            if gradient is not None:
                leaves = [t for t in pytree.tree_leaves((arguments, keywords)) if isinstance(t, Tensor)]
                torch.autograd.grad(result, [*(t for t in leaves if t.requires_grad), *weights], gradient)

    def ratio(work: Callable[[Any], None]) -> Ratio:
        clock = clock_of(layer.weight.device)  # type: ignore[arg-type]
        runs = {name: lambda run=run: work(run) for name, run in contenders.items()}  # type: ignore[misc]
        samples = interleaved(runs, clock, LAYER)
        return speedup(samples["torch"], samples["convext"])

    trained = any(call.gradient is not None for call in calls)
    return Gain(ratio(forward), ratio(step) if trained else None)


def _twin(layer: torch.nn.Module) -> torch.nn.Module:
    """A layer of ours that shares all that `layer` holds. (copy.copy refuses a parametrized one.)"""
    before = without_parametrizations(type(layer))
    kind: Any = with_base(type(layer), before, drop_in(before))
    twin: torch.nn.Module = kind.__new__(kind)
    twin.__dict__ = layer.__dict__.copy()
    return twin


def _autocast(call: _Call) -> AbstractContextManager[Any]:
    device, dtype, enabled = call.autocast
    return torch.autocast(device, dtype, enabled)


def _alike(layer: Any, calls: list[_Call]) -> str:
    """Equal for layers that do the same work."""
    parameters = [_Lie.of(p) for p in (layer.weight, layer.bias) if p is not None]
    return repr((type(layer), layer, parameters, [call.key() for call in calls]))


# ---------------------------------------------------------------------------------------------------- timing a model


@dataclass
class Sampled:
    """A model and what it is called with.

    Attributes:
        model: in training mode it is trained on the sample, else asked.
        arguments: of a call.
    """

    model: torch.nn.Module
    arguments: tuple[Any, ...]
    _gradients: list[Tensor] = field(default_factory=list)

    def run(self) -> None:
        """One step in training mode, else one forward. Gradients of parameters stay what they are."""
        wanted = [p for p in self.model.parameters() if p.requires_grad] if self.model.training else []
        if not wanted:
            with torch.no_grad():
                self.model(*self.arguments)
            return
        with torch.enable_grad():
            results = pytree.tree_leaves(self.model(*self.arguments))
        results = [t for t in results if isinstance(t, Tensor) and t.requires_grad]
        if not results:
            raise ValueError("the model is in training mode, but no tensor that it returns has a gradient")
        self._gradients = self._gradients or [torch.randn_like(t) for t in results]
        torch.autograd.grad(results, wanted, self._gradients, allow_unused=True)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Buffers and random generators are afterwards what they were."""
        buffers = [(module, name, t, t.clone()) for module in self.model.modules() for name, t in _buffers(module)]
        devices = {t.device.index or 0 for t in self.model.parameters() if t.is_cuda}
        try:
            with torch.random.fork_rng(devices=sorted(devices)):
                yield
        finally:
            with torch.no_grad():
                for module, name, t, before in buffers:
                    t.copy_(before)
                    module._buffers[name] = t

    def gains(self, layers: Mapping[str, torch.nn.Module]) -> dict[str, Gain]:
        """What each of `layers` gains by being ours; without those that the sample does not reach."""
        with self.kept():
            with _noting(layers) as noted:
                self.run()
            known: dict[str, Gain] = {}
            gains = {}
            for name, calls in noted.items():
                if calls:
                    alike = _alike(layers[name], calls)
                    gains[name] = known[alike] = known.get(alike) or _gain(layers[name], calls)
        return gains

    def gain(self, swap: Callable[[str], object]) -> Gain:
        """What the whole model gains: `swap("torch")` and `swap("convext")` put its layers in before each sample."""
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        torchs: list[float] = []
        ours: list[float] = []
        for _ in range(TIMES):
            with self.kept():
                samples = interleaved({"torch": self.run, "convext": self.run}, clock_of(device), MODEL, swap)
            torchs, ours = torchs + samples["torch"], ours + samples["convext"]
            ratio = speedup(torchs, ours)
            if not ratio.low <= 1 < ratio.value:
                break
        return Gain(None, ratio) if self.model.training else Gain(ratio, None)


def _buffers(module: torch.nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, t) for name, t in module._buffers.items() if t is not None]


# ------------------------------------------------------------------------------------------- ways to the same result


def faster(
    model: torch.nn.Module,
    arguments: tuple[Any, ...],
    layers: Mapping[str, torch.nn.Module],
    ways: Callable[[torch.nn.Module], Mapping[str, Callable[..., Tensor]]],
) -> dict[str, str]:
    """The fastest way through each of `layers`, as `model` calls it; the first one where that is not decided.

    Args:
        arguments: of a call of `model`.
        ways: functions that do what a layer does, by name.

    Returns:
        A name of `ways` for each layer that the call reaches.
    """
    with _noting(layers) as noted, torch.no_grad():
        model(*arguments)
    known: dict[str, str] = {}
    chosen = {}
    for name, calls in noted.items():
        if calls:
            layer = layers[name]
            alike = repr((layer, [_Lie.of(p) for p in layer.parameters()], [call.key() for call in calls]))
            chosen[name] = known[alike] = known.get(alike) or _faster(ways(layer), calls)
    return chosen


def fastest(sampled: Sampled, plans: Iterable[str], follow: Callable[[str], object]) -> str:
    """Under which of `plans` a model runs fastest: `follow` is told which one it is to follow next."""
    device = next((p.device for p in sampled.model.parameters()), torch.device("cpu"))
    samples = interleaved(dict.fromkeys(plans, sampled.run), clock_of(device), MODEL, follow)
    return min(samples, key=lambda plan: statistics.median(samples[plan]))


def _faster(ways: Mapping[str, Callable[..., Tensor]], calls: list[_Call]) -> str:
    first, *others = ways
    operands = [(_drawn(call.arguments), _drawn(call.keywords)) for call in calls]

    def work(way: str) -> Callable[[], object]:
        return lambda: [ways[way](*arguments, **keywords) for arguments, keywords in operands]

    with torch.no_grad():
        samples = interleaved({way: work(way) for way in ways}, clock_of(operands[0][0][0].device), LAYER)
    gains = {way: speedup(samples[first], samples[way]) for way in others}
    return max((way for way in others if gains[way].low >= WORTH), key=lambda way: gains[way].value, default=first)
