"""Command line, API and Pyserini read the same names of tasks: aliases work, unknown names are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from adapter_models import made
from small_steps import encoder as new_encoder
from verbs import module_of, passage, query, write_collection, write_lines

from taco_ir import export
from taco_ir.core.files import InputError
from taco_ir.core.run_formats import read_trec
from taco_ir.encoders.config import CONFIG_FILE, EncoderConfig
from taco_ir.encoders.model_folder import ModelFolder
from taco_ir.encoders.names import SHIPPED_BACKBONE
from taco_ir.encoders.text_encoder import TextEncoder, load_encoder
from taco_ir.retrieval.pyserini_bridge import TacoQueryEncoder

search = module_of("search")

ASKED = ["The Great Gatsby [SEP] author", "who wrote the cello suites"]
TYPOS = ("strutured_zeroshot", "zsr", "Wnedd")
NEAREST = ("structured_zeroshot", "zsre", "wned")


def same(found: object, expected: object) -> None:
    """Equal but for rounding: one text alone was 1.1e-6 from the same text in a batch on one processor."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6)  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def shipped() -> TextEncoder:
    return load_encoder()


@pytest.fixture(scope="module")
def towers(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two towers with prompts for fever, nq and wow, which are not the same."""
    folder = tmp_path_factory.mktemp("towers") / "model"
    model = new_encoder(tiny_bert, untied=True)
    next(model.towers["query"].parameters()).data.mul_(2)
    model.save(folder)
    return folder


# API


@pytest.mark.parametrize("alias", ["zsre", "ZS-RE", "structured_zeroshot"])
def test_an_alias_is_its_task(shipped: TextEncoder, alias: str) -> None:
    expected = shipped.encode_queries(ASKED, "structured_zeroshot")
    assert np.abs(expected - shipped.encode_queries(ASKED, None)).max() > 0.05
    same(shipped.encode_queries(ASKED, alias), expected)
    same(shipped.encode_mixed_queries(ASKED, [alias, alias]), expected)
    same(TacoQueryEncoder(task=alias).encode_batch(ASKED), expected)
    same(TacoQueryEncoder(prefix=alias).encode_batch(ASKED), expected)


@pytest.mark.parametrize(("typo", "nearest"), list(zip(TYPOS, NEAREST, strict=True)))
def test_a_name_that_nobody_has_is_refused_with_the_nearest(shipped: TextEncoder, typo: str, nearest: str) -> None:
    """Although the encoder that ships says what reads queries of all other tasks."""
    for wrong in (
        lambda: shipped.encode_queries(ASKED, typo),
        lambda: shipped.encode_mixed_queries(ASKED, ["wned", typo]),
        lambda: TacoQueryEncoder(task=typo),
        lambda: TacoQueryEncoder(prefix=typo),
        lambda: search.main(["--query", "who", "--task", typo]),
    ):
        with pytest.raises(
            InputError, match=rf"unknown task '{typo}'; did you mean .*{nearest}\b.*\? valid: .*wow.*give no task"
        ):
            wrong()


def test_no_task_is_the_backbone(shipped: TextEncoder) -> None:
    bare = load_encoder(SHIPPED_BACKBONE).encode_queries(ASKED, None)
    same(shipped.encode_queries(ASKED, None), bare)
    same(TacoQueryEncoder().encode_batch(ASKED), bare)


def test_a_model_to_which_all_queries_are_one_takes_any_name(tiny_bert: Path) -> None:
    plain = load_encoder(str(tiny_bert), pooling="mean")
    same(plain.encode_queries(ASKED, "anything"), plain.encode_queries(ASKED, None))
    same(
        TacoQueryEncoder(str(tiny_bert), pooling="mean", prefix="fever").encode_batch(ASKED),
        plain.encode_queries([f"fever {text}" for text in ASKED], None),
    )


def test_a_length_of_its_own_tells_a_task_apart(tiny_bert: Path, tmp_path: Path) -> None:
    new_encoder(tiny_bert, prompts=False).save(tmp_path / "m")
    config = ModelFolder(tmp_path / "m").config(longest=128)
    assert not config.prompts
    replace(config, query_lengths={"structured_zeroshot": 5}).save(tmp_path / "m")
    model = load_encoder(str(tmp_path / "m"))
    same(model.encode_queries(ASKED, "zsre"), model.encode_queries(ASKED, "structured_zeroshot"))
    assert not np.allclose(model.encode_queries(ASKED, "zsre"), model.encode_queries(ASKED, "nq"), atol=1e-3)
    with pytest.raises(InputError, match="unknown task 'zsree'; did you mean zsre"):
        model.encode_queries(ASKED, "zsree")


# tasks of a collection


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """A collection with a task that neither KILT nor any model knows, and a file of mixed topics."""
    passages = [
        passage(f"{number}#0", text, text.split()[0])
        for number, text in enumerate(["owls hunt at night", "gulls fish at sea", "finches eat seeds"])
    ]
    folder = write_collection(tmp_path / "c", passages, {"birds-dev": [query("q1", "who hunts at night", ["0#0"])]})
    write_lines(
        tmp_path / "mixed.jsonl",
        [
            {"id": "a", "input": "who hunts at night", "task": "birds"},
            {"id": "b", "input": "owls [SEP] food", "task": "zsre"},
        ],
    )
    return folder


def test_a_task_of_the_collection_is_searched_as_all_others_are(
    birds: Path, shipped: TextEncoder, tmp_path: Path
) -> None:
    flags = ["--collection", str(birds), "--no-compare", "--output"]
    search.main(["--topics", "birds-dev", *flags, str(tmp_path / "birds.trec")])
    search.main(["--topics", str(tmp_path / "mixed.jsonl"), *flags, str(tmp_path / "mixed.trec")])
    search.main(["--query", "who hunts at night", "--task", "birds", "--collection", str(birds)])
    (alone,) = read_trec(tmp_path / "birds.trec").rankings.values()
    mixed = read_trec(tmp_path / "mixed.trec").rankings
    same(mixed["a"].scores, alone.scores)
    first = shipped.encode_passages(
        [p for p in search.open_collection(str(birds)).passages.read() if p.docid == alone.docids[0]]
    )
    same(alone.scores[0], float((shipped.encode_queries(["who hunts at night"], None) @ first.T)[0, 0]))
    export.main(
        ["--collection", str(birds), "--topics", "birds-dev", "--what", "queries", "--output", str(tmp_path / "x")]
    )
    assert (tmp_path / "x" / "queries" / "birds-dev" / "embedding.pkl").is_file()


def test_a_record_whose_task_nobody_has_is_refused(birds: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "typo.jsonl", [{"id": "a", "input": "who", "task": "brids"}])
    with pytest.raises(InputError, match="unknown task 'brids'; did you mean birds"):
        search.main(
            f"--topics {tmp_path}/typo.jsonl --collection {birds} --no-compare --output {tmp_path}/x.trec".split()
        )
    with pytest.raises(InputError, match="unknown task 'birds'"):  # which the sample does not have
        search.main(["--topics", str(tmp_path / "mixed.jsonl"), "--no-compare", "--output", str(tmp_path / "x.trec")])


# Pyserini's --query-prefix


def test_a_prefix_names_a_module_as_it_names_a_prompt(tiny_bert: Path, tmp_path: Path) -> None:
    made(tiny_bert, prompts=False).save(tmp_path / "tuned")
    model = load_encoder(str(tmp_path / "tuned"))
    assert not model.config.prompts
    expected = model.encode_queries(ASKED, "fever")
    for name in ("fever", "FEV"):
        same(TacoQueryEncoder(str(tmp_path / "tuned"), prefix=name).encode_batch(ASKED), expected)
    with pytest.raises(InputError, match="unknown task 'fevr'; did you mean fever"):
        TacoQueryEncoder(str(tmp_path / "tuned"), prefix="fevr")
    with pytest.raises(InputError, match="prefix 'fever' names a task, and task is 'nq'; give only one of them"):
        TacoQueryEncoder(str(tmp_path / "tuned"), prefix="fever", task="nq")


@pytest.mark.parametrize("text", ["which page says", "question:", "fever "])
def test_a_prefix_that_is_no_word_is_a_text(tiny_bert: Path, tmp_path: Path, text: str) -> None:
    new_encoder(tiny_bert).save(tmp_path / "m")
    plain = load_encoder(str(tmp_path / "m"), prompt="")
    same(
        TacoQueryEncoder(str(tmp_path / "m"), prefix=text).encode_batch(ASKED),
        plain.encode_queries([f"{text.strip()} {asked}" for asked in ASKED], None),
    )


# two towers


def test_two_towers_take_prefix_and_task(towers: Path) -> None:
    query_tower = load_encoder(str(towers / "query"), prompt="")
    prompts = load_encoder(str(towers)).config.prompts
    for name, task in (("fever", "fever"), ("FEV", "fever"), ("nq", "nq")):
        expected = query_tower.encode_queries([prompts[task] + text for text in ASKED], None)
        same(TacoQueryEncoder(str(towers), prefix=name).encode_batch(ASKED), expected)
        same(TacoQueryEncoder(str(towers), task=name).encode_batch(ASKED), expected)
    same(
        TacoQueryEncoder(str(towers), prefix="say this:").encode_batch(ASKED),
        query_tower.encode_queries([f"say this: {text}" for text in ASKED], None),
    )


def test_two_towers_borrow(towers: Path, tmp_path: Path) -> None:
    model = load_encoder(str(towers))
    model.borrow({"trex": "wow", "*": "nq"})
    model.config = replace(model.config, query_lengths={**model.config.query_lengths, "*": 6})
    assert model.config.max_query_tokens("eli5") == model.config.max_query_tokens(None) == 6
    model.config = replace(
        model.config, query_lengths={**model.config.query_lengths, "*": model.config.query_lengths["nq"]}
    )
    for task, lender in (("trex", "wow"), ("t-rex", "wow"), ("eli5", "nq"), (None, "nq")):
        same(model.encode_queries(ASKED, task), model.encode_queries(ASKED, lender))
    flags = ["--model", str(towers), "--topics", "trex-dev", "--what", "queries", "--output"]
    with pytest.raises(InputError, match="has prompts for fever, nq, wow, but not for task 'trex'"):
        export.main([*flags, str(tmp_path / "refused")])
    export.main([*flags, str(tmp_path / "lent"), "--prompt-of", "t-rex=wow"])


def test_each_tower_is_read_as_its_own_configuration_says(towers: Path, tmp_path: Path) -> None:
    """Queries by the one, passages by the other; queries that were cut are counted once."""
    import shutil

    folder = Path(shutil.copytree(towers, tmp_path / "m"))
    for name, values in (
        ("query", {"query_length": 7, "query_lengths": {}}),
        ("passage", {"passage_length": 9, "passage_template": "{text}"}),
    ):
        path = folder / name
        config = ModelFolder(path).config(longest=128)
        assert isinstance(config, EncoderConfig) and (path / CONFIG_FILE).is_file()
        replace(config, **values).save(path)  # type: ignore[arg-type]
    model, parts = load_encoder(str(folder)), {name: load_encoder(str(folder / name)) for name in ("query", "passage")}
    same(model.encode_queries(ASKED, "nq"), parts["query"].encode_queries(ASKED, "nq"))
    assert model.truncated == parts["query"].truncated > 0
    passages = list(search.open_collection("sample").passages.read())[:4]
    same(model.encode_passages(passages), parts["passage"].encode_passages(passages))
    assert model.passage_template == model.config.passage_template == "{text}"
