"""What attention heads look at: how spread out a query's attention is, and how much of it goes to meta tokens and to the first token."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amaru.models.decoder import Decoder
from amaru.nn.attention import Packed
from amaru.nn.batch import Batch
from amaru.nn.hybrid_head import HybridHeadMixer

FIRST_QUERY = 16  # before it a query has little to choose from


@torch.inference_mode()
def attention_facts(decoder: Decoder, rows: Sequence[np.ndarray]) -> list[dict[str, float]]:
    """For each layer of Hymba's heads, means over queries and heads; nothing for other layers.

    entropy     of a query's attention, in nats
    meta        share that goes to meta tokens
    first       share that goes to the first token of the text
    itself      share that goes to the query's own place
    """
    found: dict[int, list[Tensor]] = {}
    hooks = [
        layer.mixer.register_forward_hook(_looking(found.setdefault(index, []), decoder.config.meta_tokens))
        for index, layer in enumerate(decoder.in_order())
        if isinstance(layer.mixer, HybridHeadMixer)
    ]
    try:
        for ids in rows:
            if len(ids) > FIRST_QUERY:
                decoder.hidden_states(Batch.of([torch.from_numpy(ids)]))
    finally:
        for hook in hooks:
            hook.remove()
    names = ("entropy", "meta", "first", "itself")
    return [
        {"layer": index, **dict(zip(names, torch.stack(some).mean(0).tolist(), strict=True))} for index, some in found.items() if some
    ]


def _looking(found: list[Tensor], meta: int) -> Any:
    def hook(mixer: HybridHeadMixer, given: tuple[Any, ...], made: tuple[Tensor, Packed]) -> None:
        found.append(_facts(probabilities(mixer, given[0], given[1], made[1].keys)[:, meta + FIRST_QUERY :], meta))

    return hook


def probabilities(mixer: HybridHeadMixer, u: Tensor, batch: Batch, keys: Tensor) -> Tensor:
    """[heads, T, T] of one sequence: softmax over the keys that a query sees."""
    config = mixer.config
    q = mixer.in_proj(u)[:, mixer.rows["q"]].unflatten(-1, (config.query_heads, -1))
    q = config.rope(q, batch.positions) if config.rope else q
    keys = keys.repeat_interleave(config.query_heads // config.kv_heads, dim=1)
    scores = torch.einsum("qhc,khc->hqk", q.double(), keys.double()) * mixer.scale
    query, key = batch.positions[:, None], batch.positions[None, :]
    seen = key <= query
    if config.window is not None:
        seen &= (query - key <= config.window) | (key < config.sinks)
    return scores.masked_fill(~seen, -torch.inf).softmax(-1)


def _facts(seen: Tensor, meta: int) -> Tensor:
    """seen [heads, queries, T], the last queries of a sequence."""
    entropy = -torch.special.xlogy(seen, seen).sum(-1).mean()
    own = seen.diagonal(offset=seen.shape[2] - seen.shape[1], dim1=1, dim2=2).mean()
    return torch.stack([entropy, seen[..., :meta].sum(-1).mean(), seen[..., meta].mean(), own])
