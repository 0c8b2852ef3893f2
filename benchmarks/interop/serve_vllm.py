"""Continue prompts greedily with vLLM, which may be its build for CPUs: `PYTHON serve_vllm.py CHECKPOINT REQUEST.json ANSWER.json`."""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # gigabytes
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def main(checkpoint: str, request: str, answer: str) -> None:
    import vllm

    asked = json.loads(Path(request).read_text())
    longest = max(map(len, asked["prompts"])) + asked["tokens"]
    llm = vllm.LLM(
        model=checkpoint,
        dtype=asked["dtype"],
        mamba_ssm_cache_dtype="float32",
        max_model_len=longest + 1,
        max_num_seqs=1,
        enforce_eager=True,
        enable_prefix_caching=False,  # asks vLLM 0.32's scan for states inside a prompt, and on a CPU it has only the last
        skip_tokenizer_init=not asked["texts"],
    )
    settings = vllm.SamplingParams(temperature=0, max_tokens=asked["tokens"], ignore_eos=True, detokenize=False)
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in asked["prompts"]], settings, use_tqdm=False)
    tokens = [list(output.outputs[0].token_ids) for output in outputs]
    texts = [llm.get_tokenizer()(text)["input_ids"] for text in asked["texts"]]
    Path(answer).write_text(json.dumps({"version": vllm.__version__, "tokens": tokens, "texts": texts}))


if __name__ == "__main__":  # vLLM starts processes that import this file
    main(*sys.argv[1:])
