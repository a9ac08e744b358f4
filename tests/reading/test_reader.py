"""The reader: inputs, decoding and loss by formulas; training, checkpoint and resume on a tiny encoder; the verbs."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from cities import CITIES, write_cities
from hypothesis import given
from hypothesis import strategies as st
from layouts import beir
from safetensors.torch import load_file
from small_steps import SMALL, encoder
from tokenizers import Tokenizer
from training_runs import StopAfter, Stopped, contents, logged
from verbs import module_of, passage, query, write_collection, write_lines

from taco_ir import answer
from taco_ir.core.files import InputError
from taco_ir.core.run_formats import read_run
from taco_ir.core.types import Passage, Ranking, Run
from taco_ir.data.collection import Topics, open_collection
from taco_ir.encoders.config import EncoderConfig, Role
from taco_ir.encoders.text_encoder import load_encoder
from taco_ir.reading import answering
from taco_ir.reading.reader import (
    READER_FILE,
    InputBuilder,
    Logits,
    ReaderConfig,
    best_span,
    compute_logits,
    load_head,
    load_reader,
    mark_span,
    new_head,
    save_head,
)
from taco_ir.retrieval.choices import model_name
from taco_ir.retrieval.retrievers import Ranker
from taco_ir.training import backward
from taco_ir.training.backward import chunk_by_length
from taco_ir.training.base_model import start_encoder
from taco_ir.training.objectives.reading import Placed, reader_loss
from taco_ir.training.sampling import read_stream
from taco_ir.training.shared_encoder import SharedEncoder

evaluate, verb = map(module_of, ("evaluate", "train"))

READING = "--tasks none --reading nq --query-length 16 --passage-length 40 --reading-batch 6 --reading-negatives 2"
READING += " --checkpoint-every 2 --steps 6 --pool-hard 0 --pool-random 9"
LONGER = ("--steps", "80", "--learning-rate", "5e-3", "--checkpoint-every", "80")
LIMITS = ReaderConfig(question=8, passage=40, answer=5)


@pytest.fixture(scope="module")
def cities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cities(tmp_path_factory.mktemp("c") / "cities")


def train(cities: Path, model: Path, output: Path, *more: str) -> Path:
    argv = ["--collection", str(cities), "--model", str(model), "--output", str(output)]
    argv += ["--negatives", str(cities / "negatives.jsonl")]
    verb.main([*argv, *READING.split(), *more])
    return output / "model"


def builder(folder: Path, limits: ReaderConfig = LIMITS) -> InputBuilder:
    return InputBuilder(Tokenizer.from_file(str(folder / "tokenizer.json")), limits)


def test_an_input_is_question_title_and_passage(tiny_bert: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_bert / "tokenizer.json"))
    text = "the house is in Rome, since then"
    (found,) = builder(tiny_bert)("which city", [Passage("A#0", "A", "House", text)])
    parts = [tokenizer.encode(each, add_special_tokens=False).ids for each in ("which city", "House", text)]
    begin, separator = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    assert found.ids.tolist() == [begin, *parts[0], separator, *parts[1], separator, *parts[2], separator]
    assert found.ids[found.first : found.stop].tolist() == parts[2]
    rome = text.index("Rome")
    ((first, last),) = found.token_spans([(rome, rome + 4)], 10)
    offsets = found.offsets_P2[first - found.first : last - found.first + 1]
    assert text[offsets[0, 0] : offsets[-1, 1]] == "Rome"


def test_spans_that_are_cut_off_or_too_long_are_no_answers(tiny_bert: Path) -> None:
    text = "one two three four " * 20 + "Rome"
    (found,) = builder(tiny_bert)("which city " * 20, [Passage("A#0", "A", "title " * 60, text)])
    assert len(found.ids) == builder(tiny_bert).longest and len(found.offsets_P2) == LIMITS.passage // 2
    assert found.token_spans([(text.index("Rome"), len(text))], 10) == []
    assert found.token_spans([(0, 7)], 10) and not found.token_spans([(0, 7)], 1)


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=12), st.integers(1, 5))
def test_the_best_span_is_the_best_of_all(logits: list[tuple[int, int]], most: int) -> None:
    start_P, end_P = np.array(logits, dtype=np.float32).T
    first, last = best_span(start_P, end_P, most)
    spans = [(s, e) for s in range(len(logits)) for e in range(s, min(s + most, len(logits)))]
    assert (first, last) in spans
    assert start_P[first] + end_P[last] == max(start_P[s] + end_P[e] for s, e in spans)


def test_the_loss_is_its_formula() -> None:
    """Two questions, three and two passages; two spans and one; by plain sums of exponentials in float64."""
    torch.manual_seed(0)
    start_NL, end_NL = torch.randn(2, 5, 7, dtype=torch.float64)
    relevance_N = torch.randn(5, dtype=torch.float64)
    placed = [Placed(0, 3, [(1, 2), (4, 4)]), Placed(3, 5, [(0, 6)])]
    expected = 0.0
    for first, stop, spans in placed:
        start, end = start_NL[first].exp(), end_NL[first].exp()
        likelihood = sum(float(start[s] / start.sum() * end[e] / end.sum()) for s, e in spans)
        selected = float(relevance_N[first].exp() / relevance_N[first:stop].exp().sum())
        expected -= math.log(selected) + math.log(likelihood)
    assert float(reader_loss(Logits(start_NL, end_NL, relevance_N), placed)) == pytest.approx(expected / 2, rel=1e-12)


def test_the_loss_pulls_towards_all_spans_and_the_positive() -> None:
    start_NL, end_NL = torch.zeros(2, 2, 4, dtype=torch.float64).unbind()
    logits = [each.requires_grad_() for each in (start_NL.clone(), end_NL.clone(), torch.zeros(2, dtype=torch.float64))]
    reader_loss(Logits(*logits), [Placed(0, 2, [(1, 1), (2, 3)])]).backward()
    start, end, relevance = (each.grad for each in logits)
    assert start is not None and end is not None and relevance is not None
    assert (start[0] < 0).tolist() == [False, True, True, False] and (end[0] < 0).tolist() == [False, True, False, True]
    assert not start[1].any() and relevance.tolist() == [-0.5, 0.5]


def test_only_tokens_of_the_passage_can_be_answers_and_padding_changes_nothing(tiny_bert: Path) -> None:
    encoder = load_encoder(str(tiny_bert), pooling="mean")
    torch.manual_seed(0)
    head, backbone = new_head(32), encoder.towers[Role.PASSAGE].backbone
    inputs = builder(tiny_bert)(
        "which city", [Passage("A#0", "A", "House", "in Rome"), Passage("B#0", "B", "", "a long text " * 5)]
    )
    with torch.inference_mode():
        together = compute_logits(backbone, head, inputs, torch.device("cpu"))
        each_alone = [compute_logits(backbone, head, [each], torch.device("cpu")) for each in inputs]
    for row, (each, alone) in enumerate(zip(inputs, each_alone, strict=True)):
        for both, one in ((together.start_NL, alone.start_NL), (together.end_NL, alone.end_NL)):
            assert torch.allclose(both[row, each.first : each.stop], one[0, each.first : each.stop], atol=1e-5)
            inside = torch.zeros(both.shape[1], dtype=torch.bool)
            inside[each.first : each.stop] = True
            assert (both[row] > -1e30).tolist() == inside.tolist()
        assert float(together.relevance_N[row]) == pytest.approx(float(alone.relevance_N[0]), abs=1e-5)


def test_chunks_of_a_batch_have_the_logits_and_gradients_of_the_whole(
    tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each chunk is padded to its own longest input, and the rows come back in the order of the batch."""
    settings = SMALL.replace(tasks=("none",), reading=("nq",), query_length=8, passage_length=60)
    model = start_encoder(settings, tiny_bert, [])
    assert isinstance(model, SharedEncoder)
    passages = [Passage(f"{n}#0", str(n), "House", "in Rome " * words) for n, words in enumerate((3, 24, 1, 12, 7))]
    inputs, placed = model.inputs("which city", passages), [Placed(0, 2, [(6, 6)]), Placed(2, 5, [(6, 6)])]
    found = []
    sizes: list[list[int]] = []
    for tokens in (1 << 20, 40):
        with monkeypatch.context() as patch:
            patch.setitem(backward.CHUNK_TOKENS, "cpu", tokens)
            patch.setitem(backward.PASS_TOKENS, "cpu", tokens)
            sizes.append(list(map(len, chunk_by_length([len(each.ids) for each in inputs], model.device))))
            logits = model.logits(inputs)
        model.zero_grad()
        reader_loss(logits, placed).backward()
        found.append((*logits, *(p.grad for _, p in model.trained_parameters() if p.grad is not None)))
    assert sizes[0] == [5] and len(sizes[1]) > 2
    assert len(found[0]) == len(found[1]) > 3
    for whole, chunks in zip(*found, strict=True):
        assert torch.allclose(whole, chunks, rtol=1e-4, atol=1e-5)


def test_a_head_is_kept_with_its_limits_and_fits_its_backbone_only(tmp_path: Path) -> None:
    head = new_head(8)
    save_head(head, LIMITS, tmp_path)
    again, limits = load_head(tmp_path, 8)
    assert limits == LIMITS
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in head.state_dict().items())
    with pytest.raises(InputError, match=r"not a reader's layer for a backbone of width 16"):
        load_head(tmp_path, 16)
    with pytest.raises(InputError, match=r"no reader.safetensors"):
        load_head(tmp_path / "elsewhere", 8)


def test_the_span_is_shown_in_its_surroundings() -> None:
    assert mark_span("it is in Rome, today", 9, 13) == "it is in [[Rome]], today"
    assert mark_span("a b c Rome d e f", 6, 10, ("<", ">"), around=3) == "... c <Rome> d ..."


@pytest.fixture(scope="module")
def reader(cities: Path, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run")
    return train(cities, tiny_bert, output, *LONGER)


def test_a_trained_reader_answers(reader: Path, cities: Path) -> None:
    """It learns to tell houses from rivers and to mark the one city."""
    passages = open_collection(str(cities)).passages.get([f"P{n}#0" for n in range(6)] + ["N0#0", "N1#0"])
    read = [[passages[docid] for docid in ("N0#0", f"P{n}#0", "N1#0")] for n in range(6)]
    questions = [(f"in which city is house number {n}", each) for n, each in enumerate(read)]
    loaded = load_reader(str(reader))
    answers = [found for found in loaded.read(questions) if found]
    expected = [(city, f"P{n}#0") for n, city in enumerate(CITIES)]
    right = [(found.text, found.docid) == each for found, each in zip(answers, expected, strict=True)]
    assert sum(right) >= 4  # of 6; a guess is one word of some twenty
    for found in answers:
        assert passages[found.docid].text[found.start : found.end] == found.text and 0 < found.score <= 1
    assert loaded.read([("nothing to read", []), ("an empty passage", [Passage("E#0", "E", "", "")])]) == [None, None]
    one_by_one = [loaded.read([each])[0] for each in questions]
    assert [each and (each.text, each.docid) for each in one_by_one] == [(found.text, found.docid) for found in answers]


def test_the_loss_falls(reader: Path) -> None:
    losses = [line["loss"]["nq"] for line in logged(reader.parent) if "loss" in line]
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) / 3


def test_a_checkpoint_is_the_encoders_folder_and_a_head(reader: Path) -> None:
    assert set(load_file(reader / READER_FILE)) == {"span.weight", "span.bias", "passage.weight", "passage.bias"}
    assert load_encoder(str(reader)).dim == 32
    assert not list(reader.rglob("*.bin")) + list(reader.rglob("*.pt"))


def test_a_stopped_training_goes_on_bit_for_bit(
    cities: Path, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(cities, tiny_bert, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("taco_ir.training.run.ConsoleReporter", lambda *_: StopAfter(3))
        with pytest.raises(Stopped):
            train(cities, tiny_bert, tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "model").exists()
    train(cities, tiny_bert, tmp_path / "stopped")
    whole, stopped = (contents(tmp_path / name) for name in ("whole", "stopped"))
    assert whole.keys() == stopped.keys()
    assert [name for name in whole if whole[name] != stopped[name]] == ["config.json"]  # it names the folder
    assert logged(tmp_path / "whole") == logged(tmp_path / "stopped")


def test_a_reader_that_is_trained_alone_is_validated(cities: Path, tiny_bert: Path, tmp_path: Path) -> None:
    """On held-out train questions, which no batch has, and the best model is kept."""
    flags = ["--validate-on", "train", "--pool-queries", "3", "--validate-every", "20", "--learning-rate", "5e-3"]
    train(cities, tiny_bert, tmp_path, *flags, "--steps", "60", "--checkpoint-every", "60")
    curve = [(line["step"], line["validation"]) for line in logged(tmp_path) if "validation" in line]
    assert [step for step, _ in curve] == [0, 20, 40, 60]
    assert all(scores.keys() == {"nq reading", "macro"} for _, scores in curve)
    assert curve[0][1]["macro"] < max(scores["macro"] for _, scores in curve)
    assert (tmp_path / "best").is_dir() and read_stream(tmp_path / "model").position("nq").size == 18 - 3


def test_parts_of_a_batch_give_its_gradient(cities: Path, tiny_bert: Path, tmp_path: Path) -> None:
    """Without dropout, a batch computed in three parts has the loss and gradient of the whole, up to rounding."""
    for parts in ("1", "3"):
        train(cities, tiny_bert, tmp_path / parts, "--dropout", "0", "--accumulate", parts)
    steps = ([line for line in logged(tmp_path / parts) if "loss" in line] for parts in ("1", "3"))
    for one, three in zip(*steps, strict=True):
        for figure in ("loss", "gradient_norm"):
            assert one[figure]["nq"] == pytest.approx(three[figure]["nq"], rel=1e-3)


def test_answer_prints_writes_and_scores(
    reader: Path, cities: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["--collection", str(cities), "--model", str(reader), "--reader", str(reader), "--hits", "4"]
    answer.main([*argv, "--topics", "nq-dev", "--output", "out.jsonl"])
    printed = capsys.readouterr().out
    run = read_run(tmp_path / "out.jsonl")
    assert set(run.answers) == {f"q{n}" for n in range(6)}
    assert all(f"  {text}  (" in printed and f"[[{text}]]" in printed for text in run.answers.values())
    assert all(len(ranking.docids) == 4 for ranking in run.rankings.values())
    for measure in ("page R-precision", "answer EM", "answer F1", "answer KILT-EM"):
        assert measure in printed
    record = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert set(record["output"][0]) == {"answer", "provenance"}
    made_of = json.loads((tmp_path / "out.jsonl.json").read_text())
    assert made_of["reader"] == load_reader(str(reader)).fingerprint
    assert made_of["hits"] == 4 and made_of["topics"]["name"] == "nq-dev"
    before = (tmp_path / "out.jsonl").read_bytes()
    answer.main([*argv, "--topics", "nq-dev", "--output", "out.jsonl"])  # made of the same: taken
    assert (tmp_path / "out.jsonl").read_bytes() == before
    with pytest.raises(InputError, match=r"out.jsonl exists and was made differently \(hits is 4, not 3\)"):
        answer.main([*argv, "--hits", "3", "--topics", "nq-dev", "--output", "out.jsonl"])
    assert (tmp_path / "out.jsonl").read_bytes() == before
    capsys.readouterr()
    answer.main([*argv, "--query", "in which city is house number 1"])
    assert "[[" in capsys.readouterr().out


class Rivers(Ranker):
    """Finds the same two passages for every question, neither of which holds an answer."""

    name = "rivers"
    inputs: ClassVar = {}

    def search(self, topics: Topics, hits: int) -> Run:
        found = Ranking.of(["N0#0", "N1#0"], [2, 1]).top(hits)
        return Run({query.qid: found for query in topics.queries})


def test_a_gold_passage_is_read_where_none_is_found(
    reader: Path, cities: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In place of the last hit; the pages that are written stay those that were found, and the record says so."""
    collection, loaded = open_collection(str(cities)), load_reader(str(reader))
    topics, seen = collection.topics("nq-dev"), []
    read = loaded.read
    monkeypatch.setattr(loaded, "read", lambda asked: seen.append(asked) or read(asked))
    runs = {gold: answering.answer(topics, Rivers(), loaded, collection, 2, None, gold) for gold in (False, True)}
    docids = [[[passage.docid for passage in passages] for _, passages in asked] for asked in seen]
    assert docids == [[["N0#0", "N1#0"]] * 6, [["N0#0", f"P{n}#0"] for n in range(6)]]
    right = [sum(runs[gold].answers[f"q{n}"] == city for n, city in enumerate(CITIES)) for gold in (False, True)]
    assert right[0] == 0 and right[1] >= 4
    assert {tuple(ranking.docids) for ranking in runs[True].rankings.values()} == {("N0", "N1")}
    monkeypatch.chdir(tmp_path)
    argv = ["--collection", str(cities), "--topics", "nq-dev", "--model", str(reader), "--reader", str(reader)]
    answer.main([*argv, "--hits", "1", "--with-gold", "--quiet", "--output", "gold.jsonl"])
    assert json.loads((tmp_path / "gold.jsonl.json").read_text())["with_gold"] is True
    with pytest.raises(InputError, match=r"gold.jsonl exists and was made differently \(with_gold is true, not null\)"):
        answer.main([*argv, "--hits", "1", "--quiet", "--output", "gold.jsonl"])


def test_of_several_gold_passages_the_first_that_holds_an_answer_is_read(tmp_path: Path) -> None:
    passages = [passage(f"{n}#0", text) for n, text in enumerate(("the house is old", "it is in x", "x it is"))]
    asked = [query("a", "where", ["0#0", "1#0"], ["2#0"]), query("b", "who", ["0#0"]), query("gone", "what", ["9#0"])]
    folder = write_collection(tmp_path / "mine", passages, {"nq-dev": asked})
    collection = open_collection(str(folder))
    assert answering.find_gold(collection, collection.topics("nq-dev").queries) == {"a": "1#0", "b": "0#0"}


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Flags for questions and claims of one collection, in a working directory of their own."""
    monkeypatch.chdir(tmp_path)
    claims = [query(f"c{n}", f"house number {n} is in {city}", [f"P{n}#0"]) for n, city in enumerate(CITIES)]
    write_lines(write_cities(tmp_path / "both") / "fever-dev.jsonl", claims)
    return ["--collection", str(tmp_path / "both"), "--topics", "nq-dev", "fever-dev"]


def test_answer_and_evaluate_print_the_same_scores(
    reader: Path, both: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that a task asks for: none of questions for claims, and no mean of both."""
    read = ["--model", str(reader), "--reader", str(reader), "--hits", "4", "--quiet", "--format", "json"]
    answer.main([*both, *read, "--output", "a/"])
    printed, told = capsys.readouterr()
    assert "questions" not in told  # --quiet shows no progress
    ours = json.loads(printed)["rows"]
    evaluate.main(["a/nq-dev.jsonl", "a/fever-dev.jsonl", *both, "--format", "json"])
    theirs = json.loads(capsys.readouterr().out)["rows"]
    measures = [name for name in ours[0] if name.startswith(("answer", "page"))]
    assert {"answer EM", "answer accuracy", "page R-precision"} <= set(measures) <= set(theirs[0])
    values = {row["topics"]: [row[name] for name in measures] for row in ours}
    assert values == {row["topics"]: [row[name] for name in measures] for row in theirs}
    claims, macro = (dict(zip(measures, values[name], strict=True)) for name in ("fever-dev", "macro average"))
    assert claims["answer EM"] is macro["answer EM"] is None and claims["answer accuracy"] == 0


def test_without_pages_the_passages_of_answers_are_scored(
    reader: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["--collection", beir(tmp_path), "--topics", "scifact-test", "--format", "json"]
    read = ["--model", str(reader), "--prompt", "", "--reader", str(reader), "--quiet", "--output", "a.jsonl"]
    answer.main([*asked, *read])
    (ours,) = json.loads(capsys.readouterr().out)["rows"]
    evaluate.main(["a.jsonl", *asked])
    (theirs,) = json.loads(capsys.readouterr().out)["rows"]
    measures = ["passage nDCG@10", "passage MRR@10", "passage R@20"]
    assert [ours[name] for name in measures] == [theirs[name] for name in measures]
    assert None not in [ours[name] for name in measures] and not any(name.startswith("page") for name in ours)


def test_a_topics_answers_are_kept_when_the_next_are_interrupted(
    reader: Path, both: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = answering.answer

    def interrupted(topics: Topics, *others: Any) -> Run:
        if topics.name == "fever-dev":
            raise KeyboardInterrupt
        return read(topics, *others)

    monkeypatch.setattr(answering, "answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        argv = [*both, "--model", str(reader), "--reader", str(reader), "--hits", "2", "--quiet"]
        answer.main([*argv, "--output", "a/"])
    assert len(read_run(tmp_path / "a" / "nq-dev.jsonl").answers) == 6
    assert (tmp_path / "a" / "nq-dev.jsonl.json").is_file()
    assert not (tmp_path / "a" / "fever-dev.jsonl").exists()


def test_files_are_named_by_retriever_and_reader(reader: Path, both: list[str], tmp_path: Path) -> None:
    """A reader by the run that trained it, however deep in it its folder is."""
    for name in ("mine/model", "other/episode-2/model", "third"):
        shutil.copytree(reader, tmp_path / name)
        argv = [*both[:3], "nq-dev", "--model", "third" if name == "third" else str(reader)]
        answer.main([*argv, "--reader", name, "--hits", "2", "--quiet"])
    written = {path.name for path in (tmp_path / "runs" / "both").glob("*.jsonl")}
    trained = model_name(str(reader))
    assert trained != "model"
    expected = (f"{trained}.mine", f"{trained}.other-episode-2", "third.third")
    assert written == {f"nq-dev.{system}.answers.jsonl" for system in expected}


def test_bad_input(cities: Path, tiny_bert: Path, tiny_t5: Path, reader: Path, tmp_path: Path) -> None:
    for argv, message in (
        ("--tasks none", "tasks is none, so there is nothing to train; give tasks, reading"),
        ("--tasks none --reading all", "reading = all stands for the tasks given by `tasks`, but tasks = none"),
        ("--reading nq --reading-batch 0", "--reading-batch is 0; it must be a whole number, at least 1"),
    ):
        with pytest.raises(InputError, match=message):
            verb.main([*argv.split(), "--model", "m", "--output", "o"])
    said = r"query_length 16 and passage_length 120 make inputs of 140 tokens; .* allows at most 128"
    with pytest.raises(InputError, match=said):
        train(cities, tiny_bert, tmp_path / "long", "--passage-length", "120")
    with pytest.raises(InputError, match=r"passage_length 1 and has at most 10 tokens"):
        train(cities, tiny_bert, tmp_path / "short", "--passage-length", "1")
    with pytest.raises(InputError, match=r"is a training with other settings: seed was 0, is 1"):
        train(cities, tiny_bert, reader.parent, *LONGER, "--seed", "1")
    with pytest.raises(
        InputError, match=r"it has no reader.safetensors; give a model trained by taco_ir.train --reading"
    ):
        load_reader(str(tiny_bert))
    for method in ("adapter", "lora"):
        encoder(tiny_bert, tune=method).save(tmp_path / method)
        merged = ", or merge the two by export --what huggingface" * (method == "lora")
        needed = f"but a whole model is needed; give its base model, {tiny_bert}{merged}$"
        with pytest.raises(InputError, match=f"{method}: it holds only adapters \(method {method}\), {needed}"):
            train(cities, tmp_path / method, tmp_path / "tuned")
    decoding = tmp_path / "decoding"
    decoding.mkdir()
    for path in tiny_t5.iterdir():
        (decoding / path.name).write_bytes(path.read_bytes())
    EncoderConfig("decoder", query_length=64, passage_length=64).save(decoding)
    with pytest.raises(InputError, match=r"pooling 'decoder' makes one vector per text"):
        train(cities, decoding, tmp_path / "t5")
    with pytest.raises(InputError, match="give either --topics or --query"):
        answer.main(["--reader", str(reader)])
