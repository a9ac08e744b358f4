"""Makes a checkpoint small: half precision or 8 bits and, if that is not enough, only the most frequent tokens.

WordPiece splits a word into the longest tokens in the vocabulary; if a rare token is missing, it uses shorter ones,
down to single characters, which are all kept. So every text can still be encoded, and texts of kept tokens get the same
vectors up to rounding. Tokens of prompts and template are kept too.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
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
UNUSED_WEIGHTS = ("pooler.", "cls.")  # no vector depends on them
BATCH = 1024
RECORD_BYTES = 4096  # the most that tuning.json takes
NAMED = 128  # the most bytes that name a tensor in a file, or say in config.json how weights are stored


class AnyModel(NamedTuple):
    """The `model` entry of any tokenizer.json; its type is a name such as WordPiece."""

    type: str = ""


class AnyTokenizer(NamedTuple):
    """The part that every tokenizer.json has, whatever its kind: `model`."""

    model: AnyModel


class WordPieceModel(NamedTuple):
    """The vocabulary: tokens and their ids."""

    vocab: dict[str, Annotated[int, 0]]


class Added(NamedTuple):
    """A special token."""

    content: str


class Special(NamedTuple):
    """An entry of a template post-processor: its name, and the tokens that it puts around texts."""

    id: str
    tokens: tuple[str, ...]


class PostProcessor(NamedTuple):
    """The tokens of a BERT (sep, cls) or template (special_tokens) post-processor."""

    sep: tuple[str, int] | None = None
    cls: tuple[str, int] | None = None
    special_tokens: dict[str, Special] | None = None


class WordPiece(NamedTuple):
    """The parts of a WordPiece tokenizer.json that this module reads."""

    model: WordPieceModel
    added_tokens: tuple[Added, ...] = ()
    post_processor: PostProcessor | None = None

    @property
    def special(self) -> set[str]:
        """Tokens that are not word pieces."""
        processor = self.post_processor or PostProcessor()
        around = {token for each in (processor.special_tokens or {}).values() for token in each.tokens}
        named = {pair[0] for pair in (processor.sep, processor.cls) if pair}
        return {added.content for added in self.added_tokens} | around | named


class Compacted(NamedTuple):
    """The result of `compact`: the number of kept tokens, the number before, and the folder's size in bytes."""

    tokens: int
    of: int
    size: int


def compact(
    source: Path, target: Path, config: EncoderConfig, texts: Iterable[str], limit: int, stored: str = "float16"
) -> Compacted:
    """Write `source` to `target` in at most `limit` bytes, with all tokens or the most frequent tokens in `texts`.

    Args:
        source: a folder with a BERT-type model and a WordPiece tokenizer.
        config: the encoder's configuration, saved with it.
        texts: a sample of the model's future inputs; used only if not all tokens fit.
        stored: the format of the weights, one of `STORES`.

    Raises:
        InputError: for a model of another kind, or with a head or role marks, or if the model is too large even with
            only special tokens and characters.
    """
    from safetensors.torch import save_file

    if config.roles != NONE:
        raise InputError(f"--model {source}: a compact folder cannot store roles {config.roles}; give another model")
    if config.head:
        raise InputError(f"--model {source}: a compact folder cannot store a linear head; give a model without one")
    tokenizer = _read_wordpiece(source)
    vocabulary = tokenizer.model.vocab
    name, rows_VD, others = _split_embeddings(source)
    if beyond := [token for token, row in vocabulary.items() if row >= len(rows_VD)]:
        raise InputError(
            f"{source / TOKENIZER}: token {abbreviate(beyond[0])} has the id {abbreviate(vocabulary[beyond[0]])}, "
            f"but the model has only {len(rows_VD)} tokens"
        )
    file, store = STORES[stored]
    config.save(target)
    beside = [source / SETTINGS] * (source / SETTINGS).is_file()
    for path in beside:
        (target / path.name).write_bytes(path.read_bytes())
    rows = store({name: rows_VD})
    files = _count_bytes(source / TOKENIZER, source / CONFIG, target / CONFIG_FILE, *beside)
    taken = sum(value.nbytes + NAMED for value in store(others).values()) + NAMED * (len(rows) + 1) + files
    room = (limit - taken) * len(rows_VD) // sum(value.nbytes for value in rows.values())
    own_texts = (*config.prompts.values(), config.passage_form.format(title="", text=""))
    kept = sorted(vocabulary, key=vocabulary.__getitem__)
    if room < len(kept):
        kept = _select_tokens(source, tokenizer, own_texts, texts, room)
    weights = others | {name: rows_VD[[vocabulary[token] for token in kept]]}
    save_file(_require_finite(store(weights), source), target / file, {"format": "pt"})
    _write_tokenizer(source, target, kept)
    model = describe_weights(read_json(source / CONFIG, dict[str, Any]), stored)
    write_json(target / CONFIG, model | {"vocab_size": len(kept)})
    return Compacted(len(kept), len(vocabulary), folder_size(target))


def compact_adapters(
    encoder: TextEncoder, base: Path, target: Path, texts: Iterable[str], limit: int, stored: str
) -> Compacted:
    """Write adapters in half precision with their backbone, which `compact` makes small, in at most `limit` bytes.

    Args:
        base: the folder of the backbone.

    Raises:
        InputError: as `compact` does.
    """
    from safetensors.torch import save_file

    if encoder.adapters is None or encoder.record is None:
        raise TypeError(f"{encoder.folder} has no adapters")
    tensors = {name: tensor.detach().cpu().half().contiguous() for name, tensor in encoder.adapters.stored().items()}
    save_file(_require_finite(tensors, encoder.folder), target / TENSORS_FILE)
    encoder.config.save(target)
    inside = target / BACKBONE
    inside.mkdir()
    alone = replace(encoder.config, prompts={}, query_lengths={})
    made = compact(base, inside, alone, texts, limit - folder_size(target) - RECORD_BYTES, stored)
    replace(encoder.record, base=BACKBONE, digest=ModelFolder(inside).fingerprint).save(target)
    return made._replace(size=folder_size(target))


def _split_embeddings(source: Path) -> tuple[str, Tensor, dict[str, Tensor]]:
    """The name and rows [V, D] of the word embeddings, and the other weights. Raises: InputError without embeddings."""
    weights = {
        name: value for name, value in read_weights(source).items() if not any(part in name for part in UNUSED_WEIGHTS)
    }
    name = next((name for name in weights if name.endswith("word_embeddings.weight")), None)
    if name is None:
        raise InputError(
            f"--model {source}: it is not a BERT-type model with word embeddings; only such models can be made compact"
        )
    return name, weights.pop(name), weights


def _require_finite(tensors: dict[str, Tensor], source: Path) -> dict[str, Tensor]:
    """Returns the tensors. Raises: InputError for numbers that are not finite in the precision they are stored in."""
    for name, value in tensors.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise InputError(
                f"--model {source}: {name} contains infinite numbers or NaN, or numbers too large for {value.dtype}"
            )
    return tensors


def _count_bytes(*paths: Path) -> int:
    return sum(path.stat().st_size for path in paths)


def folder_size(folder: Path) -> int:
    """The total size of all files in a folder, in bytes."""
    return _count_bytes(*(path for path in folder.rglob("*") if path.is_file()))


def _read_wordpiece(source: Path) -> WordPiece:
    """Reads tokenizer.json. Raises: InputError for another kind of tokenizer."""
    path = source / TOKENIZER
    if not path.is_file() or ModelFolder(source).weights_file is None:
        raise InputError(f"--model {source}: {TOKENIZER} and {PLAIN_FILE} are needed to make it compact")
    kind = read_json(path, AnyTokenizer, others=True).model.type
    if kind != "WordPiece":
        raise InputError(
            f"--model {source}: its tokenizer is of kind {kind!r}; only WordPiece can drop tokens and still encode "
            "every text"
        )
    found = read_json(path, WordPiece, others=True)
    if foreign := found.special - found.model.vocab.keys():
        raise InputError(
            f"{path}: added token {min(foreign)!r} is not in the vocabulary; such a tokenizer cannot be made compact"
        )
    return found


def _select_tokens(source: Path, read: WordPiece, own: Sequence[str], texts: Iterable[str], room: int) -> list[str]:
    """Selects special tokens, characters and the tokens of `own` texts, then the most frequent ones, in old order.

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
            f"--model {source}: it does not fit, allow more --megabytes: special tokens, characters and prompts need "
            f"{len(needed)} tokens, and there is room for {room}"
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
    """Writes the tokenizer with only these tokens, numbered in this order."""
    rows = {token: row for row, token in enumerate(kept)}
    values = read_json(source / TOKENIZER, dict[str, Any])
    values["model"]["vocab"] = rows
    for added in values.get("added_tokens", ()):
        added["id"] = rows[added["content"]]
    _renumber(values.get("post_processor") or {}, rows)
    values["truncation"] = values["padding"] = None
    (target / TOKENIZER).write_text(json.dumps(values, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")


def _renumber(processor: dict[str, Any], rows: dict[str, int]) -> None:
    """Sets the token ids in a post-processor to the new ids."""
    for name in ("sep", "cls"):
        if processor.get(name):
            processor[name] = [processor[name][0], rows[processor[name][0]]]
    for token, entry in (processor.get("special_tokens") or {}).items():
        if entry["id"] != token:
            raise InputError(
                f"{TOKENIZER}: its post-processor gives {token!r} the id {entry['id']!r}; such a tokenizer cannot "
                "be made compact"
            )
        entry["ids"] = [rows[each] for each in entry["tokens"]]
