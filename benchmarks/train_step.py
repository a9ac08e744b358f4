"""What a training step costs: weightings against naive training and the released TACO update, our loop against a peer.

steps     T tasks x 8 queries and 16 passages of 32 and 96 tokens; variants alternate, rounds rotate their order
memory    peak of one variant in a process of its own
tasks     the weighting's part of a step as T grows and the batch stays
peer      one task, in-batch negatives: sentence-transformers' trainer over the same examples
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from taco_ir.core.processes import share_processors

share_processors()  # before torch is imported

import torch  # noqa: E402
from bounds import Bound, add_tiny, in_a_process, judged  # noqa: E402
from released_update import ReleasedTaco  # noqa: E402
from torch import Tensor  # noqa: E402

from taco_ir.core import resolve  # noqa: E402
from taco_ir.core.types import Passage  # noqa: E402
from taco_ir.data.collection import open_collection  # noqa: E402
from taco_ir.encoders.config import EncoderConfig  # noqa: E402
from taco_ir.encoders.model_folder import ModelFolder  # noqa: E402
from taco_ir.encoders.pooling import Ids  # noqa: E402
from taco_ir.training.backward import Arithmetic, backward  # noqa: E402
from taco_ir.training.encoder import DualEncoder, Text  # noqa: E402
from taco_ir.training.objectives.contrastive import contrastive_loss  # noqa: E402
from taco_ir.weighting import WEIGHTINGS  # noqa: E402
from taco_ir.weighting.base import TaskWeighting  # noqa: E402

QUERIES, PASSAGES, QUERY_TOKENS, PASSAGE_TOKENS, TASKS = 8, 16, 32, 96, 8
TEMPERATURE = 0.05
NAIVE, SEPARATE, RELEASED = "naive, one backward", "naive, a backward a task", "released update"
NEEDED = {
    "bert-tiny": {"taco": 1.10, "pcgrad": 1.5, "cgd": 1.5},
    "minilm-l6": {"taco": 1.05},
}
NEEDED_PEER = 1.4
SMALLEST = 10_000_000  # parameters of a model whose peak says something of the weighting
PARTS = ("memory", "steps", "tasks", "peer")  # memory first: a forked process has what this one holds
DEFAULT_MODEL = "minilm-l6"
T5_BASE_PARAMETERS = 222_903_552


class TaskTexts:
    """The texts of one task and step, windows of real text of exact lengths, and where its positives are."""

    def __init__(self, words: Ids, queries: int, passages: int, generator: np.random.Generator) -> None:
        self.queries = queries
        lengths = [QUERY_TOKENS] * queries + [PASSAGE_TOKENS] * passages
        starts = generator.integers(0, len(words) - PASSAGE_TOKENS, len(lengths))
        self.texts = [
            Text("passage", words[start : start + length]) for start, length in zip(starts, lengths, strict=True)
        ]
        self.positives = [(row * (passages // queries),) for row in range(queries)]
        self.blocked_BN = torch.zeros(queries, passages, dtype=torch.bool)

    def loss(self, vectors_ND: Tensor) -> Tensor:
        return contrastive_loss(
            vectors_ND[: self.queries], vectors_ND[self.queries :], self.positives, self.blocked_BN, TEMPERATURE
        )


def load(folder: Path) -> DualEncoder:
    """The model, without dropout, so that every variant computes the same."""
    torch.manual_seed(0)
    model = DualEncoder(folder, EncoderConfig("mean", normalize=True), untied=False)
    model.set_dropout(0.0)
    return model.train()


def task_texts(model: DualEncoder, tasks: int, queries: int, passages: int, seed: int) -> list[TaskTexts]:
    generator = np.random.default_rng(seed)
    return [TaskTexts(words(model), queries, passages, generator) for _ in range(tasks)]


@cache
def words(model: DualEncoder) -> Ids:
    """Tokens of the sample's passages, one after the other: their frequencies are those of a language."""
    texts = model.tokenize_passages(list(open_collection("sample").passages.read()))
    return np.concatenate([text.ids[1:-1] for text in texts])


def weighting_of(name: str, model: DualEncoder, tasks: int, **options: str) -> TaskWeighting:
    params = [param for _, param in model.trained_parameters()]
    tables = {id(table.weight) for table in model.large_tables()}
    places = [place for place, param in enumerate(params) if id(param) in tables]
    kind = ReleasedTaco if name == RELEASED else resolve(WEIGHTINGS[name])
    return kind(params, tasks, places, **options)


def one_backward(model: DualEncoder, batches: Sequence[TaskTexts]) -> None:
    """Naive training as it is usually written: all losses, their mean, one backward."""
    losses = []
    for batch in batches:
        queries, passages = batch.texts[: batch.queries], batch.texts[batch.queries :]
        losses.append(batch.loss(torch.cat([model(queries), model(passages)])))
    torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]


def weighted(model: DualEncoder, batches: Sequence[TaskTexts], weighting: TaskWeighting | None) -> float:
    """A backward a task and what the weighting makes of them; the seconds that the weighting took."""
    params = [param for _, param in model.trained_parameters()]
    spent = 0.0
    if weighting:
        weighting.begin(0.5)
    for task, batch in enumerate(batches):
        loss = backward(model, batch.texts, batch.loss, Arithmetic(), (0, task))
        began = time.perf_counter()
        if weighting:
            weighting.add(task, loss, params)
        spent += time.perf_counter() - began
    began = time.perf_counter()
    if weighting:
        weighting.combine(params)
    return spent + time.perf_counter() - began


class Variant:
    """One way to make the gradient of a step, followed by AdamW."""

    def __init__(self, name: str, model: DualEncoder, tasks: int) -> None:
        self.name = name
        self.model = model
        self.weighting = weighting_of(name, model, tasks) if name not in (NAIVE, SEPARATE) else None
        self.optimizer = torch.optim.AdamW([param for _, param in model.trained_parameters()], lr=0.0, fused=True)
        self.update: list[float] = []

    def step(self, batches: Sequence[TaskTexts]) -> float:
        self.model.use_sparse_tables(self.name not in (NAIVE, SEPARATE, RELEASED))
        began = time.perf_counter()
        if self.name == NAIVE:
            one_backward(self.model, batches)
        else:
            self.update.append(weighted(self.model, batches, self.weighting))
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - began


def steps(title: str, folder: Path, rounds: int, names: Sequence[str]) -> list[Bound]:
    """Print what a step of each variant costs beside naive training's; those that have a bound."""
    model = load(folder)
    needed = NEEDED.get(title, {})
    variants = [Variant(name, model, TASKS) for name in names]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        batches = task_texts(model, TASKS, QUERIES, PASSAGES, number)
        for variant in variants[number % len(variants) :] + variants[: number % len(variants)]:
            spent = variant.step(batches)
            if number:  # the first round warms up
                seconds[variant.name].append(spent)
    print(
        f"{title}: T = {TASKS}, {QUERIES} queries + {PASSAGES} passages of a task, {rounds} rounds; "
        f"load {os.getloadavg()[0]:.1f}"
    )
    bounds = []
    for variant in variants:
        ratio = statistics.median(a / b for a, b in zip(seconds[variant.name], seconds[NAIVE], strict=True))
        update = f", weighting {1000 * statistics.median(variant.update[1:]):6.0f} ms" if variant.weighting else ""
        print(
            f"  {variant.name:<26}{statistics.median(seconds[variant.name]):8.3f} s  {ratio:5.2f} x naive{update}",
            flush=True,
        )
        if variant.name in needed:
            bounds.append(
                Bound(
                    f"a step of {variant.name} on {title} / naive training's", ratio, needed[variant.name], at_most=True
                )
            )
    return bounds


def growth(title: str, folder: Path, rounds: int) -> None:
    """Print what TACO's part of a step takes for 2 to 16 tasks that share a batch of 64 queries and 128 passages."""
    model = load(folder)
    print(f"{title}: TACO's part of a step as the number of tasks grows, {QUERIES * TASKS} queries in all")
    first = 0.0
    for tasks in (2, 4, 8, 16):
        variant = Variant("taco", model, tasks)
        for number in range(rounds + 1):
            variant.step(task_texts(model, tasks, QUERIES * TASKS // tasks, PASSAGES * TASKS // tasks, number))
        spent = statistics.median(variant.update[1:])
        first = first or spent / tasks
        print(
            f"  T = {tasks:<3} {1000 * spent:7.0f} ms, {spent / tasks / first:.2f} x a task's part at T = 2", flush=True
        )


def measure_memory(folder: Path, name: str) -> tuple[float, int]:
    """Peak resident set of two steps of one variant, in MB, and how many parameters are trained."""
    model = load(folder)
    variant = Variant(name.removesuffix(" bf16"), model, TASKS)
    if name.endswith(" bf16"):
        variant.weighting = weighting_of("taco", model, TASKS, importance="bf16")
    for number in range(2):
        variant.step(task_texts(model, TASKS, QUERIES, PASSAGES, number))
    trained = sum(param.numel() for _, param in model.trained_parameters())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000, trained


def memory(title: str, folder: Path, names: Sequence[str]) -> list[Bound]:
    """Print the peak memory of each variant; TACO's beside naive training's, and its excess beside the formula."""
    found = {name: in_a_process(measure_memory, folder, name) for name in names}
    peaks = {name: peak for name, (peak, _) in found.items()}
    trained = found[NAIVE][1]
    print(f"{title}: peak memory, {trained:,} parameters trained")
    for name, peak in peaks.items():
        print(f"  {name:<26}{peak:8.0f} MB, {peak - peaks[SEPARATE]:+6.0f} MB beside a backward a task")
    allowed = (12 + 2 * TASKS) * trained / 1e6
    print(
        f"  allowed beside it: 3 P floats + T x P x 2 bytes = {allowed:.0f} MB; "
        f"t5-base, by the same: {allowed_t5():.2f} GB"
    )
    if trained < SMALLEST:
        return []
    return [
        Bound(
            f"peak memory of taco bf16 on {title} / naive training's",
            peaks["taco bf16"] / peaks[NAIVE],
            1.0,
            at_most=True,
        ),
        Bound(
            f"MB of taco bf16 on {title} beside a backward a task",
            peaks["taco bf16"] - peaks[SEPARATE],
            allowed,
            at_most=True,
        ),
    ]


def allowed_t5() -> float:
    return (12 + 2 * TASKS) * T5_BASE_PARAMETERS / 1e9


def peer(title: str, folder: Path, collection: str, rounds: int, count: int) -> Bound:
    """Print queries a second of our loop and of sentence-transformers' trainer; how many more ours are."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import MultipleNegativesRankingLoss
    from sentence_transformers.models import Normalize, Pooling, Transformer

    triples = examples(collection, count)
    model = load(folder)

    def ours(batch: Sequence[tuple[str, str, str]]) -> tuple[list[Text], Callable[[Tensor], Tensor]]:
        texts = model.tokenize_queries([query for query, _, _ in batch], "nq")
        texts += model.tokenize_passages([Passage("", "", "", text) for triple in batch for text in triple[1:]])
        blocked_BN = torch.zeros(len(batch), 2 * len(batch), dtype=torch.bool)
        positives = [(2 * row,) for row in range(len(batch))]
        return texts, lambda v: contrastive_loss(v[: len(batch)], v[len(batch) :], positives, blocked_BN, TEMPERATURE)

    model.use_sparse_tables(True)

    def train_ours() -> float:
        params = [param for _, param in model.trained_parameters()]
        optimizer, weighting = torch.optim.AdamW(params, lr=2e-5, fused=True), weighting_of("naive", model, 1)
        began = time.perf_counter()
        for start in range(0, len(triples), 32):
            texts, loss_of = ours(triples[start : start + 32])
            loss = backward(model, texts, loss_of, Arithmetic(), (0, start))
            weighting.begin(0.0)
            weighting.add(0, loss, params)
            weighting.combine(params)
            torch.nn.utils.clip_grad_norm_(params, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return time.perf_counter() - began

    transformer = Transformer(str(folder), max_seq_length=256)
    theirs = SentenceTransformer(
        modules=[transformer, Pooling(transformer.get_embedding_dimension(), "mean"), Normalize()], device="cpu"
    )
    data = Dataset.from_dict(
        {name: [triple[i] for triple in triples] for i, name in enumerate(("anchor", "positive", "negative"))}
    )

    def train_theirs() -> float:
        with tempfile.TemporaryDirectory() as output:
            settings = SentenceTransformerTrainingArguments(
                output_dir=output, per_device_train_batch_size=32, num_train_epochs=1, learning_rate=2e-5,
                save_strategy="no", report_to=[], disable_tqdm=True, logging_strategy="no", use_cpu=True,
                dataloader_drop_last=True,
            )  # fmt: skip
            trainer = SentenceTransformerTrainer(
                theirs, settings, data, loss=MultipleNegativesRankingLoss(theirs, scale=1 / TEMPERATURE)
            )
            began = time.perf_counter()
            trainer.train()
            return time.perf_counter() - began

    same_loss(model, theirs, ours, triples[:32])
    model.set_dropout(0.1)  # BERT's, as theirs
    ratios = []
    for number in range(rounds):
        ways = [train_ours, train_theirs] if number % 2 else [train_theirs, train_ours]
        spent = {way: way() for way in ways}
        ratios.append(spent[train_theirs] / spent[train_ours])
        print(
            f"  round {number + 1}: queries/s: ours {len(triples) / spent[train_ours]:.1f}, "
            "sentence-transformers' trainer "
            f"{len(triples) / spent[train_theirs]:.1f}; load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
    return Bound(
        f"queries a second on {title}, ours / sentence-transformers' trainer", statistics.median(ratios), NEEDED_PEER
    )


def same_loss(
    model: DualEncoder, theirs: object, ours: Callable[..., object], batch: Sequence[tuple[str, str, str]]
) -> None:
    """Print both losses of one batch, without dropout, and ours with all texts in one padded pass."""
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    texts, loss_of = ours(batch)  # type: ignore[misc]
    with torch.no_grad():
        padded = float(loss_of(model(texts)))
        theirs.eval()  # type: ignore[attr-defined]
        features = [theirs.tokenize([triple[i] for triple in batch]) for i in range(3)]  # type: ignore[attr-defined]
        found = float(MultipleNegativesRankingLoss(theirs, scale=1 / TEMPERATURE)(features, torch.tensor([])))
        theirs.train()  # type: ignore[attr-defined]
    chunked = float(backward(model, texts, loss_of, Arithmetic(), (0,)))
    model.zero_grad()
    print(
        f"  loss of one batch: sentence-transformers {found:.6f}, ours {chunked:.6f}, "
        f"ours in one padded pass {padded:.6f}"
    )
    if max(abs(found - chunked), abs(padded - chunked)) > 1e-4:
        sys.exit("the losses differ by more than 1e-4")


def examples(collection: str, count: int) -> list[tuple[str, str, str]]:
    """Query, positive and one random passage of nq's train topics, repeated until there are `count`."""
    from taco_ir.data.examples import read_examples

    opened = open_collection(collection)
    drawn = read_examples(opened, "nq")[:count]
    negatives = opened.passages.at(range(0, opened.passages.count, max(1, opened.passages.count // len(drawn))))
    passages = opened.passages.get([example.positives[0][0] for example in drawn])
    triples = []
    for example, negative in zip(drawn, negatives, strict=False):
        positive = passages[example.positives[0][0]]
        triples.append((example.text, f"{positive.title} {positive.text}", f"{negative.title} {negative.text}"))
    return (triples * (count // len(triples) + 1))[:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", nargs="+", default=[DEFAULT_MODEL], help=f"names or folders [default: {DEFAULT_MODEL}]"
    )
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, help=f"of {', '.join(PARTS)} [default: all]"
    )
    parser.add_argument("--collection", default="sample", help="whose nq examples the peer trains on [default: sample]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--examples", type=int, default=128, help="of the peer's race [default: 128]")
    parser.add_argument("--variants", nargs="+", default=[NAIVE, SEPARATE, *sorted(WEIGHTINGS), RELEASED])
    add_tiny(parser)
    flags = parser.parse_args()
    folders = {Path(name).name: ModelFolder.find(name).path for name in flags.model}
    peaks_of = (NAIVE, SEPARATE, "taco", "taco bf16", RELEASED)
    if flags.tiny:
        flags.rounds, flags.examples, peaks_of = 1, 64, (NAIVE, SEPARATE, "taco bf16")
    bounds: list[Bound] = []
    for part in [part for part in PARTS if part in flags.parts]:
        for title, folder in folders.items():
            if part == "memory":
                bounds += memory(title, folder, peaks_of)
            elif part == "steps":
                bounds += steps(title, folder, flags.rounds, flags.variants)
            elif part == "tasks":
                growth(title, folder, flags.rounds)
            else:
                bounds.append(peer(title, folder, flags.collection, flags.rounds, flags.examples))
    sys.exit(judged(bounds, flags.tiny))


if __name__ == "__main__":
    main()
