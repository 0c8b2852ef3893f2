"""The benchmark tables of Nemotron-H (2504.03624, tables 4, 5, 9 and 10) as rows that `amaru eval --suite nemotron-h` fills."""

from collections.abc import Mapping
from typing import NamedTuple


class Row(NamedTuple):
    """One task of a paper's table.

    files      names that its file may have, with directories before them where the name alone says little
    layout     of amaru.eval.layouts; None: recognised by its fields
    shots      solved items before each, from `examples`
    metric     the score that the paper prints
    published  in per cent, or as printed, by model
    needs      the fields of a record
    chat       asked by the model's chat template
    judged     by another model; `examples` are then reference answers
    why        it cannot be measured here, whatever files there are
    """

    name: str
    files: tuple[str, ...]
    metric: str
    published: Mapping[str, float]
    needs: str = ""
    layout: str | None = None
    shots: int = 0
    examples: tuple[str, ...] = ()
    chat: bool = False
    judged: bool = False
    why: str = ""


def _base(b56: float, b47: float, b8: float, t8: float, qwen: float, llama: float) -> dict[str, float]:
    """56B and 47B of table 4; 8B, its Transformer control and two others of its size of table 5."""
    return {"56B": b56, "47B": b47, "8B": b8, "T-8B": t8, "Qwen2.5-7B": qwen, "Llama-3.1-8B": llama}


def _chat(b8: float, qwen: float, llama: float) -> dict[str, float]:
    return {"8B-Instruct": b8, "Qwen2.5-7B-Instruct": qwen, "Llama-3.1-8B-Instruct": llama}


CHOICES, LETTERS, CODE = "query, choices, gold", "question, choices, answer", "prompt, entry_point, test"
CODE_MBPP = "prompt, test_list, code"
HARNESS = "its prompts are written for another harness; `amaru eval --tasks passkey --tasks needles --lengths 16k,128k` is akin."

NEMOTRON_H: tuple[Row, ...] = (
    Row(
        "MMLU-Pro",
        ("mmlu_pro/test.jsonl", "mmlu_pro_test.jsonl", "mmlu_pro.jsonl"),
        "accuracy",
        _base(60.5, 61.8, 44.0, 41.4, 48.3, 35.9),
        "question, options, answer; those of examples cot_content",
        "mmlu-pro",
        shots=5,
        examples=("mmlu_pro/validation.jsonl", "mmlu_pro_validation.jsonl"),
    ),
    Row(
        "MMLU",
        ("mmlu/test.jsonl", "mmlu_test.jsonl", "mmlu.jsonl"),
        "accuracy",
        _base(84.2, 83.6, 72.8, 73.2, 74.2, 65.3),
        LETTERS,
        "lettered",
        shots=5,
        examples=("mmlu/dev.jsonl", "mmlu_dev.jsonl"),
    ),
    Row(
        "GSM8K",
        ("gsm8k/test.jsonl", "gsm8k_test.jsonl"),
        "flexible",
        _base(93.7, 93.3, 87.1, 89.0, 83.3, 55.5),
        "question, answer with ####",
        "gsm8k",
        shots=8,
        examples=("gsm8k/train.jsonl", "gsm8k_train.jsonl"),
    ),
    Row(
        "MATH",
        ("math/test.jsonl", "math_test.jsonl"),
        "exact",
        _base(59.4, 57.4, 46.5, 46.7, 49.8, 19.5),
        "problem, solution with \\boxed",
        "math",
        shots=4,
        examples=("math/examples.jsonl", "math/train.jsonl", "math_train.jsonl"),
    ),
    Row("HumanEval", ("HumanEval.jsonl", "humaneval.jsonl"), "pass@1", _base(60.4, 61.0, 58.5, 59.8, 56.7, 37.8), CODE, "humaneval"),
    Row("HumanEval+", ("HumanEvalPlus.jsonl",), "pass@1", _base(54.3, 56.1, 55.5, 53.0, 48.8, 31.7), CODE, "humaneval"),
    Row(
        "MBPP sanitized",
        ("sanitized-mbpp.jsonl", "mbpp/sanitized.jsonl"),
        "pass@1",
        _base(77.8, 75.9, 65.4, 63.4, 69.3, 57.2),
        CODE_MBPP,
        "mbpp",
        shots=3,
        examples=("mbpp/prompt.jsonl",),
    ),
    Row("MBPP+", ("MbppPlus.jsonl",), "pass@1", _base(67.2, 65.6, 59.5, 61.4, 65.3, 51.6), CODE_MBPP, "mbpp"),
    Row(
        "ARC-Challenge",
        ("arc_challenge.jsonl",),
        "accuracy per character",
        _base(95.0, 94.6, 88.7, 88.3, 89.2, 80.4),
        CHOICES,
        shots=25,
        examples=("arc_challenge_train.jsonl",),
    ),
    Row("HellaSwag", ("hellaswag.jsonl",), "accuracy per character", _base(89.0, 87.9, 83.2, 82.5, 80.3, 82.3), CHOICES, shots=10),
    Row(
        "WinoGrande",
        ("winogrande.jsonl",),
        "accuracy",
        _base(84.5, 83.9, 80.5, 78.8, 76.1, 78.1),
        "context_options, continuation, gold",
        shots=5,
        examples=("winogrande_train.jsonl",),
    ),
    Row("PIQA", ("piqa.jsonl",), "accuracy per character", _base(85.0, 83.9, 82.2, 82.0, 80.1, 81.0), CHOICES),
    Row("OpenBookQA", ("openbook_qa.jsonl",), "accuracy per character", _base(48.6, 48.8, 47.2, 44.8, 47.0, 45.4), CHOICES),
    Row(
        "IFEval, prompts",
        ("ifeval/input_data.jsonl", "ifeval.jsonl"),
        "prompt strict",
        _chat(74.7, 72.6, 73.2),
        "prompt, instruction_id_list, kwargs",
        "ifeval",
        chat=True,
    ),
    Row(
        "MT-Bench",
        ("mt_bench/question.jsonl", "mt_bench.jsonl"),
        "score",
        _chat(7.90, 8.04, 7.49),
        "turns, category",
        chat=True,
        judged=True,
        examples=("mt_bench/reference_gpt-4.jsonl",),
    ),
    Row("RULER, 128k", (), "", _chat(81.7, 84.4, 77.7), why=HARNESS),
)
