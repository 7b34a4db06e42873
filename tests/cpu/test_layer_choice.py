"""Layers under "auto": faces measured to be faster are ours in plain eager code, and torch's everywhere else."""

import pytest
import torch
from torch.overrides import TorchFunctionMode

import convext
from convext import functional
from convext.choice import cpu_table, registry, remembered
from convext.functional import whose
from convext.providers.cpu import grouped, stencil

KINDS = ["Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]


@pytest.fixture
def measured(monkeypatch):
    """A table by which our depthwise kernel wins the faces in the set, and the faces that it then computes."""
    faces, ran = set(), []
    run = stencil.run
    monkeypatch.setattr(stencil, "run", lambda problem, *rest: (ran.append(problem.face), run(problem, *rest))[1])
    monkeypatch.setattr(
        cpu_table, "fastest", lambda problem, threads: (("cpu.stencil", ()),) if problem.face in faces else ()
    )
    remembered.forget()
    yield faces, ran
    remembered.forget()


def layers(kind):
    """Ours and torch's, of the same weights, and an input that is large enough to be asked about."""
    rank = int(kind[-2])
    shape = (4, 64, *{1: (8192,), 2: (64, 64), 3: (16, 16, 16)}[rank])
    ours = getattr(convext, kind)(64, 64, 3, padding=1, groups=64)
    theirs = getattr(torch.nn, kind)(64, 64, 3, padding=1, groups=64)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs, torch.randn(shape)


def step(layer, x):
    x = x.detach().requires_grad_()
    y = layer(x)
    return y, *torch.autograd.grad(y, [x, *layer.parameters()], torch.ones_like(y))


@pytest.mark.skipif(registry.library.unavailable() is not None, reason="the CPU kernels are not built")
@pytest.mark.parametrize("face", ["fprop", "dgrad", "wgrad"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_faces_that_win(kind, face, measured):
    faces, ran = measured
    faces.add(face)
    ours, theirs, x = layers(kind)
    for actual, expected in zip(step(ours, x), step(theirs, x), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-3)
    assert ran == [face]
    ran.clear()
    with torch.no_grad():
        ours(x)
    assert ran == ([face] if face == ("dgrad" if "Transpose" in kind else "fprop") else [])


@pytest.mark.skipif(registry.library.unavailable() is not None, reason="the CPU kernels are not built")
@pytest.mark.parametrize(("kind", "images", "asked"), [
    ("Conv3d", 1, True), ("ConvTranspose3d", 1, True), ("Conv3d", 2, False), ("Conv2d", 1, False)
])  # fmt: skip
def test_of_undilated_layers_of_one_group_volumes_of_one_image_are_asked_about(kind, images, asked, monkeypatch):
    ran = []
    run = grouped.run
    monkeypatch.setattr(grouped, "run", lambda problem, *rest: (ran.append(problem.face), run(problem, *rest))[1])
    monkeypatch.setattr(cpu_table, "fastest", lambda problem, threads: (("cpu.grouped", ()),))
    remembered.forget()
    ours = getattr(convext, kind)(8, 8, 3, padding=1)
    theirs = getattr(torch.nn, kind)(8, 8, 3, padding=1)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(images, 8, *[24] * int(kind[-2]))
    for actual, expected in zip(step(ours, x), step(theirs, x), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-2)
    assert set(ran) == ({"fprop", "dgrad", "wgrad"} if asked else set())
    remembered.forget()


ELSEWHERE = {
    "compile": lambda layer, x: torch.compile(layer, backend="eager")(x),
    "vmap": lambda layer, x: torch.vmap(layer)(x[:, None]),
    "small": lambda layer, x: layer(x[:1, :, :16, :16]),
    "unbatched": lambda layer, x: layer(x.reshape(64, 128, 128)),
    "trace": lambda layer, x: torch.jit.trace(layer, x, check_trace=False)(x),
}


@pytest.mark.parametrize("where", ELSEWHERE)
def test_torch_everywhere_else(where, measured):
    faces, ran = measured
    faces |= {"fprop", "dgrad", "wgrad"}
    ours, theirs, x = layers("Conv2d")
    actual, expected = ELSEWHERE[where](ours, x), ELSEWHERE[where](theirs, x)
    torch.testing.assert_close(actual, expected)
    assert not ran


@pytest.mark.skipif(registry.library.unavailable() is not None, reason="the CPU kernels are not built")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_is_the_call_of_what_operands_are_cast_to(dtype, kind, measured):
    """Values of the cast operands in float64; gradients come back in float32, as torch's do."""
    faces, ran = measured
    faces |= {"fprop", "dgrad", "wgrad"}
    ours, theirs, x = layers(kind)
    theirs = theirs.to(dtype).double()  # what ours is cast to, exactly
    with torch.autocast("cpu", dtype):
        actual = step(ours, x)
    assert set(ran) == faces
    assert [t.dtype for t in actual] == [dtype, *[torch.float32] * 3]
    _, *of_sums = step(theirs, x.abs().to(dtype).double())
    expected = step(theirs, x.to(dtype).double())
    eps = torch.finfo(dtype).eps
    for result, exact, largest in zip(actual, expected, [expected[0].abs() + 1, *of_sums], strict=True):
        assert ((result.double() - exact).abs() <= eps * exact.abs() + 1e-5 * largest.abs()).all()


@pytest.mark.skipif(registry.library.unavailable() is not None, reason="the CPU kernels are not built")
def test_a_region_of_autocast_casts_a_weight_once(measured):
    faces, ran = measured
    faces |= {"fprop", "dgrad", "wgrad"}
    ours, _, x = layers("Conv2d")
    with torch.autocast("cpu", torch.bfloat16):
        first, second = ours(x), ours(x)
        with torch.autocast("cpu", enabled=False):
            assert ours(x).dtype is torch.float32
    casts = [y.grad_fn.next_functions[1][0] for y in (first, second)]  # of x and its cast there is nothing to derive
    assert casts[0] is casts[1] is not None
    assert len(ran) == 3


class Seen(TorchFunctionMode):
    """Notes the convolutions and casts that are asked for."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.names += [func.__name__] if func.__name__ in ("conv2d", "to") else []
        return func(*args, **(kwargs or {}))


def test_under_autocast_and_a_mode_the_call_and_its_casts_are_torchs(measured):
    faces, ran = measured
    faces |= {"fprop", "dgrad", "wgrad"}
    ours, theirs, x = layers("Conv2d")
    seen = []
    for layer in (ours, theirs):
        with torch.autocast("cpu", torch.bfloat16), Seen() as mode:
            layer(x)
        seen.append(mode.names)
    assert seen == [["conv2d"], ["conv2d"]]
    assert not ran


def test_torch_where_no_face_wins(measured):
    ours, theirs, x = layers("Conv2d")
    assert ours(x).grad_fn.name() == theirs(x).grad_fn.name() == "ConvolutionBackward0"


@pytest.mark.parametrize("which", [0, 1], ids=["input", "weight"])
def test_one_operand_in_channels_last_is_enough(which, monkeypatch):
    asked = []
    monkeypatch.setattr(registry, "cpu_gains", lambda problem: asked.append(problem.channels_last) or {})
    whose._measured_gains.cache_clear()
    operands = [torch.randn(2, 256, 56, 56), torch.randn(256, 2, 3, 3)]
    functional.conv2d(*operands, groups=128)
    operands[which] = operands[which].to(memory_format=torch.channels_last)
    functional.conv2d(*operands, groups=128)
    whose._measured_gains.cache_clear()
    assert asked == [False, True]


def test_nobody_asks_about_one_group(measured, monkeypatch):
    monkeypatch.setattr(registry, "cpu_gains", lambda problem: pytest.fail("asked"))
    convext.Conv2d(64, 64, 3)(torch.randn(1, 64, 64, 64))


@pytest.mark.parametrize("kind", ["Conv2d", "ConvTranspose2d"])
@pytest.mark.parametrize(("dtype", "dilation"), [(torch.bfloat16, 1), (torch.float32, 2)], ids=str)
def test_but_for_what_torch_is_slow_at(kind, dtype, dilation, monkeypatch):
    """bfloat16 where oneDNN has none, and taps that lie far apart."""
    asked = []
    monkeypatch.setattr(registry, "cpu_gains", lambda problem: asked.append(problem.dilation) or {})
    whose._measured_gains.cache_clear()
    layer = getattr(convext, kind)(64, 64, 3, dilation=dilation, dtype=dtype)
    layer(torch.randn(1, 64, 16, 16, dtype=dtype))
    whose._measured_gains.cache_clear()
    assert asked == [(dilation, dilation)]


# What each face saves, in microseconds; and whether that is worth the way, 60 in a forward alone and 210 with a
# gradient: without any, with that by the weight, and with both.
WORTH = [
    ({"wgrad": 205.0}, (False, False, False)),
    ({"wgrad": 215.0}, (False, True, True)),
    ({"fprop": 55.0, "dgrad": 150.0}, (False, False, False)),
    ({"fprop": 65.0, "dgrad": 150.0}, (True, False, True)),
    ({"fprop": 65.0}, (True, False, False)),
    ({"fprop": 40.0, "dgrad": 100.0, "wgrad": 100.0}, (False, False, True)),
]
OTHER = {"fprop": "dgrad", "dgrad": "fprop", "wgrad": "wgrad"}  # a transposed layer's forward is a dgrad


@pytest.mark.skipif(registry.library.unavailable() is not None, reason="the CPU kernels are not built")
@pytest.mark.parametrize("kind", ["Conv2d", "ConvTranspose2d"])
@pytest.mark.parametrize(("saved", "expected"), WORTH)
def test_what_is_saved_has_to_be_more_than_the_way(saved, expected, kind, measured, monkeypatch):
    faces, ran = measured
    faces |= set(OTHER)
    of_faces = {OTHER[face] if "Transpose" in kind else face: us for face, us in saved.items()}
    monkeypatch.setattr(registry, "cpu_gains", lambda problem: of_faces)
    ours, _, x = layers(kind)
    found = []
    for by_weight, by_input in ((False, False), (True, False), (True, True)):
        ran.clear()
        with torch.set_grad_enabled(by_weight):
            ours(x.detach().requires_grad_(by_input))
        found.append(bool(ran))
    assert tuple(found) == expected


@pytest.mark.skipif(registry.library.unavailable() is not None, reason="the CPU kernels are not built")
@pytest.mark.parametrize(("saved", "expected"), [(115.0, []), (125.0, ["fprop"])])
def test_what_is_saved_under_autocast_has_to_be_more_by_what_casting_costs(saved, expected, measured, monkeypatch):
    faces, ran = measured
    faces.add("fprop")
    monkeypatch.setattr(registry, "cpu_gains", lambda problem: {"fprop": saved} if problem.dtype.itemsize == 2 else {})
    ours, _, x = layers("Conv2d")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        ours(x)
    assert ran == expected


@pytest.mark.skipif(registry.library.unavailable() is not None, reason="the CPU kernels are not built")
@pytest.mark.parametrize("kind", KINDS)
def test_without_bias(kind, measured):
    faces, ran = measured
    faces |= {"fprop", "dgrad"}
    ours, theirs, x = layers(kind)
    ours.bias = theirs.bias = None
    torch.testing.assert_close(ours(x), theirs(x))
    assert ran == ["dgrad" if "Transpose" in kind else "fprop"]


@pytest.mark.parametrize("shape", [(63,), (65,), (64, 1)], ids=str)
def test_a_bias_that_does_not_fit(shape, measured):
    faces, _ = measured
    faces.add("fprop")
    _, theirs, x = layers("Conv2d")
    arguments = x, theirs.weight, torch.zeros(shape), 1, 1, 1, 64
    with pytest.raises(RuntimeError) as expected:
        torch.nn.functional.conv2d(*arguments)
    with pytest.raises(RuntimeError) as caught:
        convext.functional.conv2d(*arguments)
    assert str(caught.value) == str(expected.value)
