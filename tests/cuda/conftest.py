"""The host build of the CUDA kernels, loaded once. CONVEXT_HOST_LIBRARY names one that is already built."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import host_build

from convext.providers.cuda import native


@pytest.fixture(scope="session")
def host_library() -> Path:
    """The host build, through which the CUDA kernels take CPU tensors from here on."""
    if reason := host_build.missing():
        pytest.skip(reason)
    library = Path(os.environ.get("CONVEXT_HOST_LIBRARY") or host_build.build())
    native.load_host_build(library)
    return library
