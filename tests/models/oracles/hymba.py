"""Hymba as its paper writes it (arXiv 2411.13676, equations 1 to 4), one time step after the other: the other side of a comparison.

Plain torch, one sequence, no cache. Weights and config are those of a released checkpoint: names of its file, keys of its config.json.
"""

import math
import random
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = Mapping[str, Tensor]
Cache = dict[int, tuple[Tensor, Tensor]]
"""By layer: keys (rotated) and values of the layers that make their own, each [T, kv_heads, width]."""


def hymba_logits(weights: Weights, config: Mapping[str, Any], ids: Tensor) -> Tensor:
    """[T, vocab] of the tokens `ids` [T]; the meta tokens in front of them are computed and dropped."""
    embedding = weights["model.embed_tokens.weight"]
    x = torch.cat([weights["model.memory_tokens"], embedding[ids]])
    cache: Cache = {}
    for index in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{index}."
        layer = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
        x = x + parallel_heads(layer, config, index, rms_norm(x, layer["input_layernorm.weight"], config), cache)
        x = x + feed_forward(layer, rms_norm(x, layer["pre_moe_layernorm.weight"], config))
    return rms_norm(x, weights["model.final_layernorm.weight"], config)[config["num_memory_tokens"] :] @ embedding.T


def parallel_heads(layer: Weights, config: Mapping[str, Any], index: int, x: Tensor, cache: Cache) -> Tensor:
    """Equation 3: W_out of the mean of both branches, each behind its own norm (beta 1 and beta 2)."""
    q, k, v, x_ssm, gate = projected(layer, config, index, x)
    if k is not None:
        cache[index] = rotated(k, config), v
    keys, values = cache[producer(config, index)]
    y_attn = softmax_attention(rotated(q, config), keys, values, visible(config, index, len(x)))
    y_ssm = mamba(layer, config, x_ssm) * F.silu(gate)
    mean = (
        rms_norm(y_attn, layer["mamba.pre_avg_layernorm1.weight"], config)
        + rms_norm(y_ssm, layer["mamba.pre_avg_layernorm2.weight"], config)
    ) / 2
    return mean @ layer["mamba.out_proj.weight"].T


def projected(layer: Weights, config: Mapping[str, Any], index: int, x: Tensor) -> tuple[Tensor, Any, Any, Tensor, Tensor]:
    """W_in = [W^Q, W^K, W^V, W^SSM, W^G]; a layer that reads another's cache has no W^K and W^V."""
    heads, kv_heads, inner = config["num_attention_heads"], config["num_key_value_heads"], inner_width(config)
    qk, v_width = key_width(config), config["v_head_dim"]
    widths = {"q": heads * qk, "k": kv_heads * qk, "v": kv_heads * v_width, "x": inner, "gate": inner}
    if producer(config, index) != index:
        del widths["k"], widths["v"]
    parts = dict(zip(widths, (x @ layer["mamba.in_proj.weight"].T).split(list(widths.values()), dim=-1), strict=True))
    k, v = (parts[name].unflatten(-1, (kv_heads, -1)) if name in parts else None for name in ("k", "v"))
    return parts["q"].unflatten(-1, (heads, -1)), k, v, parts["x"], parts["gate"]


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Equation 1, scaled by 1/sqrt(key width): [T, heads * value width]; query head h reads key head h // (heads / kv_heads)."""
    sharing = q.shape[1] // k.shape[1]
    outputs = []
    for head in range(q.shape[1]):
        scores = q[:, head] @ k[:, head // sharing].T / math.sqrt(q.shape[-1])
        outputs.append(torch.softmax(scores.masked_fill(~mask, -math.inf), dim=-1) @ v[:, head // sharing])
    return torch.cat(outputs, dim=-1)


def visible(config: Mapping[str, Any], index: int, length: int) -> Tensor:
    """[T, T] bool: which keys a query sees; meta tokens are never out of a window's sight."""
    query, key = torch.arange(length)[:, None], torch.arange(length)[None, :]
    near = (query - key <= config["sliding_window"]) | (key < config["num_memory_tokens"])
    return (key <= query) & (near | torch.tensor(index in config["global_attn_idx"]))


def rotated(heads: Tensor, config: Mapping[str, Any]) -> Tensor:
    """Rotary embedding of [T, heads, width] by place, meta tokens counted: channel i turns with channel i + width / 2."""
    width, base = heads.shape[-1], config["rope_theta"]
    if config["rope_type"] == "ntk":
        stretch = 2 * config["max_position_embeddings"] / config["orig_max_position_embeddings"] - 1
        base = base * stretch ** (width / (width - 2))
    frequencies = 1.0 / base ** (torch.arange(0, width, 2).float() / width)  # float32 numbers, whatever is computed with them
    angles = torch.arange(len(heads), dtype=heads.dtype)[:, None, None] * frequencies.to(heads.dtype)
    turn = torch.polar(torch.ones_like(angles), angles)
    turned = torch.complex(heads[..., : width // 2], heads[..., width // 2 :]) * turn
    return torch.cat([turned.real, turned.imag], dim=-1)


def mamba(layer: Weights, config: Mapping[str, Any], x: Tensor) -> Tensor:
    """Equation 2 before its gate: the selective state space of Mamba-1, with a norm on dt, B and C."""
    x = F.silu(causal_convolution(x, layer["mamba.conv1d.weight"][:, 0], layer["mamba.conv1d.bias"]))
    rank, size = config["mamba_dt_rank"], config["mamba_d_state"]
    dt, B, C = (x @ layer["mamba.x_proj.0.weight"].T).split([rank, size, size], dim=-1)
    dt, B, C = (rms_norm(part, layer[f"mamba.{name}_layernorm.weight"], config) for part, name in ((dt, "dt"), (B, "B"), (C, "C")))
    delta = F.softplus(dt @ layer["mamba.dt_proj.0.weight"].T + layer["mamba.dt_proj.0.bias"])
    A, D = -torch.exp(layer["mamba.A_log.0"]), layer["mamba.D.0"]
    h, outputs = torch.zeros_like(A), []
    for t in range(len(x)):
        h = torch.exp(delta[t][:, None] * A) * h + (delta[t] * x[t])[:, None] * B[t]
        outputs.append(h @ C[t] + D * x[t])
    return torch.stack(outputs)


def causal_convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """y_t = sum_j weight_j x_(t - taps + 1 + j) + bias, channel by channel, with zeros before the first token."""
    taps = weight.shape[1]
    padded = torch.cat([torch.zeros_like(x[: taps - 1]), x])
    return torch.stack([(padded[t : t + taps] * weight.T).sum(0) + bias for t in range(len(x))])


def feed_forward(layer: Weights, x: Tensor) -> Tensor:
    gate, up, down = (layer[f"moe.experts.0.{name}_proj.weight"] for name in ("gate", "up", "down"))
    return (F.silu(x @ gate.T) * (x @ up.T)) @ down.T


def rms_norm(x: Tensor, weight: Tensor, config: Mapping[str, Any]) -> Tensor:
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + config["rms_norm_eps"]) * weight


def producer(config: Mapping[str, Any], index: int) -> int:
    """The layer whose keys and values layer `index` reads: the first of its group, or itself."""
    return next((group[0] for group in config["kv_reuse_group"] if index in group), index)


def inner_width(config: Mapping[str, Any]) -> int:
    return config["mamba_expand"] * config["hidden_size"]


def key_width(config: Mapping[str, Any]) -> int:
    own = config["kq_head_dim"]
    return own if own > 0 else config["hidden_size"] // config["num_attention_heads"]


def random_config(seed: int) -> dict[str, Any]:
    """A small `config.json` in the released form; global layers first, last and between, window layers in runs that share a cache."""
    draw = random.Random(seed)
    kv_heads, expand = draw.choice((1, 2, 3)), draw.choice((1, 2, 3))
    heads, channels = max(2, kv_heads * draw.choice((1, 2, 3))), draw.choice((4, 5, 6, 7))
    runs = [[draw.choice((1, 2, 3)) for _ in range(draw.choice((1, 2)))] for _ in range(draw.choice((1, 2)))]
    runs[0][0] = 2 + seed % 2  # in every model a pair or a triple that shares
    global_layers, groups, index = [0], [], 1
    for run in runs:
        for size in run:
            groups.append(list(range(index, index + size)))
            index += size
        global_layers.append(index)
        index += 1
    last_is_global, positions = draw.random() < 0.7, draw.choice((96, 128))
    layers = index if last_is_global else index - 1
    return {
        "architectures": ["HymbaForCausalLM"],
        "model_type": "hymba",
        "attention_dropout": 0.0,
        "attn_hidden_size": -1,
        "attn_implementation": "flex",
        "attn_implementation_new": "flex",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "calc_logits_for_entire_prompt": False,
        "conv_dim": {str(layer): expand * heads * channels for layer in range(layers)},
        "global_attn_idx": [layer for layer in global_layers if layer < layers],
        "hidden_act": "silu",
        "hidden_size": heads * channels,
        "initializer_range": 0.02,
        "intermediate_size": draw.choice((17, 29)),
        "kq_head_dim": -1 if channels % 2 == 0 and draw.random() < 0.5 else draw.choice((4, 6, 8)),
        "kq_norm": "none",
        "kv_reuse_every_i_layer": -1,
        "kv_reuse_group": [group for group in groups if len(group) > 1],
        "kv_weight_reuse": False,
        "layer_type": ["h"] * layers,
        "mamba_conv_bias": True,
        "mamba_d_conv": draw.choice((2, 3, 4)),
        "mamba_d_state": draw.choice((5, 7)),
        "mamba_dt_rank": draw.choice((2, 3)),
        "mamba_expand": expand,
        "mamba_inner_layernorms": True,
        "mamba_proj_bias": False,
        "max_position_embeddings": positions,
        "memory_tokens_interspersed_every": 0,
        "mlp_hidden_act": "silu",
        "num_attention_heads": heads,
        "num_experts": 1,
        "num_experts_per_tok": 1,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "num_mamba": 1,
        "num_memory_tokens": draw.choice((3, 5, 9)),
        "orig_max_position_embeddings": draw.choice((32, 48)),
        "output_router_logits": False,
        "rms_norm_eps": draw.choice((1e-6, 1e-3)),
        "rope": True,
        "rope_theta": draw.choice((10000.0, 500.0)),
        "rope_type": "ntk",
        "router_aux_loss_coef": 0.001,
        "seq_length": positions,
        "sliding_window": draw.choice((4, 7, 11)),
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.44.0",
        "use_cache": False,
        "use_mamba_kernels": True,
        "v_head_dim": expand * channels,
        "vocab_size": draw.choice((53, 71)),
    }


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor of the released file, by name."""
    hidden, inner, size, rank = config["hidden_size"], inner_width(config), config["mamba_d_state"], config["mamba_dt_rank"]
    q = config["num_attention_heads"] * key_width(config)
    kv = config["num_key_value_heads"] * (key_width(config) + config["v_head_dim"])
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "model.memory_tokens": (config["num_memory_tokens"], hidden),
        "model.final_layernorm.weight": (hidden,),
    }
    for index in range(config["num_hidden_layers"]):
        owned = kv if producer(config, index) == index else 0
        layer = {
            "input_layernorm.weight": (hidden,),
            "pre_moe_layernorm.weight": (hidden,),
            "mamba.in_proj.weight": (q + owned + 2 * inner, hidden),
            "mamba.out_proj.weight": (hidden, inner),
            "mamba.conv1d.weight": (inner, 1, config["mamba_d_conv"]),
            "mamba.conv1d.bias": (inner,),
            "mamba.x_proj.0.weight": (rank + 2 * size, inner),
            "mamba.dt_proj.0.weight": (inner, rank),
            "mamba.dt_proj.0.bias": (inner,),
            "mamba.A_log.0": (inner, size),
            "mamba.D.0": (inner,),
            "mamba.dt_layernorm.weight": (rank,),
            "mamba.B_layernorm.weight": (size,),
            "mamba.C_layernorm.weight": (size,),
            "mamba.pre_avg_layernorm1.weight": (inner,),
            "mamba.pre_avg_layernorm2.weight": (inner,),
            "moe.experts.0.gate_proj.weight": (config["intermediate_size"], hidden),
            "moe.experts.0.up_proj.weight": (config["intermediate_size"], hidden),
            "moe.experts.0.down_proj.weight": (hidden, config["intermediate_size"]),
        }
        found |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
    return found


def random_weights(config: Mapping[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Every tensor in float64, of numbers that float32 holds; norms from 0.5 to 1.5, time steps from far below 1e-3 up."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes(config).items():
        tensor = torch.empty(shape)
        if "layernorm" in name:
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith("A_log.0"):
            tensor.uniform_(-1, 2.5, generator=generator)
        elif name.endswith("dt_proj.0.bias"):
            tensor.uniform_(-8, 1, generator=generator)
        else:
            tensor.normal_(0, 1 / math.sqrt(shape[-1]) if len(shape) > 1 else 0.5, generator=generator)
        weights[name] = tensor.double()
    return weights
