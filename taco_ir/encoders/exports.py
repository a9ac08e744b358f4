"""Exports a checkpoint as a plain Hugging Face folder with Pyserini's flags, or as a sentence-transformers folder."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taco_ir.core.files import InputError, read_json, write_json
from taco_ir.core.processes import log
from taco_ir.encoders.adapters.methods import mergeable, method_of
from taco_ir.encoders.backbone import load_backbone
from taco_ir.encoders.config import ANY_TASK, MENTION, NONE, EncoderConfig
from taco_ir.encoders.foreign_modules import THEIR_POOLING
from taco_ir.encoders.model_folder import INDEX, T5_ENCODERS, WEIGHTS, Kind, ModelFolder
from taco_ir.encoders.module_files import named_prompts, split_template, write_modules
from taco_ir.encoders.weights import INT8_FILE, is_int8, write_plain

if TYPE_CHECKING:
    from torch import Tensor

    from taco_ir.encoders.text_encoder import TextEncoder

START = "python -m taco_ir.pyserini"
PLAIN_TEMPLATE = "{title} {text}"  # the one that Pyserini's document encoder has
PYSERINI_POOLING = {"first": "cls", "mean": "mean"}
INSTEAD = "use --encoder-class taco, or the exported queries"
USAGE, DIFFERENCES = (Path(__file__).with_name(f"{name}.md") for name in ("exported", "exported_differences"))


def copy_backbone(folder: ModelFolder, target: Path, max_tokens: int) -> None:
    """Copy weights, configuration and tokenizer. `max_tokens` becomes the tokenizer's maximum, which Pyserini uses.

    8-bit weights are converted to float32, which all tools can read. DPR encoders are written as plain BERT models, and
    PEFT adapters are merged with their base model.
    """
    for path in folder.tokenizer_files():
        shutil.copy2(path, target / path.name)
    if folder.is_dpr or folder.is_peft:
        load_backbone(folder, EncoderConfig())[0].save_pretrained(target)  # type: ignore[operator]
    else:
        files = folder.files
        for path in (files / "config.json", *files.glob(f"*{WEIGHTS}"), *files.glob(f"*{INDEX}")):
            shutil.copy2(path, target / path.name)
        if is_int8(files):
            (target / INT8_FILE).unlink()
            write_plain(files, target)
    path = target / "tokenizer_config.json"
    write_json(path, (read_json(path, dict[str, Any]) if path.is_file() else {}) | {"model_max_length": max_tokens})


def _refuse_parts(folder: ModelFolder, config: EncoderConfig, valid: Collection[str]) -> None:
    """Raise InputError if the encoder has features that the format of the export cannot store."""
    if folder.is_untied:
        query, passage = folder.path / "query", folder.path / "passage"
        parts = f"export {query} and {passage} one by one" * (folder.kind is Kind.TOWERS)
        raise InputError(f"this model has two towers, but the format holds only one; {parts or INSTEAD}")
    if config.roles != NONE:
        raise InputError(f"this format cannot store role marks (roles {config.roles}); {INSTEAD}")
    if config.pooling not in valid:
        raise InputError(f"this format has no pooling {config.pooling!r}, only {', '.join(valid)}; {INSTEAD}")


def write_merged(encoder: TextEncoder, base: ModelFolder, target: Path) -> None:
    """Merge an adapter into its backbone and write a plain model folder that gives the same vectors.

    If only queries have an adapter, the folder is for queries; passages still go through the backbone.

    Args:
        base: the folder of the backbone.

    Raises:
        InputError: for adapters that cannot be merged, or for several adapters.
    """
    adapters, record, config = encoder.adapters, encoder.record, encoder.config
    if adapters is None or record is None:
        raise TypeError(f"{encoder.folder} has no adapters")
    merge = method_of(record.method).merge
    if merge is None:
        raise InputError(
            f"adapters of method {record.method} cannot be merged into the backbone, only adapters of "
            f"{', '.join(mergeable())}; use the exported queries"
        )
    if not record.mergeable and not record.merges_queries:
        raise InputError(
            f"with tune_roles {record.roles} there are several adapters, and the format can hold only one; "
            "use the exported queries"
        )
    backbone, _, _ = load_backbone(base, config)
    merge(backbone, adapters.tensors(record.names[0]))
    copy_backbone(base, target, max(config.query_length, config.passage_length, *config.query_lengths.values()))
    for weights in target.glob(f"*{WEIGHTS}*"):
        weights.unlink()
    backbone.save_pretrained(target)  # type: ignore[operator]
    config.save(target)


def write_huggingface(
    source: Path, config: EncoderConfig, target: Path, name: str, base: str | None = None, of_passages: str = ""
) -> None:
    """Write a plain folder for Pyserini's `auto` encoder, with the flags that reproduce our vectors.

    Args:
        name: the name of the folder in `pyserini-flags.txt`.
        base: folder of a PEFT adapter's base model, if it is not the one that the adapter's file names.
        of_passages: the passage encoder, if it is another model; otherwise empty.

    Raises:
        InputError: for an encoder that Pyserini's `auto` cannot reproduce.
    """
    model = ModelFolder(source, base)
    if not model.is_untied and model.model_config.model_type in T5_ENCODERS:
        raise InputError(f"Pyserini's auto encoder cannot run T5; {INSTEAD}")
    _refuse_parts(model, config, PYSERINI_POOLING)
    for part in ["a linear head behind the pooling"] * bool(config.head) + ["lowercased texts"] * config.lowercase:
        raise InputError(f"this format cannot store {part}; {INSTEAD}")
    copy_backbone(model, target, config.query_length)
    log_differences("huggingface", list_differences(config))
    flags = pyserini_flags(config, shlex.quote(name), shlex.quote(of_passages or name))
    (target / "pyserini-flags.txt").write_text(flags, encoding="utf-8")


def list_differences(config: EncoderConfig) -> list[str]:
    """Describe where other tools encode queries differently: they have one length limit, and cut texts at the end."""
    notes = []
    if lengths := _lengths(config):
        own = [f"{'all others' if task == ANY_TASK else task} {length}" for task, length in sorted(lengths.items())]
        notes.append(
            f"other tools cut all queries at {config.query_length} tokens, we cut them at the length of their task:"
            f" {', '.join(own)}"
        )
    if config.left_context:
        notes.append(
            f"other tools keep all words before {MENTION} and cut the query's end, we keep {config.left_context}"
            " words before it"
        )
    return notes


def _lengths(config: EncoderConfig) -> dict[str, int]:
    """Return query lengths by task, without those that equal the length for all other tasks."""
    return {task: length for task, length in config.query_lengths.items() if length != config.query_length}


def log_differences(kind: str, notes: Sequence[str]) -> None:
    """Log a warning for each note on how other tools' vectors will differ; `kind` is the format of the export."""
    for note in notes:
        log.warning("%s: %s", kind, note)


def pyserini_flags(config: EncoderConfig, encoder: str, of_passages: str) -> str:
    """Return the text of pyserini-flags.txt: Pyserini commands for this encoder, started so that they find Java.

    Args:
        of_passages: the passage encoder, which may be another model.
    """
    pooling = f"{PYSERINI_POOLING[config.pooling]}{' --l2-norm' if config.normalize else ''}"
    shared = f"--encoder-class auto --pooling {pooling}"
    lines = [
        "# Pyserini's own commands, started by taco_ir, which finds Java for them. With Java 21 or later and"
        " OPENAI_API_KEY set (to any text), the same without `taco_ir.pyserini`",
        '# passages (a corpus of {"id", "title", "text"} lines)',
        f"{START} pyserini.encode input --corpus CORPUS --fields title text output --embeddings VECTORS --to-faiss"
        f" encoder --encoder {of_passages} {shared} --fields title text --max-length {config.passage_length}"
        " --device cpu",
    ]
    if config.passage_form != PLAIN_TEMPLATE:  # its --prefix stands between title and text
        lines.append(
            f"# no flag gives the passage template {config.passage_form!r}: write the corpus with this template and use"
            " --fields text"
        )
    lines += [f"# {note}; the exported queries are ours" for note in list_differences(config)]
    for task, prompt in sorted((config.prompts or {ANY_TASK: ""}).items()):
        lines.append(
            f"# queries{'' if task == ANY_TASK else f' of {task}'}, at most {config.max_query_tokens(task)} tokens"
            f" (the tokenizer cuts at {config.query_length})"
        )
        if prompt and not prompt.endswith(" "):
            fault = "Pyserini puts a space behind it; use the exported queries"
            lines.append(f"# no flag gives the prompt {prompt!r}: {fault}")
            continue
        prefix = f" --query-prefix {shlex.quote(prompt.removesuffix(' '))}" if prompt else ""
        lines.append(
            f"{START} pyserini.search.faiss --index INDEX --topics TOPICS --topics-format kilt --output RUN --hits 100"
            f" --encoder {encoder} {shared}{prefix}"
        )
    return "\n".join(lines) + "\n"


def write_sentence_transformers(
    source: Path, config: EncoderConfig, target: Path, base: str | None = None, of_passages: str = ""
) -> None:
    """Write a folder for sentence-transformers, with a README on what the folder cannot store.

    Args:
        base: folder of a PEFT adapter's base model, if it is not the one that the adapter's file names.
        of_passages: the passage encoder, if it is another model; otherwise empty.

    Raises:
        InputError: for unsupported pooling, or a passage template other than title and text.
    """
    folder = ModelFolder(source, base)
    _refuse_parts(folder, config, THEIR_POOLING.values())
    if (parts := split_template(config)) is None:
        raise InputError(
            f"sentence-transformers cannot store the passage template {config.passage_template!r}, only a prefix, title"
            " and text"
        )
    of_passage, between = parts
    copy_backbone(folder, target, max(config.query_length, config.passage_length))
    model = read_json(folder.files / "config.json", dict[str, Any])
    width = next(model[key] for key in ("hidden_size", "d_model", "dim") if key in model)  # dim: DistilBERT's
    prompts = named_prompts(config, of_passage)
    write_modules(target, config, width, prompts, _dense_layers(folder, config))
    joined = f"title{between}text"
    notes = [f"a passage is one text, {joined!r}, which users of the folder write"] * (between != " ")
    log_differences("sentence-transformers", [*notes, *list_differences(config)])
    (target / "README.md").write_text(_page(config, prompts, joined, of_passages), encoding="utf-8")


def _dense_layers(folder: ModelFolder, config: EncoderConfig) -> list[tuple[dict[str, Any], dict[str, Tensor]]]:
    """Return configuration and tensors of sentence-transformers' Dense module for each linear layer after pooling."""
    import torch

    head = load_backbone(folder, config)[2] if config.head else None
    if head is None:
        return []
    names = config.head_layers.split() or ["Identity"]
    linears = [module for module in head.modules() if isinstance(module, torch.nn.Linear)]
    return [
        (
            {
                "in_features": linear.in_features,
                "out_features": linear.out_features,
                "bias": linear.bias is not None,
                "activation_function": f"torch.nn.modules.{'linear' if name == 'Identity' else 'activation'}.{name}",
            },
            {f"linear.{key}": value.detach().contiguous() for key, value in linear.state_dict().items()},
        )
        for linear, name in zip(linears, names, strict=True)
    ]


def _page(config: EncoderConfig, prompts: Mapping[str, str], passage: str, of_passages: str) -> str:
    """Return the README of a folder for sentence-transformers: how to encode, and how to get exactly our vectors.

    Args:
        passage: how a passage is written.
        of_passages: the passage encoder, if it is another model; otherwise empty.
    """
    named = ", ".join(f"`{name}`" for name in prompts if name != "document")
    passages = f"passages_ND = model.encode_document([{passage!r}])"
    if of_passages:
        passages = f"# only for queries: passages are encoded by {of_passages}, and its index stays as it is"
    asked = f', prompt_name="{min(prompts.keys() - {"document"})}"' if named else ""
    said = f"prompts by name: {named}" if named else "no prompts"
    usage = USAGE.read_text(encoding="utf-8").format(prompts=said, passages=passages, asked=asked)
    if not (notes := list_differences(config)):
        return usage
    return usage + DIFFERENCES.read_text(encoding="utf-8").format(
        said="".join(f"- {note[0].upper()}{note[1:]}.\n" for note in notes),
        lengths=_lengths(config),
        mention=repr(MENTION),
        words=config.left_context,
        most=config.max_query_tokens(None),
    )
