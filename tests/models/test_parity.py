"""amaru against stock transformers on small random models of every family it has: logits, every gradient, files in both directions."""

import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.random_models import FAMILIES, random_config, random_ids, random_model
from torch import Tensor, nn

from amaru.data.tokenizer import Tokenizer
from amaru.models import Decoder, DecoderConfig
from amaru.models.checkpoint import load, save
from amaru.models.families import family_for, llama, nemotron4, nemotron_h, own
from amaru.nn import MLP, Attention, Batch
from amaru.nn.rope import Llama3Scaling, NTKScaling, Rope

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

TOLERANCE = 5e-5  # logits of magnitude 5; in fp32 these models and transformers are each up to 3e-5 from fp64
GRADIENT_TOLERANCE = 1e-3  # of the largest entry; theirs is up to 4e-4 from fp64
LENGTHS = (37, 1, 16, 50)

# Nemotron-H is compared in fp32 only: transformers takes its norms, scan and router to fp32 whatever the model is in.
DOUBLE = ("llama", "qwen2", "nemotron")
STOCK = (*DOUBLE, "nemotron_h", "nemotron_h with experts")
SHAPES = [(maker, family, seed) for maker in ("amaru", "transformers") for family in STOCK for seed in range(6)]


class Pair(NamedTuple):
    """One model in both: `path` is the checkpoint that its maker wrote and the other one read."""

    decoder: Decoder
    theirs: nn.Module
    path: Path


EXPERTS = {"experts_implementation": "eager"}  # the grouped product that transformers would choose wants widths in steps of 16 bytes


def stock(path: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        path, dtype=dtype, local_files_only=True, output_loading_info=True, **EXPERTS
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return model.eval()


def stock_logits(model: nn.Module, sequences: list[Tensor]) -> Tensor:
    return torch.cat([model(ids[None], use_cache=False).logits[0] for ids in sequences])


def difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def drawn_values(family: str, seed: int) -> dict[str, Any]:
    """Fields of a config.json as transformers names them; shapes are not those that `random_models` draws."""
    draw = random.Random(f"{family} {seed}")
    if family.startswith("nemotron_h"):
        return _nemotron_h_values(draw, draw.choice(("E", "ME*-", "EME")) if "experts" in family else draw.choice(("M-*M", "*-M", "MM")))
    kv_heads = draw.choice((1, 2, 3))
    heads = kv_heads * draw.choice((1, 2, 4))
    values = {
        "vocab_size": draw.choice((59, 83)),
        "hidden_size": heads * draw.choice((3, 6)) if family == "llama" else draw.choice((15, 22)),  # Llama's must divide
        "intermediate_size": draw.choice((13, 31)),
        "num_hidden_layers": draw.choice((1, 2, 3)),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": draw.choice((8, 12)),
        "max_position_embeddings": 128,
        "tie_word_embeddings": draw.random() < 0.5,
        "rope_parameters": {"rope_type": "default", "rope_theta": draw.choice((300.0, 10000.0))},
        "norm_eps" if family == "nemotron" else "rms_norm_eps": draw.choice((1e-6, 1e-3)),
    }
    if family == "nemotron":
        values["rope_parameters"]["partial_rotary_factor"] = draw.choice((0.5, 1.0))
    if family == "llama" and seed % 2:
        scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
        values["rope_parameters"] |= {"rope_type": "llama3"} | scaling
    return values


def _nemotron_h_values(draw: random.Random, pattern: str) -> dict[str, Any]:
    names = {"M": "linear_attention", "-": "mlp", "*": "full_attention", "E": "moe"}
    kv_heads, groups, router_groups = draw.choice((1, 2)), draw.choice((1, 2, 3)), draw.choice((1, 2))
    return {
        "vocab_size": draw.choice((59, 83)),
        "hidden_size": draw.choice((15, 22)),
        "layers_block_type": [names[letter] for letter in pattern],
        "num_attention_heads": kv_heads * draw.choice((1, 3)),
        "num_key_value_heads": kv_heads,
        "head_dim": draw.choice((5, 6)),
        "intermediate_size": draw.choice((13, 31)),
        "ssm_state_size": draw.choice((9, 11)),
        "mamba_num_heads": groups * draw.choice((1, 2)),
        "mamba_head_dim": draw.choice((4, 5)),
        "n_groups": groups,
        "conv_kernel": draw.choice((3, 4)),
        "chunk_size": draw.choice((13, 64)),
        "time_step_min": 1e-12,  # transformers clamps dt with it, though it only says where dt_bias is drawn from
        "layer_norm_epsilon": draw.choice((1e-5, 1e-3)),
        "n_routed_experts": 4 * router_groups,
        "n_group": router_groups,
        "topk_group": draw.randint(1, router_groups),
        "num_experts_per_tok": draw.choice((2, 3)),
        "moe_intermediate_size": draw.choice((5, 8)),
        "moe_shared_expert_intermediate_size": draw.choice((6, 7)),
        "moe_latent_size": draw.choice((None, 9)),
        "norm_topk_prob": draw.random() < 0.6,
        "routed_scaling_factor": draw.choice((1.0, 2.5)),
    }


def made_by_transformers(family: str, seed: int, path: Path, dtype: torch.dtype) -> nn.Module:
    """A model built, randomised and saved by transformers alone; no parameter and no buffer stays at its first value."""
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(family.split()[0], **drawn_values(family, seed))
    model = transformers.AutoModelForCausalLM.from_config(config, **EXPERTS).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if "correction" in name:
                buffer.normal_(0, 0.3)
    model.save_pretrained(path)
    return model


def make(maker: str, family: str, seed: int, path: Path, dtype: torch.dtype = torch.float32) -> Pair:
    if maker == "transformers":
        theirs = made_by_transformers(family, seed, path, dtype)
        return Pair(load(path), theirs, path)
    decoder = random_model(FAMILIES[family](seed), seed, dtype)
    save(decoder, path)
    return Pair(decoder, stock(path, dtype), path)


@pytest.fixture(scope="module", params=SHAPES, ids=lambda shape: f"{shape[1]} {shape[2]} by {shape[0]}")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make(*request.param, tmp_path_factory.mktemp("model") / "model")


def test_logits_of_packed_sequences_are_those_of_transformers_one_by_one(pair: Pair) -> None:
    sequences = random_ids(pair.decoder.config.vocab, *LENGTHS)
    with torch.no_grad():
        expected = stock_logits(pair.theirs, sequences)
        assert difference(pair.decoder(Batch.of(sequences)), expected) < TOLERANCE * max(1.0, float(expected.abs().max()) / 5)


def their_gradient(entry: Any, gradients: dict[str, Tensor]) -> Tensor:
    """By the name in the file; in memory transformers holds the experts of a layer as one tensor."""
    if entry.index is None:
        return gradients[entry.name]
    return gradients[re.sub(r"\.experts\.\d+\.(\w+)\.weight$", r".experts.\1", entry.name)][entry.index]


def compare_gradients(pair: Pair, tolerance: float) -> None:
    decoder, theirs = pair.decoder, pair.theirs
    sequences = random_ids(decoder.config.vocab, *LENGTHS)
    pull = torch.randn(sum(LENGTHS), decoder.config.vocab, generator=torch.Generator().manual_seed(1)) / sum(LENGTHS)
    parameters, named = dict(decoder.named_parameters()), dict(theirs.named_parameters())
    found = torch.autograd.grad((decoder(Batch.of(sequences)) * pull).sum(), list(parameters.values()), allow_unused=True)
    expected = torch.autograd.grad((stock_logits(theirs, sequences) * pull).sum(), list(named.values()))
    family = family_for(decoder.config)
    gradients = {family.canonical(name): grad for name, grad in zip(named, expected, strict=True)}
    ours = {name: grad for name, grad in zip(parameters, found, strict=True) if grad is not None}
    assert {name for name in parameters if name not in ours} == {name for name in parameters if "correction" in name}
    for entry in family.stored(decoder.config):
        if entry.ours in ours:
            wanted, grad = their_gradient(entry, gradients), ours[entry.ours]
            grad = grad if entry.index is None else grad[entry.index]
            assert difference(grad, wanted) < tolerance * float(ours[entry.ours].abs().max()), entry.name
            assert ours[entry.ours].abs().max() > 0, entry.name


def test_every_gradient_is_that_of_transformers(pair: Pair) -> None:
    compare_gradients(pair, GRADIENT_TOLERANCE)


def test_what_amaru_writes_again_transformers_reads_as_the_same_model(pair: Pair, tmp_path: Path) -> None:
    """Every parameter and buffer bit for bit, nothing missing, nothing left over."""
    save(load(pair.path), tmp_path / "again")
    again, before = stock(tmp_path / "again").state_dict(), pair.theirs.state_dict()
    assert again.keys() == before.keys()
    for name, tensor in before.items():
        assert torch.equal(again[name], tensor), name


class DoubleRotary(nn.Module):
    """transformers' rotary table with its float32 frequencies, but angles in float64: theirs are never better than float32."""

    def __init__(self, theirs: Any) -> None:
        super().__init__()
        self.frequencies = theirs.inv_freq.float().double()

    def forward(self, _x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        angles = position_ids[..., None].double() * self.frequencies.repeat(2)
        return angles.cos(), angles.sin()


def in_double(model: Any) -> Any:
    """transformers goes to float32 in two places of these families: the rotary table and RMSNorm. Both are replaced by torch's own."""
    model.model.rotary_emb = DoubleRotary(model.model.rotary_emb)
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if type(module).__name__.endswith("RMSNorm"):
                norm = nn.RMSNorm(module.weight.shape, eps=module.variance_epsilon, dtype=torch.float64)
                norm.weight = module.weight
                setattr(parent, name, norm)
    return model


@pytest.mark.parametrize(("maker", "family", "seed"), [shape for shape in SHAPES if shape[1] in DOUBLE and shape[2] < 3], ids=str)
def test_in_double_precision_nothing_is_left_of_the_difference(maker: str, family: str, seed: int, tmp_path: Path) -> None:
    pair = make(maker, family, seed, tmp_path / "model", torch.float64)
    pair = pair._replace(theirs=in_double(pair.theirs))
    sequences = random_ids(pair.decoder.config.vocab, *LENGTHS)
    with torch.no_grad():
        found, expected = pair.decoder(Batch.of(sequences)), stock_logits(pair.theirs, sequences)
    assert found.dtype == expected.dtype == torch.float64
    assert difference(found, expected) < 1e-9
    compare_gradients(pair, 1e-9)


def odd_stack(seed: int) -> DecoderConfig:
    """Blocks of attention and MLP as no one publishes them; each is a stack that some family's config.json almost says."""
    draw = random.Random(f"odd {seed}")
    kv_heads = draw.choice((1, 2))
    scaling = Llama3Scaling(factor=4.0, low=1.0, high=4.0, original=16)
    ropes = (None, Rope(), Rope(base=500.0, scaling=scaling), Rope(fraction=0.5), Rope(fraction=0.5, scaling=scaling), STRETCHED)
    block = (
        Attention(query_heads=3 * kv_heads, kv_heads=kv_heads, channels=8, rope=draw.choice(ropes), bias=draw.random() < 0.3),
        MLP(ffn=9, gated=draw.random() < 0.6, activation=draw.choice(("silu", "relu2"))),
    )
    norm, hidden = draw.choice(("rmsnorm", "layernorm1p")), draw.choice((12, 13))
    return DecoderConfig(vocab=31, hidden=hidden, layers=block * draw.choice((1, 2)), norm=norm, tied=draw.random() < 0.5)


STRETCHED = Rope(scaling=NTKScaling(factor=2.0, original=32, extended=96))


@torch.no_grad()
@pytest.mark.parametrize("seeds", [range(first, first + 20) for first in range(0, 160, 20)], ids=str)
def test_what_a_published_family_takes_is_what_transformers_computes(seeds: range, tmp_path: Path) -> None:
    """And what it does not take is amaru's own, which loses nothing either."""
    ids = random_ids(31, 40)[0]
    for seed in seeds:
        decoder, path = random_model(odd_stack(seed), seed), tmp_path / str(seed)
        save(decoder, path)
        assert load(path).config == decoder.config, seed
        if family_for(decoder.config) is not own:
            assert difference(decoder(Batch.of([ids])), stock_logits(stock(path), [ids])) < TOLERANCE, seed


def test_the_odd_stacks_reach_every_family() -> None:
    chosen = [family_for(odd_stack(seed)) for seed in range(160)]
    assert set(chosen) == {llama, nemotron4, nemotron_h, own}
    assert 20 < chosen.count(own) < 140


def test_the_shapes_hold_what_they_promise() -> None:
    drawn = {family: [drawn_values(family, seed) for seed in range(6)] for family in STOCK}
    for family in DOUBLE:
        ours = [FAMILIES[family](seed) for seed in range(6)]
        assert {values["tie_word_embeddings"] for values in drawn[family]} == {config.tied for config in ours} == {True, False}
        assert all(values["head_dim"] * values["num_attention_heads"] != values["hidden_size"] for values in drawn[family])
    assert {values["rope_parameters"]["rope_type"] for values in drawn["llama"]} == {"default", "llama3"}
    assert {values["rope_parameters"]["partial_rotary_factor"] for values in drawn["nemotron"]} == {0.5, 1.0}
    experts = drawn["nemotron_h with experts"]
    assert {values["moe_latent_size"] for values in experts} == {None, 9}
    assert any(values["topk_group"] < values["n_group"] for values in experts)


def test_a_tied_nemotron_h_gives_the_same_logits_though_transformers_ties_nothing_in_this_family(tmp_path: Path) -> None:
    decoder = random_model(random_config(3, "M-*", tied=True), 3)
    save(decoder, tmp_path / "model")
    sequences = random_ids(decoder.config.vocab, 20)
    theirs = stock(tmp_path / "model")
    with torch.no_grad():
        assert difference(decoder(Batch.of(sequences)), stock_logits(theirs, sequences)) < TOLERANCE


STOCK_SCRIPT = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, logging
logging.set_verbosity_error(); logging.disable_progress_bar()
path, text = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(path).eval()
tokenizer = AutoTokenizer.from_pretrained(path)
ids = tokenizer(text, add_special_tokens=False).input_ids
with torch.no_grad():
    logits = model(torch.tensor([ids])).logits[0]
assert not any(name.split(".")[0] == "amaru" for name in sys.modules)
eos = [tokenizer.eos_token_id, model.config.eos_token_id]
print(json.dumps({"ids": ids, "logits": logits.tolist(), "eos": eos, "class": type(model).__name__}))
"""


def test_transformers_alone_loads_model_and_tokenizer_in_a_process_without_amaru(tmp_path: Path) -> None:
    text = "def f(x):\n    return añade(x) + 1\n"
    tokenizer = Tokenizer.train([text] * 3, vocab=270)
    config = random_config(8, "M-M*-")
    config = type(config)(vocab=tokenizer.vocab_size, hidden=config.hidden, layers=config.layers)
    decoder = random_model(config, 8)
    save(decoder, tmp_path / "model", tokenizer)
    done = subprocess.run([sys.executable, "-c", STOCK_SCRIPT, str(tmp_path / "model"), text], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["class"] == "NemotronHForCausalLM"
    assert told["ids"] == tokenizer.encode(text)
    assert told["eos"] == [tokenizer.eos_id, tokenizer.eos_id]
    with torch.no_grad():
        assert difference(decoder(Batch.of([torch.tensor(told["ids"])])), torch.tensor(told["logits"])) < TOLERANCE


def loads_as(theirs: nn.Module, path: Path) -> None:
    sequences = random_ids(theirs.config.vocab_size, *LENGTHS)
    with torch.no_grad():
        assert difference(load(path)(Batch.of(sequences)), stock_logits(theirs, sequences)) < TOLERANCE


def edit_config(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    values = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(change(values)))


@pytest.mark.parametrize("prefix", ["backbone.", "model."])
@pytest.mark.parametrize("stack", ["layers_block_type", "hybrid_override_pattern"])
def test_nemotron_h_loads_in_old_and_new_dress(tmp_path: Path, prefix: str, stack: str) -> None:
    theirs = made_by_transformers("nemotron_h", 0, tmp_path, torch.float32)
    pattern = theirs.config.hybrid_override_pattern
    assert set(pattern) == {"M", "-", "*"}
    weights = load_file(tmp_path / "model.safetensors")
    renamed = {name.replace("backbone.", prefix).replace("model.", prefix): tensor for name, tensor in weights.items()}
    assert any(name.startswith(prefix) for name in renamed)
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    older = {"M": "mamba", "-": "mlp", "*": "attention"}
    stacks = {"layers_block_type": [older[letter] for letter in pattern], "hybrid_override_pattern": pattern}

    def dressed(values: dict[str, Any]) -> dict[str, Any]:
        values.pop("layers_block_type", None), values.pop("layer_types", None)
        return values | {stack: stacks[stack]}

    edit_config(tmp_path, dressed)
    loads_as(theirs, tmp_path)


def test_llama_loads_with_the_config_that_llama_3_1_was_published_with(tmp_path: Path) -> None:
    """`rope_theta` and `rope_scaling` beside each other, no `head_dim`."""

    def published(values: dict[str, Any]) -> dict[str, Any]:
        rope = values.pop("rope_parameters")
        assert rope["rope_type"] == "llama3"
        return values | {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}

    theirs = made_by_transformers("llama", 1, tmp_path, torch.float32)
    edit_config(tmp_path, published)
    loads_as(theirs, tmp_path)
    edit_config(tmp_path, lambda values: values | {"rope_scaling": values["rope_scaling"] | {"factor": 2.0}})
    with pytest.raises(AssertionError):
        loads_as(theirs, tmp_path)


@pytest.mark.parametrize("seed", range(3))
def test_nemotron_loads_with_rope_fields_at_the_top(tmp_path: Path, seed: int) -> None:
    def older(values: dict[str, Any]) -> dict[str, Any]:
        rope = values.pop("rope_parameters")
        return values | {"rope_theta": rope["rope_theta"], "partial_rotary_factor": rope["partial_rotary_factor"]}

    theirs = made_by_transformers("nemotron", seed, tmp_path, torch.float32)
    edit_config(tmp_path, older)
    loads_as(theirs, tmp_path)


@pytest.mark.parametrize("family", DOUBLE)
def test_a_missing_head_width_is_hidden_over_heads(family: str, tmp_path: Path) -> None:
    values = drawn_values(family, 0) | {"hidden_size": 24, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 4}
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(family, **values)).eval()
    model.save_pretrained(tmp_path)
    edit_config(tmp_path, lambda values: {name: value for name, value in values.items() if name != "head_dim"})
    loads_as(model, tmp_path)
