"""A peer's script run in the peer's own environment: a question in JSON goes in, an answer in JSON comes out."""

import json
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amaru.errors import BackendError

SCRIPTS = Path(__file__).parent / "peers"


def ask(name: str, python: str, script: str, model: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """`ask("vllm", "/envs/vllm/bin/python", "vllm_side.py", "ckpt", {"decode": [1]})["rows"]`

    Raises `BackendError` with the peer's last words when it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        done = subprocess.run([python, str(SCRIPTS / script), model, json.dumps(asked), str(answer)], capture_output=True, text=True)
        if done.returncode or not answer.exists():
            raise BackendError(f"{name} failed in {python}: {' '.join(done.stderr.split())[-400:]}")
        return json.loads(answer.read_text(encoding="utf-8"))
