"""What a masked model computes, written from the equations: plain loops over tokens, groups and heads, without amaru's layers.

A cut is said by flags, True for what stays. Whatever is dropped is zero wherever it is read, and every mean (of norms, of the softmax'
scale) is over what stays.
"""

import numpy as np

from amaru.compress import Cut
from amaru.models import Decoder
from amaru.nn import MLP, Attention, Mamba2, MoE
from amaru.nn.hybrid_head import HybridHead
from amaru.nn.rope import Rope


def flags(selection, *shape):
    """True for each kept index [*parents, axis]."""
    kept = np.zeros(shape, dtype=bool)
    if selection is None:
        return ~kept
    np.put_along_axis(kept, np.broadcast_to(selection.indices, (*shape[:-1], selection.kept)), True, axis=-1)
    return kept


def masked_logits(decoder: Decoder, cut: Cut, texts: list[np.ndarray]) -> np.ndarray:
    """[tokens of all texts, kept vocabulary] of the parent in which only what the cut keeps takes part."""
    config = decoder.config
    weights = {name: weight.detach().numpy() for name, weight in decoder.named_parameters()}
    hidden, vocab = flags(cut.network.get("hidden"), config.hidden), cut.network.get("vocab")
    head = weights.get("head.weight", weights["embedding.weight"])
    logits = []
    for ids in texts:
        x = weights["embedding.weight"][ids]
        if config.meta_tokens:
            x = np.concatenate([weights["meta_tokens"], x])
        x, shared = x * hidden, {}
        for index in cut.layers:
            own = {name.removeprefix(f"layers.{index}."): weight for name, weight in weights.items() if name.startswith(f"layers.{index}.")}
            u = norm(x, own, hidden, config)
            mixer = {name.removeprefix("mixer."): weight for name, weight in own.items()}
            x = x + LAYERS[type(config.layers[index])](u, mixer, config.layers[index], cut.of(index), shared, config.norm_eps) * hidden
        x = norm(x, weights, hidden, config)[config.meta_tokens :]
        logits.append(x @ head.T if vocab is None else x @ head[vocab.indices].T)
    return np.concatenate(logits)


def norm(x, weights, hidden, config):
    weight, count = weights["norm.weight"], hidden.sum()
    if config.norm == "layernorm1p":
        mean = (x * hidden).sum(-1, keepdims=True) / count
        variance = (np.square(x - mean) * hidden).sum(-1, keepdims=True) / count
        return ((x - mean) / np.sqrt(variance + config.norm_eps) * (weight + 1) + weights["norm.bias"]) * hidden
    return rms(x, weight, hidden, config.norm_eps)


def rms(x, weight, kept, eps):
    return x / np.sqrt((np.square(x) * kept).sum(-1, keepdims=True) / kept.sum() + eps) * weight * kept


def silu(x):
    return x / (1 + np.exp(-x))


def softplus(x):
    return np.logaddexp(0, x)


def convolved(x, weight, bias):
    """Causal and depthwise: x [T, rows], weight [rows, 1, taps]."""
    taps = weight.shape[-1]
    padded = np.concatenate([np.zeros((taps - 1, x.shape[1])), x])
    return silu(bias + sum(padded[k : k + len(x)] * weight[:, 0, k] for k in range(taps)))


def mamba2(u, w, config: Mamba2, selected, shared, eps):
    G, H, P, N, T = config.groups, config.heads // config.groups, config.channels, config.state, len(u)
    group = flags(selected.get("group"), G)
    head = flags(selected.get("head"), G, H) & group[:, None]
    inner = flags(selected.get("channel"), G, H, P) & head[:, :, None]
    state = flags(selected.get("state"), G, N) & group[:, None]
    z, xBC, dt = np.split(u @ w["in_proj.weight"].T, [G * H * P, 2 * G * H * P + 2 * G * N], axis=1)
    x, B, C = np.split(convolved(xBC, w["conv1d.weight"], w["conv1d.bias"]), [G * H * P, G * H * P + G * N], axis=1)
    x, B, C = x.reshape(T, G, H, P) * inner, B.reshape(T, G, N) * state, C.reshape(T, G, N) * state
    dt = softplus(dt + w["dt_bias"]).reshape(T, G, H)
    decay = np.exp(-dt * np.exp(w["A_log"]).reshape(G, H))
    memory, y = np.zeros((G, H, P, N)), np.zeros((T, G, H, P))
    for t in range(T):
        for g, h in np.ndindex(G, H):
            memory[g, h] = decay[t, g, h] * memory[g, h] + dt[t, g, h] * np.outer(x[t, g, h], B[t, g])
            y[t, g, h] = memory[g, h] @ C[t, g] + w["D"].reshape(G, H)[g, h] * x[t, g, h]
    y = y * silu(z).reshape(T, G, H, P) * inner
    for g in np.flatnonzero(group):
        y[:, g] /= np.sqrt(np.square(y[:, g]).sum((1, 2), keepdims=True) / inner[g].sum() + eps)
    return (y.reshape(T, -1) * w["norm.weight"]) @ w["out_proj.weight"].T


def rotated(heads, rope: Rope | None):
    """heads [T, ..., channels]: channel i turns with channel i + half."""
    if rope is None:
        return heads
    half = int(heads.shape[-1] * rope.fraction) // 2
    angles = np.arange(len(heads))[:, None] * (1 / rope.base ** (np.arange(0, 2 * half, 2, dtype=np.float32) / np.float32(2 * half)))
    cos, sin = (f(angles).reshape(len(heads), *[1] * (heads.ndim - 2), half) for f in (np.cos, np.sin))
    a, b, rest = heads[..., :half], heads[..., half : 2 * half], heads[..., 2 * half :]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)


def attended(q, k, v, group, query, qk, sees):
    """q [T, G, Q, C], k [T, G, C], v [T, G, V] -> [T, G, Q, V]; `sees(t, s)` says whether token t sees token s."""
    T, G, Q, _ = q.shape
    y, scale = np.zeros((T, G, Q, v.shape[-1])), 1 / np.sqrt(qk[group].sum(-1).mean())
    for t, g, h in np.ndindex(T, G, Q):
        seen = [s for s in range(t + 1) if sees(t, s)]
        scores = np.array([q[t, g, h][qk[g]] @ k[s, g][qk[g]] * scale for s in seen])
        shares = np.exp(scores - scores.max())
        y[t, g, h] = shares / shares.sum() @ v[seen, g]
    return y * (query & group[:, None])[None, :, :, None]


def attention(u, w, config: Attention, selected, shared, eps):
    G, Q, C, T = config.kv_heads, config.query_heads // config.kv_heads, config.channels, len(u)
    group = flags(selected.get("kv_group"), G)
    query, qk, v_kept = flags(selected.get("query"), G, Q), flags(selected.get("qk_channel"), G, C), flags(selected.get("v_channel"), G, C)
    q, k, v = (u @ w[f"{name}_proj.weight"].T + w.get(f"{name}_proj.bias", 0) for name in "qkv")
    q, k, v = rotated(q.reshape(T, G, Q, C), config.rope), rotated(k.reshape(T, G, C), config.rope), v.reshape(T, G, C) * v_kept
    y = attended(q, k, v, group, query, qk, lambda t, s: True)
    return y.reshape(T, -1) @ w["o_proj.weight"].T


def mlp(u, w, config: MLP, selected, shared, eps):
    kept, up = flags(selected.get("ffn"), config.ffn), u @ w["up_proj.weight"].T
    gate = u @ w["gate_proj.weight"].T if config.gated else up
    opened = silu(gate) if config.activation == "silu" else np.square(np.maximum(gate, 0))
    return ((opened * up if config.gated else opened) * kept) @ w["down_proj.weight"].T


def hybrid_head(u, w, config: HybridHead, selected, shared, eps):
    G, Q, C, V, T = config.kv_heads, config.query_heads // config.kv_heads, config.qk_channels, config.v_channels, len(u)
    group = flags(selected.get("kv_group"), G)
    query, qk, v_kept = flags(selected.get("query"), G, Q), flags(selected.get("qk_channel"), G, C), flags(selected.get("v_channel"), G, V)
    inner = (v_kept[:, None, :] & (query & group[:, None])[:, :, None]).ravel()
    rows = {"q": G * Q * C, **({} if config.shares_kv else {"k": G * C, "v": G * V}), "x": config.inner, "gate": config.inner}
    parts = dict(zip(rows, np.split(u @ w["in_proj.weight"].T, np.cumsum(list(rows.values()))[:-1], axis=1), strict=True))
    if not config.shares_kv:
        shared["kv"] = rotated(parts["k"].reshape(T, G, C), config.rope), parts["v"].reshape(T, G, V)
    k, v = shared["kv"]

    def sees(t, s):
        return config.window is None or t - s <= config.window or s < config.sinks

    y = attended(rotated(parts["q"].reshape(T, G, Q, C), config.rope), k, v * v_kept, group, query, qk, sees).reshape(T, -1)
    scanned = mamba1(parts["x"], w, config, selected, inner, eps) * silu(parts["gate"])
    return ((rms(y, w["attention_norm.weight"], inner, eps) + rms(scanned, w["ssm_norm.weight"], inner, eps)) / 2) @ w["out_proj.weight"].T


def mamba1(x, w, config: HybridHead, selected, inner, eps):
    rank, state = flags(selected.get("rank"), config.rank), flags(selected.get("state"), config.state)
    x = convolved(x, w["conv1d.weight"], w["conv1d.bias"]) * inner
    dt, B, C = np.split(x @ w["x_proj.weight"].T, [config.rank, config.rank + config.state], axis=1)
    dt, B, C = (
        rms(each, w[f"{name}_norm.weight"], kept, eps) for each, name, kept in ((dt, "dt", rank), (B, "B", state), (C, "C", state))
    )
    step, memory, y = softplus(dt @ w["dt_proj.weight"].T + w["dt_bias"]), np.zeros((config.inner, config.state)), np.zeros_like(x)
    for t in range(len(x)):
        memory = np.exp(-step[t][:, None] * np.exp(w["A_log"])) * memory + np.outer(step[t] * x[t], B[t])
        y[t] = memory @ C[t] + w["D"] * x[t]
    return y


def moe(u, w, config, selected, shared, eps):
    groups, each = config.groups, config.experts // config.groups
    group = flags(selected.get("expert_group"), groups)
    expert = flags(selected.get("expert"), groups, each) & group[:, None]
    ffn, both = flags(selected.get("expert_ffn"), config.ffn), flags(selected.get("shared_ffn"), config.shared_ffn)
    latent = flags(selected.get("latent"), config.latent) if config.latent else None
    scores = 1 / (1 + np.exp(-u @ w["gate.weight"].T))
    read = u if latent is None else (u @ w["fc1_latent_proj.weight"].T) * latent
    y = np.zeros_like(read)
    for t in range(len(u)):
        wanted = np.where(expert, (scores[t] + w["gate.e_score_correction_bias"]).reshape(groups, each), -np.inf)
        best = np.argsort(-np.sort(wanted, axis=1)[:, -2:].sum(1), kind="stable")[: config.top_groups]
        closed = np.setdiff1d(np.arange(groups), best)
        wanted[closed] = -np.inf
        chosen = np.argsort(-wanted.ravel(), kind="stable")[: config.top_k]
        for number in chosen:
            share = scores[t, number] / scores[t, chosen].sum() * config.scale
            y[t] += share * ((np.square(np.maximum(w["experts.up_proj"][number] @ read[t], 0)) * ffn) @ w["experts.down_proj"][number].T)
    if latent is not None:
        y = (y * latent) @ w["fc2_latent_proj.weight"].T
    return y + (np.square(np.maximum(u @ w["shared_experts.up_proj.weight"].T, 0)) * both) @ w["shared_experts.down_proj.weight"].T


LAYERS = {Mamba2: mamba2, Attention: attention, MLP: mlp, HybridHead: hybrid_head, MoE: moe}
