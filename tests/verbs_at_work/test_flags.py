"""Flags of all verbs: a mistyped one names the nearest, and one name is one thing."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from taco_ir.__main__ import import_verb, verbs
from taco_ir.cli import Parser
from taco_ir.core.files import InputError
from taco_ir.core.suggestions import ELSEWHERE, nearest, suggest
from taco_ir.training.settings import DEFAULTS, TrainSettings


def parsers() -> Iterator[Parser]:
    for name in verbs():
        module = import_verb(name)
        commands = getattr(module, "COMMANDS", None)
        yield from [each.parser() for each in commands.values()] if commands else [module.parser()]


PARSERS = {parser.prog.removeprefix("python -m taco_ir."): parser for parser in parsers()}


def flags_of(parser: Parser) -> list[str]:
    return [flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")]


def mistyped(flag: str) -> set[str]:
    """A flag with one letter less, more or elsewhere, with underscores, in capitals, or with one dash."""
    word = flag.removeprefix("--")
    places = range(1, len(word) - 1)
    found = {f"--{word[:place]}{word[place + 1 :]}" for place in places}
    found |= {f"--{word[:place]}{word[place]}{word[place:]}" for place in places}
    found |= {f"--{word[:place]}{word[place + 1]}{word[place]}{word[place + 2 :]}" for place in places}
    return found | {f"--{word.replace('-', '_')}", f"--{word.upper()}", f"-{word}"} - {"-h"}


@pytest.mark.parametrize("verb", PARSERS)
def test_every_mistyped_flag_names_the_flag(verb: str) -> None:
    parser = PARSERS[verb]
    flags = flags_of(parser)
    for flag in flags:
        for word in mistyped(flag) - {*flags}:
            with pytest.raises(InputError) as told:
                parser.parse_args([word, "1"])
            named = str(told.value).partition("did you mean ")[2].partition("?")[0]
            alike = {flag, flag[:-1], f"{flag}s"}  # --share and --shares
            assert named in alike or word in mistyped(named), f"{flag}: {told.value}"


@pytest.mark.parametrize(
    ("verb", "theirs", "ours"),
    [
        *(("train", "--lr", "--learning-rate"), ("train", "--num_train_epochs", "--epochs")),
        *(("train", "--per_device_train_batch_size", "--batch-size"), ("train", "--output_dir", "--output")),
        *(("train", "--model_name_or_path", "--model"), ("train", "--passage_max_len=160", "--passage-length")),
        *(("pretrain", "--max-seq-length", "--length"), ("train", "--bf16", "--precision")),
        *(("adapt", "--lr", "--learning-rate"), ("search", "--topk", "--hits"), ("search", "--encoder", "--model")),
        *(("search", "--queries", "--topics"), ("mine", "--depth", "--mine-depth")),
        ("evaluate", "--metrics", "--measures"),
    ],
)
def test_words_of_other_toolkits_are_known(verb: str, theirs: str, ours: str) -> None:
    with pytest.raises(InputError, match=f"^unknown flag {theirs.partition('=')[0]}; did you mean {ours}[?] "):
        PARSERS[verb].parse_args([theirs, "1"])


def test_every_word_of_other_toolkits_leads_somewhere() -> None:
    """To a flag, a value or a verb that there is, and none of them is a flag itself where it leads elsewhere."""
    flags = {flag.removeprefix("--") for parser in PARSERS.values() for flag in flags_of(parser)}
    there = flags | verbs().keys() | {"first", "mean", "folder"}
    assert {word for ours in ELSEWHERE.values() for word in ours} <= there


@pytest.mark.parametrize(
    ("word", "known", "meant"),
    [
        ("cls", ("mean", "first", "last"), "first"),
        ("AVG", ("mean", "first"), "mean"),
        ("learning_rat", ("learning_rate", "warmup"), "learning_rate"),
        ("lr", ("learning_rate", "warmup"), "learning_rate"),
        ("temp", ("temperature", "tune"), "temperature"),
        ("x", ("temperature", "tune"), None),
        ("depth", ("hits", "index"), "hits"),
        ("depth", ("hits", "mine-depth"), "mine-depth"),
    ],
)
def test_the_word_that_is_meant(word: str, known: tuple[str, ...], meant: str | None) -> None:
    assert nearest(word, known) == meant
    assert suggest(word, known) == (f"did you mean {meant}?" if meant else f"valid: {', '.join(known)}")


def test_keys_and_values_are_told_so_too() -> None:
    with pytest.raises(InputError, match=r"^unknown key 'lr'; did you mean learning_rate\?$"):
        TrainSettings(lr=1e-5)
    with pytest.raises(InputError, match=r"^pooling is 'cls'; .* \(did you mean first\?\)$"):
        TrainSettings(pooling="cls")
    with pytest.raises(InputError, match=r"--pooling: invalid choice: 'cls' \(.*; did you mean first\?\) \(see"):
        PARSERS["search"].parse_args(["--query", "x", "--pooling", "cls"])


def test_values_and_what_follows_two_dashes_are_no_flags() -> None:
    assert PARSERS["search"].parse_args(["--query", "-- a dash", "--task", "nq"]).query == "-- a dash"
    assert PARSERS["search"].parse_args(["--query=--lr"]).query == "--lr"
    assert PARSERS["adapt"].parse_args(["--dropout", "-1"]).dropout == -1.0


# ---- one name, one thing


# flags that are different things in different verbs -> why
DIFFERENT = {
    "--baseline": "run files, or a row of a board",
    "--format": "a board is also a page or a picture",
    "--held-out": "a share of queries, or a number of documents",
    "--output": "a file, a folder, or whichever there is",
    "--precision": "a training knows other arithmetic than a search",
    "--share": "an adapter for whom, or a share of queries",
    "--source": "what ranks, or a file of KILT",
    "--validate-on": "topics, or a split of them",
}


def test_a_flag_of_several_verbs_takes_the_same_in_all() -> None:
    found: dict[str, set[object]] = {}
    for parser in PARSERS.values():
        for action in parser._actions:
            if action.option_strings and action.nargs != 0:
                found.setdefault(action.option_strings[-1], set()).add(action.metavar)
    assert {flag: said for flag, said in found.items() if len(said) > 1 and flag not in DIFFERENT} == {}
    assert {flag for flag in DIFFERENT if len(found.get(flag, ())) < 2} == set()


def test_windows_of_mining_are_called_alike_and_have_the_same_defaults() -> None:
    mine = {action.dest: action.default for action in PARSERS["mine"]._actions if action.dest.startswith("mine_")}
    assert mine == {key: DEFAULTS[key] for key in ("mine_depth", "mine_skip", "mine_keep")}
    assert {f"--{key.replace('_', '-')}" for key in mine} <= {*flags_of(PARSERS["train"])}


# ---- help


@pytest.mark.parametrize("verb", ["train", "adapt", "pretrain"])
def test_help_shows_twenty_flags_within_sixty_lines_and_help_all_the_rest(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = []
    for flag in ("--help", "--help-all"):
        with pytest.raises(SystemExit):
            import_verb(verb).main([flag])
        shown.append(capsys.readouterr().out)
    brief, whole = shown
    assert brief.count("\n") <= 60 and brief.startswith(f"usage: python -m taco_ir.{verb} [FLAG ...]\n")
    assert (
        re.findall(r"^  (--[\w-]+)", brief, re.M) == list(import_verb(verb).FIRST)
        and len(import_verb(verb).FIRST) == 20
    )
    assert {*re.findall(r"^  (?:-h, )?(--[\w-]+)", whole, re.M)} == {
        action.option_strings[-1].replace("--no-", "--", 1) if action.nargs == 0 else action.option_strings[-1]
        for action in PARSERS[verb]._actions
    }
    assert brief[brief.index("example:") :] == whole[whole.index("example:") :]


def test_verbs_with_few_flags_show_them_all() -> None:
    short = [parser for verb, parser in PARSERS.items() if verb not in ("train", "adapt", "pretrain")]
    assert all("--help-all" not in parser.format_help() for parser in short)
