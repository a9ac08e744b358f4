"""A checkpoint as others read it: a plain Hugging Face folder with Pyserini's flags, and a sentence-transformers folder."""

from __future__ import annotations

import logging
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taco_ir.core.files import InputError, read_json, write_json
from taco_ir.encoders.adapters.methods import mergeable, method_of
from taco_ir.encoders.backbone import load_backbone
from taco_ir.encoders.config import ANY_TASK, MENTION, NONE, EncoderConfig
from taco_ir.encoders.model_folder import INDEX, WEIGHTS, Kind, ModelFolder
from taco_ir.encoders.weights import INT8_FILE, is_int8, write_plain

if TYPE_CHECKING:
    from taco_ir.encoders.text_encoder import TextEncoder

log = logging.getLogger("taco_ir")
START = "python -m taco_ir.pyserini"
PLAIN_TEMPLATE = "{title} {text}"  # the one that Pyserini's document encoder has
MODULES = "sentence_transformers.models"  # the names that every version reads


def copy_backbone(source: Path, target: Path, max_tokens: int) -> None:
    """Copy weights, configuration and tokenizer; the tokenizer is told to cut at `max_tokens`, which Pyserini reads there alone.

    Weights in 8 bits are written in float32, which everyone reads.
    """
    for path in (
        source / "config.json",
        *ModelFolder(source).tokenizer_files(),
        *source.glob(f"*{WEIGHTS}"),
        *source.glob(f"*{INDEX}"),
    ):
        shutil.copy2(path, target / path.name)
    if is_int8(source):
        (target / INT8_FILE).unlink()
        write_plain(source, target)
    path = target / "tokenizer_config.json"
    write_json(path, (read_json(path, dict[str, Any]) if path.is_file() else {}) | {"model_max_length": max_tokens})


def _refuse_parts(source: Path, config: EncoderConfig) -> None:
    if ModelFolder(source).kind is Kind.TOWERS:
        raise InputError(f"two towers are two models; export {source / 'query'} and {source / 'passage'} one by one")
    if config.roles != NONE:
        raise InputError(
            f"marks of roles ({config.roles}) are nothing that this format holds; use --encoder-class taco, or the exported queries"
        )
    if config.head:
        raise InputError(
            "a linear head behind the pooling is nothing that this format holds; use --encoder-class taco, or the exported queries"
        )


def write_merged(encoder: TextEncoder, base: ModelFolder, target: Path) -> None:
    """Write a model folder that encodes as `encoder` does, without adapters.

    Args:
        base: their backbone's.

    Raises:
        InputError: for adapters that are no change of weights, or several of them.
    """
    adapters, record = encoder.adapters, encoder.record
    if adapters is None or record is None:
        raise TypeError(f"{encoder.folder} has no adapters")
    merge, can = method_of(record.method).merge, ", ".join(mergeable())
    if merge is None:
        raise InputError(
            f"adapters of {record.method} cannot be merged into plain weights (those of {can} can); use the exported queries"
        )
    if not record.mergeable:
        raise InputError(
            f"tune_roles {record.roles} is several models on one backbone, a plain folder is one; use the exported queries"
        )
    backbone, _, _ = load_backbone(base, encoder.config)
    merge(backbone, adapters.tensors(record.names[0]))
    config = encoder.config
    copy_backbone(base.path, target, max(config.query_length, config.passage_length, *config.query_lengths.values()))
    for weights in target.glob(f"*{WEIGHTS}*"):
        weights.unlink()
    backbone.save_pretrained(target)  # type: ignore[operator]
    config.save(target)


def write_huggingface(source: Path, config: EncoderConfig, target: Path, name: str) -> None:
    """Plain folder for Pyserini's `auto` encoder, and `pyserini-flags.txt` with the flags that make it encode as we do.

    Args:
        name: how the flags name the folder.

    Raises:
        InputError: for an encoder that Pyserini's `auto` cannot be.
    """
    _refuse_parts(source, config)
    if read_json(source / "config.json", dict[str, Any]).get("model_type") == "t5":
        raise InputError("Pyserini's auto encoder cannot run T5; use --encoder-class taco, or the exported queries")
    copy_backbone(source, target, config.query_length)
    warn("huggingface", config)
    (target / "pyserini-flags.txt").write_text(pyserini_flags(config, shlex.quote(name)), encoding="utf-8")


def untold(config: EncoderConfig) -> list[str]:
    """What a plain folder cannot say of queries, as others read it: one length for all, and texts cut at their end alone."""
    notes = []
    if lengths := _lengths(config):
        own = ", ".join(
            f"{'all others' if task == ANY_TASK else task} {length}" for task, length in sorted(lengths.items())
        )
        notes.append(
            f"a query is cut at {config.query_length} tokens whatever its task, where ours are cut at their own: {own}"
        )
    if config.left_context:
        notes.append(
            f"of a query with {MENTION} ours keep {config.left_context} words before it; here all before it stays, and its end is cut"
        )
    return notes


def _lengths(config: EncoderConfig) -> dict[str, int]:
    """Those of tasks whose queries are not cut where all others are."""
    return {task: length for task, length in config.query_lengths.items() if length != config.query_length}


def warn(kind: str, config: EncoderConfig) -> None:
    """Say aloud what an exported folder leaves out."""
    for note in untold(config):
        log.warning("%s: %s", kind, note)


def pyserini_flags(config: EncoderConfig, encoder: str) -> str:
    """The text of pyserini-flags.txt: commands that find Java and what else Pyserini needs to start."""
    shared = f"--encoder-class auto --pooling {'cls' if config.pooling == 'first' else 'mean'}{' --l2-norm' if config.normalize else ''}"
    lines = [
        "# Pyserini's own commands, started by taco_ir, which finds Java for them. With Java 21 or later and OPENAI_API_KEY set (to any text),"
        " the same without `taco_ir.pyserini`",
        '# passages (a corpus of {"id", "title", "text"} lines)',
        f"{START} pyserini.encode input --corpus CORPUS --fields title text output --embeddings VECTORS --to-faiss "
        f"encoder --encoder {encoder} {shared} --fields title text --max-length {config.passage_length} --device cpu",
    ]
    if config.passage_template != PLAIN_TEMPLATE:
        lines.append(
            f"# no flag gives the passage template {config.passage_template!r}: write the corpus' text by it and use --fields text"
        )
    lines += [f"# {note}; the exported queries are ours" for note in untold(config)]
    for task, prompt in sorted((config.prompts or {ANY_TASK: ""}).items()):
        lines.append(
            f"# queries{'' if task == ANY_TASK else f' of {task}'}, at most {config.max_query_tokens(task)} tokens (the tokenizer cuts at {config.query_length})"
        )
        if prompt and not prompt.endswith(" "):
            lines.append(
                f"# no flag gives the prompt {prompt!r}: Pyserini puts a space behind it; use the exported queries"
            )
            continue
        prefix = f" --query-prefix {shlex.quote(prompt.removesuffix(' '))}" if prompt else ""
        lines.append(
            f"{START} pyserini.search.faiss --index INDEX --topics TOPICS --topics-format kilt --output RUN --hits 100 --encoder {encoder} {shared}{prefix}"
        )
    return "\n".join(lines) + "\n"


def write_sentence_transformers(source: Path, config: EncoderConfig, target: Path) -> None:
    """A folder for sentence-transformers: modules, pooling, normalisation, length and prompts.

    Raises:
        InputError: for pooling or a passage template that it does not have.
    """
    _refuse_parts(source, config)
    if config.pooling == "decoder":
        raise InputError("sentence-transformers has no pooling by T5's first decoder state")
    prefix, plain, rest = config.passage_template.partition(PLAIN_TEMPLATE)
    prompt = prefix.replace("{{", "{").replace("}}", "}")
    if not plain or rest or prompt.replace("{", "{{").replace("}", "}}") != prefix:
        raise InputError(
            f"sentence-transformers cannot hold the passage template {config.passage_template!r}; it has a prefix before the text"
        )
    tokens = max(config.query_length, config.passage_length)
    copy_backbone(source, target, tokens)
    apart = (
        {"query_length": config.query_length, "document_length": config.passage_length}
        if config.query_length != config.passage_length
        else {}
    )
    write_json(target / "sentence_bert_config.json", {"max_seq_length": tokens, "do_lower_case": False} | apart)
    kinds = [
        ("Transformer", ""),
        ("Pooling", "1_Pooling"),
        *([("Normalize", "2_Normalize")] if config.normalize else []),
    ]
    write_json(
        target / "modules.json",
        [{"idx": i, "name": str(i), "path": path, "type": f"{MODULES}.{kind}"} for i, (kind, path) in enumerate(kinds)],
    )
    for _, path in kinds[1:]:
        (target / path).mkdir()
    model = read_json(source / "config.json", dict[str, Any])
    width = next(model[key] for key in ("hidden_size", "d_model", "dim") if key in model)  # dim: DistilBERT's
    pooling = {
        "word_embedding_dimension": width,
        "pooling_mode_cls_token": config.pooling == "first",
        "pooling_mode_mean_tokens": config.pooling == "mean",
    }
    write_json(target / "1_Pooling" / "config.json", pooling)
    prompts = {("query" if task == ANY_TASK else task): prompt for task, prompt in config.prompts.items()}
    prompts["document"] = prompt
    warn("sentence-transformers", config)
    (target / "README.md").write_text(_page(config, prompts), encoding="utf-8")
    write_json(
        target / "config_sentence_transformers.json",
        {
            "prompts": prompts,
            "default_prompt_name": None,
            "similarity_fn_name": "cosine" if config.normalize else "dot",
        },
    )


def _page(config: EncoderConfig, prompts: Mapping[str, str]) -> str:
    """How to encode with a folder for sentence-transformers: as it is, and where that is not all, exactly as we do."""
    named = ", ".join(f"`{name}`" for name in prompts if name != "document")
    usage = f"""# An encoder for sentence-transformers

Written by `python -m taco_ir.export`. {f"Queries have prompts by name: {named}." if named else "Queries have no prompts."}

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(".")  # this folder
passages_ND = model.encode_document(["title and text"])
queries_BD = model.encode_query(["who asks"]{f', prompt_name="{min(prompts.keys() - {"document"})}"' if named else ""})
```
"""
    if not (notes := untold(config)):
        return usage
    said = "".join(f"- {note[0].upper()}{note[1:]}.\n" for note in notes)
    return f"""{usage}
## What the folder cannot say

{said}
These lines encode queries as we do:

```python
LENGTHS = {_lengths(config)!r}  # tokens of a query, by task


def near_mention(text):
    left, mark, rest = text.partition({MENTION!r})
    return " ".join([*left.split()[-{config.left_context}:], mark + rest]) if mark and {config.left_context} else text


def encode_queries(model, texts, task):
    model[0].query_length = LENGTHS.get(task or "*", {config.max_query_tokens(None)})
    return model.encode_query([near_mention(text) for text in texts], prompt_name=task if task in model.prompts else None)
```
"""
