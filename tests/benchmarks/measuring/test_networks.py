"""Whole networks before and after `convert`, on a small one: timed where they agree, refused where they do not."""

import pytest
import torch

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


@pytest.fixture(autouse=True)
def _little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "SIZE", 17)
    monkeypatch.setattr(networks, "SECONDS", 0.0)


def test_a_network_is_timed_forward_and_through_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    lines = networks.compare("small", small, "cpu", torch.float32)
    assert [[cell.text for cell in line[:2]] for line in lines] == [["small", "forward"], ["small", "step"]]
    assert "small: 3 layers converted, 0 left alone" in capsys.readouterr().out
    assert all(line[-1].text.endswith("x") for line in lines)


def test_both_have_the_same_weights_and_only_one_is_converted() -> None:
    built = networks.contenders(small, "cpu", torch.float32)
    assert type(built["torch/cl"][0]) is torch.nn.Conv2d is not type(built["convext/cl"][0])
    assert torch.equal(built["torch/nc"][0].weight, built["convext/cl"][0].weight)
    assert built["convext/cl"][0].weight.is_contiguous(memory_format=torch.channels_last)


def test_a_network_that_says_something_else_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = networks.contenders

    def wrong(*arguments: object) -> dict[str, torch.nn.Module]:
        built = right(*arguments)  # type: ignore[arg-type]
        with torch.no_grad():
            built["convext/cl"][4].bias += 0.01
        return built

    monkeypatch.setattr(networks, "contenders", wrong)
    (line,) = networks.compare("small", small, "cpu", torch.float32)
    assert line[-1].kind == "failed"
    assert "convext/cl differs from torch by 0.01" in line[-1].text


def test_no_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(networks, "builders", dict)
    assert networks.main("cpu") == 1
    assert "pip install torchvision" in capsys.readouterr().out
