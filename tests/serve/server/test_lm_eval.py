"""lm-eval's own client for completions servers, where lm-eval is installed (`pip install 'amaru[eval]'`)."""

from pathlib import Path

import pytest
import torch
from tests.serve.server.running import model, running, tokenizer_with

from amaru.nn import Batch
from amaru.serve.generate import generate
from amaru.serve.request import Settings
from amaru.serve.sampler import GREEDY

completions = pytest.importorskip("lm_eval.models.openai_completions", reason="lm-eval is not installed")
pytestmark = [pytest.mark.soak, pytest.mark.filterwarnings("default")]  # lm-eval's own warnings are not ours

PAIRS = [("def f(x):", " return x + 1"), ("añade «uno»", "\n"), ("def f", "(x):\n    return x"), ("x", " + 1  # añade")]


def test_lm_eval_measures_what_the_model_says(tmp_path: Path) -> None:
    from lm_eval.api.instance import Instance

    tokenizer = tokenizer_with()
    tokenizer.save(tmp_path)
    with running() as server:
        client = completions.LocalCompletionsAPI(
            base_url=f"{server.url}/v1/completions", model="small", tokenizer=str(tmp_path), batch_size=3, max_length=300
        )
        measured = client.loglikelihood([Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(PAIRS)])
        until = [Instance("generate_until", {}, ("def f", {"until": ["never"], "max_gen_toks": 9, "temperature": 0}), 0)]
        text = client.generate_until(until)[0]
    for (context, continuation), (total, is_greedy) in zip(PAIRS, measured, strict=True):
        known, ids = tokenizer.encode(context), tokenizer.encode(context + continuation)
        with torch.inference_mode():
            logprobs = model()(Batch.of([torch.tensor(ids)])).log_softmax(-1)[len(known) - 1 : -1]
        chosen = torch.tensor(ids[len(known) :])
        assert total == pytest.approx(float(logprobs.gather(1, chosen[:, None]).sum()), abs=1e-3)
        assert is_greedy == bool((logprobs.argmax(-1) == chosen).all())
    settings = Settings(max_tokens=9, stop=(tokenizer.eos_id,), sampling=GREEDY)
    assert text == generate(model(), [tokenizer.encode("def f")], settings, tokenizer=tokenizer)[0].text
