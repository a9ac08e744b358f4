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
COMPARED_UP_TO = 1_000_000  # passages up to which a BM25 index is built without being asked for
RUN_SUFFIXES = {"trec": ".trec", "kilt": ".jsonl", "msmarco": ".tsv", "dpr": ".json"}
IN_RECORDS = ("model", "pooling", "normalize", "prompt", "precision")  # settings of the model that records keep
IN_RUNS, NUMBERED = ("model", "out"), re.compile(r"(episode-)?\d+")  # names of folders inside a training's


@dataclass(frozen=True)
class ModelChoice(Settings):
    """A model by folder or name, with settings for encoding.

    Attributes:
        model: None for the encoder that comes with the package.
        pooling, normalize: for a plain Hugging Face model; leave None and False if the folder records them.
        prompt: put before every query instead of the model's own prompt for its task.
        passage_prompt: put before every passage instead of the model's own prompt for passages.
        batch_size: maximum number of texts to encode at once.
        base: for a model with adapters, the folder of its backbone, if that has moved.

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
        """Load the encoder. Raises: InputError for a missing model, or settings that do not fit it."""
        return load_encoder(**vars(self))

    @property
    def name(self) -> str:
        return model_name(self.model)


class Streamed(NamedTuple):
    """Vectors on disk that are searched without an index.

    Attributes:
        memory: maximum memory of the process, in bytes; None: half of what is free.
        shard: the part that this process searches; its results are kept until a search combines those of all parts.
        engine: opens the engine whose workers search; None: search in this process.
        kept: the folder of what was found before the search ends; None: in the data home.
    """

    folder: str
    memory: int | None = None
    shard: Shard = Shard(1, 1)
    device: str = "cpu"
    engine: Callable[[], Engine] | None = None
    kept: Path | None = None


class Shared(NamedTuple):
    """Vectors that the workers of an engine encode, where they are missing, and then search without an index.

    Attributes:
        folder: of the vectors; None: one in the data home.
        block_rows: passages of a block, which one worker encodes.
    """

    engine: Engine
    folder: Path | None = None
    block_rows: int = BLOCK_ROWS


@dataclass(frozen=True)
class SearchRequest:
    """A search for topics or for one query.

    Attributes:
        index: a folder of a dense index, or vectors without one; None for an exact index that is built and kept under
            the data home.
        form: format of the run files to write.
        compare: score BM25 and the fusion as well; None: if that takes little time.
        hybrid_weights: a file with the fusion's weight for each task; None: fuse by reciprocal ranks.
        recall: recall that an approximate index must reach on a sample of the queries; None: search as set before.

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
    """A model's name in files and tables, as one word; for the folder of a training, the training's name."""
    if model is None or Path(model) == FOLDER:
        return SHIPPED
    name = _folder_name(Path(model).resolve()) if Path(model).is_dir() else str(model).replace("/", "--")
    name = run_id(name).lstrip(".") or "model"
    return f"dense-{name}" if name in (BM25, FUSION, WEIGHTED) else name


def _folder_name(folder: Path) -> str:
    """`my-run` of my-run/model, `my-run-episode-2` of my-run/episode-2/model, `taco-1` of taco/1/out/model."""
    parts = [part for part in folder.parts[1:] if part not in IN_RUNS]
    first = next((place for place in reversed(range(len(parts))) if not NUMBERED.fullmatch(parts[place])), 0)
    return "-".join(parts[first:])
