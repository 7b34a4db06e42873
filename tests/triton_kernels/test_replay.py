"""What is written down of a run, and what is not: a tape that is not whole is no replay."""

from types import SimpleNamespace

import pytest
import torch

from convext.triton_kernels import bound
from convext.triton_kernels import replay as module
from convext.triton_kernels.pointwise import record as pointwise
from convext.triton_kernels.reduce import add_in_order
from convext.triton_kernels.replay import Replay, record


def add(problem, a, b, bias):
    """The sum over the rows of `a`, by a launch."""
    result = a.new_empty(a.shape[1])
    add_in_order(a, result)
    return result


def copied(problem, a, b, bias):
    result = torch.empty(b.shape[::-1], dtype=b.dtype, device=b.device)
    return result.copy_(b.t())


def unread(problem, a, b, bias):
    result = torch.empty(a.shape[1], dtype=a.dtype, device=a.device)
    b.t()[1:]
    torch.empty(1000, device=a.device)
    add_in_order(a, result)
    return result


@pytest.mark.parametrize("run", [add, copied, unread])
def test_a_run_is_repeated_on_other_tensors(run, device):
    first = torch.randn(5, 7, device=device), torch.randn(3, 4, device=device), None
    result, replay = record(run, None, *first)
    torch.testing.assert_close(result, run(None, *first), rtol=0, atol=0)
    other = torch.randn(5, 7, device=device), torch.randn(3, 4, device=device), None
    expected = other[1].t() if run is copied else other[0].sum(0)
    torch.testing.assert_close(replay(*other), expected)
    assert replay(*other) is not replay(*other)


def test_what_nobody_reads_is_not_repeated(device):
    operands = torch.randn(5, 7, device=device), torch.randn(3, 4, device=device), None
    plain, full = (record(run, None, *operands)[1] for run in (add, unread))
    assert len(plain._steps) == len(full._steps)


CONSTANT = torch.ones(7)
NOT_REPEATED = {
    "arithmetic by torch": lambda problem, a, b, bias: a + b,
    "values decide": lambda problem, a, b, bias: a.new_empty(3).copy_(b) if a.sum() > 0 else b.new_empty(3),
    "an operand comes back": lambda problem, a, b, bias: a,
    "a tensor from elsewhere": lambda problem, a, b, bias: a.new_empty(7).copy_(CONSTANT),
    "no tensor of the run": lambda problem, a, b, bias: CONSTANT,
}


@pytest.mark.parametrize("what", NOT_REPEATED)
def test_what_may_differ_next_time_is_not_repeated(what):
    a, b = torch.randn(3), torch.randn(3)
    result, replay = record(NOT_REPEATED[what], None, a, b, None)
    assert isinstance(result, torch.Tensor)
    assert replay is None


def test_a_launch_on_a_tensor_from_elsewhere_is_not_repeated(device):
    elsewhere = torch.randn(5, 7, device=device)

    def run(problem, a, b, bias):
        result = a.new_empty(7)
        add_in_order(elsewhere, result)
        return result

    assert record(run, None, torch.randn(5, 7, device=device), torch.randn(1, device=device), None)[1] is None


def test_one_tensor_for_two_operands_is_not_repeated(device):
    """The next call may have two, and which was meant where cannot be told."""
    a = torch.randn(3, 4, device=device)
    assert record(copied, None, a, a, None)[1] is None


def test_launches_of_other_threads_are_not_noted(device):
    from concurrent.futures import ThreadPoolExecutor

    def run(problem, a, b, bias):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(add_in_order, b, torch.empty(4, device=device)).result()
        return add(problem, a, b, bias)

    _, replay = record(run, None, torch.randn(5, 7, device=device), torch.randn(3, 4, device=device), None)
    assert len(replay._steps) == 2


def test_a_view_of_the_result_is_written(device):
    """A strided input gradient: its kernel writes a view, and the rest is filled."""
    from single_face import Case

    problem = Case("", (7, 6), 2, 5, 16, stride=3, pad=2, trim=1).problem("dgrad", torch.float32, False, device)
    y, w = (torch.randn(problem.shape(role), device=device) for role in "yw")
    _, replay = record(pointwise.run, problem, y, w, None)
    y, w = torch.randn_like(y), torch.randn_like(w)
    expected = torch.nn.functional.conv_transpose2d(y, w, stride=3, padding=2)
    found = replay(y, w, None)
    rows = min(found.shape[2], expected.shape[2]), min(found.shape[3], expected.shape[3])
    torch.testing.assert_close(found[:, :, : rows[0], : rows[1]], expected[:, :, : rows[0], : rows[1]])


@pytest.mark.parametrize("current", [0, 1])
def test_the_stream_is_of_the_tensors_device(current, monkeypatch):
    """Whatever device was current when the run was written down, and is now."""
    entered, streams = [], []
    driver = SimpleNamespace(get_current_stream=lambda device: f"stream of {device}")
    monkeypatch.setattr(module, "driver", SimpleNamespace(active=driver))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current)

    class Device:
        def __init__(self, index):
            self.index = index

        def __enter__(self):
            entered.append(self.index)

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(torch.cuda, "device", Device)
    replay = Replay([lambda slots, stream: streams.append(stream)], 4, 3)
    replay._driver = driver
    replay(SimpleNamespace(device=torch.device("cuda", 1)), None, None)
    assert streams == ["stream of 1"]
    assert entered == ([1] if current == 0 else [])


def test_a_tensor_map_is_encoded_once_for_each_address(monkeypatch):
    """Until there are too many: then the others are forgotten."""
    monkeypatch.setattr(bound, "_MOST_MAPS", 2)
    encoded = []

    def encode(descriptors):
        encoded.append(descriptors[0].base)
        return [(descriptors[0].base.data_ptr(), descriptors[0].shape)]

    tensor_map = bound._Map(bound._Descriptor(1, type("Description", (), {}), {"shape": [3], "base": None}), encode)
    first, second, third = tensors = [torch.randn(3) for _ in range(3)]
    for t in (first, second, first, third, first):
        assert tensor_map([None, t]) == (t.data_ptr(), [3])
    assert [next(i for i, t in enumerate(tensors) if t is e) for e in encoded] == [0, 1, 2, 0]
