"""The settings that turn a backbone into an encoder: pooling, prompts, lengths, passage template, role marks.

A checkpoint stores them in `taco_ir.json`. A sentence-transformers folder has most of them in its own files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal

from taco_ir.core.files import InputError, write_json
from taco_ir.core.settings import Settings
from taco_ir.core.types import ENTITY_MARKS, Passage, refuse_text

Pooling = Literal["first", "mean", "decoder", "last", "pooler"]
CONFIG_FILE = "taco_ir.json"
MENTION = ENTITY_MARKS[0]
ANY_TASK = "*"
DEFAULT_LENGTH = 256
PADDED_POSITIONS = ("roberta", "xlm-roberta", "camembert")  # their first two positions are for padding
NONE = "none"
LATER = {
    "head_layers": "",
    "lowercase": False,
    "passage_prompt": "",
}  # defaults of newer keys; files have these keys only if the value differs
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid")  # activations of torch.nn after a linear layer
ROLE_MARKS = (NONE, "token_type", "marker", "embedding", "prompt", "adapter")


class Role(IntEnum):
    """The role of a text: a query, a passage, or a reader's question with a passage."""

    QUERY = 0
    PASSAGE = 1
    READER = 2


def formats(template: str) -> bool:
    """Whether `template` can be filled with a passage's title and text."""
    try:
        template.format(title="title", text="text")
    except (KeyError, IndexError, ValueError, AttributeError, TypeError):
        return False
    return True


def is_template(text: str) -> bool:
    """Whether `text` is a passage template that uses the passage's title or text."""
    return formats(text) and text.format(title="title", text="text") != text.format(title="", text="")


def names_activations(text: str) -> bool:
    return set(text.split()) <= set(ACTIVATIONS)


@dataclass(frozen=True)
class EncoderConfig(Settings):
    """How an encoder turns texts into vectors.

    Attributes:
        pooling: the first token, the mean, the last token, the model's pooler, or the first decoder state (T5).
        normalize: scale vectors to length 1.
        prompts: text to put before queries, by task; `*`: before queries of all other tasks; empty: no prompts.
        query_length, passage_length: maximum number of tokens, including prompt and special tokens.
        query_lengths: lengths that differ from `query_length`, by task.
        passage_template: how a passage becomes one text, with the fields {title} and {text}.
        passage_prompt: text to put before a passage.
        left_context: number of words to keep before a marked mention, so that truncation does not remove it; 0: all.
        head: output width of the linear layers after pooling (head.safetensors); 0: there are no such layers.
        head_layers: the activation of each of these layers; empty: one layer without bias and activation.
        lowercase: change texts to lower case before tokenizing.
        roles: how queries, passages and readers' inputs are marked (see role_marks.py).
    """

    pooling: Pooling = "mean"
    normalize: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    query_length: int = field(default=DEFAULT_LENGTH, metadata={"min": 1})
    query_lengths: Mapping[str, int] = field(default_factory=dict)
    passage_length: int = field(default=DEFAULT_LENGTH, metadata={"min": 1})
    passage_template: str = field(
        default="{title} {text}", metadata={"test": formats, "allowed": "a text whose fields are {title} and {text}"}
    )
    left_context: int = field(default=0, metadata={"min": 0})
    head: int = field(default=0, metadata={"min": 0})
    roles: str = field(default=NONE, metadata={"choices": ROLE_MARKS})
    lowercase: bool = False
    passage_prompt: str = ""
    head_layers: str = field(
        default="", metadata={"test": names_activations, "allowed": f"some of {', '.join(ACTIVATIONS)}, or empty"}
    )

    def prompt(self, task: str | None) -> str:
        """Return the text to put before queries of `task`. Raises: InputError for a task without a prompt."""
        if not self.prompts:
            return ""
        for known in (task, ANY_TASK):
            if known is not None and known in self.prompts:
                return self.prompts[known]
        raise InputError(
            f"the model has prompts for {', '.join(sorted(self.prompts))}, but not for task {task!r}; give "
            "--prompt TEXT"
        )

    @property
    def tasks(self) -> set[str]:
        """Tasks that have their own prompt or query length."""
        return {*self.prompts, *self.query_lengths} - {ANY_TASK}

    def query_texts(self, texts: Sequence[str], task: str | None) -> list[str]:
        """Return queries with the prompt of `task`, ready for the tokenizer. Raises: InputError as in `prompt`."""
        refuse_text(texts, "queries")
        prompt, kept = self.prompt(task), []
        for text in texts:
            left, mark, rest = text.partition(MENTION)
            near = [*left.split()[-self.left_context :], mark + rest]
            kept.append(prompt + (" ".join(near) if mark and self.left_context else text))
        return kept

    def max_query_tokens(self, task: str | None) -> int:
        return self.query_lengths.get(task or ANY_TASK, self.query_lengths.get(ANY_TASK, self.query_length))

    def passage_text(self, passage: Passage) -> str:
        return self.passage_prompt + self.passage_template.format(title=passage.title, text=passage.text).strip()

    @property
    def passage_form(self) -> str:
        """The passage prompt and the passage template as one template, as recorded beside vectors."""
        return self.passage_prompt.replace("{", "{{").replace("}", "}}") + self.passage_template

    def with_prompt(self, prompt: str | None, of_passages: str | None = None) -> EncoderConfig:
        """Return a copy with one prompt for all tasks, and another for passages; None keeps the present prompts."""
        config = self if prompt is None else replace(self, prompts={ANY_TASK: prompt})
        return config if of_passages is None else replace(config, passage_prompt=of_passages)

    @property
    def described(self) -> dict[str, Any]:
        """The settings for fingerprints. Newer settings count only if not the default: old fingerprints stay valid."""
        return {key: value for key, value in asdict(self).items() if {**LATER, "roles": NONE}.get(key) != value}

    def with_lenders(self, lenders: Mapping[str, str]) -> EncoderConfig:
        """Return a copy in which tasks borrow prompts; `lenders` maps borrowers to lenders. Raises: InputError."""
        for task, lender in lenders.items():
            if task in self.prompts:
                raise InputError(f"task {task!r} has its own prompt and cannot borrow from {lender!r}; leave it out")
            if lender not in self.prompts:
                known = ", ".join(sorted(self.prompts)) or "none"
                raise InputError(
                    f"task {task!r} cannot borrow a prompt of {lender!r}, which has none; tasks with prompts: {known}"
                )
        prompts = {task: self.prompts[lender] for task, lender in lenders.items()}
        lengths = {task: self.max_query_tokens(lender) for task, lender in lenders.items()}
        return replace(self, prompts={**self.prompts, **prompts}, query_lengths={**self.query_lengths, **lengths})

    def save(self, folder: Path) -> None:
        write_json(folder / CONFIG_FILE, {key: value for key, value in asdict(self).items() if LATER.get(key) != value})
