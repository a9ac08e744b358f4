"""Heads for self-supervised training: the masked-language head, and Condenser's layers, which only checkpoints keep."""

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
# names of the head's tensors in checkpoints of transformers: its layer, its layer norm, the bias of each token
PLACES = {
    "BERT": ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias"),
    "RoBERTa": ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
    "DistilBERT": ("vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
    "ELECTRA": ("generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head.bias"),
    "ALBERT": ("predictions.dense", "predictions.LayerNorm", "predictions.bias"),
}
OLD_NAMES = {"weight": "gamma", "bias": "beta"}  # names of layer norms' tensors in the first BERT checkpoints


class MaskedLanguageHead(nn.Module):
    """BERT's head: a linear layer, GELU, layer norm, then scores of all V tokens by the (tied) word embeddings."""

    def __init__(self, width: int, table_VE: Tensor, eps: float, spread: float) -> None:
        super().__init__()
        self.dense = nn.Linear(width, table_VE.shape[1])
        self.norm = nn.LayerNorm(table_VE.shape[1], eps)
        self.bias = nn.Parameter(torch.zeros(len(table_VE)))
        nn.init.normal_(self.dense.weight, std=spread)
        nn.init.zeros_(self.dense.bias)

    @classmethod
    def of(cls, backbone: Any) -> MaskedLanguageHead:
        """Makes a new head for a backbone of the library transformers."""
        config = backbone.config
        eps, spread = getattr(config, "layer_norm_eps", 1e-12), getattr(config, "initializer_range", 0.02)
        return cls(config.hidden_size, word_embeddings(backbone), eps, spread)

    def forward(self, states_BLH: Tensor, labels_BL: Tensor, table_VE: Tensor) -> Tensor:
        """Returns the summed cross-entropy of each text's masked tokens, [B]; 0 for a text without masked tokens."""
        text_M, place_M = (labels_BL != UNLABELLED).nonzero(as_tuple=True)
        hidden_ME = self.norm(nn.functional.gelu(self.dense(states_BLH[text_M, place_M])))
        scores_MV = nn.functional.linear(hidden_ME, table_VE, self.bias)
        losses_M = nn.functional.cross_entropy(scores_MV, labels_BL[text_M, place_M], reduction="none")
        return losses_M.new_zeros(len(labels_BL)).index_add(0, text_M, losses_M)

    def load(self, folder: Path) -> str:
        """Loads the head from a model folder. Returns "own" for one that taco_ir saved, the type of a Hugging Face
        model, such as "BERT", or "" if there is no head.

        Raises:
            InputError: if the head has another shape.
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
    """Transformer layers on top of the backbone, as in Condenser (Gao and Callan, EMNLP 2021).

    Their input is the first token of the last layer, and the other tokens of the middle layer. To predict masked
    tokens, the late layers of the backbone must pass their knowledge of the text through this first token.
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
        """Returns states [B, L, H], computed from the states of the backbone's last and middle layer."""
        states_BLH = torch.cat([last_BLH[:, :1], middle_BLH[:, 1:]], 1)
        for layer in self.layers:
            states_BLH = layer(states_BLH, src_key_padding_mask=mask_BL == 0)
        return states_BLH


def word_embeddings(backbone: Any) -> Tensor:
    """Returns the word embeddings [V, E] of a backbone of the library transformers."""
    table: Tensor = backbone.get_input_embeddings().weight
    return table


def save_head_file(module: nn.Module, path: Path) -> None:
    save_file({name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}, path)


def load_into(module: nn.Module, path: Path) -> None:
    """Loads a head from a file. Raises InputError if tensors are missing or have another shape."""
    _fit(module, load_file(path), path)


def _fit(module: nn.Module, found: dict[str, Tensor], where: Path) -> None:
    for name, value in module.state_dict().items():
        if name not in found or found[name].shape != value.shape:
            shape = list(found[name].shape) if name in found else "missing"
            raise InputError(
                f"{where}: tensor {name} is {shape}, but this model needs {list(value.shape)}; give another model"
            )
    module.load_state_dict(found)


def _tensors(folder: Path, wanted: dict[str, str], norm: str) -> dict[str, Tensor] | None:
    """Reads tensors from the weight files in `folder`, by our names; None if one of `wanted` is missing."""
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
