"""Turns texts into vectors, for training and search: tokenizing, padding, the forward pass, pooling, head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from taco_ir.encoders.config import EncoderConfig

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

Ids = npt.NDArray[np.int64]
TOKENIZED_AT_ONCE = 512


def tokenize(
    tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int, marker: int | None = None
) -> tuple[list[Ids], int]:
    """Return the token ids of each text, and the number of truncated texts. Works in chunks to save memory.

    Args:
        marker: id of a token to insert at the front, after the special token if there is one; it counts as a token.
    """
    tokenizer.enable_truncation(max_tokens - (marker is not None))
    ids, cut = [], 0
    for start in range(0, len(texts), TOKENIZED_AT_ONCE):
        for encoding in tokenizer.encode_batch_fast(list(texts[start : start + TOKENIZED_AT_ONCE])):
            ids.append(np.array(encoding.ids, dtype=np.int64))
            cut += bool(encoding.overflowing)
    if marker is not None:
        place = tokenizer.encode("a").special_tokens_mask.index(0)  # 1, or 0 for T5
        ids = [np.insert(ids_L, place, marker) for ids_L in ids]
    return ids, cut


def batch_by_length(lengths: Sequence[int], batch_size: int, tokens: int) -> Iterator[list[int]]:
    """Yield batches of positions of texts with similar length, the longest texts first.

    A batch has at most `batch_size` texts and, if it has several, at most `tokens` tokens, padding included.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        size = max(1, min(batch_size, tokens // max(lengths[order[start]], 1)))
        yield order[start : start + size]
        start += size


def pad(ids: Sequence[Ids], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad token ids to the longest text; return ids [B, L] and attention mask [B, L]."""
    import torch

    length = max(len(ids_L) for ids_L in ids)
    ids_BL = np.full((len(ids), length), pad_id, dtype=np.int64)
    mask_BL = np.zeros((len(ids), length), dtype=np.int64)
    for row, ids_L in enumerate(ids):
        ids_BL[row, : len(ids_L)] = ids_L
        mask_BL[row, : len(ids_L)] = 1
    return torch.from_numpy(ids_BL), torch.from_numpy(mask_BL)


def embed(
    backbone: torch.nn.Module,
    config: EncoderConfig,
    ids_BL: torch.Tensor,
    mask_BL: torch.Tensor,
    head: torch.nn.Module | None = None,
    **marks: Any,
) -> torch.Tensor:
    """Encode padded texts as vectors [B, D], pooled and normalised as in `config`; `marks`: `RoleMarks.inputs`."""
    return pool(read(backbone, config, ids_BL, mask_BL, **marks), config, mask_BL, head)


def read(
    backbone: torch.nn.Module, config: EncoderConfig, ids_BL: torch.Tensor, mask_BL: torch.Tensor, **options: Any
) -> Any:
    """Run the backbone on padded texts; return transformers' output (the decoder's, if `config` pools there)."""
    import torch

    inputs: dict[str, Any] = {"input_ids": ids_BL, "attention_mask": mask_BL, **options}
    if config.pooling == "decoder":
        start: int = backbone.config.decoder_start_token_id  # type: ignore[union-attr,assignment]
        inputs["decoder_input_ids"] = torch.full_like(ids_BL[:, :1], start)
    if config.pooling == "last":
        inputs["use_cache"] = False  # a causal model would keep keys and values, which nothing reads
    return backbone(**inputs)


def pool(
    output: Any, config: EncoderConfig, mask_BL: torch.Tensor, head: torch.nn.Module | None = None
) -> torch.Tensor:
    """Pool transformers' output to vectors [B, D]. Padding may be on the left only for pooling `mean` and `last`."""
    import torch

    states_BLD = output.last_hidden_state
    if config.pooling == "mean":
        weight_BL1 = mask_BL.unsqueeze(-1).to(states_BLD.dtype)
        vectors_BD = (states_BLD * weight_BL1).sum(1) / weight_BL1.sum(1)
    elif config.pooling == "last":
        places_L = torch.arange(mask_BL.shape[1], device=mask_BL.device)
        vectors_BD = states_BLD[torch.arange(len(mask_BL), device=mask_BL.device), (mask_BL * places_L).argmax(1)]
    elif config.pooling == "pooler":
        vectors_BD = output.pooler_output
    else:
        vectors_BD = states_BLD[:, 0]
    if head is not None:
        vectors_BD = head(vectors_BD)
    return torch.nn.functional.normalize(vectors_BD, dim=-1) if config.normalize else vectors_BD
