"""`PYTHON transformers_train_side.py CHECKPOINT ASKED ANSWER`: transformers with fp32 weights, trained under bf16 autocast, AdamW fused."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportArgumentType=false

import contextlib
import json
import sys
import time
from pathlib import Path

import torch
import transformers

WAYS = {"bf16 autocast": True, "fp32": False}


def main(checkpoint, asked, answer):
    asked = json.loads(asked)
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    rows, chosen = {}, {}
    for length in asked["lengths"]:
        ids = torch.randint(3, model.config.vocab_size, (max(1, asked["tokens"] // length), length))
        spans = {}
        for way, lowered in WAYS.items():
            spans[way] = min([step(model, optimizer, ids, lowered) for _ in range(asked["steps"] + 1)][1:])
        best = min(spans, key=lambda way: spans[way])
        rows[f"train {length}"], chosen[f"train {length}"] = ids.numel() / spans[best], best
    Path(answer).write_text(json.dumps({"version": transformers.__version__, "rows": rows, "chosen": chosen}))


def step(model, optimizer, ids, lowered):
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16) if lowered else contextlib.nullcontext():
        loss = model(ids, labels=ids, use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - start


if __name__ == "__main__":
    main(*sys.argv[1:])
