"""`amaru env` against other sources of the same facts."""

import json
import os
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import amaru.ops
from amaru.cli.env import _bare, kernel_setting, pages_line
from amaru.cli.main import main


def test_json_tells_the_machine_as_it_is(capsys):
    assert main(["env", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == torch.get_num_threads()
    assert len(facts["gpus"]) == torch.cuda.device_count()
    assert 0 < facts["memory"]["available_bytes"] <= facts["memory"]["total_bytes"]
    assert facts["memory"]["total_bytes"] == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert facts["dependencies"]["safetensors"] == version("safetensors")
    assert None not in facts["dependencies"].values()
    assert [tuple(row.values()) for row in facts["ops"]] == [tuple(row) for row in amaru.ops.explain()]


def test_people_see_every_row(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)  # as in a pipe, where nothing is wrapped
    assert main(["env"]) == 0
    out = capsys.readouterr().out
    assert torch.__version__ in out
    assert all(row.backend in out and row.reason in out for row in amaru.ops.explain())


def test_requirement_names():
    names = {"torch>=2.11": "torch", "typer": "typer", "pyright[nodejs]>=1": "pyright", "triton (>=3)": "triton"}
    assert {text: _bare(text) for text in names} == names


def test_huge_pages_are_told_as_the_kernel_and_torch_have_them(tmp_path: Path):
    file = tmp_path / "enabled"
    file.write_text("always [madvise] never\n")
    assert kernel_setting(file) == "madvise" and kernel_setting(tmp_path / "nothing") is None
    assert pages_line("madvise", asked=True).startswith("2 MB") and pages_line("always", asked=False).startswith("2 MB")


@pytest.mark.parametrize(
    ("kernel", "asked", "reason"), [("never", True, "says never"), ("madvise", False, "THP_MEM_ALLOC"), (None, True, "nothing")]
)
def test_why_pages_are_small_is_said(kernel: str | None, asked: bool, reason: str):
    assert reason in pages_line(kernel, asked)
