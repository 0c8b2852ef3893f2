"""The worked example of docs/synthetic_data.md: from topics to comparisons that `amaru prefer` reads, and its commands as they stand."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from tests.cli.test_synth import served, synth
from tests.synth.misbehaving import TEMPLATE_MARK, Misbehaving

from amaru.align.reading import read

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "examples" / "preferences.yaml"
PAGE = ROOT / "docs" / "synthetic_data.md"


class Varied(Misbehaving):
    """Answers in free text follow from the seed too, as those of a model that samples do."""

    async def answer(self, body, writer):
        if TEMPLATE_MARK not in body["messages"][-1]["content"]:
            body["messages"][-1]["content"] += f" ({body['seed']})"
        return await super().answer(body, writer)


def test_topics_become_comparisons_that_prefer_reads(tmp_path, capsys):
    with served(kind=Varied) as server:
        out, settings = str(tmp_path / "out"), ("--set", f"models.writer.url={server.url}")
        code, told, _ = synth(capsys, "run", str(RECIPE), "--out", out, *settings)
        assert (code, told["steps"]["answers"]["rows"]) == (0, 36)
        code, facts, _ = synth(capsys, "export", str(RECIPE), "--out", out, *settings, "--to", str(tmp_path / "pairs.jsonl"))
    assert code == 0 and 6 <= facts["rows"] <= 12  # a question whose three answers have one score makes no pair
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    found = read([str(tmp_path / "pairs.jsonl")]).found
    for row, comparison in zip(rows, found, strict=True):
        assert [answer.text for answer in comparison.answers] == [row["chosen_response"], row["rejected_response"]]
        assert comparison.rewards == (row["chosen_reward"], row["rejected_reward"]) and comparison.rewards[0] > comparison.rewards[1]
        assert comparison.messages == ({"role": "user", "content": row["prompt"]},)
    card = (tmp_path / "pairs.md").read_text()
    assert "| topics | 6 | CC0-1.0 |" in card and "license: apache-2.0" in card and "| written by models | " in card


def commands():
    section = PAGE.read_text(encoding="utf-8").split("## A worked example\n")[1].split("\n## ")[0]
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", section, flags=re.MULTILINE)
    return [re.sub(r"^    ", "", block, flags=re.MULTILINE).strip() for block in blocks]


@pytest.mark.soak
def test_the_commands_of_the_page_make_a_preference_set_with_our_own_server_and_learn_from_it(tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def run(line):
        print(line, flush=True)
        start = time.monotonic()
        subprocess.run(["bash", "-ec", line], check=True, cwd=tmp_path, env=environment)
        print(f"{time.monotonic() - start:.0f} s", flush=True)

    before, serve, after = commands()[:3]
    run(before)
    with subprocess.Popen(serve.rstrip("&").split(), cwd=tmp_path, env=environment) as server:
        try:
            until_it_answers(server)
            run(after)
        finally:
            server.send_signal(signal.SIGTERM)
    pairs = (tmp_path / "pairs.jsonl").read_text().splitlines()
    assert pairs and (tmp_path / "runs" / "pairs" / "report.html").exists()
    assert (tmp_path / "runs" / "preferred" / "model" / "config.json").exists()


def until_it_answers(server):
    end = time.monotonic() + 120
    while True:
        assert server.poll() is None and time.monotonic() < end
        try:
            with urllib.request.urlopen("http://127.0.0.1:8000/v1/models", timeout=5) as answer:
                return answer.read()
        except OSError:
            time.sleep(0.2)
