"""The registry says who serves, forces whom it is told to, and the compiled kernels give a reason when they cannot be had."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from amaru import ops
from amaru.errors import BackendError
from amaru.ops.backends import Backend, Op
from amaru.ops.gated_rmsnorm import gated_rmsnorm, reference
from amaru.ops.native import library


def rows(op):
    return {row.backend: (row.state, row.reason) for row in ops.explain() if row.op == op}


def norm_inputs():
    torch.manual_seed(0)
    return torch.randn(4, 8), torch.randn(4, 8), torch.randn(8)


def test_every_op_has_exactly_one_chosen_backend():
    states = {}
    for row in ops.explain():
        states.setdefault(row.op, []).append(row.state)
    assert set(states) == {"attention", "causal_conv1d", "gated_rmsnorm", "head_loss", "ssd"}
    assert all(each.count("chosen") == 1 for each in states.values())


def test_a_forced_backend_serves(monkeypatch):
    monkeypatch.setenv("AMARU_SSD", "reference")
    assert rows("ssd")["reference"] == ("chosen", "forced by AMARU_SSD")
    assert rows("ssd")["chunked"] == ("available", "AMARU_SSD forces another")


def test_an_unknown_name_is_an_error(monkeypatch):
    monkeypatch.setenv("AMARU_GATED_RMSNORM", "fast")
    with pytest.raises(BackendError, match="AMARU_GATED_RMSNORM=fast names no backend of gated_rmsnorm; it has: native, reference"):
        gated_rmsnorm(*norm_inputs(), groups=2, eps=1e-5)


def test_the_first_that_does_not_refuse_is_run(monkeypatch):
    monkeypatch.setattr("amaru.ops.backends.REGISTERED", {})
    small = Backend("small", lambda n: "small", lambda n: "serves up to 3" if n > 3 else None)
    op = Op("counting", lambda dtype: ((5,), {}), small, Backend("any", lambda n: "any"))
    assert [op(2), op(4)] == ["small", "any"]
    assert [row.state for row in op.explain()] == ["refused", "chosen"]
    monkeypatch.setenv("AMARU_COUNTING", "small")
    with pytest.raises(BackendError, match="small serves up to 3"):
        op(4)


@pytest.mark.parametrize(
    ("compiler", "said"),
    [("/no/such/compiler", "needs a C++ compiler; CXX=/no/such/compiler is none"), ("false", "could not be compiled by")],
)
def test_without_a_compiler_torch_serves_and_explain_says_why(monkeypatch, compiler, said):
    monkeypatch.setenv("CXX", compiler)
    state, reason = rows("gated_rmsnorm")["native"]
    assert (state, said in reason) == ("refused", True)
    assert rows("gated_rmsnorm")["reference"][0] == "chosen"
    inputs = norm_inputs()
    assert torch.equal(gated_rmsnorm(*inputs, groups=2, eps=1e-5), reference.gated_rmsnorm(*inputs, groups=2, eps=1e-5))
    monkeypatch.setenv("AMARU_GATED_RMSNORM", "native")
    with pytest.raises(BackendError, match="No allowed backend of gated_rmsnorm serves this input: native"):
        gated_rmsnorm(*inputs, groups=2, eps=1e-5)


def test_a_cache_that_cannot_be_written_is_a_reason(monkeypatch, tmp_path):
    (tmp_path / "amaru").write_text("a file where the directory should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "could not be stored or loaded" in rows("ssd")["native"][1]


def test_two_that_compile_at_once_both_get_whole_kernels(tmp_path):
    compiler = library._library.__wrapped__  # uncached, as in two processes
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(compiler, ["", ""], [str(tmp_path)] * 2))
    assert [each.reason for each in found] == [None, None]
    assert len(list((tmp_path / "amaru").iterdir())) == 1
