"""Searches topics and writes their runs, each with a record of what made it in a file beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import taco_ir
from taco_ir.core.dpr_runs import write_dpr
from taco_ir.core.files import InputError, check_type, read_json, write_json
from taco_ir.core.hashes import fingerprint
from taco_ir.core.outputs import claim_output, refuse_other
from taco_ir.core.processes import log, timed
from taco_ir.core.run_formats import write_run
from taco_ir.core.types import Run
from taco_ir.data.collection import Collection, Topics
from taco_ir.retrieval.choices import COMPARED_UP_TO, RUN_SUFFIXES, SearchRequest
from taco_ir.retrieval.retrievers import Retriever, Retrievers

TIES_WORTH_A_WORD = 0.01
SHORT = 6  # digits of a hash in a name
IN_RECORDS = ("model", "pooling", "normalize", "prompt", "precision")  # settings of the model that records keep


def search_topics(
    request: SearchRequest,
    collection: Collection,
    topics: Sequence[Topics],
    output: str | None = None,
    overwrite: bool = False,
) -> list[dict[str, Run]]:
    """Search for each of the topics and write its run; return runs by retriever, the requested one first.

    Args:
        output: a file, or a folder for several topics; None: default names in `runs`, which are overwritten.

    Raises:
        InputError: for topics that cannot be searched for, or an output that was made otherwise (without `overwrite`).
    """
    if request.compare and not any(topic.has_gold for topic in topics):
        names = " ".join(topic.name for topic in topics)
        raise InputError(f"--compare goes with evidence to score against; {names} have none")
    retrievers = Retrievers.of(collection, request.model, request.index)
    retriever = retrievers.select(request.retriever)
    paths = _run_paths(request, collection, topics, retrievers, output)
    requested = [_record_request(request, collection, topic) for topic in topics]
    overwrite = overwrite or output is None
    compare = request.compare
    if compare is None:
        compare = retriever is retrievers.dense and (
            retrievers.bm25.built or collection.passages.count <= COMPARED_UP_TO
        )
    results: list[dict[str, Run]] = []
    with ExitStack() as claims:
        for path, record in zip(paths, requested, strict=True):
            claims.enter_context(claim_output(path, record, overwrite, resume=True, record=partial(read_record, path)))
        if compare:
            retrievers.hybrid.check([topic for topic in topics if topic.has_gold])
        retriever.check(topics)
        maker = {"system": retriever.name, "inputs": retriever.inputs}
        for path in paths:
            if record_path(path).is_file() and not overwrite:  # a stopped search has none
                refuse_other(path, read_record(path), maker)
        for topic, path, record in zip(topics, paths, requested, strict=True):
            with timed() as seconds:
                found = retriever.search_each(topic, request.hits)
            took = seconds()
            runs = {retriever.name: found[retriever.name]}
            record_path(path).unlink(missing_ok=True)  # so that a run never has another's record
            run, page_of = runs[retriever.name], collection.passages.page_of
            if request.form == "dpr":
                docids = dict.fromkeys(docid for ranking in run.rankings.values() for docid in ranking.docids)
                write_dpr(run, topic.queries, collection.passages.get(list(docids)), path)
            else:
                write_run(run, path, request.form, topic.queries, page_of, retriever.name)
            write_json(record_path(path), record | maker | {"seconds": round(took, 3)})
            passages, queries = f"{collection.passages.count:,}", len(topic.queries)
            said = "searched %s passages of %s for %s topics of %s with %s: %.2f s, %.0f topics/s"
            rate = queries / took
            log.info(said, passages, collection.name, f"{queries:,}", topic.name, retriever.name, took, rate)
            log.info("run file: %s", path)
            if compare and topic.has_gold:
                runs |= retrievers.hybrid.complete_runs(found, topic, request.hits)
            _warn_of_ties(topic, runs)
            results.append(runs)
    if retriever is not retrievers.bm25 and (cut := retrievers.dense.encoder.truncated):
        log.warning("%d queries were longer than the model's limit and cut", cut)
    return results


def _run_paths(
    request: SearchRequest, collection: Collection, topics: Sequence[Topics], retrievers: Retrievers, output: str | None
) -> list[Path]:
    """Where each run goes. If a default name has another model's run, path and retriever get a hash in their names."""
    suffix = RUN_SUFFIXES[request.form]
    if output is not None:
        return named_paths(output, topics, suffix)
    retriever: Retriever = retrievers.select(request.retriever)
    plain = [Path("runs") / collection.name / f"{topic.name}.{retriever.name}{suffix}" for topic in topics]
    if retriever is retrievers.bm25 or not any(path.exists() for path in plain):
        return plain
    paths = unlike_others(plain, [retrievers.dense.encoder.fingerprint], suffix)
    retriever.name = paths[0].name.removesuffix(suffix).removeprefix(f"{topics[0].name}.")
    return paths


def _record_request(request: SearchRequest, collection: Collection, topic: Topics) -> dict[str, Any]:
    """What the user requested; a run with an equal record may be written again."""
    return {
        "taco_ir": taco_ir.__version__,
        **made_of(collection, topic),
        "retriever": request.retriever,
        "flags": {name: getattr(request.model, name) for name in IN_RECORDS} | {"index": request.index},
        "hits": request.hits,
        "format": request.form,
    }


def _warn_of_ties(topic: Topics, runs: dict[str, Run]) -> None:
    for name, run in runs.items():
        if run.tied_share > TIES_WORTH_A_WORD:
            said = "%s with %s: %.1f %% of neighbouring scores are equal; ties are ordered by docid, descending"
            log.warning(said, topic.name, name, 100 * run.tied_share)


class Made(NamedTuple):
    """Something by name and content."""

    name: str = ""
    fingerprint: str = ""


class Inputs(NamedTuple):
    """What a retriever ranked with: an encoder, or those of the retrievers that it fuses."""

    encoder: str = ""
    of: tuple[dict[str, Any], ...] = ()


class RunRecord(NamedTuple):
    """The keys that are read of the record beside a run."""

    collection: Made = Made()
    topics: Made = Made()
    system: str = ""
    inputs: Inputs = Inputs()
    reader: str = ""


def record_path(run: Path) -> Path:
    """The file beside a run that records what made it."""
    return run.with_name(run.name + ".json")


def made_of(collection: Collection, topics: Topics) -> dict[str, Any]:
    """The collection and topics of a run, by content, as in its record."""
    return {
        "collection": {"name": collection.name, "fingerprint": collection.passages.fingerprint},
        "topics": {"name": topics.name, "fingerprint": topics.fingerprint},
    }


def models_of(record: Mapping[str, Any]) -> list[str]:
    """Fingerprints of the models in a record: encoders, also those inside a fusion, and a reader."""
    inputs = record.get("inputs", {})
    found = [str(each["encoder"]) for each in (inputs, *inputs.get("of", ())) if "encoder" in each]
    return [*found, *([str(record["reader"])] if "reader" in record else [])]


def unlike_others(paths: Sequence[Path], models: Sequence[str], suffix: str) -> list[Path]:
    """Add a short hash of the models to default names if another model's run has one of these names."""
    if all(not path.exists() or models_of(read_record(path)) in ([], list(models)) for path in paths):
        return list(paths)
    ending = f"-{fingerprint(list(models))[:SHORT]}{suffix}"
    return [path.with_name(path.name.removesuffix(suffix) + ending) for path in paths]


def read_record(run: Path) -> Mapping[str, Any]:
    """Read the record beside a run, empty if there is none. Raises: InputError if it is not a JSON object."""
    path = record_path(run)
    if not path.is_file():
        return {}
    found = read_json(path, dict[str, Any])
    check_type(found, RunRecord, str(path), others=True)
    return found


def named_paths(output: str, topics: Sequence[Topics], suffix: str) -> list[Path]:
    """Where the output of each of the topics goes if the user names it: a file for one, a folder for several.

    Raises:
        InputError: for several topics and a file.
    """
    path = Path(output)
    if len(topics) == 1 and not output.endswith("/") and not path.is_dir():
        return [path]
    if path.is_file():
        raise InputError(f"--output {path} is a file; for {len(topics)} topics give a folder")
    return [path / f"{topic.name}{suffix}" for topic in topics]
