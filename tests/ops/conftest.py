"""Every operator on every geometry."""

import pytest
from geometries import GEOMETRIES, Geometry

from convext.problem import FACES, Face


@pytest.fixture(params=GEOMETRIES, ids=lambda geometry: geometry.name)
def geometry(request: pytest.FixtureRequest) -> Geometry:
    return request.param


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> Face:
    return request.param
