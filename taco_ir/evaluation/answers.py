"""KILT's measures of answers: comparison with gold answers, and KILT- versions that also require all evidence.

Petroni et al., NAACL 2021, section 5; equal to KILT's `eval_downstream.py`, whose EM and F1 are those of SQuAD
(Rajpurkar et al., EMNLP 2016).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from taco_ir.core.files import InputError
from taco_ir.core.texts import normal_answer
from taco_ir.core.types import Query
from taco_ir.evaluation.kilt_pages import R_PRECISION, kilt_scores

SMOOTHING = 1e-8  # of the `rouge` package
WITH_EVIDENCE = "KILT-"
AnswerScore = Callable[[str, str], float]


def exact_match(answer: str, gold: str) -> float:
    return float(normal_answer(answer) == normal_answer(gold))


def token_f1(answer: str, gold: str) -> float:
    """Returns the F1 of the words in answer and gold, counted as bags of words; 0 if they share no word."""
    ours, theirs = normal_answer(answer).split(), normal_answer(gold).split()
    shared = sum((Counter(ours) & Counter(theirs)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(ours), shared / len(theirs)
    return 2 * precision * recall / (precision + recall)


def accuracy(answer: str, gold: str) -> float:
    """Returns 1.0 if the texts are equal without normalisation, otherwise 0.0, as in KILT."""
    return float(answer == gold)


def rouge_l(answer: str, gold: str) -> float:
    """Returns the F-score of ROUGE-L, computed as in version 1.0 of the package `rouge`: by sentence, on sets of words.

    Sentences end at full stops. A word is shared if it is in a longest common subsequence of two sentences, one of each
    text (Lin, 2004, section 3.2); each word counts once. The result is 0 if a text has only full stops.
    """
    ours, theirs = _sentences(answer), _sentences(gold)
    if not ours or not theirs:
        return 0.0
    shared = {word for reference in theirs for sentence in ours for word in common_subsequence(reference, sentence)}
    precision = len(shared) / len({word for sentence in ours for word in sentence})
    recall = len(shared) / len({word for sentence in theirs for word in sentence})
    return 2 * precision * recall / (precision + recall + SMOOTHING)


def _sentences(text: str) -> list[list[str]]:
    """Returns the words of each sentence; a sentence of only blanks has one empty word, as in the package `rouge`."""
    return [sentence.split() or [""] for sentence in text.split(".") if sentence]


def common_subsequence(a: Sequence[str], b: Sequence[str]) -> list[str]:
    """Returns a longest common subsequence of `a` and `b`, and of several the one that the package `rouge` finds."""
    length = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, word in enumerate(a):
        for j, other in enumerate(b):
            length[i + 1][j + 1] = length[i][j] + 1 if word == other else max(length[i][j + 1], length[i + 1][j])
    found: list[str] = []
    i, j = len(a), len(b)
    while i and j:
        if a[i - 1] == b[j - 1]:
            found.append(a[i - 1])
            i, j = i - 1, j - 1
        elif length[i - 1][j] > length[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found[::-1]


ANSWER_SCORES: dict[str, AnswerScore] = {"EM": exact_match, "F1": token_f1, "AC": accuracy, "RL": rouge_l}
ANSWER_MEASURES = (*ANSWER_SCORES, *(WITH_EVIDENCE + name for name in ANSWER_SCORES))
# measures on KILT's leaderboard by kind of task
OF_KIND = {
    **dict.fromkeys(("fact checking", "slot filling", "slot filling, unseen relations", "entity linking"), ("AC",)),
    "dialogue": ("F1", "RL"),
    "long-form QA": ("RL", "F1"),
}
OF_QUESTIONS = ("EM", "F1")


def select_measures(kind: str) -> tuple[str, ...]:
    """Returns the answer measures of a kind of task, then their KILT- versions; unknown kinds get EM and F1."""
    asked = OF_KIND.get(kind, OF_QUESTIONS)
    return (*asked, *(WITH_EVIDENCE + name for name in asked))


def gold_answers(query: Query) -> tuple[str, ...]:
    return tuple(dict.fromkeys(answer.strip() for answer in query.answers if answer.strip()))


def answer_scores(
    answers: Mapping[str, str],
    rankings: Mapping[str, Sequence[str]],
    queries: Sequence[Query],
    measures: Collection[str],
) -> dict[str, dict[str, float]]:
    """Returns scores by measure and qid: the best over all gold answers, and 0 for a query without answer or gold.

    Args:
        answers: answer of each query, by qid.
        rankings: pages of each query, best first. KILT- measures are 0 where the R-precision of the pages is not 1.

    Raises:
        InputError: for a measure that is not in ANSWER_MEASURES.
    """
    if unknown := [measure for measure in measures if measure not in ANSWER_MEASURES]:
        raise InputError(f"measure {unknown[0]!r} is not a measure of answers; allowed: {', '.join(ANSWER_MEASURES)}")
    names = dict.fromkeys(measure.removeprefix(WITH_EVIDENCE) for measure in measures)
    plain = {
        name: {query.qid: _best(ANSWER_SCORES[name], answers.get(query.qid, ""), query) for query in queries}
        for name in names
    }
    found = kilt_scores(rankings, queries, [R_PRECISION])[R_PRECISION] if set(measures) - set(ANSWER_SCORES) else {}
    return {
        measure: plain[measure]
        if measure in ANSWER_SCORES
        else {qid: value * (found[qid] == 1) for qid, value in plain[measure.removeprefix(WITH_EVIDENCE)].items()}
        for measure in measures
    }


def _best(score: AnswerScore, answer: str, query: Query) -> float:
    answer = answer.strip()
    return max((score(answer, gold) for gold in gold_answers(query)), default=0.0) if answer else 0.0
