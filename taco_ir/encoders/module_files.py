"""Writes the small files that make a folder readable for sentence-transformers; backbone and tokenizer do not change.

A checkpoint has them beside `taco_ir.json`, which our own loaders read first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any

from taco_ir.core.files import write_json
from taco_ir.encoders.config import ANY_TASK, NONE, EncoderConfig
from taco_ir.encoders.foreign_modules import LENGTHS_FILE, MODULES_FILE, PROMPTS_FILE, THEIR_POOLING
from taco_ir.encoders.weights import PLAIN_FILE

if TYPE_CHECKING:
    from torch import Tensor

MODULES = "sentence_transformers.models"  # a package name that every version reads


def split_template(config: EncoderConfig) -> tuple[str, str] | None:
    """Return the texts before a passage's title, and between title and text; None for a template of another form."""
    literals, names = [""], []
    for literal, name, _, _ in Formatter().parse(config.passage_template):
        literals[-1] += literal
        if name is not None:
            literals.append("")
            names.append(name)
    inside, between, *rest = literals
    return None if names != ["title", "text"] or any(rest) else (config.passage_prompt + inside, between)


def named_prompts(config: EncoderConfig, of_passages: str) -> dict[str, str]:
    """Return prompts by name for sentence-transformers: tasks, `query` for other queries, and `document`."""
    queries = {("query" if task == ANY_TASK else task): prompt for task, prompt in config.prompts.items()}
    return queries | {"document": of_passages}


def write_description(folder: Path, config: EncoderConfig, width: int) -> None:
    """Save a checkpoint's configuration, and if possible also in the form that sentence-transformers reads.

    That form has no role marks and no pooling by a decoder or pooler, and keeps linear layers in other files.

    Args:
        width: width of the backbone's token vectors.
    """
    config.save(folder)
    whole = config.roles == NONE and not config.head and config.pooling in THEIR_POOLING.values()
    if whole and (parts := split_template(config)) is not None:
        write_modules(folder, config, width, named_prompts(config, parts[0]))


def write_modules(
    folder: Path,
    config: EncoderConfig,
    width: int,
    prompts: Mapping[str, str],
    dense: Sequence[tuple[dict[str, Any], dict[str, Tensor]]] = (),
) -> None:
    """Write modules.json and the files that it names: pooling, lengths, prompts, and how vectors are compared.

    Args:
        width: width of the backbone's token vectors.
        dense: configuration and tensors of each linear layer after pooling.
    """
    lengths: dict[str, Any] = {
        "max_seq_length": max(config.query_length, config.passage_length),
        "do_lower_case": config.lowercase,
    }
    if config.query_length != config.passage_length:
        lengths |= {"query_length": config.query_length, "document_length": config.passage_length}
    write_json(folder / LENGTHS_FILE, lengths)
    kinds = ["Transformer", "Pooling", *["Dense"] * len(dense), *["Normalize"] * config.normalize]
    paths = [f"{place}_{kind}" if place else "" for place, kind in enumerate(kinds)]
    entries = enumerate(zip(kinds, paths, strict=True))
    modules = [{"idx": i, "name": str(i), "path": path, "type": f"{MODULES}.{kind}"} for i, (kind, path) in entries]
    write_json(folder / MODULES_FILE, modules)
    for path in filter(None, paths):
        (folder / path).mkdir(exist_ok=True)
    pooling = {
        "word_embedding_dimension": width,
        "pooling_mode_cls_token": config.pooling == "first",
        "pooling_mode_mean_tokens": config.pooling == "mean",
        "pooling_mode_lasttoken": config.pooling == "last",
    }
    write_json(folder / paths[1] / "config.json", pooling)
    for path, (said, tensors) in zip(paths[2:], dense, strict=False):
        from safetensors.torch import save_file

        write_json(folder / path / "config.json", said)
        save_file(tensors, folder / path / PLAIN_FILE)
    similarity = "cosine" if config.normalize else "dot"
    write_json(
        folder / PROMPTS_FILE, {"prompts": dict(prompts), "default_prompt_name": None, "similarity_fn_name": similarity}
    )
