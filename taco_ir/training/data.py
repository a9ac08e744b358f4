"""The data of a training: each task's examples, their negatives, which are mined where needed, and validation pools."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Container, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taco_ir.core.files import InputError, read_json
from taco_ir.core.processes import log
from taco_ir.core.tasks import TopicsName, resolve_task
from taco_ir.data.collection import Collection, Topics, open_collection
from taco_ir.data.examples import TrainExample, read_sampled_examples
from taco_ir.data.topics import plain_text
from taco_ir.encoders.model_folder import Kind, ModelFolder
from taco_ir.negatives.file import (
    Negatives,
    given_negatives,
    read_negatives,
    read_sources,
    refuse_other_collection,
    with_negatives,
)
from taco_ir.negatives.filters import MiningSettings
from taco_ir.negatives.miner import fingerprint_of, mine
from taco_ir.retrieval.choices import ModelChoice
from taco_ir.retrieval.retrievers import BM25Retriever, DenseRetriever, build_dense
from taco_ir.retrieval.vectors import Recipe
from taco_ir.training.batches import divide_batch
from taco_ir.training.folder import inputs_of, refuse_other_inputs
from taco_ir.training.sampling import TaskSampler, build_samplers
from taco_ir.training.settings import (
    NO_FILES,
    NOTHING,
    BatchSettings,
    EncoderSettings,
    NegativeSettings,
    RunSettings,
    ValidationSettings,
)
from taco_ir.training.validation import Pool, build_pool, sample_queries

if TYPE_CHECKING:
    from taco_ir.training.processes import Processes

POOL_FILE = "validation.jsonl"
POOL_DEPTH = 100  # BM25 hits of a query from which a validation pool takes its hard passages


class TrainingData:
    """The collection and tasks of a training, and the negatives and pools that it mines under `output`.

    Only the first process mines; the others wait and read the files.

    Raises:
        InputError: for tasks that the collection does not have.
    """

    def __init__(
        self,
        run: RunSettings,
        encoder: EncoderSettings,
        reading: tuple[str, ...],
        validation: ValidationSettings,
        output: Path,
        processes: Processes,
    ) -> None:
        self.run = run
        self.encoder = encoder
        self.validation = validation
        self.output = output
        self.processes = processes
        self.collection: Collection = open_collection(run.collection)
        self._read: dict[str, list[TrainExample]] = {}
        self.tasks = _resolve_tasks(run.tasks, self.collection)
        self.reading = self.tasks if reading == ("all",) else _resolve_tasks(reading, self.collection)

    def check_shares(self, batch: BatchSettings) -> None:
        """Raise InputError for shares of a batch that do not fit the tasks."""
        if self.tasks:
            divide_batch(batch, [1] * len(self.tasks))

    def check_negatives(self, source: str, hard_pools: bool) -> None:
        """Raise InputError where negatives of this source or hard passages of pools could be neither mined nor read."""
        if source == "bm25" or hard_pools:
            BM25Retriever(self.collection).check(())
        if source not in NO_FILES:
            refuse_other_collection(Path(source), read_sources(Path(source)), self.collection.passages.fingerprint)

    def say(self, text: str) -> None:
        """Print on stderr, in the first process."""
        if self.processes.first:
            print(text, file=sys.stderr)

    def refuse_other_inputs(self, sources: Iterable[str]) -> None:
        """Raise InputError where passages, topics, base model or negatives have changed since the training began.

        Args:
            sources: of the negatives of all episodes.
        """
        splits = dict.fromkeys(("train", self.validation.validate_on))
        topics = [TopicsName(task, split) for split in splits for task in (*self.tasks, *self.reading)]
        files = [source for source in sources if source not in NO_FILES]
        model = ModelFolder.find(self.run.model).path
        refuse_other_inputs(self.output, inputs_of(self.collection, topics, model, files))

    def load_negatives(
        self, source: NegativeSettings, folder: Path, model: Path, readable: Mapping[str, Container[str]] | None = None
    ) -> Negatives | None:
        """Read the negatives of an episode in `folder`, after mining them where they are not there; None without any.

        Args:
            model: the model at the episode's start.
            readable: by task, queries of tasks of reading, which retrieval does not train on.
        """
        if source.negatives == "none":
            return None
        own = {task: {example.qid for example in self.examples(task)} for task in self.tasks}
        used = {**own, **(readable or {})}
        names = {task: str(TopicsName(task, "train")) for task in used}
        if source.negatives == "given":
            topics = [self.collection.load_topics(names[task], qids) for task, qids in used.items()]
            return given_negatives(self.collection.passages.fingerprint, topics)
        if (path := self.mined_path(source, folder)) is None:
            wanted = {names[task]: qids for task, qids in used.items()}
            return read_negatives(Path(source.negatives), self.collection.passages.fingerprint, wanted)
        if self.processes.first:
            topics = [self.collection.load_topics(names[task], qids) for task, qids in used.items()]
            settings = _mining_settings(source)
            retriever = BM25Retriever(self.collection) if source.negatives == "bm25" else self._dense(folder, model)
            encoder = retriever.encoder.fingerprint if isinstance(retriever, DenseRetriever) else ""
            if not _is_current(path, self.collection, topics, settings, encoder):
                retriever.check(topics)
                if isinstance(retriever, DenseRetriever):
                    self._index(retriever, model, folder)
                self.say(f"mining: the {settings.depth} best of {retriever.name} for each query that is used")
                mine(self.collection, retriever, topics, settings, path, overwrite=True)
        self.processes.wait()
        return read_negatives(path, self.collection.passages.fingerprint)

    def mined_path(self, source: NegativeSettings, folder: Path) -> Path | None:
        """The file to which an episode in `folder` mines; None where it does not mine."""
        name = "bm25-{depth}-{skip}-{keep}.jsonl".format(**vars(_mining_settings(source)))
        return {"ance": folder / "ance.jsonl", "bm25": self.output / name}.get(source.negatives)

    def mined_files(self, source: NegativeSettings, folder: Path) -> list[Path]:
        """Files that may have been mined for an episode in `folder`, with the rankings beside them."""
        hard = self.validation.pool_hard and self.output / POOL_FILE
        files = [path for path in (self.mined_path(source, folder), hard) if path]
        return [*files, *(path.with_suffix(".runs") for path in files)]

    def _dense(self, folder: Path, model: Path) -> DenseRetriever:
        """A retriever with the model at the episode's start; `_index` builds its index."""
        plain = ModelFolder(model).kind is Kind.PLAIN
        pooling, normalize = (self.encoder.pooling, self.encoder.normalize) if plain else (None, False)
        choice = ModelChoice(str(model), pooling, normalize, device=self.run.device)
        retriever = DenseRetriever(self.collection, choice, folder / "index")
        retriever.name = model.name  # files do not depend on where the training's folder is
        return retriever

    def _index(self, retriever: DenseRetriever, model: Path, folder: Path) -> None:
        """Encode the whole collection; what an earlier try left of another model or collection is removed."""
        name = model.parent.name
        recipe = Recipe.of(self.collection.passages, name, retriever.encoder)._asdict()
        for kept in (folder / "index", folder / "vectors" / "shard-1-of-1"):
            manifest = kept / "manifest.json"
            if manifest.is_file() and read_json(manifest, dict[str, Any]).get("recipe") != recipe:
                shutil.rmtree(kept)
        build_dense(self.collection, retriever.encoder, name, folder)

    def samplers(self, batch: BatchSettings, negatives: Negatives | None) -> list[TaskSampler]:
        """A sampler for each task of retrieval."""
        examples = [self.examples(task, negatives) for task in self.tasks]
        shares = divide_batch(batch, [len(each) for each in examples])
        return build_samplers(self.tasks, examples, shares, self.run.seed, negatives)

    def examples(self, task: str, negatives: Negatives | None = None) -> list[TrainExample]:
        """A task's training examples: the sample of its train queries, without those that validation ranks for."""
        found = self._examples(task)
        return with_negatives(found, TopicsName(task, "train"), negatives) if negatives else found

    def _examples(self, task: str) -> list[TrainExample]:
        if task not in self._read:
            held_out = set[str]()
            if self.validation.validate_on == "train" and task in self._validated:
                held_out = {plain_text(query.text) for query in self._validated[task].queries}  # under whatever ids
            self._read[task] = read_sampled_examples(
                self.collection, task, self.run.max_examples, self.run.seed, self.run.train_share, held_out
            )
        return self._read[task]

    @cached_property
    def _validated(self) -> dict[str, Topics]:
        """The queries of each task that validation ranks for. Training leaves them out."""
        split, most = self.validation.validate_on, self.validation.pool_queries
        found = {}
        for task in self.tasks:
            if topics := sample_queries(self.collection, task, split, most, self.run.seed):
                found[task] = topics
            else:
                log.warning("%s: no %s topics with a gold passage to validate on", task, split)
        return found

    @property
    def validates(self) -> bool:
        """Whether any task has topics of the split that validation uses."""
        split = self.validation.validate_on
        return any(TopicsName(task, split) in self.collection.topics_names for task in self.tasks)

    @cached_property
    def pools(self) -> list[Pool]:
        """The validation pool of each task that has topics to validate on."""
        settings, path = self.validation, self.output / POOL_FILE
        hard: Negatives | None = None
        if settings.pool_hard and self._validated:
            mining, topics = MiningSettings(POOL_DEPTH, 0, settings.pool_hard), list(self._validated.values())
            if self.processes.first and not _is_current(path, self.collection, topics, mining):
                mine(self.collection, BM25Retriever(self.collection), topics, mining, path, overwrite=True)
            self.processes.wait()
            hard = read_negatives(path, self.collection.passages.fingerprint)
        found = []
        for task, own in self._validated.items():
            docids = hard.docids[str(TopicsName(task, settings.validate_on))] if hard else {}
            found.append(build_pool(self.collection, own, docids, settings.pool_random, self.run.seed))
        return found


def _mining_settings(source: NegativeSettings) -> MiningSettings:
    return MiningSettings(depth=source.mine_depth, skip=source.mine_skip, keep=source.mine_keep)


def _is_current(
    path: Path, collection: Collection, topics: Sequence[Topics], settings: MiningSettings, encoder: str = ""
) -> bool:
    """Whether a mined file is there, and is of these queries, passages, settings and encoder."""
    if not path.is_file():
        return False
    (found,) = read_sources(path)
    return (found.collection, found.queries, found.checkpoint, found.depth, found.skip, found.keep) == (
        *(collection.passages.fingerprint, fingerprint_of(collection, topics), encoder),
        *(settings.depth, settings.skip, settings.keep),
    )


def _resolve_tasks(names: Sequence[str], collection: Collection) -> list[str]:
    """Canonical names of the tasks; `none` is no task. Raises: InputError for one without train topics."""
    if names == NOTHING:
        return []
    known = [topics.task for topics in collection.topics_names if topics.split == "train"]
    if not known:
        raise InputError(f"collection {collection.name} has no train topics (<task>-train.jsonl)")
    return known if tuple(names) == ("all",) else list(dict.fromkeys(resolve_task(task, known) for task in names))
