"""What turns a backbone into an encoder (pooling, prompts, lengths, passage template), kept in the checkpoint itself."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from taco_ir.files import InputError, read_json, write_json
from taco_ir.records import Passage

Pooling = Literal["first", "mean", "decoder"]
CONFIG_FILE = "taco_ir.json"
ANY_TASK = "*"
DEFAULT_LENGTH = 256
PASSAGE_PROMPTS = ("document", "passage", "corpus")


@dataclass(frozen=True)
class EncoderConfig:
    """How texts become vectors.

    Attributes:
        pooling: first token, mean of the tokens, or T5's first decoder state.
        normalize: scale vectors to length 1.
        prompts: text put before a query, by task; `*` stands for every task; empty: the model takes no prompts.
        query_length, passage_length: most tokens that are read, prompt and special tokens included.
        query_lengths: the same, by task, where it differs from `query_length`.
        passage_template: with the fields {title} and {text}.
    """

    pooling: Pooling = "mean"
    normalize: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    query_length: int = DEFAULT_LENGTH
    query_lengths: Mapping[str, int] = field(default_factory=dict)
    passage_length: int = DEFAULT_LENGTH
    passage_template: str = "{title} {text}"

    def prompt(self, task: str | None) -> str:
        """The text before a query of `task`. Raises: InputError for a task that the checkpoint has no prompt for."""
        if not self.prompts:
            return ""
        if task in self.prompts:
            return self.prompts[task]
        if ANY_TASK in self.prompts:
            return self.prompts[ANY_TASK]
        raise InputError(f"the model has no prompt for task {task!r}, only for {', '.join(sorted(self.prompts))}; name one of them or give --prompt TEXT")

    def max_query_tokens(self, task: str | None) -> int:
        return self.query_lengths.get(task or ANY_TASK, self.query_length)

    def passage_text(self, passage: Passage) -> str:
        return self.passage_template.format(title=passage.title, text=passage.text).strip()

    def with_prompt(self, prompt: str | None) -> EncoderConfig:
        """The same with one prompt for every task; None changes nothing."""
        return self if prompt is None else replace(self, prompts={ANY_TASK: prompt})

    def save(self, folder: Path) -> None:
        write_json(folder / CONFIG_FILE, asdict(self))


def read_config(folder: Path, pooling: Pooling | None, normalize: bool, longest: int) -> EncoderConfig:
    """The configuration of a model folder: ours, a sentence-transformers one, or a plain one with explicit flags.

    Args:
        pooling, normalize: what the user said; needed for a plain folder, refused for one that says it itself.
        longest: most tokens that the backbone and its tokenizer take.

    Raises:
        InputError: for a plain folder without `pooling`, a folder that contradicts the flags, or one whose modules
            this encoder does not have.
    """
    own, modules = folder / CONFIG_FILE, folder / "modules.json"
    if not own.is_file() and not modules.is_file():
        if pooling is None:
            raise InputError(f"--model {folder}: a plain Hugging Face model does not say how it pools; give --pooling {'|'.join(get_args(Pooling))} [--normalize]")
        return EncoderConfig(pooling, normalize, query_length=min(DEFAULT_LENGTH, longest), passage_length=min(DEFAULT_LENGTH, longest))
    if pooling is not None or normalize:
        raise InputError(f"--model {folder}: the folder says itself how it pools ({(own if own.is_file() else modules).name}); leave out --pooling and --normalize")
    config = _own(own) if own.is_file() else _sentence_transformers(folder, longest)
    if max(config.query_length, config.passage_length, *config.query_lengths.values()) > longest:
        raise InputError(f"{folder}: lengths of up to {max(config.query_length, config.passage_length)} tokens; the backbone takes {longest}")
    return config


def _own(path: Path) -> EncoderConfig:
    values = read_json(path)
    known = [entry.name for entry in fields(EncoderConfig)]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise InputError(f"{path}: unknown key {key!r}{f'; did you mean {near[0]}?' if near else ''} valid: {', '.join(known)}")
    if values.get("pooling", "mean") not in get_args(Pooling):
        raise InputError(f"{path}: pooling {values['pooling']!r}; valid: {', '.join(get_args(Pooling))}")
    return EncoderConfig(**values)


def _sentence_transformers(folder: Path, longest: int) -> EncoderConfig:
    """Read pooling, normalisation, length and prompts from a sentence-transformers folder."""
    pooling: Pooling | None = None
    normalize, length = False, longest
    for module in read_json(folder / "modules.json"):
        kind = module["type"].rsplit(".", 1)[-1]
        if kind == "Transformer":
            length = _max_tokens(folder / module["path"]) or longest
        elif kind == "Pooling":
            pooling = _pooling(folder / module["path"] / "config.json")
        elif kind == "Normalize":
            normalize = True
        else:
            raise InputError(f"{folder / 'modules.json'}: module {kind!r}; this encoder has Transformer, Pooling and Normalize")
    if pooling is None:
        raise InputError(f"{folder / 'modules.json'}: no Pooling module")
    prompts, passage_prompt = _prompts(folder)
    length = min(length, longest)
    template = passage_prompt.replace("{", "{{").replace("}", "}}") + EncoderConfig.passage_template
    return EncoderConfig(pooling, normalize, prompts, length, {}, length, template)


def _max_tokens(module: Path) -> int | None:
    path = module / "sentence_bert_config.json"
    length: int | None = read_json(path).get("max_seq_length") if path.is_file() else None
    return length


def _pooling(path: Path) -> Pooling:
    values = read_json(path)
    modes = [name.removeprefix("pooling_mode_").removesuffix("_token").removesuffix("_tokens") for name, on in values.items() if name.startswith("pooling_mode_") and on]
    given = values.get("pooling_mode", modes)
    mode = given if isinstance(given, str) else "+".join(given)
    if mode not in ("mean", "cls") or values.get("include_prompt") is False:
        raise InputError(f"{path}: pooling {mode!r}, include_prompt {values.get('include_prompt', True)}; this encoder pools by mean or cls over the prompt as well")
    return "mean" if mode == "mean" else "first"


def _prompts(folder: Path) -> tuple[dict[str, str], str]:
    """Query prompts by task and the passage prompt."""
    path = folder / "config_sentence_transformers.json"
    values: dict[str, Any] = read_json(path) if path.is_file() else {}
    named: dict[str, str] = values.get("prompts") or {}
    default = named.get(values.get("default_prompt_name") or "", "")
    passage = next((named[name] for name in PASSAGE_PROMPTS if name in named), default)
    queries = {task: text for task, text in named.items() if task not in (*PASSAGE_PROMPTS, "query")}
    if query := named.get("query", default):
        queries[ANY_TASK] = query
    return queries, passage
