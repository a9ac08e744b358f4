"""Where adapters can be hooked into a backbone, by architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn
from torch.nn import Parameter

from taco_ir.core.files import InputError

POOLER = "pooler."


@dataclass(frozen=True)
class Shape:
    """What the counts of a backbone's adapters depend on.

    Attributes:
        layers, hidden: L and H, of the encoder.
        inner: width of its keys and values; H for most.
        biases: numbers in all biases that vectors depend on (not a pooler's).
        total: P, all parameters of the backbone.
    """

    layers: int
    hidden: int
    inner: int
    biases: int
    total: int


class Span(NamedTuple):
    """What an adapter computes is added to what comes out of `exit`; it reads what goes into `entry`, or the same output where that is None."""

    entry: nn.Module | None
    exit: nn.Module


@dataclass(frozen=True)
class Sites:
    """The hook points of a backbone.

    Attributes:
        places: spans by kind, one for each layer (one in all beside the encoder).
        attentions: modules that call the attention function, one for each layer.
        linears: names of the projections to queries and to values; none where these are parts of larger ones.
        output: the first layer's projection from what its heads give to hidden states.
    """

    places: Mapping[str, Sequence[Span]]
    attentions: Sequence[nn.Module]
    linears: Sequence[str]
    output: nn.Linear


def _bert(backbone: Any) -> Sites:
    layers = list(backbone.encoder.layer)
    places = {
        "inside_attention": [Span(None, layer.attention.output.dropout) for layer in layers],
        "inside_ffn": [Span(None, layer.output.dropout) for layer in layers],
        "parallel_ffn": [Span(layer.intermediate, layer.output.dropout) for layer in layers],
        "beside_attention": [Span(layer.attention, layer.attention) for layer in layers],
        "beside_ffn": [Span(layer.intermediate, layer.output) for layer in layers],
        "beside_layer": [Span(layer, layer) for layer in layers],
        "beside_encoder": [Span(backbone.encoder, backbone.encoder)],
    }
    linears = [f"encoder.layer.{i}.attention.self.{name}" for i in range(len(layers)) for name in ("query", "value")]
    return Sites(places, [layer.attention.self for layer in layers], linears, layers[0].attention.output.dense)


def _distilbert(backbone: Any) -> Sites:
    layers = list(backbone.transformer.layer)
    places = {
        "inside_attention": [Span(None, layer.attention.out_lin) for layer in layers],
        "inside_ffn": [Span(None, layer.ffn.dropout) for layer in layers],
        "parallel_ffn": [Span(layer.ffn, layer.ffn.dropout) for layer in layers],
        "beside_attention": [Span(layer.attention, layer.sa_layer_norm) for layer in layers],
        "beside_ffn": [Span(layer.ffn, layer.output_layer_norm) for layer in layers],
        "beside_layer": [Span(layer, layer) for layer in layers],
        "beside_encoder": [Span(backbone.transformer, backbone.transformer)],
    }
    linears = [f"transformer.layer.{i}.attention.{name}" for i in range(len(layers)) for name in ("q_lin", "v_lin")]
    return Sites(places, [layer.attention for layer in layers], linears, layers[0].attention.out_lin)


def _modernbert(backbone: Any) -> Sites:
    """Its layer norms come first, as T5's; queries, keys and values are one projection."""
    layers = list(backbone.layers)
    places = {
        "inside_attention": [Span(None, layer.attn.out_drop) for layer in layers],
        "inside_ffn": [Span(None, layer.mlp) for layer in layers],
        "parallel_ffn": [Span(layer.mlp, layer.mlp) for layer in layers],
        "beside_attention": [Span(layer.attn_norm, layer.attn) for layer in layers],
        "beside_ffn": [Span(layer.mlp_norm, layer.mlp) for layer in layers],
        "beside_layer": [Span(layer, layer) for layer in layers],
        "beside_encoder": [Span(layers[0], backbone.final_norm)],
    }
    return Sites(places, [layer.attn for layer in layers], (), layers[0].attn.Wo)


def _t5(backbone: Any) -> Sites:
    """Of the encoder. Its layer norms come first: a block is h + Att(LN(h)), and no norm follows the sum."""
    stack = backbone.encoder
    blocks = list(stack.block)
    places = {
        "inside_attention": [Span(None, block.layer[0].dropout) for block in blocks],
        "inside_ffn": [Span(None, block.layer[-1].dropout) for block in blocks],
        "parallel_ffn": [Span(block.layer[-1].DenseReluDense, block.layer[-1].dropout) for block in blocks],
        "beside_attention": [Span(block.layer[0], block.layer[0]) for block in blocks],
        "beside_ffn": [Span(block.layer[-1], block.layer[-1]) for block in blocks],
        "beside_layer": [Span(block, block) for block in blocks],
        "beside_encoder": [Span(blocks[0], stack.final_layer_norm)],
    }
    linears = [f"encoder.block.{i}.layer.0.SelfAttention.{name}" for i in range(len(blocks)) for name in ("q", "v")]
    return Sites(
        places, [block.layer[0].SelfAttention for block in blocks], linears, blocks[0].layer[0].SelfAttention.o
    )


ARCHITECTURES: dict[str, Callable[[Any], Sites]] = {
    **dict.fromkeys(("bert", "camembert", "electra", "roberta", "xlm-roberta"), _bert),
    "distilbert": _distilbert,
    "modernbert": _modernbert,
    "t5": _t5,
}


def sites_of(backbone: nn.Module) -> Sites:
    """Raises: InputError for an architecture whose hook points are not known."""
    kind = str(backbone.config.model_type)  # type: ignore[union-attr]
    if kind not in ARCHITECTURES:
        raise InputError(
            f"tune: a backbone of type {kind!r} has no known hook points; supported: {', '.join(sorted(ARCHITECTURES))}"
        )
    return ARCHITECTURES[kind](backbone)


def biases(backbone: nn.Module) -> dict[str, Parameter]:
    """All biases that vectors depend on, by the names of their modules."""
    found = {name.removesuffix(".bias"): param for name, param in backbone.named_parameters() if name.endswith(".bias")}
    return {name: bias for name, bias in found.items() if not name.startswith(POOLER)}


def shape_of(backbone: nn.Module) -> Shape:
    """The numbers that counts depend on; of a backbone as it was loaded."""
    sites = sites_of(backbone)
    total = sum(param.numel() for param in backbone.parameters())
    hidden, inner = sites.output.weight.shape
    return Shape(len(sites.attentions), hidden, inner, sum(bias.numel() for bias in biases(backbone).values()), total)
