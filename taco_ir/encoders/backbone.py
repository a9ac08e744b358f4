"""Loading backbones by transformers, from local files only: in float32, or with linear layers in int8."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from taco_ir.core.files import QUOTED_UP_TO, InputError
from taco_ir.core.typed import abbreviate
from taco_ir.encoders.config import EncoderConfig
from taco_ir.encoders.head import HEAD_FILE, read_head
from taco_ir.encoders.model_folder import T5_ENCODERS, ModelFolder
from taco_ir.encoders.weights import KEY, is_int8, read_weights

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer


DPR_KEYS = ("model_type", "architectures", "projection_dim")  # of DPR's configuration, which a BERT's has not


def usable_device(name: str) -> torch.device:
    """The device of --device. Raises: InputError for one that torch cannot use."""
    import torch

    try:
        device = torch.device(name)
        if device.type != "cuda" or not 0 <= (device.index or 0) < torch.cuda.device_count():
            torch.empty(0, device=device)  # fails where torch lacks it; a GPU that is there is not touched
        return device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name!r}: torch cannot use it here ({str(error).splitlines()[0]})") from error


def load_backbone(
    folder: ModelFolder, config: EncoderConfig
) -> tuple[torch.nn.Module, Tokenizer, torch.nn.Module | None]:
    """The backbone in float32, its fast tokenizer, and the linear head where `config` has one.

    Raises:
        InputError: for a model that transformers cannot load, that lacks weights or the head, or that cannot pool so.
    """
    import torch
    import transformers
    from tokenizers import normalizers

    folder.require_weights()
    path = folder.files
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    kind = folder.model_config.model_type
    if config.pooling == "decoder" and kind not in T5_ENCODERS:
        raise InputError(f"--model {folder}: pooling 'decoder' needs a T5 model, this is {abbreviate(kind)}")
    loader = getattr(transformers, folder.encoder_class if config.pooling != "decoder" else "AutoModel")
    local = {"local_files_only": True, "trust_remote_code": False}
    loaded = {"dtype": torch.float32, "output_loading_info": True}
    try:
        if is_int8(path):
            described = transformers.AutoConfig.from_pretrained(path, **local)
            delattr(described, KEY)  # the model in memory, and saved again, is plain
            if loader is transformers.AutoModel:  # which does not load weights without files
                with torch.device("meta"):
                    loader = type(loader.from_config(described))
            weights = read_weights(path)
            backbone, report = loader.from_pretrained(None, config=described, state_dict=weights, **loaded)
        else:
            backbone, report = loader.from_pretrained(path, use_safetensors=True, **local, **loaded)
        fast: Tokenizer = transformers.AutoTokenizer.from_pretrained(path, use_fast=True, **local).backend_tokenizer
        fast.no_padding()
        if config.lowercase:
            fast.normalizer = normalizers.Sequence([normalizers.Lowercase(), *filter(None, [fast.normalizer])])
    except InputError:
        raise
    except Exception as error:  # of any class: values in the folder's files end up anywhere in transformers
        reason = [*filter(None, str(error).strip().splitlines()), type(error).__name__][0]
        raise InputError(f"--model {folder}: transformers cannot load it ({reason[:QUOTED_UP_TO]})") from error
    pools = config.pooling == "pooler"
    if missing := sorted(name for name in report["missing_keys"] if pools or "pooler" not in name):
        raise InputError(
            f"--model {folder}: weights lack {len(missing)} tensors of a {kind} model, first {missing[0]!r}"
        )
    if pools and getattr(backbone, "pooler", None) is None:
        raise InputError(f"--model {folder}: pooling 'pooler' needs a model with a pooler; a {kind} model has none")
    projection: dict[str, torch.Tensor] = {}
    if folder.is_dpr:
        backbone, projection = _as_bert(backbone)
    if not config.head:
        return backbone, fast, None
    tensors = projection or folder.head_tensors()
    return backbone, fast, read_head(config, int(backbone.config.hidden_size), tensors, folder.path / HEAD_FILE)


def _as_bert(dpr: Any) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """The BERT in an encoder of DPR as a model of its own, which adapters and readers know, and DPR's projection."""
    import transformers

    encoder = getattr(dpr, dpr.base_model_prefix)
    values = {key: value for key, value in dpr.config.to_dict().items() if key not in DPR_KEYS}
    bert = transformers.BertModel(transformers.BertConfig(**values), add_pooling_layer=False)
    bert.load_state_dict(encoder.bert_model.state_dict())
    projection = encoder.encode_proj.state_dict() if encoder.projection_dim else {}
    return bert, {f"0.{name}": value for name, value in projection.items()}


def quantize_linears(backbone: torch.nn.Module) -> torch.nn.Module:
    """Linear layers in int8 with a scale per output channel; activations are scaled per batch."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces in two ways that this interface will go
        quantized: torch.nn.Module = torch.ao.quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
            backbone, {torch.nn.Linear: torch.ao.quantization.per_channel_dynamic_qconfig}, dtype=torch.qint8
        )
    return quantized
