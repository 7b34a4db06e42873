"""When `auto` takes a record on a CPU: what the tables say near a problem, and torch everywhere else."""

import json
from dataclasses import replace

import pytest
import torch

import convext
from convext.choice import cpu_table as choice
from convext.choice import registry
from convext.operators import forward
from convext.problem import FACES, ConvProblem
from convext.providers.cpu import library


def problem(face="wgrad", **changes):
    made = ConvProblem.of("fprop", (1, 64, 56, 56), (64, 1, 5, 5), (56, 56), (1, 1), (2, 2), (1, 1), 64, torch.float32)
    return replace(made, face=face, **changes)


@pytest.fixture
def tables(monkeypatch, tmp_path):
    """Tables of this test's own: `write(machine, threads, problem and its ratios ..)`."""
    monkeypatch.setattr(choice, "FOLDER", tmp_path)
    monkeypatch.setattr(library, "machine", lambda: "here")

    def write(machine, threads, *rows):
        made = [choice.Row(choice.kind(p), choice.point(p), ratios) for p, ratios in rows]
        choice.write(tmp_path / f"{machine}-{threads}.json", made, {"machine": machine, "threads": threads})

    choice._tables.cache_clear()
    choice.fastest.cache_clear()
    yield write
    choice._tables.cache_clear()
    choice.fastest.cache_clear()


def name(p, threads=1):
    found = choice.fastest(p, threads)
    return found and found[0]


def test_the_fastest_that_is_worth_it(tables):
    tables("here", 1, (problem(), {"a": (2.0, 1.9), "b": (3.0, 1.05), "c": (2.5, 1.2)}))
    assert name(problem()) == "c"
    assert name(problem("dgrad")) is None
    assert name(problem(dtype=torch.bfloat16)) is None
    assert name(problem(channels_last=True)) is None


@pytest.mark.parametrize(
    "far", [{"output": (28, 28)}, {"kernel": (9, 9)}, {"stride": (2, 2)}, {"dilation": (2, 2)}, {"k": 128}]
)
def test_far_from_what_was_measured_torch_computes(tables, far):
    tables("here", 1, (problem(), {"a": (9.0, 8.0)}))
    assert name(problem(output=(48, 50), n=8)) == "a"
    assert name(problem(**far)) is None


def test_the_two_nearest_have_to_agree(tables):
    near, nearer, next_one = (problem(output=(size, size)) for size in (70, 60, 50))
    tables(
        "here",
        1,
        (
            near,
            {"a": (0.5, 0.4)},
        ),
        (nearer, {"a": (2.0, 1.8)}),
        (next_one, {"a": (2.0, 1.09)}),
    )
    assert name(problem(output=(64, 64))) is None
    tables("here", 1, (near, {"a": (1.5, 1.4)}), (nearer, {"a": (2.0, 1.8)}), (next_one, {"a": (2.0, 0.9)}))
    assert name(problem(output=(65, 65))) == "a"


def test_elsewhere_only_what_wins_three_times_on_every_machine(tables):
    tables("other", 1, (problem(), {"a": (4.0, 3.5), "b": (2.5, 2.4)}))
    assert name(problem()) == "a"
    tables("third", 1, (problem(), {"a": (4.0, 2.9)}))
    assert name(problem()) is None


def test_more_threads_are_another_table(tables):
    tables("here", 1, (problem(), {"a": (2.0, 1.9)}))
    assert name(problem(), threads=1) == "a"
    assert name(problem(), threads=2) is None
    tables("here", 2, (problem(), {"a": (2.0, 1.9)}))
    assert name(problem(), threads=2) == name(problem(), threads=16) == "a"


@pytest.fixture
def wgrad_only(tables):
    """A table in which only the weight gradient is worth it."""
    if reason := library.unavailable():
        pytest.skip(reason)
    rows = [(problem(face), {"cpu.stencil": (5.0, 4.0) if face == "wgrad" else (1.0, 0.9)}) for face in FACES]
    tables("here", 1, *rows)
    registry.cpu_faces.cache_clear()
    forward.plan.cache_clear()
    yield
    registry.cpu_faces.cache_clear()
    forward.plan.cache_clear()


def test_auto_takes_a_face_and_leaves_the_others(wgrad_only):
    assert registry.choose(problem("wgrad")).name == "cpu.stencil"
    assert registry.choose(problem("fprop")) is registry.choose(problem("dgrad")) is registry.ATEN
    for face in FACES:
        assert registry.cpu_faces(problem(face)) == {"wgrad"}
    assert registry.choose(problem("wgrad", device="meta")) is registry.ATEN
    assert registry.choose(problem("wgrad"), "aten") is registry.ATEN


def test_explain_names_the_rows_that_decided(wgrad_only):
    assert "measured near here: cpu.stencil, 5.00 times as fast as torch (at least 4.00) on here with 1 thread" in (
        convext.explain(problem())
    )
    assert "nothing was measured near here to be faster than ATen" in convext.explain(problem("fprop"))


def test_a_record_that_cannot_run_here_is_not_taken(wgrad_only, monkeypatch):
    monkeypatch.setattr(registry, "unavailable", lambda provider, p: "not built" if provider == "cpu" else None)
    assert registry.choose(problem()) is registry.ATEN


def test_committed_tables_name_records_and_machines():
    records = {kernel.name: kernel for kernel in registry.kernels()}
    paths = sorted(choice.FOLDER.glob("*.json"))
    assert paths
    for path in paths:
        table = json.loads(path.read_text())
        assert path.stem == f"{table['machine']}-{table['threads']}"
        assert table["torch"]
        assert table["processor"]
        for row in table["rows"]:
            face = row["kind"].split()[0]
            assert len(row["point"]) == len(choice.REACH)
            assert row["ratios"]
            for name, (value, low) in row["ratios"].items():
                assert face in records[name].faces
                assert 0 < low <= value * 1.001
