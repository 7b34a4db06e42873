"""What was changed in a model, what stays torch's, and why: read from the model as it stands.

The log of what was changed lives with what it describes: each changed module carries its `Change` in its `__dict__`,
so a deepcopy, a pickle, a part or a wrapped part of a converted model has its report, and can be reverted. Measurements
lie there too, that of the whole model in its outermost module. None of it is in the state_dict.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

import torch

from convext.conversion.reasons import is_torchs, must_be_a_module, why_left_alone
from convext.measuring.worth import WORTH, Gain
from convext.nn import CHANGE, drop_in

# The leading underscores also keep TorchScript away from these.
GAIN, WHOLE, _FUSION = "__convext_gain__", "__convext_whole_gain__", "__convext_fusion__"
_SHOWN = 3  # names of a group in a report's text


@dataclass(frozen=True)
class Change:
    """One change of one module.

    Attributes:
        before, after: the module's class; that under its parametrizations, where it has some.
        why: the reason for it.
    """

    before: type[torch.nn.Module]
    why: str

    @property
    def after(self) -> type[torch.nn.Module]:
        """Made from `before`, for a pickle knows no class that was made on the spot."""
        return drop_in(self.before)


@dataclass(frozen=True)
class Fusion:
    """What `convext.fuse` did to a model.

    Attributes:
        model: what it was made from.
        layers: one sentence a convolution: what it took in.
        left_alone: convolutions that took in nothing, and modules that have no graph, by name, with the reason.
    """

    model: torch.nn.Module
    layers: tuple[str, ...]
    left_alone: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{_layers(len(self.layers))} fused, {len(self.left_alone)} left alone", *self.layers]
        return "\n  ".join(lines + [f"{name or 'the model'}: {reason}" for name, reason in self.left_alone.items()])


def keep(model: torch.nn.Module, fusion: Fusion) -> None:
    """Says of `model` that it is fused. Of a graph, a pickle keeps the `__dict__` alone, a deepcopy `meta` alone."""
    model.__dict__[_FUSION] = fusion
    if isinstance(model, torch.fx.GraphModule):
        model.meta[_FUSION] = fusion


def fusion_of(model: torch.nn.Module) -> Fusion | None:
    """What `convext.fuse` did to `model`; None where it was not made by it."""
    fusion: Fusion | None = model.__dict__.get(_FUSION)
    return model.meta.get(_FUSION) if fusion is None and isinstance(model, torch.fx.GraphModule) else fusion


@dataclass(frozen=True)
class Report:
    """What `convert` changed in a model, as it stands now, and what it left alone.

    Attributes:
        changes: (name of the module, the module, its change), in the model's order.
        left_alone: names of convolutions that are not convext's and that `convert` does not swap, and of modules that
            call torch's convolutions themselves, with the reason and what helps.
        torchs: names of the layers that `convert` would swap, and has not been asked to.
        gains: what was measured of layers, by name, where `convert` measured: of those that were left alone as well.
        whole: the same of the whole model; None where it was not measured, or nothing in it was worth converting.
        fusion: what `convext.fuse` did to it; None where it did nothing.
    """

    changes: list[tuple[str, torch.nn.Module, Change]] = field(default_factory=list)
    left_alone: dict[str, str] = field(default_factory=dict)
    torchs: list[str] = field(default_factory=list)
    gains: dict[str, Gain] = field(default_factory=dict)
    whole: Gain | None = None
    fusion: Fusion | None = None

    @property
    def converted(self) -> list[str]:
        """Names of the layers that were swapped."""
        return [name for name, _, _ in self.changes]

    def undo(self) -> NoReturn:
        """Raises RuntimeError: `convext.revert` puts a model back."""
        raise RuntimeError("a report does not hold the model: call convext.revert(model)")

    def __str__(self) -> str:
        if self.fusion is not None:
            return str(self.fusion)
        lines = [f"{_layers(len(self.changes))} converted, {len(self.left_alone)} left alone"]
        if self.torchs:
            lines.append(f"  {_listed(self.torchs)}: torch's: convext.convert(model) swaps them")
        if self.whole is not None:
            lines.append(f"  the whole model, with them and without: {self.whole}")
        lines += [f"  {name}: converted, {self.gains[name]}" for name in self.converted if name in self.gains]
        return "\n".join(lines + list(self._groups()))

    def _groups(self) -> Iterator[str]:
        """One line for all that was left alone for one reason. What was measured differs from layer to layer."""
        groups: dict[str, list[str]] = {}
        for name, reason in self.left_alone.items():
            groups.setdefault(reason.removesuffix(f": {self.gains.get(name)}"), []).append(name)
        for reason, names in groups.items():
            gains = [self.gains[name].decisive.value for name in names if name in self.gains]
            if len(names) == 1:
                reason = self.left_alone[names[0]]
            elif gains:
                reason += f": {min(gains):.2f}x to {max(gains):.2f}x"
            yield f"  {_listed(names)}: {reason}"


def _layers(number: int) -> str:
    return f"{number} layer{'' if number == 1 else 's'}"


def _listed(names: list[str]) -> str:
    shown = ", ".join(name or "the model" for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def report(model: torch.nn.Module) -> Report:
    """What `convert` changed in `model`, as it stands now, and what it leaves alone, with the reason and what helps.

    Raises:
        TypeError: `model` is no module.
    """
    must_be_a_module("report", model)
    said = Report(whole=model.__dict__.get(WHOLE), fusion=fusion_of(model))
    for name, module in model.named_modules():
        change = module.__dict__.get(CHANGE)
        if change is not None and isinstance(module, change.after):
            said.changes.append((name, module, change))
        elif (reason := why_left_alone(module) or _why_not_worth_it(module, model)) is not None:
            said.left_alone[name] = reason
        elif is_torchs(module):
            said.torchs.append(name)
        if (gain := module.__dict__.get(GAIN)) is not None:
            said.gains[name] = gain
    return said


def _why_not_worth_it(module: torch.nn.Module, model: torch.nn.Module) -> str | None:
    """What was measured of a layer that could be swapped, and was not; None where nothing was."""
    if not is_torchs(module) or WHOLE not in model.__dict__:
        return None
    gain = module.__dict__.get(GAIN)
    if gain is None:
        return "not measured: the sample does not reach it"
    if gain.decisive.low < WORTH:
        return f"torch's is as fast: {gain}"
    return f"put back, for the whole model was no faster ({model.__dict__[WHOLE]}): {gain}"
