"""Counts against the published sizes of models and against the tensors of built ones."""

from typing import Any

import pytest
import torch
from tests.models.random_models import FAMILIES, random_model

from amaru.models import Decoder, DecoderConfig
from amaru.models.cost import (
    Workload,
    active_parameters,
    forward_flops,
    kv_bytes_per_token,
    memory,
    parameters,
    parameters_by_kind,
    prompt_flops,
)
from amaru.models.families import config_of, presets
from amaru.models.pattern import pattern_of
from amaru.nn import MLP, Attention, Mamba2

GIB, MIB, GB, MB = 2**30, 2**20, 1e9, 1e6

# As published or confirmed by others: whole numbers exactly, others in billions, as precisely as they were printed.
PUBLISHED = {
    "nemotron-h-4b": 4.489,
    "nemotron-h-8b": 8.101,
    "nemotron-h-47b": 46.79,
    "nemotron-h-56b": 56.32,
    "nemotron-nano-9b-v2": 8.89,
    "nemotron-nano-12b-v2": 12.31,
    "nemotron-3-nano-30b-a3b": 31_577_940_288,
    "nemotron-4-15b": 15.6,
    "nemotron-4-340b": 341_029_195_776,
    "minitron-4b": 4.19,
    "minitron-8b": 8.27,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-72b": 72_706_203_648,
    "hymba-1.5b": 1_522_797_824,
    "hymba-350m": 0.35,
    "hymba-125m": 0.13,
}
KV_BYTES = {"nemotron-h-4b": 16_384, "nemotron-h-8b": 16_384, "nemotron-h-47b": 20_480, "nemotron-h-56b": 40_960}
SSM_MIB = {"nemotron-h-4b": 84, "nemotron-h-8b": 96, "nemotron-h-47b": 720, "nemotron-h-56b": 864}
CONV_MIB = {"nemotron-h-4b": 1.3, "nemotron-h-8b": 1.4, "nemotron-h-47b": 5.3, "nemotron-h-56b": 6.3}
COUNTS = {"nemotron-h-4b": (24, 4, 24), "nemotron-h-8b": (24, 4, 24), "nemotron-h-47b": (45, 5, 48), "nemotron-h-56b": (54, 10, 54)}
ATTENTION_AT = {
    "nemotron-h-4b": [7, 18, 29, 40],
    "nemotron-h-8b": [7, 18, 29, 40],
    "nemotron-h-47b": [17, 38, 49, 60, 86],
    "nemotron-h-56b": [7, 18, 29, 40, 51, 62, 73, 84, 95, 106],
}


def test_every_preset_is_checked_against_what_was_published() -> None:
    assert presets().keys() == PUBLISHED.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_have_the_published_parameters(name: str) -> None:
    published, counted = PUBLISHED[name], parameters(config_of(name))
    digits = len(str(published).partition(".")[2])
    assert published == (counted if isinstance(published, int) else round(counted / 1e9, digits))


def test_a_token_uses_the_published_share_of_the_experts() -> None:
    config = config_of("nemotron-3-nano-30b-a3b")
    embedding, active = config.vocab * config.hidden, active_parameters(config)
    assert [round(found / 1e9, 1) for found in (active, active - embedding)] == [3.6, 3.2]
    assert active == parameters(config) - 23 * (128 - 6) * 2 * 1856 * 2688
    assert forward_flops(config, 0) == pytest.approx(2 * (active - embedding), rel=0.02)
    assert active < active_parameters(config, 2) < 2 * active and active_parameters(config, 10**6) == parameters(config)


def test_layers_of_the_8b_have_the_parameters_that_multiplication_by_hand_gives() -> None:
    inner, groups_state, hidden = 128 * 64, 8 * 128, 4096
    rows, conv = 2 * inner + 2 * groups_state + 128, inner + 2 * groups_state
    mamba = rows * hidden + conv * 4 + conv + 3 * 128 + inner + hidden * inner + hidden
    attention = 2 * hidden * 32 * 128 + 2 * hidden * 8 * 128 + hidden
    mlp = 2 * hidden * 21504 + hidden
    counts = parameters_by_kind(config_of("nemotron-h-8b"))
    assert counts == {
        "mamba2": 24 * mamba,
        "attention": 4 * attention,
        "mlp": 24 * mlp,
        "embedding and head": 2 * 131072 * hidden,
        "norm": hidden,
    }


@pytest.mark.parametrize("name", COUNTS)
def test_presets_have_the_published_layers_and_placement(name: str) -> None:
    pattern = pattern_of(config_of(name).layers)
    assert tuple(map(pattern.count, "M*-")) == COUNTS[name]
    assert [index for index, letter in enumerate(pattern) if letter == "*"] == ATTENTION_AT[name]


@pytest.mark.parametrize("name", KV_BYTES)
def test_caches_and_states_have_the_published_sizes(name: str) -> None:
    config = config_of(name)
    assert kv_bytes_per_token(config) == KV_BYTES[name]
    need = memory(config, Workload(context=65_536, batch=1))
    assert need.kv == 65_536 * KV_BYTES[name]
    assert need.ssm_state == SSM_MIB[name] * MIB
    assert round(need.conv_state / MIB, 1) == CONV_MIB[name]
    rough = memory(config, Workload(context=1_000_000, batch=3, kv="fp8", state="bf16"))
    assert rough.kv == 3_000_000 * KV_BYTES[name] // 2 and rough.ssm_state == 3 * SSM_MIB[name] * MIB // 2


def test_the_56b_in_nvfp4_has_the_published_weight_bytes() -> None:
    config = config_of("nemotron-h-56b")
    assert round(memory(config, Workload(weights="nvfp4", embedding="nvfp4")).weights / GIB, 1) == 29.5
    wider = memory(config, Workload(weights="nvfp4")).weights - memory(config, Workload(weights="nvfp4", embedding="nvfp4")).weights
    assert wider == 2 * config.vocab * config.hidden * (16 - 4.5) / 8


@pytest.mark.parametrize(
    ("stored", "whole", "each"),
    [
        ({"weights": "bf16"}, 682.1, 85.3),
        ({"weights": "fp8", "embedding": "fp8"}, 341.0, 42.6),
        ({"weights": "fp8"}, 350.5, 43.8),
    ],
)
def test_the_340b_has_the_published_weight_bytes_whole_and_on_each_of_eight(stored: dict[str, Any], whole: float, each: float) -> None:
    config, workload = config_of("nemotron-4-340b"), Workload(**stored)
    assert round(memory(config, workload).weights / GB, 1) == whole
    assert round(memory(config, workload, devices=8).weights / GB, 1) == each


@pytest.mark.parametrize(("kv", "per_token", "whole", "each"), [("bf16", 589_824, 2.42, 0.302), ("fp8", 294_912, 1.21, 0.151)])
def test_the_340b_has_the_published_caches(kv: Any, per_token: int, whole: float, each: float) -> None:
    config, workload = config_of("nemotron-4-340b"), Workload(context=4096, kv=kv)
    assert kv_bytes_per_token(config, kv) == per_token
    assert round(memory(config, workload).kv / GB, 2) == whole and round(memory(config, workload, devices=8).kv / GB, 3) == each


def test_the_340b_has_the_published_flops() -> None:
    assert float(f"{forward_flops(config_of('nemotron-4-340b'), 0):.2e}") == 6.73e11


def test_hymba_keeps_the_published_bytes_and_so_do_those_it_is_compared_with() -> None:
    hymba = memory(config_of("hymba-1.5b"), Workload(context=8192, state="bf16"))
    plain = hymba.kv + hymba.ssm_state + hymba.conv_state
    assert [round(kept / MB, 1) for kept in (plain, hymba.sequences)] == [78.6, 82.8]
    assert [round(kept / MB, 2) for kept in (hymba.ssm_state, hymba.conv_state)] == [3.28, 0.61]
    transformers = {name: memory(config_of(name), Workload(context=8000)).kv for name in ("llama-3.2-3b", "llama-3.2-1b", "qwen2.5-1.5b")}
    assert {name: round(kept / MB, 1) for name, kept in transformers.items()} == {
        "llama-3.2-3b": 917.5,
        "llama-3.2-1b": 262.1,
        "qwen2.5-1.5b": 229.4,
    }
    assert round(transformers["llama-3.2-3b"] / plain, 2) == 11.67


@pytest.mark.parametrize(
    ("layers", "heads", "channels", "megabytes"),
    [(24, 32, 64, 1572.9), (24, 8, 80, 491.5), (16, 16, 128, 1048.6)],
    ids=["smollm2-1.7b", "danube2-1.8b", "amd-olmo-1b"],
)
def test_other_transformers_of_hymbas_table_keep_the_published_bytes(layers: int, heads: int, channels: int, megabytes: float) -> None:
    attention = Attention(query_heads=32, kv_heads=heads, channels=channels)
    config = DecoderConfig(vocab=11, hidden=7, layers=(attention,) * layers)
    assert round(memory(config, Workload(context=8000)).kv / MB, 1) == megabytes


def test_a_window_bounds_the_cache_and_sharing_layers_keep_none() -> None:
    config = config_of("hymba-1.5b")
    row = 5 * (64 + 128) * 2
    windows, globals_, producers = 14, 3, 17
    for context, kept in ((10, 10), (1024, 1024), (1025, 1024), (9000, 1024)):
        need = memory(config, Workload(context=context, batch=3))
        assert need.kv == 3 * row * (windows * kept + globals_ * context)
        assert need.kv_meta == 3 * row * producers * 128


def test_narrow_formats_hold_matrices_of_layers_only() -> None:
    mamba, attention = Mamba2(heads=4, channels=3, groups=2, state=5, taps=4), Attention(query_heads=4, kv_heads=2, channels=6, bias=True)
    config = DecoderConfig(vocab=11, hidden=7, layers=(mamba, attention, MLP(ffn=13, gated=True)), norm="layernorm1p", meta_tokens=3)
    matrices = 7 * (2 * 12 + 2 * 10 + 4) + 7 * 12 + 7 * 6 * (4 + 2 + 2 + 4) + 3 * 7 * 13
    kept = 3 * 4
    vocabulary = 2 * 11 * 7
    rest = parameters(config) - matrices - kept - vocabulary
    assert memory(config, Workload(weights="int8")).weights == matrices + 2 * (vocabulary + rest) + 4 * kept
    assert memory(config, Workload(weights="int8", embedding="int8")).weights == matrices + vocabulary + 2 * rest + 4 * kept
    assert memory(config, Workload(weights="fp16", embedding="fp8")).weights == vocabulary + 2 * (matrices + rest) + 4 * kept


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(4))
def test_counts_are_those_of_the_built_model(family: str, seed: int) -> None:
    config = FAMILIES[family](seed)
    with torch.device("meta"):
        decoder = Decoder(config)
    built = {name: tuple(parameter.shape) for name, parameter in decoder.named_parameters()}
    assert built == {name: spec.layout.shape(axes) for name, (spec, axes) in config.tensors().items()}
    assert parameters(config) == sum(parameter.numel() for parameter in decoder.parameters()) == sum(parameters_by_kind(config).values())


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_of_presets_are_those_of_the_model_on_the_meta_device(name: str) -> None:
    config = config_of(name)
    with torch.device("meta"):
        assert parameters(config) == sum(parameter.numel() for parameter in Decoder(config).parameters())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(3))
def test_memory_is_the_bytes_of_real_tensors(family: str, seed: int) -> None:
    config = FAMILIES[family](seed)
    decoder, context = random_model(config, seed), 3  # shorter than any window
    need = memory(config, Workload(context=context, batch=5, weights="fp32", kv="bf16", state="fp32"))
    held = decoder.new_state(5, context, torch.bfloat16).layers
    assert need.weights == sum(parameter.nbytes for parameter in decoder.parameters())
    assert need.sequences == sum(tensor.nbytes for layer in held for tensor in layer.values())
    assert need.total == need.weights + need.kv + need.kv_meta + need.ssm_state + need.conv_state


def test_flops_are_two_for_each_weight_of_the_matrices_and_for_each_score() -> None:
    attention = Attention(query_heads=6, kv_heads=2, channels=5)
    config = DecoderConfig(vocab=11, hidden=7, layers=(MLP(ffn=13), attention))
    matrices = 2 * 7 * 13 + 7 * 5 * (6 + 2 + 2 + 6) + 11 * 7
    scores_and_values = 2 * 6 * 5 * 40
    assert forward_flops(config, context=40) == 2 * (matrices + scores_and_values)


def test_flops_of_a_big_model_are_near_two_for_each_parameter() -> None:
    config = config_of("nemotron-h-8b")
    used = parameters(config) - config.vocab * config.hidden  # the embedding is looked up, not multiplied
    assert 1 <= forward_flops(config, 1) / (2 * used) < 1.05


@pytest.mark.parametrize("context", [1, 2, 57, 1500])
@pytest.mark.parametrize("name", ["hymba-1.5b", "nemotron-h-4b"])
def test_a_prompt_costs_what_its_tokens_cost_one_after_the_other(name: str, context: int) -> None:
    config = config_of(name)
    one_by_one = sum(forward_flops(config, seen) for seen in range(1, context + 1))
    head = 2 * config.vocab * config.hidden  # of the last token only
    assert prompt_flops(config, context).total == one_by_one - (context - 1) * head


def test_tokens_of_a_window_layer_cost_no_more_once_it_is_full() -> None:
    layers = tuple(layer for layer in config_of("hymba-1.5b").layers if getattr(layer, "window", None))
    config = DecoderConfig(vocab=11, hidden=1600, layers=layers, meta_tokens=128)
    costs = [forward_flops(config, context) for context in (1024, 1025, 1026, 9000)]
    assert costs[0] < costs[1] == costs[2] == costs[3]
