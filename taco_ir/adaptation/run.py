"""Runs an adaptation: checks the inputs, trains the adapter, and reports how scores changed.

The steps are run by the training loop, so checkpoints, log and resuming are the same as in a training.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from taco_ir.adaptation.encoder import leave_out, start_encoder, without_adapters
from taco_ir.adaptation.measuring import HITS, Held, IndexValidation, Ruler, TaskScores
from taco_ir.adaptation.objective import Sampling, WholeIndex
from taco_ir.adaptation.queries import Reader, TaskQueries, halve, hold_out, require_enough, take
from taco_ir.adaptation.report import (
    MADE_OF_FILE,
    PAGE_FILE,
    REPORT_FILE,
    IndexFacts,
    Report,
    TaskReport,
    compare_tasks,
    read_made_of,
    read_report,
    write_report,
)
from taco_ir.adaptation.settings import DEFAULTS, GROUP, AdaptSettings
from taco_ir.core.files import InputError, discard, is_leftover, read_json, sweep, write_json, writing_folder
from taco_ir.core.hashes import sha256_once
from taco_ir.core.outputs import claim_output
from taco_ir.core.processes import log, peak_memory, timed
from taco_ir.core.suggestions import suggest
from taco_ir.core.types import Passage
from taco_ir.data.collection import Collection, Topics, open_collection
from taco_ir.data.topics import plain_text
from taco_ir.encoders.backbone import usable_device
from taco_ir.encoders.model_folder import ModelFolder
from taco_ir.encoders.text_encoder import TextEncoder
from taco_ir.evaluation.tables import Cell, Table, render
from taco_ir.retrieval.frozen_base import FrozenIndex
from taco_ir.retrieval.frozen_index import compare_texts, open_frozen_index
from taco_ir.retrieval.retrievers import BM25Retriever
from taco_ir.training.adapters import describe_adapters
from taco_ir.training.announce import describe_cost, describe_peak
from taco_ir.training.backward import Arithmetic
from taco_ir.training.batches import divide_batch
from taco_ir.training.checkpoint import find_latest
from taco_ir.training.curves import CURVES_FILE
from taco_ir.training.encoder import DualEncoder
from taco_ir.training.folder import hash_model
from taco_ir.training.log import ConsoleReporter, Reporter
from taco_ir.training.loop import Loop
from taco_ir.training.objectives.base import LossSettings, Means, Texts, loss_temperature
from taco_ir.training.processes import Processes
from taco_ir.training.sampling import TaskSampler
from taco_ir.training.schedules import Plan
from taco_ir.training.settings import NOTHING, BatchSettings, OptimiserSettings, ValidationSettings, WeightingSettings
from taco_ir.training.step import MultiTaskStep, check_weighting, make_weighting
from taco_ir.training.trackers import TRACKERS_FILE, follow, require_packages

OWN = (
    *("model", "best", "checkpoints", "log.jsonl", "parameters.json", "tensorboard", "wandb", "mlflow.db"),
    *(CURVES_FILE, MADE_OF_FILE, REPORT_FILE, PAGE_FILE, TRACKERS_FILE),
)
MAY_DIFFER = ("device", "output", "track", "log_cosines", "log_dose")  # when it is resumed
COMPARED = 10  # passages whose vectors are compared


def adapt(settings: AdaptSettings, overwrite: bool = False) -> Report:
    """Train an adapter as the settings say, resuming an unfinished adaptation, and return its report.

    Args:
        overwrite: if the output holds an adaptation made with other settings, replace it once all inputs are checked.

    Raises:
        InputError: for an unusable index, model or query file, or an output made with other settings or inputs.
    """
    require_packages(settings.track)
    processes = Processes(usable_device(settings.device))
    output = Path(settings.output)
    work = Adaptation(settings, processes)
    finished = False
    with ExitStack() as claims:
        if processes.first:
            record = partial(read_made_of, output)
            finished = claims.enter_context(claim_output(output, work.made_of, overwrite, resume=True, record=record))
        if not processes.from_first(float(finished)):
            work.run(output)
    processes.wait()
    return read_report(output)


class Adaptation:
    """The loaded index, encoder and training queries of an adaptation.

    Raises:
        InputError: for an index or queries that cannot be read, or that do not match.
    """

    def __init__(self, settings: AdaptSettings, processes: Processes) -> None:
        self.settings = settings
        self.processes = processes
        self.collection = open_collection(settings.collection) if settings.collection else None
        self.index = open_frozen_index(Path(settings.index), Path(settings.docids) if settings.docids else None)
        self.digest = self.index.digest()
        self._say(f"index {self.index.path}: {len(self.index):,} passages of {self.index.dim} numbers")
        for remark in (*([self.index.lost] if self.index.lost else []), *self.index.remarks):
            self._say(f"index {self.index.path}: {remark}")
        qrels = [] if settings.qrels == NOTHING else list(map(Path, settings.qrels))
        reader = Reader(self.index, self.collection, qrels)
        self.ruler = Ruler(self.index, reader.pages)
        self.queries = read_queries(settings, reader)
        self.files = reader.files | ({settings.docids: Path(settings.docids)} if settings.docids else {})
        self.tasks = list(self.queries)
        check_groups(settings, self.tasks)
        check_sampling(settings, len(self.index))
        check_weighting(settings.section(WeightingSettings), self.tasks)
        self.shares = divide_batch(settings.section(BatchSettings), [len(own.train) for own in self.queries.values()])

    @cached_property
    def made_of(self) -> dict[str, Any]:
        """Returns all settings, and hashes of all inputs, that the result depends on."""
        settings, model = self.settings, ModelFolder.find(self.settings.model)
        chosen = {key: value for key, value in settings.flat().items() if key not in MAY_DIFFER}
        inputs = {"index": self.digest, "model": hash_model(model.path), "its backbone": model.backbone().fingerprint}
        inputs |= {name: sha256_once(path) for name, path in self.files.items()}
        return {"settings": chosen, "inputs": inputs}

    def run(self, output: Path) -> None:
        """Train from the last checkpoint, or from the start, and write model and report."""
        settings, processes = self.settings, self.processes
        encoder = self._start(output)
        objectives = self._objectives(encoder)
        optimiser, how = settings.section(OptimiserSettings), settings.section(WeightingSettings)
        weighting = make_weighting(how, encoder, self.tasks)
        step = MultiTaskStep(encoder, objectives, weighting, None, settings.log_cosines, settings.log_dose)
        epoch = max(-(-len(each.sampler) // each.sampler.share) for each in objectives)
        steps = settings.steps or max(1, round(settings.epochs * epoch))
        plan = Plan(steps, settings.validate_every or epoch)
        self._announce(encoder, objectives, step, plan)
        held = {task: own.choose for task, own in self.queries.items() if own.choose}
        validation = IndexValidation(encoder, self.ruler, held) if held else None
        reporter = Reporter()
        if processes.first:
            write_json(output / "parameters.json", encoder.sizes)
            reporter = ConsoleReporter(steps, "adapt")
        watchers = follow(output, settings.track, settings.flat())
        sections = (optimiser, how, settings.section(ValidationSettings))
        loop = Loop(*sections, step, plan, output, processes, reporter, validation, watchers=watchers)
        if loop.state.step:
            self._say(f"continuing after step {loop.state.step:,}")
            reporter.skip(loop.state.step)
        with timed() as seconds:
            with closing(watchers):
                model = loop.run()
            if processes.first:
                self._finish(encoder, loop, model, output, seconds)

    def _start(self, output: Path) -> DualEncoder:
        """Returns the encoder to start or continue with; removes another adaptation from the output folder."""
        begun = output / MADE_OF_FILE
        ours = begun.is_file() and read_json(begun, dict[str, Any]) == self.made_of
        found = find_latest(output) if ours else None
        encoder = start_encoder(self.settings, self.tasks, found and found / "model")
        check_encoder(self.index, without_adapters(encoder), self.settings.model, self.collection)
        if self.processes.first and not ours:
            make_way(output, self.settings)
            output.mkdir(parents=True, exist_ok=True)
            write_json(begun, self.made_of)
        self.processes.wait()
        return encoder

    def _objectives(self, encoder: DualEncoder) -> list[WholeIndex]:
        settings = self.settings
        loss = LossSettings(
            negatives=0,
            temperature=loss_temperature(settings.temperature, encoder.config),
            accumulate=settings.accumulate,
            seed=settings.seed,
        )
        arithmetic = Arithmetic(settings.precision == "bf16", settings.gradcache)
        means = Means(Texts({}, {}), loss, arithmetic, self.processes)
        sampling = None
        if len(self.index) > settings.softmax_passages:
            sampling = Sampling(settings.hits, settings.random)
        found = []
        for (task, own), share in zip(self.queries.items(), self.shares, strict=True):
            sampler = TaskSampler([example.as_trained(task) for example in own.train], share, settings.seed, task)
            found.append(WholeIndex(encoder, sampler, means, self.index, own.train, sampling))
        return found

    def _announce(self, model: DualEncoder, objectives: Sequence[WholeIndex], step: MultiTaskStep, plan: Plan) -> None:
        """Print what the adaptation will do, and how much memory it needs."""
        header = ("task", "queries", "held out", "left out", "in a batch", "positives", "tokens (longest)", "prompt")
        rows: list[list[Cell]] = []
        for each, own in zip(objectives, self.queries.values(), strict=True):
            held = len({example.query.qid for example in (*own.choose, *own.report)})
            positives = sum(len(example.gold.positives) for example in own.train) / len(own.train)
            prompt = model.config.prompt(each.task).strip() or "-"
            sizes: list[Cell] = [len(own.train), held, own.dropped, each.sampler.share]
            rows.append([each.task, *sizes, positives, each.longest, prompt])
        more = step.extra_bytes(self.settings.weighting_options)
        every, sampled = len(self.index), len(self.index) > self.settings.softmax_passages
        against = f"{self.settings.hits} hits and {self.settings.random:,} random ones of" if sampled else "all"
        validated = plan.when_validated if self.settings.measures else "never validated"
        self._say(
            render(Table("", header, rows), "table")
            + describe_adapters(model)
            + describe_cost(objectives, self.settings.section(OptimiserSettings), self.settings.weighting, more)
            + f"\n{plan.steps:,} steps of {sum(self.shares)} queries against {against} {every:,} passages, {validated}"
        )

    def _finish(self, last: DualEncoder, loop: Loop, model: Path, output: Path, seconds: Callable[[], float]) -> None:
        """Leave out the tasks that the adapter does not help, and write model and report."""
        best, index = start_encoder(self.settings, self.tasks, model), self.index
        measured = {task: own for task, own in self.queries.items() if own.choose}
        choose, report = ({task: getattr(own, part) for task, own in measured.items()} for part in ("choose", "report"))
        tasks: tuple[TaskReport, ...] = ()
        macro, notes = None, list[str]()
        if measured:
            was, now = without_adapters(best), best.as_text_encoder
            chosen_by = subtract(self.ruler(now(), choose), self.ruler(was, choose))
            kept = {task: not self.settings.keep_if_better or gain > 0 for task, gain in chosen_by.items()}
            sizes = {task: len(own.train) for task, own in measured.items()}
            bm25, notes = self._bm25(report)
            before, after = self.ruler(was, report), self.ruler(now(), report)
            tasks, macro = compare_tasks(sizes, before, after, chosen_by, kept, bm25, self.settings.seed)
        if unmeasured := [task for task in self.tasks if task not in measured]:
            notes.append(f"no query of {', '.join(unmeasured)} is held out, so it is unknown whether the adapter helps")
        made = Report(
            tasks,
            macro,
            IndexFacts(str(index.path), index.layout, len(index), self.digest, index.digest()),
            loop.state.step,
            loop.state.best_step or loop.state.step,
            **last.sizes,
            seconds=seconds(),
            peak_bytes=peak_memory(),
            notes=tuple(notes),
        )
        if made.dropped:
            with writing_folder(model) as part:
                shutil.copytree(model, part, dirs_exist_ok=True)
                leave_out(made.dropped, self.settings, model, part)
        sweep(output)
        self._say(describe_peak(last))
        write_report(made, output)

    def _bm25(self, held: Held) -> tuple[dict[str, TaskScores], list[str]]:
        """Returns BM25's scores of held-out queries by task; without them, {} and a note why."""
        if self.collection is None or not self.settings.compare:
            return {}, []
        retriever = BM25Retriever(self.collection)
        if not retriever.at_hand:
            return {}, [f"BM25 is not compared: its index of {self.collection.name} is not built"]
        try:
            retriever.check(())
        except InputError as error:
            return {}, [f"BM25 is not compared: {error}"]
        found = {}
        for task, examples in held.items():
            run = retriever.search(Topics(task, task, [example.query for example in examples]), HITS)
            found[task] = self.ruler.score(run, examples)
        return found, []

    def _say(self, text: str) -> None:
        if self.processes.first:
            print(text, file=sys.stderr)


def read_queries(settings: AdaptSettings, reader: Reader) -> dict[str, TaskQueries]:
    """Read the queries by task, split into training queries and held-out queries.

    Raises:
        InputError: for a task with too few queries, or held-out queries of a task that is not trained.
    """
    most, seed = settings.validation_queries, settings.seed
    found = take(reader.read("--topics", settings.topics), settings.max_examples, seed)
    require_enough(found, "queries with gold in the index")
    if settings.validate_on == NOTHING:
        if not settings.held_out:
            return {task: TaskQueries(own) for task, own in found.items()}
        split = {task: hold_out(own, reader.pages, settings.held_out, most, seed, task) for task, own in found.items()}
        require_enough({task: own.train for task, own in split.items()}, "training queries besides the held-out ones")
        return split
    held = reader.read("--validate-on", settings.validate_on)
    if unknown := next((task for task in held if task not in found), None):
        raise InputError(f"--validate-on: task {unknown} is not among the tasks of --topics; {suggest(unknown, found)}")
    queries = {}
    for task, own in found.items():
        texts = {plain_text(example.query.text) for example in held.get(task, ())}
        kept = [example for example in own if plain_text(example.query.text) not in texts]
        choose, report = halve(held.get(task, []), reader.pages, most, seed, task)
        queries[task] = TaskQueries(kept, choose, report, len(own) - len(kept))
    require_enough({task: own.train for task, own in queries.items()}, "training queries besides the held-out ones")
    return queries


def check_groups(settings: AdaptSettings, tasks: Sequence[str]) -> None:
    """Raise InputError for a task without a group, or a task in a group that is not trained."""
    if settings.share != GROUP:
        return
    known = settings.group_of
    if lacking := next((task for task in tasks if task not in known), None):
        raise InputError(f"groups: task {lacking} is in no group; add it to one, or leave its topics out")
    if unknown := next((task for task in known if task not in tasks), None):
        raise InputError(
            f"groups: task {unknown} of group {known[unknown]} has no topics; leave it out, or give its topics"
        )


def check_sampling(settings: AdaptSettings, passages: int) -> None:
    """Raise InputError for settings of a sampled softmax if the softmax is exact."""
    for key in ("hits", "random") if passages <= settings.softmax_passages else ():
        if (value := getattr(settings, key)) != DEFAULTS[key]:
            raise InputError(
                f"{key} is {value}, but is used only if the softmax is sampled; for {passages:,} passages it is "
                f"exact. Leave {key} out, or give softmax_passages below {passages}"
            )


def check_encoder(index: FrozenIndex, encoder: TextEncoder, model: str, collection: Collection | None) -> None:
    """Raise InputError if the vectors of an index were not made by this encoder, as far as that can be checked."""
    if encoder.dim != index.dim:
        raise InputError(
            f"--index {index.path}: its vectors have {index.dim} dimensions, the vectors of --model {model} have "
            f"{encoder.dim}; give the model that made the index"
        )
    if index.encoder is not None:
        if not index.encoder.is_of(encoder):
            made = index.encoder.encoder
            raise InputError(
                f"--index {index.path}: its vectors were made by encoder {made} ({index.encoder.model}), but "
                f"--model {model} is encoder {encoder.passage_fingerprint}; give the model that made the index, "
                "with the same flags"
            )
        return
    known = [] if collection is None else sample_texts(index, collection)
    if not known:
        log.warning("%s does not record its encoder; to compare vectors, give --collection with its texts", index.path)
        return
    cosines_N = compare_texts(index, encoder, known)
    log.info("%s: cosines of %d vectors to the encoder's: %.4f at least", index.path, len(known), cosines_N.min())


def sample_texts(index: FrozenIndex, collection: Collection) -> list[Passage]:
    """Sample up to ten passages that the collection has too, evenly spread over the index."""
    step = max(1, len(index) // (COMPARED * COMPARED))
    docids = [index.docids[row] for row in range(0, len(index), step)]
    rows = collection.passages.rows(docids).tolist()
    known = [docid for docid, row in zip(docids, rows, strict=True) if row >= 0]
    return list(collection.passages.get(known[:: max(1, len(known) // COMPARED)][:COMPARED]).values())


def make_way(output: Path, settings: AdaptSettings) -> None:
    """Remove the adaptation in an output folder; the caller holds the folder's lock.

    Raises:
        InputError: if the folder holds other files, or the model or index of this adaptation.
    """
    parts = [path for path in output.iterdir() if not is_leftover(path)] if output.is_dir() else []
    if foreign := next((path for path in parts if path.name not in OWN), None):
        raise InputError(
            f"--overwrite: {foreign} was not written by an adaptation; move it away, or give another --output"
        )
    for given in (settings.model, settings.index):
        if Path(given).exists() and Path(given).resolve().is_relative_to(output.resolve()):
            raise InputError(
                f"--overwrite: {given} is inside the output folder, which would be removed; give another --output"
            )
    parts.sort(key=lambda path: (path.name != REPORT_FILE, path.name != "model", path.name))
    if parts:
        discard(parts, output)


def subtract(scores: Mapping[str, TaskScores], others: Mapping[str, TaskScores]) -> dict[str, float]:
    return {task: own.mean - others[task].mean for task, own in scores.items()}
