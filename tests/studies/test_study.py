"""A study runs each job once, in an order that its conditions give, and records what a search by hand would score."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Lock

import pytest
import warm
from study_results import record_line, write_conditions

from taco_ir.core.files import InputError
from taco_ir.core.hashes import fingerprint, sha256_file
from taco_ir.core.run_formats import read_trec
from taco_ir.data.__main__ import COMMANDS
from taco_ir.data.collection import open_collection
from taco_ir.evaluate import main as evaluate
from taco_ir.leaderboard import main as leaderboard
from taco_ir.reproduce import main as reproduce
from taco_ir.studies.board_page import collect_examples, most_different_queries
from taco_ir.studies.conditions import DATA_COMMANDS, VERBS, Job, read_study
from taco_ir.studies.jobs import Runner, run_jobs, select_jobs
from taco_ir.studies.records import RECORDS, Record, TopicScores, find_records, read_records

SMALL = "--seed {seed} --negatives none --pooling mean --normalize --batch-size 4 --passage-length 32"
SMALL += " --pool-queries 2 --pool-random 5 --pool-hard 0 --tasks nq,fever"
STUDY = f"""
name = "small"
models = ["tiny"]
topics = ["nq-dev", "fever-dev"]
hits = 20
tolerance = 0.01

[corpora.part]
distractors = 5

[[slice]]
name = "claims that hold"
topics = "fever-dev"
field = "none"
value = true

[recipe.train]
commands = ["train --model {{tiny}} --collection {{collection}} {SMALL} --output {{out}} {{args}}"]
search = "--model {{out}}/model"
base = "tiny"

[[condition]]
name = "bm25"
system = "BM25"
seeds = [0]
search = "--retriever bm25"
whole = [0]
part = [0]

[[condition]]
name = "{{weighting}}"
each = {{ weighting = ["naive", "taco"] }}
system = "{{weighting}} + prompts"
recipe = "train"
seeds = [1, 2]
args = "--weighting {{weighting}} --steps 2"
part = [1, 2]

[[condition]]
name = "second"
seeds = [2]
commands = ["train --model {{taco}}/model --collection {{collection}} {SMALL} --steps 1 --output {{out}}"]
"""


Ran = tuple[Path, Callable[..., None]]  # a study's folder, and how to run it again


def test_conditions(tmp_path: Path) -> None:
    study = read_study(write_conditions(tmp_path, STUDY))
    assert list(study.conditions) == ["bm25", "naive", "taco", "second"]
    assert study.conditions["taco"].system == "taco + prompts" and study.conditions["taco"].base == "tiny"
    assert study.conditions["taco"].commands[0].endswith("--output {out} --weighting taco --steps 2")
    assert study.conditions["taco"].corpora == {"part": (1, 2)}
    first = ["bm25, seed 0", "naive, seed 1", "taco, seed 1", "second, seed 2"]
    assert list(map(str, study.jobs())) == [*first, "naive, seed 2", "taco, seed 2"]
    assert study.needs(Job("second", 2)) == {"taco": Job("taco", 2)} and study.needs(Job("taco", 2)) == {}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "bm25"', 'name = "second"', "two conditions are called 'second'"),
        (
            "part = [0]",
            "half = [0]",
            "condition 'bm25' has unknown key 'half'; allowed: answer, base, best, commands, name, part, .*whole",
        ),
        (
            "part = [1, 2]",
            "part = [1, 3]",
            "part names seed 3, which the condition does not have; the condition's seeds are 1, 2",
        ),
        ("{taco}/model", "{tacco}/model", r"\{tacco\} is not defined; defined: .*naive.* taco, tiny"),
        (
            "seeds = [2]",
            "seeds = [3]",
            "condition second, seed 3 needs taco with the same seed, but taco only has seeds 1, 2",
        ),
        ('recipe = "train"', 'recipe = "trian"', "recipe 'trian'; allowed: train"),
        ('system = "BM25"', "", "a condition that is scored needs search, system and a corpus with seeds"),
        ("tolerance = 0.01", "", "conditions.toml: key tolerance is missing"),
        ("hits = 20", "hits = ", r"conditions.toml: not valid TOML: Invalid value \(at line 5"),
        ("hits = 20", "depth = 20", r"conditions.toml: unknown key 'depth'; did you mean hits\?"),
        ('name = "{weighting}"', 'name = "{weighting}/a"', "a name has at most 100 letters, digits, dots"),
        (
            "{taco}/model",
            "{second}/model",
            "conditions depend on each other in a circle: second, seed 2 -> second, seed 2",
        ),
    ],
)
def test_mistakes_in_conditions(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in STUDY
    with pytest.raises(InputError, match=message):
        read_study(write_conditions(tmp_path, STUDY.replace(old, new, 1)))


PLACES = ["../../..", "..", ".", "", "/tmp/x", "~", "a/b", "a\\\\b", "C:x", "a\\u0000b", "a\\nb", " a"]
PLACES += ["x" * 101, "\u4e00"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "old", ['name = "small"', 'name = "bm25"', '"tiny"]', '"nq-dev",', "[corpora.part]", "whole = [0]\npart = [0]"]
)
def test_a_name_that_would_be_another_place_is_refused(tmp_path: Path, old: str, place: str) -> None:
    new = {
        "[corpora.part]": f'[corpora."{place}"]\ndistractors = 5\n[corpora.part]',
        '"tiny"]': f'"tiny", "{place}"]',
        '"nq-dev",': f'"nq-dev", "{place}",',
        "whole = [0]\npart = [0]": f'whole = [0]\npart = [0]\ntopics = ["{place}"]',
    }.get(old, f'name = "{place}"')
    with pytest.raises(InputError, match="conditions.toml: .*a name has at most 100 letters, digits, dots, _, . and -"):
        read_study(write_conditions(tmp_path, STUDY.replace(old, new, 1)))
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("training.step", r"command 'training.step'; allowed: train, pretrain, .*data hold-out, data subset"),
        ("files", "command 'files'; allowed"),
        ("pyserini pyserini.search.faiss", "command 'pyserini pyserini.search.faiss'; allowed"),
        ("reproduce --conditions x", "command 'reproduce --conditions'; allowed"),
        ("{out}", "command '{out}'; allowed"),
        ("../x", "command '../x'; allowed"),
        ("", "command ''; allowed"),
        ("data get kilt/nq/dev", "command 'data get'; allowed"),
        ("data", "command 'data'; allowed"),
        ("train --output /etc", r"--output '/etc'; it must be \{out\}, or a path inside"),
        ("train --output={out}/../x", r"--output '.*'; it must be"),
        ("train --output {out}/../x", r"--output '\{out\}/../x'; it must be"),
        ("train --output {out}x", "it must be"),
        ("train --output {tiny}", "it must be"),
        ("train --output {folder}", "it must be"),
        ("train --output", "it must be"),
        ("train --output {out} --output /etc", "is needed exactly once"),
        ("train --config {folder}/a.toml", "is needed exactly once"),
        ("search --topics nq-dev", "is needed exactly once"),
        (
            "train --model {out:>9999999999} --output {out}",
            "placeholders must be plain names in braces, without : and !",
        ),
        ("train --model {out!r} --output {out}", "placeholders must be plain names in braces"),
        ("train --model {out.__class__} --output {out}", r"\{out.__class__\} is not defined"),
        ("train 'a --output {out}", "No closing quotation"),
        ("train {", "('{'|expected '}' before)"),
    ],
)
def test_a_command_is_a_verb_that_writes_into_its_own_folder(tmp_path: Path, command: str, said: str) -> None:
    text = STUDY + f'[[condition]]\nname = "more"\nseeds = [1]\ncommands = [{json.dumps(command)}]\n'
    with pytest.raises(InputError, match=rf"conditions.toml: condition 'more': .*{said}"):
        read_study(write_conditions(tmp_path, text))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seeds = [2]", 'seeds = ["../2"]', r"condition 'second': seeds\[0\] is '../2'; it must be a whole number"),
        ("seeds = [2]", "seeds = [-2]", r"seeds\[0\] is -2; it must be a whole number, at least 0"),
        ("seeds = [2]", "seeds = 2", "seeds is 2; it must be a list"),
        ("seeds = [2]", "seeds = [true]", r"seeds\[0\] is True; it must be a whole number"),
        ('search = "--retriever bm25"', "commands = 'train'", "commands is 'train'; it must be a list"),
        ("seeds = [2]", "seeds = [2]\nsystem = 1", "system is 1; it must be a text"),
        ("seeds = [2]", "seeds = [2]\nbest = ['x']", r"best is \['x'\]; it must be an object"),
        ("seeds = [2]", "seeds = [2]\nargs = ['x']", r"args is \['x'\]; it must be a text"),
        ("seeds = [2]", "seeds = [2]\neach = 3", "each is 3; it must be an object"),
        ("part = [0]", 'part = ["../x"]', r"corpora.part\[0\] is '../x'; it must be a whole number"),
        (
            "distractors = 5",
            "distractors = -5",
            r"corpora.part.distractors is -5; it must be a whole number, at least 0",
        ),
        ("distractors = 5", "distractors = 5\nseed = '/'", "corpora.part.seed is '/'"),
        ('topics = ["nq-dev", "fever-dev"]', 'topics = "nq-dev"', "topics is 'nq-dev'; it must be a list"),
        ("hits = 20", "hits = '20 --output x'", "hits is '20 --output x'; it must be a whole number"),
        (
            'search = "--retriever bm25"',
            'search = "--retriever bm25 --output /tmp/x"',
            "the study sets --output itself",
        ),
        ('name = "second"', 'name = "corpora"', "a name has .*, and not collection, folder, out, seed, corpora"),
        ('models = ["tiny"]', 'models = ["tiny", "out"]', "'out': a name has .*, and not collection, folder"),
        ("[corpora.part]", "[corpora]\npart = 3\n[x.part]", "unknown key 'x'"),
        ("[[slice]]", "[slice]", r"slice is .*; it must be a list"),
    ],
)
def test_a_value_of_another_kind_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in STUDY
    before, _, after = STUDY.rpartition(old) if "seeds = [2]" in old else STUDY.partition(old)
    with pytest.raises(InputError, match=rf"conditions.toml: .*(?:{said})"):
        read_study(write_conditions(tmp_path, before + new + after))


def test_the_verbs_of_a_study_are_verbs() -> None:
    package = Path(__file__).resolve().parents[2] / "taco_ir"
    verbs = {path.stem for path in package.glob("*.py") if "run_verb(main)" in path.read_text(encoding="utf-8")}
    assert set(VERBS) - {"data"} < verbs and set(DATA_COMMANDS) < set(COMMANDS)


def test_what_is_wanted_comes_with_what_it_needs(tmp_path: Path) -> None:
    study = read_study(write_conditions(tmp_path, STUDY))
    assert select_jobs(study, ["second"], []) == [Job("second", 2), Job("taco", 2)]
    assert select_jobs(study, [], [0]) == [Job("bm25", 0)]
    assert select_jobs(study, ["*a*o*"], [1]) == [Job("taco", 1)]
    with pytest.raises(InputError, match="--only 'tacco' matches no condition; conditions: bm25, naive, taco, second"):
        select_jobs(study, ["tacco"], [])
    with pytest.raises(InputError, match="--seeds 7: none of the selected conditions has these seeds"):
        select_jobs(study, ["taco"], [7])


def test_jobs_wait_for_what_they_need_and_survive_the_failure_of_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = read_study(write_conditions(tmp_path, STUDY))
    ended: list[Job] = []
    lock, both = Lock(), Event()
    running = 0

    def run(job: Job) -> None:
        nonlocal running
        with lock:
            running += 1
            if running == 2:
                both.set()
        assert both.wait(20)  # two at a time
        with lock:
            running -= 1
            ended.append(job)
        if job == Job("taco", 2):
            raise InputError("no luck")

    caplog.set_level("INFO")
    failed = run_jobs(study, [job for job in study.jobs() if job.condition != "bm25"], run, 2)
    assert failed == {Job("taco", 2): "no luck"}
    assert set(ended) == {Job(name, seed) for name in ("naive", "taco") for seed in (1, 2)}
    assert "failed: no luck" in caplog.text and " of 5, about" in caplog.text


@pytest.fixture(scope="module", autouse=True)
def processes() -> Iterator[None]:
    """Commands run in processes that begin fast."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("taco_ir.studies.commands.subprocess", warm)
        yield


@pytest.fixture(scope="module")
def run(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A study that has run."""
    folder = tmp_path_factory.mktemp("study")
    path = write_conditions(folder, STUDY)

    def again(*more: str) -> None:
        reproduce(["--conditions", str(path), "--models", f"tiny={tiny_bert}", "--work", str(folder / "work"), *more])

    again("--jobs", "2")
    return folder, again


def test_records_are_what_a_search_scores(run: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = run
    results = {result.name: result for result in read_records(folder / "results")}
    parts = [f"{name}.{seed}.part" for name in ("naive", "taco") for seed in (1, 2)]
    assert sorted(results) == ["bm25.0.part", "bm25.0.whole", *parts]
    capsys.readouterr()
    for name in ("bm25.0.whole", "taco.2.part"):
        result = results[name]
        (runs,) = (folder / "work" / result.condition / str(result.seed)).glob(f"*/{result.corpus}-*/runs")
        (part,) = (folder / "work" / "corpora").iterdir()
        collection = ["--collection", str(part)] if result.corpus == "part" else []
        evaluate([str(runs), "--topics", "nq-dev", "fever-dev", "--format", "json", *collection])
        for row in json.loads(capsys.readouterr().out)["rows"][:2]:
            means = result.topics[row["topics"]].means
            assert set(means) == {"page R-precision", "page recall@5", "passage MRR@10", "passage R@20"}
            for measure, mean in means.items():
                assert mean == pytest.approx(row[measure], abs=1e-6)
    whole, part = results["bm25.0.whole"], results["bm25.0.part"]
    assert whole.passages > part.passages and whole.collection != part.collection
    assert whole.topics["nq-dev"].fingerprint == part.topics["nq-dev"].fingerprint
    assert whole.topics["claims that hold"].part_of == "fever-dev" and whole.topics["claims that hold"].queries == 0


def test_a_record_says_what_made_it_and_no_path(run: Ran, tiny_bert: Path) -> None:
    folder, _ = run
    text = (folder / "results" / RECORDS).read_text(encoding="utf-8")
    made = find_records(folder / "results", ["taco.2.part"])[0].made
    command = made["commands"][0]
    assert command["command"].startswith("train --model tiny --collection COLLECTION --seed 2 ")
    assert command["seconds"] > 0 and command["peak_bytes"] > 50e6 and made["search"]["seconds"] > 0
    assert made["versions"]["torch"] and "commit" in made and "commit" in command and "processes" not in command
    assert made["models"] == {"tiny": fingerprint([sha256_file(tiny_bert / "model.safetensors")])}
    assert str(folder) not in text and str(tiny_bert.parent) not in text


def test_what_is_done_stays(run: Ran, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    folder, again = run
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and "lock" not in path.name}
    caplog.set_level("INFO")
    again("--jobs", "2")
    assert "small: 6 of 6 jobs are done" in caplog.text
    assert before == {path: path.stat().st_mtime_ns for path in before}
    again("--list", "--format", "json")
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["state"] for row in rows} == {"done"} and all(row["minutes"] > 0 for row in rows)
    assert [row["held-out"] is None for row in rows] == [row["condition"] == "bm25" for row in rows]


def test_the_leaderboard_checks_records_and_shows_texts(
    run: Ran, tiny_bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the real runner: stored trainings give the recorded scores, and a changed record is found."""
    folder, _ = run
    again = [str(folder), "--collection", "sample", "--models", f"tiny={tiny_bert}", "--work", str(folder / "work")]
    leaderboard([*again, "--check", "--rows", "taco.2.part"])
    leaderboard([*again[:-1], str(folder / "elsewhere"), "--check", "--rows", "bm25.0.part"])  # it needs no training
    records = folder / "results" / RECORDS
    kept = records.read_text(encoding="utf-8")
    first, *others = kept.splitlines(True)
    changed = json.loads(first)
    changed["topics"]["nq-dev"]["means"]["page recall@5"] += 0.1
    records.write_text("".join([record_line(changed), *others]), encoding="utf-8")
    with pytest.raises(InputError, match="1 scores in 1 records differ"):
        leaderboard([*again, "--check", "--rows", "bm25.0.part"])
    records.write_text(kept, encoding="utf-8")
    capsys.readouterr()
    leaderboard([*again, "--corpus", "part", "--format", "html"])
    page = capsys.readouterr().out
    assert open_collection("sample").load_topics("nq-dev").queries[0].text in page


def test_corpora_can_wait(run: Ran) -> None:
    folder, _ = run
    study = read_study(folder / "conditions.toml")
    job = Job("bm25", 0)
    for corpora, expected in (((), ["whole", "part"]), (("part",), ["part"])):
        assert Runner(study, "sample", {}, folder / "work", 1, corpora=corpora).corpora(job) == expected


def test_a_command_that_fails_names_its_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taco_ir.studies.commands.subprocess", subprocess)
    caplog.set_level("INFO")
    argv = ["--conditions", str(write_conditions(tmp_path, STUDY)), "--work", str(tmp_path / "work")]
    argv += ["--only", "naive", "--seeds", "1"]
    with pytest.raises(InputError, match=r"--models tiny=\S+: no weights in it"):
        reproduce([*argv, "--models", f"tiny={tmp_path}"])
    (tmp_path / "model.safetensors").write_bytes(b"none")
    with pytest.raises(InputError, match="jobs failed"):
        reproduce([*argv, "--models", f"tiny={tmp_path}"])
    assert "naive, seed 1: train ended with exit code 2: error: " in caplog.text and "output.txt" in caplog.text
    with pytest.raises(InputError, match="--corpora half: no such corpus; the conditions have whole, part"):
        reproduce([*argv, "--corpora", "half"])
    for given, message in (
        (f"tine={tmp_path}", "--models tine: no such model; the conditions name tiny"),
        ("tiny", "--models 'tiny' is not NAME=FOLDER"),
    ):
        with pytest.raises(InputError, match=message):
            reproduce([*argv, "--models", given])


def test_examples_are_what_the_systems_rank(run: Ran, tiny_bert: Path) -> None:
    folder, _ = run
    runner = Runner(read_study(folder / "conditions.toml"), "sample", {"tiny": str(tiny_bert)}, folder / "work", 1)
    results = read_records(folder / "results")
    found = collect_examples(runner, results, "part")
    assert found is not None and found.corpus == "part" and set(found.topics) == {"nq-dev", "fever-dev"}
    store = open_collection("sample").passages
    for name, shown in found.topics.items():
        queries = open_collection("sample").load_topics(name).queries
        assert 0 < len(shown) <= 20
        assert found.judged[name] == [row for row, query in enumerate(queries) if query.evidence[0].passages]
        for each in shown:
            assert (each.qid, each.text) == (queries[each.row].qid, queries[each.row].text)
            assert set(each.gold) == {docid for evidence in queries[each.row].evidence for docid in evidence.passages}
            assert len(each.top) == 3  # one seed of each system
            trec = read_trec(runner.runs(Job("taco", 1), "part") / f"{name}.trec")
            assert tuple(each.top["taco + prompts (tiny)"]) == tuple(trec.rankings[each.qid].docids[:3])
            for docid in (*each.gold, *each.top["BM25"]):
                assert found.passages[docid][0] == store.get([docid])[docid].title
    assert collect_examples(runner, results, "elsewhere") is None


def test_telling_queries_are_those_that_systems_differ_on() -> None:
    values = {"a": [0.0] * 30 + [1.0, 0.6], "b": [0.0] * 30 + [0.0, 0.5]}
    results = [
        Record(name, name, "", 0, "part", 9, "", {"t": TopicScores(32, "", {}, {"page R-precision": each})})
        for name, each in values.items()
    ]
    assert most_different_queries(results, "t") == [*range(18), 30, 31]
