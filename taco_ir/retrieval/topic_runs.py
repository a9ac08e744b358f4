"""Searches for topics and writes run files; beside each run, a JSON file records how the run was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
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
from taco_ir.retrieval.choices import DENSE, IN_RECORDS, RETRIEVERS, RUN_SUFFIXES, SearchRequest, Streamed
from taco_ir.retrieval.retrievers import Ranker, Retrievers

TIES_WORTH_A_WORD = 0.01
SHORT = 6  # digits of a hash in a name


def search_topics(
    request: SearchRequest,
    collection: Collection,
    topics: Sequence[Topics],
    output: str | None = None,
    overwrite: bool = False,
) -> list[dict[str, Run]]:
    """Search for topics and write their runs.

    Returns for each of the topics a dict of runs by name of the retriever; the requested retriever comes first.

    Args:
        output: a run file, or a folder for several topics; None: default names in `runs`, which are overwritten.

    Raises:
        InputError: for topics that cannot be searched for, or an output made differently (without `overwrite`).
    """
    if request.compare and not any(topic.has_gold for topic in topics):
        names = " ".join(topic.name for topic in topics)
        raise InputError(f"{names} have no gold, so their runs cannot be scored; leave --compare out")
    retrievers = Retrievers.of(collection, request.model, request.index, request.hybrid_weights)
    retriever = retrievers.select(request.retriever)
    outputs = [_Output.of(request, collection, topics, retrievers, output)]
    overwrite = overwrite or output is None
    compare = _compares(request, retrievers)
    judged = [topic for topic in topics if topic.has_gold]
    if compare and output is None:  # compared runs have default names, too
        also = (replace(request, retriever=name) for name in RETRIEVERS if name != request.retriever)
        outputs += [_Output.of(each, collection, judged, retrievers, None).without_better() for each in also]
    results: list[dict[str, Run]] = []
    with ExitStack() as claims:
        for each in outputs:
            for path, record in each.files.values():
                read = partial(read_record, path)
                claims.enter_context(claim_output(path, record, overwrite, resume=True, record=read))
        if compare:
            retrievers.hybrid.check(judged)
        retriever.check(topics)
        if request.recall is not None:
            retrievers.dense.reach(request.recall, topics, request.hits)
        if not overwrite:
            outputs[0].refuse_others()
        with timed() as seconds:
            (retrievers.hybrid if compare else retriever).prepare(topics, request.hits)
        for_each = seconds() / sum(len(topic.queries) for topic in topics)
        for topic in topics:
            with timed() as seconds:
                found = retriever.search_each(topic, request.hits)
            took = seconds() + for_each * len(topic.queries)
            runs = {retriever.name: found[retriever.name]}
            passages, queries = f"{collection.passages.count:,}", len(topic.queries)
            rate = f", {queries / took:,.0f} topics/s" if queries >= took else ""
            said = "searched %s passages of %s for %s topics of %s with %s: %.2f s%s"
            log.info(said, passages, collection.name, f"{queries:,}", topic.name, retriever.name, took, rate)
            outputs[0].write(topic, runs, collection, took)
            if compare and topic.has_gold:
                runs |= retrievers.hybrid.complete_runs(found, topic, request.hits)
                for each in outputs[1:]:
                    each.write(topic, runs, collection)
            _warn_of_ties(topic, runs)
            results.append(runs)
        retrievers.hybrid.forget()
    if retriever is not retrievers.bm25 and (cut := retrievers.dense.encoder.truncated):
        log.warning("%d queries were longer than the model's limit and were cut", cut)
    return results


def search_shard(request: SearchRequest, collection: Collection, topics: Sequence[Topics]) -> None:
    """Search one shard of vectors on disk, and keep the results for the search that combines all shards.

    Raises:
        InputError: for topics that cannot be searched for.
    """
    retrievers = Retrievers.of(collection, request.model, request.index, request.hybrid_weights)
    retrievers.dense.check(topics)
    compared = _compares(request, retrievers)
    (retrievers.hybrid if compared else retrievers.select(request.retriever)).prepare(topics, request.hits)


def _compares(request: SearchRequest, retrievers: Retrievers) -> bool:
    """Whether all three retrievers are searched."""
    if request.compare is not None:
        return request.compare
    return request.retriever == DENSE and retrievers.bm25.at_hand


class _Output(NamedTuple):
    """The run files of one retriever.

    Attributes:
        files: run file, and record of what the user requested, by name of the topics.
    """

    form: str
    retriever: Ranker
    files: dict[str, tuple[Path, dict[str, Any]]]

    @classmethod
    def of(
        cls,
        request: SearchRequest,
        collection: Collection,
        topics: Sequence[Topics],
        retrievers: Retrievers,
        output: str | None,
    ) -> _Output:
        paths = _run_paths(request, collection, topics, retrievers, output)
        files = {
            topic.name: (path, _record_request(request, collection, topic))
            for topic, path in zip(topics, paths, strict=True)
        }
        return cls(request.form, retrievers.select(request.retriever), files)

    def without_better(self) -> _Output:
        """Leave out files that already hold more hits for the same topics and passages, so that these files stay."""
        kept = {}
        for name, (path, record) in self.files.items():
            there = read_record(path)
            same = all(there.get(key) == record[key] for key in ("collection", "topics", "retriever", "format"))
            if not same or there.get("hits", 0) <= record["hits"]:
                kept[name] = (path, record)
        return self._replace(files=kept)

    @property
    def maker(self) -> dict[str, Any]:
        return {"system": self.retriever.name, "inputs": self.retriever.inputs}

    def refuse_others(self) -> None:
        """Raise InputError for runs that were made with another model or index."""
        for path, _ in self.files.values():
            if record_path(path).is_file():  # a search that was stopped has no record
                refuse_other(path, read_record(path), self.maker)

    def write(
        self, topic: Topics, runs: Mapping[str, Run], collection: Collection, seconds: float | None = None
    ) -> None:
        """Write this retriever's run of these topics, and the record of how it was made; log the file's name."""
        if topic.name not in self.files:
            return
        (path, record), run = self.files[topic.name], runs[self.retriever.name]
        record_path(path).unlink(missing_ok=True)  # so that a run never has another run's record
        if self.form == "dpr":
            docids = dict.fromkeys(docid for ranking in run.rankings.values() for docid in ranking.docids)
            write_dpr(run, topic.queries, collection.passages.get(list(docids)), path)
        else:
            write_run(run, path, self.form, topic.queries, collection.passages.page_of, self.retriever.name)
        took = {} if seconds is None else {"seconds": round(seconds, 3)}
        write_json(record_path(path), record | self.maker | took)
        log.info("run file: %s", path)


def default_folder(collection: Collection) -> Path:
    """Return `runs/<name of the collection>`, with a short hash if this folder has runs of another collection."""
    plain, ours = Path("runs") / collection.name, collection.passages.fingerprint
    for path in plain.glob("*.json"):
        if (run := path.with_suffix("")).is_file():  # the JSON file is the record of this run
            with suppress(InputError):
                made = check_type(read_record(run), RunRecord, str(path), others=True)
                if made.collection.fingerprint not in ("", ours):
                    return plain.with_name(f"{plain.name}-{ours[:SHORT]}")
    return plain


def _run_paths(
    request: SearchRequest, collection: Collection, topics: Sequence[Topics], retrievers: Retrievers, output: str | None
) -> list[Path]:
    """Return the path of each run. A default name that another model's run has gets a hash, as does the retriever."""
    suffix = RUN_SUFFIXES[request.form]
    if output is not None:
        return named_paths(output, topics, suffix)
    retriever: Ranker = retrievers.select(request.retriever)
    folder = default_folder(collection)
    plain = [folder / f"{topic.name}.{retriever.name}{suffix}" for topic in topics]
    if retriever is retrievers.bm25 or not any(path.exists() for path in plain):
        return plain
    paths = unlike_others(plain, [retrievers.dense.encoder.fingerprint], suffix)
    retriever.name = paths[0].name.removesuffix(suffix).removeprefix(f"{topics[0].name}.")
    return paths


def _record_request(request: SearchRequest, collection: Collection, topic: Topics) -> dict[str, Any]:
    """Return a record of what the user requested; a run with an equal record may be written again."""
    weights = {"hybrid_weights": request.hybrid_weights} if request.hybrid_weights is not None else {}
    index = request.index
    place = {"vectors": index.folder} if isinstance(index, Streamed) else {"index": index}
    return {
        "taco_ir": taco_ir.__version__,
        **made_of(collection, topic),
        "retriever": request.retriever,
        "flags": {name: getattr(request.model, name) for name in IN_RECORDS} | place | weights,
        "hits": request.hits,
        "format": request.form,
    }


def _warn_of_ties(topic: Topics, runs: dict[str, Run]) -> None:
    for name, run in runs.items():
        if run.tied_share > TIES_WORTH_A_WORD:
            said = "%s with %s: %.1f %% of the hits score the same as the hit above them; ties are ordered by docid"
            log.warning(said, topic.name, name, 100 * run.tied_share)


class Made(NamedTuple):
    """A collection or topics in a run's record: the name, and a fingerprint of the content."""

    name: str = ""
    fingerprint: str = ""


class Inputs(NamedTuple):
    """What a retriever used, in a run's record: its encoder or, for a fusion, the inputs of the fused retrievers."""

    encoder: str = ""
    of: tuple[dict[str, Any], ...] = ()


class RunRecord(NamedTuple):
    """Keys that are read from a run's record, the JSON file on how the run was made."""

    collection: Made = Made()
    topics: Made = Made()
    system: str = ""
    inputs: Inputs = Inputs()
    reader: str = ""


def record_path(run: Path) -> Path:
    """Return the path of a run's record: the JSON file beside the run on how it was made."""
    return run.with_name(run.name + ".json")


def made_of(collection: Collection, topics: Topics) -> dict[str, Any]:
    """Return names and fingerprints of a collection and of topics, in the form of a run's record."""
    return {
        "collection": {"name": collection.name, "fingerprint": collection.passages.fingerprint},
        "topics": {"name": topics.name, "fingerprint": topics.fingerprint},
    }


def find_foreign(record: Mapping[str, Any], collection: Collection, topics: Topics) -> str:
    """Describe how a run's record differs from this collection or from these topics; "" if it does not differ.

    Topics of another name are not compared, since one run file may be for several topics.
    """
    ours = made_of(collection, topics)
    for key in ("collection", "topics"):
        theirs = record.get(key, ours[key])
        if key == "topics" and theirs["name"] != topics.name:
            continue
        if theirs["fingerprint"] != ours[key]["fingerprint"]:
            said = f"made of {key} {theirs['name']} with fingerprint {theirs['fingerprint']}"
            return f"{said}, {ours[key]['name']} has {ours[key]['fingerprint']}"
    return ""


def models_of(record: Mapping[str, Any]) -> list[str]:
    """Return fingerprints of the models in a run's record: encoders, also of fused retrievers, and a reader."""
    inputs = record.get("inputs", {})
    found = [str(each["encoder"]) for each in (inputs, *inputs.get("of", ())) if "encoder" in each]
    return [*found, *([str(record["reader"])] if "reader" in record else [])]


def unlike_others(paths: Sequence[Path], models: Sequence[str], suffix: str) -> list[Path]:
    """Return the paths, with a short hash of `models` in all names if another model's run has one of the names."""
    if all(not path.exists() or models_of(read_record(path)) in ([], list(models)) for path in paths):
        return list(paths)
    ending = f"-{fingerprint(list(models))[:SHORT]}{suffix}"
    return [path.with_name(path.name.removesuffix(suffix) + ending) for path in paths]


def read_record(run: Path) -> Mapping[str, Any]:
    """Read a run's record; empty if it has none. Raises: InputError if the record is not valid JSON."""
    path = record_path(run)
    if not path.is_file():
        return {}
    found = read_json(path, dict[str, Any])
    check_type(found, RunRecord, str(path), others=True)
    return found


def named_paths(output: str, topics: Sequence[Topics], suffix: str) -> list[Path]:
    """Return the run file of each of the topics: `output` itself for one, files in the folder `output` for several.

    Raises:
        InputError: if there are several topics, but `output` is a file.
    """
    path = Path(output)
    if len(topics) == 1 and not output.endswith("/") and not path.is_dir():
        return [path]
    if path.is_file():
        raise InputError(f"--output {path} is a file; for {len(topics)} topics give a folder")
    return [path / f"{topic.name}{suffix}" for topic in topics]
