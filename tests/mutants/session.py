"""`make mutants`: makes the mutants, records what the tests cover, runs what is pending, prints what survived."""

from __future__ import annotations

import argparse
import ast
import difflib
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import forks
import parso  # noqa: F401  (cosmic-ray's plugins do not load unless it is there first)
from cosmic_ray.commands import init
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome, WorkItem, WorkResult
from covering import COVERED, Covering

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build/mutants"
SESSION = FOLDER / "session.sqlite"
MODULES = (
    *("problem/conv_problem", "problem/layout", "functional"),
    *(f"operators/{name}" for name in ("forward", "fake", "tracing", "autograd", "plain", "autocast", "vmap")),
    *(
        "choice/registry",
        "nn",
        "conversion/swap",
        "conversion/log",
        "choice/gpu_table",
        "providers/aten",
        "tools/flops",
    ),
)
PATHS = [Path("convext") / f"{name}.py" for name in MODULES]
# The tests that judge: not those of the catalogue and of benchmarks, nor those that build, nor Triton's kernels.
TESTS = ("problem", "operators", "layers", "choice", "cpu", "errors", "facts")
SLOW = "not triton and not compile and not process"
LIKELY = 3  # tests that killed a mutant last and cover the next: they go first

# cosmic-ray replaces each binary operator by eleven others: one wrong operator is enough to see whether a test looks.
BINARY = {
    "Add_Sub",
    "Sub_Add",
    "Mul_Add",
    "Div_Mul",
    "FloorDiv_Mul",
    "Mod_Add",
    "Pow_Mul",
    "BitOr_BitAnd",
    "BitAnd_BitOr",
}


# Others say what another mutant of the same place says: interned strings, small integers and singletons are the same
# object or are not equal, and one wrong sign is enough.
SAME = {
    *("Eq_Is", "Eq_IsNot", "NotEq_Is", "NotEq_IsNot", "Is_Eq", "Is_NotEq", "IsNot_Eq", "IsNot_NotEq"),
    *("USub_UAdd", "USub_Not", "USub_Invert"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, help="try so many of the pending mutants, drawn at random")
    parser.add_argument("--seconds", type=float, default=20.0, help="of tests for one mutant")
    parser.add_argument("--again", action="store_true", help="try those that survived, not the pending ones")
    parser.add_argument("--report", action="store_true", help="only print what is known")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    args = parser.parse_args()
    os.chdir(ROOT)
    os.environ["CI"] = "1"  # hypothesis draws the same examples each time, and the grid the same cases
    os.environ.setdefault("CONVEXT_GRID_SEED", "0")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with use_db(str(SESSION)) as db:
        if db.num_work_items == 0:
            make(db)
        if not args.report:
            if not (FOLDER / COVERED).exists():
                record()
            items = survivors(db) if args.again else list(db.pending_work_items)
            if args.sample is not None:
                items = random.sample(items, min(args.sample, len(items)))
            execute(db, items, args.seconds, args.workers)
        report(db)


def make(db: WorkDB) -> None:
    """Every mutant of the modules, but for annotations, docstrings, and operators that would tell nothing new."""
    init(PATHS, db, {})
    unchanged = {path: silent(path.read_text()) for path in {item.mutations[0].module_path for item in db.work_items}}
    skipped = [
        item.job_id
        for item in db.work_items
        if _is_redundant(item.mutations[0]) or item.mutations[0].start_pos in unchanged[item.mutations[0].module_path]
    ]
    db.set_multiple_results(skipped, WorkResult(worker_outcome=WorkerOutcome.SKIPPED))


def _is_redundant(mutation: MutationSpec) -> bool:
    kind, _, change = mutation.operator_name.removeprefix("core/").partition("_")
    return change in SAME or (kind == "ReplaceBinaryOperator" and change not in BINARY)


class silent:  # noqa: N801
    """The (line, column)s of a source that are annotations or docstrings: nothing that runs."""

    def __init__(self, source: str) -> None:
        self.ranges = []
        for node in ast.walk(ast.parse(source)):
            texts = [node.value] if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) else []
            for part in (getattr(node, "annotation", None), getattr(node, "returns", None), *texts):
                if isinstance(part, ast.expr):
                    self.ranges.append(((part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)))

    def __contains__(self, position: tuple[int, int]) -> bool:
        return any(first <= position < last for first, last in self.ranges)


def record() -> None:
    """Runs the suite once under coverage. Tests that fail on the unchanged core judge no mutant."""
    tests = [f"tests/{folder}" for folder in TESTS]
    command = [sys.executable, "-m", "pytest", "-n0", "-q", "-p", "covering", "-k", SLOW, *tests]
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "CONVEXT_COVERING": str(FOLDER)}
    subprocess.run(command, env=environment, check=False)


def survivors(db: WorkDB) -> list[WorkItem]:
    return [item for item, result in db.completed_work_items if result.test_outcome is TestOutcome.SURVIVED]


def execute(db: WorkDB, items: list[WorkItem], seconds: float, workers: int) -> None:
    """Runs mutants and writes each result down as it comes."""
    covering = Covering(FOLDER)
    killers: dict[str, None] = {}  # the latest last
    forks.preload()
    for result in forks.run(controls(covering, seconds), workers):
        if result.status:
            sys.exit(
                f"with nothing changed, pytest returns {result.status} on the tests of {result.job.path}: no mutant "
                "can be judged"
            )
    results = forks.run(jobs(db, covering, sorted(items, key=place), seconds, killers), workers)
    for done, result in enumerate(results, start=1):
        outcome = TestOutcome.KILLED if result.status else TestOutcome.SURVIVED
        if result.killer:
            killers.pop(result.killer, None)
            killers[result.killer] = None
        text = f"{outcome.value} in {result.seconds:.1f} s by {result.killer or f'status {result.status}'}"
        db.set_result(result.job.id, WorkResult(WorkerOutcome.NORMAL, text, outcome, difference(result.job)))
        print(f"{done} of {len(items)}: {result.job.module} {text}", flush=True)


def place(item: WorkItem) -> tuple[int, tuple[int, int]]:
    """Mutants of one function after each other: what killed one often kills the next."""
    (mutation,) = item.mutations
    return PATHS.index(mutation.module_path), mutation.start_pos


def dotted(path: Path) -> str:
    return ".".join(path.with_suffix("").parts)


def controls(covering: Covering, seconds: float) -> Iterator[forks.Job]:
    """For each module a job that changes nothing, and that its tests have to pass."""
    for path in PATHS:
        tests = covering.tests(path, 1, seconds / 4)
        if tests:
            rounds = [tests[:LIKELY], tests[LIKELY:]]
            yield forks.Job(str(path), path, dotted(path), path.read_text(), rounds, 4 * seconds + 30)


def jobs(
    db: WorkDB, covering: Covering, items: list[WorkItem], seconds: float, killers: dict[str, None]
) -> Iterator[forks.Job]:
    """The mutants that some test covers; no test can kill the others, which survive at once."""
    for item in items:
        (mutation,) = item.mutations
        path = mutation.module_path
        operator = get_operator(mutation.operator_name)(**mutation.operator_args)
        source = mutate_code(path.read_text(), operator, mutation.occurrence)
        tests = covering.tests(path, mutation.start_pos[0], seconds)
        covered = set(tests)
        likely = list(islice((test for test in reversed(killers) if test in covered), LIKELY))
        rounds = [likely, [test for test in tests if test not in likely]]
        job = forks.Job(item.job_id, path, dotted(path), source, rounds, 4 * seconds + 30)
        if tests:
            yield job
        else:
            db.set_result(job.id, WorkResult(WorkerOutcome.NO_TEST, "", TestOutcome.SURVIVED, difference(job)))


def difference(job: forks.Job) -> str:
    """What the mutant changes, as a diff without context."""
    lines = (job.path.read_text().splitlines(), job.source.splitlines())
    return "\n".join(difflib.unified_diff(*lines, str(job.path), "mutant", n=0, lineterm=""))


def report(db: WorkDB) -> None:
    """The difference that each survivor is, and the counts of each module."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in MODULES}
    for item, result in sorted(db.completed_work_items, key=lambda found: place(found[0])):
        outcome = (result.test_outcome or result.worker_outcome).value
        counts[item.mutations[0].module_path.stem][outcome] += 1
        if result.test_outcome is TestOutcome.SURVIVED:
            print(f"\n{result.worker_outcome.value}: {result.output}\n{result.diff}")
    print(f"\n{db.num_work_items} mutants, {db.num_work_items - db.num_results} pending")
    for name, of_module in counts.items():
        print(f"{name:12}", ", ".join(f"{n} {outcome}" for outcome, n in sorted(of_module.items())))


if __name__ == "__main__":
    main()
