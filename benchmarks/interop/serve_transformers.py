"""Continue prompts greedily with transformers: `PYTHON serve_transformers.py CHECKPOINT REQUEST.json ANSWER.json`."""

import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(checkpoint: str, request: str, answer: str) -> None:
    asked = json.loads(Path(request).read_text())
    transformers.logging.set_verbosity_error()
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=getattr(torch, asked["dtype"]), local_files_only=True).eval()
    model.generation_config.eos_token_id = None  # every engine goes on to the last token, so that all can be compared
    settings = {"max_new_tokens": asked["tokens"], "do_sample": False, "pad_token_id": 0}
    tokens = []
    for ids in asked["prompts"]:
        prompt = torch.tensor([ids])
        full = model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)
        tokens.append(full[0, len(ids) :].tolist())
    texts = [] if not asked["texts"] else AutoTokenizer.from_pretrained(checkpoint)(asked["texts"])["input_ids"]
    Path(answer).write_text(json.dumps({"version": transformers.__version__, "tokens": tokens, "texts": texts}))


main(*sys.argv[1:])
