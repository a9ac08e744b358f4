"""Rescoring: searches and scores recorded systems again, and reports every score that has changed."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path

from taco_ir.core.files import InputError
from taco_ir.core.processes import log
from taco_ir.studies.conditions import Job
from taco_ir.studies.jobs import Runner
from taco_ir.studies.records import Record
from taco_ir.studies.scores import deviations


def select_records(results: Sequence[Record], rows: Sequence[str]) -> list[Record]:
    """Select records by names of systems, rows, conditions or records; no names: all. Raises: InputError."""
    names = [{result.system, result.row, result.condition, result.name} for result in results]
    for row in rows:
        if not any(row in of_result for of_result in names):
            systems = sorted({result.row for result in results})
            raise InputError(
                f"--rows {row!r}: no such row; allowed: {', '.join(systems)}, a condition, or the name of a record"
            )
    return [result for result, of_result in zip(results, names, strict=True) if not rows or of_result & set(rows)]


def select_trained(results: Sequence[Record], runner: Runner, strict: bool) -> list[Record]:
    """Select the records with models in the study's work folder, and log a warning about the others.

    Raises:
        InputError: if no record has its model there, or if `strict` is True and a model is missing.
    """
    found = [result for result in results if runner.has_run(Job(result.condition, result.seed))]
    if len(found) < len(results):
        missing = (
            f"{len(results) - len(found)} of {len(results)} records cannot be searched again: "
            f"their trainings are not in {runner.work}"
        )
        if strict or not found:
            raise InputError(f"{missing}; run `python -m taco_ir.reproduce`, or give another --work")
        log.warning("%s", missing)
    return found


def sample_records(results: Sequence[Record], count: int, seed: int) -> list[Record]:
    """Sample `count` records, sorted by name. Raises: InputError if there are fewer."""
    if count > len(results):
        raise InputError(f"--random is {count}, but there are only {len(results)} records")
    return sorted(random.Random(seed).sample(list(results), count), key=lambda result: result.name)


def check_records(results: Sequence[Record], runner: Runner) -> None:
    """Score records again and print every deviation; new runs are kept only if they deviate.

    Raises:
        InputError: if any score changed by more than the study's tolerance.
    """
    count, tolerance = 0, runner.study.tolerance
    for recorded in results:
        lines = deviations(recorded, rescore(runner, recorded), tolerance)
        if not lines:
            shutil.rmtree(check_folder(runner, recorded), ignore_errors=True)
        log.info("%s: %s", recorded.name, "as recorded" if not lines else f"{len(lines)} scores changed")
        print("".join(f"{line}\n" for line in lines), end="", flush=True)
        count += len(lines)
    if count:
        raise InputError(f"{count} scores in {len(results)} records differ by more than {tolerance}")
    log.info("all %d records came out as recorded, within %s", len(results), tolerance)


def rescore(runner: Runner, recorded: Record) -> Record:
    """Search and score a record again, in a separate folder; the recorded runs stay."""
    return runner.score(Job(recorded.condition, recorded.seed), recorded.corpus, check_folder(runner, recorded))


def check_folder(runner: Runner, recorded: Record) -> Path:
    """Return the folder for the new runs of a record that is checked."""
    return runner.folder(Job(recorded.condition, recorded.seed)) / f"check-{recorded.corpus}"
