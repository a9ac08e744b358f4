"""One encoder that also reads and fills in tokens: a tied one with heads, in a model folder that search, answer and train all load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from taco_ir.core.files import InputError
from taco_ir.encoders.adapters.methods import FULL
from taco_ir.encoders.config import EncoderConfig, Role
from taco_ir.encoders.model_folder import ModelFolder
from taco_ir.encoders.pooling import Ids, read, tokenize
from taco_ir.reading.reader import (
    READER_FILE,
    InputBuilder,
    Logits,
    Reader,
    ReaderConfig,
    ReaderInput,
    head_logits,
    load_head,
    new_head,
    save_head,
)
from taco_ir.training.encoder import DualEncoder, Text
from taco_ir.training.objectives.heads import MLM_FILE, MaskedLanguageHead
from taco_ir.training.objectives.masking import MASKS, Vocabulary, label_rows, token_ids, vocabulary_of
from taco_ir.training.settings import INVERSE_CLOZE, MLM, NOTHING, TrainSettings
from taco_ir.training.setup import start_encoder

READ_AT_ONCE = 64
QUESTION_TOKENS = 64


class SharedEncoder(DualEncoder):
    """A tied encoder with the heads that its tasks need; texts with labels give what their masked tokens cost instead of a vector.

    Attributes:
        inputs: of the reader; there after `add_reader`.
        words: what texts are masked with; there after `add_mlm`.
    """

    inputs: InputBuilder
    words: Vocabulary

    def __init__(self, folder: Path, config: EncoderConfig, untied: bool) -> None:
        if untied:
            raise InputError(
                f"{folder}: two towers; reading and self-supervised tasks take one encoder; leave untied out, or those tasks"
            )
        super().__init__(folder, config, False)
        self.reader: nn.Module | None = None
        self.mlm: MaskedLanguageHead | None = None

    def add_reader(self, folder: Path, limits: ReaderConfig) -> None:
        """The head in the model folder `folder`, or a new one. Raises: InputError for an encoder that cannot read such inputs."""
        if self.config.pooling == "decoder":
            raise InputError(
                f"{folder}: pooling 'decoder' has one state for a text; reading needs one for each token, pooling first or mean"
            )
        width = int(self.backbone("passage").config.hidden_size)  # type: ignore[union-attr,arg-type]
        self.reader = load_head(folder, width)[0] if (folder / READER_FILE).is_file() else new_head(width)
        self.inputs = InputBuilder(self._tokenizers["passage"], limits, self._marks["passage"].marker(Role.READER))
        check_inputs(self.inputs, folder)

    def add_mlm(self, folder: Path) -> None:
        """The head in the model folder `folder`, or a new one. Raises: InputError for a tokenizer without a mask."""
        words = vocabulary_of(self._tokenizers["passage"])
        if words.mask is None:
            raise InputError(f"{folder}: its tokenizer has none of {', '.join(MASKS)}, which mlm needs")
        if (marker := self._marks["passage"].marker(Role.PASSAGE)) is not None:
            words = words._replace(before=np.append(words.before, marker))
        described = self.backbone("passage").config
        eps, spread = getattr(described, "layer_norm_eps", 1e-12), getattr(described, "initializer_range", 0.02)
        self.words = words
        self.mlm = MaskedLanguageHead(int(described.hidden_size), self._table, eps, spread)  # type: ignore[union-attr,arg-type]
        self.mlm.load(folder)

    @property
    def _table(self) -> Tensor:
        """The word embeddings [V, E]."""
        table: Tensor = self.backbone("passage").get_input_embeddings().weight  # type: ignore[operator]
        return table

    def token_ids(self, texts: Sequence[str]) -> list[Ids]:
        """Ids of whole texts, without special tokens."""
        return token_ids(self._tokenizers["passage"], texts)

    def queries(self, texts: Sequence[str], task: str) -> list[Text]:
        """As before; sentences, the queries of inverse cloze, have no prompt."""
        if task != INVERSE_CLOZE:
            return super().queries(texts, task)
        ids, _ = tokenize(
            self._tokenizers["passage"], texts, self.config.query_length, self._marks["passage"].marker(Role.QUERY)
        )
        return [Text("passage", ids_L, role=Role.QUERY) for ids_L in ids]

    def forward(self, texts: Sequence[Text]) -> Tensor:
        """Vectors [B, D]; of texts with labels the summed cross-entropy [B, 1] of their masked tokens."""
        if texts[0].labels is None or self.mlm is None:
            return super().forward(texts)
        ids_BL, mask_BL, marks = self.padded("passage", texts)
        output = read(self.backbone("passage"), self.config, ids_BL, mask_BL, **marks)
        states_BLH = output.encoder_last_hidden_state if self.config.pooling == "decoder" else output.last_hidden_state
        labels_BL = label_rows(texts, ids_BL.shape[1]).to(self.device)
        return self.mlm(states_BLH, labels_BL, self._table)[:, None]  # type: ignore[no-any-return]

    def logits(self, inputs: Sequence[ReaderInput]) -> Logits:
        assert self.reader is not None
        return head_logits(self.backbone("passage"), self.reader, inputs, self.device, self._marks["passage"])

    def as_reader(self) -> Reader:
        """The same weights as answering uses them; leaves them in evaluation mode."""
        assert self.reader is not None
        learned = dict(self.towers["passage"].items()).get("roles")  # type: ignore[operator]
        backbone, tokenizer, limits = self.backbone("passage"), self._tokenizers["passage"], self.inputs.config
        return Reader(
            backbone,
            tokenizer,
            self.reader,
            limits,
            "training",
            str(self.device),
            READ_AT_ONCE,
            self.config.roles,
            learned,
        )

    def save(self, folder: Path) -> None:
        super().save(folder)
        if self.reader is not None:
            save_head(self.reader, self.inputs.config, folder)
        if self.mlm is not None:
            save_file(
                {name: value.detach().cpu().contiguous() for name, value in self.mlm.state_dict().items()},
                folder / MLM_FILE,
            )


def start_shared(config: TrainSettings, folder: Path, tasks: Sequence[str]) -> SharedEncoder:
    """The encoder in `folder` with the heads that the tasks of `config` need, those that it has and new ones.

    Raises:
        InputError: as `start_encoder`, and for a base that cannot do what is asked.
    """
    if config.adapters.tune != FULL:
        raise InputError(
            f"tune is {config.adapters.tune}; reading and self-supervised tasks train the whole encoder; leave tune out, or those tasks"
        )
    if (own := ModelFolder(folder)).record is not None:
        own.require_weights()
    model = start_encoder(config, folder, tasks, SharedEncoder)
    assert isinstance(model, SharedEncoder)
    if not tasks and INVERSE_CLOZE not in config.objectives.self_supervised and "head" in model.towers["passage"]:  # type: ignore[operator]
        model.towers["passage"]["head"].requires_grad_(False)  # type: ignore[index]
    torch.manual_seed(config.run.seed)  # for new heads
    if config.objectives.reading != NOTHING:
        model.add_reader(
            folder, ReaderConfig(config.encoder.query_length or QUESTION_TOKENS, config.encoder.passage_length)
        )
    if MLM in config.objectives.self_supervised:
        model.add_mlm(folder)
    return model.to(torch.device(config.run.device))


def check_inputs(inputs: InputBuilder, folder: Path) -> None:
    """Raise InputError where the longest input has more tokens than the model in `folder` takes."""
    limits = inputs.config
    if inputs.longest > (limit := ModelFolder(folder).longest):
        raise InputError(
            f"query_length {limits.question} and passage_length {limits.passage} make inputs of {inputs.longest} tokens; "
            f"{folder} takes 1 to {limit}"
        )
