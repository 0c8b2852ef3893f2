"""What a model computes on the way: the residual stream after every layer, and the logits."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Trace = dict[str, Tensor]
"""By place ("layer 0", ..., "logits"): [T, width], the tokens of all sequences one after the other."""


@torch.no_grad()
def traced(layers: Mapping[int, nn.Module], runs: list[Callable[[], Tensor]]) -> Trace:
    """`traced(dict(enumerate(decoder.layers)), [lambda: decoder(batch)])`: run each, keep what the layers of these numbers gave.

    Runs return logits.
    """
    kept: dict[str, list[Tensor]] = {}

    def keep(name: str, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        kept.setdefault(name, []).append(hidden.reshape(-1, hidden.shape[-1]).detach())

    handles = [
        layer.register_forward_hook(lambda _module, _inputs, output, name=f"layer {index}": keep(name, output))
        for index, layer in layers.items()
    ]
    try:
        for run in runs:
            keep("logits", run())
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.cat(parts) for name, parts in kept.items()}
