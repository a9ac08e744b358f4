"""Adapters on a frozen backbone: equal to the formulas and to peft, no change at the start, apart from each other."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from backbones import BACKBONES, IDS_BL, LOCAL, MASK_BL, SIZES, backbone, possible, states
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertModel, ModernBertModel, MPNetConfig, MPNetModel
from transformers.models.modernbert.modeling_modernbert import apply_rotary_pos_emb

from taco_ir.core.files import InputError
from taco_ir.encoders.adapters.adapter_set import Adapters
from taco_ir.encoders.adapters.hook_points import sites_of
from taco_ir.encoders.adapters.methods import METHODS, method_of, with_prompts

PROMPTED = tuple(with_prompts())  # begin with random prompts: no identity
BOTTLENECKS = ("adapter", "parallel", "iaa-s", "iaa-l", "iaa-m")
PAIRS = [(kind, method) for kind in BACKBONES for method in METHODS if possible(kind, method)]


def adapters_on(
    model: nn.Module, method: str, names: tuple[str, ...] = ("query", "passage"), width: int = 3, **options: Any
) -> Adapters:
    return Adapters(model, method, width if method_of(method).width else 0, names, **options).eval()


def moved(adapters: Adapters) -> Adapters:
    """Numbers as after a training, others in each adapter."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in adapters.named_tensors().values():
            tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.1)
    return adapters


@pytest.mark.parametrize(("kind", "method"), PAIRS)
def test_adapters_have_an_effect_of_their_own(kind: str, method: str) -> None:
    """None in use: the backbone, bit for bit. Two: two results, each the same whenever it is in use again."""
    model = backbone(kind)
    model.requires_grad_(False)
    bare = states(model)
    adapters = adapters_on(model, method)
    adapters.check(lambda: states(model)[:, 0])
    torch.testing.assert_close(states(model), bare, rtol=0, atol=1e-6)  # prompts: another call of the same function
    for name in adapters.names:
        adapters.use(name)
        same = torch.allclose(states(model), bare, rtol=0, atol=1e-6)
        assert same == (method not in PROMPTED)
    moved(adapters)
    seen: dict[str, Tensor] = {}
    for name in ("query", "passage", "query", "query", "passage"):
        adapters.use(name)
        found = states(model)
        assert (found - bare).abs().max() > 1e-3
        assert torch.equal(found, seen.setdefault(name, found))
    assert (seen["query"] - seen["passage"]).abs().max() > 1e-3
    adapters.use(None)
    torch.testing.assert_close(states(model), bare, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("kind", "method"), PAIRS)
def test_padding_changes_nothing(kind: str, method: str) -> None:
    """A text in a batch is the text alone."""
    model = backbone(kind)
    adapters = moved(adapters_on(model, method))
    adapters.use("query")
    alone = states(model, IDS_BL[1:, :5], MASK_BL[1:, :5])
    torch.testing.assert_close(states(model)[1:, :5], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("kind", "method"), PAIRS)
def test_gradients_reach_all_adapters_that_were_used(kind: str, method: str) -> None:
    """Both towers' in one backward pass, after switching; nothing reaches the backbone."""
    model = backbone(kind)
    adapters = moved(adapters_on(model, method, ("query", "passage", "other")))
    vectors = []
    for name in ("query", "passage"):
        adapters.use(name)
        vectors.append(states(model)[:, 0])
    (vectors[0] * vectors[1].roll(1, 1)).sum().backward()
    for name in ("query", "passage"):
        idle = [key for key, tensor in adapters.tensors(name).items() if tensor.grad is None or not tensor.grad.any()]
        assert all(key.endswith(("key.bias", "k_lin.bias")) for key in idle)  # softmax does not see them
    assert all(tensor.grad is None for tensor in adapters.tensors("other").values())
    own = {id(tensor) for tensor in adapters.named_tensors().values()}
    assert all(param.grad is None for param in model.parameters() if id(param) not in own)
    assert all(tensor.requires_grad for tensor in adapters.named_tensors().values())  # peft freezes those out of use


@pytest.mark.parametrize("method", METHODS)
def test_a_repeated_pass_goes_through_its_own_adapter(method: str) -> None:
    """Gradient checkpointing repeats a pass when another adapter is in use."""
    model = backbone("bert")
    adapters = moved(adapters_on(model, method))

    def gradients(repeated: bool) -> list[Tensor]:
        if repeated:
            settings: dict[str, Any] = {"use_reentrant": False, "context_fn": adapters.repeated}
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)
            model.train()
            for module in model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0
        vectors = []
        for name in adapters.names:
            adapters.use(name)
            vectors.append(states(model)[:, 0])
        adapters.use(None)
        (vectors[0] * vectors[1].roll(1, 1)).sum().backward()
        assert adapters.active is None
        own = adapters.named_tensors().values()
        found = [torch.zeros_like(tensor) if tensor.grad is None else tensor.grad for tensor in own]
        adapters.zero_grad()
        model.zero_grad()
        return found

    plain = gradients(repeated=False)
    for own, expected in zip(gradients(repeated=True), plain, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5)


# formulas


def bottleneck(sets: Any, place: str, number: int, states_BLH: Tensor) -> Tensor | float:
    """The bottleneck at a place, written out; 0 where there is none."""
    if place not in sets:
        return 0.0
    module = sets[place][number]
    inner = functional.gelu(states_BLH @ module.down.weight.T + module.down.bias)
    return inner @ module.up.weight.T + module.up.bias


def by_hand(model: BertModel, sets: Any, mask_BL: Tensor) -> Tensor:
    """BERT with bottlenecks where Ma et al. (IAA) and He et al. (parallel) put them, written out."""
    at = partial(bottleneck, sets)
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
@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_bottlenecks_by_hand(kind: str, method: str) -> None:
    model = backbone(kind)
    adapters = moved(adapters_on(model, method))
    adapters.use("query")
    found = states(model)
    adapters.use(None)
    sets = adapters.parts[0].sets["query"]
    no_prompts = [torch.zeros(2, 0, 32)] * 3
    expected = by_hand(model, sets, MASK_BL) if kind == "bert" else modernbert_by_hand(model, no_prompts, 0, sets)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_lora_is_peft_and_a_low_rank_change() -> None:
    model, plain, other = backbone("bert"), backbone("bert"), backbone("bert")
    adapters = moved(adapters_on(model, "lora"))
    adapters.use("query")
    found = states(model)
    tensors = adapters.tensors("query")
    peft = get_peft_model(other, LoraConfig(r=3, lora_alpha=6, target_modules=["query", "value"])).eval()
    with torch.no_grad():
        for target in sites_of(plain).linears:
            a_RH, b_HR = tensors[f"{target}.A"], tensors[f"{target}.B"]
            plain.get_submodule(target).weight += 2 * b_HR @ a_RH
            layer = peft.base_model.model.get_submodule(target)
            layer.lora_A["default"].weight.copy_(a_RH)
            layer.lora_B["default"].weight.copy_(b_HR)
    torch.testing.assert_close(found, states(plain), rtol=0, atol=1e-5)
    theirs = peft(input_ids=IDS_BL, attention_mask=MASK_BL).last_hidden_state
    torch.testing.assert_close(found, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "positions", "first"),
    [("prompt", "", 3), ("prefix", "", 0), ("prompt", "plain", 0), ("prefix", "shifted", 3)],
)
def test_prompts_are_pefts(method: str, positions: str, first: int) -> None:
    """peft's prefix adapters shifts positions by the prompt's length, as DPTDR, unless it is given others."""
    model, other = backbone("bert"), backbone("bert")
    adapters = moved(adapters_on(model, method, positions=positions))
    adapters.use("query")
    config = PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=3)
    peft = get_peft_model(other, config).eval()
    layers = list(adapters.tensors("query").values())
    rows_PLH = torch.stack([half for prompt_2PH in layers for half in prompt_2PH], 1)
    with torch.no_grad():
        peft.prompt_encoder["default"].embedding.weight.copy_(rows_PLH.flatten(1))
    positions_BL = (torch.arange(8) + first - 3).expand(2, 8)  # peft adds 3
    expected = peft(input_ids=IDS_BL, attention_mask=MASK_BL, position_ids=positions_BL).last_hidden_state
    torch.testing.assert_close(states(model), expected, rtol=0, atol=1e-5)


def test_reparameterised_prompts_are_pefts() -> None:
    """Li and Liang's embedding and layers; the vectors that they compute are stored, and equal plain prompts."""
    model, other, third = backbone("bert"), backbone("bert"), backbone("bert")
    adapters = moved(adapters_on(model, "prefix", ("query", "passage"), reparameterised={"query"}))
    adapters.use("query")
    config = PrefixTuningConfig(
        task_type="FEATURE_EXTRACTION",
        num_virtual_tokens=3,
        prefix_projection=True,
        encoder_hidden_size=512,
        token_dim=32,
    )
    peft = get_peft_model(other, config).eval()
    own, theirs = adapters.tensors("query"), peft.prompt_encoder["default"]
    layers = [f"layers.{number}" for number in range(2)]
    with torch.no_grad():
        theirs.embedding.weight.copy_(own["embedding"])
        for key in ("weight", "bias"):
            getattr(theirs.transform[0], key).copy_(own[f"first.{key}"])
            getattr(theirs.transform[2], key).copy_(torch.cat([own[f"{layer}.{key}"] for layer in layers]))
    positions_BL = (torch.arange(8) - 3).expand(2, 8)  # peft adds 3
    expected = peft(input_ids=IDS_BL, attention_mask=MASK_BL, position_ids=positions_BL).last_hidden_state
    torch.testing.assert_close(states(model), expected, rtol=0, atol=1e-5)
    plain = adapters_on(third, "prefix")
    plain.load(adapters.stored(), "a folder")
    plain.use("query")
    torch.testing.assert_close(states(third), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", PROMPTED)
def test_reparameterised_prompts_begin_as_others_and_train_elsewhere(method: str) -> None:
    """Deviation 0.02; every layer of the network matters, and a network that leaves out a prompt is found."""
    model = backbone("bert")
    adapters = adapters_on(model, method, ("query",), width=32, reparameterised={"query"})
    plain = adapters_on(backbone("bert"), method, ("query",), width=32)
    stored = adapters.stored()
    assert {name: tensor.shape for name, tensor in stored.items()} == {
        name: tensor.shape for name, tensor in plain.stored().items()
    }
    for tensor in (tensor for tensor in stored.values() if tensor.dim() == 3):
        assert abs(float(tensor.std()) - 0.02) < 2e-3 and abs(float(tensor.mean())) < 2e-3
    bottlenecks = sum(tensor.numel() for tensor in stored.values() if tensor.dim() < 3)
    trained = sum(tensor.numel() for tensor in adapters.tensors("query").values())
    assert trained == bottlenecks + 32 * 32 + 512 * (32 + 1) + (512 + 1) * 2 * 2 * 32
    adapters.check(lambda: states(model)[:, 0])
    model.encoder.layer[1].attention.self.deep_prompt = None
    with pytest.raises(InputError, match=r"2 of \d+ tensors get no gradient, first (0\.)?layers\.1\.weight"):
        adapters.check(lambda: states(model)[:, 0])


def modernbert_by_hand(model: ModernBertModel, layers: list[Tensor], first: int, sets: Any = ()) -> Tensor:
    """ModernBERT with a prompt [2, P, H] in every layer, not rotated, seen from everywhere; texts begin at `first`."""
    at = partial(bottleneck, sets)

    def heads(rows: Tensor) -> Tensor:
        return rows.unflatten(-1, (4, 8)).transpose(-2, -3)

    embedded = states_BLH = model.embeddings(IDS_BL)
    places_L = torch.arange(8)
    near_LL = (places_L - places_L[:, None]).abs() <= LOCAL["local_attention"] // 2
    for number, (layer, prompt_2PH) in enumerate(zip(model.layers, layers, strict=True)):
        before = states_BLH
        query, key, value = (heads(rows) for rows in layer.attn.Wqkv(layer.attn_norm(before)).chunk(3, -1))
        turns = model.rotary_emb(before, (places_L + first)[None], layer.attention_type)
        query, key = apply_rotary_pos_emb(query, key, *turns)
        both = zip(prompt_2PH, (key, value), strict=True)
        key, value = (torch.cat([heads(own).expand(2, -1, -1, -1), rows], 2) for own, rows in both)
        seen_BLL = MASK_BL.bool()[:, None].expand(2, 8, 8)
        if layer.attention_type == "sliding_attention":
            seen_BLL = seen_BLL & near_LL
        seen_BLK = functional.pad(seen_BLL, (prompt_2PH.shape[1], 0), value=True)
        scores = query @ key.transpose(-1, -2) / 8**0.5
        scores = scores.masked_fill(~seen_BLK[:, None], -torch.inf)  # padding may see nothing
        attended = layer.attn.Wo((scores.softmax(-1).nan_to_num() @ value).transpose(1, 2).flatten(2))
        u = before + attended + at("inside_attention", number, attended) + at("beside_attention", number, before)
        ffn = layer.mlp(layer.mlp_norm(u))
        ffn = ffn + at("inside_ffn", number, ffn) + 4 * at("parallel_ffn", number, layer.mlp_norm(u))
        states_BLH = u + ffn + at("beside_ffn", number, u) + at("beside_layer", number, before)
    return model.final_norm(states_BLH) + at("beside_encoder", 0, embedded)


@pytest.mark.parametrize(("method", "first"), [("prompt", 3), ("prefix", 0)])
def test_modernberts_prompts_by_hand(method: str, first: int) -> None:
    """Texts are longer than the window of two of the three layers; their prompts are seen from everywhere."""
    model = backbone("modernbert")
    assert [layer.attention_type.split("_")[0] for layer in model.layers] == ["full", "sliding", "sliding"]
    adapters = adapters_on(model, method)
    adapters.use("query")
    layers = list(adapters.tensors("query").values())
    with torch.no_grad():  # numbers under which it matters what is seen from where
        for tensor in (*layers, *(layer.attn.Wqkv.weight for layer in model.layers)):
            tensor.normal_(std=0.5)
    expected = modernbert_by_hand(model, layers, first)
    torch.testing.assert_close(states(model), expected, rtol=0, atol=1e-5)
    assert (modernbert_by_hand(model, layers, 3 - first) - expected).abs().max() > 1e-2


def test_prompts_begin_small_and_drop_out() -> None:
    """N(0, 0.02^2); each text has its own dropout, the backbone none."""
    model = backbone("bert")
    adapters = adapters_on(model, "prompt", width=32)
    values = torch.cat([tensor.detach().flatten() for tensor in adapters.tensors("query").values()])
    assert values.numel() == 2 * 2 * 32 * 32
    assert abs(float(values.std()) - 0.02) < 1e-3 and abs(float(values.mean())) < 1e-3
    moved(adapters).train()
    adapters.use("query")
    same_BL = IDS_BL[:1].expand(2, -1)
    noisy = states(model, same_BL, torch.ones_like(same_BL))
    assert not torch.equal(noisy[0], noisy[1])
    adapters.eval()
    assert torch.equal(*states(model, same_BL, torch.ones_like(same_BL)))


def test_bottlenecks_begin_as_said() -> None:
    """W_down ~ N(0, 0.01^2), all else zero."""
    tensors = adapters_on(backbone("bert"), "iaa-l", width=32).tensors("query")
    for key, tensor in tensors.items():
        assert float(tensor.std()) == pytest.approx(0.01, rel=0.1) if "down.weight" in key else not tensor.any()


def test_biases_begin_as_the_backbones() -> None:
    model = backbone("bert")
    biases = ((name, param) for name, param in model.named_parameters() if name.endswith(".bias"))
    expected = {name: param.clone() for name, param in biases if "pooler" not in name}
    tensors = adapters_on(model, "bitfit").tensors("query")
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], bias) for name, bias in expected.items())


# what cannot be


def test_a_backbone_without_known_hook_points() -> None:
    supported = "bert, camembert, distilbert, electra, modernbert, mt5, roberta, t5, xlm-roberta"
    with pytest.raises(InputError, match=f"type 'mpnet' has no known hook points; supported: {supported}"):
        adapters_on(MPNetModel(MPNetConfig(**SIZES)), "adapter")


@pytest.mark.parametrize("kind", ["t5", "modernbert"])
def test_some_have_no_biases(kind: str) -> None:
    with pytest.raises(InputError, match=f"bitfit trains biases; a backbone of type '{kind}' has none"):
        adapters_on(backbone(kind), "bitfit")


def test_modernbert_projects_to_queries_keys_and_values_at_once() -> None:
    """The methods named instead work there."""
    message = r"lora changes .* of type 'modernbert' has one for both and keys; supported: (.*)"
    with pytest.raises(InputError, match=message) as raised:
        adapters_on(backbone("modernbert"), "lora")
    supported = str(raised.value).rpartition(": ")[2].split(", ")
    assert supported == [method for method in METHODS if possible("modernbert", method)]


def test_the_check_finds_what_has_no_effect() -> None:
    """Layers that a pass leaves out, or an attention function without prompts."""
    model = backbone("bert")
    adapters = adapters_on(model, "adapter")
    said = r"adapter does not work with this backbone, adapter 'query': 8 of 16 tensors get no gradient"
    with pytest.raises(InputError, match=said):
        adapters.check(lambda: model.encoder.layer[0](model.embeddings(input_ids=IDS_BL)))
    other = backbone("bert")
    prompts = adapters_on(other, "prefix")
    other.set_attn_implementation("sdpa")
    with pytest.raises(InputError, match="adapter 'query': "):
        prompts.check(lambda: states(other))


def test_the_check_leaves_everything_as_it_was() -> None:
    model = backbone("bert")
    adapters = moved(adapters_on(model, "iaa-m"))
    before = {name: tensor.detach().clone() for name, tensor in adapters.named_tensors().items()}
    state = torch.get_rng_state()
    adapters.check(lambda: states(model))
    after = adapters.named_tensors().items()
    assert all(torch.equal(tensor, before[name]) and tensor.grad is None for name, tensor in after)
    assert torch.equal(torch.get_rng_state(), state) and adapters.active is None


def test_adapters_are_named() -> None:
    with pytest.raises(ValueError, match="adapter 'answer' is none of"):
        adapters_on(backbone("bert"), "lora").use("answer")
