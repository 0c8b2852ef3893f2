"""`amaru serve` on two processes, as people meet it: many at once, a process that dies, signals, and torchrun."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from tests.cli.server_process import server_process
from tests.parallel.test_serving import amaru, checkpoint

pytestmark = pytest.mark.soak
TWO = ("--tensor-parallel", "2")


def completed(address: str, prompt: str) -> str:
    body = json.dumps({"prompt": prompt, "max_tokens": 24, "temperature": 0}).encode()
    request = urllib.request.Request(f"{address}/v1/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)["choices"][0]["text"]


def children(pid: int) -> list[psutil.Process]:
    return sorted(psutil.Process(pid).children(), key=lambda process: process.create_time())


def test_forty_at_once_get_what_one_process_says_and_a_signal_drains(tmp_path: Path) -> None:
    path, prompts = checkpoint(tmp_path / "m"), [f"def f{n}(x):" for n in range(40)]
    with server_process(str(path)) as (_, facts):
        expected = [completed(facts["address"], prompt) for prompt in prompts]
    for number in (signal.SIGTERM, signal.SIGINT):
        with server_process(str(path), *TWO) as (running, facts), ThreadPoolExecutor(8) as clients:
            assert list(clients.map(lambda prompt, at=facts["address"]: completed(at, prompt), prompts)) == expected
            everyone = [running.pid, *(child.pid for child in children(running.pid))]
            if number == signal.SIGINT:  # a terminal sends it to all of them
                for pid in everyone:
                    os.kill(pid, number)
            else:
                running.send_signal(number)
            assert running.wait(30) == 0
            assert not any(psutil.pid_exists(pid) for pid in everyone[1:])
            assert running.stderr is not None and "Traceback" not in running.stderr.read()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_ends_all_with_one_sentence(tmp_path: Path, rank: int) -> None:
    with server_process(str(checkpoint(tmp_path / "m")), *TWO) as (running, facts):
        assert completed(facts["address"], "x")
        children(running.pid)[rank].kill()
        assert running.wait(30) == 128 + signal.SIGKILL
        assert running.stderr is not None
        said = running.stderr.read()
        assert f"process {rank} of 2 was ended by signal 9" in said and "Traceback" not in said


def test_nobody_outlives_whoever_started_them(tmp_path: Path) -> None:
    with server_process(str(checkpoint(tmp_path / "m")), *TWO) as (running, _):
        everyone = children(running.pid)
        running.kill()
        assert not psutil.wait_procs(everyone, timeout=20)[1]


def test_an_error_in_another_process_is_the_one_sentence(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "m")
    refused = amaru("generate", str(path), "--prompt", "x", "--tensor-parallel", "3")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert "a mamba2 layer has 4 indices of 'group', which 3 devices cannot share evenly (layer 0)" in refused.stderr


def test_torchrun_starts_it_too(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "m")
    words = ["generate", str(path), "--prompt", "def f(", "--max-tokens", "9", "--json"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port), "-m", "amaru"]
    told = subprocess.run([*torchrun, *words], capture_output=True, text=True, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["results"] == json.loads(amaru(*words).stdout)["results"]


def test_an_idle_server_answers_after_a_while(tmp_path: Path) -> None:
    with server_process(str(checkpoint(tmp_path / "m")), *TWO) as (running, facts):
        first = completed(facts["address"], "x")
        time.sleep(20)
        before = [sum(child.cpu_times()[:2]) for child in children(running.pid)]
        time.sleep(5)
        after = [sum(child.cpu_times()[:2]) for child in children(running.pid)]
        assert all(late - early < 1 for early, late in zip(before, after, strict=True)), "nobody spins while nothing is asked"
        assert completed(facts["address"], "x") == first
