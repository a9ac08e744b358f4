"""Training examples for the reader: gold passages with all answer spans, and passages without an answer."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

from taco_ir.core.files import InputError
from taco_ir.core.processes import log
from taco_ir.core.tasks import TopicsName, canonical_task
from taco_ir.core.texts import ARTICLES, VERDICTS, WITHOUT_PUNCTUATION, normal_answer
from taco_ir.core.types import Passage, Query
from taco_ir.data.collection import Collection
from taco_ir.data.examples import TrainExample, read_examples
from taco_ir.negatives.file import Negatives, with_negatives

Span = tuple[int, int]  # start and end (exclusive) of an answer, in characters of its passage
WORD = re.compile(r"\S+")
# where an answer may begin and end: not inside 1,000 or U.S.A, but inside New York-based and Obama's
BEFORE, AFTER = re.compile(r"(?<!\w)(?<!\w[.,:])"), re.compile(r"(?!\w|[.,:]\w)")


class ReadingCounts(NamedTuple):
    """How many of a task's train queries were kept, and how many were dropped for which reason.

    Attributes:
        queries: number of queries in the topics.
        kept: queries with an answer in a gold passage.
        unanswered: dropped because they have no answer.
        verdicts: dropped because their answer is a verdict, which a passage contains only by chance.
        no_passage: dropped because no gold passage is in the collection.
        not_found: dropped because no gold passage contains an answer.
        negatives_dropped: mined passages that contain an answer or are on a gold page.
    """

    queries: int
    kept: int
    unanswered: int
    verdicts: int
    no_passage: int
    not_found: int
    negatives_dropped: int

    def __str__(self) -> str:
        return (
            f"{self.kept:,} of {self.queries:,} queries have an answer in a gold passage; dropped: "
            f"{self.unanswered:,} without an answer, {self.verdicts:,} whose answer is a verdict (yes, no, ...), "
            f"{self.no_passage:,} without a gold passage in the collection, "
            f"{self.not_found:,} whose answer no gold passage contains; "
            f"{self.negatives_dropped:,} mined negatives contain an answer or are on a gold page"
        )


class ReadingData(NamedTuple):
    """A task's examples with the places of their answers.

    Attributes:
        examples: as for retrieval, but all `positives` and no `negatives` contain an answer.
        spans: answer spans by qid and docid of a positive, in text order.
    """

    task: str
    examples: list[TrainExample]
    spans: dict[str, dict[str, tuple[Span, ...]]]
    counts: ReadingCounts


def read_reading_data(
    collection: Collection,
    task: str,
    split: str = "train",
    negatives: Negatives | None = None,
    qids: Container[str] | None = None,
) -> ReadingData:
    """Read a task's examples that have an answer in a gold passage, and log how many were kept.

    Args:
        qids: ids of the queries to read; None: all.

    Raises:
        InputError: for a task without topics of that split, or without an answer in a gold passage.
    """
    name = TopicsName(canonical_task(task), split)
    found = read_examples(collection, task, split, qids)
    examples = with_negatives(found, name, negatives) if negatives else found
    topics = collection.load_topics(str(name), qids)
    read = find_answers(collection, topics.task, topics.queries, examples)
    if not read.examples:
        raise InputError(
            f"{task}-{split}: no answer occurs in a gold passage of collection {collection.name}; {read.counts}"
        )
    log.info("%s-%s: %s", task, split, read.counts)
    return read


def find_answers(
    collection: Collection, task: str, queries: Sequence[Query], examples: Sequence[TrainExample]
) -> ReadingData:
    """Returns the examples with an answer in their positives; there may be no such example."""
    answers = {query.qid: answer_forms(query.answers) for query in queries}
    wanted = {docid for example in examples for docids in (*example.positives, example.negatives) for docid in docids}
    passages = collection.passages.get(sorted(wanted))
    answered = [example for example in examples if answers[example.qid]]
    named = {query.qid for query in queries if any(map(normal_answer, query.answers))}
    verdicts = sum(example.qid in named for example in examples) - len(answered)
    spans: dict[str, dict[str, tuple[Span, ...]]] = {example.qid: {} for example in answered}
    for example in answered:
        for docid in dict.fromkeys(docid for docids in example.positives for docid in docids):
            if own := find_spans(passages[docid].text, answers[example.qid]):
                spans[example.qid][docid] = own
    found = [example for example in answered if spans[example.qid]]
    kept = _drop_passages(found, answers, spans, passages)
    dropped = sum(len(example.negatives) for example in found) - sum(len(example.negatives) for example in kept)
    counts = ReadingCounts(
        queries=len(queries),
        kept=len(kept),
        unanswered=len(examples) - len(answered) - verdicts,
        verdicts=verdicts,
        no_passage=len(queries) - len(examples),
        not_found=len(answered) - len(found),
        negatives_dropped=dropped,
    )
    return ReadingData(task, kept, {example.qid: spans[example.qid] for example in kept}, counts)


def answer_forms(answers: Sequence[str]) -> tuple[str, ...]:
    """Returns distinct answers in SQuAD's normal form, without verdicts and empty answers."""
    return tuple(dict.fromkeys(form for answer in answers if (form := normal_answer(answer)) and form not in VERDICTS))


def _drop_passages(
    examples: Sequence[TrainExample],
    answers: Mapping[str, Sequence[str]],
    spans: Mapping[str, Mapping[str, tuple[Span, ...]]],
    passages: Mapping[str, Passage],
) -> list[TrainExample]:
    """Returns examples with only those positives that contain an answer, and negatives that are not gold pages."""
    normal = {
        docid: f" {normal_answer(passages[docid].text)} "
        for docid in {docid for example in examples for docid in example.negatives}
    }
    kept = []
    for example in examples:
        sets = [tuple(docid for docid in docids if docid in spans[example.qid]) for docids in example.positives]
        clean = tuple(
            docid
            for docid in example.negatives
            if passages[docid].page not in example.pages
            and not any(f" {form} " in normal[docid] for form in answers[example.qid])
        )
        kept.append(
            example._replace(positives=tuple(dict.fromkeys(docids for docids in sets if docids)), negatives=clean)
        )
    return kept


def find_spans(text: str, answers: Sequence[str]) -> tuple[Span, ...]:
    """Find all spans of whole words in `text` that equal one of `answers` in normal form (see `answer_forms`)."""
    normal, places = _normalise(text)
    found = set()
    for answer in answers:
        start = normal.find(answer)
        while start >= 0:
            first, last = places[start], places[start + len(answer) - 1] + 1
            if BEFORE.match(text, first) and AFTER.match(text, last) and normal_answer(text[first:last]) == answer:
                found.add((first, last))
            start = normal.find(answer, start + 1)
    return tuple(sorted(found))


def _normalise(text: str) -> tuple[str, list[int]]:
    """Returns a text's normal form, and the place in the text of each of its characters (a blank: of the next word)."""
    letters: list[str] = []
    places: list[int] = []
    for place, letter in enumerate(text):
        kept = letter.lower().translate(WITHOUT_PUNCTUATION)
        letters.append(kept)
        places += [place] * len(kept)
    plain = ARTICLES.sub(lambda article: " " * len(article[0]), "".join(letters))
    words = list(WORD.finditer(plain))
    found: list[int] = []
    for word in words:
        found += [places[word.start()]] * bool(found) + places[word.start() : word.end()]
    return " ".join(word[0] for word in words), found
