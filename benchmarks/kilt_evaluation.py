"""KILT's own retrieval script against ours: seconds for 10,000 queries of 100 pages, from the files to the means.

Both read the same gold and run files in the same process, in turn; imports are not counted. The results must be equal.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from bounds import Bound, add_tiny, judged

from taco_ir.core.processes import collector_paused
from taco_ir.core.run_formats import read_run
from taco_ir.data.topics import read_topics
from taco_ir.evaluation.measures import Measure, score_run

CUTOFFS = (1, 5, 10, 20)
PAGES = 1_000_000
NEEDED = 15
Result = dict[str, float | None]


def official_script() -> ModuleType:
    """KILT's script as Pyserini ships it; the import of Pyserini's download code is left out (it starts a JVM)."""
    package = importlib.util.find_spec("pyserini")
    if package is None or not package.submodule_search_locations:
        sys.exit("pyserini is not installed; it carries KILT's evaluation script")
    path = Path(package.submodule_search_locations[0]) / "eval/evaluate_kilt_retrieval.py"
    spec = importlib.util.spec_from_file_location("kilt_script", path)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    stand_in = ModuleType("pyserini.query_iterator")
    stand_in.KiltQueryIterator = None  # type: ignore[attr-defined]
    before = sys.modules.get(stand_in.__name__)
    sys.modules[stand_in.__name__] = stand_in
    try:
        spec.loader.exec_module(script)
    finally:
        del sys.modules[stand_in.__name__]
        if before is not None:
            sys.modules[stand_in.__name__] = before
    return script


def write_files(gold: Path, run: Path, queries: int, hits: int, seed: int) -> None:
    """Queries with one to four evidence sets of one or two pages, most of them somewhere in the run."""
    draw = random.Random(seed)
    with gold.open("w") as gold_sink, run.open("w") as run_sink:
        for number in range(queries):
            sets = [draw.sample(range(PAGES), draw.choice((1, 1, 2))) for _ in range(draw.randint(1, 4))]
            pages = draw.sample(range(PAGES), hits)
            for page in {page for evidence in sets for page in evidence}:
                if draw.random() < 0.7:
                    pages[min(int(draw.expovariate(0.1)), hits - 1)] = page
            output = [
                {"answer": "a", "provenance": [{"wikipedia_id": str(page)} for page in evidence]} for evidence in sets
            ]
            gold_sink.write(json.dumps({"id": f"q{number}", "input": f"question {number}", "output": output}) + "\n")
            output = [{"provenance": [{"wikipedia_id": str(page)} for page in pages]}]
            run_sink.write(json.dumps({"id": f"q{number}", "input": f"question {number}", "output": output}) + "\n")


def ours(gold: Path, run: Path) -> Result:
    measures = [Measure("Rprec")] + [Measure(kind, k) for k in CUTOFFS for kind in ("precision", "recall", "success")]
    with collector_paused():  # as the verb does
        queries = read_topics(gold, "nq")
        scores = score_run(read_run(run), queries, lambda _: {}, measures)
    return {measure.short: scores.mean(measure) for measure in measures}


class Timing(NamedTuple):
    """Seconds by the clock and of the processor (both have one thread, so other load changes only the former)."""

    clock: float
    processor: float


def timed(action: Callable[[], Result]) -> tuple[Timing, Result]:
    clock, processor = time.perf_counter(), time.process_time()
    result = action()
    return Timing(time.perf_counter() - clock, time.process_time() - processor), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--hits", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    add_tiny(parser)
    flags = parser.parse_args()
    if flags.tiny:
        flags.queries, flags.rounds = 20, 1
    script = official_script()
    ratios: list[Timing] = []
    with tempfile.TemporaryDirectory() as folder:
        gold, run = Path(folder) / "gold.jsonl", Path(folder) / "run.jsonl"
        write_files(gold, run, flags.queries, flags.hits, flags.seed)
        print(
            f"{flags.queries:,} queries x {flags.hits} pages, {run.stat().st_size / 1e6:.0f} MB run, seed {flags.seed}"
        )
        for number in range(1, flags.rounds + 1):
            fast, found = timed(lambda: ours(gold, run))
            with contextlib.redirect_stdout(io.StringIO()):  # it prints its result
                slow, expected = timed(lambda: script.evaluate(str(gold), str(run), CUTOFFS, ["wikipedia_id"]))
            require_equal(found, expected)
            ratios.append(Timing(slow.clock / fast.clock, slow.processor / fast.processor))
            print(
                f"round {number}: KILT's script {slow.clock:.2f} s ({slow.processor:.2f} s processor), "
                f"ours {fast.clock:.2f} s ({fast.processor:.2f} s); results equal"
            )
    clock, processor = (statistics.median(column) for column in zip(*ratios, strict=True))
    print(f"median ratio {clock:.1f} by the clock, {processor:.1f} of processor time")
    sys.exit(judged([Bound("processor time of KILT's script / ours", processor, NEEDED)], flags.tiny))


def require_equal(found: Result, expected: Result) -> None:
    """Stop where a value of KILT's script differs from ours."""
    for name, value in expected.items():
        our_value = found[name.replace("success_rate", "success")]
        if our_value is None or value is None or abs(our_value - value) > 1e-9:
            sys.exit(f"{name}: KILT's script gives {value}, ours {our_value}")


if __name__ == "__main__":
    main()
