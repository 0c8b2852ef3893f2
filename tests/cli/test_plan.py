"""`amaru plan` against the published sizes of Nemotron-H-8B, and its answer to "does it fit?"."""

import json

import psutil
import pytest

from amaru.cli.main import main
from amaru.cli.plan import capacity


def test_the_numbers_are_those_of_the_specification(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "nemotron-h-8b", "--context", "65536", "--batch", "2", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    memory = facts["memory"]
    assert facts["kv_bytes_per_token"] == 16_384 and memory["kv"] == 2 * 2**30 and memory["ssm_state"] == 2 * 96 * 2**20
    assert memory["total"] == memory["weights"] + memory["kv"] + memory["ssm_state"] + memory["conv_state"]
    assert facts["state_bytes_per_sequence"] == (memory["ssm_state"] + memory["conv_state"]) / 2
    assert 2 * (memory["weights"] - 2 * 131072 * 4096) / 2 < facts["decode_flops_per_token"] < 1.5 * memory["weights"]


@pytest.mark.parametrize(("device", "code", "said"), [("h100", 0, "fits,"), ("16GiB", 1, "does not fit"), ("t4", 1, "does not fit")])
def test_a_model_that_does_not_fit_is_a_finding(device: str, code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "nemotron-h-8b", "--context", "65536", "--device", device]) == code
    told = capsys.readouterr()
    assert said in told.out and bool(told.err) == bool(code)


def test_the_context_changes_only_the_cache(capsys: pytest.CaptureFixture[str]) -> None:
    memories = []
    for context in ("1000", "3000"):
        main(["plan", "nemotron-h-56b", "--context", context, "--kv", "int4", "--json"])
        memories.append(json.loads(capsys.readouterr().out)["memory"])
    assert memories[1]["total"] - memories[0]["total"] == memories[1]["kv"] - memories[0]["kv"] == 2000 * 40_960 // 4


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--kv", "int3"], "'nvfp4'"),
        (["--batch", "0"], "batch"),
        (["--context", "-1"], "context"),
        (["--device", "h10"], "'h100'"),
        (["--device", "0"], "is not a size"),
    ],
)
def test_wrong_settings_are_sentences(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "nemotron-h-8b", *words]) == 2
    assert told in capsys.readouterr().err


def test_devices_are_sizes_names_or_this_machine() -> None:
    assert capacity("cpu") == psutil.virtual_memory().total
    assert capacity("RTX-5090") == 32607 * 2**20 and capacity("2GiB") == 2**31 and capacity("1e9") == 10**9
