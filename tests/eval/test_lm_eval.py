"""The same scores as lm-eval's own Hugging Face backend, where lm-eval is installed (`pip install 'amaru[eval]'`)."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.cli.small_checkpoint import small_checkpoint

from amaru.eval import measure, open_task
from amaru.recipes.evaluate import facts, subject_of

lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed")
pytestmark = [pytest.mark.soak, pytest.mark.filterwarnings("default")]  # lm-eval's own warnings are not ours

CHOICES = [
    {"query": f"Question: what is {n} + 1?", "choices": [f"{n + 1}", f"the number {n}", "añade x", "def"], "gold": n % 4} for n in range(12)
]
CONTEXTS = [{"context_options": [f"def f({n})", f"return {n}"], "continuation": "return x + 1.", "gold": n % 2} for n in range(12)]
ENDINGS = [{"context": f"def f(x):\n    return x + {n}", "continuation": "# añade"} for n in range(12)]
METRICS = {"acc": "accuracy", "acc_norm": "accuracy per character", "acc_bytes": "accuracy per byte", "perplexity": "perplexity"}


def task(path: Path, records: list[dict[str, Any]], output: str, metrics: list[str], **texts: str) -> dict[str, Any]:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return {
        "task": path.stem,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}},
        "test_split": "test",
        "output_type": output,
        "metric_list": [{"metric": metric} for metric in metrics],
        **texts,
    }


def test_three_tasks_have_the_scores_of_lm_eval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    checkpoint = small_checkpoint(tmp_path / "m")
    choice = {"doc_to_text": "{{query}}\nAnswer:", "doc_to_target": "gold", "doc_to_choice": "choices"}
    contexts = {"doc_to_text": "gold", "doc_to_target": "continuation", "doc_to_choice": "context_options"}
    ending = {"doc_to_text": "{{context}}", "doc_to_target": "{{' '+continuation}}"}
    tasks = [
        task(tmp_path / "choice.jsonl", CHOICES, "multiple_choice", ["acc", "acc_norm", "acc_bytes"], **choice),
        task(tmp_path / "contexts.jsonl", CONTEXTS, "multiple_choice", ["acc"], **contexts),
        task(tmp_path / "ending.jsonl", ENDINGS, "loglikelihood", ["perplexity", "acc"], **ending),
    ]
    arguments = f"pretrained={checkpoint},dtype=float32"
    theirs = lm_eval.simple_evaluate("hf", model_args=arguments, tasks=tasks, device="cpu", bootstrap_iters=0)["results"]
    subject = subject_of(checkpoint)
    for each in tasks:
        ours = facts(measure(open_task(tmp_path / f"{each['task']}.jsonl"), subject))["metrics"]
        for metric in each["metric_list"]:
            name = metric["metric"]
            assert theirs[each["task"]][f"{name},none"] == pytest.approx(ours[METRICS[name]]["mean"], rel=1e-4), (each["task"], name)
