"""Heads for self-supervised training: the masked-language head, and Condenser's layers, which are not kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from taco_ir.core.files import InputError
from taco_ir.training.objectives.masking import UNLABELLED

MLM_FILE, CONDENSER_FILE = "mlm_head.safetensors", "condenser.safetensors"
CONDENSER_LAYERS = 2
# where a checkpoint of transformers keeps the head: its layer, its norm, the bias of each token
PLACES = {
    "BERT": ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias"),
    "RoBERTa": ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
    "DistilBERT": ("vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
    "ELECTRA": ("generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head.bias"),
    "ALBERT": ("predictions.dense", "predictions.LayerNorm", "predictions.bias"),
}
OLD_NAMES = {"weight": "gamma", "bias": "beta"}  # of a layer norm's tensors in the first BERT checkpoints


class MaskedLanguageHead(nn.Module):
    """BERT's head: a layer, GELU, layer norm, then scores of all V tokens with the word embeddings (tied)."""

    def __init__(self, width: int, table_VE: Tensor, eps: float, spread: float) -> None:
        super().__init__()
        self.dense = nn.Linear(width, table_VE.shape[1])
        self.norm = nn.LayerNorm(table_VE.shape[1], eps)
        self.bias = nn.Parameter(torch.zeros(len(table_VE)))
        nn.init.normal_(self.dense.weight, std=spread)
        nn.init.zeros_(self.dense.bias)

    @classmethod
    def of(cls, backbone: Any) -> MaskedLanguageHead:
        """A new head for a backbone of transformers."""
        config = backbone.config
        eps, spread = getattr(config, "layer_norm_eps", 1e-12), getattr(config, "initializer_range", 0.02)
        return cls(config.hidden_size, word_embeddings(backbone), eps, spread)

    def forward(self, states_BLH: Tensor, labels_BL: Tensor, table_VE: Tensor) -> Tensor:
        """Summed cross-entropy of each text's labelled tokens [B]; a text without any has 0."""
        text_M, place_M = (labels_BL != UNLABELLED).nonzero(as_tuple=True)
        hidden_ME = self.norm(nn.functional.gelu(self.dense(states_BLH[text_M, place_M])))
        scores_MV = nn.functional.linear(hidden_ME, table_VE, self.bias)
        losses_M = nn.functional.cross_entropy(scores_MV, labels_BL[text_M, place_M], reduction="none")
        return losses_M.new_zeros(len(labels_BL)).index_add(0, text_M, losses_M)

    def load(self, folder: Path) -> str:
        """Load the head in a model folder, ours or transformers'; returns which of these it was, or "" if there is
        none.

        Raises:
            InputError: for a head of another shape.
        """
        if (folder / MLM_FILE).is_file():
            load_into(self, folder / MLM_FILE)
            return "own"
        for kind, (dense, norm, bias) in PLACES.items():
            wanted = {
                f"{ours}.{name}": f"{theirs}.{name}"
                for ours, theirs in (("dense", dense), ("norm", norm))
                for name in OLD_NAMES
            }
            found = _tensors(folder, {**wanted, "bias": bias}, norm)
            if found is not None:
                _fit(self, found, folder)
                return kind
        return ""


class Condenser(nn.Module):
    """Transformer layers over the first token of the last layer and the other tokens of the middle layer.

    To predict masked tokens, the late layers must pass their knowledge of the text through that first token. Gao and
    Callan, Condenser: a Pre-training Architecture for Dense Retrieval, EMNLP 2021.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        width, heads = config.hidden_size, config.num_attention_heads
        inner, spread = getattr(config, "intermediate_size", 4 * width), getattr(config, "initializer_range", 0.02)
        dropout, eps = getattr(config, "hidden_dropout_prob", 0.1), getattr(config, "layer_norm_eps", 1e-12)
        self.middle = config.num_hidden_layers // 2
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, inner, dropout, "gelu", eps, batch_first=True)
            for _ in range(CONDENSER_LAYERS)
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=spread)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.MultiheadAttention):
                nn.init.normal_(module.in_proj_weight, std=spread)

    def forward(self, last_BLH: Tensor, middle_BLH: Tensor, mask_BL: Tensor) -> Tensor:
        """States [B, L, H] from those of the backbone's last and middle layer."""
        states_BLH = torch.cat([last_BLH[:, :1], middle_BLH[:, 1:]], 1)
        for layer in self.layers:
            states_BLH = layer(states_BLH, src_key_padding_mask=mask_BL == 0)
        return states_BLH


def word_embeddings(backbone: Any) -> Tensor:
    """The word embeddings [V, E] of a backbone of transformers."""
    table: Tensor = backbone.get_input_embeddings().weight
    return table


def save_head_file(module: nn.Module, path: Path) -> None:
    save_file({name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}, path)


def load_into(module: nn.Module, path: Path) -> None:
    """Load a head. Raises: InputError for a file that lacks some of its tensors or has them in another shape."""
    _fit(module, load_file(path), path)


def _fit(module: nn.Module, found: dict[str, Tensor], where: Path) -> None:
    for name, value in module.state_dict().items():
        if name not in found or found[name].shape != value.shape:
            shape = list(found[name].shape) if name in found else "missing"
            raise InputError(
                f"{where}: {name} of the saved head has shape {shape}; the model needs {list(value.shape)}"
            )
    module.load_state_dict(found)


def _tensors(folder: Path, wanted: dict[str, str], norm: str) -> dict[str, Tensor] | None:
    """Tensors of the weight files in `folder` by our names; None where one of those wanted is missing."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as source:
            there = set(source.keys())
            for ours, theirs in wanted.items():
                stem, _, last = theirs.rpartition(".")
                for name in (theirs, f"{stem}.{OLD_NAMES[last]}") if stem == norm else (theirs,):
                    if name in there:
                        found[ours] = source.get_tensor(name).float()
    return found if len(found) == len(wanted) else None
