"""When `auto` takes a record on a CPU: what the tables say near a problem, and torch everywhere else."""

import json
from dataclasses import replace

import pytest
import torch

import convext
from convext.choice import cpu_table, registry, remembered
from convext.problem import FACES, ConvProblem
from convext.providers.cpu import library


def problem(face="wgrad", **changes):
    made = ConvProblem.of("fprop", (1, 64, 56, 56), (64, 1, 5, 5), (56, 56), (1, 1), (2, 2), (1, 1), 64, torch.float32)
    return replace(made, face=face, **changes)


@pytest.fixture
def tables(monkeypatch, tmp_path):
    """Tables of this test's own: `write(machine, threads, problem and its ratios ..)`."""
    monkeypatch.setattr(cpu_table, "FOLDER", tmp_path)
    monkeypatch.setattr(library, "machine", lambda: "here")

    def write(machine, threads, *rows):
        made = [cpu_table.Row(cpu_table.kind(p), cpu_table.point(p), ratios) for p, ratios in rows]
        cpu_table.write(tmp_path / f"{machine}-{threads}.json", made, {"machine": machine, "threads": threads})

    cpu_table._table.cache_clear()
    cpu_table.fastest.cache_clear()
    yield write
    cpu_table._table.cache_clear()
    cpu_table.fastest.cache_clear()


def name(p, threads=1):
    found = cpu_table.fastest(p, threads)
    return found[0][0] if found else None


def test_the_fastest_that_is_worth_it(tables):
    tables("here", 1, (problem(), {"a": (2.0, 1.9), "b": (3.0, 1.05), "c": (2.5, 1.2)}))
    assert [found for found, _ in cpu_table.fastest(problem(), 1)] == ["c", "a"]
    assert name(problem("dgrad")) is None
    assert name(problem(dtype=torch.float16)) is None


FAR = [
    {"output": (1, 1), "n": 4096}, {"output": (9, 9)}, {"kernel": (63, 63)}, {"k": 1024},
    {"dtype": torch.bfloat16}, {"stride": (3, 3), "dilation": (16, 16), "n": 4096, "channels_last": True},
]  # fmt: skip


@pytest.mark.parametrize("far", FAR, ids=str)
def test_far_from_what_was_measured_torch_computes(tables, far):
    tables("here", 1, (problem(), {"a": (9.0, 8.0)}))
    assert name(problem(output=(48, 50), n=8)) == "a"
    assert name(problem(**far)) is None


def test_the_nearer_weigh_more(tables):
    """Between one that wins and one that loses, it is the nearer whose word counts; in the middle, torch's."""
    wins, loses = problem(output=(64, 64)), problem(output=(16, 16))
    tables("here", 1, (wins, {"a": (4.0, 4.0)}), (loses, {"a": (0.25, 0.25)}))
    assert [name(problem(output=(size, size))) for size in (64, 60, 32, 20, 16)] == ["a", "a", None, None, None]


@pytest.mark.parametrize(("low", "taken"), [(1.09, False), (1.10, True)])
def test_a_measured_problem_needs_its_lower_end(tables, low, taken):
    tables("here", 1, (problem(), {"a": (2.0, low + 1e-9)}))
    assert (name(problem()) == "a") == taken


def test_distance_and_disagreement_cost_certainty(tables):
    near = problem(output=(40, 40))
    tables("here", 1, (problem(), {"a": (1.11, 1.11)}))
    assert name(problem()) == "a"
    assert name(near) is None
    for ratios, expected in (((1.13, 1.13, 1.13), "a"), ((1.2, 0.7, 1.7), None)):  # the same mean
        tables("here", 1, *((problem(n=n), {"a": (r, r)}) for n, r in zip((1, 2, 4), ratios, strict=True)))
        assert name(problem(n=3)) == expected


def test_only_four_neighbours_are_asked(tables):
    close = [(problem(output=(56, 56 + i)), {"a": (2.0, 2.0)}) for i in range(4)]
    tables("here", 1, *close, (problem(output=(62, 62)), {"a": (1e-6, 1e-6)}))
    assert name(problem()) == "a"
    tables("here", 1, *close[:3], (problem(output=(62, 62)), {"a": (1e-6, 1e-6)}))
    assert name(problem(output=(59, 59))) is None


def test_what_a_row_lacks_is_asked_of_the_next(tables):
    tables("here", 1, (problem(), {"a": (1.0, 0.9)}), (problem(output=(50, 50)), {"a": (1.0, 0.9), "b": (3.0, 2.9)}))
    assert name(problem()) == "b"


def test_elsewhere_only_what_wins_three_times_on_every_machine(tables):
    tables("other", 1, (problem(), {"a": (4.0, 3.5), "b": (2.5, 2.4)}))
    assert name(problem()) == "a"
    tables("third", 1, (problem(), {"a": (4.0, 2.9)}))
    assert name(problem()) is None


def test_elsewhere_machines_on_which_nothing_near_was_measured_are_not_asked(tables):
    tables("other", 1, (problem(), {"a": (4.0, 3.5)}))
    tables("third", 1, (problem("dgrad"), {"a": (9.0, 9.0)}))
    assert name(problem()) == "a"
    assert name(problem("fprop")) is None


def test_more_threads_are_another_table(tables):
    tables("here", 1, (problem(), {"a": (2.0, 1.9)}))
    assert name(problem(), threads=1) == "a"
    assert name(problem(), threads=2) is None
    tables("here", 2, (problem(), {"a": (2.0, 1.9)}))
    assert name(problem(), threads=2) == name(problem(), threads=16) == "a"


@pytest.mark.parametrize(("zen5", "multiplications", "bytes"), [(False, 16e9, 20e9), (True, 50e9, 50e9)])
@pytest.mark.parametrize("threads", [1, 4])
def test_what_a_call_saves(monkeypatch, threads, zen5, multiplications, bytes):
    """Twice and eight times as fast are four times on average: three times what the kernel takes itself at least."""
    monkeypatch.setattr(library, "has_wide_units", lambda: zen5)
    rows = tuple(cpu_table.Row("", (), {"a": (ratio, ratio), "b": (1.5, 1.5)}) for ratio in (2.0, 8.0))
    small = ConvProblem("fprop", 1, 8, 8, 1, (4,), (3,), (2,), (1,), (0,), (1,), torch.float32)
    assert cpu_table.gain(small, "a", rows, threads) == pytest.approx(3 * 30, rel=0.01)
    products = ConvProblem("fprop", 1, 4000, 4000, 1, (3,), (3,), (1,), (1,), (0,), (1,), torch.float32)
    by_bytes = products.ideal_bytes / bytes * 1e6 / threads
    assert cpu_table.gain(products, "a", rows, threads) == pytest.approx(3 * (30 + by_bytes))
    long = ConvProblem("fprop", 1, 4000, 4000, 1, (16,), (1,), (16,), (1,), (0,), (1,), torch.float32)
    by_products = 4000 * 4000 * 16 / multiplications * 1e6 / threads
    assert cpu_table.gain(long, "a", rows, threads) == pytest.approx(3 * (30 + by_products))
    assert cpu_table.gain(long, "b", rows, threads) == pytest.approx(0.5 * (30 + by_products))


@pytest.fixture
def wgrad_only(tables):
    """A table in which only the weight gradient is worth it."""
    if reason := library.unavailable():
        pytest.skip(reason)
    rows = [(problem(face), {"cpu.stencil": (5.0, 4.0) if face == "wgrad" else (1.0, 0.9)}) for face in FACES]
    tables("here", 1, *rows)
    registry.cpu_gains.cache_clear()
    remembered.forget()
    yield
    registry.cpu_gains.cache_clear()
    remembered.forget()


def test_auto_takes_a_face_and_leaves_the_others(wgrad_only):
    assert registry.choose(problem("wgrad")).name == "cpu.stencil"
    assert registry.choose(problem("fprop")) is registry.choose(problem("dgrad")) is registry.ATEN
    for face in FACES:
        assert set(registry.cpu_gains(problem(face))) == {"wgrad"}
    assert registry.choose(problem("wgrad", device="meta")) is registry.ATEN
    assert registry.choose(problem("wgrad"), "aten") is registry.ATEN


def test_explain_names_the_rows_that_decided(wgrad_only):
    assert "measured near here: cpu.stencil, 5.00 times as fast as torch (at least 4.00) on here with 1 thread" in (
        convext.explain(problem())
    )
    assert "nothing was measured near here to be faster than ATen" in convext.explain(problem("fprop"))


def test_a_record_that_refuses_gives_way_to_the_next(tables, monkeypatch):
    """plain.widened takes no float32, whatever a row of bfloat16 nearby says of it."""
    tables("here", 1, (problem(), {"plain.widened": (9.0, 8.0), "cpu.stencil": (2.0, 1.9)}))
    monkeypatch.setattr(library, "unavailable", lambda: None)
    assert [found for found, _ in cpu_table.fastest(problem(), 1)] == ["plain.widened", "cpu.stencil"]
    assert registry.fastest_on_cpu(problem())[0] == "cpu.stencil"


def test_a_record_that_cannot_run_here_is_not_taken(wgrad_only, monkeypatch):
    monkeypatch.setattr(registry, "unavailable", lambda provider, p: "not built" if provider == "cpu" else None)
    assert registry.choose(problem()) is registry.ATEN


def test_committed_tables_name_records_and_machines():
    records = {kernel.name: kernel for kernel in registry.kernels()}
    paths = sorted(path for path in cpu_table.FOLDER.glob("*.json") if not path.name.startswith("sm_"))
    assert paths
    for path in paths:
        table = json.loads(path.read_text())
        assert path.stem == f"{table['machine']}-{table['threads']}"
        assert table["torch"]
        assert table["processor"]
        for kind, rows in table["rows"].items():
            face = kind.split()[0]
            for point, ratios in rows:
                assert len(point) == len(cpu_table.SCALES)
                assert ratios
                for name, (value, low) in ratios.items():
                    assert face in records[name].faces
                    assert 0 < low <= value * 1.01
