"""Deep prompts: P trained keys and values in every layer, which all tokens attend to, by our own attention function.

Li and Liang (prefix tuning), ACL 2021; Tang, Wang, Yao (DPTDR), COLING 2022; He et al. (MAM, with parallel
bottlenecks), ICLR 2022.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter, functional

from taco_ir.encoders.adapters import bottleneck
from taco_ir.encoders.adapters.base import Insert, Method, Target
from taco_ir.encoders.adapters.hook_points import Shape
from taco_ir.encoders.config import PADDED_POSITIONS

ATTENTION = "taco_ir_prompts"  # the name of our attention function in transformers
DEVIATION = 0.02
DROPOUT = 0.1  # of DPTDR's prompts
WIDTH = 512  # W, between the two layers of a reparameterisation


class Reparameterised(nn.Module):
    """Computes keys and values [2, P, D] of each layer from an embedding [P, H], by two linear layers with tanh.

    Li and Liang, section 4.3. Differs: the last layers are initialised so that prompts have the standard deviation of
    plain prompts.
    """

    def __init__(self, shape: Shape, length: int) -> None:
        super().__init__()
        self.embedding = Parameter(torch.randn(length, shape.hidden))
        self.first = nn.Linear(shape.hidden, WIDTH)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, 2 * shape.inner) for _ in range(shape.layers))
        with torch.no_grad():
            norm = self._inner_PW().square().sum(1).mean().sqrt()
            for layer in self.layers:
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
                layer.weight.normal_().mul_(DEVIATION / norm)  # type: ignore[operator]

    def _inner_PW(self) -> Tensor:
        inner_PW: Tensor = self.first(self.embedding).tanh()
        return inner_PW

    def __getitem__(self, number: int) -> Tensor:
        both_PE: Tensor = self.layers[number](self._inner_PW())
        return torch.stack(both_PE.chunk(2, -1))


class DeepPrompts(Insert):
    """Trained keys and values [2, P, D] for each layer, initialised from N(0, 0.02^2). Differs: peft uses N(0, 1).

    If positions rotate keys (ModernBERT), a prompt's keys are not rotated, as if at position 0. All tokens attend to
    the prompt, even in layers with local attention.

    Args:
        target: gives D (the shape's inner width) and P (the width).
        dropout: dropout on each text's copy of the prompt.
    """

    def __init__(self, target: Target, dropout: float = 0.0) -> None:
        from transformers import AttentionInterface
        from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

        super().__init__()
        AttentionInterface.register(ATTENTION, prompted_attention)
        AttentionMaskInterface.register(ATTENTION, sdpa_mask)
        target.backbone.set_attn_implementation(ATTENTION)  # type: ignore[operator]
        self._shape, self._length = target.shape, target.width
        self._reparameterised = target.reparameterised
        self.dropout = nn.Dropout(dropout)
        for number, attention in enumerate(target.sites.attentions):
            attention.deep_prompt = partial(self._extend, number)  # type: ignore[assignment]
        if target.shifted and has_positions(target.backbone):
            config: Any = target.backbone.config
            first = config.pad_token_id + 1 if config.model_type in PADDED_POSITIONS else 0
            target.backbone.register_forward_pre_hook(partial(self._shift, first + self._length), with_kwargs=True)

    def add(self, name: str) -> None:
        if name in self._reparameterised:
            self.sets[name] = Reparameterised(self._shape, self._length)
        else:
            size = (2, self._length, self._shape.inner)
            self.sets[name] = nn.ParameterList(torch.randn(size) * DEVIATION for _ in range(self._shape.layers))

    def stored(self, name: str) -> dict[str, Tensor]:
        """Return the prompt's keys and values [2, P, D] by layer number; reparameterised prompts are computed first."""
        prompts: Any = self.sets[name]
        with torch.no_grad():
            return {str(number): prompts[number] for number in range(self._shape.layers)}

    def _shift(
        self, first: int, _module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Any, Any]:
        if self.active is None:
            return args, kwargs
        ids_BL = kwargs["input_ids"]
        positions_BL = torch.arange(first, first + ids_BL.shape[1], device=ids_BL.device).expand(ids_BL.shape)
        return args, {**kwargs, "position_ids": positions_BL}

    def _extend(self, number: int, key_BNLD: Tensor, value_BNLD: Tensor) -> tuple[int, Tensor, Tensor]:
        """Return P, and keys and values of prompt and text [B, heads, P + L, D / heads]; without a prompt, P is 0."""
        if self.active is None:
            return 0, key_BNLD, value_BNLD
        prompt_2PD = self.sets[self.active][number]  # type: ignore[index]
        texts, heads, _, width = key_BNLD.shape
        split_2NPD = prompt_2PD.to(key_BNLD.dtype).unflatten(-1, (heads, width)).transpose(1, 2)
        each_2BNPD = self.dropout(split_2NPD.unsqueeze(1).expand(-1, texts, -1, -1, -1))
        return prompt_2PD.shape[1], torch.cat([each_2BNPD[0], key_BNLD], 2), torch.cat([each_2BNPD[1], value_BNLD], 2)


def has_positions(backbone: nn.Module) -> bool:
    """Whether the backbone's tokens have absolute positions, which can be shifted (T5's are relative)."""
    return hasattr(backbone.config, "max_position_embeddings")


def prompted_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> Sequence[Tensor | None]:
    """Compute scaled dot-product attention to the text and, if an adapter is active, to its prompt in this layer."""
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


def _numbers(shape: Shape, length: int) -> int:
    return 2 * shape.layers * length * shape.inner


PREFIX = Method(lambda target: [DeepPrompts(target)], _numbers, 32, "plain")
PROMPT = Method(lambda target: [DeepPrompts(target, DROPOUT)], _numbers, 32, "shifted")  # DPTDR's
MAM = Method(
    lambda target: [DeepPrompts(target), *bottleneck.PARALLEL.build(target)],
    lambda shape, width: _numbers(shape, width) + bottleneck.PARALLEL.numbers(shape, width),
    16,
    "plain",
)
