"""Whole networks before and after `convert`, on a small one: timed where they agree, refused where they do not."""

from typing import Any

import pytest
import torch

import convext
from convext.benchmarks.cases import small_networks
from convext.benchmarks.measuring import networks


def small() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2, padding=1),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 8, 3, padding=1, groups=8),
        torch.nn.Conv2d(8, 4, 1),
        torch.nn.AdaptiveAvgPool2d(1),
    )


NETWORK = networks.Network(small, (3, 17, 17))


@pytest.fixture(autouse=True)
def _little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "SECONDS", {"cpu": 0.0})


def inputs() -> dict[str, torch.Tensor]:
    x = torch.randn(1, *NETWORK.shape)
    return {"nc": x, "cl": x.to(memory_format=torch.channels_last)}


@pytest.fixture
def every_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """`convert` without measuring: what is faster is no matter here."""
    right = convext.convert
    monkeypatch.setattr(convext, "convert", lambda model, sample, measure: right(model))


def test_a_network_is_timed_forward_and_through_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    lines = networks.compare("small", NETWORK, "cpu", torch.float32)
    assert [[cell.text for cell in line[:2]] for line in lines] == [["small", "forward"], ["small", "step"]]
    said = capsys.readouterr().out.splitlines()
    assert [line.rpartition(":")[0] for line in said] == [
        "small, forward, nc", "small, forward, cl", "small, step, nc", "small, step, cl"
    ]  # fmt: skip
    assert all(line[-1].text.endswith("x") for line in lines)


@pytest.mark.usefixtures("every_layer")
def test_a_network_tells_how_many_layers_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = networks.compare("small", NETWORK, "cpu", torch.float32)
    assert [line[4].text for line in lines] == ["3", "3"]
    monkeypatch.setattr(convext, "convert", lambda model, sample, measure: model)
    lines = networks.compare("small", NETWORK, "cpu", torch.float32)
    assert [line[4].text for line in lines] == ["none", "none"]


@pytest.mark.usefixtures("every_layer")
@pytest.mark.parametrize("training", [False, True])
def test_both_have_the_same_weights_and_only_one_is_converted(training: bool) -> None:
    built = networks.contenders(NETWORK, inputs(), training)
    assert type(built["torch/cl"][0]) is torch.nn.Conv2d is not type(built["convext/cl"][0])
    assert torch.equal(built["torch/nc"][0].weight, built["convext/cl"][0].weight)
    assert built["convext/cl"][0].weight.is_contiguous(memory_format=torch.channels_last)
    assert all(network.training is training for network in built.values())
    assert networks.disagreement(built, inputs()) is None
    assert all(network.training is training for network in built.values())


def test_a_network_that_says_something_else_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = networks.contenders

    def wrong(*arguments: Any, **keywords: Any) -> dict[str, torch.nn.Module]:
        built = right(*arguments, **keywords)
        with torch.no_grad():
            built["convext/cl"][4].bias += 0.01
        return built

    monkeypatch.setattr(networks, "contenders", wrong)
    (line,) = networks.compare("small", NETWORK, "cpu", torch.float32)
    assert line[-1].kind == "failed"
    assert "convext/cl differs from torch by 0.01" in line[-1].text


@pytest.mark.parametrize("name", small_networks.NETWORKS)
def test_small_networks_compute_in_every_layout(name: str) -> None:
    network = networks.Network(*small_networks.NETWORKS[name])
    shape = (network.shape[0], *(size // 4 for size in network.shape[1:])) if len(network.shape) > 2 else (32, 256)
    x = torch.randn(2, *shape)
    built = network.build()
    outputs = [built.to(memory_format=form)(x.to(memory_format=form)) for form in network.formats.values()]
    for other in outputs:
        torch.testing.assert_close(other, outputs[0], rtol=1e-3, atol=1e-3)


def test_without_packages_the_small_networks_are_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(networks.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(networks, "compare", lambda name, *rest: [[networks.Cell(name)]])
    monkeypatch.setattr(networks, "show", lambda headers, body, title: print([line[0].text for line in body]))
    assert networks.main("cpu") == 0
    said = capsys.readouterr().out
    assert "pip install torchvision" in said
    assert str(list(small_networks.NETWORKS)) in said


def test_what_one_network_raises_costs_the_others_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def compare(name: str, *rest: Any) -> list[list[networks.Cell]]:
        if name == list(small_networks.NETWORKS)[1]:
            raise ValueError("Expected more than 1 value\nper channel")
        return [[networks.Cell(name)]]

    monkeypatch.setattr(networks.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(networks, "compare", compare)
    monkeypatch.setattr(networks, "show", lambda headers, body, title: print([line[-1].text for line in body]))
    assert networks.main("cpu") == 1
    first, _, *others = small_networks.NETWORKS
    assert str([first, "Expected more than 1 value", *others]) in capsys.readouterr().out


def test_a_network_that_cannot_train_on_one_image_answers_alone() -> None:
    answers = networks.Network(NETWORK.build, NETWORK.shape, trains_on_one=False)
    assert [line[1].text for line in networks.compare("small", answers, "cpu", torch.float32)] == ["forward"]


def test_networks_are_picked_by_words() -> None:
    assert list(networks.named(["volumes", "sequ"])) == ["volumes 5x5x5", "sequences k 4"]
    assert list(networks.named([])) == list(networks.builders())
    assert not networks.named(["no such network"])


def test_under_autocast_every_call_is_a_region_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "builders", lambda: {"small": NETWORK})
    (network,) = networks.named([], "cpu").values()
    built = network.build()
    seen = []
    built.model[0].register_forward_hook(lambda layer, x, y: seen.append(torch.is_autocast_enabled("cpu")))
    output = built(torch.randn(NETWORK.shape)[None])
    assert seen == [True]
    assert not torch.is_autocast_enabled("cpu")
    assert output.dtype is torch.bfloat16
    lines = networks.compare("small", network, "cpu", torch.float32)
    assert [line[1].text for line in lines] == ["forward", "step"]
    assert all(line[-1].kind != "failed" for line in lines)
