"""Texts with masked tokens, and their labels.

Devlin et al., BERT: Pre-training of Deep Bidirectional Transformers, NAACL 2019, section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from taco_ir.training.documents import Ids
from taco_ir.training.encoder import Text

UNLABELLED = -100  # the label of a token that is not masked
MASKED, RANDOM = 0.8, 0.9  # thresholds: below 0.8 the mask, below 0.9 a random token, otherwise the token itself
MASKS = ("[MASK]", "<mask>", "<extra_id_0>")  # BERT's, RoBERTa's, T5's
SCORE_BYTES = 12  # bytes for each pair of masked token and vocabulary entry: score, softmax, gradient


class Vocabulary(NamedTuple):
    """The token ids that masking needs, from a tokenizer.

    Attributes:
        before, after: ids of the special tokens before and after a text.
        mask: id of the mask token; None: the tokenizer has none.
        ordinary: ids of all tokens that are not special.
    """

    before: Ids
    after: Ids
    mask: int | None
    ordinary: Ids


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    framed, bare = tokenizer.encode("a").ids, tokenizer.encode("a", add_special_tokens=False).ids
    place = next(i for i in range(len(framed)) if framed[i : i + len(bare)] == bare)
    special = tokenizer.get_added_tokens_decoder()
    ordinary = sorted(number for number in tokenizer.get_vocab().values() if number not in special)
    masks = [number for text in MASKS if (number := tokenizer.token_to_id(text)) is not None]
    before, after = (np.array(ids, dtype=np.int64) for ids in (framed[:place], framed[place + len(bare) :]))
    return Vocabulary(before, after, masks[0] if masks else None, np.array(ordinary, dtype=np.int64))


def mask_tokens(
    ids_L: Ids, share: float, mask_id: int, vocabulary: Ids, random: np.random.Generator
) -> tuple[Ids, Ids]:
    """Masks random tokens of a text. Returns the new ids [L], and labels [L]: old ids of masked tokens, others -100.

    Each token is masked with probability `share`: 80 % of these are replaced by the mask, 10 % by a random token of
    `vocabulary`, and 10 % stay as they are (BERT, section 3.1).
    """
    chosen_L = random.random(len(ids_L)) < share
    kind_L = random.random(len(ids_L))
    random_L = vocabulary[random.integers(0, len(vocabulary), len(ids_L))]
    replaced_L = np.where(kind_L < MASKED, mask_id, np.where(kind_L < RANDOM, random_L, ids_L))
    return np.where(chosen_L, replaced_L, ids_L), np.where(chosen_L, ids_L, UNLABELLED)


def masked_text(words: Vocabulary, span_L: Ids, share: float, draw: np.random.Generator) -> Text:
    """Makes a text of a span and special tokens. A fraction `share` of the span is masked if there is a mask token."""
    before, after, mask_id, ordinary = words
    if mask_id is None or not share:
        return Text("passage", np.concatenate([before, span_L, after]))
    ids_L, labels_L = mask_tokens(span_L, share, mask_id, ordinary, draw)
    frame = (np.full(len(side), UNLABELLED) for side in (before, after))
    return Text("passage", np.concatenate([before, ids_L, after]), np.concatenate([next(frame), labels_L, next(frame)]))


def labelled(texts: Sequence[Text]) -> int:
    """Returns the number of masked tokens in all texts."""
    return sum(int((text.labels != UNLABELLED).sum()) for text in texts if text.labels is not None)


def label_rows(texts: Sequence[Text], length: int) -> Tensor:
    """Returns labels [B, L], where L is `length`: the old ids of masked tokens, -100 for all others."""
    labels_BL = np.full((len(texts), length), UNLABELLED, dtype=np.int64)
    for row, text in enumerate(texts):
        if text.labels is not None:
            labels_BL[row, : len(text.labels)] = text.labels
    return torch.from_numpy(labels_BL)
