"""`amaru env` against other sources of the same facts."""

import json
import os
from importlib.metadata import version

import torch

import amaru.ops
from amaru.cli.env import _bare
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


def test_people_see_every_row(capsys):
    assert main(["env"]) == 0
    out = capsys.readouterr().out
    assert torch.__version__ in out
    assert all(row.backend in out and row.reason in out for row in amaru.ops.explain())


def test_requirement_names():
    names = {"torch>=2.11": "torch", "typer": "typer", "pyright[nodejs]>=1": "pyright", "triton (>=3)": "triton"}
    assert {text: _bare(text) for text in names} == names
