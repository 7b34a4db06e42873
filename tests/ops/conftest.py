"""Every operator on every geometry."""

import pytest
import torch
from geometries import GEOMETRIES, Geometry

from convext.problem import FACES, Face


@pytest.fixture(params=GEOMETRIES, ids=lambda geometry: geometry.name)
def geometry(request: pytest.FixtureRequest) -> Geometry:
    return request.param


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> Face:
    return request.param


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN without the algorithms that sum by atomics: gradcheck wants the same gradient twice, to the bit."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
