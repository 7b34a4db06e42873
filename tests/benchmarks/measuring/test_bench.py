"""The benchmark from end to end on tiny layers: the gate, the results file, comparison, report and Ctrl-C."""

import dataclasses
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from convext.__main__ import main
from convext.benchmarks import cli
from convext.benchmarks.cases.case import LAYOUTS, WORK, Case, Work, ordered
from convext.benchmarks.cases.layers import Layer, anchor_layers, model_layers
from convext.benchmarks.first_light import warm
from convext.benchmarks.measuring import measure as measuring
from convext.benchmarks.measuring import providers, runner, timing
from convext.benchmarks.measuring.gate import Gate
from convext.benchmarks.measuring.measure import blank, measure
from convext.benchmarks.reporting import compare, report, table
from convext.benchmarks.reporting.results import Results, Row, Writer
from convext.choice import registry, remembered
from convext.choice.registry import Kernel
from convext.functional import whose
from convext.problem import FACES
from convext.problem.roofline import H100
from convext.providers import aten


def tiny(id: str, flops: float = 1e5) -> Layer:
    """A layer of the tables, with its channels cut too."""
    layer = next(layer for layer in model_layers() + anchor_layers() if layer.id == id)
    return layer.fit(flops, 2e4)


def layers() -> list[Layer]:
    """Small layers of every kind: asymmetric, transposed, grouped transposed, 1-D to 3-D, with and without bias."""
    base = tiny("2080")  # transposed 2-D
    ones, zeros = (1, 1, 1), (0, 0, 0)
    conv = {"begin": (1, 1), "end": (1, 1), "dilation": (1, 1), "output_padding": (0, 0), "transposed": False}
    return [
        Layer("a", "depthwise", "depthwise", (3, 4, 9, 7), (4, 1, 3, 3), stride=(2, 1), groups=4, bias=True, **conv),
        Layer("b", "causal", "dilated", (2, 4, 16), (6, 4, 2), (1,), (4,), (0,), (4,), (0,), 1, False, bias=True),
        Layer("c", "volume", "dense", (1, 2, 5, 4, 5), (3, 2, 2, 2, 2), ones, zeros, zeros, ones, zeros, 1, False),
        Layer(
            "d", "up", "transposed", (5, 4, 5, 4), (4, 2, 4, 3), (2, 3), (1, 0), (1, 0), (1, 1), (1, 0), 2, True, True
        ),
        dataclasses.replace(base, input=(2, 8, 5, 5), weight=(8, 3, 4, 4), cut="channels"),
    ]  # fmt: skip


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("layer", layers(), ids=lambda layer: layer.name.split()[0])
def test_every_contender_agrees_and_is_timed(layer: Layer, work: str) -> None:
    case = Case(layer, work, torch.float32, "cpu")
    row = measure(case, H100, 0.0)
    ours = {
        f"{name}/{layout}"
        for layout in LAYOUTS
        for name in (["convext"] if work == "step" else [kernel.name for kernel in providers.kernels(case, layout)])
    }
    assert not row.failures
    assert set(row.times) == {f"torch.eager/{layout}" for layout in LAYOUTS} | ours
    assert set(row.ratios) == ours
    assert work == "step" or {f"aten.convolution/{layout}" for layout in LAYOUTS} <= ours
    assert row.baseline.startswith("torch.eager")
    assert row.ideal == pytest.approx(1e6 * case.ideal_seconds(H100), abs=1e-3)
    for median, p20, p80 in row.times.values():
        assert 0 < p20 <= median <= p80


@pytest.mark.parametrize("work", ["dgrad", "wgrad"])
def test_gradients_of_a_layer_that_stays_torchs_are_torchs(monkeypatch: pytest.MonkeyPatch, work: Work) -> None:
    grouped, _, dense, *_ = layers()
    monkeypatch.setattr(providers, "convolve", None)  # what calls a kernel by name
    monkeypatch.setattr(whose, "gains_of", lambda problem: {"wgrad": 9.0} if problem.groups > 1 else {})
    case = Case(dense, work, torch.float32, "cpu")
    providers._kernel_call(case, registry.ATEN, "nc")(case.draw())
    mixed = Case(grouped, work, torch.float32, "cpu")  # one face is ours: ATEN's answer to another goes by our operator
    with pytest.raises(TypeError):
        providers._kernel_call(mixed, registry.ATEN, "nc")(mixed.draw())


def planted(monkeypatch: pytest.MonkeyPatch, fault: str) -> list[str]:
    """Makes a wrong kernel the only one of ours; the list fills with the calls that it gets."""
    calls: list[str] = []

    def run(problem, a, b, bias):  # type: ignore[no-untyped-def]
        calls.append(problem.face)
        result = aten.run(problem, a, b, bias).clone()
        if fault == "raises":
            raise RuntimeError("no such tile\nand a trace")
        if fault == "last element":
            result[(-1,) * result.dim()] += 0.01 * result.abs().max()
        if fault == "nan":
            result[(-1,) * result.dim()] = math.nan
        return result[:, :-1] if fault == "shape" else result

    kernel = Kernel("triton.planted", FACES, lambda problem: None, run)
    monkeypatch.setattr(providers, "kernels", lambda case, layout: [kernel])
    monkeypatch.setattr(providers, "choose", lambda problem: kernel)
    monkeypatch.setattr(providers, "is_ours", lambda case, layout: True)
    monkeypatch.setattr(registry, "KERNELS", [kernel, registry.ATEN])
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    remembered.forget()  # which remembers the kernel that was planted before under this name
    return calls


@pytest.mark.parametrize("work", FACES)
@pytest.mark.parametrize("fault", ["last element", "nan", "shape", "raises"])
def test_a_wrong_kernel_is_never_timed(monkeypatch: pytest.MonkeyPatch, fault: str, work: str) -> None:
    calls = planted(monkeypatch, fault)
    timed: list[str] = []
    real = timing.interleaved
    monkeypatch.setattr(timing, "interleaved", lambda calls, *rest: timed.extend(calls) or real(calls, *rest))
    row = measure(Case(layers()[0], work, torch.float32, "cpu"), H100, 0.0)
    assert len(calls) == len(LAYOUTS)  # once in each layout, for the gate
    assert sorted(timed) == ["torch.eager/cl", "torch.eager/nc"]
    assert sorted(row.failures) == ["triton.planted/cl", "triton.planted/nc"]
    assert "triton.planted/nc" not in row.times
    word = {"raises": "RuntimeError: no such tile", "shape": "shape", "nan": "nan", "last element": "error"}[fault]
    assert word in row.failures["triton.planted/nc"]


def test_a_kernel_that_raises_while_it_is_timed_leaves_the_others_their_times(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = planted(monkeypatch, "none")
    run = providers.kernels(None, "nc")[0].run  # type: ignore[arg-type]

    def tires(problem, *operands):  # type: ignore[no-untyped-def]
        if len(calls) >= 6:
            raise RuntimeError("no memory any more")
        return run(problem, *operands)

    kernel = Kernel("triton.planted", FACES, lambda problem: None, tires)
    monkeypatch.setattr(providers, "kernels", lambda case, layout: [kernel])
    monkeypatch.setattr(registry, "KERNELS", [kernel, registry.ATEN])
    remembered.forget()
    row = measure(Case(layers()[0], "fprop", torch.float32, "cpu"), H100, 0.0)
    assert row.failures == {f"triton.planted/{layout}": "RuntimeError: no memory any more" for layout in LAYOUTS}
    assert set(row.times) == {f"torch.eager/{layout}" for layout in LAYOUTS}


def test_a_right_kernel_with_the_same_plumbing_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, "none")
    row = measure(Case(layers()[0], "fprop", torch.float32, "cpu"), H100, 0.0)
    assert not row.failures
    assert row.auto() in {"triton.planted/nc", "triton.planted/cl"}


def test_a_forward_whose_call_is_torchs_is_reported_as_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, "none")
    monkeypatch.setattr(providers, "is_ours", lambda case, layout: layout == "cl")
    forward, gradient = (Case(layers()[0], work, torch.float32, "cpu") for work in ("fprop", "wgrad"))
    assert [providers.chosen(forward, layout) for layout in ("nc", "cl")] == ["aten.convolution", "triton.planted"]
    assert [providers.chosen(gradient, layout) for layout in ("nc", "cl")] == ["triton.planted"] * 2


def test_operands_that_do_not_fit_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = dataclasses.replace(layers()[0], input=(1 << 40, 4, 9, 7))
    monkeypatch.setattr(Case, "draw", lambda self: pytest.fail("asked for its operands"))
    row = measure(Case(layer, "fprop", torch.float32, "cpu"), H100, 0.0)
    assert not row.times
    assert "takes about" in row.failures["case"]
    assert "are free" in row.failures["case"]


def test_memory_that_earlier_cases_left_with_the_allocator_is_given_back_where_a_case_needs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free = [0, 1 << 50]
    monkeypatch.setattr(measuring, "needed", lambda case: 1 << 40)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free[0], 0))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: free.pop(0))
    measuring.assert_fits(Case(layers()[0], "fprop", torch.float32, "cuda"))
    assert free == [1 << 50]


def test_each_set_of_buffers_is_called_with_once_by_the_first_contender_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "copies_past_cache", lambda *sizes: 5)
    case = Case(layers()[0], "fprop", torch.float32, "cpu")
    buffers = measuring.Buffers(case, case.draw())
    calls: Counter[str] = Counter()

    def contender(provider: str, layout: str) -> providers.Contender:
        return providers.Contender(provider, layout, lambda t: calls.update([f"{provider}/{layout}"]) or (t["y"],))

    for provider, layout in itertools.product(("a", "b"), LAYOUTS):
        buffers.rotating(contender(provider, layout))
    assert calls == {"a/nc": 5, "a/cl": 5}


def test_a_ratio_of_few_rounds_is_that_of_these_rounds() -> None:
    row = blank(Case(layers()[0], "fprop", torch.float32, "cpu"), H100)
    measuring._summarise(row, {"torch.eager/nc": [2.0, 2.0, 2.0, 9.0, 9.0, 9.0, 9.0], "k/nc": [20.0, 20.0, 20.0]})
    assert row.ratios == {"k/nc": [0.1, 0.1, 0.1]}
    assert row.times["k/nc"] == [20e6, 20e6, 20e6]


def test_products_of_matrices_do_not_compete_where_nearly_all_they_multiply_are_zeros(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))

    def names(channels: int, groups: int) -> set[str]:
        layer = dataclasses.replace(layers()[0], input=(3, channels, 9, 7), weight=(channels, channels // groups, 3, 3))
        layer = dataclasses.replace(layer, groups=groups)
        return {kernel.name for kernel in providers.kernels(Case(layer, "fprop", torch.bfloat16, "cuda"), "cl")}

    products = {"triton.igemm", "cuda.igemm"} & {kernel.name for kernel in registry.kernels()}
    assert "triton.igemm" in products
    assert not products & names(32, 32)
    assert not products & names(32, 8)
    assert products <= names(64, 8)
    igemm = next(kernel for kernel in registry.kernels() if kernel.name == "triton.igemm")
    monkeypatch.setattr(providers, "choose", lambda problem: igemm)
    assert products & names(32, 32) == {"triton.igemm"}  # what "auto" runs is timed


def test_what_does_not_compete_is_not_compiled_for_it() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    depthwise = Case(layers()[0], "fprop", torch.bfloat16, "cuda")
    called = {call.kernel for call in warm.calls_of([depthwise], 90)}
    assert "triton.stencil" in called
    assert "triton.igemm" not in called
    assert "triton.igemm" in {call.kernel for call in warm.calls_of_check(90)}


def test_what_a_case_raises_before_its_first_contender_is_in_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(self: Case) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory\nand a trace")

    monkeypatch.setattr(Case, "draw", draw)
    row = measure(Case(layers()[0], "fprop", torch.float32, "cpu"), H100, 0.0)
    assert row.failures == {"case": "OutOfMemoryError: CUDA out of memory"}


def test_the_gate_sees_the_last_image_of_a_batch_and_all_of_a_weight_gradient() -> None:
    layer = layers()[0]
    for work in FACES:
        case = Case(layer, work, torch.float32, "cpu")
        tensors = case.draw()
        gate = Gate(case, {name: ordered(tensors, name) for name in LAYOUTS})
        (contender, *_) = providers.contenders(case)
        (result,) = contender.call(tensors)
        assert gate.refusal("nc", (result,)) is None
        result[(-1,) * result.dim()] *= 1.01
        assert "error" in (gate.refusal("nc", (result,)) or "")
    assert gate.checked == "all"
    assert Gate(Case(layer, "fprop", torch.float32, "cpu"), {}).checked == "images 0 and 2 of 3"


def bench(tmp_path: Path, *arguments: str) -> tuple[int, Path]:
    status = main(["bench", "--device", "cpu", "--out", str(tmp_path), *arguments])
    (path,) = tmp_path.glob("*.jsonl")
    return status, path


def test_end_to_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(cli, "model_layers", lambda: layers()[:2])
    status, path = bench(tmp_path, "--set", "models", "--patience", "300")  # however busy the machine
    printed = capsys.readouterr().out
    results = Results.read(path)
    assert [row.failures for row in results.rows if row.failures] == []
    assert status == 0
    assert "GPU kernels were not run" in printed
    assert f"results: {path}" in printed
    assert len(results.rows) == 8 == len({row.key for row in results.rows})
    assert results.end is not None
    assert results.end.get("left_out", []) == []
    assert {"device", "torch", "commit", "command", "date", "peaks"} <= set(results.run)
    assert results.run["threads"] == 1
    text = path.with_suffix(".html").read_text()
    assert text.count("data:image/png;base64,") == 2 == len(list(tmp_path.glob("*.png")))
    assert "predicted, not measured" in (tmp_path / "predicted-h100.html").read_text()
    assert "no GPU kernel ran" in text
    assert 'src="http' not in text  # self-contained


def instead_of_measuring(monkeypatch: pytest.MonkeyPatch, row: Callable[[Case], Row]) -> None:
    """Rows of `run` come from a function in this process."""
    monkeypatch.setattr(cli, "model_layers", lambda: layers()[:2])
    monkeypatch.setattr(cli, "_report", lambda path, out: None)
    monkeypatch.setattr(runner._Crew, "row", lambda self, case: row(case))


def test_time_that_is_over_leaves_cases_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    instead_of_measuring(monkeypatch, lambda case: blank(case, H100))
    clock = itertools.count(0.0, 30.0)
    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    _, path = bench(tmp_path, "--set", "models", "--minutes", "1.2")
    results = Results.read(path)
    assert len(results.rows) + len(results.end["left_out"]) == 8  # type: ignore[index]
    assert len(results.rows) == 2
    assert "6 of 8 cases were not begun" in capsys.readouterr().out


def test_ctrl_c_leaves_the_results_so_far(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    count = itertools.count()

    def interrupted(case: Case) -> Row:
        if next(count) == 3:
            raise KeyboardInterrupt
        return blank(case, H100)

    instead_of_measuring(monkeypatch, interrupted)
    status, path = bench(tmp_path, "--set", "models")
    results = Results.read(path)
    assert status == 130
    assert len(results.rows) == 3
    assert results.end is None
    assert "interrupted" in capsys.readouterr().out
    with path.open("a") as file:
        file.write('{"record": "case", "lay')  # killed in the middle of a line
    assert len(Results.read(path).rows) == 3


def test_cases_give_every_family_its_turn() -> None:
    families = {"depthwise", "pointwise", "grouped", "dilated", "transposed", "dense"}
    on_gpu = runner.Plan("cuda", 1e15, 1e9, torch.float32, 0.1, 1.0).cases(model_layers())
    assert len(on_gpu) == 67 * 4
    assert {case.layer.family for case in on_gpu[:6]} == families
    assert all(case.work == case.layer.forward for case in on_gpu[:67])
    assert all(case.work == "step" for case in on_gpu[-67:])
    on_cpu = runner.Plan("cpu", 1e8, 4e6, torch.float32, 0.1, 1.0).cases(model_layers())
    assert len(on_cpu) == 67 * 4
    first = {(case.layer.family, case.work) for case in on_cpu[:24]}
    assert first == {(family, work) for family in families for work in ("fprop", "dgrad", "wgrad", "step")}


def test_on_a_cpu_five_layers_of_each_family_come_first() -> None:
    """Each once in all its works, of different sizes, their maps whole and up to eight images where that is quick."""
    cases = runner.Plan.of("cpu").cases(model_layers() + anchor_layers())
    first, rest = cases[: 6 * 5 * 4], cases[6 * 5 * 4 :]
    counts = Counter((case.layer.family, case.work) for case in first)
    assert set(counts.values()) == {5}
    assert len(counts) == 6 * 4
    assert len(cases) == len({(case.layer, case.work) for case in cases}) > len(first)
    assert not {case.layer for case in first} & {case.layer for case in rest}
    batches = [case.layer.input[0] for case in cases]
    assert max(batches) == 8
    assert sum(batch > 1 for batch in batches) > len(batches) / 10
    layers = {case.layer for case in cases}
    for family in {case.layer.family for case in first if "map" in case.layer.cut}:  # too few have their whole maps
        sizes = [layer for layer in layers if layer.family == family]
        assert sum("map" not in layer.cut for layer in sizes) < max(5, 0.6 * len(sizes))
    for case in cases:
        channels = min(case.layer.weight[:2])
        limit = 0.05 * 4e10 * (0.15 if case.layer.groups > 1 else min(1, channels / 16))  # 50 ms
        flops = case.problem("fprop").flops
        assert case.layer.input[0] == 1 or flops <= limit / 10


def test_a_map_of_few_channels_is_cut_on_a_cpu() -> None:
    """Three channels of 512 x 512 pixels took torch 90 to 170 ms for 0.9 GFLOP, of which 32 channels take 25."""
    plan = runner.Plan.of("cpu")
    few, many = (
        dataclasses.replace(tiny("3084"), input=(1, channels, 512, 512), weight=(64, channels, 3, 3), cut="")
        for channels in (3, 16)
    )
    assert plan.fit(few).problem("fprop", torch.float32).flops <= 3 / 16 * 0.05 * 4e10
    assert "map" in plan.fit(few).cut
    assert plan.fit(many).input[2:] == (256, 256)


def test_the_footer_says_whose_kernels_ran() -> None:
    def row(work: str, ratio: float, ours: list[str]) -> Row:
        made = blank(Case(tiny("215"), "fprop", torch.float32, "cpu"), H100)
        return dataclasses.replace(
            made, work=work, chosen={"nc": "k", "cl": "k"}, times={"k/nc": [2.0], "k/cl": [1.0]}, ours=ours,
            ratios={"k/nc": [0.1, 0.1, 0.1], "k/cl": [ratio, ratio, ratio]},
        )  # fmt: skip

    rows = [row("fprop", 4.0, ["cl"]), row("step", 1.0, ["nc", "cl"]), row("wgrad", 0.5, ["nc"])]
    rows.append(dataclasses.replace(rows[0], times={}))
    assert table.whose(rows) == [
        "2 of 4 rows ran kernels of ours, 2.00x: 1 forward, 1 training step",
        "1 of 4 rows ran torch's own kernels, 0.50x: 1 weight gradient",
    ]
    assert table.whose([]) == []


def test_a_step_is_ours_where_that_is_worth_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = registry.Kernel("cpu.mine", FACES, lambda problem: None, lambda *arguments: None)  # type: ignore[arg-type,return-value]
    monkeypatch.setattr(
        providers, "choose", lambda p: taken if p.face == "wgrad" and p.channels_last else registry.ATEN
    )
    gains = {"fprop": 61.0, "wgrad": 150.0}  # microseconds; the way costs 60, and 210 in a step
    monkeypatch.setattr(whose, "gains_of", lambda p: gains if p.channels_last else {})
    layer = tiny("215")

    def ours() -> dict[Work, list[str]]:
        return {work: blank(Case(layer, work, torch.float32, "cpu"), H100).ours for work in WORK}

    assert ours() == {"fprop": ["cl"], "dgrad": [], "wgrad": ["cl"], "step": ["cl"]}
    gains["fprop"] = 59.0
    assert ours() == {"fprop": [], "dgrad": [], "wgrad": ["cl"], "step": []}


# ----------------------------------------------------------------------------------------------------- comparison


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """A results file of two layers' forwards, with spreads of 2%."""
    path = tmp_path / "before.jsonl"
    run = {
        "device": "d",
        "kind": "cpu",
        "peaks": {"bandwidth": 1.0, "rates": {}, "source": ""},
        "date": "",
        "float32": "",
    }
    with Writer(path, {**run, "command": ""}) as writer:
        for layer in layers()[:2]:
            row = measure(Case(layer, "fprop", torch.float32, "cpu"), H100, 0.0)
            row.times = {name: [10.0, 9.9, 10.1] for name in row.times}
            writer.row(row)
        writer.end({"seconds": 1.0, "left_out": []})
    return path


def slowed(path: Path, factor: float, contender: str = "aten.convolution/nc", layer: str = "a") -> Path:
    """A copy in which one contender takes `factor` times as long in one layer."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        if record.get("layer") == layer:
            record["times"][contender] = [t * factor for t in record["times"][contender]]
    after = path.with_name("after.jsonl")
    after.write_text("\n".join(map(json.dumps, records)))
    return after


@pytest.mark.parametrize(("factor", "status"), [(1.0, 0), (1.01, 0), (1.04, 0), (1.2, 1), (0.5, 0)])
def test_compare_catches_a_planted_slowdown(measured: Path, factor: float, status: int, capsys) -> None:  # type: ignore[no-untyped-def]
    after = slowed(measured, factor)
    assert main(["bench", "--compare", str(measured), str(after), "--fail-below", "0.95"]) == status
    printed = capsys.readouterr().out
    assert f"{0 if factor in (1.0, 1.01) else 1} of 4 changed" in printed
    assert "torch itself: 1.000x" in printed


def test_compare_without_a_limit_only_tells(measured: Path) -> None:
    assert main(["bench", "--compare", str(measured), str(slowed(measured, 3.0))]) == 0


def test_compare_shows_a_machine_that_drifted(measured: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    after = slowed(measured, 2.0, "torch.eager/nc")
    assert compare.main(measured, after, 0.95) == 0
    assert f"torch itself: {2**-0.25:.3f}x" in capsys.readouterr().out


def test_files_without_a_common_case_fail(measured: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(
        measured.read_text().replace('"layer": "a"', '"layer": "x"').replace('"layer": "b"', '"layer": "y"')
    )
    assert compare.main(measured, other, None) == 1


def test_losses_are_those_of_the_same_layout(measured: Path) -> None:
    rows = Results.read(slowed(measured, 1.5)).rows
    assert [row.lost("nc") for row in rows] == [pytest.approx(1 / 1.5), None]
    assert [row.lost("cl") for row in rows] == [None, None]
    assert rows[0].auto() == "aten.convolution/cl"  # "auto" in the layout that suits it
    assert report._losses(rows)[0][-1].text == "0.67x"


def test_where_no_contender_agrees_nothing_is_sampled() -> None:
    assert timing.interleaved({}, "cpu", 0.0) == {}
