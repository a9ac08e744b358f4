"""Modules on a frozen backbone: equal to the formulas and to peft, nothing at the start, each set apart from the others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from backbones import BACKBONES, IDS_BL, MASK_BL, backbone, states
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertModel, MPNetConfig, MPNetModel

from taco_ir.files import InputError
from taco_ir.models.tuning.counts import METHODS
from taco_ir.models.tuning.sites import sites_of
from taco_ir.models.tuning.tuned import Tuning

PROMPTED = ("prefix", "prompt", "mam")  # begin with random prompts: no identity
BOTTLENECKS = ("adapter", "parallel", "iaa-s", "iaa-l", "iaa-m")
PAIRS = [(kind, method) for kind in BACKBONES for method in METHODS if method != "bitfit" or not kind.startswith("t5")]


def tuning_of(model: nn.Module, method: str, names: tuple[str, ...] = ("query", "passage"), width: int = 3) -> Tuning:
    return Tuning(model, method, width if METHODS[method].width else 0, names).eval()


def moved(tuning: Tuning) -> Tuning:
    """Numbers as after a training, other ones in each module."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in tuning.named_tensors().values():
            tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.1)
    return tuning


@pytest.mark.parametrize(("kind", "method"), PAIRS)
def test_modules_have_an_effect_of_their_own(kind: str, method: str) -> None:
    """None in use: the backbone, bit for bit. Two: two results, each the same whenever it is in use again."""
    model = backbone(kind)
    model.requires_grad_(False)
    bare = states(model)
    tuning = tuning_of(model, method)
    tuning.check(lambda: states(model)[:, 0])
    torch.testing.assert_close(states(model), bare, rtol=0, atol=1e-6)  # prompts: another call of the same function
    for name in tuning.names:
        tuning.use(name)
        same = torch.allclose(states(model), bare, rtol=0, atol=1e-6)
        assert same == (method not in PROMPTED)
    moved(tuning)
    seen: dict[str, Tensor] = {}
    for name in ("query", "passage", "query", "query", "passage"):
        tuning.use(name)
        found = states(model)
        assert (found - bare).abs().max() > 1e-3
        assert torch.equal(found, seen.setdefault(name, found))
    assert (seen["query"] - seen["passage"]).abs().max() > 1e-3
    tuning.use(None)
    torch.testing.assert_close(states(model), bare, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("kind", "method"), PAIRS)
def test_padding_changes_nothing(kind: str, method: str) -> None:
    """A text in a batch is the text alone."""
    model = backbone(kind)
    tuning = moved(tuning_of(model, method))
    tuning.use("query")
    alone = states(model, IDS_BL[1:, :5], MASK_BL[1:, :5])
    torch.testing.assert_close(states(model)[1:, :5], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("kind", "method"), PAIRS)
def test_gradients_reach_all_modules_that_were_used(kind: str, method: str) -> None:
    """Both towers' in one backward pass, after switching; nothing reaches the backbone."""
    model = backbone(kind)
    tuning = moved(tuning_of(model, method, ("query", "passage", "other")))
    vectors = []
    for name in ("query", "passage"):
        tuning.use(name)
        vectors.append(states(model)[:, 0])
    (vectors[0] * vectors[1].roll(1, 1)).sum().backward()
    for name in ("query", "passage"):
        idle = [key for key, tensor in tuning.tensors(name).items() if tensor.grad is None or not tensor.grad.any()]
        assert all(key.endswith(("key.bias", "k_lin.bias")) for key in idle)  # softmax does not see them
    assert all(tensor.grad is None for tensor in tuning.tensors("other").values())
    tuned = {id(tensor) for tensor in tuning.named_tensors().values()}
    assert all(param.grad is None for param in model.parameters() if id(param) not in tuned)
    assert all(tensor.requires_grad for tensor in tuning.named_tensors().values())  # peft freezes those out of use


@pytest.mark.parametrize("method", METHODS)
def test_a_repeated_pass_goes_through_its_own_module(method: str) -> None:
    """Gradient checkpointing repeats a pass when another module is in use."""
    model = backbone("bert")
    tuning = moved(tuning_of(model, method))

    def gradients(repeated: bool) -> list[Tensor]:
        if repeated:
            settings: dict[str, Any] = {"use_reentrant": False, "context_fn": tuning.repeated}
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)
            model.train()
            for module in model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0
        vectors = []
        for name in tuning.names:
            tuning.use(name)
            vectors.append(states(model)[:, 0])
        tuning.use(None)
        (vectors[0] * vectors[1].roll(1, 1)).sum().backward()
        assert tuning.active is None
        found = [torch.zeros_like(tensor) if tensor.grad is None else tensor.grad for tensor in tuning.named_tensors().values()]
        tuning.zero_grad()
        model.zero_grad()
        return found

    plain = gradients(repeated=False)
    for own, expected in zip(gradients(repeated=True), plain, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5)


# formulas


def by_hand(model: BertModel, sets: Any, mask_BL: Tensor) -> Tensor:
    """BERT with modules where Ma et al. (IAA) and He et al. (parallel) put them, written out."""

    def at(place: str, number: int, states_BLH: Tensor) -> Tensor | float:
        if place not in sets:
            return 0.0
        module = sets[place][number]
        inner = functional.gelu(states_BLH @ module.down.weight.T + module.down.bias)
        return inner @ module.up.weight.T + module.up.bias

    first = states_BLH = model.embeddings(input_ids=IDS_BL)
    seen_B11L = mask_BL[:, None, None, :].bool()
    for number, layer in enumerate(model.encoder.layer):
        before = states_BLH
        attended = layer.attention.self(before, attention_mask=seen_B11L)[0]
        attended = layer.attention.output.dense(attended)
        attended = attended + at("inside_attention", number, attended)
        u = layer.attention.output.LayerNorm(before + attended) + at("beside_attention", number, before)
        ffn = layer.output.dense(layer.intermediate(u))
        ffn = ffn + 4 * at("parallel_ffn", number, u) + at("inside_ffn", number, ffn)
        states_BLH = layer.output.LayerNorm(u + ffn) + at("beside_ffn", number, u) + at("beside_layer", number, before)
    return states_BLH + at("beside_encoder", 0, first)


@pytest.mark.parametrize("method", BOTTLENECKS)
def test_bottlenecks_by_hand(method: str) -> None:
    model = backbone("bert")
    tuning = moved(tuning_of(model, method))
    tuning.use("query")
    found = states(model)
    tuning.use(None)
    torch.testing.assert_close(found, by_hand(model, tuning.parts[0].sets["query"], MASK_BL), rtol=0, atol=1e-5)


def test_lora_is_peft_and_a_low_rank_change() -> None:
    model, plain, other = backbone("bert"), backbone("bert"), backbone("bert")
    tuning = moved(tuning_of(model, "lora"))
    tuning.use("query")
    found = states(model)
    tensors = tuning.tensors("query")
    peft = get_peft_model(other, LoraConfig(r=3, lora_alpha=6, target_modules=["query", "value"])).eval()
    with torch.no_grad():
        for target in sites_of(plain).linears:
            a_RH, b_HR = tensors[f"{target}.A"], tensors[f"{target}.B"]
            plain.get_submodule(target).weight += 2 * b_HR @ a_RH
            layer = peft.base_model.model.get_submodule(target)
            layer.lora_A["default"].weight.copy_(a_RH)
            layer.lora_B["default"].weight.copy_(b_HR)
    torch.testing.assert_close(found, states(plain), rtol=0, atol=1e-5)
    torch.testing.assert_close(found, peft(input_ids=IDS_BL, attention_mask=MASK_BL).last_hidden_state, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("method", "first"), [("prompt", 3), ("prefix", 0)])
def test_prompts_are_pefts(method: str, first: int) -> None:
    """peft's prefix tuning shifts positions by the prompt's length, as DPTDR; told others, it does not."""
    model, other = backbone("bert"), backbone("bert")
    tuning = moved(tuning_of(model, method))
    tuning.use("query")
    config = PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=3)
    peft = get_peft_model(other, config).eval()
    layers = list(tuning.tensors("query").values())
    rows_PLH = torch.stack([half for prompt_2PH in layers for half in prompt_2PH], 1)
    with torch.no_grad():
        peft.prompt_encoder["default"].embedding.weight.copy_(rows_PLH.flatten(1))
    positions_BL = (torch.arange(8) + first - 3).expand(2, 8)  # peft adds 3
    expected = peft(input_ids=IDS_BL, attention_mask=MASK_BL, position_ids=positions_BL).last_hidden_state
    torch.testing.assert_close(states(model), expected, rtol=0, atol=1e-5)


def test_prompts_begin_small_and_drop_out() -> None:
    """N(0, 0.02^2); each text draws its own dropout, the backbone none."""
    model = backbone("bert")
    tuning = tuning_of(model, "prompt", width=32)
    values = torch.cat([tensor.detach().flatten() for tensor in tuning.tensors("query").values()])
    assert values.numel() == 2 * 2 * 32 * 32
    assert abs(float(values.std()) - 0.02) < 1e-3 and abs(float(values.mean())) < 1e-3
    moved(tuning).train()
    tuning.use("query")
    same_BL = IDS_BL[:1].expand(2, -1)
    noisy = states(model, same_BL, torch.ones_like(same_BL))
    assert not torch.equal(noisy[0], noisy[1])
    tuning.eval()
    assert torch.equal(*states(model, same_BL, torch.ones_like(same_BL)))


def test_bottlenecks_begin_as_said() -> None:
    """W_down ~ N(0, 0.01^2), all else zero."""
    tensors = tuning_of(backbone("bert"), "iaa-l", width=32).tensors("query")
    for key, tensor in tensors.items():
        assert float(tensor.std()) == pytest.approx(0.01, rel=0.1) if "down.weight" in key else not tensor.any()


def test_biases_begin_as_the_backbones() -> None:
    model = backbone("bert")
    expected = {name: param.clone() for name, param in model.named_parameters() if name.endswith(".bias") and "pooler" not in name}
    tensors = tuning_of(model, "bitfit").tensors("query")
    assert tensors.keys() == expected.keys() and all(torch.equal(tensors[name], bias) for name, bias in expected.items())


# what cannot be


def test_a_backbone_without_known_hook_points() -> None:
    model = MPNetModel(MPNetConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16))
    message = "type 'mpnet' has no known hook points; supported: bert, camembert, distilbert, electra, roberta, t5, xlm-roberta"
    with pytest.raises(InputError, match=message):
        tuning_of(model, "adapter")


def test_t5_has_no_biases() -> None:
    with pytest.raises(InputError, match="bitfit trains biases; a backbone of type 't5' has none"):
        tuning_of(backbone("t5"), "bitfit")


def test_the_check_finds_what_has_no_effect() -> None:
    """Layers that a pass leaves out, or an attention function that knows no prompts."""
    model = backbone("bert")
    tuning = tuning_of(model, "adapter")
    with pytest.raises(InputError, match=r"adapter does not work on this backbone, module 'query': 8 of 16 tensors get no gradient"):
        tuning.check(lambda: model.encoder.layer[0](model.embeddings(input_ids=IDS_BL)))
    other = backbone("bert")
    prompts = tuning_of(other, "prefix")
    other.set_attn_implementation("sdpa")
    with pytest.raises(InputError, match="module 'query': "):
        prompts.check(lambda: states(other))


def test_the_check_leaves_everything_as_it_was() -> None:
    model = backbone("bert")
    tuning = moved(tuning_of(model, "iaa-m"))
    before = {name: tensor.detach().clone() for name, tensor in tuning.named_tensors().items()}
    drawn = torch.get_rng_state()
    tuning.check(lambda: states(model))
    assert all(torch.equal(tensor, before[name]) and tensor.grad is None for name, tensor in tuning.named_tensors().items())
    assert torch.equal(torch.get_rng_state(), drawn) and tuning.active is None


def test_modules_are_named() -> None:
    with pytest.raises(ValueError, match="module 'answer' is none of"):
        tuning_of(backbone("bert"), "lora").use("answer")
