"""transformers' own Nemotron-H on the same device: random weights, torch's path, timed as ours."""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from measure import seconds

from amaru.models.decoder import DecoderConfig
from amaru.models.families import family_for


@torch.inference_mode()
def stock_times(config: DecoderConfig, device: torch.device, tokens: int, batch: int, context: int) -> dict[str, float]:
    """Seconds of a prompt of so many tokens, and of a step of `batch` sequences behind a prompt of `context` tokens each."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        values = family_for(config).write_config(config)
        (Path(folder) / "config.json").write_text(json.dumps(values), encoding="utf-8")
        read = AutoConfig.from_pretrained(folder)
    torch.set_default_dtype(torch.bfloat16)
    with device:
        model = AutoModelForCausalLM.from_config(read).eval()
    torch.set_default_dtype(torch.float32)
    ids = torch.randint(config.vocab, (1, tokens), device=device)
    prefill = seconds(lambda: model(ids, use_cache=True, logits_to_keep=1), 3, 1)
    many = torch.randint(config.vocab, (batch, min(context, 256)), device=device)  # the cache grows to what is asked one token at a time
    held: dict[str, Any] = {"past_key_values": model(many, use_cache=True, logits_to_keep=1).past_key_values}

    def step() -> None:
        for _ in range(4):
            answer = model(many[:, :1], use_cache=True, past_key_values=held["past_key_values"])
            held["past_key_values"] = answer.past_key_values

    return {"prefill": prefill, "decode": seconds(step, 3, 1) / 4}
