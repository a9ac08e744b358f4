"""`python -m taco_ir.train`: what it prints and where, its help, and one line for each mistake."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from verbs import call

from taco_ir.core.files import InputError, read_json
from taco_ir.search import main as search
from taco_ir.train import main, parser

QUICK = "--pooling mean --negatives none --steps 2 --tasks nq --batch-size 4 --passage-length 40".split()
POOL = ("--pool-hard", "0", "--pool-random", "5", "--pool-queries", "2")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_help_is_light_and_shows_an_example(folder: Path) -> None:
    code = (
        "import sys\nfrom taco_ir.train import parser\n"
        "print(parser().format_help())\n"
        "heavy = ('torch', 'faiss', 'transformers', 'jnius', 'scipy', 'pytrec_eval')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True).stdout
    assert told.startswith("usage: python -m taco_ir.train") and told.endswith("[]\n")
    example = told.partition("example:\n")[2]
    assert (
        "python -m taco_ir.train --collection my-wiki --tasks nq,fever" in example
        and "--config taco-minikilt" in example
    )


def test_the_examples_of_the_help_are_command_lines() -> None:
    lines = [line.split() for line in (parser().epilog or "").splitlines() if "python -m" in line]
    assert len(lines) == 3
    for _, _, verb, *argv in lines:
        assert verb == "taco_ir.train" and parser().parse_args(argv).output in ("my-run", "my-reader")


def test_a_training_prints_its_model_and_the_next_command(
    tiny_bert: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command that it prints runs."""
    argv = ["--model", str(tiny_bert), "--output", "my run", *QUICK, *POOL]
    main(argv)
    told = capsys.readouterr()
    model, following = told.out.splitlines()
    assert model == "my run/model" and Path(model).is_dir()
    assert following == "next: python -m taco_ir.search --model 'my run/model' --collection sample --topics nq-dev"
    for part in (
        "episode 1 of 1: none negatives, naive, from",
        "2 steps of 4 queries",
        "NQ <extra_id_1>",
        "step 2: page R-precision",
        "2 of 2 steps",
    ):
        assert part in told.err
    assert read_json(folder / "my run" / "config.json")["tasks"] == ["nq"]
    search([*shlex.split(following)[4:], "--output", "nq.trec"])
    assert Path("nq.trec").is_file() and capsys.readouterr()
    main(argv)
    assert capsys.readouterr() == (told.out, "trained model: my run/model\n")


def test_a_file_and_flags_over_it(tiny_bert: Path, folder: Path) -> None:
    Path("run.toml").write_text(
        f'model = "{tiny_bert}"\npooling = "mean"\nnegatives = "none"\ntasks = ["nq"]\n'
        "passage_length = 40\nsteps = 9\npool_hard = 0\n"
        "pool_random = 5\n[[episode]]\nsteps = 1\n[[episode]]\nweighting = 'uw'\n"
    )
    main(["--config", "run.toml", "--output", "run", "--steps", "2", "--batch-size", "4"])
    lines = [(folder / "run" / f"episode-{number}" / "log.jsonl").read_text().splitlines() for number in (1, 2)]
    assert [sum('"loss"' in line for line in part) for part in lines] == [2, 2]
    assert '"weight_sum"' in lines[1][1] and '"weight_sum"' not in lines[0][1]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], r"--model is needed: .*"),
        (["--model", "m"], r"--output is needed: .*"),
        (["--model", "m", "--output", "o", "--weighting", "tacco"], r"--weighting is 'tacco'; .*did you mean taco\?\)"),
        (
            ["--model", "m", "--output", "o", "--steps", "-1"],
            r"--steps is -1; it must be a whole number, at least 1, or auto",
        ),
        (
            ["--model", "m", "--output", "o", "--preset", "dbr"],
            r"--preset dbr: unknown; did you mean dpr\?|.*valid: dpr",
        ),
        (
            ["--model", "m", "--output", "o", "--config", "no.toml"],
            r"--config no.toml: no such file; shipped configurations: .*",
        ),
        (
            ["--model", "m", "--output", "o", "--weighting-options", "tau"],
            r".*'tau' is not NAME=VALUE.*\(see python -m taco_ir.train --help\)",
        ),
        (["--model", "./m", "--output", "o"], r"--model './m': no such folder"),
        (["--model", "./m", "--output", "o", "--collection", "./c"], r"--collection './c': no such folder. .*"),
    ],
)
def test_a_mistake_is_one_line(argv: Sequence[str], said: str) -> None:
    with pytest.raises(InputError, match=rf"^(?:{said})$"):
        main(argv)


def test_a_mistake_ends_with_code_2(tiny_bert: Path, folder: Path) -> None:
    argv = ["--model", str(tiny_bert), "--output", "run", "--pooling", "mean", "--negatives", "none"]
    done = call("train", *argv, "--tasks", "nqq", cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr.startswith("error: unknown task 'nqq'; did you mean nq? valid: aidayago2,")
        and done.stderr.count("\n") == 1
    )
    assert not (folder / "run" / "config.json").exists()


def test_overwrite_trains_anew(tiny_bert: Path, folder: Path) -> None:
    argv = ["--model", str(tiny_bert), "--output", "run", *QUICK, *POOL]
    main(argv)
    main([*argv, "--seed", "1", "--overwrite"])
    assert read_json(folder / "run" / "config.json")["seed"] == 1 and Path("run/model").is_dir()
