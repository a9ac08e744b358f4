"""An encoder for retrieval, reading and masked tokens; the commands search, answer and train can use its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from taco_ir.core.files import InputError
from taco_ir.encoders.config import EncoderConfig, Role
from taco_ir.encoders.model_folder import ModelFolder
from taco_ir.encoders.pooling import read
from taco_ir.reading.reader import (
    READER_FILE,
    InputBuilder,
    Logits,
    Reader,
    ReaderConfig,
    ReaderInput,
    compute_logits,
    join_logits,
    load_head,
    new_head,
    save_head,
)
from taco_ir.training.backward import chunk_by_length
from taco_ir.training.encoder import DualEncoder, Text
from taco_ir.training.objectives.heads import MLM_FILE, MaskedLanguageHead, save_head_file, word_embeddings
from taco_ir.training.objectives.masking import MASKS, Vocabulary, label_rows, vocabulary_of
from taco_ir.training.settings import INVERSE_CLOZE

READ_AT_ONCE = 64
QUESTION_TOKENS = 64


class SharedEncoder(DualEncoder):
    """One encoder for queries and passages, with heads for reading and masked tokens.

    Attributes:
        inputs: builds the reader's inputs; set by `add_reader`.
        words: the token ids for masking texts; set by `add_mlm`.
    """

    inputs: InputBuilder
    words: Vocabulary

    def __init__(self, folder: Path, config: EncoderConfig, untied: bool) -> None:
        if untied:
            raise InputError(
                f"{folder}: there are two towers, but reading and self-supervised tasks need a single encoder; leave "
                "out the setting untied, or these tasks"
            )
        super().__init__(folder, config, False)
        self.reader: nn.Module | None = None
        self.mlm: MaskedLanguageHead | None = None

    def add_reader(self, folder: Path, limits: ReaderConfig) -> None:
        """Adds the reader's head saved in `folder`, or a new head. Raises InputError if the encoder cannot read."""
        if self.config.pooling == "decoder":
            raise InputError(
                f"{folder}: pooling 'decoder' makes one vector per text, but reading needs a vector per token; use "
                "pooling first or mean"
            )
        width = int(self.backbone("passage").config.hidden_size)  # type: ignore[union-attr,arg-type]
        self.reader = load_head(folder, width)[0] if (folder / READER_FILE).is_file() else new_head(width)
        self.inputs = InputBuilder(self._tokenizers["passage"], limits, self._marks["passage"].marker(Role.READER))
        if self.inputs.longest > (limit := ModelFolder(folder).longest):
            raise InputError(
                f"query_length {limits.question} and passage_length {limits.passage} make inputs of "
                f"{self.inputs.longest} tokens; lower them, because {folder} allows at most {limit}"
            )

    def add_mlm(self, folder: Path) -> None:
        """Adds the masked-language head saved in `folder`, or a new head. Raises InputError if no mask token exists."""
        words = vocabulary_of(self._tokenizers["passage"])
        if words.mask is None:
            raise InputError(f"{folder}: mlm needs a tokenizer that has one of {', '.join(MASKS)}; leave mlm out")
        if (marker := self._marks["passage"].marker(Role.PASSAGE)) is not None:
            words = words._replace(before=np.append(words.before, marker))
        self.words = words
        self.mlm = MaskedLanguageHead.of(self.backbone("passage"))
        self.mlm.load(folder)

    def tokenize_queries(self, texts: Sequence[str], task: str) -> list[Text]:
        """Tokenises the queries of a task. In inverse cloze, queries are sentences and have no prompt."""
        if task != INVERSE_CLOZE:
            return super().tokenize_queries(texts, task)
        return self._tokenize("passage", "passage", texts, self.config.query_length, Role.QUERY)

    def forward(self, texts: Sequence[Text]) -> Tensor:
        """Returns vectors [B, D] or, for texts with labels, the summed cross-entropy [B, 1] of their masked tokens."""
        if texts[0].labels is None or self.mlm is None:
            return super().forward(texts)
        ids_BL, mask_BL, marks = self.pad_texts("passage", texts)
        output = read(self.backbone("passage"), self.config, ids_BL, mask_BL, **marks)
        states_BLH = output.encoder_last_hidden_state if self.config.pooling == "decoder" else output.last_hidden_state
        labels_BL = label_rows(texts, ids_BL.shape[1]).to(self.device)
        return self.mlm(states_BLH, labels_BL, word_embeddings(self.backbone("passage")))[:, None]  # type: ignore[no-any-return]

    def logits(self, inputs: Sequence[ReaderInput]) -> Logits:
        """Returns the reader's logits of N inputs, padded to the longest; similar lengths are computed together."""
        assert self.reader is not None
        backbone, marks = self.backbone("passage"), self._marks["passage"]
        chunks = chunk_by_length([len(each.ids) for each in inputs], self.device)
        parts = [
            compute_logits(backbone, self.reader, [inputs[i] for i in chunk], self.device, marks) for chunk in chunks
        ]
        return join_logits(parts, [i for chunk in chunks for i in chunk])

    def as_reader(self) -> Reader:
        """Returns a reader that shares these weights, and puts the model in evaluation mode."""
        assert self.reader is not None
        learned = self.tower_modules("passage").get("roles")
        backbone, tokenizer, limits = self.backbone("passage"), self._tokenizers["passage"], self.inputs.config
        where = ("training", str(self.device), READ_AT_ONCE)
        return Reader(backbone, tokenizer, self.reader, limits, *where, self.config.roles, learned)

    def save(self, folder: Path) -> None:
        super().save(folder)
        if self.reader is not None:
            save_head(self.reader, self.inputs.config, folder)
        if self.mlm is not None:
            save_head_file(self.mlm, folder / MLM_FILE)
