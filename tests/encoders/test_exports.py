"""Exports encode as we do: read by sentence-transformers, by ourselves, and by Pyserini's arithmetic with its flags."""

from __future__ import annotations

import argparse
import contextlib
import pickle
import re
import shlex
import shutil
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import warm
from backbones import BACKBONES

from taco_ir.core.files import InputError, read_json
from taco_ir.core.types import ENTITY_MARKS, Passage, Query, Vectors
from taco_ir.data.collection import open_collection
from taco_ir.encoders.config import EncoderConfig
from taco_ir.encoders.exports import write_huggingface, write_sentence_transformers
from taco_ir.encoders.text_encoder import load_encoder
from taco_ir.export import main
from taco_ir.retrieval.pyserini_bridge import write_encoded_queries

SAMPLE = open_collection("sample")
PASSAGES = [*list(SAMPLE.passages.read())[:6], Passage("x#0", "x", "", "no title"), Passage("y#0", "y", "Title", "")]
QUERIES = [*(query.text for query in SAMPLE.load_topics("nq-dev").queries[:8]), "the composer of the " * 20]
BASE = EncoderConfig("mean", True, query_length=64, passage_length=64)
CONFIGS = {
    "mean": BASE,
    "first": EncoderConfig("first", query_length=20, passage_length=20),
    "a prompt for all": replace(BASE, prompts={"*": "ask {this}: "}),
    "prompts by task": replace(
        BASE, prompts={"nq": "question: ", "fever": "it's claimed: "}, passage_template="tell {{this}}: {title} {text}"
    ),
    "a prompt for passages": replace(BASE, prompts={"*": "query: "}, passage_prompt="{passage}: "),
    "a length for each side": replace(BASE, query_length=10, passage_length=30),
}
WHOLE = [f"{passage.title} {passage.text}" for passage in PASSAGES]


def near(ours: Vectors, expected: Vectors) -> None:
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)


def checkpoint(source: Path, target: Path, config: EncoderConfig) -> Path:
    shutil.copytree(source, target)
    config.save(target)
    return target


def folder_of(target: Path) -> Path:
    target.mkdir()
    return target


@pytest.mark.parametrize("name", CONFIGS)
def test_a_sentence_transformers_folder_encodes_alike_everywhere(tiny_bert: Path, tmp_path: Path, name: str) -> None:
    from sentence_transformers import SentenceTransformer

    config = CONFIGS[name]
    ours = load_encoder(str(checkpoint(tiny_bert, tmp_path / "ours", config)))
    folder = folder_of(tmp_path / "theirs")
    write_sentence_transformers(ours.folder, config, folder)
    theirs, again = SentenceTransformer(str(folder), device="cpu"), load_encoder(str(folder))
    read = {key: getattr(again.config, key) for key in ("passage_prompt", "passage_template")}
    assert again.config == replace(config, **read) and again.config.passage_form == config.passage_form
    page = (folder / "README.md").read_text(encoding="utf-8")
    with contextlib.chdir(folder):
        exec(page.split("```python\n")[1].split("```")[0], {})
    for task in config.prompts or ["nq"]:
        vectors_BD = ours.encode_queries(QUERIES, task)
        near(again.encode_queries(QUERIES, task), vectors_BD)
        near(theirs.encode_query(QUERIES, prompt_name=task if task in theirs.prompts else "query"), vectors_BD)
    near(again.encode_passages(PASSAGES), ours.encode_passages(PASSAGES))
    near(theirs.encode_document(WHOLE), ours.encode_passages(PASSAGES))


@pytest.mark.parametrize("apart", [False, True], ids=["one length", "a length for each side"])
def test_what_a_folder_cannot_say_is_said_aloud_and_beside_it(
    tiny_bert: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, apart: bool
) -> None:
    """Lengths by task and the cut before a mention: in a warning and in the README, whose code encodes as we do."""
    from sentence_transformers import SentenceTransformer

    config = replace(
        BASE,
        prompts={"nq": "question: ", "wned": "link: "},
        query_lengths={"nq": 9, "*": 64},
        left_context=4,
        passage_length=30 if apart else 64,
    )
    ours = load_encoder(str(checkpoint(tiny_bert, tmp_path / "ours", config)))
    folder = folder_of(tmp_path / "theirs")
    write_sentence_transformers(ours.folder, config, folder)
    write_huggingface(ours.folder, config, folder_of(tmp_path / "plain"), "plain")
    page = (folder / "README.md").read_text(encoding="utf-8")
    flags = (tmp_path / "plain" / "pyserini-flags.txt").read_text(encoding="utf-8")
    for said in (
        "tools cut all queries at 64 tokens, we cut them at the length of their task: nq 9",
        "we keep 4 words before it",
    ):
        assert said in page and said in flags and caplog.text.count(said) == 2
        assert all(f"{kind}: " in caplog.text for kind in ("sentence-transformers", "huggingface"))
    names: dict[str, Any] = {}
    exec(page.split("```python\n")[2].split("```")[0], names)
    theirs = SentenceTransformer(str(folder), device="cpu")
    mentions = [f"{'the long and winding way to ' * 8}{ENTITY_MARKS[0]} Paris {ENTITY_MARKS[1]} was short"]
    for task in ("nq", "wned", "nq"):
        near(names["encode_queries"](theirs, QUERIES + mentions, task), ours.encode_queries(QUERIES + mentions, task))
    plain = theirs.encode_query(mentions, prompt_name="wned")
    assert np.abs(plain - ours.encode_queries(mentions, "wned")).max() > 1e-3  # the note is needed
    near(theirs.encode_document(WHOLE), ours.encode_passages(PASSAGES))


def test_a_folder_that_says_all_needs_no_warning(
    tiny_bert: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(BASE, query_lengths={"nq": 64, "*": 64})
    write_sentence_transformers(tiny_bert, config, folder_of(tmp_path / "theirs"))
    assert not caplog.text and "cannot say" not in (tmp_path / "theirs" / "README.md").read_text(encoding="utf-8")


def test_a_t5_encoder_goes_to_sentence_transformers(tiny_t5: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    folder = folder_of(tmp_path / "theirs")
    write_sentence_transformers(tiny_t5, BASE, folder)
    theirs = SentenceTransformer(str(folder), device="cpu")
    near(theirs.encode_query(QUERIES), load_encoder(str(folder)).encode_queries(QUERIES, None))


@pytest.mark.parametrize("kind", ["distilbert", "electra", "roberta", "modernbert"])
def test_every_backbone_says_how_long_its_vectors_are(tiny_bert: Path, tmp_path: Path, kind: str) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny_bert, source)
    BACKBONES[kind]().save_pretrained(source)
    write_sentence_transformers(source, BASE, folder_of(tmp_path / "theirs"))
    assert read_json(tmp_path / "theirs" / "1_Pooling" / "config.json")["word_embedding_dimension"] == 32


@pytest.mark.parametrize("template", ["{text} {title}", "{title} {text}.", "{title} {title} {text}", "{text}"])
def test_a_template_that_sentence_transformers_cannot_hold_is_refused(
    tiny_bert: Path, tmp_path: Path, template: str
) -> None:
    with pytest.raises(InputError, match="cannot store the passage template") as caught:
        write_sentence_transformers(tiny_bert, replace(BASE, passage_template=template), folder_of(tmp_path / "theirs"))
    assert repr(template) in str(caught.value)


def test_what_stands_between_title_and_text_is_left_to_users(tiny_bert: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    config = replace(BASE, passage_template="Title: {title} Text: {text}")
    ours = load_encoder(str(checkpoint(tiny_bert, tmp_path / "ours", config)))
    write_sentence_transformers(ours.folder, config, folder_of(tmp_path / "theirs"))
    page = (tmp_path / "theirs" / "README.md").read_text(encoding="utf-8")
    (written,) = re.findall(r"encode_document\(\['(.*)'\]\)", page)
    between = written.removeprefix("title").removesuffix("text")
    texts = [f"{each.title}{between}{each.text}" for each in PASSAGES]
    theirs = SentenceTransformer(str(tmp_path / "theirs"), device="cpu")
    near(theirs.encode_document(texts), ours.encode_passages(PASSAGES))


def commands(folder: Path) -> list[tuple[str, argparse.Namespace]]:
    """The commands of pyserini-flags.txt with the comment above each."""
    flags = argparse.ArgumentParser(exit_on_error=False)
    for name in ("--encoder", "--encoder-class", "--pooling", "--query-prefix"):
        flags.add_argument(name)
    flags.add_argument("--l2-norm", action="store_true")
    flags.add_argument("--max-length", type=int)
    lines = (folder / "pyserini-flags.txt").read_text(encoding="utf-8").splitlines()
    assert all(line.startswith(("#", "python -m taco_ir.pyserini pyserini.")) for line in lines)
    pairs = [(above, shlex.split(line)) for above, line in pairwise(lines) if not line.startswith("#")]
    return [(above, flags.parse_known_args(words)[0]) for above, words in pairs]


def pyserini_auto(flags: argparse.Namespace, texts: list[str], titles: list[str] | None = None) -> Vectors:
    """Pyserini 1.6's arithmetic: AutoQueryEncoder's, one at a time, or with titles AutoDocumentEncoder's, padded."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(flags.encoder, clean_up_tokenization_spaces=True)
    model = transformers.AutoModel.from_pretrained(flags.encoder)
    settings: dict[str, Any] = {"return_tensors": "pt", "padding": "longest", "truncation": True}
    settings["return_token_type_ids"] = False
    assert flags.encoder_class == "auto"
    with torch.no_grad():
        if titles is None:
            prefixed = [f"{flags.query_prefix} {text}" if flags.query_prefix else text for text in texts]
            states = [model(**tokenizer(text, **settings))[0][0].numpy() for text in prefixed]
            vectors_BD = np.stack(
                [np.average(each, axis=-2) if flags.pooling == "mean" else each[0] for each in states]
            )
        else:
            whole = [f"{title} {text}" for title, text in zip(titles, texts, strict=True)]
            inputs = tokenizer(whole, max_length=flags.max_length, **settings)
            states_BLD, mask_BL1 = model(**inputs)[0].numpy(), inputs["attention_mask"].numpy()[:, :, None]
            mean_BD = (states_BLD * mask_BL1).sum(1) / mask_BL1.sum(1)
            vectors_BD = mean_BD if flags.pooling == "mean" else states_BLD[:, 0]
    assert flags.pooling in ("mean", "cls")
    return vectors_BD / np.linalg.norm(vectors_BD, axis=1, keepdims=True) if flags.l2_norm else vectors_BD


@pytest.mark.parametrize("name", CONFIGS)
def test_pyserini_encodes_as_we_do_by_the_written_flags(tiny_bert: Path, tmp_path: Path, name: str) -> None:
    config = CONFIGS[name]
    ours = load_encoder(str(checkpoint(tiny_bert, tmp_path / "ours", config)))
    folder = folder_of(tmp_path / "a folder's name")
    write_huggingface(ours.folder, config, folder, str(folder))
    (_, passage_flags), *query_commands = commands(folder)
    assert len(query_commands) == max(len(config.prompts), 1)
    for above, flags in query_commands:
        task = next((task for task in config.prompts if above.startswith(f"# queries of {task},")), "any task")
        assert (task == "any task") == (config.prompts.keys() <= {"*"})
        near(pyserini_auto(flags, QUERIES), ours.encode_queries(QUERIES, task))
    titles, texts = [passage.title for passage in PASSAGES], [passage.text for passage in PASSAGES]
    said = (folder / "pyserini-flags.txt").read_text(encoding="utf-8")
    usual = config.passage_form == BASE.passage_template
    assert (f"no flag gives the passage template {config.passage_form!r}" in said) == (not usual)
    if usual:
        near(pyserini_auto(passage_flags, texts, titles), ours.encode_passages(PASSAGES))


def test_a_prompt_that_no_flag_gives_gets_no_command(tiny_bert: Path, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "plain")
    write_huggingface(tiny_bert, replace(BASE, prompts={"nq": "Q:", "fever": "C: "}), folder, "plain")
    assert [flags.query_prefix for _, flags in commands(folder)[1:]] == ["C:"]
    said = "# no flag gives the prompt 'Q:': Pyserini puts a space behind it; use the exported queries"
    assert said in (folder / "pyserini-flags.txt").read_text()


def test_the_verb_writes_all_that_apply(tiny_bert: Path, tmp_path: Path) -> None:
    """As a user runs it, from a plain folder and flags."""
    output = tmp_path / "out"
    flags = ["--model", str(tiny_bert), "--pooling", "mean", "--topics", "aidayago2-dev", "--output", str(output)]
    done = warm.run([sys.executable, "-m", "taco_ir.export", *flags])
    assert done.returncode == 0, done.stderr
    parts = [output / "huggingface", output / "sentence-transformers", output / "queries" / "aidayago2-dev"]
    assert done.stdout.splitlines() == list(map(str, parts)) and all(part.is_dir() for part in parts)
    ours = load_encoder(str(tiny_bert), pooling="mean")
    topics = SAMPLE.load_topics("aidayago2-dev")
    expected_BD = ours.encode_queries([query.text for query in topics.queries], topics.task)
    with (parts[2] / "embedding.pkl").open("rb") as source:
        table = pickle.load(source)
    assert list(table.columns) == ["id", "text", "embedding"]
    assert table["id"].tolist() == [query.record_id for query in topics.queries]
    assert table["text"].tolist() == [query.plain_text for query in topics.queries] and len(topics.queries) >= 12
    assert all(mark in query.text for query in topics.queries for mark in ENTITY_MARKS)
    assert not any(mark in text for text in table["text"] for mark in ENTITY_MARKS)
    near(np.stack(table["embedding"]), expected_BD)
    near(load_encoder(str(parts[1])).encode_queries(QUERIES, None), ours.encode_queries(QUERIES, None))
    near(load_encoder(str(parts[0]), pooling="mean").encode_queries(QUERIES, None), ours.encode_queries(QUERIES, None))


def test_queries_that_pyserini_cannot_tell_apart_are_refused(tmp_path: Path) -> None:
    start, end = ENTITY_MARKS
    queries = [
        Query("q_1", f"{start}Paris{end} and Rome", "wned", record_id="q 1"),
        Query("q2", f"Paris and {start}Rome{end}", "wned"),
    ]
    vectors_BD = np.eye(2, dtype=np.float32)
    assert queries[0].plain_text == queries[1].plain_text
    with pytest.raises(InputError, match="'q_1' and 'q2' differ only in their entity marks"):
        write_encoded_queries(queries, vectors_BD, tmp_path / "apart")
    assert not (tmp_path / "apart").exists()
    write_encoded_queries(queries, vectors_BD[[0, 0]], tmp_path / "same")
    with (tmp_path / "same" / "embedding.pkl").open("rb") as source:
        assert pickle.load(source)["id"].tolist() == ["q 1", "q2"]


def test_what_an_encoder_cannot_be_is_left_out_or_refused(
    tiny_t5: Path, tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    t5, output = ["--model", str(tiny_t5), "--pooling", "decoder", "--output", str(tmp_path / "t5")], tmp_path / "t5"
    main(t5)
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0] for line in said] == ["left out huggingface", "left out sentence-transformers"]
    assert "cannot run T5" in said[0] and "no pooling 'decoder', only mean, first, last" in said[1]
    assert not output.exists()
    for kind, reason in (("huggingface", "cannot run T5"), ("sentence-transformers", "no pooling 'decoder'")):
        with pytest.raises(InputError, match=reason):
            main([*t5, "--what", kind])
    checkpoint(tiny_bert, tmp_path / "m", replace(BASE, passage_template="{title} {text}."))
    main(["--model", str(tmp_path / "m"), "--output", str(tmp_path / "out")])
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'out' / 'huggingface'}\nleft out sentence-transformers: ")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["huggingface"]


def test_outputs_that_exist_are_kept_unless_told(tiny_bert: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    plain = ["--model", str(tiny_bert), "--pooling", "mean", "--output", str(output), "--what", "huggingface"]
    main(plain)
    (output / "huggingface" / "mine.txt").write_text("kept")
    with pytest.raises(InputError, match=r"exists; give another name or --overwrite"):
        main(plain)
    assert (output / "huggingface" / "mine.txt").is_file()
    main([*plain, "--overwrite", "--normalize"])
    assert not (output / "huggingface" / "mine.txt").exists()
    assert "--l2-norm" in (output / "huggingface" / "pyserini-flags.txt").read_text()
    (tmp_path / "file").write_text("")
    compact = "--weights has an effect only with --megabytes"
    for arguments, said in (
        (["--output", str(tmp_path / "file")], "is a file; give a folder"),
        (["--output", str(tmp_path / "new"), "--what", "queries"], "--what queries needs --topics"),
        (["--output", str(tmp_path / "new"), "--what", "onnx"], "invalid choice: 'onnx'"),
        (["--output", str(tmp_path / "new"), "--weights", "int8"], compact),
        ([], "required: --output"),
    ):
        with pytest.raises(InputError, match=said):
            main(["--model", str(tiny_bert), "--pooling", "mean", *arguments])


def test_a_task_may_take_the_prompt_and_length_of_another(tiny_bert: Path, tmp_path: Path) -> None:
    prompts = {"nq": "question: ", "structured_zeroshot": "slot: "}
    config = replace(BASE, prompts=prompts, query_lengths={"structured_zeroshot": 9})
    model, output = checkpoint(tiny_bert, tmp_path / "m", config), tmp_path / "out"
    flags = ["--model", str(model), "--what", "compact", "--megabytes", "1", "--output", str(output), "--overwrite"]
    main([*flags, "--prompt-of", "trex=zsre", "*=nq"])
    before, after = load_encoder(str(model)).config, load_encoder(str(output / "compact")).config
    for task, lender in (("trex", "structured_zeroshot"), ("any other", "nq"), ("nq", "nq")):
        assert after.query_texts(["x"], task) == before.query_texts(["x"], lender)
        assert after.max_query_tokens(task) == before.max_query_tokens(lender)
    none = "which has none; tasks with prompts: nq, structured_zeroshot"
    for wrong, said in (
        ("nq=zsre", "task 'nq' has its own prompt and cannot borrow from 'structured_zeroshot'"),
        ("trex=wow", f"task 'trex' cannot borrow a prompt of 'wow', {none}"),
        ("trex", "--prompt-of 'trex' is not TASK=TASK"),
    ):
        with pytest.raises(InputError, match=said):
            main([*flags, "--prompt-of", wrong])
