"""The record of steps and the live line."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from amaru.errors import ArtifactError
from amaru.train.metrics import LiveLine, MetricsLog, StepMetrics, read

FIRST = StepMetrics(
    step=1, epoch=0, loss=3.21449, lr=1e-3, grad_norm=0.834, tokens=512, seconds=2.0, tokens_per_second=11802.4, memory=1_410_000_000
)


def steps(count: int) -> list[StepMetrics]:
    return [replace(FIRST, step=n + 1, loss=1 / (n + 3), parts={"kl": 0.1 * n}) for n in range(count)]


def test_lines_come_back_exactly_and_are_cut_back(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path, finished=0) as log:
        for metrics in steps(5):
            log.write(metrics)
    assert list(read(path)) == steps(5)
    path.write_text(path.read_text() + '{"step": 6, "lo')
    assert list(read(path)) == steps(5)
    with MetricsLog(path, finished=3) as log:
        log.write(steps(4)[-1])
    assert list(read(path)) == steps(4) == log.steps


def test_a_record_with_a_hole_is_refused(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path, finished=0) as log:
        log.write(FIRST)
    with pytest.raises(ArtifactError, match=r"metrics\.jsonl holds 1 of the 4 steps that are done"):
        MetricsLog(path, finished=4)
    path.write_bytes(b"\xff\n")
    with pytest.raises(ArtifactError, match="not a record of training steps"):
        read(path)


def test_plain_lines_say_everything_and_not_too_often() -> None:
    text = io.StringIO()
    with LiveLine(steps=900, console=Console(file=text, soft_wrap=True)) as live:
        live(replace(FIRST, step=119, validation={"loss": 3.305}))
        for n in range(120, 900):
            live(replace(FIRST, step=n))
        live(replace(FIRST, step=900, seconds=1.0))
    first, last = text.getvalue().splitlines()
    assert first == "step 119/900  loss 3.214  validation loss 3.305  11,802 tokens/s  1.41 GB  gradient 0.83  26 min left"
    assert last == "step 900/900  loss 3.214  validation loss 3.305  11,802 tokens/s  1.41 GB  gradient 0.83  0 s left"


def test_a_terminal_gets_one_line_in_place() -> None:
    text = io.StringIO()
    with LiveLine(steps=3, console=Console(file=text, force_terminal=True, width=60)) as live:
        for n in (1, 3):
            live(replace(FIRST, step=n))
    assert "\x1b[2K" in text.getvalue() and "step 3/3" in text.getvalue()
    assert text.getvalue().count("\n") == 1
