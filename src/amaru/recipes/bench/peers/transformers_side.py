"""`PYTHON transformers_side.py CHECKPOINT ASKED ANSWER`: transformers in bf16, through its own generate; tokens per second, the best."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportArgumentType=false

import json
import sys
import time
from pathlib import Path

import torch
import transformers


def best(work, repeats=3):
    work()
    spans = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        spans.append(time.perf_counter() - start)
    return min(spans)


@torch.no_grad()
def main(checkpoint, asked, answer):
    asked = json.loads(asked)
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16).eval()
    vocab, rows = model.config.vocab_size, {}
    for tokens in asked["prefill"]:
        ids = torch.randint(3, vocab, (1, tokens))
        rows[f"prefill {tokens}"] = tokens / best(lambda ids=ids: model(ids, logits_to_keep=1))
    for batch in asked["decode"]:
        ids = torch.randint(3, vocab, (batch, asked["context"]))

        def generate(new, ids=ids):
            model.generate(ids, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0)

        # 8 tokens are enough at a rate this steady; the prompt's part is taken off.
        seconds = best(lambda generate=generate: generate(10), 2) - best(lambda generate=generate: generate(2), 2)
        rows[f"decode {batch}"] = batch * 8 / seconds
    Path(answer).write_text(json.dumps({"version": transformers.__version__, "rows": rows}))


if __name__ == "__main__":
    main(*sys.argv[1:])
