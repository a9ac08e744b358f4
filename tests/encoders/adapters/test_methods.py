"""Sizes of adapters: the published numbers, the formulas against the tensors, and widths from budgets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from backbones import BACKBONES, backbone, possible, states
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

from taco_ir.core.files import InputError
from taco_ir.encoders.adapters.adapter_set import Adapters
from taco_ir.encoders.adapters.bottleneck import aside_width
from taco_ir.encoders.adapters.hook_points import Shape, shape_of
from taco_ir.encoders.adapters.methods import METHODS, method_of, parameters, share, width_of

WIDE = [method for method in METHODS if method_of(method).width]
BASE = Shape(layers=12, hidden=768, inner=768, biases=102_144, total=109_482_240)
PUBLISHED = {
    **{("adapter", 16): 608_640, ("prefix", 32): 589_824, ("lora", 16): 589_824, ("mam", 16): 599_232},
    **{("iaa-s", 8): 627_072, ("iaa-l", 12): 691_632, ("iaa-m", 15): 609_408},
}


@pytest.fixture(scope="module")
def bert() -> BertModel:
    with torch.device("meta"):
        return BertModel(BertConfig())


def test_the_shape_of_bert(bert: BertModel) -> None:
    """BitFit's 102,912 count the pooler's bias, which no vector depends on."""
    assert shape_of(bert) == BASE
    every = sum(param.numel() for name, param in bert.named_parameters() if name.endswith(".bias"))
    assert every == 102_912 == BASE.biases + 768


@pytest.mark.parametrize(("method", "width"), PUBLISHED)
def test_published_counts(method: str, width: int) -> None:
    """Of BERT-base: the formula and the sum of the tensors."""
    with torch.device("meta"):
        bert = BertModel(BertConfig())
        tensors = Adapters(bert, method, width, ["shared"]).tensors("shared")
    count = sum(tensor.numel() for tensor in tensors.values())
    assert parameters(method, BASE, width) == count == PUBLISHED[method, width]
    assert method_of(method).width == width  # the default is the paper's
    assert all(tensor.requires_grad for tensor in tensors.values())
    assert not any(param.requires_grad for name, param in bert.named_parameters() if "lora" not in name)


def test_deep_prompts_of_roberta_large() -> None:
    """DPTDR: 6.29 M numbers, 1.77 %."""
    with torch.device("meta"):
        large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
        large |= {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}
        shape = shape_of(RobertaModel(RobertaConfig(**large)))
    assert parameters("prompt", shape, 128) == 2 * 24 * 128 * 1024 == 6_291_456
    assert share("prompt", shape, 128) == "1.77 %"


def test_the_bottleneck_beside_the_encoder_is_the_wider_one() -> None:
    assert aside_width(15) == 24


POSSIBLE = [(kind, method) for kind in BACKBONES for method in METHODS if possible(kind, method)]


@pytest.mark.parametrize(("kind", "method"), POSSIBLE)
def test_the_formula_is_the_sum(kind: str, method: str) -> None:
    backbone = BACKBONES[kind]()
    shape = shape_of(backbone)
    for width in (1, 7) if method_of(method).width else (0,):
        tensors = Adapters(BACKBONES[kind](), method, width, ["shared"]).tensors("shared")
        assert sum(tensor.numel() for tensor in tensors.values()) == parameters(method, shape, width)


@given(st.sampled_from(WIDE), st.integers(1, 767))
def test_wider_is_more(method: str, width: int) -> None:
    assert 0 < parameters(method, BASE, width) < parameters(method, BASE, width + 1)


@given(st.sampled_from(WIDE), st.integers(1, 768))
def test_a_budget_gives_the_widest_within_it(method: str, width: int) -> None:
    """The share that a width takes, a little more, and a little less."""
    count = parameters(method, BASE, width)
    ways = {1: f"{100 * (count + 1) / BASE.total:.8f}%", -1: f"{100 * (count - 1) / BASE.total:.8f}%"}
    if width < BASE.hidden:
        assert width_of(method, BASE, 0, ways[1]) == width
    if width > 1:
        assert width_of(method, BASE, 0, ways[-1]) == width - 1


def test_budgets_by_hand() -> None:
    """0.5 % of BERT-base are 547,411 numbers: 12 x (1537 r + 768) x 2 of them at r = 14."""
    assert width_of("adapter", BASE, 0, "0.5%") == 14
    assert [parameters("adapter", BASE, width) for width in (14, 15)] == [534_864, 571_752]
    assert [width_of(method, BASE, 0, "5 %") for method in ("lora", "prefix", "iaa-l")] == [148, 296, 98]


@pytest.mark.parametrize("method", METHODS)
def test_without_width_and_budget_the_default(method: str) -> None:
    assert width_of(method, BASE, 0, "") == method_of(method).width


@pytest.mark.parametrize(
    ("method", "width", "budget", "message"),
    [
        ("lora", 16, "1%", "tune_width is 16 and tune_budget is '1%'; give one of them"),
        ("lora", 769, "", "tune_width is 769; lora allows 1 to 768"),
        (
            "bitfit",
            3,
            "",
            r"tune_width is 3; bitfit has only one possible size for this backbone, 102,144 numbers \(0.0933 %\)",
        ),
        ("bitfit", 0, "1%", "tune_budget is '1%'; bitfit has only one possible size"),
        (
            "adapter",
            0,
            "0.01%",
            r"tune_budget is '0.01%', which is 10,948 parameters .* width 1: 55,320 numbers \(0.05053 %\)",
        ),
        (
            "lora",
            0,
            "50%",
            r"tune_budget is '50%', which is 54,741,120 parameters .* width 768: 28,311,552 numbers \(25.86 %\)",
        ),
        ("lora", 0, "many", "tune_budget is 'many'; it must be a percentage of the backbone such as 0.5%"),
    ],
)
def test_what_cannot_be_met(method: str, width: int, budget: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        width_of(method, BASE, width, budget)


NEW_METHOD = """
from torch import nn
from taco_ir.encoders.adapters.base import Insert, Method

class Offset(Insert):
    def __init__(self, embeddings):
        super().__init__()
        self.size = embeddings.embedding_dim
        self.sets = nn.ParameterDict()
        embeddings.register_forward_hook(self.added)

    def added(self, _, args, output):
        return output if self.active is None else output + self.sets[self.active]

    def add(self, name):
        self.sets[name] = nn.Parameter(__import__("torch").zeros(self.size))

    def tensors(self, name):
        return {"offset": self.sets[name]}

OFFSET = Method(lambda target: [Offset(target.backbone.get_input_embeddings())], lambda shape, _: shape.hidden)
"""


def test_a_new_method_is_a_file_and_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "offset_method.py").write_text(NEW_METHOD)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(METHODS, "offset", "offset_method:OFFSET")
    model = backbone("bert")
    adapters = Adapters(model, "offset", 0, ["query", "passage"]).eval()
    adapters.check(lambda: states(model)[:, 0])
    count = sum(tensor.numel() for tensor in adapters.tensors("query").values())
    assert count == parameters("offset", shape_of(model), 0) == 32
    with pytest.raises(InputError, match="lora changes .*; supported: prefix, .*, offset"):
        Adapters(backbone("modernbert"), "lora", 2, ["query"])
