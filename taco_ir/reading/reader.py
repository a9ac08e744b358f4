"""The reader: two small layers on an encoder select the passage that answers a question, and the answer span in it.

Follows DPR's reader (Karpukhin et al., EMNLP 2020, section 6.1).
Differs: only tokens of the passage can start or end a span.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from taco_ir.core.files import InputError
from taco_ir.core.hashes import fingerprint
from taco_ir.core.types import Passage, Vectors, refuse_text
from taco_ir.encoders.backbone import load_backbone, usable_device
from taco_ir.encoders.config import NONE, EncoderConfig, Role
from taco_ir.encoders.model_folder import Kind, ModelFolder
from taco_ir.encoders.pooling import Ids, batch_by_length, pad
from taco_ir.encoders.role_marks import RoleMarks, load_learned

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

READER_FILE = "reader.safetensors"
TOKENS_AT_ONCE = 4096  # of a batch of inputs
LOWEST = float(np.finfo(np.float32).min) / 2  # the logit of tokens that cannot be in an answer


class ReaderConfig(NamedTuple):
    """Maximum number of tokens of a question, of title and passage together, and of an answer; saved in checkpoints."""

    question: int = 64
    passage: int = 160
    answer: int = 10


class ReaderInput(NamedTuple):
    """A question, a title and a passage as one token sequence.

    Attributes:
        ids: L token ids.
        first: position of the first of the passage's P tokens; after the last comes a separator.
        offsets_P2: for each token of the passage, its start and end (exclusive) in characters of the passage's text.
        asked: number of tokens of the question, including the special tokens around it.
    """

    ids: Ids
    first: int
    offsets_P2: npt.NDArray[np.int64]
    asked: int

    @property
    def stop(self) -> int:
        return self.first + len(self.offsets_P2)

    def token_spans(self, spans: Sequence[tuple[int, int]], most: int) -> list[tuple[int, int]]:
        """Convert character spans to first and last tokens; leave out spans that are cut off or over `most` tokens."""
        found = []
        for start, end in spans:
            inside = np.flatnonzero((self.offsets_P2[:, 0] < end) & (self.offsets_P2[:, 1] > start))
            if 0 < len(inside) <= most and self.offsets_P2[-1, 1] >= end:
                found.append((self.first + int(inside[0]), self.first + int(inside[-1])))
        return list(dict.fromkeys(found))


class InputBuilder:
    """Joins a question with each passage to token ids: `[CLS] question [SEP] title [SEP] passage [SEP]`.

    Args:
        marker: a token to insert after the first special token.
    """

    def __init__(self, tokenizer: Tokenizer, config: ReaderConfig, marker: int | None = None) -> None:
        self.config = config
        self._tokenizer = tokenizer
        framed = tokenizer.encode("a")
        special = framed.special_tokens_mask
        inside = special.index(0)
        self._begin: list[int] = [*framed.ids[:inside], *([] if marker is None else [marker])]
        self._separator: list[int] = framed.ids[len(special) - special[::-1].index(0) :][:1]

    def __call__(self, question: str, passages: Sequence[Passage]) -> list[ReaderInput]:
        """Makes one input for each passage. Cuts the question, and the passage if title and passage are too long."""
        self._tokenizer.no_truncation()
        texts = [question, *(text for passage in passages for text in (passage.title, passage.text))]
        asked, *pairs = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        head = [*self._begin, *asked.ids[: self.config.question], *self._separator]
        inputs = []
        for title, text in zip(pairs[::2], pairs[1::2], strict=True):
            named = [*head, *title.ids[: self.config.passage // 2], *self._separator]
            kept = self.config.passage - min(len(title.ids), self.config.passage // 2)
            ids = np.array([*named, *text.ids[:kept], *self._separator], dtype=np.int64)
            inputs.append(
                ReaderInput(ids, len(named), np.array(text.offsets[:kept], dtype=np.int64).reshape(-1, 2), len(head))
            )
        return inputs

    @property
    def longest(self) -> int:
        """The maximum number of tokens of an input."""
        return len(self._begin) + self.config.question + self.config.passage + 3 * len(self._separator)


class Logits(NamedTuple):
    """The head's logits for N inputs of L tokens; tokens outside the passage have the smallest possible logit."""

    start_NL: torch.Tensor
    end_NL: torch.Tensor
    relevance_N: torch.Tensor


def new_head(width: int) -> torch.nn.ModuleDict:
    """Returns new layers for the start and end of a span, and for a passage's relevance, from the first token."""
    import torch

    head = torch.nn.ModuleDict({"span": torch.nn.Linear(width, 2), "passage": torch.nn.Linear(width, 1)})
    for layer in head.values():
        torch.nn.init.normal_(layer.weight, std=0.02)  # type: ignore[arg-type]
        torch.nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return head


def save_head(head: torch.nn.Module, config: ReaderConfig, folder: Path) -> None:
    from safetensors.torch import save_file

    tensors = {name: value.detach().cpu().contiguous() for name, value in head.state_dict().items()}
    limits = {"limits": json.dumps(config._asdict())}  # one entry, since the order of several varies
    save_file(tensors, folder / READER_FILE, limits)


def load_head(folder: Path, width: int) -> tuple[torch.nn.ModuleDict, ReaderConfig]:
    """Load the head of a checkpoint. Raises: InputError if its file is missing or does not fit the backbone."""
    from safetensors import SafetensorError, safe_open

    path = folder / READER_FILE
    if not path.is_file():
        raise InputError(f"--reader {folder}: it has no {READER_FILE}; give a model trained by taco_ir.train --reading")
    head = new_head(width)
    try:
        with safe_open(path, "pt") as source:
            kept = json.loads((source.metadata() or {})["limits"])
            head.load_state_dict({name: source.get_tensor(name) for name in source.keys()})  # noqa: SIM118  (no mapping)
        config = ReaderConfig(**kept)
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: not a reader's layer for a backbone of width {width} ({str(error).strip().splitlines()[0]}); "
            "give a model trained by taco_ir.train --reading"
        ) from error
    return head, config


def compute_logits(
    backbone: torch.nn.Module,
    head: torch.nn.Module,
    inputs: Sequence[ReaderInput],
    device: torch.device,
    marks: RoleMarks | None = None,
) -> Logits:
    """Returns the head's logits for N inputs, padded to the longest input."""
    import torch

    padded = pad([each.ids for each in inputs], backbone.config.pad_token_id or 0)  # type: ignore[union-attr,arg-type]
    ids_NL, mask_NL = (each.to(device) for each in padded)
    asked = [each.asked for each in inputs]
    options = marks.inputs(ids_NL, marks.reader_roles(asked, ids_NL.shape[1])) if marks else {}
    states_NLH = backbone(**{"input_ids": ids_NL, "attention_mask": mask_NL, **options}).last_hidden_state
    places_L = torch.arange(ids_NL.shape[1])
    first_N1, stop_N1 = torch.tensor([[each.first, each.stop] for each in inputs]).T[..., None]
    outside_NL = ((places_L < first_N1) | (places_L >= stop_N1)).to(device)
    layers = dict(head.items())  # type: ignore[operator]
    spans_NL2 = layers["span"](states_NLH).float().masked_fill(outside_NL[..., None], LOWEST)
    return Logits(spans_NL2[..., 0], spans_NL2[..., 1], layers["passage"](states_NLH[:, 0]).float().squeeze(-1))


def join_logits(parts: Sequence[Logits], order: Sequence[int]) -> Logits:
    """Join the logits of several batches, padded to the longest; `order` has the final position of each row."""
    import torch
    from torch.nn.functional import pad as widen

    places = torch.empty(len(order), dtype=torch.long)
    places[torch.tensor(order)] = torch.arange(len(order))
    longest = max(part.start_NL.shape[1] for part in parts)
    starts, ends = (
        torch.cat([widen(part[side], (0, longest - part[side].shape[1]), value=LOWEST) for part in parts])
        for side in (0, 1)
    )
    found = (starts, ends, torch.cat([part.relevance_N for part in parts]))
    return Logits(*(each[places.to(each.device)] for each in found))


def best_span(start_P: npt.NDArray[np.float32], end_P: npt.NDArray[np.float32], most: int) -> tuple[int, int]:
    """Returns first and last token of the span of at most `most` tokens with the highest start + end logits."""
    padded = np.concatenate([end_P, np.full(most - 1, -np.inf, dtype=end_P.dtype)])
    scores_PW = start_P[:, None] + np.lib.stride_tricks.sliding_window_view(padded, most)
    start, width = np.unravel_index(int(scores_PW.argmax()), scores_PW.shape)
    return int(start), int(start + width)


class Answer(NamedTuple):
    """An answer: text, passage, position in characters, and probability (the product for passage, start and end)."""

    text: str
    docid: str
    start: int
    end: int
    score: float


class Reader:
    """A trained reader, in evaluation mode.

    Attributes:
        fingerprint: hash of encoder, tokenizer and head.
    """

    def __init__(
        self,
        backbone: torch.nn.Module,
        tokenizer: Tokenizer,
        head: torch.nn.Module,
        config: ReaderConfig,
        weights: str,
        device: str,
        batch_size: int,
        roles: str = NONE,
        learned: torch.nn.Module | None = None,
    ) -> None:
        import torch

        self.config = config
        self.fingerprint = fingerprint([weights, config._asdict()] + [roles] * (roles != NONE))
        self.batch_size = batch_size
        self._device = torch.device(device)
        self._backbone = backbone.eval().to(self._device)
        self._head = head.eval().to(self._device)
        self._marks = RoleMarks(
            roles, self._backbone, tokenizer, learned.eval().to(self._device) if learned is not None else None
        )
        self._inputs = InputBuilder(tokenizer, config, self._marks.marker(Role.READER))

    def read(self, questions: Sequence[tuple[str, Sequence[Passage]]]) -> list[Answer | None]:
        """Answer each question from its passages; None if no passage has text. Raises: InputError for a single text."""
        refuse_text(questions, "questions with their passages", "[({}, passages)]")
        inputs = [self._inputs(question, passages) for question, passages in questions]
        flat = [each for group in inputs for each in group]
        logits = self._logits(flat)
        answers, row = [], 0
        for (_, passages), group in zip(questions, inputs, strict=True):
            answers.append(_decode(passages, group, logits[row : row + len(group)], self.config.answer))
            row += len(group)
        return answers

    def _logits(self, inputs: Sequence[ReaderInput]) -> list[tuple[Vectors, Vectors, float]]:
        """Returns, for each input, start and end logits of the passage's tokens [P], and the passage's relevance."""
        import torch

        nothing = np.empty(0, np.float32)
        found: list[tuple[Vectors, Vectors, float]] = [(nothing, nothing, -np.inf)] * len(inputs)
        for batch in batch_by_length([len(each.ids) for each in inputs], self.batch_size, TOKENS_AT_ONCE):
            with torch.inference_mode():
                logits = compute_logits(
                    self._backbone, self._head, [inputs[i] for i in batch], self._device, self._marks
                )
            start_NL, end_NL, relevance_N = (each.cpu().numpy() for each in logits)
            for row, i in enumerate(batch):
                tokens = slice(inputs[i].first, inputs[i].stop)
                found[i] = (start_NL[row, tokens], end_NL[row, tokens], float(relevance_N[row]))
        return found


def _decode(
    passages: Sequence[Passage],
    inputs: Sequence[ReaderInput],
    logits: Sequence[tuple[Vectors, Vectors, float]],
    most: int,
) -> Answer | None:
    relevance_K = np.array([each[2] if len(each[0]) else -np.inf for each in logits])
    if not np.isfinite(relevance_K).any():
        return None
    best = int(relevance_K.argmax())
    start_P, end_P, _ = logits[best]
    first, last = best_span(start_P, end_P, most)
    text = passages[best].text
    start, end = _widen(text, int(inputs[best].offsets_P2[first, 0]), int(inputs[best].offsets_P2[last, 1]))
    score = _probability(relevance_K, best) * _probability(start_P, first) * _probability(end_P, last)
    return Answer(text[start:end], passages[best].docid, start, end, score)


def _probability(logits: npt.NDArray[np.floating], place: int) -> float:
    """Returns the softmax at one place."""
    return float(1 / np.exp(logits.astype(np.float64) - logits[place]).sum())


def _widen(text: str, start: int, end: int) -> tuple[int, int]:
    """Widens a span that begins or ends inside a word, as DPR does, and strips blanks."""
    while 0 < start < len(text) and text[start - 1].isalnum() and text[start].isalnum():
        start -= 1
    while 0 < end < len(text) and text[end - 1].isalnum() and text[end].isalnum():
        end += 1
    while start < end - 1 and text[start].isspace():
        start += 1
    return start, end


def load_reader_config(folder: Path) -> EncoderConfig:
    """Read the configuration of a reader's encoder. Raises: InputError for two towers, or pooling "decoder"."""
    model = ModelFolder(folder)
    if model.kind is Kind.TOWERS:
        raise InputError(f"{folder}: it has two towers, and a reader needs a single encoder; give {folder / 'passage'}")
    model.require_weights()
    config = model.config(None if model.describes_itself else "first")
    if config.pooling == "decoder":
        raise InputError(
            f"{folder}: pooling 'decoder' makes one vector per text, but a reader needs one per token; use a model "
            "with pooling first or mean"
        )
    return config


def load_reader(name: str, device: str = "cpu", batch_size: int = 1024) -> Reader:
    """Load a reader from the folder of its encoder, which includes the head. Raises: InputError for other folders."""
    folder = ModelFolder.find(name)
    usable_device(device)
    base = load_reader_config(folder.path)
    backbone, tokenizer, _ = load_backbone(folder, base)
    learned = load_learned(base.roles, folder.path, backbone)
    head, config = load_head(folder.path, int(backbone.config.hidden_size))  # type: ignore[union-attr,arg-type]
    return Reader(backbone, tokenizer, head, config, folder.fingerprint, device, batch_size, base.roles, learned)


def mark_span(text: str, start: int, end: int, marks: tuple[str, str] = ("[[", "]]"), around: int = 120) -> str:
    """Returns a span between marks, with `around` characters of text on each side, on one line."""
    left, right = max(0, start - around), min(len(text), end + around)
    shown = f"{text[left:start]}{marks[0]}{text[start:end]}{marks[1]}{text[end:right]}"
    return " ".join(f"{'... ' * (left > 0)}{shown}{' ...' * (right < len(text))}".split())
