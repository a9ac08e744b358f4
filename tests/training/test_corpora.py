"""Several corpora in one training: each task has passages, negatives and settings of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from layouts import beir, msmarco, tevatron
from safetensors.torch import load_file
from training_runs import data_of, encoder_of, small, stopped_after, work_of
from verbs import passage, query, write_collection

from taco_ir.core.files import InputError, read_json, write_json
from taco_ir.data.collection import open_collection
from taco_ir.encoders.text_encoder import load_encoder
from taco_ir.negatives.file import read_negatives
from taco_ir.release.lineage import read_lineage
from taco_ir.search import main as search
from taco_ir.training.batches import divide_batch
from taco_ir.training.flags import read_settings
from taco_ir.training.folder import load_settings, save_settings
from taco_ir.training.objectives.contrastive import Contrastive, contrastive_loss
from taco_ir.training.run import train
from taco_ir.training.settings import BatchSettings, TrainSettings

RUN = {"tasks": ("all",), "batch_size": 4, "steps": 4, "checkpoint_every": 1, "validate_every": 2, "pool_hard": 2}


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A BEIR folder with a train and a dev split."""
    made = Path(beir(tmp_path))
    for split in ("train", "dev"):
        shutil.copy(made / "qrels" / "test.tsv", made / "qrels" / f"{split}.tsv")
    return str(made)


def both(model: Path, output: Path, folder: str, own: dict[str, Any] | None = None, **changes: Any) -> TrainSettings:
    """A training over the sample's FEVER and a BEIR folder."""
    tables = {"fever": {"prompt": "FEVER [SEP]"}, "facts": {"collection": folder, "task": "scifact", **(own or {})}}
    return TrainSettings(
        **{**small(model, output).flat(), **RUN, "episodes": (), "task_tables": tables, **changes}  # type: ignore[arg-type]
    )


def test_a_training_over_two_corpora_resumes_bit_for_bit(
    tiny_bert: Path, tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mined = {"negatives": "bm25", "mine_depth": 20, "mine_keep": 4, "weighting": "taco"}
    episodes = ({"steps": 2, "weighting": "naive"}, {"negatives": "ance", "steps": 3})
    own = {"share": 1, "passage_length": 12, "weight": 0.5}
    whole, stopped = (
        both(tiny_bert, tmp_path / name, folder, own, episodes=episodes, **mined) for name in ("whole", "stopped")
    )
    model = train(whole)
    with stopped_after(2, 3):
        train(stopped)
    again = train(load_settings(tmp_path / "stopped"))
    one, other = (load_file(path / "model.safetensors") for path in (model, again))
    assert one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())

    collections = (open_collection("sample"), open_collection(folder))
    for number, (collection, topics) in enumerate(zip(collections, ("fever-train", "scifact-train"), strict=True), 1):
        for path in ("bm25-20-0-4.jsonl", "validation.jsonl"):
            found = read_negatives(tmp_path / "whole" / f"corpus-{number}" / path, collection.passages.fingerprint)
            docids = [docid for queries in found.docids.values() for own in queries.values() for docid in own]
            assert len(collection.passages.get(docids)) == len(set(docids))
            assert path.startswith("validation") or set(found.docids) == {topics}
        assert (tmp_path / "whole" / "episode-2" / f"corpus-{number}" / "ance.jsonl").is_file()
        assert not (tmp_path / "whole" / "episode-2" / f"corpus-{number}" / "index").exists()
    inputs = read_json(tmp_path / "whole" / "inputs.json", dict[str, str])
    assert {"topics fever-train of corpus-1", "topics scifact-train of corpus-2"} <= inputs.keys()
    logged = [json.loads(line) for line in (tmp_path / "whole" / "episode-2" / "log.jsonl").read_text().splitlines()]
    assert logged[0]["validation"].keys() == {"fever", "facts", "macro"}

    *_, last = read_lineage([tmp_path / "whole"]).stages
    assert last.tasks == ("facts", "fever")
    said = "fever: prompt FEVER [SEP]; facts: passage length 12, share 1, weight 0.5"
    assert last.settings["of single tasks"] == said  # no folder of this machine

    monkeypatch.chdir(tmp_path)
    for collection, topics in (("sample", "fever-dev"), (folder, "scifact-dev")):
        search(["--model", str(model), "--collection", collection, "--topics", topics, "--output", f"{topics}.trec"])
        assert Path(f"{topics}.trec").read_text().strip()


def test_static_settings_of_a_task_do_what_they_say(tiny_bert: Path, tmp_path: Path, folder: str) -> None:
    """The loss is that of equation 2 at the task's temperature, times its weight; so is the gradient."""

    def step(**own: Any) -> tuple[Contrastive, float, torch.Tensor]:
        config = both(tiny_bert, tmp_path / "run", folder, {"share": 2, **own}, dropout=0.0)
        data = data_of(config, tmp_path / "run")
        model = encoder_of(config.replace(tasks=("fever", "facts")), tmp_path / "run")
        _, objective = Contrastive.of(work_of(config, model, data))
        model.zero_grad()
        loss = float(objective.backward(objective.batch(0)))
        return objective, loss, next(param.grad for param in objective.params if param.grad is not None).to_dense()

    plain, loss, gradient = step()
    assert plain.task == "facts" and plain.means.settings.temperature == 1
    _, halved, smaller = step(weight=0.5)
    assert halved == pytest.approx(loss / 2) and torch.allclose(smaller, gradient / 2)

    cold, colder, _ = step(temperature=0.05)
    batch = cold.batch(0)
    texts = [batch.passages[docid] for docid in batch.queries.passages]
    with torch.no_grad():
        query_BD = torch.cat(
            [cold.model([each]) for each in cold.model.tokenize_queries(batch.queries.queries, "facts")]
        )
        passage_ND = torch.cat([cold.model([each]) for each in cold.model.tokenize_passages(texts)])
    blocked_BN = torch.from_numpy(np.asarray(batch.queries.blocked_BN))
    expected = contrastive_loss(query_BD, passage_ND, batch.queries.positives, blocked_BN, 0.05)
    assert colder == pytest.approx(float(expected), rel=1e-4) and colder != pytest.approx(loss, rel=1e-2)


def test_prompts_and_lengths(tiny_bert: Path, tmp_path: Path, folder: str) -> None:
    own = {"query_length": 9, "passage_length": 7}
    config = both(tiny_bert, tmp_path / "run", folder, own)
    model = encoder_of(config.replace(tasks=("fever", "facts")), tmp_path / "run")
    assert model.config.prompts["fever"] == "FEVER [SEP] " and model.config.prompts["scifact"].startswith("FACTS ")
    assert model.config.max_query_tokens("facts") == model.config.max_query_tokens("scifact") == 9
    assert model.config.passage_length == 40
    _, facts = Contrastive.of(work_of(config, model, data_of(config, tmp_path / "run")))
    assert facts.passage_length == 7


def test_ids_of_two_corpora_do_not_mix(tiny_bert: Path, tmp_path: Path, folder: str) -> None:
    """Two folders with the same docids and other texts."""
    (tmp_path / "other").mkdir()
    shutil.copytree(folder, tmp_path / "other" / "scifact")
    corpus = tmp_path / "other" / "scifact" / "corpus.jsonl"
    corpus.write_text(corpus.read_text().replace("Bach", "Telemann"))
    tables = {
        "a": {"collection": folder, "task": "scifact"},
        "b": {"collection": str(corpus.parent), "task": "scifact"},
    }
    config = TrainSettings(
        **{**both(tiny_bert, tmp_path / "run", folder).flat(), "task_tables": tables, "pool_hard": 0}
    )
    data = data_of(config, tmp_path / "run")
    model = encoder_of(config.replace(tasks=("a", "b")), tmp_path / "run")
    a, b = Contrastive.of(work_of(config, model, data))
    assert "Bach" in a.means.texts.passages["d1"].text and "Telemann" in b.means.texts.passages["d1"].text
    assert [pool.task for pool in data.pools] == ["a", "b"] and "scifact" not in model.config.prompts


def test_given_and_own_negatives(tiny_bert: Path, tmp_path: Path, folder: str) -> None:
    """A task without negatives beside one with mined ones."""
    config = both(tiny_bert, tmp_path / "run", folder, {"negatives": "none"}, negatives="bm25", hard_negatives=2)
    data = data_of(config, tmp_path / "run")
    negatives = data.load_negatives(config.negatives, tmp_path / "run", tiny_bert)
    assert negatives.keys() == {"fever"}
    assert any(example.negatives for example in data.examples("fever", negatives["fever"]))


def test_negatives_given_by_one_corpus_beside_mined_ones(tiny_bert: Path, tmp_path: Path) -> None:
    own = {"task": "wiki", "negatives": "given"}
    config = both(tiny_bert, tmp_path / "run", tevatron(tmp_path), own, negatives="bm25")
    data = data_of(config, tmp_path / "run")
    negatives = data.load_negatives(config.negatives, tmp_path / "run", tiny_bert)
    assert [header.source for header in negatives["facts"].sources] != ["bm25"]
    assert {example.negatives for example in data.examples("facts", negatives["facts"])} == {("d3",)}
    assert [header.source for header in negatives["fever"].sources] == ["bm25"]


def test_reading_beside_another_corpus_and_anew(tiny_bert: Path, tmp_path: Path, folder: str) -> None:
    """A training with an objective of reading; one in its place is as if nothing had been there."""
    tables = {"nq": {}, "facts": {"collection": folder, "task": "scifact"}}
    more = {"task_tables": tables, "reading": ("nq",), "negatives": "bm25", "steps": 2, "mine_keep": 4}
    fresh = train(both(tiny_bert, tmp_path / "fresh", folder, **more))
    train(both(tiny_bert, tmp_path / "run", folder, **{**more, "seed": 1, "mine_keep": 3}))
    anew = train(both(tiny_bert, tmp_path / "run", folder, **more), overwrite=True)
    one, other = (load_file(path / "model.safetensors") for path in (fresh, anew))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    losses = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[1])["loss"]
    assert losses.keys() == {"nq", "facts", "nq reading"}
    changed = {**more, "task_tables": {**tables, "nq": {"weight": 2.0}}}
    with pytest.raises(InputError, match=r"with other settings: task_tables was .*'weight': 2\.0"):
        train(both(tiny_bert, tmp_path / "run", folder, **changed))


def test_one_collection_under_two_names_is_mined_once(tiny_bert: Path, tmp_path: Path, folder: str) -> None:
    again = f"{folder}/../scifact"
    tables = {"fever": {}, "nq": {"collection": "sample"}, "facts": {"collection": again, "task": "scifact"}}
    data = data_of(both(tiny_bert, tmp_path / "run", folder, collection="sample", task_tables=tables), tmp_path / "run")
    assert [collection.name for collection in data.corpora] == ["sample", "scifact"]
    assert data.places["fever"].collection is data.places["nq"].collection
    tables |= {"more": {"collection": folder, "task": "scifact"}}
    with pytest.raises(InputError, match=r"^tasks\.facts and tasks\.more are both task scifact of collection "):
        data_of(both(tiny_bert, tmp_path / "run", folder, task_tables=tables), tmp_path / "run")


def test_the_papers_second_benchmark() -> None:
    first, *ance = read_settings(Path("taco-four-corpora"), {}).each_episode()
    assert list(first.task_tables) == ["msmarco", "zeshel", "fever", "nq"] and len(ance) == 8
    assert len({own.collection for own in first.task_tables.values()}) == 4
    assert (first.negatives.negatives, ance[-1].weighting.weighting) == ("bm25", "taco")


def test_the_papers_second_benchmark_runs_on_collections_of_four_layouts(
    tiny_t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """...and its model searches each, also a part of MS MARCO's dev queries."""
    monkeypatch.chdir(tmp_path)
    model = Path(shutil.copytree(tiny_t5, "model"))
    write_json(model / "tokenizer_config.json", read_json(model / "tokenizer_config.json") | {"model_max_length": 512})
    shutil.copytree(folder, "collections/zeshel")
    marco = Path(shutil.move(msmarco(tmp_path / "ms"), "collections/msmarco"))
    for kind in ("queries", "qrels"):
        shutil.copy(marco / f"{kind}.dev.small.tsv", marco / f"{kind}.train.tsv")
    texts = [passage(f"{page}#0", f"text of page {page}", f"T{page}") for page in range(6)]
    for task in ("fever", "nq"):
        asked = [query(f"q{page}", f"what is page {page}", [f"{page}#0"]) for page in range(3)]
        write_collection(Path("collections", task), texts, {f"{task}-train": asked, f"{task}-dev": asked})
    rows = "".join(f"{each['id']}\t{each['contents']}\t{each['title']}\t{each['wikipedia_id']}\n" for each in texts)
    Path("collections/nq/passages.jsonl").unlink()
    Path("collections/nq/psgs_w100.tsv").write_text(rows)

    here = {"model": "./model", "output": "out", "device": "cpu", "precision": "float32"}
    config = read_settings(Path("taco-four-corpora"), {**here, "steps": 1, "batch_size": 4, "shares": "uniform"})
    trained = train(config.replace(episodes=(config.episodes[0], config.episodes[-1])))
    for place, topics in (("msmarco", "small-dev"), ("zeshel", "dev"), ("fever", "dev"), ("nq", "dev")):
        asked_for = ["--collection", f"collections/{place}", "--topics", f"{place}-{topics}", "--no-compare"]
        search([*asked_for, "--model", str(trained), "--output", f"{place}.trec"])


def test_self_supervised_tasks_read_the_collection_of_the_training(
    tiny_bert: Path, tmp_path: Path, folder: str
) -> None:
    more = {"self_supervised": ("inverse_cloze",), "passage_batch": 4, "steps": 1, "pool_hard": 0}
    tables = {"facts": {"collection": folder, "task": "scifact"}}
    train(both(tiny_bert, tmp_path / "run", folder, task_tables=tables, **more))
    inputs = read_json(tmp_path / "run" / "inputs.json", dict[str, str])
    assert {"passages of corpus-1 of scifact", "passages of corpus-2 of sample"} <= inputs.keys()


def test_an_adapter_of_a_task_reads_its_queries_under_both_names(
    tiny_bert: Path, tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters = {"tune": "adapter", "tune_width": 2, "tune_roles": "task", "steps": 1, "pool_hard": 0}
    model = train(both(tiny_bert, tmp_path / "run", folder, **adapters))
    encoder = load_encoder(str(model))
    one, other = (encoder.encode_queries(["who wrote"], task) for task in ("facts", "scifact"))
    assert np.array_equal(one, other) and not np.array_equal(one, encoder.encode_queries(["who wrote"], "fever"))
    monkeypatch.chdir(tmp_path)
    search(["--model", str(model), "--collection", folder, "--topics", "scifact-dev", "--output", "facts.trec"])


def test_some_of_the_tables(tiny_bert: Path, tmp_path: Path, folder: str) -> None:
    config = both(tiny_bert, tmp_path / "run", folder, tasks=("facts",))
    data = data_of(config, tmp_path / "run")
    assert data.tasks == ["facts"] and data.folder_of(data.corpora[0], tmp_path) == tmp_path
    with pytest.raises(InputError, match="unknown task 'nq'; valid: facts, fever"):
        data_of(both(tiny_bert, tmp_path / "run", folder, tasks=("nq",)), tmp_path / "run")


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"facts": {"collection": "scifact"}}, r"^tasks\.facts: collection scifact: unknown task 'facts'; .*scifact"),
        ({"facts": {"collection": "scifakt"}}, r"^tasks\.facts: --collection 'scifakt': no such folder\. Give"),
        (
            {"nq": {}, "x": {"task": "naturalquestions"}},
            r"^tasks\.nq and tasks\.x are both task nq of collection sample; leave one",
        ),
        ({"tqa": {}, "triviaqa": {}}, r"^tasks\.tqa and tasks\.triviaqa are the same task triviaqa; leave one"),
        ({"nq": {"share": "2"}}, r"^tasks\.nq\.share is '2'; it must be a whole number, at least 1$"),
        ({"nq": {"shar": 2}}, r"^tasks\.nq\.shar: unknown key; did you mean share"),
        ({"nq": {"temperature": 0}}, r"^tasks\.nq\.temperature is 0; it must be a number, or none, above 0$"),
        ({"nq": 3}, r"^tasks\.nq is 3; it must be a table, \[tasks\.nq\] in a file$"),
        ({}, r"^tasks is \{\}; it must be a list of names, or tables \[tasks\.NAME\]$"),
        ({"nq": {"query_length": 900}}, r"^tasks\.nq\.query_length is 900; \S+ takes 1 to \d+ tokens$"),
    ],
)
def test_mistakes(
    tiny_bert: Path, tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch, tables: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(Path(folder).parent)
    with pytest.raises(InputError, match=message):
        train(TrainSettings(**{**small(tiny_bert, tmp_path / "run").flat(), **RUN, "tasks": tables, "pool_hard": 0}))


def test_a_file_of_settings(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text('model = "m"\noutput = "o"\n[tasks.fever]\nprompt = "FEVER [SEP]"\n[tasks.nq]\nshare = 2\n')
    config = read_settings(path, {})
    assert config.run.tasks == ("all",) and config.task_tables["nq"].share == 2
    assert config.flat()["task_tables"] == {"fever": {"prompt": "FEVER [SEP]"}, "nq": {"share": 2}}
    save_settings(config, tmp_path)
    assert load_settings(tmp_path) == config
    assert "task_tables" not in TrainSettings(model="m", output="o").flat()
    path.write_text(path.read_text().replace("share = 2", "share = 0"))
    with pytest.raises(InputError, match=r"m\.toml: tasks\.nq\.share is 0; it must be a whole number, at least 1"):
        read_settings(path, {})


def test_shares_of_a_batch() -> None:
    batch = BatchSettings(batch_size=16, shares="uniform")
    assert divide_batch(batch, [9, 9, 9], [None, 4, None]) == [6, 4, 6]
    assert divide_batch(BatchSettings(), [9, 9], [3, 4]) == [3, 4]
    with pytest.raises(InputError, match="batch_size is 16, but the tasks' shares sum to 7"):
        divide_batch(batch, [9, 9], [3, 4])
    with pytest.raises(
        InputError,
        match="batch_size is 16, but tasks with a share use 15 queries, and the other 2 tasks need at least one each",
    ):
        divide_batch(batch, [9, 9, 9], [15, None, None])
