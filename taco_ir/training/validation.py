"""Validation during training: page R-precision in a fixed pool of passages for each task, exact match for reading."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

import numpy as np

from taco_ir.core.hashes import generator
from taco_ir.core.tasks import TopicsName, canonical_task
from taco_ir.core.types import Passage, Query, Run
from taco_ir.data.collection import Collection, Topics
from taco_ir.data.examples import read_examples, read_outline
from taco_ir.data.gold import find_positives
from taco_ir.data.topics import unique
from taco_ir.evaluation.answers import exact_match
from taco_ir.evaluation.measures import Measure, score_run
from taco_ir.reading.answer_spans import find_answers
from taco_ir.retrieval.exact_search import exact_search

if TYPE_CHECKING:
    from taco_ir.encoders.text_encoder import TextEncoder
    from taco_ir.training.encoder import DualEncoder
    from taco_ir.training.shared_encoder import SharedEncoder

MEASURE = Measure("Rprec")
HITS = 20  # enough for the pages of any evidence set, even if several hits are from one page


class Pool(NamedTuple):
    """The validation queries of a task, and the passages to rank for them.

    Attributes:
        docids: the passages to rank: gold ones, hard ones, then random ones, without repeats.
        hard: docids of hard passages, by query id.
        random: docids sampled from the whole collection.
    """

    task: str
    queries: list[Query]
    docids: list[str]
    hard: Mapping[str, Sequence[str]] = {}
    random: Sequence[str] = ()

    def sample_distractors(self, qid: str, random: int, seed: int) -> tuple[str, ...]:
        """Returns docids: the query's hard passages, then `random` random ones. Gold passages may be among them."""
        places = generator(seed, self.task, qid).choice(
            len(self.random), size=min(random, len(self.random)), replace=False
        )
        return unique((*self.hard.get(qid, ()), *(self.random[place] for place in places.tolist())))


def sample_queries(collection: Collection, task: str, split: str, count: int, seed: int) -> Topics | None:
    """Samples validation queries of a task that have a gold passage in the collection; None if there are none.

    Args:
        count: maximum number of queries. Of train queries, at most a fifth is taken, because training leaves them out.
    """
    name = TopicsName(canonical_task(task), split)
    if name not in collection.topics_names:
        return None
    outline = read_outline(collection, name)
    usable = len(outline.ids_U2)
    most = usable // 5 if split == "train" else usable
    if not most:
        return None
    rows = generator(seed, str(name)).choice(usable, size=min(count, most), replace=False)
    return collection.load_topics(str(name), outline.ids(rows.tolist()))


def build_pool(
    collection: Collection, topics: Topics, hard: Mapping[str, Sequence[str]], random: int, seed: int
) -> Pool:
    """Makes the validation pool of a task: the queries in `topics`, and the passages to rank for them.

    Args:
        hard: docids of hard passages, by query id.
        random: number of random passages, which are the same for every task, so that each is encoded once.
    """
    store = collection.passages
    places = generator(seed, "passages").choice(store.count, size=min(random, store.count), replace=False)
    docids = [docid for sets in find_positives(store, topics.queries) for positives in sets for docid in positives]
    docids += [docid for query in topics.queries for docid in hard.get(query.qid, ())]
    sampled = [passage.docid for passage in store.at(sorted(places.tolist()))]
    return Pool(topics.task, topics.queries, list(unique([*docids, *sampled])), hard, sampled)


class Validation(Protocol):
    """Interface of validations: a call returns scores by name. If `keeps_best`, `macro` chooses the best model."""

    what: str
    keeps_best: bool

    def __call__(self) -> dict[str, float]: ...


class HeldOutQuestions(NamedTuple):
    """Held-out questions of a reading task: (question, passages to read), and the right answers of each."""

    task: str
    read: Sequence[tuple[str, Sequence[Passage]]]
    answers: Sequence[Sequence[str]]


class PoolValidation:
    """Validates a model: page R-precision in each task's pool, and exact match (EM) in each reading task.

    `macro` is the mean of all these scores.

    Args:
        corpora: for each collection, its pools and its passages by docid; empty for a model that only reads.
        questions: questions of reading tasks; None for a model that does not read.
    """

    keeps_best = True

    def __init__(
        self,
        model: DualEncoder,
        corpora: Sequence[tuple[Sequence[Pool], Mapping[str, Passage]]],
        questions: Sequence[HeldOutQuestions] | None = None,
    ) -> None:
        self._model = model
        self._corpora = corpora
        self._questions = questions
        has_pages = any(docid != each.page for _, passages in corpora for docid, each in passages.items())
        ranks = [f"{'page ' * has_pages}R-precision in the validation pools"] if corpora else []
        self.what = ", ".join([*ranks, *(["EM of reading"] if questions is not None else [])])

    def __call__(self) -> dict[str, float]:
        scores = dict[str, float]()
        for pools, passages in self._corpora:
            values = score_pools(self._model.as_text_encoder(), pools, passages)
            scores |= {task: math.fsum(own) / len(own) for task, own in values.items()}
        if self._questions:
            reader = cast("SharedEncoder", self._model).as_reader()
            for task, read, golds in self._questions:
                found = zip(reader.read(read), golds, strict=True)
                right = [max(exact_match(answer.text if answer else "", gold) for gold in own) for answer, own in found]
                scores[f"{task} reading"] = math.fsum(right) / len(right)
        return scores | {"macro": math.fsum(scores.values()) / len(scores)}


def read_questions(
    collection: Collection, pools: Iterable[Pool], split: str, negatives: int, seed: int
) -> list[HeldOutQuestions]:
    """Returns the held-out questions of each task that have an answer in a gold passage.

    Each question is read in a gold passage and in up to `negatives` other passages without an answer, hard ones first.
    """
    found = []
    for pool in pools:
        queries = {query.qid: query for query in pool.queries}
        examples = [
            example._replace(
                negatives=pool.sample_distractors(example.qid, 2 * negatives, seed)
            )  # twice as many, because some may contain the answer
            for example in read_examples(collection, pool.task, split, only=queries)
        ]
        answered = find_answers(collection, pool.task, pool.queries, examples).examples
        shown = [(example.positives[0][0], *example.negatives[:negatives]) for example in answered]
        passages = collection.passages.get(list({docid for docids in shown for docid in docids}))
        read = [
            (example.text, [passages[docid] for docid in docids])
            for example, docids in zip(answered, shown, strict=True)
        ]
        if read:
            found.append(HeldOutQuestions(pool.task, read, [queries[example.qid].answers for example in answered]))
    return found


def score_pools(encoder: TextEncoder, pools: Sequence[Pool], passages: Mapping[str, Passage]) -> dict[str, list[float]]:
    """Ranks the passages of each pool for its queries; returns the page R-precision of each query, by task."""
    docids = list(dict.fromkeys(docid for pool in pools for docid in pool.docids))
    row_of = {docid: row for row, docid in enumerate(docids)}
    vectors_ND = encoder.encode_passages([passages[docid] for docid in docids])
    page_of = {docid: passages[docid].page for docid in docids}
    scores = {}
    for pool in pools:
        own_ND = vectors_ND[[row_of[docid] for docid in pool.docids]]
        queries_BD = encoder.encode_queries([query.text for query in pool.queries], pool.task)
        rankings = exact_search(queries_BD, own_ND, np.array(pool.docids, dtype=object), min(HITS, len(own_ND)))
        run = Run(dict(zip((query.qid for query in pool.queries), rankings, strict=True)))
        found = score_run(run, pool.queries, lambda wanted: {docid: page_of[docid] for docid in wanted}, [MEASURE])
        scores[pool.task] = list((found.by_query[MEASURE] or {}).values())
    return scores
