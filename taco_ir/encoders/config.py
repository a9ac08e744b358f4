"""The configuration that turns a backbone into an encoder: pooling, prompts, lengths, passage template, marks of roles.

A checkpoint keeps it in `taco_ir.json`; a sentence-transformers folder has most of it in files of its own.
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
}  # keys that files have only where they say something
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid")  # of torch.nn, behind a linear layer
ROLE_MARKS = (NONE, "token_type", "marker", "embedding", "prompt", "adapter")


class Role(IntEnum):
    """The role of a text for an encoder: a query, a passage, or a reader's question with a passage."""

    QUERY = 0
    PASSAGE = 1
    READER = 2


def formats(template: str) -> bool:
    """Whether a passage can be put into `template`."""
    try:
        template.format(title="title", text="text")
    except (KeyError, IndexError, ValueError, AttributeError, TypeError):
        return False
    return True


def is_template(text: str) -> bool:
    """Whether `text` is a passage template whose result depends on the passage."""
    return formats(text) and text.format(title="title", text="text") != text.format(title="", text="")


def names_activations(text: str) -> bool:
    return set(text.split()) <= set(ACTIVATIONS)


@dataclass(frozen=True)
class EncoderConfig(Settings):
    """How texts become vectors.

    Attributes:
        pooling: first token, mean of the tokens, last token, the model's own pooler, or T5's first decoder state.
        normalize: scale vectors to length 1.
        prompts: text put before a query, by task; `*` stands for all other tasks; empty: the model takes no prompts.
        query_length, passage_length: tokens at which texts are cut, with prompt and special tokens.
        query_lengths: query lengths of tasks that differ from `query_length`.
        passage_template: has the fields {title} and {text}.
        passage_prompt: text put before a passage.
        left_context: words kept before a marked mention, so that truncation does not lose it; 0 keeps all.
        head: width of the linear layers behind the pooling (head.safetensors); 0: no such layers.
        head_layers: the activation of each of these layers; empty: one layer without bias and activation.
        lowercase: whether texts are lowercased first, beside what the tokenizer does.
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
        """The text before a query of `task`. Raises: InputError for a task that the checkpoint has no prompt for."""
        if not self.prompts:
            return ""
        for known in (task, ANY_TASK):
            if known is not None and known in self.prompts:
                return self.prompts[known]
        raise InputError(
            f"the model has no prompt for task {task!r}, only for {', '.join(sorted(self.prompts))}; give --prompt TEXT"
        )

    @property
    def tasks(self) -> set[str]:
        """Tasks with a prompt or a query length of their own."""
        return {*self.prompts, *self.query_lengths} - {ANY_TASK}

    def query_texts(self, texts: Sequence[str], task: str | None) -> list[str]:
        """Prompt and text of queries of `task`, for the tokenizer. Raises: InputError as `prompt` does."""
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
        """The passage template with the passage prompt before it, as recipes of vectors name it."""
        return self.passage_prompt.replace("{", "{{").replace("}", "}}") + self.passage_template

    def with_prompt(self, prompt: str | None, of_passages: str | None = None) -> EncoderConfig:
        """A copy with one prompt for every task, and one for passages; None changes nothing."""
        config = self if prompt is None else replace(self, prompts={ANY_TASK: prompt})
        return config if of_passages is None else replace(config, passage_prompt=of_passages)

    @property
    def described(self) -> dict[str, Any]:
        """The values for fingerprints; without later keys that say nothing, so that older fingerprints hold."""
        return {key: value for key, value in asdict(self).items() if {**LATER, "roles": NONE}.get(key) != value}

    def with_lenders(self, lenders: Mapping[str, str]) -> EncoderConfig:
        """A copy for more tasks. Raises: InputError for a lender without a prompt, or a task that has one."""
        for task, lender in lenders.items():
            if task in self.prompts:
                fault = "has a prompt of its own"
            elif lender not in self.prompts:
                fault = f"is to take the prompt of {lender!r}, which has none"
            else:
                continue
            known = ", ".join(sorted(self.prompts)) or "no task"
            raise InputError(f"task {task!r} {fault}; the model's prompts are for {known}")
        prompts = {task: self.prompts[lender] for task, lender in lenders.items()}
        lengths = {task: self.max_query_tokens(lender) for task, lender in lenders.items()}
        return replace(self, prompts={**self.prompts, **prompts}, query_lengths={**self.query_lengths, **lengths})

    def save(self, folder: Path) -> None:
        write_json(folder / CONFIG_FILE, {key: value for key, value in asdict(self).items() if LATER.get(key) != value})
