"""The encoder for pre-training: one forward pass gives a text's vector and the loss of its masked tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from taco_ir.core.files import InputError
from taco_ir.encoders.config import EncoderConfig
from taco_ir.encoders.pooling import pool, read
from taco_ir.training.encoder import DualEncoder, Text
from taco_ir.training.objectives.base import loss_temperature
from taco_ir.training.objectives.contrastive import span_contrast_loss
from taco_ir.training.objectives.heads import (
    CONDENSER_FILE,
    MLM_FILE,
    Condenser,
    MaskedLanguageHead,
    load_into,
    save_head_file,
    word_embeddings,
)
from taco_ir.training.objectives.masking import Vocabulary, label_rows, labelled, vocabulary_of
from taco_ir.training.settings import PARTS, ObjectiveSettings


class PretrainModel(DualEncoder):
    """The model for pre-training: a backbone with the heads that the loss needs. Its output has a row for each text.

    A row contains the text's vector (D numbers, if spans are contrasted), then the summed cross-entropy of its masked
    tokens, once for mlm and once for Condenser. All losses are functions of these rows, so GradCache works for all of
    them. Saved models are plain Hugging Face folders.

    Args:
        folder: the base model or a checkpoint; heads in it are loaded.
    """

    def __init__(
        self, folder: Path, config: EncoderConfig, settings: ObjectiveSettings, temperature: float = 0.0
    ) -> None:
        super().__init__(folder, config, untied=False)
        self.parts = settings.objective
        self.masked = settings.masked
        self.head_from = ""
        self._contrasted = settings.contrasted
        self.token_parts = [part for part in ("mlm", "condenser") if part in settings.objective]
        self._temperature = loss_temperature(temperature, config)
        if settings.masked:
            self.mlm = MaskedLanguageHead.of(self.backbone("passage"))
            self.head_from = self.mlm.load(folder)
        if "condenser" in settings.objective:
            if "t5" in (kind := self.backbone("passage").config.model_type):
                raise InputError(
                    f"--objective condenser: {folder} is a {kind} model, but condenser needs a model like BERT; use"
                    " only mlm and span_contrast"
                )
            self.condenser = Condenser(self.backbone("passage").config)
            if (folder / CONDENSER_FILE).is_file():
                load_into(self.condenser, folder / CONDENSER_FILE)

    @property
    def dim(self) -> int:
        return self._contrasted * super().dim + len(self.token_parts)

    def vocabulary(self) -> Vocabulary:
        return vocabulary_of(self._tokenizers["passage"])

    def forward(self, texts: Sequence[Text]) -> Tensor:
        """Returns a row of `dim` numbers for each text, [B, dim] (see the class)."""
        ids_BL, mask_BL, _ = self.pad_texts("passage", texts)
        backbone, condenses = self.backbone("passage"), "condenser" in self.token_parts
        output = read(backbone, self.config, ids_BL, mask_BL, output_hidden_states=condenses)
        columns = [pool(output, self.config, mask_BL)] if self._contrasted else []
        if self.token_parts:
            labels_BL = label_rows(texts, ids_BL.shape[1]).to(self.device)
            states_BLH = (
                output.encoder_last_hidden_state if self.config.pooling == "decoder" else output.last_hidden_state
            )
            of_part = {"mlm": states_BLH}
            if condenses:
                of_part["condenser"] = self.condenser(states_BLH, output.hidden_states[self.condenser.middle], mask_BL)
            table_VE = word_embeddings(backbone)
            columns += [self.mlm(of_part[part], labels_BL, table_VE)[:, None] for part in self.token_parts]
        return torch.cat(columns, 1)

    def losses(self, rows_BX: Tensor, texts: Sequence[Text]) -> dict[str, Tensor]:
        """Returns the scalar loss of each part from the rows of texts. Spans of one document must be neighbours."""
        found: dict[str, Tensor] = {}
        tokens = max(labelled(texts), 1)
        for place, part in enumerate(reversed(self.token_parts), 1):
            found[part] = rows_BX[:, -place].sum() / tokens
        if self._contrasted:
            found["span_contrast"] = span_contrast_loss(rows_BX[:, : super().dim], self._temperature)
        return {part: found[part] for part in PARTS if part in found}

    def save(self, folder: Path) -> None:
        """Writes the model of a checkpoint: backbone, tokenizer and all heads."""
        self.save_trained(folder)
        if "condenser" in self.token_parts:
            save_head_file(self.condenser, folder / CONDENSER_FILE)

    def describe(self, folder: Path) -> None:
        """Writes nothing, because pooling is chosen later, when a retriever is trained."""

    def save_trained(self, folder: Path) -> None:
        """Writes a plain Hugging Face folder, and the masked-language head for more pre-training if there is one."""
        super().save(folder)
        if self.token_parts:
            save_head_file(self.mlm, folder / MLM_FILE)
