"""The verb: every form shows the same numbers, mistakes are one line, --check finds what moved, printing is light."""

import dataclasses
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from study_results import fake_results
from verbs import call, module_of

from taco_ir.core.files import InputError
from taco_ir.studies.conditions import Job, read_study
from taco_ir.studies.jobs import Runner
from taco_ir.studies.records import Record, read_records, write_record
from taco_ir.studies.tables import TITLE

leaderboard = module_of("leaderboard")

CONDITIONS = """
name = "made-up"
topics = ["nq-dev"]
tolerance = 0.002
"""


def conditions(results: Iterable[Record]) -> str:
    """The study that they are records of; nothing in it is trained."""
    lines = [CONDITIONS]
    for name, system in dict.fromkeys((result.condition, result.system) for result in results):
        lines += [
            "[[condition]]",
            f'name = "{name}"',
            f'system = "{system}"',
            "seeds = [0, 1, 2]",
            'search = "--retriever bm25"',
            "whole = [0]",
        ]
    return "\n".join(lines)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studies") / "made-up"
    found = [*fake_results(3, 2, 40, seeds=2), *fake_results(2, 2, 40, corpus="part")]
    for result in found:
        write_record(
            folder / "results",
            dataclasses.replace(result, passages=900 if result.corpus == "part" else result.passages),
        )
    (folder / "conditions.toml").write_text(conditions(found), encoding="utf-8")
    return folder


@pytest.mark.parametrize("form", ["table", "markdown", "latex", "json", "html"])
def test_every_form_shows_every_system_and_quotes_papers_apart(
    form: str, study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leaderboard.main([str(study), "--baseline", "naive", "--format", form])
    shown = capsys.readouterr().out
    assert shown.endswith("\n") or form == "html"
    for text in ("BM25", "naive", "TACO", "whole", "part", "macro average", "page R-precision"):
        assert text in shown
    escaped = TITLE.replace("%", r"\%") if form == "latex" else TITLE
    assert shown.index(escaped) > shown.rindex("macro average") or form == "html"
    taco = [result for result in read_records(study / "results") if (result.system, result.corpus) == ("TACO", "whole")]
    mean = sum(result.topics["nq-dev"].means["page R-precision"] for result in taco) / len(taco)
    digits = {"json": repr(mean), "html": f"{mean:.5f}".rstrip("0")}.get(form, f"{mean:.3f}")
    assert digits in shown


def test_tables_hold_the_first_measure_or_those_asked_for(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leaderboard.main([str(study)])
    shown = capsys.readouterr().out
    assert "whole, 120,000 passages: page R-precision" in shown and "recall@5" not in shown
    leaderboard.main([str(study), "--measures", "MRR@10", "recall@5", "--corpus", "part"])
    shown = capsys.readouterr().out
    assert [line.split(",")[1] for line in shown.splitlines() if line.startswith("part,")] == [
        " 900 passages: passage MRR@10",
        " 900 passages: page recall@5",
    ]
    assert "whole" not in shown


def test_brief_is_the_same_numbers_without_the_rest(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One table a board: no slices, tests or quoted rows; spreads at the average alone, marks everywhere."""
    leaderboard.main([str(study), "--baseline", "naive", "--format", "markdown"])
    full = capsys.readouterr().out
    leaderboard.main([str(study), "--baseline", "naive", "--format", "markdown", "--brief"])
    brief = capsys.readouterr().out
    assert [line for line in brief.splitlines() if line and not line.startswith("|")] == [
        line for line in full.splitlines() if ", ± standard deviation" in line
    ]
    headers = [cells(line) for line in brief.splitlines() if line.startswith("| system")]
    assert headers == [["system", "base", "seeds", "nq", "fever", "macro average"]] * 2
    for line in brief.splitlines():
        if line.startswith(("| BM25", "| TACO", "| naive")):
            *tasks, average = cells(line)[3:]
            assert all(re.fullmatch(r"(\*\*)?0\.\d{3}(\*\*)?( [+-])?", cell) for cell in tasks)
            whole = next(
                cells(other)
                for other in full.splitlines()
                if cells(other)[:3] == cells(line)[:3] and average in cells(other)
            )
            assert [re.sub(r" ±\.\d+|\s", "", cell) for cell in whole[3:5]] == [
                re.sub(r"\s", "", cell) for cell in tasks
            ]
            assert ("±" in average) == (cells(line)[2] == "2")
    assert "+" in brief.partition("| system")[2] and "±" in brief.partition("| system")[2]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_rows_that_are_not_shown_still_count_in_the_corrections(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for form, name in (
        ("markdown", "| TACO | minilm-l6 |"),
        ("svg", "TACO (minilm-l6)"),
        ("json", '"TACO (minilm-l6)"'),
    ):
        leaderboard.main([str(study), "--baseline", "naive", "--format", form])
        whole = capsys.readouterr().out.replace("**", "")
        leaderboard.main([str(study), "--baseline", "naive", "--format", form, "--without", "T?CO"])
        left = capsys.readouterr().out.replace("**", "")
        assert name in whole and name not in left
        assert form != "markdown" or set(left.splitlines()) < set(whole.splitlines())
    with pytest.raises(InputError, match=r"no system matches 'TAKO\*'; systems: .*BM25"):
        leaderboard.main([str(study), "--without", "TAKO*"])


def test_the_output_is_a_file_that_is_not_replaced_by_accident(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "pages" / "board.html"
    leaderboard.main([str(study), "--format", "html", "--output", str(page)])
    assert capsys.readouterr().out == "" and page.read_text(encoding="utf-8").lower().startswith("<!doctype html>")
    with pytest.raises(InputError, match="exists; give another name or --overwrite"):
        leaderboard.main([str(study), "--output", str(page)])
    leaderboard.main([str(study), "--output", str(page), "--overwrite"])
    assert page.read_text(encoding="utf-8").startswith("whole, ")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--baseline", "nave"], "baseline 'nave' is not a system of the results; allowed: BM25, naive (minilm-l6)"),
        (["--corpus", "all"], "--corpus 'all' is not in the results; allowed: part, whole"),
        (["--measures", "R@20"], "measure 'passage R@20' is not in the results"),
        (["--rows", "BM25"], "--rows has an effect only with --check"),
        (["--check"], "--check needs --collection"),
        (["--check", "--collection", "sample", "--rows", "BM52"], "--rows 'BM52': no such row"),
        (
            ["--format", "html", "--collection", "sample"],
            "--collection sample: the page shows passages from runs on whole, but",
        ),
        (["--format", "pdf"], "invalid choice: 'pdf'"),
    ],
)
def test_mistakes_are_one_line(flags: list[str], message: str, study: Path) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        leaderboard.main([str(study), *flags])
    assert "\n" not in str(caught.value)


def test_a_folder_without_results_is_a_mistake(tmp_path: Path) -> None:
    done = call("leaderboard", tmp_path, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr.startswith("error: ")
        and "records.jsonl: no such file" in done.stderr
        and done.stderr.count("\n") == 1
    )


def fake_driver(monkeypatch: pytest.MonkeyPatch, move: float) -> None:
    """One that finds every score of TACO moved, and all others where they were."""

    def rescore(runner: object, recorded: Record) -> Record:
        if recorded.system != "TACO":
            return recorded
        topics = {
            name: dataclasses.replace(scores, means={measure: mean + move for measure, mean in scores.means.items()})
            for name, scores in recorded.topics.items()
        }
        return dataclasses.replace(recorded, topics=topics)

    monkeypatch.setattr("taco_ir.studies.rescoring.rescore", rescore)


@pytest.mark.parametrize("move", [0.0, 0.0019, -0.0019])
def test_check_lets_pass_what_stays_within_the_tolerance(
    move: float, study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_driver(monkeypatch, move)
    leaderboard.main([str(study), "--check", "--collection", "sample"])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("move", [0.0021, -0.0021])
def test_check_fails_when_a_score_moved_up_or_down(
    move: float, study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_driver(monkeypatch, move)
    with pytest.raises(InputError, match=r"^9 scores in 2 records differ by more than 0\.002$"):
        leaderboard.main(
            f"{study} --check --rows taco-minilm-l6.0.whole,BM25 --corpus whole --collection sample".split()
        )
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9 and all(f"moved by {move:+.6f}; allowed 0.002" in line for line in lines)
    leaderboard.main([str(study), "--check", "--rows", "BM25", "--collection", "sample"])


def test_runs_of_a_check_are_kept_only_where_they_differ(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_driver(monkeypatch, 0.1)
    runner = Runner(read_study(study / "conditions.toml"), "sample", {}, tmp_path, 1)
    conditions = {"BM25": "bm25", "TACO": "taco-minilm-l6"}
    runs = {name: runner.folder(Job(condition, 0)) / "check-whole" for name, condition in conditions.items()}
    for folder in runs.values():
        folder.mkdir(parents=True)
    with pytest.raises(InputError, match="differ by more than"):
        leaderboard.main(
            [str(study), "--check", "--corpus", "whole", "--collection", "sample", "--work", str(tmp_path)]
        )
    assert not runs["BM25"].exists() and runs["TACO"].is_dir()


def test_check_draws_records_by_seed(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[str] = []

    def rescore(runner: object, recorded: Record) -> Record:
        seen.append(recorded.name)
        return recorded

    monkeypatch.setattr("taco_ir.studies.rescoring.rescore", rescore)
    for _ in range(2):
        leaderboard.main([str(study), "--check", "--random", "3", "--seed", "5", "--collection", "sample"])
    assert len(seen) == 6 and seen[:3] == seen[3:] and len(set(seen)) == 3


def test_check_is_of_what_was_trained_here(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(
        "taco_ir.studies.rescoring.rescore", lambda runner, recorded: seen.append(recorded.name) or recorded
    )
    trained = tmp_path / "trained"
    shutil.copytree(study, trained)
    text = (study / "conditions.toml").read_text(encoding="utf-8")
    (trained / "conditions.toml").write_text(
        text.replace("seeds =", 'commands = ["train --output {out}"]\nseeds ='), encoding="utf-8"
    )
    argv = [str(trained), "--check", "--corpus", "whole", "--collection", "sample", "--work", str(tmp_path / "work")]
    count = len(read_records(study / "results")) - 2  # on the part
    with pytest.raises(InputError, match=rf"^{count} of {count} records cannot be searched again"):
        leaderboard.main(argv)
    step = Runner(read_study(trained / "conditions.toml"), "sample", {}, tmp_path / "work", 1).step(Job("bm25", 0), 0)
    step.parent.mkdir(parents=True)
    step.write_text("{}", encoding="utf-8")
    leaderboard.main([*argv, "--random", "1"])
    assert f"{count - 1} of {count} records cannot be searched again" in caplog.text and seen == ["bm25.0.whole"]
    leaderboard.main([*argv, "--rows", "BM25"])
    with pytest.raises(InputError, match="cannot be searched again: their trainings are not in"):
        leaderboard.main([*argv, "--rows", "TACO"])
    with pytest.raises(InputError, match=r"^--random is 2, but there are only 1 records$"):
        leaderboard.main([*argv, "--random", "2"])


@pytest.mark.parametrize("form", ["table", "html"])
def test_printing_needs_no_model_and_no_java(form: str, study: Path) -> None:
    code = (
        "import sys; from taco_ir.leaderboard import main\n"
        f"main([{str(study)!r}, '--baseline', 'naive', '--format', {form!r}])\n"
        "heavy = {'torch', 'faiss', 'pyserini', 'jnius', 'transformers', 'ir_datasets', 'pandas', 'scipy'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
