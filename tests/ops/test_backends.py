"""The registry says who serves, forces whom it is told to, and the compiled kernels give a reason when they cannot be had."""

import subprocess
import sys
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


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_every_op_has_exactly_one_chosen_backend():
    states = {}
    for row in ops.explain():
        states.setdefault(row.op, []).append(row.state)
    assert set(states) == set(ops.__all__) - {"exact", "explain"}
    assert all(each.count("chosen") == 1 for each in states.values())


def test_a_forced_backend_serves(monkeypatch):
    monkeypatch.setenv("AMARU_SSD", "reference")
    assert rows("ssd")["reference"] == ("chosen", "forced by AMARU_SSD")
    assert rows("ssd")["chunked"] == ("available", "AMARU_SSD forces another")


def test_an_unknown_name_is_an_error(monkeypatch):
    monkeypatch.setenv("AMARU_GATED_RMSNORM", "fast")
    with pytest.raises(BackendError, match="AMARU_GATED_RMSNORM=fast names no backend of gated_rmsnorm; it has: native, triton, reference"):
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
def test_without_a_compiler_torch_serves_and_says_why(monkeypatch, caplog, compiler, said):
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setattr("amaru.ops.backends.WARNED", set())
    state, reason = rows("gated_rmsnorm")["native"]
    assert (state, said in reason) == ("refused", True)
    assert rows("gated_rmsnorm")["reference"][0] == "chosen"
    assert not warnings_of(caplog), "asking who would serve is no slow path"
    inputs = norm_inputs()
    assert torch.equal(gated_rmsnorm(*inputs, groups=2, eps=1e-5), reference.gated_rmsnorm(*inputs, groups=2, eps=1e-5))
    gated_rmsnorm(*inputs, groups=2, eps=1e-5)
    (warning,) = warnings_of(caplog)
    assert f"native {reason}; slower code serves instead" in warning
    monkeypatch.setenv("AMARU_GATED_RMSNORM", "native")
    with pytest.raises(BackendError, match="No allowed backend of gated_rmsnorm serves this input: native"):
        gated_rmsnorm(*inputs, groups=2, eps=1e-5)


def test_a_warning_is_for_machines_not_for_inputs_and_reaches_stderr(monkeypatch, caplog):
    monkeypatch.setenv("CXX", "/no/such/compiler")
    monkeypatch.setattr("amaru.ops.backends.WARNED", set())
    y, z, weight = norm_inputs()
    gated_rmsnorm(y.double(), z.double(), weight.double(), groups=2, eps=1e-5)
    gated_rmsnorm(y, z.bfloat16(), weight, groups=2, eps=1e-5)
    assert not warnings_of(caplog)
    code = """
import torch
from amaru.ops.gated_rmsnorm import gated_rmsnorm
y = torch.ones(2, 4)
gated_rmsnorm(y.double(), y.double(), y[0].double(), groups=1, eps=1e-5)
gated_rmsnorm(y, y, y[0], groups=1, eps=1e-5)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True).stderr
    assert told.count("\n") == 1 and "CXX=/no/such/compiler is none; slower code serves" in told


def test_one_warning_for_all_ops_that_lack_the_same(monkeypatch, caplog):
    monkeypatch.setattr("amaru.ops.backends.REGISTERED", {})
    monkeypatch.setattr("amaru.ops.backends.WARNED", set())
    wanted, other = (Backend(name, str, lacks=lambda: "needs a bigger machine") for name in ("wanted", "other"))
    served = Backend("served", lambda: "served")
    ops_ = [Op("first", lambda dtype: ((), {}), wanted, served), Op("second", lambda dtype: ((), {}), wanted, other, served)]
    assert [op() for op in ops_ + ops_] == ["served"] * 4
    assert [text.split(";")[0] for text in warnings_of(caplog)] == [
        "amaru: wanted needs a bigger machine",
        "amaru: other needs a bigger machine",
    ]
    assert ops_[0].explain()[0] == ("first", "wanted", "refused", "needs a bigger machine")


def test_a_native_cache_that_cannot_be_written_is_a_reason(monkeypatch, tmp_path):
    (tmp_path / "amaru").write_text("a file where the directory should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "could not be stored or loaded" in rows("ssd")["native"][1]


def test_two_that_want_native_kernels_at_once_compile_them_once(tmp_path, monkeypatch):
    compiled, run = [], library._run
    for name in ("one", "two"):  # all kernels would take half a minute
        (tmp_path / f"{name}.cpp").write_text(f'extern "C" int {name}() {{ return 0; }}')
    monkeypatch.setattr(library, "SOURCES", tmp_path)
    monkeypatch.setattr(library, "_run", lambda command: (compiled.append(command) if "-c" in command else None, run(command))[1])
    compiler = library._library.__wrapped__  # uncached, as in two processes
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(compiler, ["", ""], [str(tmp_path)] * 2))
    assert [each.reason for each in found] == [None, None]
    assert len(list((tmp_path / "amaru").glob("*.so"))) == 1
    assert len(compiled) == 2
