"""Loads backbones with transformers, only from local files, in float32 or with int8 linear layers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taco_ir.core.files import QUOTED_UP_TO, InputError, read_json
from taco_ir.core.typed import abbreviate
from taco_ir.encoders.config import EncoderConfig
from taco_ir.encoders.head import HEAD_FILE, read_head
from taco_ir.encoders.light_imports import lightly
from taco_ir.encoders.model_folder import COLBERT, PEFT_WEIGHTS, T5_ENCODERS, Kind, ModelFolder
from taco_ir.encoders.weights import CONFIG, KEY, is_int8, read_weights

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

LOCAL = {"local_files_only": True, "trust_remote_code": False}
MOST_LAYERS = 1000  # maximum number of layers; transformers builds all before it reads weights
AUTO_MAP = "auto_map"  # the key that names code in a model's folder
CODED = ("config.json", "tokenizer_config.json")
DPR_KEYS = ("model_type", "architectures", "projection_dim")  # keys that DPR's configuration has and BERT's has not


def usable_device(name: str) -> torch.device:
    """Return the torch device that --device names. Raises: InputError if torch cannot use it on this machine."""
    import torch

    try:
        device = torch.device(name)
        if device.type != "cuda" or not 0 <= (device.index or 0) < torch.cuda.device_count():
            torch.empty(0, device=device)  # fails if torch lacks the device; does not touch an existing GPU
        return device
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"--device {name!r}: torch cannot use this device here ({str(error).splitlines()[0]})"
        ) from error


@lightly()
def load_backbone(
    folder: ModelFolder, config: EncoderConfig
) -> tuple[torch.nn.Module, Tokenizer, torch.nn.Module | None]:
    """Return the backbone in float32, its fast tokenizer, and the linear head (None if `config` has no head).

    Raises:
        InputError: if transformers cannot load the model, weights or the head are missing, or the pooling is not
            supported.
    """
    import transformers

    folder.require_weights()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    kind = folder.model_config.model_type
    if config.pooling == "decoder" and kind not in T5_ENCODERS:
        raise InputError(f"--model {folder}: pooling 'decoder' needs a T5 model, but this is {abbreviate(kind)}")
    try:
        backbone, report = _load_model(folder, config)
        tokenizer = _load_tokenizer(folder, config)
    except InputError:
        raise
    except Exception as error:  # of any class: values in the folder's files end up anywhere in transformers
        if coded := next((name for name in CODED if AUTO_MAP in _read_object(folder.files / name)), None):
            raise InputError(
                f"--model {folder}: {coded} requires custom code ({AUTO_MAP}), which taco_ir never runs; give a "
                "model that transformers supports without it"
            ) from error
        reason = [*filter(None, str(error).strip().splitlines()), type(error).__name__][0]
        raise InputError(f"--model {folder}: transformers cannot load it ({reason[:QUOTED_UP_TO]})") from error
    _check_loaded(folder, config, backbone, tokenizer, report)
    projection: dict[str, torch.Tensor] = {}
    if folder.is_dpr:
        backbone, projection = _as_bert(backbone)
    if not config.head:
        return backbone, tokenizer, None
    tensors = projection or folder.head_tensors()
    return backbone, tokenizer, read_head(config, int(backbone.config.hidden_size), tensors, folder.path / HEAD_FILE)


def _load_model(folder: ModelFolder, config: EncoderConfig) -> tuple[Any, dict[str, Any]]:
    """Return the model, and transformers' report on missing and unexpected tensors."""
    import torch
    import transformers

    if folder.is_peft:
        from taco_ir.encoders.adapters.lora import merge_peft

        backbone, report = _load_model(folder.peft_base, config)
        return merge_peft(backbone, folder.own_files / PEFT_WEIGHTS), report
    path = folder.files
    _check_layers(path)
    loader = getattr(transformers, folder.encoder_class if config.pooling != "decoder" else "AutoModel")
    loaded = {"dtype": torch.float32, "output_loading_info": True}
    if not is_int8(path):
        return loader.from_pretrained(path, use_safetensors=True, **LOCAL, **loaded)  # type: ignore[no-any-return]
    described = transformers.AutoConfig.from_pretrained(path, **LOCAL)
    delattr(described, KEY)  # in memory and when it is saved again, the model is plain
    if loader is transformers.AutoModel:  # which does not load weights without files
        known = transformers.MODEL_MAPPING[type(described)]
        loader = known[0] if isinstance(known, tuple) else known
    weights = read_weights(path)
    return loader.from_pretrained(None, config=described, state_dict=weights, **loaded)  # type: ignore[no-any-return]


def _check_layers(folder: Path) -> None:
    """Raise InputError if config.json names too many layers, which transformers would build before it reads weights."""
    for key, value in _read_object(folder / CONFIG).items():
        if key.endswith("layers") and isinstance(value, int) and value > MOST_LAYERS:
            raise InputError(f"{folder / CONFIG}: {key} is {abbreviate(value)}; at most {MOST_LAYERS:,} are allowed")


def _load_tokenizer(folder: ModelFolder, config: EncoderConfig) -> Tokenizer:
    import transformers
    from tokenizers import normalizers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder.tokenizer_folder, use_fast=True, **LOCAL)
    if not tokenizer.is_fast:
        raise InputError(
            f"--model {folder}: its tokenizer ({type(tokenizer).__name__}) has no fast version, which is needed; "
            "write a tokenizer.json with the tokenizers library, or give another model"
        )
    fast: Tokenizer = tokenizer.backend_tokenizer
    fast.no_padding()
    if config.lowercase:
        fast.normalizer = normalizers.Sequence([normalizers.Lowercase(), *filter(None, [fast.normalizer])])
    return fast


def _check_loaded(
    folder: ModelFolder, config: EncoderConfig, backbone: Any, tokenizer: Tokenizer, report: Mapping[str, Any]
) -> None:
    """Raise InputError if weights or a pooler are missing, or the tokenizer has too many tokens for the embeddings."""
    kind = folder.model_config.model_type
    pools = config.pooling == "pooler"
    if folder.kind is Kind.PLAIN and "linear.weight" in report["unexpected_keys"]:
        raise InputError(COLBERT.format(folder))
    if missing := sorted(name for name in report["missing_keys"] if pools or "pooler" not in name):
        raise InputError(
            f"--model {folder}: its weights lack {len(missing)} tensors of a {kind} model, such as {missing[0]!r}"
        )
    if pools and getattr(backbone, "pooler", None) is None:
        raise InputError(f"--model {folder}: pooling 'pooler' needs a model with a pooler; a {kind} model has none")
    rows = getattr(backbone.config, "vocab_size", None)
    if rows and (tokens := _count_tokens(tokenizer)) > rows:
        raise InputError(
            f"--model {folder}: its tokenizer has {tokens} tokens, but its embedding table only {rows} rows; give "
            "the tokenizer that the model was trained with, or resize the table by resize_token_embeddings and "
            "train the model"
        )


def _count_tokens(tokenizer: Tokenizer) -> int:
    """Return the largest id that a text's tokens can have, plus 1; a mask and similar special tokens do not count."""
    added = (number for number, token in tokenizer.get_added_tokens_decoder().items() if not token.special)
    return max([-1, *tokenizer.get_vocab(with_added_tokens=False).values(), *added, *tokenizer.encode("").ids]) + 1


def _read_object(path: Path) -> dict[str, Any]:
    return read_json(path, dict[str, Any]) if path.is_file() else {}


def _as_bert(dpr: Any) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """Return the BERT in a DPR encoder as a model that adapters and readers support, and DPR's projection."""
    import transformers

    encoder = getattr(dpr, dpr.base_model_prefix)
    values = {key: value for key, value in dpr.config.to_dict().items() if key not in DPR_KEYS}
    bert = transformers.BertModel(transformers.BertConfig(**values), add_pooling_layer=False)
    bert.load_state_dict(encoder.bert_model.state_dict())
    projection = encoder.encode_proj.state_dict() if encoder.projection_dim else {}
    return bert, {f"0.{name}": value for name, value in projection.items()}


def quantize_linears(backbone: torch.nn.Module) -> torch.nn.Module:
    """Convert linear layers to int8, with a scale for each output channel. Activations have a scale for each batch."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces in two ways that this interface will go
        quantized: torch.nn.Module = torch.ao.quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
            backbone, {torch.nn.Linear: torch.ao.quantization.per_channel_dynamic_qconfig}, dtype=torch.qint8
        )
    return quantized
