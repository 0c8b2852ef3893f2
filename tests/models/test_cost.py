"""Counts against the published sizes of Nemotron-H and against the tensors of built models."""

import pytest
import torch
from tests.models.random_models import random_config, random_model

from amaru.models import Decoder, DecoderConfig
from amaru.models.cost import Workload, forward_flops, kv_bytes_per_token, memory, parameters, parameters_by_kind
from amaru.models.families import config_of, presets
from amaru.models.pattern import pattern_of
from amaru.nn import MLP, Attention

GIB, MIB = 2**30, 2**20

# Published or confirmed by others, in billions, as precisely as they were printed.
PUBLISHED = {
    "nemotron-h-4b": 4.489,
    "nemotron-h-8b": 8.101,
    "nemotron-h-47b": 46.79,
    "nemotron-h-56b": 56.32,
    "nemotron-nano-9b-v2": 8.89,
    "nemotron-nano-12b-v2": 12.31,
    "nemotron-4-15b": 15.63,
    "nemotron-4-340b": 341.029195776,
    "minitron-4b": 4.19,
    "minitron-8b": 8.27,
    "llama-3.2-1b": 1.2358144,
    "llama-3.2-3b": 3.212749824,
    "llama-3.1-8b": 8.030261248,
    "llama-3.1-70b": 70.553706496,
    "qwen2.5-0.5b": 0.494032768,
    "qwen2.5-1.5b": 1.543714304,
    "qwen2.5-7b": 7.615616512,
    "qwen2.5-72b": 72.706203648,
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
    digits = len(str(PUBLISHED[name]).split(".")[1])
    assert round(parameters(config_of(name)) / 1e9, digits) == PUBLISHED[name]


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
    assert round(memory(config_of("nemotron-h-56b"), Workload(weights="nvfp4")).weights / GIB, 2) == 29.51


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("tied", [False, True])
def test_counts_are_those_of_the_built_model(seed: int, tied: bool) -> None:
    config = random_config(seed, tied=tied)
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


@pytest.mark.parametrize("seed", range(6))
def test_memory_is_the_bytes_of_real_tensors(seed: int) -> None:
    config = random_config(seed)
    need = memory(config, Workload(context=37, batch=5, weights="fp32", kv="bf16", state="fp32"))
    decoder = random_model(config, seed)
    assert need.weights == sum(parameter.nbytes for parameter in decoder.parameters())
    assert need.kv + need.ssm_state + need.conv_state == decoder.new_state(5, 37, torch.bfloat16).bytes
    assert need.total == need.weights + need.kv + need.ssm_state + need.conv_state


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
