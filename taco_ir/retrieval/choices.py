"""A user's choices for encoding and searching: the model and its settings, the retriever, the number of hits."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, get_args

from taco_ir.core.settings import Settings, check_value
from taco_ir.core.types import run_id
from taco_ir.encoders.config import Pooling
from taco_ir.encoders.names import FOLDER, SHIPPED
from taco_ir.encoders.text_encoder import Precision, TextEncoder, load_encoder
from taco_ir.retrieval.vectors import BLOCK_ROWS, Shard
from taco_ir.scale.engines import Engine

POOLINGS, PRECISIONS = get_args(Pooling), get_args(Precision)
DENSE, BM25, FUSION = RETRIEVERS = ("dense", "bm25", "hybrid")
WEIGHTED = "weighted-hybrid"  # the name of a hybrid with weights in files and tables
COMPARED_UP_TO = 1_000_000  # maximum number of passages for which BM25 is compared without a request
RUN_SUFFIXES = {"trec": ".trec", "kilt": ".jsonl", "msmarco": ".tsv", "dpr": ".json"}
IN_RECORDS = ("model", "pooling", "normalize", "prompt", "precision")  # settings of the model that records keep
IN_RUNS, NUMBERED = ("model", "out"), re.compile(r"(episode-)?\d+")  # names of folders inside a training's folder


@dataclass(frozen=True)
class ModelChoice(Settings):
    """The encoder that a user chose, and the settings for encoding with it.

    Attributes:
        model: folder or name of the model; None: the encoder that comes with the package.
        pooling, normalize: settings of a plain Hugging Face model; None and False for models that record their own.
        prompt: text to put before every query, instead of the model's prompts for tasks.
        passage_prompt: text to put before every passage, instead of the model's prompt for passages.
        batch_size: maximum number of texts to encode at once.
        base: folder of the backbone, for a model with adapters; None: the folder in the model's record.

    Raises:
        InputError: for a value that is not allowed.
    """

    model: str | None = None
    pooling: str | None = field(default=None, metadata={"choices": POOLINGS})
    normalize: bool = False
    prompt: str | None = None
    passage_prompt: str | None = None
    precision: str = field(default=PRECISIONS[0], metadata={"choices": PRECISIONS})
    batch_size: int = field(default=1024, metadata={"min": 1})
    device: str = "cpu"
    base: str | None = None

    def load(self) -> TextEncoder:
        """Load the encoder. Raises: InputError if the model is missing, or if a setting does not fit the model."""
        return load_encoder(**vars(self))

    @property
    def name(self) -> str:
        return model_name(self.model)


class Streamed(NamedTuple):
    """A folder of passage vectors to search without an index, and how to search it.

    Attributes:
        memory: maximum memory of this process, in bytes; None: what it uses now, and half of the free memory.
        shard: the shard of the vectors that this process searches. A later search combines the results of all shards.
        engine: function that starts the worker processes that search; None: this process searches.
        kept: folder for intermediate results; None: a folder in the data home.
    """

    folder: str
    memory: int | None = None
    shard: Shard = Shard(1, 1)
    device: str = "cpu"
    engine: Callable[[], Engine] | None = None
    kept: Path | None = None


class Shared(NamedTuple):
    """Passage vectors that worker processes first encode, if they are missing, and then search without an index.

    Attributes:
        folder: folder of the vectors; None: a folder in the data home.
        block_rows: number of passages in a block; each block is encoded by one worker.
    """

    engine: Engine
    folder: Path | None = None
    block_rows: int = BLOCK_ROWS


@dataclass(frozen=True)
class SearchRequest:
    """A user's request for a search: retriever, model, index, number of hits, and format of the run files.

    Attributes:
        retriever: "dense", "bm25" or "hybrid" (the fusion of both).
        index: folder of a dense index, or vectors to search without an index; None: an exact index in the data home,
            which is built if missing.
        form: format of the run files: "trec", "kilt", "msmarco" or "dpr".
        compare: also search with the other retrievers and score all runs; None: only if `retriever` is "dense", and
            BM25's index exists or is quick to build.
        hybrid_weights: file with the fusion weight of each task; None: fuse by reciprocal ranks.
        recall: recall that an approximate index must reach on a sample of the queries; None: no such check.

    Raises:
        InputError: for a value that is not allowed.
    """

    model: ModelChoice = ModelChoice()
    retriever: str = DENSE
    index: str | Streamed | None = None
    hits: int = 100
    form: str = "trec"
    compare: bool | None = None
    hybrid_weights: str | None = None
    recall: float | None = None

    def __post_init__(self) -> None:
        check_value("retriever", self.retriever, str, {"choices": RETRIEVERS})
        check_value("hits", self.hits, int, {"min": 1})
        check_value("form", self.form, str, {"choices": tuple(RUN_SUFFIXES)})


def model_name(model: str | Path | None) -> str:
    """Return a model's name for files and tables, without white space; for a training's folder, the training's name."""
    if model is None or Path(model) == FOLDER:
        return SHIPPED
    name = _folder_name(Path(model).resolve()) if Path(model).is_dir() else str(model).replace("/", "--")
    name = run_id(name).lstrip(".") or "model"
    return f"dense-{name}" if name in (BM25, FUSION, WEIGHTED) else name


def _folder_name(folder: Path) -> str:
    """Return a name such as `my-run` for my-run/model, or `my-run-episode-2` for my-run/episode-2/model."""
    parts = [part for part in folder.parts[1:] if part not in IN_RUNS]
    first = next((place for place in reversed(range(len(parts))) if not NUMBERED.fullmatch(parts[place])), 0)
    return "-".join(parts[first:])
