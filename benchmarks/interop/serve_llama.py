"""Continue prompts greedily with llama.cpp: `PYTHON serve_llama.py MODEL.gguf REQUEST.json ANSWER.json`."""

import json
import sys
from pathlib import Path

import llama_cpp
import numpy as np


def main(checkpoint: str, request: str, answer: str) -> None:
    asked = json.loads(Path(request).read_text())
    longest = max(map(len, asked["prompts"])) + asked["tokens"]
    kv = llama_cpp.GGML_TYPE_F32 if asked["dtype"] == "float32" else llama_cpp.GGML_TYPE_F16
    model = llama_cpp.Llama(checkpoint, n_ctx=longest + 1, n_batch=longest, type_k=kv, type_v=kv, verbose=False)
    tokens = [continued(model, ids, asked["tokens"]) for ids in asked["prompts"]]
    texts = [model.tokenize(text.encode(), special=False) for text in asked["texts"]]
    Path(answer).write_text(json.dumps({"version": f"{llama_cpp.__version__} (llama-cpp-python)", "tokens": tokens, "texts": texts}))


def continued(model: llama_cpp.Llama, ids: list[int], count: int) -> list[int]:
    model.reset()
    found: list[int] = []
    while len(found) < count:
        model.eval(found[-1:] or ids)
        logits = llama_cpp.llama_get_logits_ith(model.ctx, -1)
        found.append(int(np.ctypeslib.as_array(logits, (model.n_vocab(),)).argmax()))
    return found


main(*sys.argv[1:])
