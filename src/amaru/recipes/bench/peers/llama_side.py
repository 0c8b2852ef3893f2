"""`PYTHON llama_side.py MODEL.gguf ASKED ANSWER`: llama.cpp through llama-cpp-python, one sequence; tokens per second, best of three."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportArgumentType=false

import json
import os
import random
import sys
import time
from pathlib import Path

import llama_cpp


def main(model, asked, answer):
    asked = json.loads(asked)
    longest = max([*asked["prefill"], asked["context"] + asked["steps"]])
    threads = os.cpu_count()
    flash = asked["setting"] == "flash_attn=True"
    llama = llama_cpp.Llama(
        model, n_ctx=longest + 1, n_batch=1024, n_ubatch=1024, verbose=False, n_threads=threads, n_threads_batch=threads, flash_attn=flash
    )
    ids = [random.randint(3, 2000) for _ in range(longest)]

    def seconds(before, tokens, at_once):
        llama.reset()
        if before:
            llama.eval(ids[:before])
        start = time.perf_counter()
        for place in range(before, before + tokens, at_once):
            llama.eval(ids[place : place + at_once])
        return time.perf_counter() - start

    rows = {f"decode {batch}": None for batch in asked["decode"]}
    for tokens in asked["prefill"]:
        rows[f"prefill {tokens}"] = tokens / min(seconds(0, tokens, tokens) for _ in range(3))
    if 1 in asked["decode"]:
        rows["decode 1"] = asked["steps"] / min(seconds(asked["context"], asked["steps"], 1) for _ in range(3))
    Path(answer).write_text(json.dumps({"version": llama_cpp.__version__, "rows": rows}))


if __name__ == "__main__":
    main(*sys.argv[1:])
