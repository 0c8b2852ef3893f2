"""The measurement for a GPU, on a tiny model where there is none: pieces run, are kept, are not run twice, and become a table."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path("benchmarks/gpu/run.sh")
PIECES = ("decode", "kernels", "throughput_llama_3_1_8b", "pretraining_bf16")


def run(out: Path, *pieces: str) -> str:
    environment = os.environ | {"PYTHON": sys.executable}
    return subprocess.run([RUN, out, *pieces], check=True, capture_output=True, text=True, env=environment).stdout


@pytest.mark.soak
def test_pieces_are_kept_and_tabled(tmp_path):
    said = run(tmp_path, *PIECES)
    records = json.loads((tmp_path / "records.json").read_text())
    assert [records[name]["status"] for name in PIECES] == ["done", "lacks", "done", "done"]
    assert "decode, batch 64" in said and "| kernels | | | | lacks: a CUDA GPU |" in said and "| prefill | | | | not run yet |" in said
    assert (tmp_path / "table.md").read_text() in said
    before = records["decode"]["seconds"], records["decode"]["rows"]
    run(tmp_path, *PIECES)
    again = json.loads((tmp_path / "records.json").read_text())
    assert (again["decode"]["seconds"], again["decode"]["rows"]) == before
