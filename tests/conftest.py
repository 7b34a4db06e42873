"""What every test shares: where it runs, and reproducible numbers.

Without a GPU, Triton's kernels run through Triton's interpreter, which has to be chosen before Triton is imported.
"""

import os
from collections.abc import Iterator
from importlib.util import find_spec

import commits
import hypothesis
import pytest
import torch

import convext

# Virtual machines may list AMX and not grant it; torch 2.13's strided bfloat16 deconvolution then dies (SIGILL).
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_FP16")

torch.set_num_threads(1)  # tensors are tiny, and pytest-xdist's workers share the cores
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the same for the processes that tests start

# A commit is judged on the same examples every time; everywhere else each run draws new ones, and none is ever late.
hypothesis.settings.register_profile("convext", deadline=None, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.load_profile("convext")

collect_ignore = ["emulator"]  # compiles its kernels, where these are interpreted: a process of its own

HAS_CUDA = torch.cuda.is_available()
if not HAS_CUDA:
    os.environ.setdefault("TRITON_INTERPRET", "1")
if os.environ.get("TRITON_INTERPRET") == "1" and find_spec("triton"):
    import interpreter  # noqa: F401


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With CONVEXT_TURNS, of the tests that take turns, which take a minute or more, those of one name alone.

    They come first: one that began last would keep the other workers waiting.
    """
    turns = {item: mark.args[0] for item in items if (mark := item.get_closest_marker("turn"))}
    if not turns or not os.environ.get("CONVEXT_TURNS"):
        return
    names = sorted(set(turns.values()))
    others = [item for item, turn in turns.items() if turn != names[commits.number() % len(names)]]
    config.hook.pytest_deselected(items=others)
    kept = set(items) - set(others)
    items[:] = sorted(filter(kept.__contains__, items), key=lambda item: item not in turns)


@pytest.fixture(scope="session")
def device() -> str:
    """The best device there is: tests that take it run on the GPU where there is one."""
    return "cuda" if HAS_CUDA else "cpu"


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_tf32() -> Iterator[None]:
    """On a GPU torch multiplies float32 in TF32 where cuDNN likes to, and two of its algorithms then differ by 1e-3.

    What is about TF32 asks for it. The older of torch's two settings makes the newer one too, not the other way round:
    where they differ, torch refuses to read the older one, as `torch.backends.cudnn.flags` does. Set below that module,
    which torch's own test utilities, once imported, forbid to be changed.
    """
    before = torch._C._get_cudnn_allow_tf32()
    torch._C._set_cudnn_allow_tf32(False)
    yield
    torch._C._set_cudnn_allow_tf32(before)


@pytest.fixture(params=["auto", "aten"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Under "auto" a call may go to torch or to any kernel, under "aten" through convext's own operators."""
    with convext.backend(request.param):
        yield request.param
