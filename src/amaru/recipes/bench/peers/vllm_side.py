"""`PYTHON vllm_side.py CHECKPOINT ASKED ANSWER`: vLLM in bf16, compiled or eager as asked; tokens per second, best of three."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportArgumentType=false

import json
import os
import random
import sys
import time
from pathlib import Path

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # gigabytes
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def main(checkpoint, asked, answer):
    import vllm

    asked = json.loads(asked)
    longest = max([*asked["prefill"], asked["context"] + asked["steps"] + 2])
    llm = vllm.LLM(
        model=checkpoint,
        dtype="bfloat16",
        max_model_len=longest + 1,
        max_num_seqs=max(asked["decode"]),
        gpu_memory_utilization=0.3,
        enforce_eager=asked["setting"] == "eager",
        enable_prefix_caching=False,  # no prompt comes twice here; with it, 0.32 fails on prompts of 2,048 tokens
    )

    def span(batch, prompt, new, repeats=3):
        spans = []
        for _ in range(repeats):
            prompts = [{"prompt_token_ids": [random.randint(3, 2000) for _ in range(prompt)]} for _ in range(batch)]
            settings = vllm.SamplingParams(max_tokens=new, ignore_eos=True, temperature=0, detokenize=False)
            start = time.perf_counter()
            llm.generate(prompts, settings, use_tqdm=False)
            spans.append(time.perf_counter() - start)
        return min(spans)

    span(1, max(asked["prefill"]), 1, 1)
    rows = {f"prefill {tokens}": tokens / span(1, tokens, 1) for tokens in asked["prefill"]}
    for batch in asked["decode"]:
        seconds = span(batch, asked["context"], asked["steps"] + 2) - span(batch, asked["context"], 2)
        rows[f"decode {batch}"] = batch * asked["steps"] / seconds
    Path(answer).write_text(json.dumps({"version": vllm.__version__, "rows": rows}))


if __name__ == "__main__":  # vLLM starts processes that import this file
    main(*sys.argv[1:])
