"""A training run: episodes one after the other, each with negatives of its own, resumed at the exact stage and step.

A stage is done when what it leaves is there, whole: negatives by their file, an index by its manifest, an episode by its
`model` folder. Xiong et al., Approximate Nearest Neighbor Negative Contrastive Learning (ANCE), ICLR 2021.
"""

from __future__ import annotations

import shutil
import sys
from argparse import Namespace
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from taco_ir.console import log
from taco_ir.data.batches import TaskSampler
from taco_ir.data.collections import Collection, Topics, open_collection
from taco_ir.data.examples import TrainExample, read_examples
from taco_ir.data.mixing import batch_shares, steps_per_epoch
from taco_ir.data.negatives import Negatives, read_negatives
from taco_ir.data.pools import Pool, make_pool
from taco_ir.data.seeds import generator
from taco_ir.data.tasks import TopicsName, resolve_task
from taco_ir.encoding import encode_collection
from taco_ir.files import InputError, exclusive
from taco_ir.mining import mine
from taco_ir.models.config import describes_itself
from taco_ir.retrieval.bm25 import trim_jvm
from taco_ir.retrieval.index import build_index
from taco_ir.retrieval.mining import MiningSettings
from taco_ir.retrieval.vectors import Recipe, Shard, VectorSet
from taco_ir.systems import BM25System, DenseSystem, encoder_of
from taco_ir.training.config import CONFIG_FILE, TrainConfig, differing_keys, episode_configs, load_config, save_config

if TYPE_CHECKING:
    from taco_ir.training.dual import DualEncoder
    from taco_ir.training.loop import Plan, Reporter
    from taco_ir.training.processes import Processes
    from taco_ir.training.step import MultiTaskStep, Texts

POOL_DEPTH = 100  # BM25 hits of a dev query that a validation pool's hard passages are taken from


def train(config: TrainConfig) -> Path:
    """Run all episodes of `config` that are not done; the folder of the trained model.

    Raises:
        InputError: for a folder that holds something else or a run that was configured otherwise, and for all that is
            wrong with data, model or negatives.
    """
    import torch

    from taco_ir.training.processes import Processes

    output = Path(config.output)
    processes = Processes(torch.device(config.device))
    if not processes.first:
        return Run(config, output, processes).episodes()
    _refuse_foreign(config, output)
    output.mkdir(parents=True, exist_ok=True)
    with exclusive(output / "run", wait=False):
        run = Run(config, output, processes)
        if not _begun(output):
            save_config(config, output)
        return run.episodes()


def _begun(output: Path) -> bool:
    """Whether anything is there beside a run's configuration; one that failed before it left more may be configured anew."""
    start = (output / CONFIG_FILE, output / f"{CONFIG_FILE}.part")
    return any(path.is_file() and path not in start and path.suffix != ".lock" for path in output.rglob("*"))


def _refuse_foreign(config: TrainConfig, output: Path) -> None:
    if (output / CONFIG_FILE).is_file():
        found = load_config(output)
        if (keys := differing_keys(found, config)) and _begun(output):
            changes = ", ".join(f"{key} was {getattr(found, key)!r}, is {getattr(config, key)!r}" for key in keys)
            raise InputError(
                f"--output {output} is a run with another configuration: {changes}; go on with the same one, or give another folder"
            )
    elif output.is_file() or _begun(output):
        raise InputError(f"--output {output} exists and is no training run; give another folder")


class Run:
    """The data that all episodes share, and their folders under `output`."""

    def __init__(self, config: TrainConfig, output: Path, processes: Processes) -> None:
        self.config = config
        self.output = output
        self.processes = processes
        self.collection: Collection = open_collection(config.collection)
        self.tasks = _tasks(config, self.collection)
        self._check()

    def _check(self) -> None:
        """Raise InputError for what would stop an episode after hours of mining or training."""
        from taco_ir.training.start import check_weighting

        for config in episode_configs(self.config):
            check_weighting(config, len(self.tasks))
            _shares(config, [1] * len(self.tasks))

    def episodes(self) -> Path:
        """Run what is not done yet; the last episode's model."""
        from taco_ir.models.encoder import model_folder

        model = model_folder(self.config.model)
        warm: Path | None = None
        configs = episode_configs(self.config)
        for number, config in enumerate(configs, 1):
            folder = self.output / f"episode-{number}" if len(configs) > 1 else self.output
            if not (folder / "model").is_dir():
                self._say(f"episode {number} of {len(configs)}: {config.negatives} negatives, {config.weighting}, from {model}")
                folder.mkdir(parents=True, exist_ok=True)
                self._train(config, folder, model, warm)
            if self.processes.first:
                for stale in ("vectors", "index"):
                    shutil.rmtree(folder / stale, ignore_errors=True)
            model, warm = folder / "model", folder
        self._say(f"trained model: {model}")
        return model

    def _train(self, config: TrainConfig, folder: Path, model: Path, warm: Path | None) -> None:
        from taco_ir.training.loop import Episode, Plan, latest
        from taco_ir.training.start import start_encoder

        found = latest(folder)
        encoder = start_encoder(config, found / "model" if found else model, self.tasks)
        negatives = self._negatives(config, folder, model)
        samplers = self._samplers(config, negatives)
        pools = self._pools
        trim_jvm()
        step = self._step(config, encoder, samplers, self._texts(samplers, pools))
        epoch = steps_per_epoch([len(sampler.examples) for sampler in samplers], [sampler.share for sampler in samplers])
        plan = Plan(config.steps or max(1, round(config.epochs * epoch)), config.validate_every or epoch)
        self._announce(config, step, plan)
        reporter = self._reporter(config, plan, folder)
        episode = Episode(config, step, plan, pools, folder, self.processes, reporter, warm and latest(warm))
        if episode.state.step:
            self._say(f"going on after step {episode.state.step:,}")
            reporter.skip(episode.state.step)
        episode.run()

    def _step(self, config: TrainConfig, encoder: DualEncoder, samplers: Sequence[TaskSampler], texts: Texts) -> MultiTaskStep:
        from taco_ir.training.backward import Arithmetic
        from taco_ir.training.start import loss_temperature, weighting_of
        from taco_ir.training.step import BatchSettings, MultiTaskStep

        settings = BatchSettings(
            negatives=config.hard_negatives,
            multi_positive=config.multi_positive,
            temperature=loss_temperature(config, encoder.config),
            cross_device=config.cross_device,
            accumulate=config.accumulate,
            seed=config.seed,
        )
        arithmetic = Arithmetic(config.precision == "bf16", config.gradcache)
        weighting = weighting_of(config, encoder, len(samplers))
        return MultiTaskStep(encoder, samplers, texts, weighting, settings, arithmetic, self.processes)

    def _negatives(self, config: TrainConfig, folder: Path, model: Path) -> Negatives | None:
        """Those that `config` names; mined first where they are not there. Only the first process mines."""
        if config.negatives == "none":
            return None
        path = Path(config.negatives)
        if config.negatives in ("bm25", "ance"):
            settings = MiningSettings(depth=config.mine_depth, skip=config.mine_skip, keep=config.mine_keep)
            name = f"bm25-{settings.depth}-{settings.skip}-{settings.keep}"
            path = folder / "ance.jsonl" if config.negatives == "ance" else self.output / f"{name}.jsonl"
            if self.processes.first and not path.is_file():
                system = BM25System(self.collection) if config.negatives == "bm25" else self._dense(config, folder, model)
                self._say(f"mining: the {settings.depth} best of {system.name} for each query")
                mine(self.collection, system, [self._topics(task, "train") for task in self.tasks], settings, path)
            self.processes.wait()
        return read_negatives(path, self.collection.passages.fingerprint)

    def _dense(self, config: TrainConfig, folder: Path, model: Path) -> DenseSystem:
        """A search by the model at the episode's start, over vectors of the whole collection kept until the episode is done."""
        from taco_ir.models.encoder import is_untied

        plain = not (is_untied(model) or describes_itself(model))
        options = Namespace(
            model=str(model),
            pooling=config.pooling if plain else None,
            normalize=config.normalize and plain,
            prompt=None,
            precision="float32",
            device=config.device,
            batch_size=64,
            index=folder / "index",
        )
        if not (folder / "index" / "manifest.json").is_file():
            encoder = encoder_of(options)
            recipe = Recipe.of(self.collection.passages, model.parent.name, encoder)
            encode_collection(self.collection, encoder, recipe, folder / "vectors", Shard(1, 1))
            build_index(VectorSet(folder / "vectors"), folder / "index")
        return DenseSystem(self.collection, options)

    def _samplers(self, config: TrainConfig, negatives: Negatives | None) -> list[TaskSampler]:
        examples = [self._examples(config, task, negatives) for task in self.tasks]
        counts = _shares(config, [len(each) for each in examples])
        return [TaskSampler(each, share, config.seed, task) for each, share, task in zip(examples, counts, self.tasks, strict=True)]

    def _examples(self, config: TrainConfig, task: str, negatives: Negatives | None) -> list[TrainExample]:
        examples = read_examples(self.collection, task, negatives=negatives)
        if 0 < config.max_examples < len(examples):
            rows = generator(config.seed, task, "examples").choice(len(examples), config.max_examples, replace=False)
            examples = [examples[row] for row in sorted(rows.tolist())]
        return examples

    @cached_property
    def _pools(self) -> list[Pool]:
        """Validation pools of the tasks that have dev topics."""
        config = self.config
        dev = [self._topics(task, "dev") for task in self.tasks if TopicsName(task, "dev") in self.collection.topics_names]
        judged = [topics for topics in dev if topics.judged]
        path = self.output / "validation.jsonl"
        hard: Negatives | None = None
        if config.pool_hard and judged:
            if self.processes.first and not path.is_file():
                settings = MiningSettings(depth=POOL_DEPTH, skip=0, keep=config.pool_hard)
                mine(self.collection, BM25System(self.collection), judged, settings, path)
            self.processes.wait()
            hard = read_negatives(path, self.collection.passages.fingerprint)
        pools = []
        for task in self.tasks:
            of_task = hard.docids.get(f"{task}-dev", {}) if hard else {}
            pool = make_pool(self.collection, task, config.pool_queries, of_task, config.pool_hard, config.pool_random, config.seed)
            if pool is None:
                log.warning("%s: no dev topics with a gold passage; not validated", task)
            else:
                pools.append(pool)
        return pools

    def _texts(self, samplers: Sequence[TaskSampler], pools: Sequence[Pool]) -> Texts:
        """Every passage that a batch or a pool may need."""
        from taco_ir.training.step import Texts

        wanted: dict[str, None] = {}
        for sampler in samplers:
            for example in sampler.examples:
                for docids in (*example.positives, example.negatives):
                    wanted |= dict.fromkeys(docids)
        for pool in pools:
            wanted |= dict.fromkeys(pool.docids)
        passages = self.collection.passages.get(list(wanted))
        return Texts(passages, {docid: passage.page for docid, passage in passages.items()})

    def _topics(self, task: str, split: str) -> Topics:
        return self.collection.load_topics(str(TopicsName(task, split)))

    def _announce(self, config: TrainConfig, step: MultiTaskStep, plan: Plan) -> None:
        from taco_ir.training.announce import Mix, describe

        parameters = sum(param.numel() for param in step.params)
        memory = step.weighting.extra_bytes(parameters, len(self.tasks), **config.weighting_options)
        self._say(describe(config, step.model, Mix(step.samplers, self.processes.world), memory))
        self._say(
            f"{plan.steps:,} steps of {sum(sampler.share for sampler in step.samplers)} queries, validated every {plan.validate_every:,}"
        )

    def _reporter(self, config: TrainConfig, plan: Plan, folder: Path) -> Reporter:
        from taco_ir.reporting import ConsoleReporter
        from taco_ir.training.loop import Reporter

        return ConsoleReporter(plan.steps, folder if config.tensorboard else None) if self.processes.first else Reporter()

    def _say(self, text: str) -> None:
        if self.processes.first:
            print(text, file=sys.stderr)


def _tasks(config: TrainConfig, collection: Collection) -> list[str]:
    """Canonical names of the tasks trained on. Raises: InputError for one that the collection has no train topics of."""
    known = [topics.task for topics in collection.topics_names if topics.split == "train"]
    if not known:
        raise InputError(f"collection {collection.name} has no train topics (<task>-train.jsonl)")
    return known if config.tasks == ("all",) else list(dict.fromkeys(resolve_task(task, known) for task in config.tasks))


def _shares(config: TrainConfig, sizes: Sequence[int]) -> list[int]:
    """Queries of a step by task, for tasks of these sizes. Raises: InputError."""
    shares = config.shares if config.shares.isalpha() else list(map(int, config.shares.split(",")))
    return batch_shares(sizes, config.batch_size, shares, config.share_temperature)
