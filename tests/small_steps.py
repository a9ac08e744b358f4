"""What tests of the training core share: examples of three tasks of the sample, tiny encoders, a loss written out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor
from training_runs import work_of

from taco_ir.core.types import Passage
from taco_ir.data.collection import open_collection
from taco_ir.data.examples import TrainExample
from taco_ir.training.backward import Arithmetic
from taco_ir.training.base_model import start_encoder
from taco_ir.training.data import TrainingData
from taco_ir.training.encoder import DualEncoder
from taco_ir.training.loop import adamw
from taco_ir.training.objectives.base import LossSettings, Means, Objective, Texts, passage_examples
from taco_ir.training.objectives.contrastive import Contrastive
from taco_ir.training.objectives.inverse_cloze import InverseCloze, queries_of
from taco_ir.training.objectives.masked_tokens import MaskedTokens
from taco_ir.training.objectives.reading import Reading
from taco_ir.training.processes import Processes
from taco_ir.training.sampling import TaskSampler
from taco_ir.training.settings import SELF_SUPERVISED, TrainSettings
from taco_ir.training.shared_encoder import SharedEncoder
from taco_ir.training.step import MultiTaskStep, StepResult, make_weighting

TASKS = {"nq": 5, "wow": 3, "fever": 1}  # queries of a step: odd ones, and one that leaves a part empty
SMALL = TrainSettings(pooling="mean", query_length=12, passage_length=24, dropout=0.0)
PASSAGES = list(open_collection("sample").passages.read())[:80]
TEXTS = Texts({passage.docid: passage for passage in PASSAGES}, {passage.docid: passage.page for passage in PASSAGES})


def examples(task: str, count: int, first: int = 0, negatives: int = 2) -> list[TrainExample]:
    """Queries made of words of their positive passages.

    A third has a negative on the gold page, another third two sets of positives.
    """
    found = []
    for row in range(count):
        place = (first + 4 * row) % len(PASSAGES)
        gold, beside, far, farther = (PASSAGES[(place + step) % len(PASSAGES)] for step in (0, 1, 17, 35))
        words = gold.text.split()[: 2 + row % 5]
        sets = ((gold.docid,), (farther.docid, gold.docid)) if row % 3 == 1 else ((gold.docid,),)
        pages = frozenset(TEXTS.page_of[docid] for docids in sets for docid in docids)
        hard = (beside.docid if row % 3 == 0 else far.docid, PASSAGES[(place + 29) % len(PASSAGES)].docid)
        found.append(TrainExample(f"{task}{row}", " ".join(words), task, sets, pages, hard[:negatives]))
    return found


def samplers(seed: int = 0) -> list[TaskSampler]:
    made = [(task, share, examples(task, 4 * share + 1, number)) for number, (task, share) in enumerate(TASKS.items())]
    return [TaskSampler(own, share, seed, task) for task, share, own in made]


def encoder(folder: Path, **values: Any) -> DualEncoder:
    """A tiny encoder in training mode, without dropout where not told otherwise."""
    model = start_encoder(SMALL.replace(**values), folder, list(TASKS))
    model.train()
    return model


def step_of(
    model: DualEncoder,
    weighting: str = "naive",
    settings: LossSettings = LossSettings(negatives=2),  # noqa: B008  (a tuple)
    arithmetic: Arithmetic = Arithmetic(),  # noqa: B008
    processes: Processes | None = None,
    sampled: Sequence[TaskSampler] | None = None,
    **options: Any,
) -> MultiTaskStep:
    sampled = samplers() if sampled is None else sampled
    made = make_weighting(
        SMALL.replace(weighting=weighting, weighting_options=options).weighting, model, [each.task for each in sampled]
    )
    means = Means(TEXTS, settings, arithmetic, processes or Processes(torch.device("cpu")))
    return MultiTaskStep(model, [Contrastive(model, sampler, means) for sampler in sampled], made)


def train_steps(step: MultiTaskStep, rate: float, count: int, same: bool = False) -> list[StepResult]:
    """The results of so many steps by AdamW, all on the first batches where `same`."""
    optimizer = adamw(step.model, SMALL.replace(learning_rate=rate).optimiser)
    results = []
    for number in range(count):
        results.append(step(0 if same else number, number / count))
        assert results[-1].report is not None
        optimizer.step()
        optimizer.zero_grad()
    return results


def gradient(task: Objective, number: int) -> Tensor:
    """Leave the gradient of a task's batch in .grad; its loss."""
    return task.backward(task.batch(number))


def written_out(
    query_BD: Tensor, passage_ND: Tensor, positives: Sequence[Sequence[int]], blocked_BN: Any, temperature: float = 1.0
) -> Tensor:
    """InfoNCE in float64, one query and one positive at a time.

    It is -log softmax over the positive and all columns that are neither blocked nor positive.
    """
    losses = []
    for row, columns in enumerate(positives):
        scores_N = passage_ND.double() @ query_BD[row].double() / temperature
        negatives = [
            column for column in range(len(scores_N)) if column not in columns and not bool(blocked_BN[row][column])
        ]
        each = [-torch.log_softmax(scores_N[[column, *negatives]], 0)[0] for column in columns]
        losses.append(torch.stack(each).mean())
    return torch.stack(losses).mean()


def one_by_one(
    model: DualEncoder, queries: Sequence[str], task: str, passages: Sequence[Passage]
) -> tuple[Tensor, Tensor]:
    """Vectors of queries [B, D] and passages [N, D], each text in a pass of its own."""
    texts = model.tokenize_queries(queries, task) + model.tokenize_passages(passages)
    vectors = torch.cat([model([text]) for text in texts])
    return vectors[: len(queries)], vectors[len(queries) :]


def gradients(model: DualEncoder) -> list[Tensor]:
    """Copies of the gradients, zeros where there is none; they are cleared."""
    found = [
        torch.zeros_like(param) if param.grad is None else param.grad.to_dense().clone()
        for _, param in model.trained_parameters()
    ]
    model.zero_grad()
    return found


def assert_near(ours: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float) -> None:
    """Differences at most `tolerance` of the largest number there is."""
    scale = max(float(tensor.abs().max()) for tensor in expected)
    assert scale > 0
    worst = max(float((a - b).abs().max()) for a, b in zip(ours, expected, strict=True))
    assert worst <= tolerance * scale, f"{worst:.2e} of {scale:.2e}"


def all_kinds(
    model: SharedEncoder, config: TrainSettings, processes: Processes, questions: int = 3, passages: int = 5
) -> list[Objective]:
    """Three tasks of retrieval, one of reading whose answers are the first words, mlm, and inverse cloze."""
    data = cast("TrainingData", SimpleNamespace(processes=processes))
    work = work_of(config, model, data, texts=TEXTS)
    read, settings = examples("nq", 9), config.objectives
    spans = {each.qid: {docid: ((0, 4),) for docids in each.positives for docid in docids} for each in read}
    alone = {
        name: TaskSampler(list(passage_examples(PASSAGES, name, queries_of)), passages, 0, name)
        for name in SELF_SUPERVISED
    }
    return [
        *(
            Contrastive(model, sampler, work.means(config.batch.hard_negatives, config.batch.multi_positive))
            for sampler in samplers()
        ),
        Reading(
            model,
            TaskSampler(read, questions, 0, "nq reading"),
            spans,
            work.means(settings.reading_negatives),
            settings.reading_weight,
        ),
        MaskedTokens(model, alone["mlm"], work.means(), settings.passage_weight),
        InverseCloze(model, alone["inverse_cloze"], work.means(), settings.passage_weight),
    ]
