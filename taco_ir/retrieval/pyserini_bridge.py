"""Encoders for Pyserini's Python API and commands. They have Pyserini's interfaces, but do not import pyserini.

Import this module before Pyserini: it provides what Pyserini's import needs, which is Java and an API key (any text).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import runpy
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from taco_ir.core.files import InputError, writing_folder
from taco_ir.core.processes import log
from taco_ir.core.types import Passage, Query, Vectors
from taco_ir.encoders.model_folder import ModelFolder
from taco_ir.encoders.text_encoder import TextEncoder, load_encoder
from taco_ir.retrieval.lucene import start_jvm

ENCODER_CLASS = "taco"
CATALOGUES = "pyserini.prebuilt_index_info"
WORD = re.compile(r"[\w-]+")  # what looks like the name of a task; "question:" is a text
POOLINGS: dict[str | None, Any] = {"mean": "mean", "cls": "first", "decoder": "decoder", None: None}


class TacoQueryEncoder:
    """A query encoder for Pyserini's FaissSearcher and its flag `--encoder-class taco`.

    Args:
        encoder_dir: model folder or name; None for the encoder that comes with the package.
        prefix: Pyserini's --query-prefix: the task of the queries, if the model distinguishes tasks and this is one
            word; otherwise a text to put before each query, followed by a space as in Pyserini.
        task: name or alias of the queries' task; None: no task.
        pooling: pooling of a plain Hugging Face model: mean, cls or decoder, as for Pyserini's flag.
        l2_norm: scale vectors to length 1; only for a plain Hugging Face model.

    Raises:
        InputError: for a task that neither the model nor KILT knows.

    Examples:
        >>> encoder = taco_ir.TacoQueryEncoder(task="nq")  # FaissSearcher("index", encoder) searches with it
        >>> encoder.encode("who painted the mona lisa").shape
        (384,)
    """

    def __init__(
        self,
        encoder_dir: str | None = None,
        tokenizer_name: str | None = None,
        device: str = "cpu",
        prefix: str | None = None,
        task: str | None = None,
        pooling: str | None = None,
        l2_norm: bool = False,
        **_: Any,
    ) -> None:
        _refuse_tokenizer(tokenizer_name)
        self.encoder = _load(encoder_dir, device, pooling, l2_norm)
        tasks = self.encoder.tasks
        if prefix is not None and (prefix in tasks or (tasks and WORD.fullmatch(prefix))):
            if task is not None:
                raise InputError(f"prefix {prefix!r} names a task, and task is {task!r}; give only one of them")
            task = prefix
        elif prefix is not None:
            self.encoder.config = self.encoder.config.with_prompt(f"{prefix.rstrip()} ")
        self._task = self.encoder.resolve(task)

    def encode(self, query: str, **_: Any) -> Vectors:
        """Encode one query: float32 [D]."""
        vector_D: Vectors = self.encode_batch([query])[0]
        return vector_D

    def encode_batch(self, queries: Sequence[str]) -> Vectors:
        """Encode several queries: float32 [B, D]."""
        return self.encoder.encode_queries(queries, self._task)


class TacoDocumentEncoder:
    """A passage encoder for Pyserini's command `encode`. Its arguments mean the same as in TacoQueryEncoder."""

    def __init__(
        self,
        model_name: str | None = None,
        tokenizer_name: str | None = None,
        device: str = "cpu",
        pooling: str | None = None,
        l2_norm: bool = False,
        **_: Any,
    ) -> None:
        _refuse_tokenizer(tokenizer_name)
        self.encoder = _load(model_name, device, pooling, l2_norm)

    def encode(self, texts: Sequence[str], titles: Sequence[str] | None = None, **_: Any) -> Vectors:
        """Encode passages with the model's template: float32 [N, D].

        Without titles, only the texts are encoded. A single text is one passage, as in Pyserini's encoders.
        """
        texts = [texts] if isinstance(texts, str) else texts
        titles = [titles] if isinstance(titles, str) else titles
        named = titles if titles is not None else [""] * len(texts)
        return self.encoder.encode_passages(
            [Passage("", "", title, text) for title, text in zip(named, texts, strict=True)]
        )


def _refuse_tokenizer(name: str | None) -> None:
    if name is not None:
        raise InputError(f"--tokenizer {name!r}: the model's own tokenizer is always used; leave --tokenizer out")


def _load(model: str | None, device: str, pooling: str | None, l2_norm: bool) -> TextEncoder:
    if pooling not in POOLINGS:
        raise InputError(f"--pooling {pooling!r}; allowed: {', '.join(str(name) for name in POOLINGS if name)}")
    # a model that describes itself ignores the pooling that Pyserini sets for paths with the word `sentence`
    if model is None or ModelFolder.find(model).describes_itself:
        return load_encoder(model, device=device)
    return load_encoder(model, pooling=POOLINGS[pooling], normalize=l2_norm, device=device)


def write_encoded_queries(queries: Sequence[Query], vectors_BD: Vectors, folder: Path) -> None:
    """Write query vectors [B, D] to `embedding.pkl`, for Pyserini's `--encoded-queries`; keys are the queries' texts.

    Raises:
        InputError: if two queries with different vectors have the same text in Pyserini, which removes entity marks.
    """
    import numpy as np
    import pandas

    by_text: dict[str, int] = {}
    for row, query in enumerate(queries):
        first = by_text.setdefault(query.plain_text, row)
        if not np.allclose(vectors_BD[first], vectors_BD[row], atol=1e-5):
            raise InputError(
                f"queries {queries[first].qid!r} and {query.qid!r} differ only in their entity marks, which "
                "Pyserini removes; export them separately"
            )
    ids, texts = [query.record_id or query.qid for query in queries], [query.plain_text for query in queries]
    with writing_folder(folder) as part:
        table = pandas.DataFrame({"id": ids, "text": texts, "embedding": list(vectors_BD)})
        table.to_pickle(part / "embedding.pkl")


class _Beforehand(MetaPathFinder):
    """An import hook that calls `prepare` when a module of Pyserini is first imported; it finds no modules itself."""

    def find_spec(self, fullname: str, *_: object) -> None:
        if fullname.startswith("pyserini."):
            prepare()


class _NoCatalogues(ModuleType):
    """Replaces Pyserini's lists of indexes that it can download; all lists are empty."""

    def __getattr__(self, name: str) -> dict[str, Any]:
        if name.isupper():
            return {}
        raise AttributeError(name)


def prepare() -> None:
    """Make Pyserini importable on this machine.

    Starts Java, for which no JDK is needed, and sets the API key (any text) that Pyserini 1.6 reads on import. Without
    network, replaces the lists of indexes that Pyserini 2.4 downloads on import.

    Raises:
        InputError: if there is no Java.
    """
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Beforehand)]
    os.environ.setdefault("OPENAI_API_KEY", "unused")
    start_jvm(heap="")  # how much memory a command needs is not known
    try:
        importlib.import_module(CATALOGUES)
    except OSError as error:
        log.debug("Pyserini's indexes that can be downloaded are not known here: %s", error)
        sys.modules[CATALOGUES] = _NoCatalogues(CATALOGUES)


if not any(name.startswith("pyserini.") for name in sys.modules):
    sys.meta_path.insert(0, _Beforehand())


def _is_command(module: str) -> bool:
    """Whether `python -m module` can run the module: a file, or a package with a __main__."""
    try:
        spec = importlib.util.find_spec(module)
        return spec is not None and (
            spec.submodule_search_locations is None or importlib.util.find_spec(f"{module}.__main__") is not None
        )
    except ModuleNotFoundError:
        return False


def run_pyserini(module: str, arguments: Sequence[str]) -> None:
    """Run a Pyserini command in this process, with Java, and with `taco` as a value of `--encoder-class`."""
    prepare()
    if not _is_command(module):
        examples = "pyserini.search.faiss, pyserini.encode, pyserini.search.lucene"
        raise InputError(f"pyserini has no command {module!r}; examples: {examples}")
    from pyserini.encode import document_encoder_class_map, query_encoder_class_map

    query_encoder_class_map[ENCODER_CLASS] = TacoQueryEncoder
    document_encoder_class_map[ENCODER_CLASS] = TacoDocumentEncoder
    known = argparse.ArgumentParser.add_argument

    def add_argument(parser: argparse.ArgumentParser, *names: str, **settings: Any) -> argparse.Action:
        if "--encoder-class" in names and settings.get("choices"):
            settings["choices"] = [*settings["choices"], ENCODER_CLASS]
        return known(parser, *names, **settings)

    argparse._ActionsContainer.add_argument = add_argument  # type: ignore[method-assign,assignment]
    ours, sys.argv = sys.argv, [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        sys.argv = ours
        argparse._ActionsContainer.add_argument = known  # type: ignore[method-assign]
