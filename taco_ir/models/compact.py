"""A checkpoint made small: half-precision weights, and only the tokens that texts of a collection are made of.

WordPiece splits a word into the longest tokens that the vocabulary has; without a rare token it takes shorter ones, down to
single characters, which are all kept. So every text stays readable, and texts of kept tokens give the same vectors up to rounding.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from taco_ir.files import InputError, read_json, write_json
from taco_ir.models.config import EncoderConfig

WEIGHTS, TOKENIZER, CONFIG = "model.safetensors", "tokenizer.json", "config.json"
UNUSED_WEIGHTS = ("pooler.",)
BATCH = 1024
HALF = 2  # bytes


class Compacted(NamedTuple):
    """What was kept: tokens of how many, and the bytes of the folder's weights and tokenizer."""

    tokens: int
    of: int
    size: int


def compact(source: Path, target: Path, config: EncoderConfig, texts: Iterable[str], limit: int) -> Compacted:
    """Write `source` to `target` in at most `limit` bytes, with the tokens that are most frequent in `texts`.

    Args:
        source: a folder with a BERT-type model and a WordPiece tokenizer.
        config: the encoder's, which goes along.
        texts: a sample of what the model will read, by which tokens are kept.

    Raises:
        InputError: for another kind of model, one with a head, or one that is too large even with special tokens and characters alone.
    """
    from safetensors.torch import load_file, save_file

    if config.head:
        raise InputError(f"--model {source}: a linear head is not kept in a small folder")
    vocabulary = _wordpiece(source)
    weights = {name: value.half() for name, value in load_file(source / WEIGHTS).items() if not name.startswith(UNUSED_WEIGHTS)}
    name = next((name for name, value in weights.items() if name.endswith("word_embeddings.weight")), None)
    if name is None:
        raise InputError(f"--model {source}: no word embeddings of a BERT-type model; only these can be made small")
    rows_VD = weights[name]
    others = HALF * (sum(value.numel() for value in weights.values()) - rows_VD.numel()) + (source / TOKENIZER).stat().st_size
    kept = _chosen(source, vocabulary, texts, (limit - others) // (HALF * rows_VD.shape[1]))
    weights[name] = rows_VD[[vocabulary[token] for token in kept]].clone()
    save_file(weights, target / WEIGHTS, {"format": "pt"})
    _write_tokenizer(source, target, kept)
    write_json(target / CONFIG, read_json(source / CONFIG) | {"vocab_size": len(kept), "dtype": "float16"})
    config.save(target)
    settings = source / "tokenizer_config.json"
    if settings.is_file():
        (target / settings.name).write_bytes(settings.read_bytes())
    return Compacted(len(kept), len(vocabulary), sum((target / part).stat().st_size for part in (WEIGHTS, TOKENIZER)))


def _wordpiece(source: Path) -> dict[str, int]:
    """The vocabulary, token -> row. Raises: InputError for another tokenizer."""
    path = source / TOKENIZER
    if not path.is_file() or not (source / WEIGHTS).is_file():
        raise InputError(f"--model {source}: {TOKENIZER} and {WEIGHTS} are needed to make it small")
    model: dict[str, Any] = read_json(path)["model"]
    if model.get("type") != "WordPiece":
        raise InputError(
            f"--model {source}: a tokenizer of kind {model.get('type')!r}; only WordPiece can lose tokens and still read every text"
        )
    vocabulary: dict[str, int] = model["vocab"]
    return vocabulary


def _chosen(source: Path, vocabulary: dict[str, int], texts: Iterable[str], room: int) -> list[str]:
    """Special tokens and characters, then the most frequent tokens, in the order of the old vocabulary. Raises: InputError."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(source / TOKENIZER))
    tokenizer.no_truncation()
    special = {added["content"] for added in read_json(source / TOKENIZER).get("added_tokens", ())}
    if foreign := special - vocabulary.keys():
        raise InputError(f"--model {source}: added token {min(foreign)!r} is not in the vocabulary; such a tokenizer cannot be made small")
    needed = special | {token for token in vocabulary if len(token.removeprefix("##")) == 1}
    if room < len(needed):
        raise InputError(
            f"--model {source}: too large; special tokens and characters alone are {len(needed)} tokens, and there is room for {room}"
        )
    counts: Counter[int] = Counter()
    left = iter(texts)
    while batch := list(islice(left, BATCH)):
        for encoding in tokenizer.encode_batch(batch, add_special_tokens=False):
            counts.update(encoding.ids)
    token_of = {row: token for token, row in vocabulary.items()}
    frequent = [token for row, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if (token := token_of[row]) not in needed]
    kept = needed | set(frequent[: room - len(needed)])
    return sorted(kept, key=vocabulary.__getitem__)


def _write_tokenizer(source: Path, target: Path, kept: list[str]) -> None:
    """The tokenizer with these tokens alone, numbered in this order."""
    rows = {token: row for row, token in enumerate(kept)}
    values = read_json(source / TOKENIZER)
    values["model"]["vocab"] = rows
    for added in values.get("added_tokens", ()):
        added["id"] = rows[added["content"]]
    _renumber(values.get("post_processor") or {}, rows)
    values["truncation"] = values["padding"] = None
    (target / TOKENIZER).write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")


def _renumber(processor: dict[str, Any], rows: dict[str, int]) -> None:
    """Ids that a BERT or template post-processor holds beside its tokens."""
    for name in ("sep", "cls"):
        if name in processor:
            processor[name] = [processor[name][0], rows[processor[name][0]]]
    for token, entry in (processor.get("special_tokens") or {}).items():
        entry["ids"] = [rows[each] for each in entry["tokens"]]
        assert entry["id"] == token
