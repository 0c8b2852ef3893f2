"""Promises about the whole source: what imports no torch, what never appears, where imports may stand."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import amaru

ROOT = Path(amaru.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in MODULES]
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
READS_PICKLES = Path("models/formats/restricted_unpickler.py")  # from which no code can run; its tests say so
WRITES_PICKLES = Path("models/formats/megatron/torch_dist_writer.py")  # a format of others that is made of them


@pytest.fixture(params=MODULES, ids=NAMES)
def module(request):
    return request.param.relative_to(ROOT), ast.parse(request.param.read_text(encoding="utf-8"))


def imported(node):
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    return {node.module or ""} if isinstance(node, ast.ImportFrom) else set()


def test_settings_and_axes_import_no_torch():
    code = "import sys, amaru.config, amaru.axes, amaru.errors, amaru.cli.main; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("False", "")


def test_it_says_what_it_is(module):
    path, tree = module
    assert ast.get_docstring(tree), f"{path} has no module docstring"


def test_nothing_is_read_through_pickle_and_no_remote_code_runs(module):
    path, tree = module
    for node in ast.walk(tree):
        assert path == READS_PICKLES or not imported(node) & UNPICKLERS, f"{path} imports {imported(node)}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            forbidden = {("torch", "load")} | (set() if path == WRITES_PICKLES else {("torch", "save")})
            assert (node.value.id, node.attr) not in forbidden, f"{path}:{node.lineno}"
        if isinstance(node, ast.keyword):
            assert node.arg not in {"trust_remote_code", "allow_pickle"}, f"{path}:{node.value.lineno}"


BELOW_CLI = [path for path in MODULES if path.relative_to(ROOT).parts[0] != "cli"]


@pytest.mark.parametrize("path", BELOW_CLI, ids=[str(path.relative_to(ROOT)) for path in BELOW_CLI])
def test_only_the_command_line_imports_inside_functions(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = [node for function in ast.walk(tree) if isinstance(function, ast.FunctionDef) for node in ast.walk(function)]
    assert [name for node in inside for name in imported(node) if name.split(".")[0] == "amaru"] == []
