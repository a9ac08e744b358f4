"""Reads the data of a training: the examples of each task, hard negatives (mined if needed), and validation pools."""

from __future__ import annotations

import sys
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from taco_ir.core.files import InputError
from taco_ir.core.processes import log
from taco_ir.core.suggestions import suggest
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
from taco_ir.negatives.miner import fingerprint_of, mine_topics
from taco_ir.retrieval.choices import ModelChoice, Shared
from taco_ir.retrieval.retrievers import BM25Retriever, DenseRetriever
from taco_ir.retrieval.vectors import BLOCK_ROWS
from taco_ir.scale.engines import Here
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
    TaskSettings,
    ValidationSettings,
)
from taco_ir.training.validation import Pool, build_pool, sample_queries

if TYPE_CHECKING:
    from taco_ir.training.processes import Processes

POOL_FILE = "validation.jsonl"
BLOCKS, LEAST_BLOCK = 16, 64  # blocks of vectors in a small collection; rows of the smallest block
POOL_DEPTH = 100  # BM25 hits of a query from which a validation pool takes its hard passages


class Place(NamedTuple):
    """Where a task's data come from: the collection, the task's name in the collection, and the task's own settings."""

    collection: Collection
    task: str
    own: TaskSettings


class TrainingData:
    """The collections and examples of a training. Hard negatives and validation pools are mined into `output`.

    With several collections, files mined from each are in a subfolder: `corpus-1`, `corpus-2`, and so on. The first
    process mines, and the others encode and search a part of the data for it; then all processes read the files.

    Attributes:
        collection: the collection of self-supervised tasks, and of tasks that do not name another.
        tasks, reading: names of the retrieval tasks, and of the reading tasks.
        places: for each of these tasks, where its data come from.
        corpora: the collections of these tasks, without repeats.

    Raises:
        InputError: if a task is not in its collection.
    """

    def __init__(
        self,
        run: RunSettings,
        encoder: EncoderSettings,
        reading: tuple[str, ...],
        validation: ValidationSettings,
        output: Path,
        processes: Processes,
        tables: Mapping[str, TaskSettings] = MappingProxyType({}),
    ) -> None:
        self.run = run
        self.encoder = encoder
        self.validation = validation
        self.output = output
        self.processes = processes
        self.collection: Collection = open_collection(run.collection)
        self._read: dict[str, list[TrainExample]] = {}
        self.tables = tables
        if tables:
            self.places = _find_places(run.collection, self.collection, tables)
            self.tasks, own_reading = (_choose_tasks(names, self.places) for names in (run.tasks, reading))
        else:
            self.tasks = _resolve_tasks(run.tasks, self.collection)
            own_reading = [] if reading == ("all",) else _resolve_tasks(reading, self.collection)
            names = (*self.tasks, *own_reading)
            self.places = {task: Place(self.collection, task, TaskSettings()) for task in names}
        self.reading = self.tasks if reading == ("all",) else own_reading
        self._used = list(dict.fromkeys((*self.tasks, *self.reading)))
        self.corpora = list(dict.fromkeys(self.places[task].collection for task in self._used)) or [self.collection]

    def check_shares(self, batch: BatchSettings) -> None:
        """Raises InputError if a batch cannot be divided among the tasks as the settings say."""
        if self.tasks:
            divide_batch(batch, [1] * len(self.tasks), self.given_shares)

    @property
    def reading_names(self) -> list[str]:
        """The names of reading tasks in logs: such as "nq reading", or "nq" in a training without retrieval tasks."""
        return [f"{task} reading" if self.tasks else task for task in self.reading]

    @property
    def given_shares(self) -> list[int | None]:
        """For each retrieval task, the fixed number of its queries in a batch; None if it is not fixed."""
        return [self.places[task].own.share for task in self.tasks]

    def check_negatives(self, source: str, hard_pools: bool) -> None:
        """Raises InputError if hard negatives can be neither mined nor read; with `hard_pools`, pools are checked too.

        Args:
            source: where negatives come from, such as bm25, for tasks that do not set it themselves.
        """
        for collection in self.corpora:
            tasks = [task for task in (*self.tasks, *self.reading) if self.places[task].collection is collection]
            sources = list(dict.fromkeys(self.source_of(task, source) for task in tasks)) or [source]
            if "bm25" in sources or hard_pools:
                BM25Retriever(collection).check(())
            for path in (Path(each) for each in sources if each not in NO_FILES):
                if not path.is_file():
                    raise InputError(f"negatives {path}: no such file; {suggest(str(path), NO_FILES)}")
                refuse_other_collection(path, read_sources(path), collection.passages.fingerprint)

    def source_of(self, task: str, source: str) -> str:
        """Returns where a task's negatives come from, such as bm25: the task's own setting, or else `source`."""
        return self.places[task].own.negatives or source

    def folder_of(self, collection: Collection, folder: Path) -> Path:
        """Returns the folder for files mined from a collection: `folder`, or with several collections a subfolder."""
        return folder / f"corpus-{self.corpora.index(collection) + 1}" if len(self.corpora) > 1 else folder

    def say(self, text: str) -> None:
        """Prints a text to stderr, in the first process only."""
        if self.processes.first:
            print(text, file=sys.stderr)

    def refuse_other_inputs(self, sources: Iterable[str], passages: bool = False) -> None:
        """Raises InputError if passages, topics, base model or negatives have changed since the training began.

        Args:
            sources: the sources of negatives in all episodes.
            passages: whether self-supervised tasks train on passages of the collection.
        """
        splits = dict.fromkeys(("train", self.validation.validate_on))
        places = [self.places[task] for task in (*self.tasks, *self.reading)]
        corpora = self.corpora if self.collection in self.corpora or not passages else [*self.corpora, self.collection]
        topics = [
            (each, [TopicsName(own.task, split) for split in splits for own in places if own.collection is each])
            for each in corpora
        ]
        files = [*sources, *(own.own.negatives for own in places if own.own.negatives)]
        files = [source for source in files if source not in NO_FILES]
        model = ModelFolder.find(self.run.model).path
        refuse_other_inputs(self.output, inputs_of(topics, model, files))

    def load_negatives(
        self, source: NegativeSettings, folder: Path, model: Path, readable: Mapping[str, Container[str]] | None = None
    ) -> dict[str, Negatives]:
        """Returns the hard negatives of an episode, by task. Negatives that are missing in `folder` are mined first.

        Args:
            model: folder of the model at the start of the episode, with which ANCE mines.
            readable: for tasks that are trained only for reading, the ids of the queries to use.
        """
        names = [task for task in self.tasks if self.source_of(task, source.negatives) != "none"]
        own = {task: {example.qid for example in self.examples(task)} for task in names}
        found: dict[str, Negatives] = {}
        for place, used in self._by_source(source, {**own, **(readable or {})}).items():
            found |= dict.fromkeys(used, self._load_negatives(*place, used, folder, model))
        return found

    def read_mined(self, source: NegativeSettings, folder: Path) -> dict[str, Negatives]:
        """Returns the negatives that an episode mined into `folder`, by task; empty if a file is missing."""
        found: dict[str, Negatives] = {}
        for (collection, own), used in self._by_source(source, dict.fromkeys(self.tasks, ())).items():
            path = self.mined_path(own, folder, collection)
            if path is None or not path.is_file():
                return {}
            found |= dict.fromkeys(used, read_negatives(path, collection.passages.fingerprint))
        return found

    def _by_source(
        self, source: NegativeSettings, used: Mapping[str, Container[str]]
    ) -> dict[tuple[Collection, NegativeSettings], dict[str, Container[str]]]:
        """Groups queries by collection and source of negatives, then by task; leaves out tasks without negatives."""
        found: dict[tuple[Collection, NegativeSettings], dict[str, Container[str]]] = {}
        for task, qids in used.items():
            own = replace(source, negatives=self.source_of(task, source.negatives))
            if own.negatives != "none":
                found.setdefault((self.places[task].collection, own), {})[task] = qids
        return found

    def _load_negatives(
        self,
        collection: Collection,
        source: NegativeSettings,
        used: Mapping[str, Container[str]],
        folder: Path,
        model: Path,
    ) -> Negatives:
        """Reads the negatives of tasks with one collection and source, after mining them if needed."""
        names = {task: str(TopicsName(self.places[task].task, "train")) for task in used}
        if source.negatives == "given":
            topics = [collection.load_topics(names[task], qids) for task, qids in used.items()]
            return given_negatives(collection.passages.fingerprint, topics)
        if (path := self.mined_path(source, folder, collection)) is None:
            wanted = {names[task]: qids for task, qids in used.items()}
            return read_negatives(Path(source.negatives), collection.passages.fingerprint, wanted)
        with self.processes.lead() as leads:
            if leads:
                topics = [collection.load_topics(names[task], qids) for task, qids in used.items()]
                self._mine(collection, source, topics, path, model)
        return read_negatives(path, collection.passages.fingerprint)

    def _mine(
        self, collection: Collection, source: NegativeSettings, topics: Sequence[Topics], path: Path, model: Path
    ) -> None:
        """Mines negatives into the file `path`, if the file does not have them already."""
        settings, dense = _mining_settings(source), None
        if source.negatives == "ance":
            block = min(BLOCK_ROWS, max(LEAST_BLOCK, -(-collection.passages.count // BLOCKS)))
            engine = self.processes if self.processes.world > 1 else Here()
            dense = DenseRetriever(collection, self._choice(model), Shared(engine, path.parent / "vectors", block))
            dense.name = model.name  # so that files do not depend on the place of the training's folder
        retriever = dense or BM25Retriever(collection)
        if _is_current(path, collection, topics, settings, dense.encoder.fingerprint if dense else ""):
            return
        retriever.check(topics)
        retriever.open()
        of = f" of {collection.name}" if len(self.corpora) > 1 else ""
        self.say(f"mining: the {settings.depth} best hits of {retriever.name} for each query{of} that is used")
        mine_topics(collection, retriever, topics, settings, path, overwrite=True)

    def mined_path(self, source: NegativeSettings, folder: Path, collection: Collection) -> Path | None:
        """Returns the file for negatives that an episode mines from a collection; None if they are not mined."""
        name = "bm25-{depth}-{skip}-{keep}.jsonl".format(**vars(_mining_settings(source)))
        files = {"ance": folder, "bm25": self.output}
        if source.negatives not in files:
            return None
        return self.folder_of(collection, files[source.negatives]) / (
            "ance.jsonl" if source.negatives == "ance" else name
        )

    def mined_files(self, source: NegativeSettings, folder: Path) -> list[Path]:
        """Returns the files that an episode in `folder` may have mined, and the files of rankings next to them.

        With several collections, these are whole folders; files in them that no longer fit are mined again.
        """
        if len(self.corpora) > 1:
            return [self.folder_of(each, place) for each in self.corpora for place in (folder, self.output)]
        hard = self.validation.pool_hard and self.output / POOL_FILE
        files = [path for path in (self.mined_path(source, folder, self.corpora[0]), hard) if path]
        return [*files, *(path.with_suffix(".runs") for path in files)]

    def _choice(self, model: Path) -> ModelChoice:
        """Returns the model at the start of an episode in the form that mining needs."""
        plain = ModelFolder(model).kind is Kind.PLAIN
        pooling, normalize = (self.encoder.pooling, self.encoder.normalize) if plain else (None, False)
        return ModelChoice(str(model), pooling, normalize, device=self.run.device)

    def samplers(self, batch: BatchSettings, negatives: Mapping[str, Negatives] | None) -> list[TaskSampler]:
        """Returns a sampler for each retrieval task, which chooses the task's examples in each batch."""
        mined = [(negatives or {}).get(task) for task in self.tasks]
        examples = [self.examples(task, own) for task, own in zip(self.tasks, mined, strict=True)]
        shares = divide_batch(batch, [len(each) for each in examples], self.given_shares)
        return build_samplers(self.tasks, examples, shares, self.run.seed, mined)

    def examples(self, task: str, negatives: Negatives | None = None) -> list[TrainExample]:
        """Returns a task's training examples, with `negatives` if given. Queries for validation are left out."""
        found = self._examples(task)
        return with_negatives(found, TopicsName(self.places[task].task, "train"), negatives) if negatives else found

    def _examples(self, task: str) -> list[TrainExample]:
        if task not in self._read:
            collection, name, _ = self.places[task]
            found = read_sampled_examples(
                collection, name, self.run.max_examples, self.run.seed, self.run.train_share, self.held_out(task)
            )
            self._read[task] = found if name == task else [example._replace(task=task) for example in found]
        return self._read[task]

    def held_out(self, task: str) -> set[str]:
        """Returns the texts of a task's train queries that are held out for validation."""
        if self.validation.validate_on != "train" or task not in self._validated:
            return set()
        return {plain_text(query.text) for query in self._validated[task].queries}

    @cached_property
    def _validated(self) -> dict[str, Topics]:
        """The queries of each task for validation; they are not trained on."""
        split, most = self.validation.validate_on, self.validation.pool_queries
        found = {}
        for task in self._used:
            collection, name, _ = self.places[task]
            if topics := sample_queries(collection, name, split, most, self.run.seed):
                found[task] = topics
            else:
                log.warning("%s: no %s topics with a gold passage to validate on", task, split)
        return found

    @property
    def validates(self) -> bool:
        """Whether any task has topics in the split that validation uses."""
        split = self.validation.validate_on
        places = [self.places[task] for task in self._used]
        return any(TopicsName(own.task, split) in own.collection.topics_names for own in places)

    @cached_property
    def pools(self) -> list[Pool]:
        """The validation pool of each task with queries to validate on: the queries, and the passages to rank."""
        settings, hard = self.validation, dict[Collection, Negatives]()
        for collection in self.corpora if settings.pool_hard else []:
            path, mining = (
                self.folder_of(collection, self.output) / POOL_FILE,
                MiningSettings(POOL_DEPTH, 0, settings.pool_hard),
            )
            topics = [own for task, own in self._validated.items() if self.places[task].collection is collection]
            if not topics:
                continue
            if self.processes.first and not _is_current(path, collection, topics, mining):
                mine_topics(collection, BM25Retriever(collection), topics, mining, path, overwrite=True)
            self.processes.wait()
            hard[collection] = read_negatives(path, collection.passages.fingerprint)
        found = []
        for task, own in self._validated.items():
            collection, name, _ = self.places[task]
            docids = hard[collection].docids[str(TopicsName(name, settings.validate_on))] if hard else {}
            found.append(build_pool(collection, own, docids, settings.pool_random, self.run.seed)._replace(task=task))
        return found

    def pools_of(self, collection: Collection) -> list[Pool]:
        """Returns the validation pools of all retrieval tasks that use a collection."""
        return [
            pool for pool in self.pools if pool.task in self.tasks and self.places[pool.task].collection is collection
        ]


def _mining_settings(source: NegativeSettings) -> MiningSettings:
    return MiningSettings(depth=source.mine_depth, skip=source.mine_skip, keep=source.mine_keep)


def _is_current(
    path: Path, collection: Collection, topics: Sequence[Topics], settings: MiningSettings, encoder: str = ""
) -> bool:
    """Returns whether a mined file exists and was made with these queries, passages, settings and encoder."""
    if not path.is_file():
        return False
    (found,) = read_sources(path)
    return (found.collection, found.queries, found.checkpoint, found.depth, found.skip, found.keep) == (
        *(collection.passages.fingerprint, fingerprint_of(collection, topics), encoder),
        *(settings.depth, settings.skip, settings.keep),
    )


def _find_places(run: str, collection: Collection, tables: Mapping[str, TaskSettings]) -> dict[str, Place]:
    """Opens the collections of tasks with tables. Raises InputError if one lacks its task, or tables share a task."""
    opened, found = {run: collection}, dict[str, Place]()
    names: dict[tuple[str, str], str] = {}
    for name, own in tables.items():
        spec = own.collection or run
        if spec not in opened:
            try:
                other = open_collection(spec)
            except InputError as error:
                raise InputError(f"tasks.{name}: {error}") from error
            opened[spec] = next((each for each in opened.values() if _is_same(each, other)), other)
        try:
            (task,) = _resolve_tasks([own.task or name], opened[spec])
        except InputError as error:
            raise InputError(f"tasks.{name}: collection {spec}: {error}") from error
        key = (opened[spec].passages.fingerprint, task)
        if key in names:
            raise InputError(
                f"tasks.{names[key]} and tasks.{name} are both task {task} of collection {spec}; leave one of them out"
            )
        names[key] = name
        found[name] = Place(opened[spec], task, own)
    return found


def _is_same(one: Collection, other: Collection) -> bool:
    """Returns whether two collections have the same passages and topics, even if their names differ."""
    if one.passages.fingerprint != other.passages.fingerprint or one.topics_names != other.topics_names:
        return False
    return all(one.topics_path(str(name)).samefile(other.topics_path(str(name))) for name in one.topics_names)


def _choose_tasks(names: Sequence[str], places: Iterable[str]) -> list[str]:
    """Returns the named tasks, which must have tables. Raises InputError for any other name."""
    known = list(places)
    if tuple(names) in (NOTHING, ("all",)):
        return [] if tuple(names) == NOTHING else known
    return list(dict.fromkeys(resolve_task(name, known) for name in names))


def _resolve_tasks(names: Sequence[str], collection: Collection) -> list[str]:
    """Returns canonical names of tasks; `none` is no task. Raises InputError for a task without train topics."""
    if names == NOTHING:
        return []
    known = [topics.task for topics in collection.topics_names if topics.split == "train"]
    if not known:
        raise InputError(f"collection {collection.name} has no train topics; it needs files TASK-train.jsonl")
    return known if tuple(names) == ("all",) else list(dict.fromkeys(resolve_task(task, known) for task in names))
