"""Makes submission files for KILT's leaderboard: a zip with a JSON lines file of pages and answers for each test set.

KILT's scorer requires exactly one output with an `answer` for each query, and ignores empty answers. How to name and
pack the files is documented only on the leaderboard's page (EvalAI, challenge 689).
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from taco_ir.core.files import InputError, writing
from taco_ir.core.processes import log
from taco_ir.core.run_formats import missing_topics, numbered_lines, page_run
from taco_ir.core.types import Query, Run, run_id
from taco_ir.data.collection import Collection, Topics
from taco_ir.evaluation.run_files import RunFile, read_run_files, refuse_foreign_docids, sort_by_system

Outputs = dict[str, dict[str, Any]]  # qid -> the one output of its record
EARLIEST = (1980, 1, 1, 0, 0, 0)  # the first time that a zip can name
MODE = 0o644 << 16
UNIX = 3
NAMED = 3  # ids that an error names
FEW_PAGES = 5  # KILT's leaderboard shows recall@5


def build_files(collection: Collection, topics: Sequence[Topics], runs: Sequence[Path]) -> dict[str, bytes]:
    """Returns the content of each submission file by its name, from the run files of one system.

    Raises:
        InputError: for runs of several systems or of other topics, or for queries that the runs lack.
    """
    files = _files_by_topics(runs, topics)
    return {collection.topics_path(each.name).name: _one_file(collection, each, files[each.name]) for each in topics}


def _files_by_topics(paths: Sequence[Path], topics: Sequence[Topics]) -> dict[str, RunFile]:
    """Returns the run file of each of the topics. Raises: InputError for missing runs, or runs of several systems."""
    files = list(read_run_files(paths, topics).values())
    if len(systems := sort_by_system(files, topics)) > 1:
        names = f"{len(systems)} systems ({', '.join(systems)})"
        raise InputError(f"--runs {' '.join(map(str, paths))}: these are runs of {names}; give the runs of one system")
    return {name: file for file in files for name in file.runs}


def _one_file(collection: Collection, topics: Topics, file: RunFile) -> bytes:
    """Returns the submission file of one run; warns of queries with few pages. Raises: InputError for a foreign run."""
    run = file.runs[topics.name]
    if run.level == "page":
        outputs = read_outputs(file.path)
    else:
        refuse_foreign_docids(run, collection, file.path)
        run = page_run(run, collection.passages.page_of)
        outputs = build_outputs(run)
    content = build_submission(topics.queries, run, outputs, f"{file.path}, {topics.name}")
    if few := [qid for qid, ranking in run.rankings.items() if len(ranking.docids) < FEW_PAGES]:
        bare = sum(not run.rankings[qid].docids for qid in few)
        said = "%s: %d of %d queries, first %r, have fewer than %d pages, %d of them none; more --hits give more pages"
        log.warning(said, file.path, len(few), len(topics.queries), few[0], FEW_PAGES, bare)
    return content


def build_outputs(run: Run) -> Outputs:
    """Returns KILT's outputs for a run of pages: each query's pages, with an empty answer."""
    return {
        qid: {"answer": "", "provenance": [{"wikipedia_id": page} for page in ranking.docids]}
        for qid, ranking in run.rankings.items()
    }


def read_outputs(path: Path) -> Outputs:
    """Read the outputs of a KILT run that `read_kilt` accepts, by query id. Missing answers become empty answers."""
    records = (orjson.loads(line) for _, line in numbered_lines(path))
    empty = {"answer": "", "provenance": []}
    return {run_id(str(record["id"]).strip()): empty | record["output"][0] for record in records}


def build_submission(queries: Sequence[Query], run: Run, outputs: Outputs, name: str) -> bytes:
    """Returns the content of a submission file: a record for each query, in the order of the topics.

    Args:
        run: the run that the outputs come from.
        name: name of the run in error messages.

    Raises:
        InputError: for queries without a record, or records without a query, naming the first few.
    """
    try:
        missing = missing_topics(run, queries)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    if missing:
        first = ", ".join(map(repr, missing[:NAMED])) + ", ..." * (len(missing) > NAMED)
        raise InputError(
            f"{name}: {len(missing)} of {len(queries)} queries ({first}) are not in the run, and KILT needs a "
            "record for each; a TREC run leaves out queries without hits: search with --output-format kilt instead"
        )
    records = [
        {"id": query.record_id or query.qid, "input": query.text, "output": [outputs[query.qid]]} for query in queries
    ]
    return b"".join(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in records)


def write_submission(files: Mapping[str, bytes], path: Path) -> None:
    """Write files, given by name, into a zip file at `path`. Equal contents give equal bytes."""
    with writing(path, "wb") as sink, zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, EARLIEST)
            entry.compress_type, entry.external_attr, entry.create_system = zipfile.ZIP_DEFLATED, MODE, UNIX
            archive.writestr(entry, files[name])
