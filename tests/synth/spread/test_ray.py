"""The same recipe on a Ray cluster of two nodes, each a process of this machine; one of them is killed on the way."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from tests.synth.recipes import run
from tests.synth.test_kills import lines, recipe, server, synth

from amaru.config.strict import build
from amaru.synth.reading import read_rows, results
from amaru.synth.recipe import Bound, SynthRecipe
from amaru.synth.store import Store

pytest.importorskip("ray", reason="needs the extra ray")

CLUSTER = """
import sys
from ray.cluster_utils import Cluster
given = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=given)
other = cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
print(cluster.address, flush=True)
for line in sys.stdin:
    cluster.remove_node(other, allow_graceful=False)
"""
ENVIRONMENT = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}


@pytest.mark.soak
@pytest.mark.parametrize("lost", [False, True])
def test_two_nodes_make_the_rows_of_one_process_even_when_one_of_them_is_lost(tmp_path: Path, lost: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    values = recipe(f"http://127.0.0.1:{port}/v1", 5, 10, 10)
    log = tmp_path / "log"
    values["models"]["writer"]["timeout"] = 60.0
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": ENVIRONMENT}
    with server(port, log, ["ok"]), subprocess.Popen([sys.executable, "-c", CLUSTER], **pipes) as nodes:
        assert nodes.stdin and nodes.stdout
        address = nodes.stdout.readline().strip()
        file, out = tmp_path / "recipe.yaml", tmp_path / "out"
        file.write_text(yaml.safe_dump(values, sort_keys=False))
        words = synth("run", file, "--out", out, "--ray", address, "--json")
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as running:
            while lost and len(lines(log)) < 200 and running.poll() is None:
                time.sleep(0.05)
            if lost:
                nodes.stdin.write("\n")
                nodes.stdin.flush()
            told = json.loads(running.communicate(timeout=300)[0])
        assert running.returncode == 0
        nodes.stdin.close()
        bound = Bound(build(SynthRecipe, values), tmp_path)
        answered = len(lines(log))
        _, expected = asyncio.run(run(bound, tmp_path / "alone"))
    calls = 1 + 5 + 50 + 500
    assert (told["workers"], len(told["lost_workers"])) == (2, lost)
    assert told["usage"]["calls"] == calls <= answered <= calls + 32 * lost
    with Store(out / "store.sqlite") as store:
        assert list(results(bound, read_rows(bound, store))) == expected
