"""A checkpoint made small: weights in half precision or in 8 bits and, where these do not fit, the tokens that texts need most.

WordPiece splits a word into the longest tokens that the vocabulary has; without a rare token it takes shorter ones, down to
single characters, which are all kept. So every text stays readable, and texts of kept tokens give the same vectors up to rounding.
The tokens of prompts and template are kept too: the model was trained with just these before its texts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from taco_ir.core.files import InputError, read_json, write_json
from taco_ir.core.typed import abbreviate
from taco_ir.encoders.adapters.folder import TENSORS_FILE
from taco_ir.encoders.config import CONFIG_FILE, NONE, EncoderConfig
from taco_ir.encoders.model_folder import ModelFolder
from taco_ir.encoders.names import BACKBONE
from taco_ir.encoders.text_encoder import TextEncoder
from taco_ir.encoders.weights import CONFIG, PLAIN_FILE, STORES, describe_weights, read_weights

if TYPE_CHECKING:
    from torch import Tensor

TOKENIZER, SETTINGS = "tokenizer.json", "tokenizer_config.json"
UNUSED_WEIGHTS = ("pooler.", "cls.")  # what no vector depends on
BATCH = 1024
RECORD_BYTES = 4096  # what tuning.json takes, at most
NAMED = 128  # bytes that a file takes to say where a tensor is, or config.json to say how weights are stored, at most


class AnyModel(NamedTuple):
    """The kind of a tokenizer's model."""

    type: str = ""


class AnyTokenizer(NamedTuple):
    """What tokenizer.json of any kind says."""

    model: AnyModel


class WordPieceModel(NamedTuple):
    """Tokens and their rows."""

    vocab: dict[str, Annotated[int, 0]]


class Added(NamedTuple):
    """A special token."""

    content: str


class Special(NamedTuple):
    """What a post-processor puts around texts: its name, and its tokens."""

    id: str
    tokens: tuple[str, ...]


class PostProcessor(NamedTuple):
    """What a BERT or template post-processor says of tokens."""

    sep: tuple[str, int] | None = None
    cls: tuple[str, int] | None = None
    special_tokens: dict[str, Special] | None = None


class WordPiece(NamedTuple):
    """What is read of tokenizer.json of this kind."""

    model: WordPieceModel
    added_tokens: tuple[Added, ...] = ()
    post_processor: PostProcessor | None = None

    @property
    def special(self) -> set[str]:
        """Tokens that are no pieces of words."""
        behind = self.post_processor or PostProcessor()
        around = {token for each in (behind.special_tokens or {}).values() for token in each.tokens}
        return (
            {added.content for added in self.added_tokens}
            | around
            | {pair[0] for pair in (behind.sep, behind.cls) if pair}
        )


class Compacted(NamedTuple):
    """What was kept: tokens of how many, and the bytes of the folder."""

    tokens: int
    of: int
    size: int


def compact(
    source: Path, target: Path, config: EncoderConfig, texts: Iterable[str], limit: int, stored: str = "float16"
) -> Compacted:
    """Write `source` to `target` in at most `limit` bytes: with all tokens, or those that are most frequent in `texts`.

    Args:
        source: a folder with a BERT-type model and a WordPiece tokenizer.
        config: the encoder's, which goes along.
        texts: a sample of what the model will read, by which tokens are kept; read only where not all tokens fit.
        stored: how weights are, one of `stored.STORES`.

    Raises:
        InputError: for another kind of model, one with a head, or one that is too large even with special tokens and characters alone.
    """
    from safetensors.torch import save_file

    if config.roles != NONE:
        raise InputError(f"--model {source}: marks of roles ({config.roles}) are not kept in a small folder")
    if config.head:
        raise InputError(f"--model {source}: a linear head is not kept in a small folder")
    tokenizer = _wordpiece(source)
    vocabulary = tokenizer.model.vocab
    name, rows_VD, others = _embeddings(source)
    if beyond := [token for token, row in vocabulary.items() if row >= len(rows_VD)]:
        raise InputError(
            f"{source / TOKENIZER}: {abbreviate(beyond[0])} is token {abbreviate(vocabulary[beyond[0]])}; the model has {len(rows_VD)}"
        )
    file, store = STORES[stored]
    config.save(target)
    beside = [source / SETTINGS] * (source / SETTINGS).is_file()
    for path in beside:
        (target / path.name).write_bytes(path.read_bytes())
    rows = store({name: rows_VD})
    taken = (
        _size(store(others))
        + NAMED * (len(rows) + 1)
        + _bytes(source / TOKENIZER, source / CONFIG, target / CONFIG_FILE, *beside)
    )
    room = (limit - taken) * len(rows_VD) // _size(rows, 0)
    own_texts = (*config.prompts.values(), config.passage_template.format(title="", text=""))
    kept = sorted(vocabulary, key=vocabulary.__getitem__)
    if room < len(kept):
        kept = _chosen(source, tokenizer, own_texts, texts, room)
    weights = others | {name: rows_VD[[vocabulary[token] for token in kept]]}
    save_file(finite(store(weights), source), target / file, {"format": "pt"})
    _write_tokenizer(source, target, kept)
    described = describe_weights(read_json(source / CONFIG, dict[str, Any]), stored)
    write_json(target / CONFIG, described | {"vocab_size": len(kept)})
    return Compacted(len(kept), len(vocabulary), size_of(target))


def compact_adapters(
    encoder: TextEncoder, base: Path, target: Path, texts: Iterable[str], limit: int, stored: str
) -> Compacted:
    """Writes adapters in half precision, and their backbone as `compact` does in the same folder, in at most `limit` bytes.

    Args:
        base: the folder of the backbone.
        texts, stored: as those of `compact`.

    Raises:
        InputError: as `compact` does.
    """
    from safetensors.torch import save_file

    if encoder.adapters is None or encoder.record is None:
        raise TypeError(f"{encoder.folder} has no adapters")
    tensors = {name: tensor.detach().cpu().half().contiguous() for name, tensor in encoder.adapters.stored().items()}
    save_file(finite(tensors, encoder.folder), target / TENSORS_FILE)
    encoder.config.save(target)
    inside = target / BACKBONE
    inside.mkdir()
    alone = replace(encoder.config, prompts={}, query_lengths={})
    made = compact(base, inside, alone, texts, limit - size_of(target) - RECORD_BYTES, stored)
    replace(encoder.record, base=BACKBONE, digest=ModelFolder(inside).fingerprint).save(target)
    return made._replace(size=size_of(target))


def _embeddings(source: Path) -> tuple[str, Tensor, dict[str, Tensor]]:
    """Name and rows [V, D] of the word embeddings, and the other weights that vectors depend on. Raises: InputError where there are none."""
    weights = {
        name: value for name, value in read_weights(source).items() if not any(part in name for part in UNUSED_WEIGHTS)
    }
    name = next((name for name in weights if name.endswith("word_embeddings.weight")), None)
    if name is None:
        raise InputError(f"--model {source}: no word embeddings of a BERT-type model; only these can be made small")
    return name, weights.pop(name), weights


def finite(tensors: dict[str, Tensor], source: Path) -> dict[str, Tensor]:
    """The same. Raises: InputError for numbers that are not finite, or are not as they are stored."""
    for name, value in tensors.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise InputError(
                f"--model {source}: {name} holds numbers that are not finite, or too large for {value.dtype}"
            )
    return tensors


def _size(tensors: Mapping[str, Tensor], named: int = NAMED) -> int:
    """Bytes of tensors in a file, `named` for the name of each."""
    return sum(value.nbytes + named for value in tensors.values())


def _bytes(*paths: Path) -> int:
    return sum(path.stat().st_size for path in paths)


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder and those in it."""
    return _bytes(*(path for path in folder.rglob("*") if path.is_file()))


def _wordpiece(source: Path) -> WordPiece:
    """What tokenizer.json says. Raises: InputError for another tokenizer."""
    path = source / TOKENIZER
    if not path.is_file() or ModelFolder(source).weights_file is None:
        raise InputError(f"--model {source}: {TOKENIZER} and {PLAIN_FILE} are needed to make it small")
    kind = read_json(path, AnyTokenizer, others=True).model.type
    if kind != "WordPiece":
        raise InputError(
            f"--model {source}: a tokenizer of kind {kind!r}; only WordPiece can lose tokens and still read every text"
        )
    found = read_json(path, WordPiece, others=True)
    if foreign := found.special - found.model.vocab.keys():
        raise InputError(
            f"{path}: added token {min(foreign)!r} is not in the vocabulary; such a tokenizer cannot be made small"
        )
    return found


def _chosen(source: Path, read: WordPiece, own: Sequence[str], texts: Iterable[str], room: int) -> list[str]:
    """Special tokens, characters and what `own` texts are made of, then the most frequent tokens, in the order of the old vocabulary.

    Raises:
        InputError: for too little room.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(source / TOKENIZER))
    tokenizer.no_truncation()
    vocabulary = read.model.vocab
    needed = read.special | {token for token in vocabulary if len(token.removeprefix("##")) == 1}
    needed |= {token for text in own for token in tokenizer.encode(text, add_special_tokens=False).tokens}
    if room < len(needed):
        raise InputError(
            f"--model {source}: too large; special tokens, characters and prompts alone are {len(needed)} tokens, and there is room for {room}"
        )
    counts: Counter[int] = Counter()
    left = iter(texts)
    while batch := list(islice(left, BATCH)):
        for encoding in tokenizer.encode_batch(batch, add_special_tokens=False):
            counts.update(encoding.ids)
    frequent = sorted(vocabulary.keys() - needed, key=lambda token: (-counts[vocabulary[token]], vocabulary[token]))
    kept = needed | set(frequent[: room - len(needed)])
    return sorted(kept, key=vocabulary.__getitem__)


def _write_tokenizer(source: Path, target: Path, kept: list[str]) -> None:
    """The tokenizer with these tokens alone, numbered in this order."""
    rows = {token: row for row, token in enumerate(kept)}
    values = read_json(source / TOKENIZER, dict[str, Any])
    values["model"]["vocab"] = rows
    for added in values.get("added_tokens", ()):
        added["id"] = rows[added["content"]]
    _renumber(values.get("post_processor") or {}, rows)
    values["truncation"] = values["padding"] = None
    (target / TOKENIZER).write_text(json.dumps(values, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")


def _renumber(processor: dict[str, Any], rows: dict[str, int]) -> None:
    """Ids that a BERT or template post-processor holds beside its tokens."""
    for name in ("sep", "cls"):
        if processor.get(name):
            processor[name] = [processor[name][0], rows[processor[name][0]]]
    for token, entry in (processor.get("special_tokens") or {}).items():
        if entry["id"] != token:
            raise InputError(
                f"{TOKENIZER}: its post-processor calls {token!r} {entry['id']!r}; such a tokenizer cannot be made small"
            )
        entry["ids"] = [rows[each] for each in entry["tokens"]]
