"""What a user chooses is checked when it is made, from a flag or in a notebook alike."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path

import pytest

from taco_ir.cli import FLAGS, MODEL_FLAGS, Parser, model_choice
from taco_ir.core.files import InputError
from taco_ir.encoders.text_encoder import load_encoder
from taco_ir.retrieval.choices import ModelChoice, SearchRequest, model_name


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ModelChoice(pooling="median"), "pooling is 'median'; it must be one of first, mean, decoder"),
        (
            lambda: ModelChoice(precision="int4"),
            "precision is 'int4'; it must be one of float32, int8, bf16, fp16, tf32 (did you mean int8?)",
        ),
        (lambda: ModelChoice(batch_size=0), "batch_size is 0; it must be a whole number, at least 1"),
        (lambda: ModelChoice(normalize="yes"), "normalize is 'yes'; it must be true or false"),  # type: ignore[arg-type]
        (
            lambda: SearchRequest(retriever="dens"),
            "retriever is 'dens'; it must be one of dense, bm25, hybrid (did you mean dense?)",
        ),
        (lambda: SearchRequest(hits=0), "hits is 0; it must be a whole number, at least 1"),
        (lambda: SearchRequest(form="tsv"), "form is 'tsv'; it must be one of trec, kilt, msmarco"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_made(make: Callable[[], object], said: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(said)}"):
        make()


def test_flags_have_the_defaults_of_the_library() -> None:
    assert model_choice(Parser("x", "", MODEL_FLAGS).parse_args([])) == ModelChoice()
    assert {f"--{entry.name.replace('_', '-')}" for entry in fields(ModelChoice)} == set(MODEL_FLAGS)
    request = SearchRequest()
    assert (FLAGS["--retriever"]["default"], FLAGS["--hits"]["default"]) == (request.retriever, request.hits)


def test_a_choice_loads_what_load_encoder_does(tiny_bert: Path) -> None:
    choice = ModelChoice(str(tiny_bert), "mean", True, prompt="query: ", precision="int8")
    encoder = choice.load()
    assert encoder.fingerprint == load_encoder(**asdict(choice)).fingerprint
    assert encoder.fingerprint != ModelChoice(str(tiny_bert), "mean").load().fingerprint
    assert choice.name == "tiny-bert"


def test_a_model_is_not_called_as_another_retriever_is(tmp_path: Path) -> None:
    for name, expected in {"bm25": "dense-bm25", "hybrid": "dense-hybrid", "mine": "mine"}.items():
        (tmp_path / name).mkdir()
        assert model_name(str(tmp_path / name)) == expected
    assert model_name("org/name") == "org--name"
