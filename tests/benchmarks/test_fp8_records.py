"""The page on FP8 says what its records say, judged anew."""

import json
from pathlib import Path

import pytest

from amaru.recipes.reproduce.fp8 import judge

ROOT = Path(__file__).parents[2]
RECORDS, PAGE = ROOT / "benchmarks" / "fp8" / "records", ROOT / "docs" / "results" / "fp8.md"


def test_the_page_states_the_verdict_of_the_records():
    found = judge(RECORDS)
    stored = json.loads((RECORDS / "verdict.json").read_text())
    assert found["verdict"] == stored["verdict"] and found["gap"] == pytest.approx(stored["gap"])
    page = " ".join(PAGE.read_text().split())
    assert found["sentence"] in page
    for pair in found["pairs"]:
        losses = " | ".join(f"{pair[name]:.4f}" for name in ("bf16", "bf16_in_fp8", "fp8", "fp8_in_bf16"))
        assert f"| {pair['seed']} | {losses} |" in page
    for name in found["missing"]:
        assert f"`{name}`" in page
