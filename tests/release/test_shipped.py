"""The encoder that comes with the package: small enough, known to every task, trained on what may be shipped, described
by what was measured.

A checkout without it, or with weights that no card is about, fails here.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from taco_ir.adaptation.encoder import start_encoder
from taco_ir.adaptation.settings import AdaptSettings
from taco_ir.core.files import InputError
from taco_ir.core.tasks import TASK_NAMES, canonical_task
from taco_ir.data.collection import open_collection
from taco_ir.encoders.names import FOLDER, SHIPPED, SHIPPED_BACKBONE
from taco_ir.encoders.text_encoder import TextEncoder, load_encoder
from taco_ir.release.model_card import CARD_FILE, FACTS_FILE, read_facts, render_card
from taco_ir.retrieval.choices import model_name
from taco_ir.retrieval.fusion import HybridWeights
from taco_ir.studies.records import find_records

RESULTS = Path(__file__).resolve().parents[2] / "runs" / "minikilt" / "results"
MOST_BYTES = 30_000_000


@pytest.fixture(scope="module")
def shipped() -> TextEncoder:
    return load_encoder(SHIPPED)


def test_it_is_small_and_known_by_name(shipped: TextEncoder) -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) <= MOST_BYTES
    files = {"tuning.json", "tuning.safetensors", "taco_ir.json", "backbone", CARD_FILE}
    assert {path.name for path in FOLDER.iterdir()} >= files
    assert shipped.folder == FOLDER and model_name(SHIPPED) == SHIPPED
    assert model_name(None) == SHIPPED and load_encoder().fingerprint == shipped.fingerprint  # the default


def test_every_task_has_a_reader(shipped: TextEncoder) -> None:
    """KILT's own, and a query without any; those of a user's folder where it is said that they are its."""
    query = ["who wrote the cello suites"]
    for task in (*TASK_NAMES, None):
        assert np.isfinite(shipped.encode_queries(query, task)).all()
    mixed_BD = shipped.encode_mixed_queries(query, ["my-task"], {"my-task"})
    np.testing.assert_array_equal(mixed_BD, shipped.encode_queries(query, None))


def test_its_passages_are_the_backbones(shipped: TextEncoder) -> None:
    """So an index serves both, and every task that is added to it."""
    backbone, passages = load_encoder(SHIPPED_BACKBONE), list(open_collection("sample").passages.read())[:8]
    np.testing.assert_array_equal(shipped.encode_passages(passages), backbone.encode_passages(passages))
    plain_BD = backbone.encode_queries(["The Great Gatsby"], None)
    for task in read_facts(FOLDER).tasks:
        assert not np.allclose(shipped.encode_queries(["The Great Gatsby"], task), plain_BD, atol=0.01)


def test_errors_name_its_backbone_as_it_is_called() -> None:
    said = f"give its base model, {SHIPPED_BACKBONE}$"
    with pytest.raises(InputError, match=f"--precision int8: .* has adapters, which work only in float32; {said}"):
        load_encoder(SHIPPED, precision="int8")
    with pytest.raises(InputError, match=f"--model {SHIPPED}: it has adapters of its own .*; {said}"):
        start_encoder(AdaptSettings(model=SHIPPED, index="i", output="o", topics=("nq-train",)), ["nq"])


def test_it_finds_the_passage_that_it_reads(shipped: TextEncoder) -> None:
    """With few bits and tokens it is still an encoder: a passage's first sentence is nearest to its passage."""
    passages = list(open_collection("sample").passages.read())[:60]
    sentences = [re.split(r"(?<=[.!?])\s", passage.text)[0] for passage in passages]
    nearest_N = (shipped.encode_queries(sentences, "nq") @ shipped.encode_passages(passages).T).argmax(1)
    assert np.mean(nearest_N == np.arange(len(passages))) > 0.9


def test_the_weights_of_its_hybrid_were_chosen_with_it_and_without_trex(shipped: TextEncoder) -> None:
    weights = HybridWeights.of_model(FOLDER)
    assert weights.encoder == shipped.fingerprint, "chosen with another encoder; choose them anew, then make weights"
    assert set(weights.tasks) == {canonical_task(name.removesuffix("-dev")) for name in weights.made_of["topics"]}
    assert "trex" not in weights.tasks  # its licence forbids commercial use
    for task, own in weights.tasks.items():
        assert own.hybrid >= max(own.of_dense, own.of_bm25) and own.queries >= 100, task


def test_its_card_is_what_the_results_say() -> None:
    """Written from them, for these weights; the numbers in it are the record's, rounded."""
    assert (FOLDER / FACTS_FILE).is_file(), (
        f"{FOLDER} is a placeholder: it has no {FACTS_FILE}; make encoder, then make readme"
    )
    page = (FOLDER / CARD_FILE).read_text(encoding="utf-8")
    assert page == render_card(FOLDER, RESULTS, SHIPPED)
    facts = read_facts(FOLDER)
    (result,) = find_records(RESULTS, [facts.result])
    assert result.corpus == "whole" and facts.tasks
    for topics, scores in result.topics.items():
        if not scores.part_of:
            name = canonical_task(topics.removesuffix("-dev")).replace("_", r"\_")
            cells = rf"^\| {re.escape(name)}(?: \(not trained on\))? \| {scores.queries} \| ([\d.]+) \| ([\d.]+) \|"
            row = re.search(cells, page, re.MULTILINE)
            assert row, topics
            shown = [f"{scores.means[measure]:.3f}" for measure in ("page R-precision", "page recall@5")]
            assert [row[1], row[2]] == shown, topics


def test_what_must_not_be_shipped_is_not_in_it() -> None:
    facts = read_facts(FOLDER)
    assert facts.stages and "trex" not in facts.tasks
    assert find_records(RESULTS, [facts.result])[0].base == facts.base
