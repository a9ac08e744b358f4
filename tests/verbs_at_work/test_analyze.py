"""`python -m taco_ir.analyze`: trained runs and model folders, what it writes, and one line for each mistake."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from taco_ir.analysis.specialisation import find_subject
from taco_ir.analyze import main, parser
from taco_ir.core.files import InputError, read_json, write_json
from taco_ir.train import main as train

SHORT = "--pooling mean --negatives none --steps 2 --tasks nq,fever --batch-size 6 --passage-length 40".split()
POOL = ("--pool-hard", "0", "--pool-random", "5", "--pool-queries", "2")


@pytest.fixture(scope="module")
def runs(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`taco`, one episode, and `naive`, two of them."""
    folder = tmp_path_factory.mktemp("runs")
    flags = ["--model", str(tiny_bert), *SHORT, *POOL]
    train([*flags, "--weighting", "taco", "--log-cosines", "1", "--log-dose", "1", "--output", str(folder / "taco")])
    (folder / "two.toml").write_text("[[episode]]\n[[episode]]\nlearning_rate = 1e-3\n")
    train([*flags, "--config", str(folder / "two.toml"), "--output", str(folder / "naive")])
    return folder


def test_two_runs_are_compared_on_the_same_batches(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [str(runs / "taco"), str(runs / "naive"), "--batches", "2", "--output", str(tmp_path / "out")]
    main(argv)
    told = capsys.readouterr()
    figures = read_json(tmp_path / "out" / "specialisation.json")
    first, second = figures["models"]
    assert (first["weighting"], second["weighting"]) == ("taco", "naive") and figures["tasks"] == ["nq", "fever"]
    assert first["all"]["parameters"] == second["all"]["parameters"] > 60_000
    for model in (first, second):
        for group in (model["all"], *model["layers"], *model["kinds"], *model["parameters"]):
            assert sum(group["counts"]) == group["parameters"] and sum(group["shares"]) == pytest.approx(1)
        assert sum(group["parameters"] for group in model["layers"]) == model["all"]["parameters"]
    assert [row["step"] for row in first["logged_cosines"][""]] == [1, 2] and second["logged_cosines"] == {}
    assert [row["step"] for row in first["logged_dose"][""]] == [1, 2] and second["logged_dose"] == {}
    assert first["logged_dose"][""][0]["cosine"] == 1 > first["logged_dose"][""][1]["cosine"] > 0
    assert "dose: how far the weighting's updates were from the mean of the tasks' gradients" in told.out
    assert "analyse: 16 of 16 batches" in told.err and str(runs / "taco") not in told.out and "\ntaco " in told.out
    page = (tmp_path / "out" / "specialisation.html").read_text(encoding="utf-8")
    assert "Cosines over training" in page and "Dose over training" in page
    assert page.count("<polyline") == 2 * 2 + 2 + 4
    assert (
        "no TACO and naive training here differ only in the weighting (" in figures["verdict"]
        and figures["comparisons"] == []
    )
    assert all(0 <= model["task_specific_by_chance"] <= 1 for model in figures["models"])
    with pytest.raises(
        InputError, match=r"--output .*out/specialisation.json exists; give another name or --overwrite"
    ):
        main(argv)
    main([*argv, "--overwrite"])
    assert read_json(tmp_path / "out" / "specialisation.json") == figures  # the same batches, bit for bit


def test_runs_are_paired_where_they_differ_in_the_weighting_alone(
    tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By seed and configuration, whichever way the same model was named; a run of other steps is no partner."""
    monkeypatch.chdir(tiny_bert.parent)
    made = {"taco-1": (1, 2), "naive-1": (1, 2), "taco-2": (2, 2), "naive-2": (2, 2), "naive-3": (1, 3)}
    for name, (seed, steps) in made.items():
        model = tiny_bert.name if "taco" in name else str(tiny_bert)
        flags = [*SHORT, *POOL, *f"--model {model} --seed {seed} --steps {steps}".split()]
        train([*flags, "--weighting", name.partition("-")[0], "--output", str(tmp_path / name)])
    argv = [str(tmp_path / name) for name in ("naive-3", "taco-1", "naive-2", "taco-2", "naive-1")]
    main([*argv, "--batches", "2", "--output", str(tmp_path / "out")])
    figures = read_json(tmp_path / "out" / "specialisation.json")
    (found,) = figures["comparisons"]
    pairs = [(pair["taco"], pair["naive"]) for pair in found["pairs"]]
    assert pairs == [("taco-1", "naive-1"), ("taco-2", "naive-2")]  # names, not paths
    assert "(2 pairs of runs, " in figures["verdict"] and "by chance" in capsys.readouterr().out
    main([*argv[:2], "--batches", "2", "--output", str(tmp_path / "out"), "--overwrite"])
    assert "(steps 2 and 3), so nothing is concluded" in read_json(tmp_path / "out" / "specialisation.json")["verdict"]


def test_a_model_alone_goes_to_its_run(runs: Path) -> None:
    """The run's folder and its model's are one subject; an episode's model is one of its own."""
    main([str(runs / "taco" / "model"), "--batches", "1", "--tasks", "nq"])
    figures = read_json(runs / "taco" / "analysis" / "specialisation.json")
    assert figures["models"][0]["weighting"] == "taco" and figures["tasks"] == ["nq"]
    assert figures["models"][0]["all"]["mean_entropy"] == pytest.approx(0)  # one task
    run, last, early = (
        find_subject(str(runs / "naive" / name)) for name in (".", "episode-2/model", "episode-1/model")
    )
    assert run._replace(name="") == last._replace(name="") and run.config and run.config.optimiser.learning_rate == 1e-3
    assert [episode.name for episode in early.episodes] == ["episode-1"] and early.model != last.model


def test_a_model_outside_a_run(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "taco" / "model", tmp_path / "copy")
    with pytest.raises(InputError, match=r"--output is needed: .*copy is not in the folder of a training"):
        main([str(tmp_path / "copy")])
    argv = [str(tmp_path / "copy"), "--negatives", "none", "--tasks", "nq,fever", "--batches", "1", "--batch-size", "4"]
    main([*argv, "--output", str(tmp_path / "out")])
    figures = read_json(tmp_path / "out" / "specialisation.json")
    assert (
        figures["models"][0]["weighting"] is None
        and "TACO and of a naive training run are needed" in figures["verdict"]
    )


def other_architecture(tiny_bert: Path, folder: Path) -> Path:
    """A model that describes itself and has one layer less."""
    from transformers import BertConfig, BertModel

    shutil.copytree(tiny_bert, folder)
    BertModel(BertConfig.from_pretrained(folder, num_hidden_layers=1)).save_pretrained(folder)
    write_json(folder / "taco_ir.json", {"pooling": "mean", "query_length": 20, "passage_length": 40})
    return folder


def test_models_of_different_architectures(runs: Path, tiny_bert: Path, tmp_path: Path) -> None:
    other = other_architecture(tiny_bert, tmp_path / "other")
    with pytest.raises(InputError, match=r"other: its parameters differ in names or shapes from those of .*taco"):
        main([str(runs / "taco"), str(other), "--batches", "1", "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (
            ["taco", "--tasks", "wow"],
            r".*taco: it has prompts for fever, nq, but not for task 'wow'; choose tasks with --tasks",
        ),
        (["taco", "--tasks", "nqq"], r"unknown task 'nqq'; did you mean nq\?.*"),
        (["taco", "--batch-size", "0"], r"--batch-size is 0; it must be a whole number, at least 1"),
        (["taco", "--batches", "0"], r".*--batches: '0' is not a whole number of at least 1.*"),
        (["taco", "--tau", "-2"], r".*--tau: '-2' is not a number above 0.*"),
        (["taco", "--device", "gpu"], r"--device 'gpu': torch cannot use this device here.*"),
        (["taco", "--collection", "./none"], r"--collection './none': no such folder.*"),
        (["./none"], r"--model './none': no such folder"),
        (
            ["unfinished"],
            r".*unfinished: this training has no model yet \(.*\); finish the training, or give a model folder",
        ),
        (["plain"], r".*plain: without taco_ir.json or modules.json.*"),
    ],
)
def test_a_mistake_is_one_line(
    argv: Sequence[str], said: str, runs: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs)
    if argv[0] == "unfinished" and not Path("unfinished").exists():
        Path("unfinished").mkdir()
        shutil.copy(runs / "taco" / "config.json", "unfinished")
    if argv[0] == "plain":
        shutil.copytree(tiny_bert, "plain")
    with pytest.raises(InputError, match=rf"^(?:{said})$"):
        main([*argv, "--output", "nowhere"])
    assert not Path("nowhere").exists()


def test_the_examples_of_the_help_are_command_lines() -> None:
    lines = [line.split() for line in (parser().epilog or "").splitlines() if "python -m" in line]
    assert len(lines) == 2
    for _, _, verb, *argv in lines:
        assert verb == "taco_ir.analyze" and parser().parse_args(argv).models
