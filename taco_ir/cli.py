"""Shared by all verbs: common flags, one-line error messages, and exit codes."""

from __future__ import annotations

import argparse
import logging
import math
import os
import re
import sys
import textwrap
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

from taco_ir.core.errors import is_users
from taco_ir.core.files import KEPT, QUOTED_UP_TO, InputError, data_home, in_data_home, printable
from taco_ir.core.processes import OURS, end_with_parent, share_processors
from taco_ir.core.suggestions import nearest, suggest
from taco_ir.encoders.backbone import usable_device
from taco_ir.retrieval.choices import POOLINGS, PRECISIONS, RETRIEVERS, ModelChoice
from taco_ir.scale.engines import Engine, Here
from taco_ir.scale.processes import Processes
from taco_ir.scale.ray_pool import Ray

USAGE_ERROR = 2
HELP_WIDTH = 100
ENGINES = HERE, PROCESSES, RAY = ("here", "processes", "ray")
FLAG = re.compile(r"--?[^\W\d][\w-]*")
LONG_WORD = re.compile(rf"\S{{{QUOTED_UP_TO + 1},}}")


def natural(text: str, least: int = 0) -> int:
    """Convert an argument into a whole number of at least `least`. Raises: argparse.ArgumentTypeError."""
    if not (text.isascii() and text.isdigit()) or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return int(text)


positive = partial(natural, least=1)


def above_zero(text: str) -> float:
    """Convert an argument into a finite number above 0. Raises: argparse.ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def share(text: str) -> float:
    """Convert an argument into a fraction above 0 and up to 1. Raises: argparse.ArgumentTypeError."""
    if (value := above_zero(text)) > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share above 0 and up to 1, such as .99")
    return value


def byte_count(text: str) -> int:
    """Convert an amount of memory, such as 4GB, into bytes (1 GB is 10^9). Raises: argparse.ArgumentTypeError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?)i?B", text, re.IGNORECASE | re.ASCII)
    if not found or not float(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount of memory, such as 4GB or 800MB")
    return int(float(found[1]) * 1000 ** " KMGT".index(found[2].upper() or " "))


KNOWN = {  # types and choices of the shared flags, which the TOML file cannot hold
    "--pooling": {"choices": POOLINGS},
    "--precision": {"choices": PRECISIONS},
    "--retriever": {"choices": RETRIEVERS},
    "--engine": {"choices": ENGINES},
    **{name: {"type": positive} for name in ("--batch-size", "--workers", "--hits")},
    **{name: {"type": above_zero} for name in ("--worker-gpus", "--worker-cpus")},
    "--seed": {"type": int},
}
TABLE = tomllib.loads(Path(__file__).with_name("cli_flags.toml").read_text(encoding="utf-8"))
FLAGS: dict[str, dict[str, Any]] = {name: own | KNOWN.get(name, {}) for name, own in TABLE.items()}
MODEL_FLAGS: tuple[str, ...] = ("--model", "--pooling", "--normalize", "--prompt", "--passage-prompt")
MODEL_FLAGS += ("--precision", "--batch-size", "--device", "--base")
RAY_FLAGS = ("--worker-gpus", "--worker-cpus", "--address")
ENGINE_FLAGS = ("--engine", "--workers", *RAY_FLAGS)
# without --device, which a study passes to every verb
DENSE_FLAGS = (*(flag for flag in MODEL_FLAGS if flag != "--device"), "--index")


class WholeHelp(argparse.Action):
    """The action of `--help-all`: prints the help of all flags, also of flags that `--help` does not show."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        parser._first = ()  # type: ignore[attr-defined]
        parser.print_help()
        parser.exit()


def wrap(text: str) -> str:
    """Wrap each line of a text as a paragraph; indented lines stay as they are."""
    return "\n".join(line if line.startswith(" ") else textwrap.fill(line, HELP_WIDTH) for line in text.splitlines())


class Parser(argparse.ArgumentParser):
    """An argparse parser for one verb that reports a user's mistake in one line.

    Args:
        verb: the verb's name, as in `python -m taco_ir.<verb>`.
        description: what the verb does, which `--help` shows first. Each line is a paragraph.
        flags: names of shared flags to add, which mean the same in every verb.
        example: commands to show at the end of `--help`.
        first: flags that `--help` shows, in this order (`--help-all` shows all flags). Empty: `--help` shows all.
    """

    def __init__(
        self, verb: str, description: str, flags: Sequence[str] = (), example: str = "", first: Sequence[str] = ()
    ) -> None:
        super().__init__(
            prog=f"python -m taco_ir.{verb}",
            description=wrap(description),
            epilog=example and f"example:\n  {example}",
            formatter_class=partial(argparse.RawDescriptionHelpFormatter, width=HELP_WIDTH),
            allow_abbrev=False,
        )
        self._first = tuple(first)
        if first:
            self.add_argument("--help-all", action=WholeHelp, help="show all flags, and exit")
        self._limits: list[tuple[str, Callable[[argparse.Namespace], bool], str]] = []
        for flag in flags:
            self.flag(flag)

    def flag(self, name: str, help: str | None = None, **changes: Any) -> None:
        """Add a flag or argument, a shared one by its name; `changes` go to argparse. --collection adds --columns."""
        if name == "--collection":
            self.flag("--columns")
        found = FLAGS.get(name, {}) | ({"help": help} if help else {}) | changes
        if "choices" in found:
            found.setdefault("metavar", "|".join(map(str, found["choices"])))
        self.add_argument(name, **found)

    def format_help(self) -> str:
        """Returns the help text. If the parser has `first` flags, the text describes only these flags."""
        if not self._first:
            return super().format_help()
        formatter = self._get_formatter()
        formatter.add_usage(f"{self.prog} [FLAG ...]", self._actions, [])
        formatter.add_text(self.description)
        formatter.start_section("main flags (--help-all shows all)")
        formatter.add_arguments([self._option_string_actions[flag] for flag in self._first])
        formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def only(self, flags: Sequence[str], acts: Callable[[argparse.Namespace], bool], goes_with: str) -> None:
        """Make `parse_args` raise InputError if the user gives one of `flags` and it has no effect.

        Args:
            acts: returns True if the flags have an effect together with the parsed options.
            goes_with: the same condition in words, for the error.
        """
        self._limits += [(flag, acts, goes_with) for flag in flags]

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does. Raises: InputError for a flag without effect, even if its value is the default."""
        options = super().parse_args(args, namespace)
        given = {word.partition("=")[0] for word in takewhile("--".__ne__, args or ())}
        if columns := vars(options).pop("columns", None):
            if wrong := [each for each in columns if not all(each.partition("="))]:
                raise InputError(f"--columns {wrong[0]!r} is not ROLE=NAME, such as text=body (see {self.prog} --help)")
            if "--collection" not in given:
                raise InputError(f"--columns has an effect only with --collection (see {self.prog} --help)")
            options.collection += "?" + "&".join(quote(each, safe="=") for each in columns)
        for flag, acts, goes_with in self._limits:
            if flag in given and not acts(options):
                raise InputError(f"{flag} has an effect only with {goes_with} (see {self.prog} --help)")
        return options

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does. Raises: InputError for arguments that are not UTF-8."""
        for word in args or ():
            if not word.isascii() and any(0xD800 <= ord(char) <= 0xDFFF for char in word):
                raise InputError(f"{word!r} is not UTF-8; give all arguments in UTF-8 (see {self.prog} --help)")
        self._refuse_unknown(args or ())
        return super().parse_known_args(args, namespace)

    def _refuse_unknown(self, words: Sequence[str]) -> None:
        """Raise InputError for an unknown flag, and suggest the most similar flag."""
        for name in (word.partition("=")[0] for word in takewhile("--".__ne__, words)):
            if FLAG.fullmatch(name) and name not in self._option_string_actions:
                flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
                self.error(f"unknown flag {name}; {suggest(name, flags)}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Check a value as argparse does; the error also suggests the most similar choice."""
        if action.choices is not None and value not in action.choices:
            near = nearest(str(value), map(str, action.choices))
            there = ", ".join(map(str, action.choices))
            hint = f"choose from {there}{f'; did you mean {near}?' if near else ''}"
            raise argparse.ArgumentError(action, f"invalid choice: {value!r} ({hint})")

    def error(self, message: str) -> NoReturn:
        message = LONG_WORD.sub(lambda found: f"{found[0][:QUOTED_UP_TO]}...", message)
        raise InputError(f"{message} (see {self.prog} --help)")


def model_choice(options: argparse.Namespace) -> ModelChoice:
    """Returns the model that --model and related flags describe; a flag that the verb lacks counts as not given."""
    known = {entry.name for entry in fields(ModelChoice)}
    return ModelChoice(**{name: value for name, value in vars(options).items() if name in known})


def limit_engine_flags(parser: Parser) -> None:
    """Make a parser refuse --workers if this process does all the work, and Ray's flags with other engines."""
    parser.only(("--workers",), lambda options: options.engine != HERE, "--engine processes or ray")
    parser.only(RAY_FLAGS, lambda options: options.engine == RAY, "--engine ray")
    parser.only(("--worker-gpus",), lambda options: options.device.startswith("cuda"), "--device cuda")


def engine_choice(options: argparse.Namespace) -> Engine:
    """Returns the engine that --engine and its flags describe. Raises: InputError for a missing engine or device."""
    if options.engine == RAY:
        gpus = (options.worker_gpus or 1.0) if options.device.startswith("cuda") else 0.0
        return Ray(options.workers, options.worker_cpus, gpus, options.address)
    usable_device(options.device)
    return Here() if options.engine == HERE else Processes(options.workers, options.device)


def command(options: argparse.Namespace) -> dict[str, str]:
    """Returns all options as text. `claim_output` compares them to see if the same command began an output."""
    return {name: repr(value) for name, value in vars(options).items()}


def limit_search_flags(
    parser: Parser, of_topics: Sequence[str], of_dense: Sequence[str] = DENSE_FLAGS, single: str = "--query"
) -> None:
    """Make a parser refuse flags in `of_topics` without --topics, and flags in `of_dense` if only BM25 searches.

    It also refuses --task with --topics, and --overwrite without --output. `single` names the flags that --task needs.
    """
    parser.only(("--output", *of_topics), lambda options: not asks_single(options), "--topics")
    parser.only(("--task",), lambda options: options.query is not None or _asks_lines(options), single)
    parser.only(("--overwrite",), lambda options: options.output is not None, "--output")

    def has_model(options: argparse.Namespace) -> bool:
        return options.retriever != "bm25" or bool(getattr(options, "compare", False))

    parser.only(of_dense, has_model, "--retriever dense or hybrid")


def _asks_lines(options: argparse.Namespace) -> bool:
    return bool(getattr(options, "interactive", False))


def asks_single(options: argparse.Namespace) -> bool:
    """True if the user asks single queries: one with --query, or several with --interactive or --serve."""
    serves = getattr(options, "serve", None) is not None
    return not options.topics and (options.query is not None or _asks_lines(options) or serves)


def require_queries(options: argparse.Namespace, parser: Parser) -> None:
    """Check that exactly one of --topics, --query, --interactive and --serve is given. Raises: InputError if not."""
    given = [bool(options.topics), options.query is not None, _asks_lines(options)]
    if sum(given) + (getattr(options, "serve", None) is not None) != 1:
        others = ", or one of --interactive and --serve" if hasattr(options, "serve") else ""
        raise InputError(f"give either --topics or --query{others} (see {parser.prog} --help)")
    if options.query is not None and not options.query.strip():
        raise InputError("--query is empty; give a text")


def run_verb(main: Callable[[Sequence[str]], None]) -> NoReturn:
    """Run a verb's `main`. After a user's mistake, a full disk or Ctrl-C, print one line and exit with code 2."""
    OURS.set()
    end_with_parent()
    share_processors()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("faiss", "httpx", "httpx2", "transformers", "sentence_transformers"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("huggingface_hub").propagate = False  # it prints its warnings itself
    try:
        main(sys.argv[1:])
        sys.stdout.flush()
    except InputError as error:
        _fail(f"error: {error}")
    except KeyboardInterrupt:
        _fail("interrupted: finished work is kept and no half-written file is left; the same command continues")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if not is_users(error):
            raise
        said = f"{printable(str(error.filename or 'output'))}: {error.strerror}; nothing half-written is left"
        kept = error.filename and in_data_home(Path(str(error.filename)))
        _fail(f"error: {said}{f'; {KEPT}, now in {data_home()}' if kept else ''}")
    sys.exit(0)


def _fail(message: str) -> NoReturn:
    sys.stdout.flush()
    print(message, file=sys.stderr)
    sys.exit(USAGE_ERROR)
