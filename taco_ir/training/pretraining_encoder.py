"""The encoder while it is pre-trained: a backbone whose texts give a vector and what their masked tokens cost, in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from taco_ir.core.files import InputError
from taco_ir.encoders.config import CONFIG_FILE, NONE, EncoderConfig
from taco_ir.encoders.model_folder import Kind, ModelFolder
from taco_ir.encoders.pooling import pad, pool, read
from taco_ir.training.documents import Ids
from taco_ir.training.encoder import DualEncoder, Text
from taco_ir.training.objectives.contrastive import span_contrast_loss
from taco_ir.training.objectives.heads import CONDENSER_FILE, MLM_FILE, Condenser, MaskedLanguageHead, load_into
from taco_ir.training.objectives.masking import MASKS, Vocabulary, label_rows, labelled, token_ids, vocabulary_of
from taco_ir.training.settings import MIN_SPAN, PARTS, TrainSettings
from taco_ir.training.setup import base_config, loss_temperature, refuse_not_finite


class PretrainModel(DualEncoder):
    """One backbone with the heads of the parts that are switched on; a row of its output is a text's.

    A row holds the vector, D numbers, where spans are contrasted, then the summed cross-entropy of the text's masked
    tokens by the last layer (mlm) and by Condenser's. All losses are functions of the rows, so that GradCache serves
    all parts. Folders that it writes are plain Hugging Face ones.

    Args:
        heads: the model folder whose heads are taken over: the base, or a checkpoint.
    """

    def __init__(self, folder: Path, config: EncoderConfig, run: TrainSettings) -> None:
        super().__init__(folder, config, untied=False)
        self.parts = run.objectives.objective
        self.masked = run.objectives.masked
        self.head_from = ""
        self._contrasted = run.objectives.contrasted
        self._token_parts = [part for part in ("mlm", "condenser") if part in run.objectives.objective]
        self._temperature = loss_temperature(run.batch.temperature, config)
        backbone = self.backbone
        described = backbone.config
        if run.objectives.masked:
            eps, spread = getattr(described, "layer_norm_eps", 1e-12), getattr(described, "initializer_range", 0.02)
            self.mlm = MaskedLanguageHead(described.hidden_size, self._table, eps, spread)
            self.head_from = self.mlm.load(folder)
        if "condenser" in run.objectives.objective:
            if "t5" in described.model_type:
                raise InputError(
                    f"--objective condenser: {folder} is a {described.model_type} model; condenser needs a BERT-type one, mlm and span_contrast do not"
                )
            self.condenser = Condenser(described)
            if (folder / CONDENSER_FILE).is_file():
                load_into(self.condenser, folder / CONDENSER_FILE)

    @property
    def backbone(self) -> Any:  # a model of transformers
        return self.towers["passage"]["backbone"]  # type: ignore[index]

    @property
    def _table(self) -> Tensor:
        """The word embeddings [V, E]."""
        table: Tensor = self.backbone.get_input_embeddings().weight
        return table

    @property
    def dim(self) -> int:
        return self._contrasted * super().dim + len(self._token_parts)

    def vocabulary(self) -> Vocabulary:
        return vocabulary_of(self._tokenizers["passage"])

    def token_ids(self, texts: Sequence[str]) -> list[Ids]:
        """Ids of whole texts, without special tokens."""
        return token_ids(self._tokenizers["passage"], texts)

    def forward(self, texts: Sequence[Text]) -> Tensor:
        """Rows [B, `dim`] of texts, float32."""
        pad_id = self.backbone.config.pad_token_id or 0
        ids_BL, mask_BL = (each.to(self.device) for each in pad([text.ids for text in texts], pad_id))
        output = read(
            self.backbone, self.config, ids_BL, mask_BL, output_hidden_states="condenser" in self._token_parts
        )
        columns = [pool(output.last_hidden_state, self.config, mask_BL)] if self._contrasted else []
        if self._token_parts:
            labels_BL = label_rows(texts, ids_BL.shape[1]).to(self.device)
            states_BLH = (
                output.encoder_last_hidden_state if self.config.pooling == "decoder" else output.last_hidden_state
            )
            of_part = {"mlm": states_BLH}
            if "condenser" in self._token_parts:
                of_part["condenser"] = self.condenser(states_BLH, output.hidden_states[self.condenser.middle], mask_BL)
            columns += [self.mlm(of_part[part], labels_BL, self._table)[:, None] for part in self._token_parts]
        return torch.cat(columns, 1)

    def losses(self, rows_BX: Tensor, texts: Sequence[Text]) -> dict[str, Tensor]:
        """The loss of each part, scalars, for the rows of `texts`: pairs of spans, one after the other, where they are contrasted."""
        found: dict[str, Tensor] = {}
        tokens = max(labelled(texts), 1)
        for place, part in enumerate(reversed(self._token_parts), 1):
            found[part] = rows_BX[:, -place].sum() / tokens
        if self._contrasted:
            found["span_contrast"] = span_contrast_loss(rows_BX[:, : super().dim], self._temperature)
        return {part: found[part] for part in PARTS if part in found}

    def save(self, folder: Path) -> None:
        """Write a checkpoint's model: the backbone and all heads."""
        self.save_trained(folder)
        if "condenser" in self._token_parts:
            _save_state(self.condenser, folder / CONDENSER_FILE)

    def save_trained(self, folder: Path) -> None:
        """Write a plain Hugging Face folder with its tokenizer, and the head from which more pre-training can go on."""
        super().save(folder)
        (folder / CONFIG_FILE).unlink()  # how a retriever pools is for its training to say
        if self._token_parts:
            _save_state(self.mlm, folder / MLM_FILE)


def start_pretraining(run: TrainSettings, base: Path, checkpoint: Path | None) -> PretrainModel:
    """The model that `run` describes, from the folder of its base or of a checkpoint of its own.

    Raises:
        InputError: for a base that cannot be loaded or has two towers or a linear layer, spans beyond its positions, or
            a part that it does not fit.
    """
    if ModelFolder(base).kind is Kind.TOWERS:
        raise InputError(f"--model {base}: two towers; pre-training takes one backbone, such as its folder passage")
    ModelFolder(base).require_weights()
    limit = ModelFolder(base).longest
    if run.objectives.length > limit:
        raise InputError(f"--length is {run.objectives.length}; {base} takes {2 * MIN_SPAN} to {limit} tokens")
    if not run.objectives.contrasted and run.encoder.pooling is None and not ModelFolder(base).describes_itself:
        config = EncoderConfig("mean")  # no vector is pooled
    else:
        config = base_config(run.encoder, base, limit)
        if "condenser" in run.objectives.objective and config.pooling == "mean":
            raise InputError(
                f"--objective condenser makes the first token sum up the text; --model {base} is pooled by mean, which takes no vector there;"
                " leave condenser out, or give --pooling first"
            )
    if config.head:
        raise InputError(
            f"--model {base}: it has a linear layer of {config.head} numbers; pre-training takes a backbone alone"
        )
    if config.roles != NONE:
        raise InputError(
            f"--model {base}: it marks roles ({config.roles}); pre-training takes a backbone that does not"
        )
    torch.manual_seed(run.run.seed)  # for weights that are new: the heads
    model = PretrainModel(checkpoint or base, config, run)
    if run.objectives.masked and model.vocabulary().mask is None:
        raise InputError(f"--model {base}: its tokenizer has none of {', '.join(MASKS)}, which mlm and condenser need")
    model.to(torch.device(run.run.device))
    if run.encoder.dropout >= 0:
        model.set_dropout(run.encoder.dropout)
    if run.optimiser.gradient_checkpointing:
        model.checkpoint_gradients()
    refuse_not_finite(model, base)
    return model


def _save_state(module: nn.Module, path: Path) -> None:
    save_file({name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}, path)
