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


def three_tasks(directory: Path) -> list[dict[str, Any]]:
    choice = {"doc_to_text": "{{query}}\nAnswer:", "doc_to_target": "gold", "doc_to_choice": "choices"}
    contexts = {"doc_to_text": "gold", "doc_to_target": "continuation", "doc_to_choice": "context_options"}
    ending = {"doc_to_text": "{{context}}", "doc_to_target": "{{' '+continuation}}"}
    return [
        task(directory / "choice.jsonl", CHOICES, "multiple_choice", ["acc", "acc_norm", "acc_bytes"], **choice),
        task(directory / "contexts.jsonl", CONTEXTS, "multiple_choice", ["acc"], **contexts),
        task(directory / "ending.jsonl", ENDINGS, "loglikelihood", ["perplexity", "acc"], **ending),
    ]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")


def test_three_tasks_have_the_scores_of_lm_eval(tmp_path: Path) -> None:
    checkpoint = small_checkpoint(tmp_path / "m")
    tasks = three_tasks(tmp_path)
    arguments = f"pretrained={checkpoint},dtype=float32"
    theirs = lm_eval.simple_evaluate("hf", model_args=arguments, tasks=tasks, device="cpu", bootstrap_iters=0)["results"]
    subject = subject_of(checkpoint)
    for each in tasks:
        ours = facts(measure(open_task(tmp_path / f"{each['task']}.jsonl"), subject))["metrics"]
        for metric in each["metric_list"]:
            name = metric["metric"]
            assert theirs[each["task"]][f"{name},none"] == pytest.approx(ours[METRICS[name]]["mean"], rel=1e-4), (each["task"], name)


def test_as_a_model_of_lm_eval_scores_are_those_of_its_own_backend(tmp_path: Path) -> None:
    """The same tasks, the likelihood of whole texts longer than a window, and answers, all asked by lm-eval."""
    from amaru.eval.harness import AmaruLM

    checkpoint = small_checkpoint(tmp_path / "m")
    texts = [{"text": f"def f(x):\n    return x + {n}\n" * 30} for n in range(3)]
    answer = {"doc_to_text": "{{query}}\nAnswer:", "doc_to_target": "{{choices[gold]}}"}
    until: dict[str, Any] = {"generation_kwargs": {"until": ["\n\n", "e"], "max_gen_toks": 12, "do_sample": False}}
    tasks = [
        *three_tasks(tmp_path),
        task(tmp_path / "texts.jsonl", texts, "loglikelihood_rolling", ["word_perplexity"], doc_to_text="", doc_to_target="{{text}}"),
        task(tmp_path / "answers.jsonl", CHOICES, "generate_until", ["exact_match"], **answer, **until),
    ]
    asked: dict[str, Any] = {"tasks": tasks, "bootstrap_iters": 0, "log_samples": True}
    theirs = lm_eval.simple_evaluate("hf", model_args=f"pretrained={checkpoint},dtype=float32,max_length=64", device="cpu", **asked)
    ours = lm_eval.simple_evaluate(AmaruLM(subject_of(checkpoint), longest=64), **asked)
    for each in tasks:
        for metric in each["metric_list"]:
            mine, other = (run["results"][each["task"]][f"{metric['metric']},none"] for run in (ours, theirs))
            assert mine == pytest.approx(other, rel=1e-4), (each["task"], metric)
    said = [[sample["resps"] for sample in sorted(run["samples"]["answers"], key=lambda each: each["doc_id"])] for run in (ours, theirs)]
    assert said[0] == said[1] and any(text for ((text,),) in said[0])
