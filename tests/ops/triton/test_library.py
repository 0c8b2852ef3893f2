"""Where sequences lie, as kernels are told; and who serves what, with triton and without."""

import os
import subprocess
import sys

import pytest
import torch
from tests.ops.oracle import bounds

from amaru.ops import explain
from amaru.ops.triton import blocks, boundaries, library, power_of_two

CPU = torch.device("cpu")


def test_blocks_span_no_two_sequences_and_leave_out_none():
    assert blocks(bounds(5, 0, 2), 4, CPU).tolist() == [[0, 0, 4], [0, 4, 5], [1, 5, 5], [2, 5, 7]]
    assert boundaries(bounds(5, 0, 2), CPU).tolist() == [0, 5, 5, 7]
    assert boundaries(bounds(1, 1), CPU).tolist() == [0, 1, 2]
    assert [power_of_two(count) for count in (1, 2, 3, 64, 65)] == [1, 2, 4, 64, 128]


def test_what_was_asked_for_in_inference_may_be_kept_for_a_backward_pass():
    with torch.inference_mode():
        held = boundaries(bounds(4, 3, 2), CPU), blocks(bounds(4, 3, 2), 2, CPU)
    assert not any(each.is_inference() for each in held)


def test_cpu_tensors_are_refused_with_a_reason():
    rows = [row for row in explain() if row.backend == "triton"]
    assert len(rows) == 12 and all(row.state == "refused" for row in rows)
    assert all("CUDA" in row.reason for row in rows)


def test_its_absence_is_said(monkeypatch):
    library.lacks.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    try:
        assert library.lacks() == "needs triton: pip install 'amaru[gpu]'"
    finally:
        library.lacks.cache_clear()


@pytest.mark.soak
def test_everything_compiles_for_a_gpu_that_is_not_here(tmp_path):
    script = "benchmarks/gpu/compiled.py"
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    said = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    assert said.returncode == 0, said.stderr[-2000:]
    assert "wgmma" in said.stdout and "forward" in said.stdout
