"""Inside Pyserini our encoders find what our own search finds: in its Python API and in its command lines."""

from __future__ import annotations

import argparse
import json
import pickle
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
from verbs import module_of, shell, without_java, write_lines

from taco_ir import encode, export, index
from taco_ir.core.files import InputError
from taco_ir.core.run_formats import read_trec
from taco_ir.core.types import Ranking, Run, Vectors
from taco_ir.data.collection import PACKAGE, open_collection
from taco_ir.encoders.config import EncoderConfig, Pooling
from taco_ir.encoders.text_encoder import load_encoder
from taco_ir.retrieval import pyserini_bridge as ours
from taco_ir.retrieval.pyserini_bridge import TacoDocumentEncoder, TacoQueryEncoder, run_pyserini

search = module_of("search")

HITS = "50"
TOLERANCE = 1e-5
NQ = next(folder for folder in (PACKAGE / "topics", PACKAGE.parent / "topics") if folder.is_dir()) / "nq-dev.jsonl"
PROMPTS = {"nq": "which page of the year answers ", "fever": "true or false : "}
KINDS = ("mean", "decoder", "prompted")


class Checkpoint:
    """A self-describing model folder, the index that our verbs make with it, and our run of nq-dev."""

    def __init__(self, source: Path, pooling: Pooling, folder: Path, prompts: dict[str, str]) -> None:
        self.model, self.index, self.folder = folder / "model", folder / "index", folder
        shutil.copytree(source, self.model)
        EncoderConfig(pooling, normalize=True, prompts=prompts, query_length=128, passage_length=128).save(self.model)
        encode.main(["--model", str(self.model), "--output", str(folder / "vectors")])
        index.main(["--vectors", str(folder / "vectors"), "--output", str(self.index)])
        self.run = self.search("nq-dev")

    def search(self, topics: str, *flags: str) -> Run:
        path = self.folder / f"{topics}.trec"
        model, index, output = ["--model", str(self.model)], ["--index", str(self.index)], ["--output", str(path)]
        search.main(["--topics", topics, *model, *index, "--hits", HITS, "--no-compare", *output, *flags])
        return read_trec(path)

    def cli(self, *flags: str, topics: Path = NQ) -> Run:
        """The run of Pyserini's own command line."""
        output = self.folder / "theirs.trec"
        output.unlink(missing_ok=True)
        given = ["--index", str(self.index), "--topics", str(topics), "--topics-format", "kilt", "--hits", HITS]
        run_pyserini("pyserini.search.faiss", [*given, "--output", str(output), "--device", "cpu", *flags])
        return read_trec(output)


@pytest.fixture(scope="module")
def checkpoints(tiny_bert: Path, tiny_t5: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    folder = tmp_path_factory.mktemp
    return {
        "mean": Checkpoint(tiny_bert, "mean", folder("mean"), {}),
        "decoder": Checkpoint(tiny_t5, "decoder", folder("decoder"), {}),
        "prompted": Checkpoint(tiny_bert, "mean", folder("prompted"), PROMPTS),
    }


@pytest.fixture(scope="module")
def faiss_searcher() -> Any:
    """Pyserini's searcher class; importing it takes long."""
    from taco_ir.retrieval.lucene import start_jvm

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "unused")
        start_jvm()
        from pyserini.search.faiss import FaissSearcher
    return FaissSearcher


@pytest.fixture(autouse=True)
def unchanged() -> Iterator[None]:
    """A Pyserini command line leaves argparse and the process' arguments as they were."""
    before = argparse.ArgumentParser.add_argument, list(sys.argv)
    yield
    assert (argparse.ArgumentParser.add_argument, sys.argv) == before


def same(ours: Run, theirs: Run) -> None:
    """The same docids with the same scores, in the same order but for scores within the tolerance."""
    assert ours.rankings.keys() == theirs.rankings.keys() and ours.rankings
    for qid, ranking in ours.rankings.items():
        found = dict(zip(theirs.rankings[qid].docids, theirs.rankings[qid].scores.tolist(), strict=True))
        assert len(found) == len(ranking.docids) == int(HITS), qid
        # at the cut, passages within the tolerance may stand for each other
        scores = [found.get(docid, ranking.scores[-1]) for docid in ranking.docids]
        np.testing.assert_allclose(scores, ranking.scores, atol=TOLERANCE, rtol=0, err_msg=qid)
        assert all(first >= second - TOLERANCE for first, second in pairwise(scores)), qid


def differ(one: Run, other: Run) -> bool:
    return any(one.rankings[qid].docids != other.rankings[qid].docids for qid in one.rankings)


def as_run(results: Iterable[tuple[str, Any]]) -> Run:
    return Run({qid: Ranking.of([hit.docid for hit in hits], [hit.score for hit in hits]) for qid, hits in results})


@pytest.mark.parametrize("kind", KINDS)
def test_faiss_searcher(kind: str, checkpoints: dict[str, Checkpoint], faiss_searcher: Any) -> None:
    """One by one and in a batch."""
    checkpoint, queries = checkpoints[kind], open_collection("sample").load_topics("nq-dev").queries
    encoder = TacoQueryEncoder(str(checkpoint.model), task="nq")
    searcher = faiss_searcher(str(checkpoint.index), encoder)
    same(checkpoint.run, as_run((query.qid, searcher.search(query.text, k=int(HITS))) for query in queries))
    texts, qids = [query.text for query in queries], [query.qid for query in queries]
    same(checkpoint.run, as_run(searcher.batch_search(texts, qids, k=int(HITS)).items()))


def test_plain_folder_takes_pyserinis_flags(
    tiny_bert: Path, checkpoints: dict[str, Checkpoint], faiss_searcher: Any
) -> None:
    queries = open_collection("sample").load_topics("nq-dev").queries
    encoder = TacoQueryEncoder(str(tiny_bert), pooling="mean", l2_norm=True)
    searcher = faiss_searcher(str(checkpoints["mean"].index), encoder)
    same(checkpoints["mean"].run, as_run((query.qid, searcher.search(query.text, k=int(HITS))) for query in queries))


def export_queries(checkpoint: Checkpoint, topics: str, folder: Path) -> str:
    output = ["--what", "queries", "--output", str(folder / "x")]
    export.main(["--model", str(checkpoint.model), "--topics", topics, *output])
    return str(folder / "x" / "queries" / topics)


@pytest.mark.parametrize("kind", KINDS)
def test_exported_queries_in_the_unmodified_cli(kind: str, checkpoints: dict[str, Checkpoint], tmp_path: Path) -> None:
    checkpoint = checkpoints[kind]
    same(checkpoint.run, checkpoint.cli("--encoded-queries", export_queries(checkpoint, "nq-dev", tmp_path)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", ["1", "8"])
def test_our_class_in_the_cli(kind: str, batch: str, checkpoints: dict[str, Checkpoint]) -> None:
    flags = ["--batch-size", batch, *(["--query-prefix", "nq"] if kind == "prompted" else [])]
    encoder = ["--encoder-class", "taco", "--encoder", str(checkpoints[kind].model)]
    same(checkpoints[kind].run, checkpoints[kind].cli(*encoder, *flags))


def test_query_prefix_is_a_task_or_a_text(checkpoints: dict[str, Checkpoint]) -> None:
    """A prompt's task gives its prompt; any other text is put before the query with a space, as --prompt would."""
    prompted = checkpoints["prompted"]
    flags = ["--encoder-class", "taco", "--encoder", str(prompted.model), "--query-prefix"]
    assert differ(prompted.run, checkpoints["mean"].run) and differ(prompted.run, prompted.cli(*flags, "fever"))
    same(
        prompted.search("nq-dev", "--prompt", "which page of the year answers ", "--overwrite"),
        prompted.cli(*flags, "which page of the year answers"),
    )
    with pytest.raises(InputError, match="the model has prompts for fever, nq, but not for task None"):
        prompted.cli(*flags[:-1])


def test_exported_entity_queries_keep_their_marks(checkpoints: dict[str, Checkpoint], tmp_path: Path) -> None:
    """Pyserini drops the marks and looks the vector up by what is left; the vector is that of the marked text."""
    checkpoint = checkpoints["mean"]
    folder = export_queries(checkpoint, "aidayago2-dev", tmp_path)
    run = checkpoint.cli("--encoded-queries", folder, topics=NQ.with_name("aidayago2-dev.jsonl"))
    same(checkpoint.search("aidayago2-dev"), run)
    table = pickle.loads((Path(folder) / "embedding.pkl").read_bytes())
    assert not table["text"].str.contains("_ENT").any() and len(table) == 19


@pytest.mark.parametrize("kind", ["mean", "decoder"])
def test_document_encoder_in_the_cli(kind: str, checkpoints: dict[str, Checkpoint], tmp_path: Path) -> None:
    """The vectors are our encoder's, title included, and those of our index but for fp16."""
    from taco_ir.retrieval.vectors import VectorSet

    checkpoint, passages = checkpoints[kind], list(open_collection("sample").passages.read())[:40]
    records = [{"id": p.docid, "title": p.title, "text": p.text} for p in passages]
    source = ["input", "--corpus", str(write_lines(tmp_path / "corpus.jsonl", records)), "--fields", "title", "text"]
    output = ["output", "--embeddings", str(tmp_path / "vectors")]
    encoder = ["encoder", "--encoder", str(checkpoint.model), "--encoder-class", "taco", "--fields", "title", "text"]
    run_pyserini("pyserini.encode", [*source, *output, *encoder, "--device", "cpu", "--batch-size", "16"])
    (written,) = (tmp_path / "vectors").iterdir()
    records = [json.loads(line) for line in written.read_text().splitlines()]
    theirs_ND = np.array([record["vector"] for record in records])
    ours_ND: Vectors = load_encoder(str(checkpoint.model)).encode_passages(passages)
    assert [record["id"] for record in records] == [p.docid for p in passages]
    np.testing.assert_allclose(theirs_ND, ours_ND, atol=TOLERANCE, rtol=0)
    blocks_ND, docids = next(VectorSet(checkpoint.folder / "vectors").blocks())
    assert docids[:40] == [p.docid for p in passages]
    np.testing.assert_allclose(theirs_ND, blocks_ND[:40].astype(np.float32), atol=1e-3, rtol=0)
    without = TacoDocumentEncoder(str(checkpoint.model)).encode([p.text for p in passages])
    assert np.abs(without - ours_ND).max() > 1e-3


def test_the_exported_flags_work_in_a_fresh_process_without_java(
    checkpoints: dict[str, Checkpoint], tmp_path: Path
) -> None:
    """On a machine where PATH has neither Java nor a key is set: the line as it was written, with its files."""
    checkpoint = checkpoints["mean"]
    export.main(["--model", str(checkpoint.model), "--what", "huggingface", "--output", str(tmp_path / "x")])
    lines = (tmp_path / "x" / "huggingface" / "pyserini-flags.txt").read_text(encoding="utf-8").splitlines()
    (line,) = (line for line in lines if "pyserini.search.faiss" in line and not line.startswith("#"))
    for name, path in {"INDEX": checkpoint.index, "TOPICS": NQ, "RUN": tmp_path / "run.trec", "100": HITS}.items():
        line = line.replace(f" {name} ", f" {path} ")
    shell(line, tmp_path, without_java(tmp_path / "bin"))
    same(checkpoint.run, read_trec(tmp_path / "run.trec"))


def test_pyserini_is_imported_without_its_lists_of_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pyserini 2.4 fetches them from GitHub on import; a machine without network has none, and all else works."""
    ours.start_jvm()  # which imports modules, too
    found: list[str] = []

    def unreachable(name: str) -> None:
        found.append(name)
        raise URLError("no network")

    monkeypatch.setattr(ours.importlib, "import_module", unreachable)
    monkeypatch.setitem(sys.modules, ours.CATALOGUES, sys)  # what is there comes back afterwards
    ours.prepare()
    lists = sys.modules[ours.CATALOGUES]
    assert found == [ours.CATALOGUES] and lists.TF_INDEX_INFO == {} and not hasattr(lists, "download")


@pytest.mark.parametrize(
    "module", ["pyserini.nothing", "pyserini.search.nothing", "pyserini.eval", "pyserini.encode._base.x"]
)
def test_unknown_module_is_one_line(module: str) -> None:
    said = f"pyserini has no command '{re.escape(module)}'; examples: pyserini.search.faiss"
    with pytest.raises(InputError, match=said) as error:
        run_pyserini(module, [])
    assert "\n" not in str(error.value)


def test_mistakes_in_a_pyserini_command_undo_the_patch(capsys: pytest.CaptureFixture[str]) -> None:
    """`unchanged` holds where the command line ends early as well."""
    with pytest.raises(SystemExit):
        run_pyserini("pyserini.search.faiss", ["--encoder-class", "nobody"])
    assert "'nobody'" in (told := capsys.readouterr().err) and "'taco'" in told
    parser = argparse.ArgumentParser()
    assert parser.add_argument("--encoder-class", choices=["auto"]).choices == ["auto"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"tokenizer_name": "x"}, "--tokenizer 'x': the model's own tokenizer is always used"),
        ({"pooling": "last"}, "--pooling 'last'; allowed: mean, cls, decoder"),
    ],
)
def test_encoders_refuse_what_they_cannot_be(flags: dict[str, str], said: str) -> None:
    for kind in (TacoQueryEncoder, TacoDocumentEncoder):
        with pytest.raises(InputError, match=said):
            kind("anything", **flags)  # type: ignore[arg-type]
