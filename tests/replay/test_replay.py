"""What is written down of a run, and what is not: a tape that is not whole is no replay."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from convext.problem import ConvProblem
from convext.replay.launches import Slot
from convext.replay.replay import Allocate, Operate, Replay
from convext.replay.tape import record
from convext.triton_kernels import bound
from convext.triton_kernels.passes.reduce import add_in_order
from convext.triton_kernels.pointwise import record as pointwise


def add(a, b, bias):
    """The sum over the rows of `a`, by a launch."""
    result = a.new_empty(a.shape[1])
    add_in_order(a, result)
    return result


def copied(a, b, bias):
    result = torch.empty(b.shape[::-1], dtype=b.dtype, device=b.device)
    return result.copy_(b.t())


def unread(a, b, bias):
    result = torch.empty(a.shape[1], dtype=a.dtype, device=a.device)
    b.t()[1:]
    torch.empty(1000, device=a.device)
    add_in_order(a, result)
    return result


@pytest.mark.parametrize("run", [add, copied, unread])
def test_a_run_is_repeated_on_other_tensors(run, device):
    first = torch.randn(5, 7, device=device), torch.randn(3, 4, device=device), None
    result, replay = record(run, *first)
    torch.testing.assert_close(result, run(*first), rtol=0, atol=0)
    other = torch.randn(5, 7, device=device), torch.randn(3, 4, device=device), None
    expected = other[1].t() if run is copied else other[0].sum(0)
    torch.testing.assert_close(replay(*other), expected)
    assert replay(*other) is not replay(*other)


def test_what_nobody_reads_is_not_repeated(device):
    operands = torch.randn(5, 7, device=device), torch.randn(3, 4, device=device), None
    plain, full = (record(run, *operands)[1] for run in (add, unread))
    assert len(plain._steps) == len(full._steps)


CONSTANT = torch.ones(7)
NOT_REPEATED = {
    "arithmetic by torch": lambda a, b, bias: a + b,
    "values decide": lambda a, b, bias: a.new_empty(3).copy_(b) if a.sum() > 0 else b.new_empty(3),
    "an operand comes back": lambda a, b, bias: a,
    "a tensor from elsewhere": lambda a, b, bias: a.new_empty(7).copy_(CONSTANT),
    "no tensor of the run": lambda a, b, bias: CONSTANT,
}


@pytest.mark.parametrize("what", NOT_REPEATED)
def test_what_may_differ_next_time_is_not_repeated(what):
    a, b = torch.randn(3), torch.randn(3)
    result, replay = record(NOT_REPEATED[what], a, b, None)
    assert isinstance(result, torch.Tensor)
    assert replay is None


def test_several_results(device):
    """As gradients are: one of them may not be wanted."""

    def run(a, b, bias):
        return add(a, b, bias), None, a.sum((0,))

    _, replay = record(run, torch.randn(5, 7, device=device), torch.randn(1, device=device), None)
    a = torch.randn(5, 7, device=device)
    first, second, third = replay(a, torch.randn(1, device=device), None)
    assert second is None
    torch.testing.assert_close((first, third), (a.sum(0), a.sum(0)))


def test_what_launches_alone_read_is_one_piece_of_memory():
    """Written out, temporaries are addresses in it, apart. What an operator of torch reads is a tensor all the same."""
    called = []

    class Step:
        reads, wants_tensors = (0, 1, 2, 3), False

        def __call__(self, slots):
            raise AssertionError("could be made directly")

        def line(self, names):
            return f"{names.of(lambda *begins: called.append(begins))}({', '.join(map(names.address, self.reads))})"

        @staticmethod
        def opener(steps):
            return lambda device: "a stream"

    sizes, dtypes = (3, 1000, 5), (torch.float32, torch.float64, torch.float16)
    likes = [torch.empty(size, dtype=dtype) for size, dtype in zip(sizes, dtypes, strict=True)]
    fill = Operate(None, torch.ops.aten.zero_.default, (Slot(4),), {})
    steps = [*(Allocate(i + 1, like) for i, like in enumerate(likes)), Allocate(4, torch.empty(2)), Step(), fill]
    operand = torch.zeros(1)
    result, zeros = Replay(steps, operands=1, slots=5, results=(3, 4))(operand)
    ((a, first, second, third),) = called
    assert a == operand.data_ptr()
    assert second - first == 512
    assert third == result.data_ptr()
    assert not first <= third < second + 8000
    assert (result.shape, result.dtype) == ((5,), torch.float16)
    assert zeros.tolist() == [0, 0]


def test_launches_of_two_kinds_are_made_in_the_ordinary_way():
    """None of them knows when the other may be made directly."""
    made = []

    def kind(name):
        class Step:
            reads = ()

            def __call__(self, slots):
                made.append(name)

            def line(self, names):
                raise AssertionError("not asked whether it may")

            @staticmethod
            def opener(steps):
                return lambda device: "a stream"

        return Step()

    Replay([kind("first"), kind("second")], operands=1, slots=1, results=0)(torch.zeros(1))
    assert made == ["first", "second"]


def test_a_launch_on_a_tensor_from_elsewhere_is_not_repeated(device):
    elsewhere = torch.randn(5, 7, device=device)

    def run(a, b, bias):
        result = a.new_empty(7)
        add_in_order(elsewhere, result)
        return result

    assert record(run, torch.randn(5, 7, device=device), torch.randn(1, device=device), None)[1] is None


def test_one_tensor_for_two_operands_is_not_repeated(device):
    """The next call may have two, and which was meant where cannot be told."""
    a = torch.randn(3, 4, device=device)
    assert record(copied, a, a, None)[1] is None


def test_launches_of_other_threads_are_not_noted(device):
    from concurrent.futures import ThreadPoolExecutor

    def run(a, b, bias):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(add_in_order, b, torch.empty(4, device=device)).result()
        return add(a, b, bias)

    _, replay = record(run, torch.randn(5, 7, device=device), torch.randn(3, 4, device=device), None)
    assert len(replay._steps) == 2


def test_a_view_of_the_result_is_written(device):
    """A strided input gradient of one tap: its kernel writes a view, and the rest is filled."""
    shapes = (2, 16, 3, 2), (16, 5, 1, 1)
    geometry = (7, 6), (3, 3), (0, 0), (1, 1), 1, torch.float32, False, device, 0
    problem = ConvProblem.of("dgrad", *shapes, *geometry)
    _, replay = record(partial(pointwise.run, problem), *(torch.randn(shape, device=device) for shape in shapes), None)
    y, w = (torch.randn(shape, device=device) for shape in shapes)
    expected = torch.nn.functional.conv_transpose2d(y, w, stride=3)
    found = replay(y, w, None)
    torch.testing.assert_close(found[:, :, : expected.shape[2], : expected.shape[3]], expected)
    assert not found[:, :, expected.shape[2] :].any()
    assert not found[:, :, :, expected.shape[3] :].any()


@pytest.mark.parametrize("current", [0, 1])
def test_the_stream_is_of_the_tensors_device(current, monkeypatch):
    """Whatever device was current when the run was written down, and is now."""
    entered, streams = [], []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current)

    class Step:
        reads = ()

        def line(self, names):
            return f"{names.of(streams.append)}(stream)"

        @staticmethod
        def opener(steps):
            return lambda device: f"stream of {device}"

    class Device:
        def __init__(self, index):
            self.index = index

        def __enter__(self):
            entered.append(self.index)

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(torch.cuda, "device", Device)
    replay = Replay([Step()], operands=3, slots=4, results=(None,))
    replay(SimpleNamespace(get_device=lambda: 1), None, None)
    assert streams == ["stream of 1"]
    assert entered == ([1] if current == 0 else [])


def test_a_tensor_map_is_encoded_once_for_each_address(monkeypatch):
    """Until there are too many: then the others are forgotten."""
    monkeypatch.setattr(bound, "_MOST_MAPS", 2)
    encoded = []

    def encode(descriptors):
        encoded.append(descriptors[0].base.data_ptr())
        return [(descriptors[0].base.data_ptr(), descriptors[0].shape)]

    tensor_map = bound._Map(bound._Descriptor(1, type("Description", (), {}), {"shape": [3], "base": None}), encode)
    first, second, third = [torch.randn(3) for _ in range(3)]
    for t in (first, second, first, third, first):
        assert tensor_map(t.data_ptr()) == (t.data_ptr(), [3])
    assert encoded == [t.data_ptr() for t in (first, second, third, first)]
