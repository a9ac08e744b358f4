"""Suggests what a user meant by an unknown word: known words with a similar spelling, or other toolkits' names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LISTED = 200  # characters of valid names in a message
LONGEST = 80  # characters of a word that is compared
BEGUN = 3  # letters by which a word that begins so is recognised
# ours, the first that is known in its place -> words of Hugging Face's Trainer, sentence-transformers, Tevatron,
# FlagEmbedding and Pyserini
WORDS_ELSEWHERE = {
    "accumulate": "gradient-accumulation-steps grad-accum accumulate-grad-batches",
    "batch-size": "bs bsz train-batch-size per-device-train-batch-size per-device-eval-batch-size mini-batch-size",
    "checkpoint-every": "save-steps save-every",
    "clip": "max-grad-norm grad-clip gradient-clip-val",
    "collection": "corpus corpus-path data dataset dataset-name",
    "config": "config-file settings",
    "device": "cuda gpu gpus",
    "encode": "embed",
    "epochs": "n-epochs num-epochs num-train-epochs",
    "first": "cls",
    "gradcache": "chunk-size gc-p-chunk-size gc-q-chunk-size grad-cache",
    "hard-negatives mine-keep": "n-negatives num-hard-negatives num-negatives train-group-size train-n-passages",
    "hits": "k top-k topk",
    "keep-checkpoints": "save-total-limit",
    "learning-rate": "lr",
    "max-examples": "max-samples max-train-samples",
    "mean": "average avg",
    "measures": "metric metrics",
    "mine": "negatives",
    "mine-depth hits": "depth",
    "mine-keep": "keep",
    "mine-skip": "skip",
    "model reader folder": "checkpoint encoder model-name model-name-or-path model-path",
    "normalize": "l2-norm normalise",
    "output": "encode-output-path o out output-dir output-path save-dir",
    "overwrite": "force overwrite-output-dir",
    "passage-length length": "doc-max-len max-passage-length max-seq-len max-seq-length p-max-len passage-max-len",
    "passage-prompt": "doc-prefix passage-prefix",
    "patience": "early-stopping-patience",
    "pooling": "pooler-type pooling-mode",
    "precision": "amp bf16 dtype fp16 half torch-dtype",
    "prompt prompts": "instruction query-instruction query-prefix query-prompt",
    "qrels": "judgments",
    "query-length": "max-q-len max-query-length q-max-len query-max-len query-max-length",
    "search": "rank retrieve",
    "seed": "random-seed",
    "shares": "mixing sampling",
    "steps": "max-steps num-steps total-steps",
    "topics": "queries query-file",
    "train": "fine-tune finetune fit",
    "tune": "adapters lora peft",
    "untied": "untie-encoder",
    "validate-every": "eval-every eval-steps evaluation-steps",
    "warmup": "warmup-proportion warmup-ratio warmup-steps",
    "weight-decay": "wd",
}
ELSEWHERE = {theirs: ours.split() for ours, words in WORDS_ELSEWHERE.items() for theirs in words.split()}


def suggest(word: str, known: Iterable[str]) -> str:
    """A hint for an unknown word: the nearest known word, or, if none is near, as many known words as fit on a line."""
    known = list(known)
    near = nearest(word, known)
    return f"did you mean {near}?" if near else f"valid: {listed_names(known)}"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that other toolkits call `word`, or that is spelled similarly or begins with it; dashes do not
    matter.
    """
    plain = {_plain(each): each for each in reversed(list(known))}
    asked = _plain(word[:LONGEST])
    swapped = [each for each in plain if sorted(each) == sorted(asked)]  # letters
    near = swapped[:1] or difflib.get_close_matches(asked, plain, n=1)
    begun = sorted((each for each in plain if len(asked) >= BEGUN and each.startswith(asked)), key=len)
    found = next((each for each in (asked, *ELSEWHERE.get(asked, ()), *near, *begun) if each in plain), None)
    return None if found is None else plain[found]


def listed_names(names: Iterable[str]) -> str:
    """As many names as fit on a line."""
    listed = ", ".join(names) or "none"
    return listed if len(listed) <= LISTED else f"{listed[:LISTED].rpartition(',')[0]}, ..."


def _plain(word: str) -> str:
    return word.lstrip("-").replace("_", "-").lower()
