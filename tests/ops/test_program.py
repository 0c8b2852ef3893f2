"""Programs: a run again is the run itself on what memory holds then, and what cannot be one says so."""

import subprocess
import sys

import pytest
import torch

from amaru.ops.add import native as add
from amaru.ops.linear import native as linear
from amaru.ops.native import Recording
from amaru.ops.rms_norm import native as rms_norm


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_native_program_computes_what_was_recorded_from_the_memory_of_now(threads):
    torch.manual_seed(0)
    x, weight, gain = torch.randn(3, 512), torch.randn(600, 512), torch.randn(600)

    def layer() -> torch.Tensor:
        return rms_norm.rms_norm(add.add(linear.linear(x, weight), linear.linear(x, weight)[:, :600]), gain, eps=1e-5)

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode(), Recording() as recording:
            y = layer()
        program = recording.program()
        first = y.clone()
        assert torch.equal(first, layer())
        for seed in range(1, 21):
            x.normal_(generator=torch.Generator().manual_seed(seed))
            assert program.run()
            assert torch.equal(y, layer()) and not torch.equal(y, first)
    finally:
        torch.set_num_threads(before)
    assert [name for name, _ in program.profile()] == ["linear_rows", "linear_rows", "add", "rms_norm"]


@pytest.mark.parametrize(
    "beside",
    [
        lambda x: x + 1,
        lambda x: x.mul_(2),
        lambda x: x.double(),
        lambda x: x.t().contiguous(),
        lambda x: int(x.sum()),
        lambda x: torch.zeros(3),
    ],
    ids=["sum", "in place", "cast", "copy", "read", "filled"],
)
def test_whatever_else_computes_refuses_a_native_recording(beside):
    x = torch.randn(4, 8)
    with torch.inference_mode(), Recording() as recording:
        add.add(x, x)
        beside(x)
    assert recording.refusal is not None and "no native kernel" in recording.refusal


def test_views_and_new_memory_are_no_part_of_a_native_program():
    x = torch.randn(4, 8)
    with torch.inference_mode(), Recording() as recording:
        y = add.add(x[:2].view(2, 2, 4), torch.empty(2, 8).unflatten(1, (2, 4)))
        y.to(torch.float32).contiguous().flatten()
    assert recording.refusal is None and recording.program().kernels == ["add"]


def test_a_native_recording_does_not_wait_for_the_compiler_of_torch():
    code = """if True:
        import sys, torch
        from amaru.ops.native import Recording
        with Recording():
            torch.empty(3).new_empty(2)
        assert "torch._dynamo" not in sys.modules"""
    subprocess.run([sys.executable, "-c", code], check=True)
