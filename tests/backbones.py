"""Tiny backbones with random weights, one of each architecture that can have adapters."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    ModernBertConfig,
    ModernBertModel,
    MT5Config,
    MT5EncoderModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5EncoderModel,
    T5Model,
)

SIZES = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"intermediate_size": 64}
# one layer in which all tokens see each other, then two in which those up to two places apart do
LOCAL = {"num_hidden_layers": 3, "local_attention": 4, "max_position_embeddings": 64, "pad_token_id": 0}
T5_SIZES = {"vocab_size": 100, "d_model": 32, "d_kv": 4, "d_ff": 64, "num_layers": 2, "num_heads": 4}
T5_SIZES |= {"decoder_start_token_id": 0}
BACKBONES: dict[str, Callable[[], PreTrainedModel]] = {
    "bert": lambda: BertModel(BertConfig(**SIZES, max_position_embeddings=64)),
    "roberta": lambda: RobertaModel(RobertaConfig(**SIZES, max_position_embeddings=64)),
    "electra": lambda: ElectraModel(ElectraConfig(**SIZES, embedding_size=16, max_position_embeddings=64)),
    "distilbert": lambda: DistilBertModel(
        DistilBertConfig(vocab_size=100, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=64)
    ),
    "modernbert": lambda: ModernBertModel(
        ModernBertConfig(**SIZES | LOCAL, bos_token_id=1, cls_token_id=1, eos_token_id=2, sep_token_id=2)
    ),
    "t5 encoder": lambda: T5EncoderModel(T5Config(**T5_SIZES)),
    "mt5 encoder": lambda: MT5EncoderModel(MT5Config(**T5_SIZES)),
    "t5": lambda: T5Model(T5Config(**T5_SIZES)),
}
NO_BIASES = ("modernbert", "t5", "t5 encoder", "mt5 encoder")
IDS_BL = torch.arange(4, 20).view(2, 8)
MASK_BL = torch.tensor([[1] * 8, [1] * 5 + [0] * 3])


def possible(kind: str, method: str) -> bool:
    """Whether a method has something to train there: biases, or projections to queries and to values alone."""
    return method != "bitfit" or kind not in NO_BIASES if method != "lora" else kind != "modernbert"


def backbone(kind: str) -> PreTrainedModel:
    """Without dropout, the same at each call, biases included."""
    torch.manual_seed(3)
    made = BACKBONES[kind]().eval()
    with torch.no_grad():
        for name, param in made.named_parameters():
            if name.endswith(".bias"):
                param.normal_(std=0.1)
    return made


def states(model: PreTrainedModel, ids_BL: torch.Tensor = IDS_BL, mask_BL: torch.Tensor = MASK_BL) -> torch.Tensor:
    """Last hidden states [B, L, H]; T5's of the encoder."""
    if isinstance(model, T5Model):
        return model(
            input_ids=ids_BL, attention_mask=mask_BL, decoder_input_ids=ids_BL[:, :1] * 0
        ).encoder_last_hidden_state
    return model(input_ids=ids_BL, attention_mask=mask_BL).last_hidden_state
