"""The verb: every form holds the same numbers, mistakes are one line, --check finds what moved, and printing is light."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
from study_results import fake_results
from verbs import call

from taco_ir import leaderboard
from taco_ir.evaluation.published import TITLE
from taco_ir.evaluation.results import Result, read_results, write_result
from taco_ir.files import InputError

CONDITIONS = """
name = "made-up"
topics = ["nq-dev"]
tolerance = 0.002
[[condition]]
name = "bm25"
system = "BM25"
seeds = [0]
search = "--retriever bm25"
whole = [0]
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studies") / "made-up"
    for result in (*fake_results(3, 2, 40, seeds=2), *fake_results(2, 2, 40, corpus="part")):
        write_result(folder / "results", dataclasses.replace(result, passages=900 if result.corpus == "part" else result.passages))
    (folder / "conditions.toml").write_text(CONDITIONS, encoding="utf-8")
    return folder


@pytest.mark.parametrize("form", ["table", "markdown", "latex", "json", "html"])
def test_every_form_shows_every_system_and_quotes_papers_apart(form: str, study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leaderboard.main([str(study), "--baseline", "naive", "--format", form])
    shown = capsys.readouterr().out
    assert shown.endswith("\n") or form == "html"
    for text in ("BM25", "naive", "TACO", "whole", "part", "macro average", "page R-precision"):
        assert text in shown
    escaped = TITLE.replace("%", r"\%") if form == "latex" else TITLE
    assert shown.index(escaped) > shown.rindex("macro average") or form == "html"
    taco = [result for result in read_results(study / "results") if (result.system, result.corpus) == ("TACO", "whole")]
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


def test_the_output_is_a_file_that_is_not_replaced_by_accident(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "pages" / "board.html"
    leaderboard.main([str(study), "--format", "html", "--output", str(page)])
    assert capsys.readouterr().out == "" and page.read_text(encoding="utf-8").lower().startswith("<!doctype html>")
    with pytest.raises(InputError, match="exists; give another name, or --overwrite"):
        leaderboard.main([str(study), "--output", str(page)])
    leaderboard.main([str(study), "--output", str(page), "--overwrite"])
    assert page.read_text(encoding="utf-8").startswith("whole, ")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--baseline", "nave"], "baseline 'nave' is no system of the results; allowed: BM25, naive (minilm-l6)"),
        (["--corpus", "all"], "--corpus 'all' is not in the results; allowed: part, whole"),
        (["--measures", "R@20"], "measure 'passage R@20' is not in the results"),
        (["--rows", "BM25"], "--rows belongs to --check"),
        (["--check"], "--check needs --collection"),
        (["--check", "--collection", "sample", "--rows", "BM52"], "--rows 'BM52': no such row"),
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
    assert done.stderr.startswith("error: ") and "no such folder" in done.stderr and done.stderr.count("\n") == 1


def fake_driver(monkeypatch: pytest.MonkeyPatch, move: float) -> None:
    """One that finds every score of TACO moved, and all others where they were."""

    def rescore(runner: object, recorded: Result) -> Result:
        if recorded.system != "TACO":
            return recorded
        topics = {
            name: dataclasses.replace(scores, means={measure: mean + move for measure, mean in scores.means.items()})
            for name, scores in recorded.topics.items()
        }
        return dataclasses.replace(recorded, topics=topics)

    monkeypatch.setattr(leaderboard, "rescore", rescore)


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
    with pytest.raises(InputError, match=r"^9 deviations in 2 records; allowed is a difference of 0\.002$"):
        leaderboard.main([str(study), "--check", "--rows", "taco-minilm-l6.0.whole,BM25", "--corpus", "whole", "--collection", "sample"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9 and all(f"moved by {move:+.6f}; allowed 0.002" in line for line in lines)
    leaderboard.main([str(study), "--check", "--rows", "BM25", "--collection", "sample"])


def test_check_draws_records_by_seed(study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[str] = []

    def rescore(runner: object, recorded: Result) -> Result:
        seen.append(recorded.name)
        return recorded

    monkeypatch.setattr(leaderboard, "rescore", rescore)
    for _ in range(2):
        leaderboard.main([str(study), "--check", "--random", "3", "--seed", "5", "--collection", "sample"])
    assert len(seen) == 6 and seen[:3] == seen[3:] and len(set(seen)) == 3


@pytest.mark.parametrize("form", ["table", "html"])
def test_printing_needs_no_model_and_no_java(form: str, study: Path) -> None:
    code = (
        "import sys; from taco_ir.leaderboard import main\n"
        f"main([{str(study)!r}, '--baseline', 'naive', '--format', {form!r}])\n"
        "sys.exit(str(sorted({'torch', 'faiss', 'pyserini', 'jnius', 'transformers', 'ir_datasets', 'pandas', 'scipy'} & set(sys.modules)))\n"
        "         .replace('[]', '') or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
