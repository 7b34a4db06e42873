"""Every operator on every geometry."""

from collections.abc import Iterator

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
def deterministic() -> Iterator[None]:
    """cuDNN without the algorithms that sum by atomics: gradcheck wants the same gradient twice, to the bit."""
    with torch.backends.cudnn.flags(deterministic=True):
        yield
