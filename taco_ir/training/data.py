"""What episodes train on: examples with their negatives, mined where they are not there yet, and validation pools."""

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
from taco_ir.negatives.file import Negatives, read_negatives, read_sources, refuse_other_collection, with_negatives
from taco_ir.negatives.filters import MiningSettings
from taco_ir.negatives.miner import fingerprint_of, mine
from taco_ir.retrieval.choices import ModelChoice
from taco_ir.retrieval.retrievers import BM25Retriever, DenseRetriever, build_dense
from taco_ir.retrieval.vectors import Recipe
from taco_ir.training.batches import TaskSampler, samplers_of
from taco_ir.training.folder import inputs_of, refuse_other_inputs
from taco_ir.training.pools import Pool, draw_queries, make_pool
from taco_ir.training.settings import (
    MINED,
    NOTHING,
    BatchSettings,
    EncoderSettings,
    NegativeSettings,
    RunSettings,
    ValidationSettings,
)
from taco_ir.training.task_shares import shares_of

if TYPE_CHECKING:
    from taco_ir.training.distributed import Processes

POOL_FILE = "validation.jsonl"
POOL_DEPTH = 100  # BM25 hits of a query that a validation pool's hard passages are taken from


class TrainingData:
    """A run's collection and tasks, and what is mined from them under `output`; many processes share what the first one mines.

    Raises:
        InputError: for tasks that the collection does not have, or shares that do not fit them in any episode.
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
        self.tasks = [] if run.tasks == NOTHING else _tasks(run.tasks, self.collection)
        if reading == NOTHING:
            self.reading = []
        else:
            self.reading = self.tasks if reading == ("all",) else _tasks(reading, self.collection)

    def check_shares(self, batch: BatchSettings) -> None:
        """Raise InputError for shares of a batch that do not fit the tasks."""
        if self.tasks:
            shares_of(batch, [1] * len(self.tasks))

    def check_negatives(self, source: str, hard_pools: bool) -> None:
        """Raise InputError where negatives of this source, or passages for hard pools of validation, could be neither mined nor read."""
        if source == "bm25" or hard_pools:
            BM25Retriever(self.collection).check(())
        if source not in ("none", *MINED):
            refuse_other_collection(Path(source), read_sources(Path(source)), self.collection.passages.fingerprint)

    def say(self, text: str) -> None:
        """Print on stderr, once for all processes."""
        if self.processes.first:
            print(text, file=sys.stderr)

    def refuse_other_inputs(self, sources: Iterable[str]) -> None:
        """Raise InputError where the run was begun with other passages, topics, base weights or files of negatives than there are now."""
        from taco_ir.encoders.model_folder import ModelFolder

        splits = dict.fromkeys(("train", self.validation.validate_on))
        topics = [TopicsName(task, split) for split in splits for task in (*self.tasks, *self.reading)]
        files = [source for source in sources if source not in ("none", *MINED)]
        refuse_other_inputs(
            self.output, inputs_of(self.collection, topics, ModelFolder.find(self.run.model).path, files)
        )

    def negatives(
        self, source: NegativeSettings, folder: Path, model: Path, readable: Mapping[str, Container[str]] | None = None
    ) -> Negatives | None:
        """Those that `source` names; mined first where they are not there, for the queries that are used. Only the first process mines.

        Args:
            readable: queries of tasks that are read and not retrieved for.
        """
        if source.negatives == "none":
            return None
        own = {task: {example.qid for example in self.used(task)} for task in self.tasks}
        used = {**own, **(readable or {})}
        names = {task: str(TopicsName(task, "train")) for task in used}
        if (path := self.mined_path(source, folder)) is None:
            wanted = {names[task]: qids for task, qids in used.items()}
            return read_negatives(Path(source.negatives), self.collection.passages.fingerprint, wanted)
        if self.processes.first:
            topics = [self.collection.load_topics(names[task], qids) for task, qids in used.items()]
            settings = _settings(source)
            retriever = BM25Retriever(self.collection) if source.negatives == "bm25" else self._dense(folder, model)
            if not _serves(
                path,
                self.collection,
                topics,
                settings,
                retriever.encoder.fingerprint if isinstance(retriever, DenseRetriever) else "",
            ):
                retriever.check(topics)
                if isinstance(retriever, DenseRetriever):
                    self._index(retriever, model, folder)
                self.say(f"mining: the {settings.depth} best of {retriever.name} for each query that is used")
                mine(self.collection, retriever, topics, settings, path, overwrite=True)
        self.processes.wait()
        return read_negatives(path, self.collection.passages.fingerprint)

    def mined_path(self, source: NegativeSettings, folder: Path) -> Path | None:
        """Where an episode in `folder` mines to; None where it does not mine."""
        name = "bm25-{depth}-{skip}-{keep}.jsonl".format(**vars(_settings(source)))
        return {"ance": folder / "ance.jsonl", "bm25": self.output / name}.get(source.negatives)

    def mined_for(self, source: NegativeSettings, folder: Path) -> list[Path]:
        """What may have been mined for an episode in `folder`, with the rankings beside it."""
        hard = self.validation.pool_hard and self.output / POOL_FILE
        files = [path for path in (self.mined_path(source, folder), hard) if path]
        return [*files, *(path.with_suffix(".runs") for path in files)]

    def _dense(self, folder: Path, model: Path) -> DenseRetriever:
        """A search by the model at the episode's start; see `_index`."""
        from taco_ir.encoders.model_folder import Kind, ModelFolder

        plain = ModelFolder(model).kind is Kind.PLAIN
        pooling, normalize = (self.encoder.pooling, self.encoder.normalize) if plain else (None, False)
        choice = ModelChoice(str(model), pooling, normalize, device=self.run.device)
        retriever = DenseRetriever(self.collection, choice, folder / "index")
        retriever.name = model.name  # a run's files do not depend on where it lies
        return retriever

    def _index(self, retriever: DenseRetriever, model: Path, folder: Path) -> None:
        """Encode the whole collection, kept until the episode is done; what an earlier try kept of another model or collection goes."""
        name = model.parent.name
        recipe = Recipe.of(self.collection.passages, name, retriever.encoder)._asdict()
        for kept in (folder / "index", folder / "vectors" / "shard-1-of-1"):
            if (kept / "manifest.json").is_file() and read_json(kept / "manifest.json", dict[str, Any]).get(
                "recipe"
            ) != recipe:
                shutil.rmtree(kept)
        build_dense(self.collection, retriever.encoder, name, folder)

    def samplers(self, batch: BatchSettings, negatives: Negatives | None) -> list[TaskSampler]:
        """Who deals each task's examples."""
        examples = [self.examples(task, negatives) for task in self.tasks]
        counts = shares_of(batch, [len(each) for each in examples])
        return samplers_of(self.tasks, examples, counts, self.run.seed, negatives)

    def examples(self, task: str, negatives: Negatives | None) -> list[TrainExample]:
        """A task's train queries, without those that validation ranks for, as many as the configuration says, with their negatives."""
        return with_negatives(self.used(task), TopicsName(task, "train"), negatives) if negatives else self.used(task)

    def used(self, task: str) -> list[TrainExample]:
        """As `examples`, which are the same in every episode, without negatives."""
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
        """The queries of each task that validation ranks for; those of a train split are not trained on."""
        drawn = {
            task: draw_queries(
                self.collection, task, self.validation.validate_on, self.validation.pool_queries, self.run.seed
            )
            for task in self.tasks
        }
        for task in (task for task, topics in drawn.items() if topics is None):
            log.warning("%s: no %s topics with a gold passage to validate on", task, self.validation.validate_on)
        return {task: topics for task, topics in drawn.items() if topics}

    @property
    def validates(self) -> bool:
        """Whether any task has topics of the split that is validated on."""
        return any(TopicsName(task, self.validation.validate_on) in self.collection.topics_names for task in self.tasks)

    @cached_property
    def pools(self) -> list[Pool]:
        """Validation pools of the tasks that have topics to validate on."""
        path = self.output / POOL_FILE
        hard: Negatives | None = None
        if self.validation.pool_hard and self._validated:
            settings, topics = (
                MiningSettings(depth=POOL_DEPTH, skip=0, keep=self.validation.pool_hard),
                list(self._validated.values()),
            )
            if self.processes.first and not _serves(path, self.collection, topics, settings):
                mine(self.collection, BM25Retriever(self.collection), topics, settings, path, overwrite=True)
            self.processes.wait()
            hard = read_negatives(path, self.collection.passages.fingerprint)
        of_task = {
            task: hard.docids[str(TopicsName(task, self.validation.validate_on))] if hard else {}
            for task in self._validated
        }
        return [
            make_pool(self.collection, topics, of_task[task], self.validation.pool_random, self.run.seed)
            for task, topics in self._validated.items()
        ]


def _settings(source: NegativeSettings) -> MiningSettings:
    return MiningSettings(depth=source.mine_depth, skip=source.mine_skip, keep=source.mine_keep)


def _serves(
    path: Path, collection: Collection, topics: Sequence[Topics], settings: MiningSettings, encoder: str = ""
) -> bool:
    """Whether a file that the run mined is there, of these queries and passages, and mined in this way by this encoder, or none."""
    if not path.is_file():
        return False
    (found,) = read_sources(path)
    wanted = (
        collection.passages.fingerprint,
        settings.depth,
        settings.skip,
        settings.keep,
        fingerprint_of(collection, topics),
        encoder,
    )
    return (found.collection, found.depth, found.skip, found.keep, found.queries, found.checkpoint) == wanted


def _tasks(names: Sequence[str], collection: Collection) -> list[str]:
    """Canonical names of the tasks trained on. Raises: InputError for one that the collection has no train topics of."""
    known = [topics.task for topics in collection.topics_names if topics.split == "train"]
    if not known:
        raise InputError(f"collection {collection.name} has no train topics (<task>-train.jsonl)")
    return known if tuple(names) == ("all",) else list(dict.fromkeys(resolve_task(task, known) for task in names))
