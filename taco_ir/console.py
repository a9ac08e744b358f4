"""What all verbs share on the command line: one flag, one meaning; plain messages; one line for a user's mistake."""

from __future__ import annotations

import argparse
import ctypes
import errno
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any, NamedTuple, NoReturn

from taco_ir.files import QUOTED_UP_TO, InputError, printable

log = logging.getLogger("taco_ir")
USAGE_ERROR = 2
# a full or read-only disk, no permission, or a path that cannot be
USERS_OSERRORS = frozenset(
    (
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTEMPTY, errno.EBUSY),
        *(errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.ENFILE),
    )
)
LONG_WORD = re.compile(rf"\S{{{QUOTED_UP_TO + 1},}}")
PARENT = "TACO_IR_PARENT"  # the process that started this one and waits for it
SET_PARENT_DEATH_SIGNAL = 1  # prctl's PR_SET_PDEATHSIG
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
        "choices": ("first", "mean", "decoder"),
        "help": "for a plain Hugging Face model: first token, mean of tokens, or T5's first decoder state",
    },
    "--normalize": {"action": "store_true", "help": "for a plain Hugging Face model: scale vectors to length 1"},
    "--prompt": {"metavar": "TEXT", "help": "put TEXT before every query instead of the checkpoint's prompt for its task"},
    "--precision": {
        "choices": ("float32", "int8"),
        "default": "float32",
        "help": "arithmetic of the encoder; int8 is faster on CPUs and approximate [default: float32]",
    },
    "--query": {"metavar": "TEXT"},
    "--task": {"metavar": "TASK", "help": "the task of --query, where the model has prompts or modules by task"},
    "--retriever": {"choices": ("dense", "bm25", "hybrid"), "default": "dense", "help": "[default: dense]"},
    "--models": {"nargs": "+", "default": [], "metavar": "NAME=FOLDER", "help": "where the models are that a conditions file names"},
    "--index": {"metavar": "DIR", "help": "a dense index folder [default: one is built and kept under the data home]"},
    "--batch-size": {"type": int, "default": 1024, "metavar": "N", "help": "texts encoded at once, at most [default: 1024]"},
    "--device": {"default": "cpu", "metavar": "D", "help": "cpu, cuda, cuda:1, ... [default: cpu]"},
    "--base": {"metavar": "FOLDER", "help": "for a tuned model whose backbone is not where it was: where it is now"},
    "--hits": {"type": int, "default": 100, "metavar": "K", "help": "hits for each query [default: 100]"},
    "--measures": {"nargs": "+", "metavar": "M", "help": "measures to print, such as Rprec recall@5 MRR@10"},
    "--seed": {"type": int, "default": 0, "metavar": "N", "help": "seed of everything random [default: 0]"},
    "--output": {"metavar": "PATH", "help": "where to write"},
    "--overwrite": {"action": "store_true", "help": "replace an output that exists"},
    "--format": {"choices": ("table", "markdown", "json", "latex"), "default": "table", "help": "how tables are printed [default: table]"},
}
MODEL_FLAGS = ("--model", "--pooling", "--normalize", "--prompt", "--precision", "--batch-size", "--device", "--base")


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
                raise InputError(f"{word!r} is not UTF-8; give the words of a command in UTF-8 (see {self.prog} --help)")
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


def command(options: argparse.Namespace) -> dict[str, str]:
    """What a user asked a verb for, by which it knows what an earlier process of it began (`files.claimed`)."""
    return {name: repr(value) for name, value in vars(options).items()}


def limit_asked(parser: Parser, of_topics: Sequence[str]) -> None:
    """What goes with --topics alone, with --query alone, and with a model, in a verb that searches for the one or the other.

    --device says where, not what: a study passes it to all that it runs.
    """
    parser.only(("--output", *of_topics), lambda options: options.query is None, "--topics")
    parser.only(("--task",), lambda options: options.query is not None, "--query")
    parser.only(("--overwrite",), lambda options: options.output is not None, "--output")
    parser.only(
        (*(flag for flag in MODEL_FLAGS if flag != "--device"), "--index"),
        lambda options: options.retriever != "bm25" or bool(getattr(options, "compare", False)),
        "--retriever dense or hybrid",
    )


def check_asked(options: argparse.Namespace, parser: Parser) -> None:
    """Raises: InputError unless exactly one of --topics and --query was given, with a text."""
    if bool(options.topics) == bool(options.query is not None):
        raise InputError(f"give either --topics or --query (see {parser.prog} --help)")
    if options.query is not None and not options.query.strip():
        raise InputError("--query is empty; give a text")


def share_processors() -> None:
    """Let OpenMP's threads spin for a tenth of a millisecond while they wait, then sleep; to be called before torch or faiss is imported.

    Their own rule, milliseconds, was ten times slower where something else runs, a Java machine in the same process
    included; threads that sleep at once are slower where nothing does. Where other work keeps all processors busy by now
    they do sleep at once: a thread waits there for one that has no processor, and spinning takes that from it. Unlike a
    number of threads that follows the load, this changes no sum.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "0" if _crowded() else "20000")


def _crowded() -> bool:
    """Whether as many threads ran in the last minute as there are processors."""
    try:
        return os.getloadavg()[0] >= (os.cpu_count() or 1)
    except OSError:  # a system that does not tell
        return False


def end_with_parent() -> None:
    """Where this process was started by another verb, let it end when that one does, however it does: it would hold locks, and nobody would know."""
    parent = int(os.environ.pop(PARENT, 0))
    if not parent:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it ended before
        os._exit(USAGE_ERROR)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(USAGE_ERROR)


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
        _fail("interrupted: finished blocks are kept, nothing half-written is left; the same command goes on from there")
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


class Progress:
    """A line that says how far, how fast and how long still: rewritten on a terminal, every ten seconds in a log."""

    def __init__(self, what: str, total: int, unit: str) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._start = self._shown = time.monotonic()
        self._skipped = 0
        self._live = sys.stderr.isatty()

    def skip(self, done: int) -> None:
        """Count `done` units that were there already: they do not enter the rate."""
        self._skipped = done

    def at(self, done: int, note: str = "") -> None:
        now = time.monotonic()
        if now - self._shown < (0.2 if self._live else 10) and done < self._total:
            return
        self._shown = now
        rate = (done - self._skipped) / max(now - self._start, 1e-9)
        left = (self._total - done) / rate if rate else 0
        line = f"{self._what}: {done:,} of {self._total:,} {self._unit}, {rate:,.1f}/s, {duration(left)} left{note and f'; {note}'}"
        print(f"\r{line}\x1b[K" if self._live else line, end="" if self._live and done < self._total else "\n", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


@contextmanager
def timed() -> Iterator[Callable[[], float]]:
    """Yield a function that tells the seconds since the block began."""
    start = time.perf_counter()
    yield lambda: time.perf_counter() - start
