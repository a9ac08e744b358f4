"""Several kinds of tasks on one encoder: gradients, schedules, resumption, and a folder that all verbs load."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from cities import write_cities
from conftest import BERT_SIZES, tiny_tokenizer
from safetensors.torch import load_file
from small_steps import SMALL, TEXTS, all_kinds, assert_near, encoder, gradient, gradients, step_of
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import Parameter
from training_runs import contents, differing, logged, stopped_after
from verbs import module_of
from weighting_steps import TRAINED

from taco_ir import answer
from taco_ir.core.files import InputError
from taco_ir.core.hashes import generator
from taco_ir.data.collection import open_collection
from taco_ir.encoders.config import ROLE_MARKS
from taco_ir.encoders.text_encoder import load_encoder
from taco_ir.reading.reader import READER_FILE, ReaderConfig, load_reader
from taco_ir.training.announce import announce
from taco_ir.training.base_model import build_shared, start_encoder
from taco_ir.training.objectives.base import Objective
from taco_ir.training.objectives.contrastive import contrastive_loss
from taco_ir.training.objectives.heads import MLM_FILE
from taco_ir.training.objectives.inverse_cloze import cloze
from taco_ir.training.processes import Processes
from taco_ir.training.run import make_step
from taco_ir.training.schedules import READING, RETRIEVAL, SELF_SUPERVISED, Plan
from taco_ir.training.settings import TrainSettings
from taco_ir.training.shared_encoder import SharedEncoder
from taco_ir.training.step import MultiTaskStep
from taco_ir.training.validation import PoolValidation, build_pool, read_questions, sample_queries

search, train = map(module_of, ("search", "train"))

CPU = Processes(torch.device("cpu"))
KINDS: dict[str, Any] = {"reading": ("nq",), "self_supervised": ("mlm", "inverse_cloze"), "reading_negatives": 1}
SHARED = SMALL.replace(**KINDS, query_length=16, passage_length=48, steps=6, hard_negatives=2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with a mask and reserved tokens."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("models") / "base"
    vocabulary = tiny_tokenizer(
        folder, ("[CLS] $A [SEP]", ["[CLS]", "[SEP]"]), "[MASK]", "[unused1]", "[unused2]", "[unused3]"
    )
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=vocabulary, **BERT_SIZES)).save_pretrained(folder)
    return folder


def shared(base: Path, config: TrainSettings = SHARED) -> SharedEncoder:
    model = start_encoder(config, base, ["nq", "wow", "fever"])
    assert isinstance(model, SharedEncoder)
    model.train()
    return model


def mixed(model: SharedEncoder, config: TrainSettings = SHARED, processes: Processes = CPU) -> MultiTaskStep:
    return make_step(config, model, all_kinds(model, config, processes))[0]


def of_task(step: MultiTaskStep, task: str) -> Objective:
    (found,) = (each for each in step.objectives if each.task == task)
    return found


def by_autograd(model: SharedEncoder, loss: Tensor) -> list[Tensor]:
    loss.backward()  # type: ignore[no-untyped-call]
    return gradients(model)


# one kind after the other, by plain autograd


def test_retrieval_alone_is_today_s_training_bit_for_bit(base: Path) -> None:
    """The same losses and the same gradients as the step of retrieval, for the encoder that could do more."""
    config = SHARED.replace(reading=("none",), self_supervised=("none",))
    ours, before = (
        build_shared(config.run, config.encoder, config.adapters, config.objectives, base, ["nq", "wow", "fever"]),
        encoder(base, query_length=16, passage_length=48),
    )
    ours.set_dropout(0.0)
    ours.train()
    step = make_step(config, ours, all_kinds(ours, config, CPU)[:3])[0]
    plain = step_of(before)
    for number in (0, 3):
        assert step(number, 0.0)[:2] == plain(number, 0.0)[:2]
        assert all(torch.equal(a, b) for a, b in zip(gradients(ours), gradients(before), strict=True))


def test_filling_in_is_cross_entropy_of_the_masked_tokens(base: Path) -> None:
    model = shared(base)
    step = mixed(model)
    task = of_task(step, "mlm")
    loss = gradient(task, 2)
    found = gradients(model)
    masked = task.batch(2).texts
    losses = []
    table_VE, head = model.backbone("passage").get_input_embeddings().weight, model.mlm  # type: ignore[operator]
    assert head is not None and sum(text.labels is not None for text in masked) == 5
    for text in masked:
        states_LH = model.backbone("passage")(input_ids=torch.tensor(text.ids)[None]).last_hidden_state[0]
        for place, label in enumerate(text.labels if text.labels is not None else ()):
            if label >= 0:
                scores_V = table_VE @ head.norm(torch.nn.functional.gelu(head.dense(states_LH[place]))) + head.bias
                losses.append(-scores_V.log_softmax(0)[label])
    expected = torch.stack(losses).mean()
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert_near(found, by_autograd(model, expected), 2e-4)


def test_inverse_cloze_is_contrast_of_sentences_with_their_passages(base: Path) -> None:
    model = shared(base)
    step = mixed(model)
    task = of_task(step, "inverse_cloze")
    loss = gradient(task, 1)
    found = gradients(model)
    pairs = [
        cloze(TEXTS.passages[each.qid], generator(0, "inverse_cloze", epoch, each.qid))
        for each, epoch in task.sampler.sample(1)
    ]
    plain = Tokenizer.from_file(str(base / "tokenizer.json"))  # no prompt before a sentence
    plain.enable_truncation(16)
    ids = [torch.tensor([plain.encode(query).ids]) for query, _ in pairs]
    query_BD = torch.cat([model.backbone("passage")(input_ids=ids_1L).last_hidden_state.mean(1) for ids_1L in ids])
    passage_ND = torch.cat([model([text]) for text in model.tokenize_passages([passage for _, passage in pairs])])
    pages = [passage.page for _, passage in pairs]
    blocked = torch.tensor([[a == b and i != j for j, b in enumerate(pages)] for i, a in enumerate(pages)])
    expected = contrastive_loss(query_BD, passage_ND, [[row] for row in range(len(pairs))], blocked)
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert_near(found, by_autograd(model, expected), 1e-4)


def test_a_step_s_gradient_is_the_sum_of_single_ones(base: Path) -> None:
    """joint, naive: the mean over tasks of each task's gradient, times its weight; heads get that of their own task."""
    config = SHARED.replace(reading_weight=2.0, passage_weight=0.5)
    model = shared(base, config)
    step = mixed(model, config)
    result = step(1, 0.0)
    together = gradients(model)
    assert list(result.losses) == ["nq", "wow", "fever", "nq reading", "mlm", "inverse_cloze"]
    singly = [torch.zeros_like(grad) for grad in together]
    plain = mixed(model)  # all weights 1
    for task in plain.objectives:
        weight = {READING: 2.0, RETRIEVAL: 1.0, SELF_SUPERVISED: 0.5}[task.phase]
        loss = gradient(task, 1)
        assert result.losses[task.task] == pytest.approx(weight * float(loss), rel=1e-6)
        singly = [total + weight * grad / 6 for total, grad in zip(singly, gradients(model), strict=True)]
    assert_near(together, singly, 1e-5)
    named = dict(zip([name for name, _ in model.trained_parameters()], together, strict=True))
    heads = ("reader.span.weight", "reader.passage.weight", "mlm.dense.weight", "mlm.bias")
    assert all(named[name].any() for name in heads)


@pytest.mark.parametrize("weighting", TRAINED)
def test_every_weighting_combines_all_kinds(weighting: str, base: Path) -> None:
    config = SHARED.replace(weighting=weighting)
    model = shared(base, config)
    step = mixed(model, config)
    for number in range(3):
        result = step(number, number / 3)
        assert result.report is not None and len(result.report.weights) == 6
        assert all(torch.isfinite(grad).all() for grad in gradients(model))


@pytest.mark.parametrize("schedule", ["alternating", "sequential"])
def test_a_scheduled_step_takes_its_tasks_alone(schedule: str, base: Path) -> None:
    """It is the mean of the gradients of the tasks that are taken, each with the next of its own batches."""
    config = SHARED.replace(schedule=schedule, schedule_alpha=0.0 if schedule == "alternating" else 0.5)
    model = shared(base, config)
    step, plain = mixed(model, config), mixed(model)
    taken: dict[str, int] = {}  # batches of each task
    for number in range(6):
        result = step(number, number / 6)
        found = gradients(model)
        mean = [torch.zeros_like(grad) for grad in found]
        for task in result.losses:
            assert float(gradient(of_task(plain, task), taken.setdefault(task, 0))) == result.losses[task]
            taken[task] += 1
            mean = [total + grad / len(result.losses) for total, grad in zip(mean, gradients(model), strict=True)]
        assert_near(found, mean, 1e-5)
        assert result.report is not None and len(result.report.weights) == len(result.losses)
    if schedule == "sequential":
        assert list(taken)[:2] == ["mlm", "inverse_cloze"] and list(taken)[-1] == "nq reading"


class Apart(Processes):
    """Leaves the gradients of each process to itself; the test sums them."""

    def sum_gradients(self, params: Sequence[Parameter], loss: Tensor) -> Tensor:
        del params
        return loss


@pytest.mark.parametrize("task", ["mlm", "nq reading", "inverse_cloze"])
@pytest.mark.parametrize("parts", [1, 2])
def test_processes_share_a_batch(task: str, parts: int, base: Path) -> None:
    """Two processes sum to the gradient of one; for inverse cloze, whose passages meet, of one that accumulates."""
    model = shared(base)
    config = SHARED.replace(accumulate=parts * 2 if task == "inverse_cloze" else parts)

    def shared_by(rank: int, world: int) -> tuple[float, list[Tensor]]:
        processes = Apart(torch.device("cpu"))
        processes.rank, processes.world = rank, world
        settings = config.replace(cross_device=False, accumulate=parts if world > 1 else config.optimiser.accumulate)
        return float(gradient(of_task(mixed(model, settings, processes), task), 0)), gradients(model)

    alone, whole = shared_by(0, 1)
    several = [shared_by(rank, 2) for rank in range(2)]
    assert alone == pytest.approx(sum(loss for loss, _ in several), rel=1e-5)
    assert_near([a + b for a, b in zip(several[0][1], several[1][1], strict=True)], whole, 1e-4)


def test_gradcache_changes_nothing(base: Path) -> None:
    model = shared(base)
    found: list[list[Tensor]] = []
    for gradcache in (0, 2):
        step = mixed(model, SHARED.replace(gradcache=gradcache))
        step(0, 0.0)
        found.append(gradients(model))
    assert_near(found[0], found[1], 1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator that torch can use")
@pytest.mark.parametrize("roles", ROLE_MARKS)
def test_an_accelerator_computes_what_the_processor_does(roles: str, base: Path) -> None:
    found: list[list[Tensor]] = []
    for device in ("cpu", "cuda"):
        config = SHARED.replace(roles=roles, device=device, weighting="taco")
        model = shared(base, config)
        step = mixed(model, config, Processes(torch.device(device)))
        assert step(0, 0.5).report is not None
        found.append([grad.cpu() for grad in gradients(model)])
        assert model.as_reader().read([("who", list(TEXTS.passages.values())[:2])])[0] is not None
    assert_near(found[1], found[0], 1e-4)


def test_memory_counts_the_tasks_beside_retrieval(base: Path) -> None:
    """What is said of the memory grows with what a reader is shown, and with the passages that are filled in."""

    def said(questions: int = 3, passages: int = 5, **values: Any) -> float:
        config = SHARED.replace(**values)
        tasks = all_kinds(shared(base, config), config, CPU, questions, passages)
        text = announce(tasks, Plan(6, 6), config.objectives.schedule, config.optimiser, "naive", 0)
        assert f"joint; in addition to retrieval:\n  nq reading: 9 questions, {questions} in a batch, weight 1" in text
        number, unit = re.search(r"at most about ([\d.]+) ([KMG]B) of memory", text).groups()  # type: ignore[union-attr]
        return float(number) * {"KB": 1e3, "MB": 1e6, "GB": 1e9}[unit]

    assert said() < said(reading_negatives=99) < said(questions=64, reading_negatives=99)
    assert said() < said(passages=4096)


# from command to folder


@pytest.fixture(scope="module")
def cities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cities(tmp_path_factory.mktemp("c") / "cities", ". It has many fish in it. Nobody lives there now")


def argv_of(cities: Path, model: Path, output: Path, *more: str) -> list[str]:
    given = f"--collection {cities} --tasks nq --model {model} --output {output} --pooling mean --negatives {cities}"
    return [
        *f"{given}/negatives.jsonl --query-length 16 --passage-length 40 --batch-size 4 --reading nq".split(),
        *"--self-supervised mlm,inverse_cloze --reading-batch 3 --passage-batch 2 --reading-negatives 1".split(),
        *"--pool-queries 2 --pool-hard 0 --pool-random 4 --validate-on train --checkpoint-every 2".split(),
        *more,
    ]


def trained(cities: Path, model: Path, output: Path, *more: str) -> Path:
    train.main(argv_of(cities, model, output, *more))
    return output / "model"


@pytest.fixture(scope="module", params=["embedding", "adapter"])
def run(request: pytest.FixtureRequest, cities: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Joint, with these marks of roles."""
    flags = ["--steps", "4", "--learning-rate", "1e-3", "--roles", request.param]
    return trained(cities, base, tmp_path_factory.mktemp("run") / "joint", *flags).parent


def test_all_verbs_load_the_one_folder(
    run: Path, cities: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = run / "model"
    assert {READER_FILE, MLM_FILE, "roles.safetensors", "model.safetensors"} <= {path.name for path in model.iterdir()}
    named = ["--collection", str(cities), "--topics", "nq-dev", "--model", str(model)]
    search.main([*named, "--no-compare", "--output", str(tmp_path / "a.trec")])
    answer.main([*named, "--reader", str(model), "--hits", "3", "--output", str(tmp_path / "a.jsonl")])
    assert "answer KILT-EM" in capsys.readouterr().out
    assert json.loads((tmp_path / "a.jsonl.json").read_text())["reader"] == load_reader(str(model)).fingerprint
    further = argv_of(cities, model, tmp_path / "further", "--steps", "1", "--learning-rate", "1e-9")
    place = further.index("--pooling")
    train.main(further[:place] + further[place + 2 :])  # it says itself how it pools, and keeps its heads
    again = tmp_path / "further" / "model"
    old, new = (load_reader(str(folder)) for folder in (model, again))
    for (name, value), (_, kept) in zip(old._head.state_dict().items(), new._head.state_dict().items(), strict=True):
        assert torch.allclose(value, kept, atol=1e-6), name
    roles = load_encoder(str(model)).config.roles
    assert load_encoder(str(again)).config.roles == roles
    learned = [load_file(folder / "roles.safetensors") for folder in (model, again)]
    assert all(torch.allclose(value, learned[1][name], atol=1e-6) for name, value in learned[0].items())
    moved = {name.split(".")[0] for name, value in learned[0].items() if name.endswith("up.weight") and value.any()}
    assert moved == ({"queries", "passages", "reader"} if roles == "adapter" else set())
    lines = [line for line in logged(run) if "validation" in line]
    assert all(set(line["validation"]) == {"nq", "nq reading", "macro"} for line in lines)


def test_a_single_question_takes_its_task_s_prompt(run: Path, cities: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By --task, in both verbs; without it the error says so."""
    model = str(run / "model")
    asked = ["--collection", str(cities), "--model", model, "--query", "in which city is house number 1"]
    for verb, more in ((search, []), (answer, ["--reader", model, "--hits", "2"])):
        with pytest.raises(
            InputError, match=r"prompts for nq, but not for task ''; .*; name the task of --query with --task$"
        ):
            verb.main([*asked, *more])
        verb.main([*asked, *more, "--task", "NQ"])
        assert "[P" in capsys.readouterr().out
        with pytest.raises(InputError, match="--task has an effect only with --query"):
            verb.main(["--topics", "nq-dev", *more, "--task", "nq"])


def test_a_step_of_reading_makes_an_older_index_stale(run: Path, cities: Path, base: Path, tmp_path: Path) -> None:
    """Passage vectors move with every kind of task, and so does the fingerprint that an index remembers."""
    from taco_ir import encode, index

    model = shared(base)
    model.save(tmp_path / "before")
    step = mixed(model)
    gradient(of_task(step, "nq reading"), 0)
    torch.optim.SGD(step.params, 0.1).step()
    model.save(tmp_path / "after")
    before, after = (load_encoder(str(tmp_path / name)) for name in ("before", "after"))
    assert before.passage_fingerprint != after.passage_fingerprint and before.fingerprint != after.fingerprint
    encode.main(["--collection", str(cities), "--model", str(tmp_path / "before"), "--output", str(tmp_path / "v")])
    index.main(["--vectors", str(tmp_path / "v"), "--output", str(tmp_path / "i")])
    named = ["--collection", str(cities), "--topics", "nq-dev", "--no-compare", "--index", str(tmp_path / "i")]
    search.main([*named, "--model", str(tmp_path / "before"), "--output", str(tmp_path / "b.trec")])
    with pytest.raises(InputError, match="encoder"):
        search.main([*named, "--model", str(tmp_path / "after"), "--output", str(tmp_path / "a.trec")])


@pytest.mark.parametrize("schedule", ["joint", "alternating", "sequential"])
def test_a_stopped_training_goes_on_bit_for_bit(schedule: str, cities: Path, base: Path, tmp_path: Path) -> None:
    marks = {"joint": "adapter", "alternating": "prompt", "sequential": "embedding"}[schedule]
    flags = ["--steps", "6", "--learning-rate", "1e-3", "--schedule", schedule, "--roles", marks]
    flags += ["--rehearsal", "0.3"] * (schedule == "sequential")
    trained(cities, base, tmp_path / "whole", *flags)
    with stopped_after(3):
        trained(cities, base, tmp_path / "stopped", *flags)
    assert not (tmp_path / "stopped" / "model").exists()
    trained(cities, base, tmp_path / "stopped", *flags)
    assert differing(tmp_path / "whole", tmp_path / "stopped") == ["config.json"]  # it names the folder
    assert logged(tmp_path / "whole") == logged(tmp_path / "stopped")


@pytest.mark.parametrize("split", ["dev", "train"])
@pytest.mark.parametrize("hard", [["P0#0", "P1#0", "N3#0", "N4#0"], []])
def test_answers_are_validated_among_passages_of_the_pool(
    split: str, hard: list[str], cities: Path, base: Path
) -> None:
    """In both splits: gold first, then hard passages without the answer, then random ones; all are of the pool."""
    collection = open_collection(str(cities))
    topics = sample_queries(collection, "nq", split, 5, 0)
    assert topics is not None
    pool = build_pool(collection, topics, {query.qid: hard for query in topics.queries}, 20, 0)
    ((task, read, answers),) = read_questions(collection, [pool], split, 3, 0)
    assert (task, list(answers), len(read)) == ("nq", [query.answers for query in topics.queries], len(topics.queries))
    for query, (text, passages) in zip(topics.queries, read, strict=True):
        gold, *others = passages
        (city,) = query.answers
        wrong = [docid for docid in hard if city not in collection.passages.get([docid])[docid].text]
        assert text == query.text and gold.docid == f"P{query.qid[1:]}#0" and len(others) == 3
        assert {gold.docid, *(each.docid for each in others)} <= set(pool.docids)
        assert not any(city in each.text for each in others)
        assert [each.docid for each in others][: len(wrong)] == wrong[:3]
    if not hard:
        assert len({tuple(passages) for _, passages in read}) == len(read)
        assert len({tuple(passages[1:]) for _, passages in read}) == len(read)


@pytest.mark.parametrize(("schedule", "best", "end"), [("sequential", 5, 6), ("joint", 1, 3)])
def test_phases_before_the_last_choose_no_model_and_lose_no_patience(
    schedule: str, best: int, end: int, cities: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every validation is worse than the last; of six steps, two for each kind of task, only the last two count."""
    falling = iter(range(9, 0, -1))
    monkeypatch.setattr(PoolValidation, "__call__", lambda _: {"macro": next(falling) / 10})
    flags = "--steps 6 --validate-every 1 --patience 2 --checkpoint-every 1 --keep-checkpoints 9 --learning-rate 1e-3"
    model = trained(cities, base, tmp_path / "r", *flags.split(), "--schedule", schedule)
    kept = {path.name: contents(path / "model") for path in (tmp_path / "r" / "checkpoints").iterdir()}
    assert max(kept) == f"step-{end:08d}"
    found = contents(model)
    assert json.loads(found.pop("stream.json"))["steps"] == end  # all that was dealt
    assert [name for name, files in kept.items() if found.items() <= files.items()] == [f"step-{best:08d}"]


def test_a_share_of_the_labels_is_one_for_both(
    cities: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reading uses no query that retrieval does not: with 0.25 of the 16 that are not held out, 4."""
    trained(cities, base, tmp_path / "r", "--steps", "1", "--train-share", "0.25")
    said = capsys.readouterr().err
    assert "nq reading: 4 questions, 3 in a batch, weight 1" in said and "mlm: 24 passages, 2 in a batch" in said
    assert "inverse_cloze: 6 passages" in said and "schedule: joint" in said


BAD: dict[str, tuple[Sequence[str], str]] = {
    "unknown schedule": (
        ["--schedule", "sometimes"],
        r"--schedule is 'sometimes'; it must be one of joint, alternating, sequential",
    ),
    "unknown task": (["--reading", "quiz"], r"quiz"),
    "unknown self-supervision": (
        ["--self-supervised", "gpt"],
        r"--self-supervised is .*'gpt'.*; it must be none, or some of mlm, inverse_cloze",
    ),
    "unknown roles": (["--roles", "hat"], r"--roles is 'hat'; it must be one of none, token_type, marker, embedding"),
    "phases": (["--phase-shares", "1,2"], r"--phase-shares is '1,2'; it must be three numbers above 0, as in 1,2,1"),
    "a phase of nothing": (["--phase-shares", "1,0,1"], r"must be three numbers above 0"),
    "alpha": (["--schedule-alpha", "2"], r"--schedule-alpha is 2.0; it must be a number, at least 0, at most 1"),
    "rehearsal": (["--rehearsal", "1"], r"--rehearsal is 1.0; it must be a number, at least 0, below 1"),
    "share": (["--train-share", "0"], r"--train-share is 0.0; it must be a number, at most 1, above 0"),
    "weighting": (
        ["--schedule", "alternating", "--weighting", "taco"],
        r"weighting is taco; it combines the gradients of all tasks, but with schedule"
        " alternating a step has only some tasks; give weighting naive, or schedule joint",
    ),
    "untied": (
        ["--untied"],
        r"there are two towers, but reading and self-supervised tasks need a single encoder; leave out",
    ),
    "tuned": (["--tune", "bitfit"], r"tune is bitfit, but reading and self-supervised tasks train the whole encoder"),
    "too long to read": (
        ["--passage-length", "120"],
        r"query_length 16 and passage_length 120 make inputs of 140 tokens; lower them, because .* allows at most 128",
    ),
    "no passages": (
        ["--passage-batch", "7"],
        r"self_supervised inverse_cloze: 6 of 24 passages of collection cities can be used",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case: str, cities: Path, base: Path, tmp_path: Path) -> None:
    flags, message = BAD[case]
    with pytest.raises(InputError, match=message) as caught:
        trained(cities, base, tmp_path / "r", "--steps", "1", *flags)
    assert "\n" not in str(caught.value)


def test_bases_that_cannot(tiny_bert: Path, tiny_t5: Path) -> None:
    with pytest.raises(InputError, match=r"mlm needs a tokenizer that has one of \[MASK\], <mask>, <extra_id_0>"):
        start_encoder(SHARED.replace(reading=("none",)), tiny_bert, ["nq"])
    with pytest.raises(
        InputError, match=r"pooling 'decoder' makes one vector per text, but reading needs a vector per token"
    ):
        start_encoder(SHARED.replace(pooling="decoder", self_supervised=("none",)), tiny_t5, ["nq"])


def test_the_head_of_a_base_is_taken_over(base: Path, tmp_path: Path) -> None:
    model = shared(base)
    model.save(tmp_path / "m")
    again = shared(tmp_path / "m", SHARED.replace(pooling=None))
    theirs = dict(again.named_parameters())
    assert all(torch.equal(value, theirs[name]) for name, value in model.named_parameters())
    assert load_reader(str(tmp_path / "m")).config == ReaderConfig(16, 48)
    assert contents(tmp_path / "m")[READER_FILE]
