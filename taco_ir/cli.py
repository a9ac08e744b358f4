"""What all verbs share on the command line: one flag, one meaning; plain messages; one line for a user's mistake."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from itertools import takewhile
from typing import Any, NamedTuple, NoReturn

from taco_ir.core.files import QUOTED_UP_TO, InputError, printable
from taco_ir.core.processes import end_with_parent, share_processors
from taco_ir.retrieval.choices import POOLINGS, PRECISIONS, RETRIEVERS, ModelChoice

USAGE_ERROR = 2
# a full or read-only disk, no permission, or a path that cannot be
USERS_OSERRORS = frozenset(
    (
        *(
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EFBIG,
            errno.EROFS,
            errno.EACCES,
            errno.EPERM,
            errno.ENOTEMPTY,
            errno.EBUSY,
        ),
        *(errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.ENFILE),
    )
)
LONG_WORD = re.compile(rf"\S{{{QUOTED_UP_TO + 1},}}")
FLAGS: dict[str, dict[str, Any]] = {
    "--collection": {
        "default": "sample",
        "metavar": "C",
        "help": "sample (embedded), kilt (the full benchmark), or a folder with passages.jsonl[.gz] and <task>-<split>.jsonl [default: sample]",
    },
    "--topics": {
        "nargs": "+",
        "metavar": "T",
        "help": "topics of the collection, such as nq-dev fever-dev, or all-dev for every task; or a file.jsonl of any "
        'tasks\' queries, each record with its "task"',
    },
    "--tasks": {
        "nargs": "+",
        "default": ["all"],
        "metavar": "T",
        "help": "tasks of the collection, such as nq fever or nq,fever [default: all]",
    },
    "--model": {
        "metavar": "M",
        "help": "a checkpoint, a Hugging Face or sentence-transformers folder, a hub name, or one known by name: taco-mini, which comes with the package, its taco-mini-backbone, minilm-l6 (a package of its own) [default: taco-mini]",
    },
    "--pooling": {
        "choices": POOLINGS,
        "help": "for a plain Hugging Face model: first token, mean of tokens, or T5's first decoder state",
    },
    "--normalize": {"action": "store_true", "help": "for a plain Hugging Face model: scale vectors to length 1"},
    "--prompt": {
        "metavar": "TEXT",
        "help": "put TEXT before every query instead of the checkpoint's prompt for its task",
    },
    "--precision": {
        "choices": PRECISIONS,
        "default": "float32",
        "help": "arithmetic of the encoder; int8 is faster on CPUs and approximate [default: float32]",
    },
    "--query": {"metavar": "TEXT"},
    "--task": {"metavar": "TASK", "help": "the task of --query, where the model has prompts or adapters by task"},
    "--retriever": {"choices": RETRIEVERS, "default": "dense", "help": "[default: dense]"},
    "--models": {
        "nargs": "+",
        "default": [],
        "metavar": "NAME=FOLDER",
        "help": "where the models are that a conditions file names",
    },
    "--index": {"metavar": "DIR", "help": "a dense index folder [default: one is built and kept under the data home]"},
    "--batch-size": {
        "type": int,
        "default": 1024,
        "metavar": "N",
        "help": "texts encoded at once, at most [default: 1024]",
    },
    "--device": {"default": "cpu", "metavar": "D", "help": "cpu, cuda, cuda:1, ... [default: cpu]"},
    "--base": {"metavar": "FOLDER", "help": "for adapters whose backbone is not where it was: where it is now"},
    "--hits": {"type": int, "default": 100, "metavar": "K", "help": "hits for each query [default: 100]"},
    "--measures": {"nargs": "+", "metavar": "M", "help": "measures to print, such as Rprec recall@5 MRR@10"},
    "--seed": {"type": int, "default": 0, "metavar": "N", "help": "seed of everything random [default: 0]"},
    "--output": {"metavar": "PATH", "help": "where to write"},
    "--overwrite": {"action": "store_true", "help": "replace an output that exists"},
    "--format": {
        "choices": ("table", "markdown", "json", "latex"),
        "default": "table",
        "help": "how tables are printed [default: table]",
    },
}
MODEL_FLAGS = ("--model", "--pooling", "--normalize", "--prompt", "--precision", "--batch-size", "--device", "--base")
OF_DENSE = (
    *(flag for flag in MODEL_FLAGS if flag != "--device"),
    "--index",
)  # --device says where, not what: a study passes it to all that it runs


class Limit(NamedTuple):
    """When a flag does something."""

    flag: str
    acts: Callable[[argparse.Namespace], bool]
    goes_with: str


class Parser(argparse.ArgumentParser):
    """An argparse parser for one verb; its mistakes are one line, as all others."""

    def __init__(self, verb: str, description: str, flags: Sequence[str] = (), example: str = "") -> None:
        super().__init__(
            prog=f"python -m taco_ir.{verb}",
            description=description,
            epilog=example and f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self._limits: list[Limit] = []
        for flag in flags:
            self.flag(flag)

    def only(self, flags: Sequence[str], acts: Callable[[argparse.Namespace], bool], goes_with: str) -> None:
        """Refuse `flags`, where they are given, unless they act: `acts` tells of the options, `goes_with` says in words when they do."""
        self._limits += [Limit(flag, acts, goes_with) for flag in flags]

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's. Raises: InputError for a flag that would do nothing, its default included."""
        options = super().parse_args(args, namespace)
        given = {word.partition("=")[0] for word in takewhile("--".__ne__, args or ())}
        for flag, acts, goes_with in self._limits:
            if flag in given and not acts(options):
                raise InputError(f"{flag} goes with {goes_with}; it does nothing here (see {self.prog} --help)")
        return options

    def flag(self, name: str, **changes: Any) -> None:
        """Add a shared flag, with what differs for this verb."""
        self.add_argument(name, **(FLAGS[name] | changes))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's. Raises: InputError for words that are not UTF-8."""
        for word in args or ():
            if not word.isascii() and any(0xD800 <= ord(char) <= 0xDFFF for char in word):
                raise InputError(
                    f"{word!r} is not UTF-8; give the words of a command in UTF-8 (see {self.prog} --help)"
                )
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        message = LONG_WORD.sub(lambda found: f"{found[0][:QUOTED_UP_TO]}...", message)
        raise InputError(f"{message} (see {self.prog} --help)")


def positive(text: str) -> int:
    """argparse type for counts. Raises: argparse.ArgumentTypeError below 1."""
    value = int(text) if text.isascii() and text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


for _name in ("--batch-size", "--hits"):
    FLAGS[_name]["type"] = positive


def model_choice(options: argparse.Namespace) -> ModelChoice:
    """The model that --model and its companions name, as far as a verb has these flags."""
    known = {entry.name for entry in fields(ModelChoice)}
    return ModelChoice(**{name: value for name, value in vars(options).items() if name in known})


def command(options: argparse.Namespace) -> dict[str, str]:
    """What a user asked a verb for, by which it knows what an earlier process of it began (`files.claim_output`)."""
    return {name: repr(value) for name, value in vars(options).items()}


def limit_asked(parser: Parser, of_topics: Sequence[str], of_dense: Sequence[str] = OF_DENSE) -> None:
    """What goes with --topics alone, with --query alone, and with a model, in a verb that searches for the one or the other."""
    parser.only(("--output", *of_topics), lambda options: options.query is None, "--topics")
    parser.only(("--task",), lambda options: options.query is not None, "--query")
    parser.only(("--overwrite",), lambda options: options.output is not None, "--output")
    parser.only(
        of_dense,
        lambda options: options.retriever != "bm25" or bool(getattr(options, "compare", False)),
        "--retriever dense or hybrid",
    )


def check_asked(options: argparse.Namespace, parser: Parser) -> None:
    """Raises: InputError unless exactly one of --topics and --query was given, with a text."""
    if bool(options.topics) == bool(options.query is not None):
        raise InputError(f"give either --topics or --query (see {parser.prog} --help)")
    if options.query is not None and not options.query.strip():
        raise InputError("--query is empty; give a text")


def run_verb(main: Callable[[Sequence[str]], None]) -> NoReturn:
    """Run a verb; a user's mistake, a full disk or Ctrl-C ends it with one line on stderr and exit code 2."""
    end_with_parent()
    share_processors()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("faiss", "httpx", "transformers", "sentence_transformers"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        main(sys.argv[1:])
        sys.stdout.flush()
    except InputError as error:
        _fail(f"error: {error}")
    except KeyboardInterrupt:
        _fail(
            "interrupted: finished blocks are kept, nothing half-written is left; the same command goes on from there"
        )
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno not in USERS_OSERRORS:
            raise
        _fail(f"error: {printable(str(error.filename or 'output'))}: {error.strerror}; nothing half-written is left")
    sys.exit(0)


def _fail(message: str) -> NoReturn:
    sys.stdout.flush()
    print(message, file=sys.stderr)
    sys.exit(USAGE_ERROR)
