"""Deep prompts: in every layer, P keys and values that all tokens attend to, by an attention function of our own.

Li and Liang (prefix tuning), ACL 2021; Tang, Wang, Yao (DPTDR), COLING 2022.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter, functional

from taco_ir.models.encoder import PADDED_POSITIONS
from taco_ir.models.tuning.part import Part
from taco_ir.models.tuning.sites import Sites

ATTENTION = "taco_ir_prompts"  # as transformers knows our function
DEVIATION = 0.02
DROPOUT = 0.1  # of DPTDR's prompts


class DeepPrompts(Part):
    """Keys and values [P, D] for each layer, N(0, 0.02^2) at the start; peft's begin with N(0, 1).

    Args:
        inner: D, width of the keys.
        length: P.
        dropout: of each text's copy of them.
        shifted: whether the text's positions begin at P instead of 0.
    """

    def __init__(self, backbone: nn.Module, sites: Sites, inner: int, length: int, dropout: float = 0.0, shifted: bool = False) -> None:
        super().__init__()
        register()
        backbone.set_attn_implementation(ATTENTION)  # type: ignore[operator]
        self._shape = (len(sites.attentions), inner, length)
        self.sets = nn.ModuleDict()
        self.dropout = nn.Dropout(dropout)
        for number, attention in enumerate(sites.attentions):
            attention.deep_prompt = partial(self._extend, number)  # type: ignore[assignment]
        config: Any = backbone.config
        if shifted and hasattr(config, "max_position_embeddings"):  # T5's are relative: its prompts have none
            first = config.pad_token_id + 1 if config.model_type in PADDED_POSITIONS else 0
            backbone.register_forward_pre_hook(partial(self._shift, first + length), with_kwargs=True)

    def add(self, name: str) -> None:
        layers, inner, length = self._shape
        self.sets[name] = nn.ParameterList(torch.randn(2, length, inner) * DEVIATION for _ in range(layers))

    def tensors(self, name: str) -> dict[str, Parameter]:
        return dict(self.sets[name].named_parameters())

    def _shift(self, first: int, _module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
        if self.active is None:
            return args, kwargs
        ids_BL = kwargs["input_ids"]
        positions_BL = torch.arange(first, first + ids_BL.shape[1], device=ids_BL.device).expand(ids_BL.shape)
        return args, {**kwargs, "position_ids": positions_BL}

    def _extend(self, number: int, key_BNLD: Tensor, value_BNLD: Tensor) -> tuple[int, Tensor, Tensor]:
        """P, and keys and values [B, heads, P + L, D / heads]; those of the text alone where no prompt is in use."""
        if self.active is None:
            return 0, key_BNLD, value_BNLD
        prompt_2PD = self.sets[self.active][number]  # type: ignore[index]
        texts, heads, _, width = key_BNLD.shape
        split_2NPD = prompt_2PD.to(key_BNLD.dtype).unflatten(-1, (heads, width)).transpose(1, 2)
        each_2BNPD = self.dropout(split_2NPD.unsqueeze(1).expand(-1, texts, -1, -1, -1))
        return prompt_2PD.shape[1], torch.cat([each_2BNPD[0], key_BNLD], 2), torch.cat([each_2BNPD[1], value_BNLD], 2)


def register() -> None:
    """Make the function known to transformers; again is no harm."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(ATTENTION, prompted_attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def prompted_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> Sequence[Tensor | None]:
    """Scaled dot-product attention to the layer's prompt, if it has one in use, and to the text."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    extend = getattr(module, "deep_prompt", None)
    if extend is not None:
        length, key, value = extend(key, value)
        if attention_mask is not None:
            seen = True if attention_mask.dtype == torch.bool else 0.0
            attention_mask = functional.pad(attention_mask, (length, 0), value=seen)
        if kwargs.get("position_bias") is not None:
            kwargs["position_bias"] = functional.pad(kwargs["position_bias"], (length, 0))
    found: Sequence[Tensor | None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return found
