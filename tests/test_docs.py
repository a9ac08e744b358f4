"""What the documents tell people to type is understood by the commands, and the guide's commands work one after the other."""

from __future__ import annotations

import importlib
import re
import shlex
from argparse import Namespace
from pathlib import Path

import pytest

from taco_ir.console import Parser
from taco_ir.files import InputError
from taco_ir.retrieval.vectors import Shard

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted(
    path for pattern in ("*.md", "docs/*.md", "topics/*.md", "runs/*.md", "runs/*/*.md", "benchmarks/*.md") for path in ROOT.glob(pattern)
)
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`((?:[A-Z_]+=\S+ )*(?:python|torchrun) [^`]*taco_ir\.\w+ [^`]*)`")  # a verb alone is its name, no command
VERB = re.compile(r"taco_ir\.(\w+)")
RUN = "sh run"


def blocks(text: str) -> list[tuple[str, str]]:
    """(what stands behind the fence, content) of each code block."""
    return BLOCK.findall(text)


def command_lines(text: str) -> list[str]:
    """Every command of ours in code blocks and in running text, continued lines joined, without comments."""
    lines = [line for _, block in blocks(text) for line in block.replace("\\\n", " ").splitlines()]
    return [
        line
        for line in [*lines, *INLINE.findall(BLOCK.sub("", text))]
        if re.match(r"\s*([A-Z_]+=\S+ )*(python|torchrun)\b.*-m taco_ir", line)
    ]


def command(line: str) -> tuple[str, list[str]]:
    """The verb and its arguments."""
    words = [word for word in shlex.split(line, comments=True) if word not in ("...", "&")]
    place = next(number for number, word in enumerate(words) if VERB.fullmatch(word))
    matched = VERB.fullmatch(words[place])
    assert matched and words[place - 1] == "-m", line
    return matched[1], words[place + 1 :]


def module(verb: str) -> str:
    return "taco_ir.data.__main__" if verb == "data" else f"taco_ir.{verb}"


class Parsed(Exception):
    """The arguments were understood; nothing is to be done with them."""

    def __init__(self, options: Namespace) -> None:
        self.options = options


COMMANDS = [(path.relative_to(ROOT).as_posix(), line.strip()) for path in DOCS for line in command_lines(path.read_text(encoding="utf-8"))]


def test_there_are_commands_to_check() -> None:
    verbs = {command(line)[0] for _, line in COMMANDS}
    assert verbs >= {"search", "evaluate", "encode", "index", "train", "mine", "export", "data", "submission"} and len(COMMANDS) > 40


@pytest.mark.parametrize(("document", "line"), COMMANDS, ids=[f"{document}: {line[:60]}" for document, line in COMMANDS])
def test_a_command_is_understood(document: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    verb, argv = command(line)
    parse = Parser.parse_args

    def parse_only(parser: Parser, *args: object) -> Namespace:
        options: Namespace = parse(parser, *args)  # type: ignore[arg-type]
        if parser.prog == "python -m taco_ir.data":  # picks the command, which has a parser of its own
            return options
        raise Parsed(options)

    monkeypatch.setattr(Parser, "parse_args", parse_only)
    try:
        importlib.import_module(module(verb)).main(argv)
    except Parsed as parsed:
        if verb == "encode":
            Shard.parse(parsed.options.shard)
        if verb == "train":
            check_training(parsed.options)
        if verb == "pretrain":
            check_pretraining(parsed.options)
        if verb == "reproduce":
            check_study(parsed.options)
    except InputError as error:
        pytest.fail(f"{document}: {line}: {error}")
    except SystemExit as end:  # --help
        assert end.code == 0


def check_training(options: Namespace) -> None:
    """Keys have the right types and ranges, and the configuration exists."""
    from taco_ir.training.config import given_flags, read_train_config

    config = read_train_config(options.config, given_flags(options), options.preset)
    assert config.model and config.output


def check_pretraining(options: Namespace) -> None:
    from taco_ir.training.config import given_flags
    from taco_ir.training.pretrain_keys import PRETRAIN_KEYS, read_pretrain_config

    assert read_pretrain_config(options.config, given_flags(options, PRETRAIN_KEYS)).output


def check_study(options: Namespace) -> None:
    """Every model that a study of ours needs is named."""
    from taco_ir.study.conditions import folders, read_study

    if (ROOT / options.conditions).is_file() and not options.list:
        assert set(read_study(ROOT / options.conditions).models) == folders(options.models).keys()


BOARDS = [line for _, line in COMMANDS if command(line)[0] == "leaderboard" and not re.search("--check|--collection|--output", line)]


@pytest.mark.parametrize("line", dict.fromkeys(BOARDS))
def test_a_leaderboard_prints(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    verb, argv = command(line)
    importlib.import_module(module(verb)).main(argv)
    assert len(capsys.readouterr().out.splitlines()) > 5


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_and_targets_of_make_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    prose = BLOCK.sub("", text)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    named = re.findall(r"`make ([a-z-]+)", prose) + [
        name for _, block in blocks(text) for name in re.findall(r"^make ([a-z-]+)", block, re.MULTILINE)
    ]
    assert set(named) <= set(targets)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), f"{path.name} links to {link}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, f"{path.name} links to {link}"


def test_the_guide_works_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Its marked commands as they stand, in order, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    marked = [block for fence, block in blocks((ROOT / "docs" / "guide.md").read_text(encoding="utf-8")) if fence == RUN]
    lines = [line for block in marked for line in block.splitlines()]
    assert len(lines) >= 10
    for line in lines:
        verb, argv = command(line)
        importlib.import_module(module(verb)).main(argv)
    printed = capsys.readouterr().out
    for made in (
        "my-wiki/part.json",
        "negatives.audit.html",
        "without-answers.jsonl",
        "my-run/model",
        "my-base/model",
        "runs/taco/nq-dev.trec",
        "submission.zip",
    ):
        assert Path(made).exists(), made
    assert "my-wiki: 123 passages, 103 gold and 20 distractors" in printed
    assert "against bm25: paired randomisation test" in printed


@pytest.mark.parametrize("path", [*DOCS, *(ROOT / "taco_ir").rglob("*.py")], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_is_to_be_installed_from_an_index_that_lacks_it(path: Path) -> None:
    """The package is on no index: it is installed from its clone."""
    assert not re.search(r"pip install\s+(-\S+\s+)*['\"]?taco[_-]ir", path.read_text(encoding="utf-8"))
