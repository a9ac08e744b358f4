"""The places where adapters can be attached, for each backbone architecture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

from torch import nn
from torch.nn import Parameter

from taco_ir.core.files import InputError

POOLER = "pooler."


@dataclass(frozen=True)
class Shape:
    """The dimensions of a backbone that determine the sizes of its adapters.

    Attributes:
        layers, hidden: number of layers, and the hidden width H, of the encoder.
        inner: width of keys and values; H in most backbones.
        biases: number of bias parameters that affect the vectors (not a pooler's).
        total: number of all parameters of the backbone, P.
    """

    layers: int
    hidden: int
    inner: int
    biases: int
    total: int


class Span(NamedTuple):
    """A place for an adapter: it reads `entry`'s input (if None, `exit`'s output), and adds to `exit`'s output."""

    entry: nn.Module | None
    exit: nn.Module


class Sites(NamedTuple):
    """The hook points of a backbone, where adapters are attached.

    Attributes:
        places: spans by type of place, one span for each layer; `beside_encoder` has only one.
        attentions: modules that call the attention function, one for each layer.
        linears: names of the query and value projections; empty if these are parts of larger projections.
        output: the first layer's projection of the attention output.
    """

    places: Mapping[str, Sequence[Span]]
    attentions: Sequence[nn.Module]
    linears: Sequence[str]
    output: nn.Linear


class Architecture(NamedTuple):
    """The names of modules in a type of backbone; all names except `layers` and `encoder` are relative to a layer."""

    layers: str  # the list of layers
    encoder: tuple[str, str]  # its first module, and the one that gives its output
    attention: str  # what calls the attention function
    output: str  # from heads to hidden states
    linears: Sequence[str]  # to queries and to values
    inside_attention: str  # an adapter there follows this module
    inside_ffn: str
    parallel_ffn: tuple[str, str]  # an adapter there reads the input of the first, and adds to the output of the second
    beside_attention: tuple[str, str]
    beside_ffn: tuple[str, str]


BERT = Architecture(
    layers="encoder.layer",
    encoder=("encoder", "encoder"),
    attention="attention.self",
    output="attention.output.dense",
    linears=("attention.self.query", "attention.self.value"),
    inside_attention="attention.output.dropout",
    inside_ffn="output.dropout",
    parallel_ffn=("intermediate", "output.dropout"),
    beside_attention=("attention", "attention"),
    beside_ffn=("intermediate", "output"),
)
DISTILBERT = Architecture(
    layers="transformer.layer",
    encoder=("transformer", "transformer"),
    attention="attention",
    output="attention.out_lin",
    linears=("attention.q_lin", "attention.v_lin"),
    inside_attention="attention.out_lin",
    inside_ffn="ffn.dropout",
    parallel_ffn=("ffn", "ffn.dropout"),
    beside_attention=("attention", "sa_layer_norm"),
    beside_ffn=("ffn", "output_layer_norm"),
)
MODERNBERT = Architecture(  # layer norms come first, as T5's
    layers="layers",
    encoder=("layers.0", "final_norm"),
    attention="attn",
    output="attn.Wo",
    linears=(),  # queries, keys and values are one projection
    inside_attention="attn.out_drop",
    inside_ffn="mlp",
    parallel_ffn=("mlp", "mlp"),
    beside_attention=("attn_norm", "attn"),
    beside_ffn=("mlp_norm", "mlp"),
)
T5 = Architecture(  # of its encoder: a block is h + Att(LN(h)), and no norm follows the sum
    layers="encoder.block",
    encoder=("encoder.block.0", "encoder.final_layer_norm"),
    attention="layer.0.SelfAttention",
    output="layer.0.SelfAttention.o",
    linears=("layer.0.SelfAttention.q", "layer.0.SelfAttention.v"),
    inside_attention="layer.0.dropout",
    inside_ffn="layer.1.dropout",
    parallel_ffn=("layer.1.DenseReluDense", "layer.1.dropout"),
    beside_attention=("layer.0", "layer.0"),
    beside_ffn=("layer.1", "layer.1"),
)
ARCHITECTURES = {
    **dict.fromkeys(("bert", "camembert", "electra", "roberta", "xlm-roberta"), BERT),
    "distilbert": DISTILBERT,
    "modernbert": MODERNBERT,
    **dict.fromkeys(("t5", "mt5"), T5),
}


def sites_of(backbone: nn.Module) -> Sites:
    """Return the hook points of a backbone. Raises: InputError for an unsupported architecture."""
    kind = str(backbone.config.model_type)  # type: ignore[union-attr]
    if kind not in ARCHITECTURES:
        raise InputError(
            f"tune: a backbone of type {kind!r} has no known hook points; supported: {', '.join(sorted(ARCHITECTURES))}"
        )
    names = ARCHITECTURES[kind]
    layers = list(backbone.get_submodule(names.layers).children())
    places = {
        "beside_layer": [Span(layer, layer) for layer in layers],
        "beside_encoder": [Span(*map(backbone.get_submodule, names.encoder))],
    }
    for place in ("inside_attention", "inside_ffn"):
        places[place] = [Span(None, layer.get_submodule(getattr(names, place))) for layer in layers]
    for place in ("parallel_ffn", "beside_attention", "beside_ffn"):
        places[place] = [Span(*map(layer.get_submodule, getattr(names, place))) for layer in layers]
    return Sites(
        places,
        [layer.get_submodule(names.attention) for layer in layers],
        [f"{names.layers}.{number}.{name}" for number in range(len(layers)) for name in names.linears],
        cast("nn.Linear", layers[0].get_submodule(names.output)),
    )


def biases(backbone: nn.Module) -> dict[str, Parameter]:
    """Return all biases that affect the vectors (not a pooler's), by the names of their modules."""
    found = {name.removesuffix(".bias"): param for name, param in backbone.named_parameters() if name.endswith(".bias")}
    return {name: bias for name, bias in found.items() if not name.startswith(POOLER)}


def shape_of(backbone: nn.Module) -> Shape:
    """Return the shape of a backbone that has no adapters yet."""
    sites = sites_of(backbone)
    total = sum(param.numel() for param in backbone.parameters())
    hidden, inner = sites.output.weight.shape
    return Shape(len(sites.attentions), hidden, inner, sum(bias.numel() for bias in biases(backbone).values()), total)
